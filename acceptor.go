package eventloop

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/backoff"
)

// An acceptor accepts connections, for a listener or for an HTTP server, on a
// goroutine of its own. It outlives every failure to accept but the closing of
// its listener.
type acceptor struct {
	ln       net.Listener
	takes    accepting
	maxConns int           // 0: no bound
	open     atomic.Int64  // connections
	gate     chan struct{} // wakes the goroutine; one slot

	acceptMu sync.Mutex // guards the following
	closed   bool
	paused   bool
	pauses   int // so far
}

// accepting is what an acceptor works for. Its methods are called on the
// acceptor's goroutine.
type accepting interface {
	accepted(nc net.Conn)
	acceptFailed(err error)
	acceptEnded() // last; the listener is closed
}

func (a *acceptor) init(takes accepting, ln net.Listener, maxConns int) {
	a.ln, a.takes, a.maxConns = ln, takes, max(maxConns, 0)
	a.gate = make(chan struct{}, 1)
}

// accept is the acceptor's goroutine.
func (a *acceptor) accept(wg *sync.WaitGroup) {
	defer wg.Done()
	pause := backoff.New(5*time.Millisecond, time.Second)
	pauses := 0
	for a.mayAccept() {
		nc, err := a.ln.Accept()
		switch {
		case err == nil:
			pause.Reset()
			a.takes.accepted(nc)
		case a.isClosed():
		case errors.Is(err, os.ErrDeadlineExceeded) && a.pausedSince(&pauses):
		default:
			a.takes.acceptFailed(err)
			if errors.Is(err, net.ErrClosed) {
				a.stop() // a listener of a foreign kind that ended for good
			}
			a.sleep(pause.Next())
		}
	}
	a.ln.Close()
	a.takes.acceptEnded()
}

// mayAccept waits while accepting is paused or all the connections are open that
// may be. It returns false when the listener is closed.
func (a *acceptor) mayAccept() bool {
	for {
		a.acceptMu.Lock()
		closed, paused := a.closed, a.paused
		a.acceptMu.Unlock()
		full := a.maxConns > 0 && a.open.Load() >= int64(a.maxConns)
		switch {
		case closed:
			return false
		case !paused && !full:
			return true
		}
		<-a.gate
	}
}

// pausedSince reports whether accepting was paused since the last call. A deadline
// that comes without that is of somebody else.
func (a *acceptor) pausedSince(pauses *int) bool {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	before := *pauses
	*pauses = a.pauses
	return a.paused || a.pauses > before
}

// stop ends accepting and frees the address. It reports whether that changed
// anything.
func (a *acceptor) stop() bool {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	if a.closed {
		return false
	}
	a.closed = true
	a.ln.Close()
	a.nudge()
	return true
}

func (a *acceptor) isClosed() bool {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	return a.closed
}

func (a *acceptor) setPaused(paused bool) {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	if a.paused == paused || a.closed {
		return
	}
	if a.paused = paused; paused {
		a.pauses++
	}
	if d, ok := a.ln.(interface{ SetDeadline(time.Time) error }); ok {
		if paused {
			d.SetDeadline(longAgo) // ends an Accept that waits
		} else {
			d.SetDeadline(noDeadline)
		}
	}
	a.nudge()
}

// nudge makes the goroutine look again at what it waits for.
func (a *acceptor) nudge() {
	select {
	case a.gate <- struct{}{}:
	default:
	}
}

// opened counts a connection that counts for maxConns.
func (a *acceptor) opened() { a.open.Add(1) }

// connGone is opened's counterpart.
func (a *acceptor) connGone() {
	a.open.Add(-1)
	if a.maxConns > 0 {
		a.nudge()
	}
}

// sleep waits for d or until the listener is closed.
func (a *acceptor) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for !a.isClosed() {
		select {
		case <-t.C:
			return
		case <-a.gate:
		}
	}
}
