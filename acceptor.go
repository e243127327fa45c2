package eventloop

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// An acceptor accepts connections on its own goroutine, for a listener or for an HTTP
// server. It continues after failures to accept, until it is stopped or its listener
// has ended.
//
// There are two ways to close a listener. A listener of package net is closed by the
// caller of stop, so that the address is free when stop returns. Any other listener is
// foreign: its Close may block, so it is called on a separate goroutine.
type acceptor struct {
	l        *Loop
	ln       net.Listener
	addr     net.Addr    // of ln, read once: a foreign Addr may block
	file     os.FileInfo // of the socket file, or nil
	ours     bool        // ln is of package net
	takes    accepting
	maxConns int           // 0: no limit
	open     atomic.Int64  // number of open connections
	wake     wakeChan      // wakes the goroutine
	out      wakeChan      // notified when Accept has returned
	gone     chan struct{} // closed when Close of ln has returned
	ended    chan struct{} // closed when the goroutine is about to end
	inKernel atomic.Bool   // stop could not make Accept return

	acceptMu  sync.Mutex // guards the following
	closed    bool
	paused    bool
	pauses    int  // number of pauses so far
	accepting bool // the goroutine is in Accept, or about to call it
}

// accepting is the user of an acceptor. Its methods are called on the acceptor's
// goroutine.
type accepting interface {
	accepted(nc net.Conn)
	acceptFailed(err error)
	acceptEnded() // last; the listener is closed
}

func (a *acceptor) init(l *Loop, takes accepting, ln net.Listener, maxConns int) {
	a.l, a.takes, a.ln, a.maxConns = l, takes, ln, max(maxConns, 0)
	a.addr, a.file, a.ours = ln.Addr(), socketFile(ln), ours(ln)
	a.wake, a.out = newWakeChan(), newWakeChan()
	a.gone, a.ended = make(chan struct{}), make(chan struct{})
}

// ours reports whether the type of ln is from package net. Only this acceptor has a
// reference to a connection that such a listener accepts.
func ours(ln net.Listener) bool {
	switch ln.(type) {
	case *net.TCPListener, *net.UnixListener:
		return true
	}
	return false
}

// accept is the body of the acceptor's goroutine.
func (a *acceptor) accept() {
	defer a.l.wg.Done()
	const first, most = 5 * time.Millisecond, time.Second
	pause := first // after a failure
	pauses := 0
	for a.mayAccept() {
		nc, err := a.next()
		switch {
		case err == nil:
			pause = first
			a.hand(nc)
		case a.isClosed():
		case deadlinePassed(err) && a.pausedSince(&pauses):
		default:
			a.takes.acceptFailed(err)
			if endsListener(err) {
				a.stop()
			}
			a.sleep(pause)
			pause = min(2*pause, most)
		}
	}
	<-a.gone
	close(a.ended)
	a.takes.acceptEnded()
}

// next calls Accept. mayAccept has set accepting.
func (a *acceptor) next() (net.Conn, error) {
	if a.ours {
		// Another process that has inherited the listener may have made it
		// blocking, as exec.Cmd does with ExtraFiles. Accept would then wait in the
		// kernel, where neither a deadline nor Close reaches it.
		setNonblock(a.ln)
	}
	nc, err := a.ln.Accept()
	a.acceptMu.Lock()
	a.accepting = false
	a.acceptMu.Unlock()
	a.out.notify()
	return nc, err
}

// hand passes a new connection on. A connection that arrived during a pause waits here
// for the end of the pause, because a foreign listener cannot be paused.
func (a *acceptor) hand(nc net.Conn) {
	if a.awaitResume() {
		a.takes.accepted(nc)
		return
	}
	a.l.count.accepted.Add(1)
	a.l.count.dropped.Add(1)
	a.l.closeConn(nc)
}

// awaitResume waits while accepting is paused. It returns false if the listener is
// closed during the pause.
func (a *acceptor) awaitResume() bool {
	for {
		a.acceptMu.Lock()
		closed, paused := a.closed, a.paused
		a.acceptMu.Unlock()
		switch {
		case !paused:
			return true
		case closed:
			return false
		}
		<-a.wake
	}
}

