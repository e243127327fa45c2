package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop"
)

func TestDialContextServesAnHTTPTransport(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	_, port, _ := net.SplitHostPort(p.addr)
	cfg := namesConfig(t, "192.0.2.53")
	cfg.Resolver.HostsFile = tempFile(t, "hosts", "127.0.0.1 server.test\n")
	l, end := startLoop(t, cfg)
	transport := &http.Transport{DialContext: l.DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func() {
		t.Helper()
		res, err := client.Get("http://server.test:" + port)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || string(body) != "ok" || err != nil {
			t.Errorf("%v, %q, %v", res.Status, body, err)
		}
	}
	get()
	stats := l.Stats()
	wantEqual(t, "Conns.DialedTotal", stats.Conns.DialedTotal, 1)
	wantEqual(t, "Conns.Outgoing", stats.Conns.Outgoing, 0)
	for h := range l.Handles() {
		if h.Kind != eventloop.KindHold {
			t.Errorf("the loop has %v", h)
		}
	}
	wantEqual(t, "Run", end(), nil)
	get() // the connection belongs to the transport
	wantEqual(t, "connections", p.conns.Load(), 1)
}

func TestDialContextUsesTheResolverTheCacheAndAllAddresses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ns := serveNames(t, zone("a.test. 60 IN A 127.0.0.1", "a.test. 60 IN AAAA ::1"))
	l, _ := startLoop(t, namesConfig(t, ns.addr))
	for range 3 { // nothing listens on ::1
		nc, err := l.DialContext(bg, "tcp", "a.test:"+port)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := nc.(*net.TCPConn); !ok || nc.RemoteAddr().String() != ln.Addr().String() {
			t.Errorf("%T to %v", nc, nc.RemoteAddr())
		}
		nc.Close()
	}
	wantEqual(t, "queries for A", ns.count("a.test. A"), 1)
	wantEqual(t, "queries for AAAA", ns.count("a.test. AAAA"), 1)
}

func TestDialContextInATaskLetsTheLoopGoOn(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	release := make(chan struct{})
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		zone("a.test. 60 IN A 127.0.0.1")(w, q)
	})
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		ticks := 0
		var tick *eventloop.Timer
		tick = l.Every(time.Millisecond, func() {
			if ticks++; ticks == 3 {
				tick.Stop()
				close(release)
			}
		})
		l.Go(bg, func(task *eventloop.Task) error {
			nc, err := l.DialContext(bg, "tcp", "a.test:"+port)
			if err != nil || ticks != 3 {
				t.Errorf("%v after %d ticks", err, ticks)
				return nil
			}
			return nc.Close()
		})
	})
}

func TestDialContextInACallbackReturnsErrOnLoop(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		nc, err := l.DialContext(bg, "tcp", "127.0.0.1:1")
		if nc != nil || err != eventloop.ErrOnLoop {
			t.Errorf("%v, %v", nc, err)
		}
		wantEqual(t, "Conns.DialedTotal", l.Stats().Conns.DialedTotal, 0)
	})
}

func TestDialContextBeforeRunAndAfterTheEndFails(t *testing.T) {
	l := eventloop.New(nil)
	_, err := l.DialContext(bg, "tcp", "127.0.0.1:1")
	wantEqual(t, "before Run", err, eventloop.ErrNotRunning)
	wantEqual(t, "Run", l.Run(bg), nil)
	_, err = l.DialContext(bg, "tcp", "127.0.0.1:1")
	wantEqual(t, "after the end", err, eventloop.ErrLoopClosed)
}

