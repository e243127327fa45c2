package eventloop

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
)

// A ListenConfig holds the less common settings of a listener, as net.ListenConfig
// does. [Loop.Listen] uses the zero ListenConfig.
type ListenConfig struct {
	// Backlog limits the number of connections that the kernel queues for Accept.
	// Zero or negative means the maximum of the system. It is ignored on Windows and
	// for listeners passed to Serve.
	Backlog int

	// MaxConns limits the number of open connections of the listener. While MaxConns
	// connections are open, the listener accepts no others. Zero or negative means no
	// limit.
	MaxConns int

	// ReusePort lets several sockets, of loops or of processes, listen on the same
	// port; the kernel distributes the connections. On systems without this option it
	// is an error.
	ReusePort bool

	// Shared makes Serve use a duplicate of the descriptor and leave the listener to
	// the caller, so that several loops can serve it. Without it, Serve takes the
	// listener over and closes it at the end, as http.Server does.
	Shared bool

	// OnAcceptError is called on the loop with each failure to accept, an [*OpError]
	// with Op [OpAccept] (tcp-accept-error). Accepting continues after a pause of 5 ms
	// at first and of a second at most. If OnAcceptError is nil, the error goes to
	// Config.EventHandler.
	OnAcceptError func(ln *Listener, err error)

	// Control is called with the new socket before it is bound, as in net.ListenConfig,
	// on the goroutine that calls Listen.
	Control func(network, address string, c syscall.RawConn) error
}

// A Listener accepts connections for a loop. It keeps the loop alive until it is
// closed, unless it is unref'd. All methods may be called from any goroutine and
// from any callback.
type Listener struct {
	handle
	acceptor
	cfg  ListenConfig
	conn *ConnConfig

	stopped atomic.Bool // set by Close and at the end of the loop: no callback runs afterwards

	drain listenerDrain
}

// Listen listens on a local address. Each accepted connection belongs to the loop and
// has the callbacks and settings of cfg (tcp-server). The network is "tcp", "tcp4",
// "tcp6" or "unix". With "tcp" and an empty host, Listen listens on 0.0.0.0. Port 0
// means any free port, see [Listener.Addr]. A socket file of a unix listener that is no
// longer served is replaced.
//
// Listen returns an [*OpError] if the address is invalid or in use, [ErrNotRunning]
// before Run, and [ErrLoopClosed] after the end of the loop.
func (l *Loop) Listen(network, address string, cfg *ConnConfig) (*Listener, error) {
	return new(ListenConfig).Listen(l, network, address, cfg)
}

// Serve is Listen for an existing listener, of any type. The listener is closed with
// the handle, unless ListenConfig.Shared is set. If Serve returns an error, it does not
// close ln.
func (l *Loop) Serve(ln net.Listener, cfg *ConnConfig) (*Listener, error) {
	return new(ListenConfig).Serve(l, ln, cfg)
}

// Listen is [Loop.Listen] with the settings of lc.
func (lc *ListenConfig) Listen(l *Loop, network, address string, cfg *ConnConfig) (*Listener, error) {
	fail := func(err error) (*Listener, error) {
		return nil, &OpError{Op: OpListen, Net: network, Addr: address, Err: err}
	}
	if err := checkAddress(network, address); err != nil {
		return fail(err)
	}
	if err := l.mayOpen(); err != nil {
		return nil, err
	}
	ln, err := lc.listen(network, address)
	if err != nil {
		return fail(err)
	}
	s, err := lc.serve(l, ln, cfg)
	if err != nil {
		ln.Close()
	}
	return s, err
}

// mayOpen returns an error if the loop's state does not allow it to open sockets, to look
// up names or to take requests of a foreign server.
func (l *Loop) mayOpen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable(false)
}

func (lc *ListenConfig) listen(network, address string) (net.Listener, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" && network == "tcp" {
		network, address = "tcp4", net.JoinHostPort("0.0.0.0", port)
	}
	nlc := net.ListenConfig{Control: lc.control}
	var ln net.Listener
	var err error
	if network == "unix" {
		ln, err = listenUnix(&nlc, address)
	} else {
		ln, err = nlc.Listen(context.Background(), network, address)
	}
	if err == nil && lc.Backlog > 0 {
		err = setBacklog(ln, lc.Backlog)
	}
	if err != nil && ln != nil {
		ln.Close()
		return nil, err
	}
	return ln, err
}

func (lc *ListenConfig) control(network, address string, c syscall.RawConn) error {
	if lc.ReusePort {
		if err := reusePort(c); err != nil {
			return err
		}
	}
	if lc.Control != nil {
		return lc.Control(network, address, c)
	}
	return nil
}

// Serve is [Loop.Serve] with the settings of lc. Backlog, ReusePort and Control
// do not apply.
func (lc *ListenConfig) Serve(l *Loop, ln net.Listener, cfg *ConnConfig) (*Listener, error) {
	if isNil(ln) {
		return nil, errors.New("eventloop: Serve of a nil listener")
	}
	if err := l.mayOpen(); err != nil {
		return nil, err
	}
	if lc.Shared {
		dup, err := duplicate(ln)
		if err != nil {
			a := ln.Addr()
			return nil, &OpError{Op: OpListen, Net: a.Network(), Addr: a.String(), Err: err}
		}
		ln = dup
	}
	s, err := lc.serve(l, ln, cfg)
	if err != nil && lc.Shared {
		ln.Close()
	}
	return s, err
}

