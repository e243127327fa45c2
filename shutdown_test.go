package eventloop_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/sockio"
)

func TestShutdownCutsOffWhatOutlastsItsGraceAndRunNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &logBook{}
		began, closed := time.Now(), 0
		err := eventloop.Run(t.Context(), &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) error {
			a, b := net.Pipe()
			t.Cleanup(func() { b.Close() })
			if _, err := l.Adopt(a, &eventloop.ConnConfig{OnClose: func(*eventloop.Conn) { closed++ }}); err != nil {
				return err
			}
			l.Go(t.Context(), func(k *eventloop.Task) error { return k.Sleep(time.Hour) })
			l.AfterFunc(time.Hour, func() { t.Error("a timer fired after the end") })
			l.AfterFunc(time.Hour, func() {}).Unref()
			l.Hold()
			l.Shutdown(time.Minute)
			return nil
		})
		wantErr(t, "Run", err, eventloop.ErrForced)
		wantEqual(t, "time until Run returned", time.Since(began), time.Minute)
		wantEqual(t, "OnClose", closed, 1)
		for _, name := range []string{"conn pipe", "timer 1m0s", "hold 1m0s", "task ", "TestShutdownCutsOff"} {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("the error does not name %q: %v", name, err)
			}
		}
		if strings.Contains(err.Error(), "unref") {
			t.Errorf("the error names what did not keep the loop alive: %v", err)
		}
		if log := book.String(); strings.Count(log, "shutdown ended by force") != 1 || !strings.Contains(log, "count=4") {
			t.Errorf("the log is %s", log)
		}
	})
}

// The list in a log or an error is bounded.
func TestTheErrorOfAForcedEndNamesTenHandlesAndCountsTheOthers(t *testing.T) {
	for _, n := range []int{1, 9, 10, 11, 1000} {
		err := runLoop(t, nil, func(l *eventloop.Loop) {
			for range n {
				l.Hold()
			}
			l.Shutdown(0)
		})
		wantErr(t, "Run", err, eventloop.ErrForced)
		wantEqual(t, "handles that are named", strings.Count(err.Error(), "hold"), min(n, 10))
		wantEqual(t, "whether others are counted", strings.Contains(err.Error(), fmt.Sprintf("and %d more", n-10)), n > 10)
	}
}

func TestTheShorterRemainingGraceOfShutdownCounts(t *testing.T) {
	type call struct{ at, grace time.Duration }
	const s = time.Second
	for _, tt := range []struct {
		calls  []call
		end    time.Duration
		forced bool
	}{
		{[]call{{0, 10 * s}}, 10 * s, true},
		{[]call{{0, 0}}, 0, true},
		{[]call{{s, 1}}, s + 1, true},
		{[]call{{0, -1}}, 100 * s, false},
		{[]call{{0, 1<<63 - 1}}, 100 * s, false},
		{[]call{{0, 100*s + 1}}, 100 * s, false},
		{[]call{{0, 10 * s}, {s, 2 * s}}, 3 * s, true},
		{[]call{{0, 2 * s}, {s, 10 * s}}, 2 * s, true},
		{[]call{{0, -1}, {s, 5 * s}}, 6 * s, true},
		{[]call{{0, 5 * s}, {s, -1}}, 5 * s, true},
		{[]call{{0, 5 * s}, {s, 0}}, s, true},
		{[]call{{0, 0}, {0, -1}}, 0, true},
		{[]call{{0, 9 * s}, {0, 5 * s}, {s, 4 * s}, {2 * s, 2 * s}}, 4 * s, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := eventloop.Run(t.Context(), logged(t, nil), func(l *eventloop.Loop) error {
				l.AfterFunc(100*s, func() {})
				for _, c := range tt.calls {
					if c.at == 0 {
						l.Shutdown(c.grace)
					} else {
						l.AfterFunc(c.at, func() { l.Shutdown(c.grace) })
					}
				}
				return nil
			})
			wantEqual(t, fmt.Sprintf("end after %v", tt.calls), time.Since(began), tt.end)
			if tt.forced {
				wantErr(t, "Run", err, eventloop.ErrForced)
			} else {
				wantEqual(t, "error of Run", err, nil)
			}
		})
	}
}

