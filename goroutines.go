package eventloop

import (
	"math"
	"sync/atomic"
)

// A waitGroup counts the goroutines that Run waits for. A sync.WaitGroup cannot do that: Add
// must not be called while Wait waits with a count of zero, but code beside the loop may
// call a method that starts a goroutine at any time, such as Stop of a Reader that has
// ended. A goroutine that is added after the waitGroup has ended is not waited for.
type waitGroup struct {
	n    atomic.Int64 // how many goroutines run; far below zero when the waitGroup has ended
	idle wakeChan     // notified each time the last one ends
}

func (g *waitGroup) Add(n int64) { g.n.Add(n) }

func (g *waitGroup) Done() {
	if g.n.Add(-1) == 0 {
		g.idle.notify()
	}
}

// Go calls f on a goroutine that g counts.
func (g *waitGroup) Go(f func()) {
	g.Add(1)
	go func() {
		defer g.Done()
		f()
	}()
}

// end ends g if no goroutine of it runs. It reports whether it has ended. After
// idle was notified, another call may succeed.
func (g *waitGroup) end() bool {
	const ended = math.MinInt64 / 2
	return g.n.CompareAndSwap(0, ended) || g.n.Load() < 0
}