// endsListener reports whether err, returned by Accept, means that the listener has
// ended for good. As in net/http, this is so for any error whose Temporary method does
// not return true. System errors are an exception, whatever Temporary returns: most of
// them concern a connection that is already lost, or a lack of memory or descriptors.
func endsListener(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno == syscall.EINVAL || errno == syscall.EBADF || errno == syscall.ENOTSOCK
	}
	var temporary interface{ Temporary() bool }
	return !isUncaught(err) && !timedOut(err) && !(errors.As(err, &temporary) && temporary.Temporary())
}

func (a *acceptor) acceptError(err error) *OpError {
	e := &OpError{Op: OpAccept, Err: err}
	if a.addr != nil {
		e.Net, e.Addr = a.addr.Network(), a.addr.String()
	}
	return e
}

// mayAccept waits while accepting is paused or maxConns connections are open. It
// returns false when the listener is closed.
func (a *acceptor) mayAccept() bool {
	for {
		full := a.maxConns > 0 && a.open.Load() >= int64(a.maxConns)
		a.acceptMu.Lock()
		closed := a.closed
		a.accepting = !closed && !a.paused && !full
		accepting := a.accepting
		a.acceptMu.Unlock()
		switch {
		case closed:
			return false
		case accepting:
			return true
		}
		<-a.wake
	}
}

// pausedSince reports whether accepting was paused since the last call. Without a
// pause, the deadline was set by other code.
func (a *acceptor) pausedSince(pauses *int) bool {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	before := *pauses
	*pauses = a.pauses
	return a.paused || a.pauses > before
}

// stop ends accepting, and closes the listener. It reports whether this was the first
// call.
func (a *acceptor) stop() bool {
	a.acceptMu.Lock()
	first := !a.closed
	a.closed = true
	a.acceptMu.Unlock()
	if !first {
		return false
	}
	a.wake.notify()
	if a.ours && a.leaveAccept() {
		a.closeListener()
		return true
	}
	if a.ours {
		a.inKernel.Store(true)
	}
	a.l.wg.Go(a.closeListener)
	return true
}

func (a *acceptor) closeListener() {
	if a.file != nil && !sameSocket(a.file, socketFile(a.ln)) {
		a.ln.(*net.UnixListener).SetUnlinkOnClose(false) // a successor has taken the path
	}
	a.ln.Close()
	close(a.gone)
}

// How long leaveAccept waits for Accept to return, and how often it connects.
const (
	leaveWait  = 10 * time.Millisecond
	leaveTries = 5
)

// leaveAccept makes Accept of a listener of package net return, because Close waits for
// Accept. It reports whether Accept has returned.
//
// A deadline is enough unless Accept waits in the kernel. That happens if another
// process made the listener blocking while Accept waited in the poller, and another
// user of the listener then accepted the connection that woke Accept. Only a new
// connection ends such an Accept, so leaveAccept dials one. Another user of a shared
// listener may accept it, and sees a client that disconnects at once.
func (a *acceptor) leaveAccept() bool {
	setNonblock(a.ln)
	a.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(longAgo)
	timer := time.NewTimer(leaveWait)
	defer timer.Stop()
	for tries := 0; ; {
		a.acceptMu.Lock()
		left := !a.accepting
		a.acceptMu.Unlock()
		if left {
			return true
		}
		select {
		case <-a.out:
			continue
		case <-timer.C:
		}
		if tries++; tries > leaveTries {
			return false
		}
		if nc, err := net.DialTimeout(a.addr.Network(), a.addr.String(), leaveWait); err == nil {
			nc.Close()
		}
		timer.Reset(leaveWait)
	}
}

func (a *acceptor) isClosed() bool {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	return a.closed
}

// setPaused pauses or resumes accepting. It does not interrupt the Accept of a foreign
// listener: see hand.
func (a *acceptor) setPaused(paused bool) {
	a.acceptMu.Lock()
	defer a.acceptMu.Unlock()
	if a.paused == paused || a.closed {
		return
	}
	if a.paused = paused; paused {
		a.pauses++
	}
	if d, ok := a.ln.(interface{ SetDeadline(time.Time) error }); ok && a.ours {
		if paused {
			d.SetDeadline(longAgo) // ends a waiting Accept
		} else {
			d.SetDeadline(noDeadline)
		}
	}
	a.wake.notify()
}

// opened counts a connection towards maxConns.
func (a *acceptor) opened() { a.open.Add(1) }

// connClosed is the counterpart of opened.
func (a *acceptor) connClosed() {
	a.open.Add(-1)
	if a.maxConns > 0 {
		a.wake.notify()
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
		case <-a.wake:
		}
	}
}