func TestAForcedShutdownThatCutsOffNothingIsAGracefulOne(t *testing.T) {
	book := &logBook{}
	mustRun(t, &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) {
		l.Hold()()
		l.AfterFunc(time.Hour, func() {}).Unref()
		l.Shutdown(0)
	})
	mustRun(t, &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) {
		l.Shutdown(time.Hour)
		l.Shutdown(0)
	})
	wantEqual(t, "log", book.String(), "")
}

func TestAForcedShutdownNamesTheFunctionsThatItDoesNotRun(t *testing.T) {
	err := runLoop(t, nil, func(l *eventloop.Loop) {
		l.Shutdown(time.Hour)
		l.Post(func() { t.Error("a posted function ran") })
		l.Post(func() { t.Error("a posted function ran") })
		l.Shutdown(0)
	})
	wantErr(t, "Run", err, eventloop.ErrForced)
	if !strings.HasSuffix(err.Error(), ": posted functions: 2") {
		t.Errorf("the error is %v", err)
	}
}

func TestAShutdownOfZeroNamesTheFunctionsThatItDoesNotRun(t *testing.T) {
	err := runLoop(t, nil, func(l *eventloop.Loop) {
		l.Post(func() { t.Error("a posted function ran") })
		l.Shutdown(0)
	})
	wantErr(t, "Run", err, eventloop.ErrForced)
}

func TestOnShutdownIsCalledOnceInOrderInALaterTurn(t *testing.T) {
	var order []string
	note := func(s string) func() { return func() { order = append(order, s) } }
	l := eventloop.New(logged(t, nil))
	l.OnShutdown(nil)
	l.OnShutdown(note("made before Run"))
	l.Post(func() {
		release := l.Hold()
		l.OnShutdown(note("made during Run"))
		ln, err := l.Listen("tcp", "127.0.0.1:0", nil)
		if err != nil {
			t.Error(err)
		}
		l.OnShutdown(func() {
			if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
				t.Error("the listener was open")
			}
			l.OnShutdown(note("made during Shutdown"))
			l.Post(func() { release() })
		})
		l.Shutdown(time.Hour)
		l.Shutdown(time.Hour)
		note("Shutdown returned")()
	})
	if err := l.Run(t.Context()); err != nil {
		t.Error(err)
	}
	wantSlice(t, "order", order, []string{"Shutdown returned", "made before Run", "made during Run", "made during Shutdown"})
	l.OnShutdown(func() { t.Error("called after the end") })
	l.Shutdown(time.Hour)
}

func TestOnShutdownIsNotCalledWithoutAGracefulShutdown(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop){
		"Stop":          (*eventloop.Loop).Stop,
		"Shutdown by 0": func(l *eventloop.Loop) { l.Shutdown(0) },
		"natural":       func(*eventloop.Loop) {},
	} {
		t.Run(name, func(t *testing.T) {
			runLoop(t, nil, func(l *eventloop.Loop) {
				l.OnShutdown(func() { t.Error("called") })
				end(l)
			})
		})
	}
}

func TestAPanicInOnShutdownIsACallbacksAndTheOthersRun(t *testing.T) {
	var events []error
	calls := 0
	mustRun(t, &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}, func(l *eventloop.Loop) {
		l.OnShutdown(func() { calls++; panic("sprung") })
		l.OnShutdown(func() { calls++ })
		l.Shutdown(time.Hour)
	})
	wantEqual(t, "calls", calls, 2)
	wantEqual(t, "events", abnormal(events), 1)

	calls = 0
	panicked, _ := outcome(func() {
		runLoop(t, nil, func(l *eventloop.Loop) {
			l.OnShutdown(func() { calls++; panic("sprung") })
			l.OnShutdown(func() { calls++ })
			l.Shutdown(time.Hour)
		})
	})
	if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "sprung" {
		t.Errorf("Run panicked with %v", panicked)
	}
	wantEqual(t, "calls of a loop that has ended", calls, 1)
}

func TestShutdownLogsWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &logBook{}
		began := time.Now()
		err := eventloop.Run(t.Context(), &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) error {
			l.AfterFunc(36*time.Second, func() {})
			l.Shutdown(-1)
			return nil
		})
		wantEqual(t, "error of Run", err, nil)
		wantEqual(t, "time until Run returned", time.Since(began), 36*time.Second)
		var waits []string
		for line := range strings.Lines(book.String()) {
			if !strings.Contains(line, `msg="shutdown waits"`) || !strings.Contains(line, "timer ") {
				t.Errorf("a line of the log: %s", line)
			}
			for field := range strings.FieldsSeq(line) {
				if s, ok := strings.CutPrefix(field, "for="); ok {
					waits = append(waits, s)
				}
			}
		}
		wantSlice(t, "times of the reports", waits, []string{"5s", "15s", "35s"})
	})
}

func TestAShutdownThatEndsSoonLogsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &logBook{}
		err := eventloop.Run(t.Context(), &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) error {
			l.AfterFunc(4999*time.Millisecond, func() {})
			l.Shutdown(time.Minute)
			return nil
		})
		wantEqual(t, "error of Run", err, nil)
		wantEqual(t, "log", book.String(), "")
	})
}

func TestLogHandlesWritesALineForEachHandle(t *testing.T) {
	book := &logBook{}
	mustRun(t, &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) {
		defer l.Stop()
		l.LogHandles()
		wantEqual(t, "log without handles", book.String(), "")
		if _, err := l.Listen("tcp", "127.0.0.1:0", nil); err != nil {
			t.Error(err)
		}
		l.Every(time.Hour, func() {}).Unref()
		l.Hold()
		n := len(slices.Collect(l.Handles()))
		l.LogHandles()
		lines := strings.Split(strings.TrimSpace(book.String()), "\n")
		wantEqual(t, "lines", len(lines), n)
		for _, want := range []string{"kind=listener name=\"tcp 127.0.0.1:", "kind=interval", "ref=false", "kind=hold"} {
			if !strings.Contains(book.String(), want) {
				t.Errorf("the log has no %q: %s", want, book.String())
			}
		}
	})
}

func TestGroupShutdownNamesWhatEachLoopCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(3, logged(t, nil))
		began := time.Now()
		time.AfterFunc(time.Second, func() { g.Shutdown(time.Minute) })
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			l.Hold()
			return nil
		})
		wantErr(t, "Run", err, eventloop.ErrForced)
		wantEqual(t, "holds that are named", strings.Count(err.Error(), "hold"), 3)
		wantEqual(t, "time until Run returned", time.Since(began), 61*time.Second)
	})
}

func TestGroupShutdownOfZeroAndWithoutLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, grace := range []time.Duration{0, -1} {
			g := eventloop.NewGroup(2, logged(t, nil))
			began := time.Now()
			time.AfterFunc(time.Second, func() { g.Shutdown(grace) })
			err := g.Run(context.Background(), func(l *eventloop.Loop) error {
				l.AfterFunc(time.Hour, func() {})
				return nil
			})
			if grace == 0 {
				wantErr(t, "Run", err, eventloop.ErrForced)
				wantEqual(t, "time until Run returned", time.Since(began), time.Second)
			} else {
				wantEqual(t, "error of Run", err, nil)
				wantEqual(t, "time until Run returned", time.Since(began), time.Hour)
			}
		}
	})
}

func TestHTTPServerShutdownOfZeroAndWithoutLimit(t *testing.T) {
	for _, grace := range []time.Duration{0, -1} {
		l, _ := startLoop(t, nil)
		requests := make(chan *eventloop.HTTPRequest, 1)
		s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { requests <- r })
		c := dialRaw(t, s.Addr())
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r := <-requests
		f := s.Shutdown(grace)
		if grace == 0 {
			_, err := await(t, f)
			wantErr(t, "Shutdown", err, eventloop.ErrForced)
			continue
		}
		if _, err := f.Result(); err != eventloop.ErrPending {
			t.Errorf("Shutdown with an open request: %v", err)
		}
		r.Respond(200, nil, nil)
		if _, err := await(t, f); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
}

