package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestListenReturnsBindErrors(t *testing.T) {
	l, _ := startLoop(t, nil)
	first, err := l.Listen("tcp", "127.0.0.1:0", echo())
	if err != nil {
		t.Fatal(err)
	}
	addr := first.Addr().String()
	for _, address := range []string{addr, "192.0.2.1:0", "127.0.0.1:nonsense"} {
		ln, err := l.Listen("tcp", address, nil)
		var oe *eventloop.OpError
		if ln != nil || !errors.As(err, &oe) || oe.Op != "listen" || oe.Net != "tcp" || oe.Addr != address || !errors.Is(err, eventloop.ErrConn) {
			t.Errorf("Listen(%s) = %v, %v", address, ln, err)
		}
	}
	_, err = l.Listen("tcp", addr, nil)
	wantEqual(t, "Errno", eventloop.Errno(err), int(syscall.EADDRINUSE))

	peer := dialPeer(t, first.Addr()) // the first listener still works
	io.WriteString(peer, "hello")
	wantEqual(t, "echo", readString(t, peer, 5), "hello")
	peer.Close()
	first.Close()
	// The address is free at once.
	again, err := l.Listen("tcp", addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	idle(t, l)
}

func TestListenEmptyHostIsEveryIPv4Address(t *testing.T) {
	l, _ := startLoop(t, nil)
	ln, err := l.Listen("tcp", ":0", nil)
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(ln.Addr().String())
	wantEqual(t, "host", host, "0.0.0.0")
	wantEqual(t, "a port was chosen", port != "0", true)
	wantEqual(t, "Stats.Listeners", l.Stats().Conns.Listeners, 1)
	ln.Close()
	wantEqual(t, "second Close", ln.Close(), net.ErrClosed)
	eventually(func() bool { return l.Stats().Conns.Listeners == 0 })
	wantEqual(t, "Stats.Listeners", l.Stats().Conns.Listeners, 0)
	ln.Pause()
	ln.Resume()
	ln.Unref()
}

func TestListenerKeepsTheLoopAliveUntilItIsClosed(t *testing.T) {
	served := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		var ln *eventloop.Listener
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { served++; ln.Close() },
		})
		if err != nil {
			t.Error(err)
			return
		}
		background(t, func() {
			nc := dialPeer(t, ln.Addr())
			nc.Close()
		})
	})
	wantEqual(t, "connections", served, 1)

	mustRun(t, nil, func(l *eventloop.Loop) {
		ln, err := l.Listen("tcp", "127.0.0.1:0", nil)
		if err != nil {
			t.Error(err)
			return
		}
		ln.Unref()
	})
}

func TestListenerCloseLeavesConnectionsAlive(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(echo())
	_, peer := accept(t, l, cfg) // closes the listener
	io.WriteString(peer, "hello")
	wantEqual(t, "echo", readString(t, peer, 5), "hello")
	peer.Close()
	r.wait(t)
}

func TestListenerPauseAndResume(t *testing.T) {
	l, _ := startLoop(t, nil)
	var accepted atomic.Int64
	ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { accepted.Add(1); c.Close() },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(20) {
		before := accepted.Load()
		ln.Pause()
		ln.Pause()
		// One that was being accepted may still come; after it none.
		spare := dialPeer(t, ln.Addr())
		time.Sleep(time.Millisecond)
		n := accepted.Load()
		peer := dialPeer(t, ln.Addr())
		time.Sleep(time.Millisecond)
		if i == 0 && n > before+1 {
			t.Errorf("accepted %d in the pause", n-before)
		}
		ln.Resume()
		wantEqual(t, "received", readAll(t, peer), "")
		wantEqual(t, "received", readAll(t, spare), "")
		peer.Close()
		spare.Close()
	}
	wantEqual(t, "accepted", accepted.Load(), 40)
	ln.Pause()
	ln.Close()
	idle(t, l)
}

func TestListenerMaxConnsMakesOthersWait(t *testing.T) {
	l, _ := startLoop(t, nil)
	open, most := 0, 0
	ln, err := (&eventloop.ListenConfig{MaxConns: 3}).Listen(l, "tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) {
			if open++; open > most {
				most = open
			}
		},
		OnData:  func(c *eventloop.Conn, data []byte) { c.Write(data); c.Close() },
		OnClose: func(c *eventloop.Conn) { open-- },
	})
	if err != nil {
		t.Fatal(err)
	}
	var peers []<-chan struct{}
	for range 20 {
		peers = append(peers, background(t, func() {
			nc := dialPeer(t, ln.Addr())
			io.WriteString(nc, "hello")
			wantEqual(t, "echo", readAll(t, nc), "hello")
			nc.Close()
		}))
	}
	for _, p := range peers {
		wait(t, p, "end of a peer")
	}
	onLoop(t, l, func() {
		if most > 3 {
			t.Errorf("%d connections at a time, want 3", most)
		}
	})
	ln.Close()
	idle(t, l)
}

