package eventloop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

// A Group runs several loops together, for a service whose callbacks need more than one
// core. Each loop has its own dispatcher: callbacks of one loop never overlap, but callbacks
// of different loops do. State that the loops share needs a lock, or a [Loop.Post] to the
// loop that owns it.
//
// Each loop opens its listeners in the start function of [Group.Run]. To serve one
// port, give all loops the same listener with ListenConfig.Shared, or let each loop
// listen on the port with ListenConfig.ReusePort. With Shared any loop that is idle
// accepts, so the connections are spread only under load: while there are few, one loop
// may get most of them. With ReusePort the kernel assigns each connection to a socket by
// a hash of its addresses, which spreads them evenly, but a connection waits for its
// loop even if another is idle. A connection stays with the loop that accepted it.
//
// A Group must be created with [NewGroup] and runs once. All methods may be called from
// any goroutine and from any callback.
type Group struct {
	loops []*Loop

	mu    sync.Mutex // guards the following
	state loopState
}

// NewGroup returns a group of n loops that do nothing until [Group.Run]. n <= 0 means
// runtime.GOMAXPROCS(0) loops. Each loop is created by [New] with cfg. If cfg has a
// Name, the loops are called Name/0, Name/1 and so on. Config.EventHandler is called on
// the loop of the event, so it may run on several loops at the same time.
func NewGroup(n int, cfg *Config) *Group {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	g := &Group{loops: make([]*Loop, n)}
	for i := range g.loops {
		var c Config
		if cfg != nil {
			c = *cfg
		}
		if c.Name != "" {
			c.Name = fmt.Sprintf("%s/%d", c.Name, i)
		}
		g.loops[i] = New(&c)
	}
	return g
}

// Loops returns the loops, in the order of their names.
func (g *Group) Loops() []*Loop { return append([]*Loop(nil), g.loops...) }

// Run runs each loop on its own goroutine and calls start on each loop. It returns when
// all loops have ended, with nothing left behind. start runs on several loops at the
// same time.
//
// A loop that ends by the natural exit, or by its own Stop, leaves the others running.
// A loop that ends with an error, of start or of an event in the default handler, or
// with a panic ends the other loops by force. Run returns the first such error, or the
// cause of ctx if ctx ended the loops, or the joined errors of all loops that a
// [Group.Shutdown] ended by force, and otherwise nil. After all loops have ended, a
// panic in a callback leaves Run as a [*PanicError], and runtime.Goexit in a callback
// ends the goroutine of Run.
//
// A group runs once: Run returns [ErrRunning] while the group runs, and [ErrLoopClosed]
// afterwards.
func (g *Group) Run(ctx context.Context, start func(l *Loop) error) error {
	checkContext(ctx)
	if start == nil {
		return errNilFunc
	}
	if err := g.begin(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	ends := make(chan groupEnd, len(g.loops))
	for _, l := range g.loops {
		wg.Go(func() { g.runLoop(ctx, l, start, ends) })
	}
	first := g.collect(ends)
	wg.Wait()
	g.mu.Lock()
	g.state = stateClosed
	g.mu.Unlock()
	switch {
	case first.panicked != nil:
		panic(first.panicked)
	case first.exited:
		runtime.Goexit()
	}
	return first.err
}

// begin turns a new group into a running one.
func (g *Group) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.begin()
}

// A groupEnd describes how one of the loops ended.
type groupEnd struct {
	err      error
	panicked any
	exited   bool // by runtime.Goexit
}

// worse reports whether e takes precedence over other as the outcome of the group.
func (e groupEnd) worse(other groupEnd) bool { return e.rank() > other.rank() }

func (e groupEnd) rank() int {
	switch {
	case e.panicked != nil:
		return 3
	case e.exited:
		return 2
	case e.err != nil:
		return 1
	}
	return 0
}

// collect waits for all loops. The first loop that fails stops the others. As in a
// single loop, a panic takes precedence over an error. Otherwise the first failure
// counts.
func (g *Group) collect(ends <-chan groupEnd) groupEnd {
	var worst groupEnd
	for range g.loops {
		end := <-ends
		forced := errors.Is(end.err, ErrForced)
		switch {
		case forced && worst.rank() == 0:
			g.Shutdown(0) // the other loops also report what they cut off
		case end.rank() > 0 && worst.rank() == 0:
			g.Stop()
		}
		switch {
		case end.worse(worst):
			worst = end
		case forced && errors.Is(worst.err, ErrForced):
			worst.err = errors.Join(worst.err, end.err)
		}
	}
	return worst
}

// runLoop runs l to its end and sends the outcome, even if a callback ends this
// goroutine.
func (g *Group) runLoop(ctx context.Context, l *Loop, start func(l *Loop) error, ends chan<- groupEnd) {
	end := groupEnd{exited: true}
	defer func() {
		if v := recover(); v != nil {
			end = groupEnd{panicked: v}
		}
		ends <- end
	}()
	l.Post(func() {
		if err := start(l); err != nil {
			l.stop(err)
		}
	})
	end = groupEnd{err: l.Run(ctx)}
}

// Stop ends all loops by force, as [Loop.Stop] does.
func (g *Group) Stop() {
	for _, l := range g.loops {
		l.Stop()
	}
}

// Shutdown ends all loops gracefully, as [Loop.Shutdown] does. If one loop ends by
// force, so do the others.
func (g *Group) Shutdown(grace time.Duration) {
	var delivery uint64
	for _, l := range g.loops {
		delivery = max(delivery, l.currentDelivery())
	}
	for _, l := range g.loops {
		l.shutdown(grace, delivery)
	}
}

// ShutdownOn calls Shutdown with grace when the process receives one of sigs, as
// [Loop.ShutdownOn] does. It may be called before Run.
func (g *Group) ShutdownOn(grace time.Duration, sigs ...os.Signal) error {
	if err := checkSignals(sigs); err != nil {
		return err
	}
	f := func(os.Signal) { g.Shutdown(grace) }
	err := ErrLoopClosed
	for _, l := range g.loops {
		// Watch on each loop: any of them may be the last to end.
		if l.shutdownOn(f, sigs) == nil {
			err = nil
		}
	}
	return err
}

// Stats returns the combined figures of all loops: their sums, except that QueuePeak and
// the lags are the highest of any loop.
func (g *Group) Stats() Stats {
	var sum Stats
	for _, l := range g.loops {
		s := l.Stats()
		sum.add(&s)
	}
	return sum
}
