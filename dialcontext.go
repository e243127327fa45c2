package eventloop

import (
	"context"
	"net"
)

// DialContext connects to address and returns the connection. It is meant for clients
// that accept a dialer, such as http.Transport.DialContext: they then use the loop's
// resolver, with its cache and its hosts file, and try all addresses of a host (RFC
// 8305). The network is "tcp", "tcp4", "tcp6" or "unix".
//
// The connection is a *net.TCPConn or a *net.UnixConn. It belongs to the caller, not to
// the loop, which neither counts nor closes it. Until DialContext has returned, it keeps
// the loop alive and counts as an outgoing connection.
//
// DialContext may be called while the loop runs, by any goroutine and by any task of the
// loop. On a goroutine other than the loop's it blocks. In a task it suspends the task,
// and the loop continues. In a callback, which can do neither, it returns [ErrOnLoop]
// immediately; use [Loop.Dial] there.
//
// Only ctx, and in a task the context of the task, limits the time. An error is an
// [*OpError], as from Dial, that wraps a [*net.OpError]. If ctx has ended, the error
// matches the error of ctx and its cause. If the loop ends by force, DialContext returns
// [ErrLoopClosed]. If the task's context ends, it returns the cause of that context.
func (l *Loop) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	checkContext(ctx)
	t, err := l.caller()
	if err != nil {
		return nil, err
	}
	if err := checkAddress(network, address); err != nil {
		return nil, &OpError{Op: OpDial, Net: network, Addr: address, Err: err}
	}
	d := &dialing{network: network, address: address}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	if err := l.register(&d.handle, d, kindConnOut, false); err != nil {
		d.cancel(err)
		return nil, err
	}
	l.count.dialed.Add(1)
	if t == nil {
		return d.dial()
	}
	return d.dialInTask(t)
}

// caller returns the task that calls, or nil on a goroutine other than the loop's. In a
// callback, which must not wait, it returns ErrOnLoop.
func (l *Loop) caller() (*Task, error) {
	if t := l.task.Load(); t != nil && t.check() == nil {
		return t, t.enter()
	}
	if l.onLoop() {
		return nil, ErrOnLoop
	}
	return nil, nil
}

// A dialing is a DialContext in progress.
type dialing struct {
	handle
	network, address string
	ctx              context.Context // also ends with the loop
	cancel           context.CancelCauseFunc
}

// dial connects on the calling goroutine, and ends the handle.
func (d *dialing) dial() (net.Conn, error) {
	l := d.loop
	nc, err := l.dialContext(d.ctx, d.network, d.address, &ConnConfig{})
	closed := context.Cause(d.ctx) == ErrLoopClosed
	d.cancel(context.Canceled)
	l.unregisterAside(&d.handle)
	switch {
	case err == nil:
		return nc, nil
	case closed:
		return nil, ErrLoopClosed
	}
	return nil, &OpError{Op: OpDial, Net: d.network, Addr: d.address, Err: err}
}

// dialInTask connects on another goroutine. If t is interrupted, that goroutine closes
// the connection.
func (d *dialing) dialInTask(t *Task) (net.Conn, error) {
	l := d.loop
	f := unregisteredFuture[net.Conn](l)
	l.wg.Go(func() {
		l.worksFor(&d.handle)
		f.resolve(d.dial())
	})
	nc, err := f.Await(t)
	if err != nil {
		d.cancel(err)
		f.observe(func(nc net.Conn, _ error) {
			if nc != nil {
				nc.Close()
			}
		})
	}
	return nc, err
}

// terminate implements owner. It leads to unregister in dial.
func (d *dialing) terminate() { d.cancel(ErrLoopClosed) }

// describe implements owner.
func (d *dialing) describe() string { return d.network + " " + d.address }