func TestListenerReusePortLetsTwoLoopsListen(t *testing.T) {
	loops := startLoops(t, 2)
	one, two := loops[0], loops[1]
	lc := &eventloop.ListenConfig{ReusePort: true}
	a, err := lc.Listen(one, "tcp", "127.0.0.1:0", echo())
	if errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip(err) // as documented
	} else if err != nil {
		t.Fatal(err)
	}
	b, err := lc.Listen(two, "tcp", a.Addr().String(), echo())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Listen("tcp", a.Addr().String(), nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen without ReusePort = %v", err)
	}
	for range 20 {
		nc := dialPeer(t, a.Addr())
		io.WriteString(nc, "x")
		readString(t, nc, 1)
		nc.Close()
	}
	wantEqual(t, "accepted by both", one.Stats().Conns.AcceptedTotal+two.Stats().Conns.AcceptedTotal, 20)
	a.Close()
	b.Close()
}

func TestListenerControlIsCalledWithTheSocket(t *testing.T) {
	l, _ := startLoop(t, nil)
	calls := 0
	ln, err := (&eventloop.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		calls++
		return nil
	}}).Listen(l, "tcp", "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	wantEqual(t, "calls", calls, 1)
	no := errors.New("no")
	_, err = (&eventloop.ListenConfig{Control: func(string, string, syscall.RawConn) error { return no }}).Listen(l, "tcp", "127.0.0.1:0", nil)
	if !errors.Is(err, no) {
		t.Errorf("Listen = %v", err)
	}
}

func TestListenReplacesAStaleSocketFileButNotALiveOne(t *testing.T) {
	dir := t.TempDir()
	l, _ := startLoop(t, nil)

	stale := filepath.Join(dir, "stale")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	ln, err := l.Listen("unix", stale, echo())
	if err != nil {
		t.Fatal(err)
	}
	peer := dialPeer(t, ln.Addr())
	io.WriteString(peer, "hello")
	wantEqual(t, "echo", readString(t, peer, 5), "hello")
	peer.Close()

	if _, err := l.Listen("unix", stale, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen on a live socket = %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Listen("unix", file, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen on a file = %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file is gone")
	}
	if _, err := l.Listen("unix", filepath.Join(dir, "none", "x"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Listen in a directory that does not exist = %v", err)
	}
	ln.Close()
}

func TestServeSharedLeavesTheListenerToTheCaller(t *testing.T) {
	loops := startLoops(t, 3)
	for _, network := range []string{"tcp", "unix"} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "socket")
		}
		inner, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		lc := &eventloop.ListenConfig{Shared: true}
		var lns []*eventloop.Listener
		for _, l := range loops {
			ln, err := lc.Serve(l, inner, echo())
			if err != nil {
				t.Fatal(err)
			}
			lns = append(lns, ln)
		}
		for range 30 {
			nc := dialPeer(t, inner.Addr())
			io.WriteString(nc, "x")
			readString(t, nc, 1)
			nc.Close()
		}
		for _, ln := range lns {
			ln.Close()
		}
		for _, l := range loops {
			eventually(func() bool { return l.Stats().Conns.Listeners == 0 })
		}
		dialed := background(t, func() { dialPeer(t, inner.Addr()).Close() })
		nc, err := inner.Accept()
		if err != nil {
			t.Fatalf("the caller's listener: %v", err)
		}
		wait(t, dialed, "end of the dial")
		nc.Close()
		inner.Close()
	}
}

func TestServeOwnsTheListener(t *testing.T) {
	l, _ := startLoop(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Serve(inner, echo())
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := inner.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	}
}

// A fakeListener returns connections and errors that the test provides.
type fakeListener struct {
	results chan any // net.Conn or error
	once    sync.Once
	closed  chan struct{}
}

func newFakeListener() *fakeListener {
	return &fakeListener{results: make(chan any, 100), closed: make(chan struct{})}
}

