package eventloop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/netcore"
)

// Foreign code is code of the application that runs beside the loop: functions of a
// configuration, methods of a request body or a cookie jar, and the methods of a net.Conn
// or a net.Listener whose type is not from package net. It may block, so the dispatcher
// calls none of it except the setters of deadlines, which must take effect immediately.
// Foreign code that does not return is treated like a function of Work: Run waits for it
// for Config.WorkGrace, and then names it in its error.
//
// There are three ways to call it. Loop.aside waits for the call, and stops waiting when
// the loop gives the call up: its caller then ends as usual. Loop.goForeign does not wait.
// The methods of connections and listeners are called directly, because a separate
// goroutine for each Read would be too slow; their owners are abandoners.

// foreignGrace is the minimum time that foreign code has for returning at the end of the
// loop. The loop asks it to return only at the end, so a WorkGrace of zero would leave it
// no time.
const foreignGrace = 100 * time.Millisecond

// isForeign reports whether nc, or the connection below TLS, is foreign.
func isForeign(nc net.Conn) bool {
	switch c := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return false
	case *tls.Conn:
		return isForeign(netcore.Below(c))
	case *prefixConn:
		return isForeign(c.Conn)
	}
	return reflect.TypeOf(nc) != pipeType
}

// A foreignCall is a call of foreign code that has not returned yet.
type foreignCall struct {
	what    func() string  // names it; see unnamed
	givenUp func()         // called when Run no longer waits for the call
	waits   goid.ID        // the goroutine that waits for the call, or zero
	on      atomic.Uintptr // the ID of the goroutine that runs it; zero: not known yet
}

// unnamed is the name of a call that only waits for another one.
func unnamed() string { return "" }

// closeConn closes nc without waiting: at once if it is a socket of package net, and
// otherwise on a separate goroutine. TLS sends its close alert first.
func (l *Loop) closeConn(nc net.Conn) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		nc.Close()
	default:
		l.closeAside(nc)
	}
}

// closeAside closes nc on a separate goroutine, and reports a panic.
func (l *Loop) closeAside(nc net.Conn) { l.closeWith(nc, false) }

// closeWith is closeAside. If reset is true, it resets the connection if nc supports that.
func (l *Loop) closeWith(nc net.Conn, reset bool) {
	l.goForeign(fmt.Sprintf("Close of %T", unguarded(nc)), func() {
		err := aside(func() error {
			if reset {
				netcore.SetReset(nc)
			}
			return nc.Close()
		})
		if isUncaught(err) {
			l.reportUnowned(err)
		}
	})
}

// goForeign calls f, which calls foreign code, on a goroutine. If f has not returned at
// the end of the loop, the error of Run names it as what, unless leave was called. f may
// call runtime.Goexit.
func (l *Loop) goForeign(what string, f func()) *foreignCall {
	l.wg.Add(1)
	call := l.beginCall(&foreignCall{what: func() string { return what }, givenUp: l.wg.Done})
	go func() {
		defer func() {
			if l.endCall(call) {
				l.wg.Done()
			}
		}()
		call.on.Store(uintptr(goid.Current()))
		f()
	}()
	return call
}

// leave makes the loop end without waiting for call, which goForeign returned.
func (l *Loop) leave(call *foreignCall) {
	if l.endCall(call) {
		call.givenUp()
	}
}

// aside calls f, foreign code, on a separate goroutine, as the function aside does, and
// waits for it. If f has not returned when Run stops waiting, the error of Run names it as
// what, and aside returns ErrLoopClosed. After that f may still run, so its caller must not
// read anything that f writes after an error. aside must not be called on the loop.
func (l *Loop) aside(what func() string, f func() error) error {
	done, givenUp := make(chan error, 1), make(chan struct{})
	call := l.beginCall(&foreignCall{what: what, givenUp: func() { close(givenUp) }, waits: goid.Current()})
	go func() {
		call.on.Store(uintptr(goid.Current()))
		err := errGoexit // unless f returns
		defer func() {
			if !l.endCall(call) && isUncaught(err) {
				l.log(slog.LevelError, "panic in foreign code after the end of the loop", "code", what(), "err", err)
			}
			done <- err
		}()
		err = guard(f)
	}()
	select {
	case err := <-done:
		return err
	case <-givenUp:
		return ErrLoopClosed
	}
}

func (l *Loop) beginCall(call *foreignCall) *foreignCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls == nil {
		l.calls = make(map[*foreignCall]struct{})
	}
	l.calls[call] = struct{}{}
	return call
}

