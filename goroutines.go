package eventloop

import (
	"math"
	"sync/atomic"
)

// A crew counts the goroutines that Run waits for. A sync.WaitGroup cannot do that: Add
// must not be called while Wait waits with a count of zero, but code beside the loop may
// call a method that starts a goroutine at any time, such as Stop of a Reader that has
// ended. A goroutine that is added after the crew has ended is not waited for.
type crew struct {
	n    atomic.Int64 // how many goroutines run; far below zero when the crew has ended
	idle bell         // rung each time the last one leaves
}

func (c *crew) Add(n int64) { c.n.Add(n) }

func (c *crew) Done() {
	if c.n.Add(-1) == 0 {
		c.idle.ring()
	}
}

// Go calls f on a goroutine of the crew.
func (c *crew) Go(f func()) {
	c.Add(1)
	go func() {
		defer c.Done()
		f()
	}()
}

// end ends the crew if no goroutine of it runs. It reports whether it has ended. After
// idle was rung it is worth another call.
func (c *crew) end() bool {
	const ended = math.MinInt64 / 2
	return c.n.CompareAndSwap(0, ended) || c.n.Load() < 0
}
