package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A tape records the callbacks of a connection.
type tape struct {
	closed chan struct{} // by the first OnClose

	mu     sync.Mutex
	calls  []string
	data   bytes.Buffer
	events []error
	why    error // Conn.Err in OnClose
}

// newTape returns a tape and cfg with callbacks that record on it before they
// call those of cfg, which may be nil.
func newTape(cfg *eventloop.ConnConfig) (*tape, *eventloop.ConnConfig) {
	r := &tape{closed: make(chan struct{})}
	var conf eventloop.ConnConfig
	if cfg != nil {
		conf = *cfg
	}
	outer := conf
	conf.OnConnect = func(c *eventloop.Conn) {
		r.note("connect")
		if outer.OnConnect != nil {
			outer.OnConnect(c)
		}
	}
	conf.OnData = func(c *eventloop.Conn, data []byte) {
		r.note("data")
		r.mu.Lock()
		r.data.Write(data)
		r.mu.Unlock()
		if outer.OnData != nil {
			outer.OnData(c, data)
		}
	}
	conf.OnDrain = func(c *eventloop.Conn) {
		r.note("drain")
		if outer.OnDrain != nil {
			outer.OnDrain(c)
		}
	}
	conf.OnEvent = func(c *eventloop.Conn, err error) {
		r.note("event")
		r.mu.Lock()
		r.events = append(r.events, err)
		r.mu.Unlock()
		if outer.OnEvent != nil {
			outer.OnEvent(c, err)
		}
	}
	conf.OnClose = func(c *eventloop.Conn) {
		r.note("close")
		r.mu.Lock()
		r.why = c.Err()
		r.mu.Unlock()
		if outer.OnClose != nil {
			outer.OnClose(c)
		}
		select {
		case <-r.closed: // twice: check tells
		default:
			close(r.closed)
		}
	}
	return r, &conf
}

func (r *tape) note(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

// count returns how often a callback was called.
func (r *tape) count(call string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c == call {
			n++
		}
	}
	return n
}

// order returns the callbacks, with repetitions left out.
func (r *tape) order() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var order []string
	for _, c := range r.calls {
		if len(order) == 0 || order[len(order)-1] != c {
			order = append(order, c)
		}
	}
	return strings.Join(order, " ")
}

func (r *tape) received() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data.String()
}

// event returns the only event, and fails the test if there is not exactly one.
func (r *tape) event(t testing.TB) error {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) != 1 {
		t.Errorf("events = %v, want exactly one", r.events)
		return errors.New("no event")
	}
	return r.events[0]
}

var lawfulOrder = regexp.MustCompile(`^(connect( data| drain| event)*|event)? ?close$`)

// check fails the test unless the connection is closed and its callbacks came in
// the order that the law demands.
func (r *tape) check(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if order := strings.Join(r.calls, " "); !lawfulOrder.MatchString(order) {
		t.Errorf("callbacks = %s, want connect (data|drain|event)* close, or event close", order)
	}
}

// wait waits for OnClose and checks the order.
func (r *tape) wait(t testing.TB) {
	t.Helper()
	wait(t, r.closed, "OnClose")
	r.check(t)
}

// wait waits for ch, for watchdogTime.
func wait[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(watchdogTime):
		t.Fatalf("no %s after %v", what, watchdogTime)
	}
	return v
}

// onLoop runs f on the loop and waits for it.
func onLoop(t testing.TB, l *eventloop.Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if err := l.Post(func() { defer close(done); f() }); err != nil {
		t.Fatal(err)
	}
	wait(t, done, "turn of the loop")
}

// await waits for a future.
func await[T any](t testing.TB, f *eventloop.Future[T]) (T, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), watchdogTime)
	defer cancel()
	return f.Wait(ctx)
}

// dialBlackHole dials a listener that does not answer until open is called.
func dialBlackHole(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (c *eventloop.Conn, open func()) {
	t.Helper()
	addr, open := blackHole(t)
	c, err := l.Dial(context.Background(), "tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, open
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	one, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	two, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close(); two.Close() })
	deadline(t, two)
	return one.(*net.TCPConn), two.(*net.TCPConn)
}

// deadline keeps a blocking peer from hanging forever.
func deadline(t testing.TB, nc net.Conn) {
	t.Helper()
	if err := nc.SetDeadline(time.Now().Add(watchdogTime)); err != nil {
		t.Fatal(err)
	}
}