// A filer is a listener or connection that can return its descriptor.
type filer interface{ File() (*os.File, error) }

func (lc *ListenConfig) serve(l *Loop, nl net.Listener, cfg *ConnConfig) (*Listener, error) {
	ln := &Listener{cfg: *lc, conn: cfg.acceptedDefaults()}
	ln.loop = l // for panicked
	ln.acceptor.init(l, ln, guardListener(nl, ln.panicked), lc.MaxConns)
	if err := l.register(&ln.handle, ln, kindListener, false); err != nil {
		return nil, err
	}
	l.wg.Add(1)
	go ln.accept()
	return ln, nil
}

// Close stops accepting (close-tcp-server). Connections for which OnConnect has been
// called continue. Accepted connections that wait for OnConnect are reset, and none of
// their callbacks is called. When Close returns, the address is free, with one
// exception: a listener that is not of package net is closed on a separate goroutine,
// because its Close may block, and keeps the loop alive until it is closed. Close
// returns net.ErrClosed if the listener is already closed, by Close, by Shutdown, by an
// error of Accept or with the loop, and otherwise nil.
func (ln *Listener) Close() error {
	ln.stopped.Store(true)
	first := ln.stop()
	ln.dropUnannounced()
	if !first {
		return net.ErrClosed
	}
	return nil
}

// dropUnannounced closes the connections for which no callback was called yet.
func (ln *Listener) dropUnannounced() {
	for _, c := range ln.conns() {
		c.closeUnannounced()
	}
}

// conns returns the open connections that the listener has accepted.
func (ln *Listener) conns() []*Conn {
	return slices.DeleteFunc(owners[*Conn](ln.loop), func(c *Conn) bool { return c.listener != ln })
}

// Addr returns the local address, with the actual port.
func (ln *Listener) Addr() net.Addr { return ln.addr }

// Pause stops accepting; connections wait in the kernel, up to the backlog. OnConnect
// may still be called for a connection that was accepted earlier. A listener that is
// not of package net may accept one more connection, which waits for Resume.
func (ln *Listener) Pause() { ln.setPaused(true) }

// Resume undoes Pause.
func (ln *Listener) Resume() { ln.setPaused(false) }

func (ln *Listener) terminate() {
	ln.stopped.Store(true)
	ln.stop()
}

// shutdown stops accepting, but keeps connections that are already accepted.
func (ln *Listener) shutdown() { ln.stop() }

func (ln *Listener) describe() string { return addrName(ln.addr) }

// isSpare implements spareable: Shutdown closes listeners in any case.
func (ln *Listener) isSpare() bool { return true }

// Tasks of a listener.
type (
	acceptErrTask struct {
		ln  *Listener
		err error
	}
	listenerClosedTask Listener
)

// accepted makes nc a connection of the loop.
func (ln *Listener) accepted(nc net.Conn) {
	l := ln.loop
	l.count.accepted.Add(1)
	c, err := l.newConn(ln.conn, kindConnIn, ln)
	if err != nil {
		l.count.dropped.Add(1)
		l.closeConn(nc)
		return
	}
	ln.opened()
	if ln.stopped.Load() { // Close may have looked for connections earlier
		c.closeUnannounced()
	}
	setTCPOptions(nc, ln.conn)
	l.wg.Add(1)
	if !ln.ours || ln.conn.TLS != nil {
		go c.readerSide().adopted(nc, ln.conn.TLS, false, ln.ours)
		return
	}
	// No separate goroutine: it would only start the goroutine of serve.
	c.readerSide().adopted(nc, nil, false, true)
}

// setTCPOptions applies the settings of cfg to a new connection.
func setTCPOptions(nc net.Conn, cfg *ConnConfig) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	if cfg.Nagle {
		tc.SetNoDelay(false)
	}
	switch k := cfg.KeepAlive; {
	case k.Idle < 0:
		tc.SetKeepAlive(false)
	case k != net.KeepAliveConfig{}:
		k.Enable = true
		tc.SetKeepAliveConfig(k)
	}
}

// panicked reports a panic of a foreign listener outside Accept.
func (ln *Listener) panicked(op string, err error) {
	ln.loop.postReport(func() { acceptErrTask{ln, &OpError{Op: op, Err: err, Listener: ln}}.run() })
}

// acceptFailed reports a failure to accept.
func (ln *Listener) acceptFailed(err error) {
	e := ln.acceptError(err)
	e.Listener = ln
	ln.loop.send(acceptErrTask{ln, e})
}

func (ln *Listener) acceptEnded() { ln.loop.send((*listenerClosedTask)(ln)) }

func (t acceptErrTask) run() {
	ln, l := t.ln, t.ln.loop
	over := l.ended.Load() || ln.stopped.Load()
	if l.tookPanic(t.err, over) {
		return
	}
	l.count.errors.Add(1)
	if over {
		return
	}
	if f := ln.cfg.OnAcceptError; f != nil {
		l.callEvent(func() { f(ln, t.err) })
		return
	}
	l.event(t.err, true)
}

func (t *listenerClosedTask) run() {
	ln := (*Listener)(t)
	ln.acceptorEnded()
	ln.loop.unregister(&ln.handle)
}
