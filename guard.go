package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// User code may panic or call runtime.Goexit wherever the library calls it: in Read of
// an adopted connection, in Accept of a listener, in Dial of a resolver. guard and
// aside turn both into an error: a *PanicError, or errGoexit. Connections and listeners
// of unknown types are wrapped when the loop receives them, so all other code sees only
// errors. tookPanic decides what the loop does about such an error.

// guard calls f and returns its error. A panic in f is returned as a *PanicError.
// Goexit ends the calling goroutine, so a goroutine that calls guard needs a deferred
// function that ends its work with errGoexit.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
	}()
	return f()
}

// aside is guard on a separate goroutine, so Goexit ends only that goroutine. It costs
// about a microsecond, so it is not for reading and writing.
func aside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit // unless f returns
		defer func() { done <- err }()
		err = guard(f)
	}()
	return <-done
}

// uncaught returns the error for the value of a recovered panic of foreign code, or for
// Goexit if v is nil.
func uncaught(v any) error {
	if v == nil {
		return errGoexit
	}
	return newPanicError(v)
}

// isUncaught reports whether err is the result of a panic or a Goexit under guard or
// aside.
func isUncaught(err error) bool { return isPanic(err) || errors.Is(err, errGoexit) }

// postReport arranges for f to be called on the loop, to report a panic that the caller
// cannot report in another way. It may be called on any goroutine until the last goroutine of the
// loop has ended. Unlike with Post, f is also called if the loop ends by force.
func (l *Loop) postReport(f func()) {
	l.mu.Lock()
	l.reports = append(l.reports, f)
	l.mu.Unlock()
	l.Post(l.runReports) // Post refuses or drops it at the end; then closeAll calls runReports
}

func (l *Loop) runReports() {
	for {
		l.mu.Lock()
		if len(l.reports) == 0 {
			l.mu.Unlock()
			return
		}
		f := l.reports[0] // one at a time: it may call Goexit
		l.reports = l.reports[1:]
		l.mu.Unlock()
		f()
	}
}

// foreign receives the error of foreign code before the operation that will report it.
// Without CatchPanics a panic must leave Run, and an operation that the end of the loop
// has ended reports nothing. In both cases foreign reports the error itself.
func (l *Loop) foreign(err error) error {
	if isPanic(err) && !l.cfg.CatchPanics || isUncaught(err) && l.ended.Load() {
		l.reportUnowned(err)
	}
	return err
}

// reportUnowned is postReport for an error that belongs to no operation.
func (l *Loop) reportUnowned(err error) {
	l.postReport(func() { l.tookPanic(err, true) })
}

// tookPanic reports err, the error of an operation, if the operation must not report it
// itself, and returns whether that is the case. An operation must not report a panic or a
// Goexit if it no longer reports errors (over) or if the loop has ended. Without
// CatchPanics, an operation never reports a panic.
func (l *Loop) tookPanic(err error, over bool) bool {
	over = over || l.ended.Load()
	pe := panicIn(err)
	if pe == nil {
		if over && errors.Is(err, errGoexit) {
			l.count.errors.Add(1)
			l.event(err, true)
			return true
		}
		return false
	}
	known := l.knowsPanic(err)
	if !known {
		copy(l.lastPanics[1:], l.lastPanics[:])
		l.lastPanics[0] = pe
	}
	if !over && l.cfg.CatchPanics {
		return false
	}
	if !known {
		l.panicEvent(pe, nil)
	}
	return true
}

// knowsPanic reports whether err is a panic that was reported recently. A panic may
// arrive twice, as the error of Read and as a report of the guardedConn. It runs on the
// loop.
func (l *Loop) knowsPanic(err error) bool {
	pe := panicIn(err)
	return pe != nil && slices.Contains(l.lastPanics[:], pe)
}

func panicIn(err error) *PanicError {
	var pe *PanicError
	errors.As(err, &pe)
	return pe
}

// A reporter receives the panics of foreign code.
type reporter func(op string, err error)

// aside is the function aside. It also reports a panic or a Goexit.
func (report reporter) aside(op string, f func() error) error {
	err := aside(f)
	if isUncaught(err) {
		report(op, err)
	}
	return err
}

// A guardedConn wraps a connection of an unknown type. Its methods do not panic. They
// return a *PanicError and also pass it to report, because not every caller checks the
// error of SetDeadline. The addresses are read once.
type guardedConn struct {
	nc            net.Conn
	report        reporter
	addrs         sync.Once // reads the addresses
	local, remote net.Addr
	broken        atomic.Pointer[PanicError] // of Read or Write
}

