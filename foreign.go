package eventloop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"time"
)

// Foreign code is that of a net.Conn or a net.Listener that is not of package net.
// Any of its methods may wait, so none is called on the dispatcher but the setters
// of deadlines, which have to take effect at once. One that never returns is treated
// like a function of Work: Run waits for it during Config.WorkGrace, and then names
// it in its error.

// foreignGrace is the least that foreign code gets to return at the end of the loop.
// It has only just been told to then, which a WorkGrace of zero leaves no time for.
const foreignGrace = 100 * time.Millisecond

// isForeign reports whether nc, or what is below TLS, is foreign.
func isForeign(nc net.Conn) bool {
	switch c := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return false
	case *tls.Conn:
		return isForeign(c.NetConn())
	case *prefixConn:
		return isForeign(c.Conn)
	}
	return reflect.TypeOf(nc) != pipeType
}

// A foreignClose is a call of Close that goes on.
type foreignClose struct{ what string }

// closeConn closes nc without waiting for it: at once if it is a socket of package
// net, and otherwise on a goroutine of its own. TLS says goodbye first.
func (l *Loop) closeConn(nc net.Conn) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		nc.Close()
	default:
		l.closeAside(nc)
	}
}

// closeAside closes nc on a goroutine of its own, and reports a panic.
func (l *Loop) closeAside(nc net.Conn) {
	l.usesForeign.Store(true)
	f := &foreignClose{fmt.Sprintf("Close of %T", unguarded(nc))}
	l.mu.Lock()
	if l.closes == nil {
		l.closes = make(map[*foreignClose]struct{})
	}
	l.closes[f] = struct{}{}
	l.mu.Unlock()
	l.wg.Go(func() {
		if err := aside(nc.Close); isUncaught(err) {
			l.strayEvent(err)
		}
		l.mu.Lock()
		delete(l.closes, f)
		l.mu.Unlock()
	})
}

// An abandoner is an owner that may wait for foreign code.
type abandoner interface {
	// abandon ends the owner, on the loop, although foreign code that it waits for
	// does not return, and returns what that is. It does nothing and returns ""
	// if there is none. Afterwards the owner's goroutines change nothing.
	abandon() (what string)
}

// abandonForeign gives up on foreign code, and makes Run name it.
func (l *Loop) abandonForeign() {
	l.mu.Lock()
	var owners []abandoner
	for h := range l.handles.all {
		if a, ok := h.owner.(abandoner); ok {
			owners = append(owners, a)
		}
	}
	var left []string
	for f := range l.closes {
		left = append(left, f.what)
	}
	clear(l.closes)
	l.mu.Unlock()
	for _, a := range owners {
		if what := a.abandon(); what != "" {
			left = append(left, what)
		}
	}
	for _, what := range left {
		l.abandoned = true
		l.log(slog.LevelError, "foreign code did not return", "code", what)
		l.mu.Lock()
		l.stopErr = errors.Join(l.stopErr, fmt.Errorf("%w: %s", ErrWorkLeft, what))
		l.mu.Unlock()
	}
}

func (c *Conn) abandon() (what string) {
	x := c.x.Load()
	if x == nil || x.foreign == nil {
		return ""
	}
	defer c.loop.unregister(&c.handle)
	defer func() {
		if c.listener != nil {
			c.listener.connGone()
		}
	}()
	what = fmt.Sprintf("%T of conn %s", x.foreign, c.describe())
	c.closed() // OnClose
	return what
}

func (ln *Listener) abandon() (what string) {
	if what = ln.left("listener"); what != "" {
		ln.loop.unregister(&ln.handle)
	}
	return what
}

func (s *HTTPServer) abandon() (what string) {
	what = s.left("http server")
	s.mu.Lock()
	for c := range s.conns {
		if c.foreign {
			what = "connection of http server " + addrName(s.addr)
		}
	}
	gone := s.gone
	s.gone = s.gone || what != ""
	s.mu.Unlock()
	if what != "" && !gone {
		(*httpServerGoneTask)(s).run()
	}
	return what
}

func (c *httpCall) abandon() (what string) {
	if c.client.cfg.Dial == nil {
		return ""
	}
	c.future.fail(ErrLoopClosed)
	c.loop.unregister(&c.handle)
	return "HTTPClientConfig.Dial, or its connection, of " + c.describe()
}

// left returns what the end of the acceptor waits for, or "".
func (a *acceptor) left(kind string) string {
	select {
	case <-a.ended:
		return ""
	default:
	}
	if a.ours && !a.inKernel.Load() {
		return "" // it is on its way
	}
	ln := a.ln
	if g, ok := ln.(*guardedListener); ok {
		ln = g.ln
	}
	return fmt.Sprintf("%T of %s %s", ln, kind, addrName(a.addr))
}

// addrName returns an address with its network; nothing if a foreign listener or
// connection has none.
func addrName(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.Network() + " " + a.String()
}
