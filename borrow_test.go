package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A lone is a loop that echoes on one connection, and the peer of that.
type lone struct {
	t      *testing.T
	loop   *eventloop.Loop
	conn   *eventloop.Conn
	peer   *net.TCPConn
	events chan error
	closed chan struct{}
	end    func() error
}

func newLone(t *testing.T, cfg *eventloop.ConnConfig) *lone {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the dispatcher waits in connections on Linux only")
	}
	p := &lone{t: t, events: make(chan error, 10), closed: make(chan struct{})}
	p.loop, p.end = startLoop(t, nil)
	nc, peer := tcpPair(t)
	p.peer = peer
	cfg.OnData = func(c *eventloop.Conn, data []byte) { c.Write(data) }
	cfg.OnEvent = func(_ *eventloop.Conn, err error) { p.events <- err }
	cfg.OnClose = func(*eventloop.Conn) { close(p.closed) }
	var err error
	if p.conn, err = p.loop.Adopt(nc, cfg); err != nil {
		t.Fatal(err)
	}
	return p
}

// echo sends a message and waits for it to come back.
func (p *lone) echo() {
	p.t.Helper()
	const message = "are you still there?"
	got := make([]byte, len(message))
	if _, err := io.WriteString(p.peer, message); err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.ReadFull(p.peer, got); err != nil || string(got) != message {
		p.t.Fatalf("echo = %q, %v", got, err)
	}
}

// borrow makes the dispatcher wait in the connection.
func (p *lone) borrow() {
	p.t.Helper()
	for range 3 * eventloop.BorrowAgain {
		p.echo()
		for range 100 { // it goes to sleep meanwhile
			if eventloop.InBorrowedRead(p.loop) {
				return
			}
			runtime.Gosched()
		}
	}
	if !eventually(func() bool { p.echo(); return eventloop.InBorrowedRead(p.loop) }) {
		p.t.Fatal("the dispatcher does not wait in the connection")
	}
}

func TestWhateverComesEndsTheWaitInAConnection(t *testing.T) {
	for name, disturb := range map[string]func(p *lone, done func()){
		"a post": func(p *lone, done func()) { p.loop.Post(done) },
		"posts of many goroutines": func(p *lone, done func()) {
			var n atomic.Int32
			for range 10 {
				go p.loop.Post(func() {
					if n.Add(1) == 10 {
						done()
					}
				})
			}
		},
		"a timer":         func(p *lone, done func()) { p.loop.AfterFunc(5*time.Millisecond, done) },
		"a timer at once": func(p *lone, done func()) { p.loop.AfterFunc(0, done) },
		"a resolved future": func(p *lone, done func()) {
			f, resolve := eventloop.NewFuture[int](p.loop)
			f.Then(func(int, error) { done() })
			resolve(1, nil)
		},
		"work": func(p *lone, done func()) {
			eventloop.Work(bg, p.loop, func(context.Context) (int, error) { return 1, nil }).Then(func(int, error) { done() })
		},
		"a channel": func(p *lone, done func()) {
			ch := make(chan int, 1)
			eventloop.Receive(p.loop, ch, func(_ int, ok bool) {
				if ok {
					done()
				}
			})
			ch <- 1
			close(ch)
		},
		"a task": func(p *lone, done func()) {
			p.loop.Go(bg, func(k *eventloop.Task) error { defer done(); return k.Sleep(time.Millisecond) })
		},
		"another connection": func(p *lone, done func()) {
			ours, theirs := net.Pipe()
			p.loop.Adopt(ours, &eventloop.ConnConfig{
				OnData:  func(c *eventloop.Conn, _ []byte) { c.Close() },
				OnClose: func(*eventloop.Conn) { done() },
			})
			theirs.Write([]byte("x"))
			theirs.Close()
		},
		"a pause of reading": func(p *lone, done func()) {
			p.conn.PauseReading()
			io.WriteString(p.peer, "x")
			p.loop.Post(func() {
				p.conn.ResumeReading()
				go func() { io.ReadFull(p.peer, make([]byte, 1)); done() }()
			})
		},
		"a write": func(p *lone, done func()) {
			p.conn.WriteString("x")
			io.ReadFull(p.peer, make([]byte, 1))
			done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newLone(t, &eventloop.ConnConfig{ReadTimeout: time.Hour})
			for range 3 {
				p.borrow()
				done := make(chan struct{})
				disturb(p, func() { close(done) })
				<-done
				p.echo()
			}
			p.conn.Close()
			p.peer.Close() // else the end of the connection waits for it
			<-p.closed
			wantEqual(t, "Run", p.end(), nil)
		})
	}
}

