package eventloop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// Foreign code means the methods of a net.Conn or a net.Listener whose type is not from
// package net. Any of these methods may block, so the dispatcher calls none of them
// except the setters of deadlines, which must take effect immediately. A method that
// does not return is treated like a function of Work: Run waits for it for
// Config.WorkGrace, and then names it in its error.

// foreignGrace is the minimum time that foreign code has for returning at the end of
// the loop. It is asked to return only then, so a WorkGrace of zero would leave it no
// time.
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

// A foreignCall is a call of foreign code, Close or Dial, that has not returned yet.
type foreignCall struct{ what string }

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
func (l *Loop) closeAside(nc net.Conn) {
	l.goForeign(fmt.Sprintf("Close of %T", unguarded(nc)), func() {
		if err := aside(nc.Close); isUncaught(err) {
			l.strayEvent(err)
		}
	})
}

// goForeign calls f, which calls foreign code, on a goroutine. If f has not returned at
// the end of the loop, the error of Run names it as what. f may call runtime.Goexit.
func (l *Loop) goForeign(what string, f func()) {
	call := &foreignCall{what}
	l.mu.Lock()
	if l.calls == nil {
		l.calls = make(map[*foreignCall]struct{})
	}
	l.calls[call] = struct{}{}
	l.mu.Unlock()
	l.wg.Go(func() {
		defer func() {
			l.mu.Lock()
			delete(l.calls, call)
			l.mu.Unlock()
		}()
		f()
	})
}

// An abandoner is an owner that may wait for foreign code.
type abandoner interface {
	// abandon ends the owner if it waits for foreign code. It calls Loop.gaveUp first.
	// It runs on the loop. Afterwards the owner's goroutines change nothing.
	abandon()
}

// abandonForeign stops waiting for foreign code.
func (l *Loop) abandonForeign() {
	l.mu.Lock()
	var owners []abandoner
	for h := range l.handles.all {
		if a, ok := h.owner.(abandoner); ok {
			owners = append(owners, a)
		}
	}
	var calls []*foreignCall
	for call := range l.calls {
		calls = append(calls, call)
	}
	clear(l.calls)
	l.mu.Unlock()
	for _, call := range calls {
		l.gaveUp(call.what)
	}
	for _, a := range owners {
		a.abandon()
	}
}

// gaveUp makes Run return without waiting for foreign code that did not return. The
// error of Run names the code.
func (l *Loop) gaveUp(what string) {
	l.abandoned = true
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
		c.listener.connGone()
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
	(*httpServerGoneTask)(s).run()
}

func (c *httpCall) abandon() {
	switch {
	case c.body != nil && c.body.state.Load() == bodyClosing:
		c.loop.gaveUp("Close of the body of the request " + c.describe())
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