// guardConn returns nc if its type is known, and otherwise a guarded connection. report
// is called on the goroutine of the panic.
//
// A panic in Read or Write closes the connection, so that a goroutine that waits in the
// other method ends as well.
func guardConn(nc net.Conn, report func(op string, err error)) net.Conn {
	if isKnown(nc) {
		return nc
	}
	g := &guardedConn{nc: nc, report: report}
	if pc, ok := nc.(net.PacketConn); ok {
		return &guardedPacketConn{g, pc}
	}
	if cw, ok := nc.(closeWriter); ok {
		return &guardedHalfCloser{g, cw}
	}
	return g
}

var pipeType = func() reflect.Type {
	a, _ := net.Pipe()
	return reflect.TypeOf(a)
}()

// isKnown reports whether the methods of nc run no user code. Read and Write of a
// tls.Conn may run user code; their callers handle that.
func isKnown(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn, *net.UDPConn, *net.IPConn, *tls.Conn,
		*guardedConn, *guardedPacketConn, *guardedHalfCloser, *prefixConn:
		return true
	}
	return reflect.TypeOf(nc) == pipeType
}

// unguarded returns the connection that was passed to guardConn.
func unguarded(nc net.Conn) net.Conn {
	if g, ok := nc.(interface{ guarded() net.Conn }); ok {
		return g.guarded()
	}
	return nc
}

func (g *guardedConn) guarded() net.Conn { return g.nc }

// caught is deferred around calls that do not go through aside.
func (g *guardedConn) caught(op string, err *error) {
	if v := recover(); v != nil {
		pe := newPanicError(v)
		g.broken.CompareAndSwap(nil, pe)
		g.report(op, pe)
		g.Close()
		*err = pe
	} else if pe := g.broken.Load(); *err != nil && pe != nil {
		*err = pe // the reason why the connection was closed
	}
}

func (g *guardedConn) Read(p []byte) (n int, err error) {
	defer g.caught(OpRead, &err)
	n, err = g.nc.Read(p)
	return netcore.CheckCount("Read", g.nc, len(p), n, err)
}

func (g *guardedConn) Write(p []byte) (n int, err error) {
	defer g.caught(OpWrite, &err)
	n, err = g.nc.Write(p)
	return netcore.CheckCount("Write", g.nc, len(p), n, err)
}

func (g *guardedConn) Close() error         { return g.report.aside(OpClose, g.nc.Close) }
func (g *guardedConn) LocalAddr() net.Addr  { g.addrs.Do(g.readAddrs); return g.local }
func (g *guardedConn) RemoteAddr() net.Addr { g.addrs.Do(g.readAddrs); return g.remote }

// readAddrs reads the addresses. The connection's goroutine is the first to do so, before
// any other goroutine has access to the connection, because reading them may have to wait
// for the peer.
func (g *guardedConn) readAddrs() {
	g.report.aside(OpAddr, func() error {
		g.local = g.nc.LocalAddr()
		if a := g.nc.RemoteAddr(); a != nil && a.Network()+a.String() != "" {
			g.remote = a
		}
		return nil
	})
}

func (g *guardedConn) SetDeadline(t time.Time) error {
	return g.report.aside(OpDeadline, func() error { return g.nc.SetDeadline(t) })
}

func (g *guardedConn) SetReadDeadline(t time.Time) error {
	return g.report.aside(OpDeadline, func() error { return g.nc.SetReadDeadline(t) })
}

func (g *guardedConn) SetWriteDeadline(t time.Time) error {
	return g.report.aside(OpDeadline, func() error { return g.nc.SetWriteDeadline(t) })
}

// SetLinger lets an abort reset a foreign connection that has the method.
func (g *guardedConn) SetLinger(sec int) error {
	t, ok := g.nc.(interface{ SetLinger(sec int) error })
	if !ok {
		return errUnsupported
	}
	return g.report.aside(OpClose, func() error { return t.SetLinger(sec) })
}

// A guardedHalfCloser can also close the write side.
type guardedHalfCloser struct {
	*guardedConn
	cw closeWriter
}

func (g *guardedHalfCloser) CloseWrite() error { return g.report.aside(OpClose, g.cw.CloseWrite) }

// A guardedPacketConn preserves message boundaries.
type guardedPacketConn struct {
	*guardedConn
	pc net.PacketConn
}