func TestListenerShutdownWaitsForItsConnections(t *testing.T) {
	l, end := startLoop(t, nil)
	closed := 0
	conns := make(chan *eventloop.Conn, 2)
	cfg := &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { conns <- c },
		OnClose:   func(*eventloop.Conn) { closed++ },
	}
	ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnConnect: cfg.OnConnect})
	if err != nil {
		t.Fatal(err)
	}
	c := dialConn(t, ln.Addr())
	<-conns
	dialConn(t, other.Addr())
	stays := <-conns
	f, again := ln.Shutdown(-1), ln.Shutdown(time.Hour)
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the address still answers")
	}
	if _, err := f.Result(); err != eventloop.ErrPending {
		t.Errorf("Shutdown with an open connection: %v", err)
	}
	c.Close()
	for _, f := range []*eventloop.Future[struct{}]{f, again} {
		if _, err := await(t, f); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
	if _, err := await(t, ln.Shutdown(0)); err != nil {
		t.Errorf("Shutdown when nothing is left: %v", err)
	}
	if n, _ := eventloop.Call(t.Context(), l, func() (int, error) { return closed, nil }); n != 1 {
		t.Errorf("OnClose was called %d times, want once", n)
	}
	wantEqual(t, "a connection of another listener is closed", stays.Closed(), false)
	stays.Close()
	other.Close()
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestListenerShutdownAbortsAndNamesWhatOutlastsItsGrace(t *testing.T) {
	for _, graces := range [][]time.Duration{{0}, {1}, {time.Hour, 0}, {-1, time.Millisecond}} {
		l, _ := startLoop(t, nil)
		conns := make(chan *eventloop.Conn, 2)
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { conns <- c }})
		if err != nil {
			t.Fatal(err)
		}
		a, b := dialConn(t, ln.Addr()), dialConn(t, ln.Addr())
		<-conns
		<-conns
		for _, grace := range graces {
			f := ln.Shutdown(grace)
			if grace > time.Minute || grace < 0 {
				f.Then(nil)
				continue
			}
			_, err := await(t, f)
			wantErr(t, "Shutdown", err, eventloop.ErrForced)
			for _, c := range []net.Conn{a, b} {
				if !strings.Contains(err.Error(), c.LocalAddr().String()) {
					t.Errorf("the error does not name %v: %v", c.LocalAddr(), err)
				}
			}
		}
	}
}

// dialConn connects to addr until the end of the test.
func dialConn(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnEndByForceNamesAClosedConnectionOnlyIfItsOutputIsLost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bytes int
		room  int // in our kernel
		lost  bool
	}{
		{"nothing was written", 0, 0, false},
		{"the peer has all of it", 100, 0, false},
		{"the kernel of the peer has not taken all of it", 1 << 20, 4 << 20, true},
		{"our kernel has not taken all of it", 16 << 20, 0, true},
	} {
		if tt.room > 0 && !sockio.Raw {
			continue // only Linux tells what was acknowledged
		}
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			nc, peer := tcpPair(t)
			slowReceiver(t, peer)
			if tt.room > 0 {
				nc.SetWriteBuffer(tt.room)
			}
			conns, result := make(chan *eventloop.Conn, 1), make(chan error, 1)
			go func() {
				result <- eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
					watch(t, l)
					c, err := l.Adopt(nc, nil)
					if err != nil {
						return err
					}
					c.Write(make([]byte, tt.bytes))
					c.Close()
					conns <- c
					return nil
				})
			}()
			c := wait(t, conns, "connection")
			if !tt.lost { // the peer does not end its own side
				wantEqual(t, "bytes that the peer has got", len(readAll(t, peer)), tt.bytes)
			} else if tt.room > 0 {
				if _, err := await(t, c.Flushed()); err != nil {
					t.Fatal(err)
				}
			}
			// On the loop: elsewhere, functions count that have run in a turn that goes on.
			c.Loop().Post(func() { c.Loop().Shutdown(0) })
			if err := wait(t, result, "end of the loop"); !tt.lost {
				wantEqual(t, "error of Run", err, nil)
			} else if wantErr(t, "Run", err, eventloop.ErrForced); !strings.Contains(err.Error(), peer.LocalAddr().String()) {
				t.Errorf("the error does not name the connection: %v", err)
			}
		})
	}
}