// accept returns a connection that l has accepted with cfg, and its peer.
func accept(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, *net.TCPConn) {
	t.Helper()
	conns := make(chan *eventloop.Conn, 1)
	var conf eventloop.ConnConfig
	if cfg != nil {
		conf = *cfg
	}
	inner := conf.OnConnect
	conf.OnConnect = func(c *eventloop.Conn) {
		if inner != nil {
			inner(c)
		}
		conns <- c
	}
	ln, err := l.Listen("tcp", "127.0.0.1:0", &conf)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer := dialPeer(t, ln.Addr())
	return wait(t, conns, "connection"), peer.(*net.TCPConn)
}

// dialPeer connects a blocking peer, which is closed at the end of the test.
func dialPeer(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	peer, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	deadline(t, peer)
	return peer
}

// adopt returns a connection of l over TCP that was adopted with cfg, and its
// peer.
func adopt(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, *net.TCPConn) {
	t.Helper()
	nc, peer := tcpPair(t)
	c, err := l.Adopt(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, peer
}

// A peerServer accepts blocking connections.
type peerServer struct {
	net.Listener
	conns chan net.Conn
}

// servePeers returns a server whose accepted connections come out of conns. They
// are closed at the end of the test.
func servePeers(t testing.TB) *peerServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &peerServer{ln, make(chan net.Conn, 64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			nc.SetDeadline(time.Now().Add(watchdogTime))
			s.conns <- nc
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		close(s.conns)
		for nc := range s.conns {
			nc.Close()
		}
	})
	return s
}

func (s *peerServer) addr() string { return s.Addr().String() }

// next returns the next connection.
func (s *peerServer) next(t testing.TB) *net.TCPConn {
	t.Helper()
	nc := wait(t, s.conns, "connection from the loop")
	t.Cleanup(func() { nc.Close() })
	return nc.(*net.TCPConn)
}

// background runs f on a goroutine that the test waits for.
func background(t testing.TB, f func()) (done <-chan struct{}) {
	ch := make(chan struct{})
	go func() { defer close(ch); f() }()
	t.Cleanup(func() { wait(t, ch, "end of a background goroutine") })
	return ch
}

// readAll reads from a peer until the end of the stream.
func readAll(t testing.TB, nc net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Errorf("reading to the end: %v after %d bytes", err, len(b))
	}
	return string(b)
}

// readString reads n bytes from a peer.
func readString(t testing.TB, nc net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if m, err := io.ReadFull(nc, b); err != nil {
		t.Errorf("reading %d bytes: %v after %q", n, err, b[:m])
	}
	return string(b)
}

// reset closes a peer so that the other side sees a reset.
func reset(t testing.TB, nc *net.TCPConn) {
	t.Helper()
	if err := nc.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

// bytesOf returns n bytes that differ from place to place.
func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// idle fails the test unless the loop's gauges of connections go back to zero.
func idle(t testing.TB, l *eventloop.Loop) {
	t.Helper()
	var s eventloop.Stats
	eventually(func() bool {
		s = l.Stats() // handles are taken away after OnClose
		return s.Conns.Incoming == 0 && s.Conns.Outgoing == 0
	})
	wantEqual(t, "Stats.IncomingTCP", s.Conns.Incoming, 0)
	wantEqual(t, "Stats.OutgoingTCP", s.Conns.Outgoing, 0)
	wantEqual(t, "Stats.Buffered", s.Conns.Buffered, 0)
}

// echo is a configuration that sends back what comes.
func echo() *eventloop.ConnConfig {
	return &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) }}
}

// A plainConn hides what it is: it is written and read through net.Conn.
type plainConn struct{ net.Conn }

// CloseWrite keeps the half-close.
func (p plainConn) CloseWrite() error { return p.Conn.(*net.TCPConn).CloseWrite() }

// startLoops is startLoop for several loops, which live until the end of the
// test.
func startLoops(t testing.TB, n int) []*eventloop.Loop {
	t.Helper()
	checkLeaks(t)
	var loops []*eventloop.Loop
	for range n {
		l := eventloop.New(nil)
		release := l.Hold()
		running, result := make(chan struct{}), make(chan error, 1)
		l.Post(func() { close(running) })
		watch(t, l)
		go func() { result <- l.Run(context.Background()) }()
		wait(t, running, "turn of the loop")
		t.Cleanup(func() {
			release()
			if err := <-result; err != nil {
				t.Errorf("Run = %v", err)
			}
		})
		loops = append(loops, l)
	}
	return loops
}