func TestErrorsOfDialContext(t *testing.T) {
	ns := serveNames(t, zone("a.test. 60 IN A 127.0.0.1"))
	l, _ := startLoop(t, namesConfig(t, ns.addr))
	canceled, cancel := context.WithCancel(bg)
	cancel()
	expired, cancel := context.WithTimeout(bg, -1)
	defer cancel()
	for name, test := range map[string]struct {
		ctx              context.Context
		network, address string
		is               []error
		text             string
		timeout          bool
	}{
		"refused":       {bg, "tcp", deadAddr(t), []error{eventloop.ErrRefused, syscall.ECONNREFUSED}, "dial tcp 127.0.0.1:", false},
		"unknown name":  {bg, "tcp", "b.test:80", []error{eventloop.ErrDNS}, "dial tcp b.test:80: ", false},
		"unknown port":  {bg, "tcp", "a.test:x", nil, "dial tcp a.test:x: ", false},
		"no port":       {bg, "tcp", "a.test", nil, "dial tcp a.test: ", false},
		"network":       {bg, "udp", "a.test:1", nil, "dial udp a.test:1: unknown network udp", false},
		"no unix path":  {bg, "unix", "", nil, "dial unix: ", false},
		"canceled":      {canceled, "tcp", "a.test:1", []error{context.Canceled}, "dial tcp a.test:1: ", false},
		"deadline over": {expired, "tcp", "a.test:1", []error{context.DeadlineExceeded, eventloop.ErrTimeout}, "dial tcp a.test:1: ", true},
	} {
		nc, err := l.DialContext(test.ctx, test.network, test.address)
		if nc != nil {
			t.Errorf("%s: a connection", name)
			continue
		}
		op := new(eventloop.OpError)
		if !errors.As(err, &op) || op.Op != eventloop.OpDial || op.Net != test.network || op.Addr != test.address || !strings.HasPrefix(err.Error(), test.text) {
			t.Errorf("%s: %#v: %v", name, err, err)
		}
		for _, is := range test.is {
			if !errors.Is(err, is) {
				t.Errorf("%s: %v does not match %v", name, err, is)
			}
		}
		if ne := net.Error(nil); !errors.As(err, &ne) || ne.Timeout() != test.timeout {
			t.Errorf("%s: Timeout is not %v", name, test.timeout)
		}
	}
}

func TestTheEndOfTheContextEndsDialContextAtEveryStage(t *testing.T) {
	boom := errors.New("boom")
	for name := range stages {
		for _, in := range []string{"goroutine", "task"} {
			t.Run(name+"/"+in, func(t *testing.T) {
				cfg, reached := stage(t, name)
				ctx, cancel := context.WithCancelCause(bg)
				var failure error
				mustRun(t, cfg, func(l *eventloop.Loop) {
					dial := func() { _, failure = l.DialContext(ctx, "tcp", "a.test:1") }
					if in == "task" {
						l.Go(bg, func(*eventloop.Task) error { dial(); return nil })
					} else {
						eventloop.Work(bg, l, func(context.Context) (any, error) { dial(); return nil, nil })
					}
					whenReached(l, reached, func() { cancel(boom) })
				})
				if !errors.Is(failure, boom) || !errors.Is(failure, context.Canceled) {
					t.Errorf("error = %v", failure)
				}
			})
		}
	}
}

func TestTheEndOfTheLoopEndsDialContextAtEveryStage(t *testing.T) {
	for name := range stages {
		t.Run(name, func(t *testing.T) {
			cfg, reached := stage(t, name)
			results := make(chan error, 2)
			mustRun(t, cfg, func(l *eventloop.Loop) {
				dial := func() {
					_, err := l.DialContext(bg, "tcp", "a.test:1")
					results <- err
				}
				go dial()
				l.Go(bg, func(*eventloop.Task) error { dial(); return nil })
				whenReached(l, reached, func() {
					var open []string
					for h := range l.Handles() {
						if h.Kind == eventloop.KindConn {
							open = append(open, h.Name)
						}
					}
					if len(open) > 0 {
						wantEqual(t, "handle", open[0], "tcp a.test:1")
					}
					l.Stop()
				})
			})
			for range 2 {
				wantEqual(t, "error", <-results, eventloop.ErrLoopClosed)
			}
		})
	}
}

func TestTheEndOfItsContextEndsDialContextOfATask(t *testing.T) {
	boom := errors.New("boom")
	cfg, reached := stage(t, "connecting")
	mustRun(t, cfg, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancelCause(bg)
		l.Go(ctx, func(*eventloop.Task) error {
			nc, err := l.DialContext(bg, "tcp", "a.test:1")
			if nc != nil || err != boom {
				t.Errorf("%v, %v", nc, err)
			}
			return nil
		})
		whenReached(l, reached, func() { cancel(boom) })
	})
}

func TestDialContextKeepsTheLoopAlive(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	release := make(chan struct{})
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		zone("a.test. 60 IN A 127.0.0.1")(w, q)
	})
	var up atomic.Bool
	done := make(chan struct{})
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		hold := l.Hold()
		go func() {
			defer close(done)
			nc, err := l.DialContext(bg, "tcp", "a.test:"+port)
			if err != nil {
				t.Error(err)
				return
			}
			up.Store(true)
			nc.Close()
		}()
		go func() {
			eventually(func() bool { return l.Stats().Conns.Outgoing == 1 })
			hold()
			l.Post(func() { close(release) })
		}()
	})
	<-done
	wantEqual(t, "connected", up.Load(), true)
}