func TestAConnectionThatTheDispatcherWaitsInEndsLikeAnyOther(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(p *lone)
		want error // of OnEvent; nil: there is none
	}{
		{"by Close", func(p *lone) { p.conn.Close(); p.peer.Close() }, nil},
		{"by Abort", func(p *lone) { p.conn.Abort() }, nil},
		{"by Stop", func(p *lone) { p.loop.Stop() }, nil},
		{"by the peer", func(p *lone) { p.peer.CloseWrite() }, io.EOF},
		{"by a reset", func(p *lone) { p.peer.SetLinger(0); p.peer.Close() }, syscall.ECONNRESET},
		{"by its timeout", func(*lone) {}, eventloop.ErrTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			timeout := time.Hour
			if test.want == eventloop.ErrTimeout {
				timeout = time.Second // longer than an echo takes on a loaded machine
			}
			p := newLone(t, &eventloop.ConnConfig{ReadTimeout: timeout})
			p.borrow()
			test.end(p)
			<-p.closed
			wantEqual(t, "Run", p.end(), nil)
			close(p.events)
			if err := <-p.events; !errors.Is(err, test.want) {
				t.Errorf("event = %v, want %v", err, test.want)
			}
			for err := range p.events {
				t.Errorf("a second event: %v", err)
			}
		})
	}
}

func TestAConnectionThatTheDispatcherWaitsInIsDetachedWithAllItsBytes(t *testing.T) {
	p := newLone(t, &eventloop.ConnConfig{})
	p.borrow()
	nc, err := p.conn.Detach().Wait(bg)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(p.peer, "x")
	nc.SetDeadline(time.Now().Add(watchdogTime))
	if n, err := nc.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("Read = %d, %v, want 1 byte", n, err)
	}
	wantEqual(t, "Run", p.end(), nil)
}

func TestAConnectionThatTheDispatcherWaitsInCanBeginTLS(t *testing.T) {
	server, client := serverConf, clientConf
	p := newLone(t, &eventloop.ConnConfig{TLSServer: true})
	p.borrow()
	secured := make(chan error, 1)
	p.conn.StartTLS(server).Then(func(_ tls.ConnectionState, err error) { secured <- err })
	tc := tls.Client(p.peer, client)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-secured; err != nil {
		t.Fatal(err)
	}
	io.WriteString(tc, "secret")
	got := make([]byte, 6)
	if _, err := io.ReadFull(tc, got); err != nil || string(got) != "secret" {
		t.Errorf("echo = %q, %v", got, err)
	}
	p.conn.Abort()
	<-p.closed
}

// The dispatcher is found neither asleep nor awake: a post that was missed would wait
// for the next message, which waits for the post.
func TestLaw4EveryPostRunsWhileTheDispatcherWaitsInAConnection(t *testing.T) {
	p := newLone(t, &eventloop.ConnConfig{})
	for range 50 {
		p.borrow()
		for range 2 { // the second one comes while the place is being given back
			ran := make(chan struct{})
			if err := p.loop.Post(func() { close(ran) }); err != nil {
				t.Fatal(err)
			}
			<-ran
		}
	}
	p.conn.Close()
}

// Every message has two callbacks, which share the dispatcher's attention with
// nothing else.
func TestTheDispatcherWaitsInAConnectionWithOnDrain(t *testing.T) {
	var drained atomic.Int64
	p := newLone(t, &eventloop.ConnConfig{OnDrain: func(*eventloop.Conn) { drained.Add(1) }})
	p.borrow()
	before := drained.Load()
	for range 100 {
		p.echo()
	}
	eventually(func() bool { return drained.Load() == before+100 })
	wantEqual(t, "calls of OnDrain", drained.Load()-before, 100)
	p.conn.Close()
}