func TestListenerShutdownByForceSucceedsIfNoOutputIsLost(t *testing.T) {
	l, _ := startLoop(t, nil)
	for _, bytes := range []int{0, 100, 16 << 20} {
		conns := make(chan *eventloop.Conn, 1)
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { conns <- c }})
		if err != nil {
			t.Fatal(err)
		}
		peer := dialPeer(t, ln.Addr())
		c := wait(t, conns, "connection")
		c.Write(make([]byte, bytes))
		c.Close()
		lost := bytes > 1<<20
		if !lost {
			wantEqual(t, "bytes that the peer has got", len(readAll(t, peer)), bytes)
		}
		if _, err := await(t, ln.Shutdown(0)); lost {
			wantErr(t, "Shutdown", err, eventloop.ErrForced)
		} else {
			wantEqual(t, "error of Shutdown", err, nil)
		}
	}
}

func TestHTTPServerShutdownByForceSucceedsIfNoResponseIsLost(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		read          bool // the response, by the client
		lost          bool
	}{
		{"no request", "", false, false},
		{"an idle connection", "GET /100 HTTP/1.1\r\nHost: x\r\n\r\n", true, false},
		{"a connection at its end", "GET /100 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", true, false},
		{"a response that the client does not read", "GET /16777216 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false, true},
		{"a request without a response", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n", false, true},
	} {
		for _, how := range []string{"Loop", "HTTPServer"} {
			t.Run(tt.name+", Shutdown of "+how, func(t *testing.T) {
				checkLeaks(t)
				handled := make(chan struct{}, 1)
				servers, result := make(chan *eventloop.HTTPServer, 1), make(chan error, 1)
				l := eventloop.New(logged(t, nil))
				watch(t, l)
				l.Post(func() {
					s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
						if n, err := strconv.Atoi(r.Path()[1:]); err == nil {
							r.Respond(200, nil, make([]byte, n))
						}
						handled <- struct{}{}
					}, nil)
					if err != nil {
						t.Error(err)
					}
					servers <- s
				})
				go func() { result <- l.Run(context.Background()) }()
				s := wait(t, servers, "server")
				if tt.request != "" {
					c := dialRaw(t, s.Addr())
					c.send("%s", tt.request)
					wait(t, handled, "request")
					if tt.read {
						c.response("GET")
						eventually(func() bool { return eventloop.IsSpare(s) }) // when its goroutine is done with it
					}
				}
				if how == "Loop" {
					l.Post(func() { l.Shutdown(0) })
				} else if _, err := await(t, s.Shutdown(0)); tt.lost {
					wantErr(t, "Shutdown", err, eventloop.ErrForced)
				} else {
					wantEqual(t, "error of Shutdown", err, nil)
				}
				err := wait(t, result, "end of the loop")
				if tt.lost && how == "Loop" {
					wantErr(t, "Run", err, eventloop.ErrForced)
				} else {
					wantEqual(t, "error of Run", err, nil)
				}
			})
		}
	}
}

func TestAShutdownOfZeroIsNoForceForWhatAGracefulOneEndsAtOnce(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		if _, err := l.Listen("tcp", "127.0.0.1:0", nil); err != nil {
			t.Fatal(err)
		}
		serveHTTP(t, l, nil, hai)
		l.Every(time.Hour, func() {})
		l.Shutdown(0)
	})
}