func (g *guardedPacketConn) ReadFrom(p []byte) (n int, a net.Addr, err error) {
	defer g.caught(OpRead, &err)
	n, a, err = g.pc.ReadFrom(p)
	n, err = netcore.CheckCount("ReadFrom", g.nc, len(p), n, err)
	return n, a, err
}

func (g *guardedPacketConn) WriteTo(p []byte, a net.Addr) (n int, err error) {
	defer g.caught(OpWrite, &err)
	n, err = g.pc.WriteTo(p, a)
	return netcore.CheckCount("WriteTo", g.nc, len(p), n, err)
}

// A guardedListener wraps a listener of an unknown type. Its methods do not panic. The
// caller checks the error of Accept; report receives panics of the other methods.
type guardedListener struct {
	ln     net.Listener
	report reporter
	addr   net.Addr
}

// guardListener returns ln if its type is known, and otherwise a guarded listener.
func guardListener(ln net.Listener, report func(op string, err error)) net.Listener {
	if ours(ln) {
		return ln
	}
	g := &guardedListener{ln: ln, report: report, addr: noAddr{}}
	g.report.aside(OpAddr, func() error {
		if a := ln.Addr(); a != nil && a.Network()+a.String() != "" {
			g.addr = a
		}
		return nil
	})
	return g
}

// noAddr is the address of a listener that has none.
type noAddr struct{}

func (noAddr) Network() string { return "" }
func (noAddr) String() string  { return "" }

func (g *guardedListener) Accept() (nc net.Conn, err error) {
	err = aside(func() (err error) { nc, err = g.ln.Accept(); return err })
	if err == nil && isNil(nc) {
		err = errNoConn
	}
	return nc, err
}

var errNoConn = errors.New("neither a connection nor an error")

func (g *guardedListener) Close() error   { return g.report.aside(OpClose, g.ln.Close) }
func (g *guardedListener) Addr() net.Addr { return g.addr }

// A dialFunc is a function of the application that connects.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// callDial calls dial on a separate goroutine, and returns when dial returns or ctx
// ends. A connection that dial returns after that is closed. If dial returns neither a
// connection nor an error, callDial returns an error. field is the name of the setting
// that holds dial. The caller is a goroutine that the loop waits for at its end.
func (l *Loop) callDial(ctx context.Context, field string, dial dialFunc, network, address string) (net.Conn, error) {
	type result struct {
		nc  net.Conn
		err error
	}
	results := make(chan result)
	l.goForeign(fmt.Sprintf("%s of conn %s %s", field, network, address), func() {
		r := result{err: errGoexit} // unless dial returns
		defer func() {
			select {
			case results <- r:
			case <-ctx.Done():
				l.dialedLate(r.nc, r.err)
			}
		}()
		r.err = guard(func() (err error) { r.nc, err = dial(ctx, network, address); return err })
		switch {
		case r.err != nil:
			r.nc = nil
		case isNil(r.nc):
			r = result{err: fmt.Errorf("%s returned %w", field, errNoConn)}
		}
	})
	select {
	case r := <-results:
		if ctx.Err() == nil {
			return r.nc, r.err
		}
		l.dialedLate(r.nc, r.err) // the end of ctx takes precedence over the result
	case <-ctx.Done():
	}
	return nil, contextError(ctx)
}

// dialedLate receives the result of a dial after the caller has stopped waiting for it.
func (l *Loop) dialedLate(nc net.Conn, err error) {
	if nc != nil {
		l.closeAside(nc)
	}
	if isUncaught(err) {
		l.reportUnowned(err)
	}
}

// isNil reports whether foreign, such as a net.Conn, is nil or holds a nil pointer, on which
// every call would panic.
func isNil(foreign any) bool {
	v := reflect.ValueOf(foreign)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// guardDial returns the Dial of a resolver as a function that does not panic and whose
// connections do not panic.
func (l *Loop) guardDial(dial dialFunc) dialFunc {
	if dial == nil {
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := l.callDial(ctx, "ResolverConfig.Dial", dial, network, address)
		if err != nil {
			return nil, l.foreign(err)
		}
		return guardConn(nc, l.connPanicked), nil
	}
}

// connPanicked receives the reports of connections whose reads and writes belong to an
// operation with a future.
func (l *Loop) connPanicked(op string, err error) {
	if op == OpRead || op == OpWrite {
		l.foreign(err)
	} else {
		l.reportUnowned(err)
	}
}

// guardLookup calls foreign code for the resolver.
func (l *Loop) guardLookup(f func() error) error {
	return l.foreign(l.aside(func() string { return "a connection of ResolverConfig" }, f))
}