// endCall reports whether call was not given up.
func (l *Loop) endCall(call *foreignCall) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.calls[call]
	delete(l.calls, call)
	return ok
}

// An abandoner is an owner that may wait for foreign code.
type abandoner interface {
	// abandon ends the owner if it waits for foreign code. It calls Loop.gaveUp first.
	// It runs on the loop. Afterwards the owner's goroutines change nothing.
	abandon()
}

// abandonForeign stops waiting for foreign code.
func (l *Loop) abandonForeign() {
	abandoners := owners[abandoner](l)
	l.mu.Lock()
	calls := slices.Collect(maps.Keys(l.calls))
	l.mu.Unlock()
	for _, call := range innermost(calls) {
		if l.endCall(call) {
			if what := call.what(); what != "" {
				l.nameLeft(what)
			}
			call.givenUp()
		}
	}
	for _, a := range abandoners {
		a.abandon()
	}
}

// innermost returns the calls whose goroutine does not wait for another call: the others
// are not in foreign code themselves.
func innermost(calls []*foreignCall) []*foreignCall {
	wait := make(map[goid.ID]bool)
	for _, call := range calls {
		wait[call.waits] = call.waits != 0
	}
	return slices.DeleteFunc(calls, func(call *foreignCall) bool { return wait[goid.ID(call.on.Load())] })
}

// gaveUp makes Run return without waiting for the goroutines of the loop, because one of
// them is in foreign code that did not return. The error of Run names the code.
func (l *Loop) gaveUp(what string) {
	l.abandoned = true
	l.nameLeft(what)
}

// nameLeft makes the error of Run name foreign code that did not return.
func (l *Loop) nameLeft(what string) {
	l.log(slog.LevelError, "foreign code did not return", "code", what)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopErr = errors.Join(l.stopErr, fmt.Errorf("%w: %s", ErrWorkLeft, what))
}

func (c *Conn) abandon() {
	c.core.Lock()
	what := c.x.Load().foreignCode()
	c.core.Unlock()
	if what == "" {
		return
	}
	c.loop.gaveUp(what + " of conn " + c.describe())
	defer c.loop.unregister(&c.handle) // OnClose may call runtime.Goexit
	if c.listener != nil {
		c.listener.connClosed()
	}
	c.loopSide().closed()
}

// foreignCode returns the type of the connection's foreign net.Conn, or "". The caller
// holds the lock.
func (x *connExtra) foreignCode() string {
	if x != nil && x.foreign != nil {
		return fmt.Sprintf("%T", x.foreign)
	}
	return ""
}

func (ln *Listener) abandon() {
	if what := ln.left("listener"); what != "" {
		ln.loop.gaveUp(what)
		ln.loop.unregister(&ln.handle)
	}
}

func (s *HTTPServer) abandon() {
	what := s.left("http server")
	s.mu.Lock()
	for c := range s.conns {
		if c.foreign && what == "" {
			what = "connection of http server " + addrName(s.addr)
		}
	}
	if what == "" || s.gone {
		s.mu.Unlock()
		return
	}
	s.gone = true
	s.mu.Unlock()
	s.loop.gaveUp(what)
	(*httpServerClosedTask)(s).run()
}

func (c *httpCall) abandon() {
	switch {
	case c.client.cfg.Transport != nil: // the call runs in goForeign, which names it
	case c.client.cfg.Dial != nil:
		c.loop.gaveUp("a connection of HTTPClientConfig.Dial of " + c.describe())
	default:
		return
	}
	if c.trip != nil {
		c.trip.end(ErrLoopClosed, nil)
	} else {
		c.future.fail(ErrLoopClosed)
	}
	c.loop.unregister(&c.handle)
}

func (c *HTTPClient) abandon() {
	if c.cfg.Dial != nil && c.loop.unregister(&c.open) {
		c.loop.gaveUp("a connection of HTTPClientConfig.Dial")
	}
}

// left returns the name of the foreign code that the acceptor still waits for, or "".
func (a *acceptor) left(kind string) string {
	select {
	case <-a.ended:
		return ""
	default:
	}
	if a.ours && !a.inKernel.Load() {
		return "" // the goroutine is about to end
	}
	ln := a.ln
	if g, ok := ln.(*guardedListener); ok {
		ln = g.ln
	}
	return fmt.Sprintf("%T of %s %s", ln, kind, addrName(a.addr))
}

// addrName returns an address with its network, or "" if a foreign listener or
// connection has none.
func addrName(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.Network() + " " + a.String()
}