func (f *fakeListener) Accept() (net.Conn, error) {
	select {
	case r := <-f.results:
		if nc, ok := r.(net.Conn); ok {
			return nc, nil
		}
		return nil, r.(error)
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

func (f *fakeListener) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

func (f *fakeListener) Close() error   { f.once.Do(func() { close(f.closed) }); return nil }
func (f *fakeListener) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }

// temporary is an error whose Temporary method returns true.
type temporary struct{}

func (temporary) Error() string   { return "try again" }
func (temporary) Temporary() bool { return true }

func TestServeContinuesAfterAcceptErrorsWithABackoff(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fake := newFakeListener()
		var errs []error
		var times []time.Duration
		began := time.Now()
		lc := &eventloop.ListenConfig{OnAcceptError: func(ln *eventloop.Listener, err error) {
			var oe *eventloop.OpError
			if !errors.As(err, &oe) || oe.Op != "accept" || oe.Listener != ln || oe.Net != "unix" || oe.Addr != "fake" {
				t.Errorf("error = %#v", err)
			}
			errs = append(errs, err)
			times = append(times, time.Since(began))
		}}
		causes := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ECONNABORTED, os.ErrDeadlineExceeded, temporary{}}
		for range 3 {
			for _, err := range causes {
				fake.results <- err
			}
		}
		ln, err := lc.Serve(l, fake, echo())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		wantEqual(t, "errors", len(errs), 3*len(causes))
		for i, err := range errs {
			if !errors.Is(err, causes[i%len(causes)]) || !errors.Is(err, eventloop.ErrConn) {
				t.Errorf("error %d = %v", i, err)
			}
		}
		want := []time.Duration{0, 5, 15, 35, 75, 155, 315, 635, 1275, 2275, 3275}
		for i, w := range want {
			wantEqual(t, fmt.Sprint("time of error ", i), times[i], w*time.Millisecond)
		}
		ours, peer := net.Pipe()
		fake.results <- ours
		go io.WriteString(peer, "hello")
		wantEqual(t, "echo after all that", readString(t, peer, 5), "hello")
		fake.results <- syscall.EMFILE // the backoff starts again
		fake.results <- syscall.EMFILE
		before := time.Now()
		synctest.Wait()
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		wantEqual(t, "errors", len(errs), 3*len(causes)+2)
		wantEqual(t, "time", time.Since(before), 5*time.Millisecond)
		wantEqual(t, "Stats.ErrorsTotal", l.Stats().Loop.ErrorsTotal, uint64(len(errs)))
		ln.Close()
		peer.Close()
	})
}

func TestListenerNoCallbackAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fake := newFakeListener()
		calls := 0
		ln, err := (&eventloop.ListenConfig{OnAcceptError: func(ln *eventloop.Listener, err error) { calls++ }}).Serve(l, fake, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.Post(func() {
			fake.results <- syscall.EMFILE
			time.Sleep(time.Second) // the error waits for the end of this turn
			ln.Close()
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		wantEqual(t, "OnAcceptError after Close", calls, 0)
		wantEqual(t, "Stats.Listeners", l.Stats().Conns.Listeners, 0)
	})
}

func TestServeEndsWithAListenerThatEndsByItself(t *testing.T) {
	for _, end := range []error{net.ErrClosed, io.EOF, errors.New("session is over"), syscall.EINVAL, os.NewSyscallError("accept", syscall.ENOTSOCK)} {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			fake, httpFake := newFakeListener(), newFakeListener()
			var errs []error
			note := func(err error) { errs = append(errs, err) }
			_, err := (&eventloop.ListenConfig{OnAcceptError: func(ln *eventloop.Listener, err error) { note(err) }}).Serve(l, fake, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.ServeHTTP(httpFake, func(*eventloop.HTTPRequest) {}, &eventloop.HTTPServerConfig{
				OnAcceptError: func(s *eventloop.HTTPServer, err error) { note(err) },
			})
			if err != nil {
				t.Fatal(err)
			}
			fake.results <- end
			httpFake.results <- end
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(errs) != 2 || !errors.Is(errs[0], end) || !errors.Is(errs[1], end) {
				t.Errorf("errors = %v, want %v of the listener and of the server", errs, end)
			}
			wantEqual(t, "Stats.Listeners", l.Stats().Conns.Listeners, 0)
			wantEqual(t, "listener is closed", fake.isClosed(), true)
			wantEqual(t, "listener of the server is closed", httpFake.isClosed(), true)
		})
	}
}

func TestListenerAcceptErrorWithoutCallback(t *testing.T) {
	t.Run("goes to the EventHandler", func(t *testing.T) {
		var got []error
		l, end := startLoop(t, &eventloop.Config{EventHandler: func(err error) { got = append(got, err) }})
		fake := newFakeListener()
		fake.results <- syscall.EMFILE
		ln, _ := l.Serve(fake, nil)
		onLoop(t, l, func() {})
		eventually(func() bool { return l.Stats().Loop.ErrorsTotal == 1 })
		ln.Close()
		end()
		if len(got) > 1 || len(got) == 1 && !errors.Is(got[0], syscall.EMFILE) {
			t.Errorf("events = %v", got)
		}
	})
	t.Run("is logged and does not end the loop", func(t *testing.T) {
		var log bytes.Buffer
		mustRun(t, &eventloop.Config{Logger: textLogger(&log)}, func(l *eventloop.Loop) {
			fake := newFakeListener()
			fake.results <- syscall.EMFILE
			ln, _ := l.Serve(fake, nil)
			var tick *eventloop.Timer
			tick = l.Every(time.Millisecond, func() {
				if l.Stats().Loop.ErrorsTotal == 1 {
					tick.Stop()
					ln.Close()
				}
			})
		})
		if !strings.Contains(log.String(), "too many open files") {
			t.Errorf("log = %q", log.String())
		}
	})
}

func TestListenerPanicInOnAcceptErrorLeavesRun(t *testing.T) {
	checkLeaks(t)
	v, _ := outcome(func() {
		eventloop.Run(context.Background(), &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) error {
			fake := newFakeListener()
			fake.results <- syscall.EMFILE
			_, err := (&eventloop.ListenConfig{OnAcceptError: func(*eventloop.Listener, error) { panic("boom") }}).Serve(l, fake, nil)
			return err
		})
	})
	if pe, ok := v.(*eventloop.PanicError); !ok || pe.Value != "boom" {
		t.Errorf("Run panicked with %v", v)
	}
}

func TestLaw11AFloodOfConnectionsDoesNotStopTheLoop(t *testing.T) {
	const peers, each = 8, 100
	l, _ := startLoop(t, nil)
	connects, closes := 0, 0
	ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnConnect: func(*eventloop.Conn) { connects++ },
		OnData:    func(c *eventloop.Conn, data []byte) { c.Write(data) },
		OnClose:   func(*eventloop.Conn) { closes++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	var done []<-chan struct{}
	for i := range peers {
		done = append(done, background(t, func() {
			for range each {
				nc, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				tc := nc.(*net.TCPConn)
				switch i % 4 {
				case 0: // resets at once
					reset(t, tc)
				case 1: // resets in the middle of an echo
					io.WriteString(tc, "hello")
					reset(t, tc)
				case 2: // closes without sending anything
					tc.Close()
				case 3: // well-behaved
					io.WriteString(tc, "hello")
					readString(t, tc, 5)
					tc.Close()
				}
			}
		}))
	}
	for _, d := range done {
		wait(t, d, "end of a peer")
	}
	eventually(func() bool { return l.Stats().Conns.AcceptedTotal == peers*each })
	idle(t, l)
	onLoop(t, l, func() {
		wantEqual(t, "OnConnect", connects, peers*each)
		wantEqual(t, "OnClose", closes, peers*each)
	})
	ln.Close()
}

func TestASecondCloseReturnsErrClosed(t *testing.T) {
	type closer interface {
		Close() error
		Shutdown(grace time.Duration) *eventloop.Future[struct{}]
	}
	for what, open := range map[string]func(l *eventloop.Loop) (closer, error){
		"Listener": func(l *eventloop.Loop) (closer, error) { return l.Listen("tcp", "127.0.0.1:0", nil) },
		"HTTPServer": func(l *eventloop.Loop) (closer, error) {
			return l.ListenHTTP("127.0.0.1:0", func(*eventloop.HTTPRequest) {}, nil)
		},
	} {
		var opened []closer
		var errs []error
		mustRun(t, nil, func(l *eventloop.Loop) {
			for range 3 {
				c, err := open(l)
				if err != nil {
					t.Fatal(err)
				}
				opened = append(opened, c)
			}
			errs = append(errs, opened[0].Close(), opened[0].Close())
			opened[1].Shutdown(-1)
			errs = append(errs, opened[1].Close())
			l.Shutdown(-1)
		})
		errs = append(errs, opened[2].Close())
		wantSlice(t, what+": the first Close, the second, after Shutdown, after the end", errs, []error{nil, net.ErrClosed, net.ErrClosed, net.ErrClosed})
	}
}
