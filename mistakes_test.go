package eventloop_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// A mistaken program is one that a newcomer writes in the first hour.
type mistaken struct {
	t     *testing.T
	loop  *eventloop.Loop
	over  chan struct{} // closed when the answer must be there
	place string        // of the source line that is at fault
	limit time.Duration // of the program; 0: a second and what rounding takes
	told  logBook       // what the program is told, by errors and by the log
}

// say notes what a call returned.
func (m *mistaken) say(v ...any) { fmt.Fprintln(&m.told, v...) }

// run runs the program, which begins with start, until the loop ends, or until limit.
// It returns what the program was told.
func (m *mistaken) run(t *testing.T, cfg eventloop.Config, start func(m *mistaken)) string {
	m.t, m.over = t, make(chan struct{})
	cfg.Logger = m.told.logger()
	m.loop = eventloop.New(&cfg)
	m.loop.Post(func() { start(m) })
	var answer string
	limit := time.AfterFunc(cmp.Or(m.limit, time.Second+time.Millisecond), func() {
		answer = m.told.String()
		m.loop.Stop()
		close(m.over)
	})
	panicked, _ := outcome(func() { m.say("Run:", m.loop.Run(t.Context())) })
	if panicked != nil {
		m.say(panicked)
	}
	if limit.Stop() {
		return m.told.String()
	}
	<-m.over
	return answer
}

func lockAndWait(lock chan bool) func(*eventloop.Task) error {
	return func(k *eventloop.Task) error {
		lock <- true
		defer func() { <-lock }()
		return k.Sleep(time.Hour)
	}
}

var watched = eventloop.Config{SlowCallback: 100 * time.Millisecond}

// What a newcomer gets wrong in the first hour is answered within a second, and the
// answer names the place: the function, the source line, the address or the request.
// The answer is what a call returns, the error of Run, or the log. Also, data that is
// kept after OnData shows under the race detector, and so do goroutines that use what
// the callbacks own.
func TestMistakesAreReportedWithinASecondAndNameTheirPlace(t *testing.T) {
	ctx := context.Background()
	for name, mistake := range map[string]struct {
		cfg   eventloop.Config
		start func(m *mistaken)
		want  []string // "here" is mistaken.place
	}{
		"a task whose error is not asked for": {start: func(m *mistaken) {
			m.loop.Hold()
			m.place = nextLine()
			m.loop.Go(ctx, failingTask)
		}, want: []string{"no disk", "failingTask", "here"}},
		"a function of Work whose error is not asked for": {start: func(m *mistaken) {
			m.loop.Hold()
			m.place = nextLine()
			eventloop.Work(ctx, m.loop, failingWork)
		}, want: []string{"no disk", "failingWork", "here"}},
		"a callback that blocks": {cfg: watched, start: func(m *mistaken) {
			m.loop.Post(func() {
				m.place = nextLine()
				<-m.over
			})
		}, want: []string{"holds up the loop", "here"}},
		"a lock that a task holds while it waits": {cfg: watched, start: func(m *mistaken) {
			lock := make(chan bool, 1)
			m.loop.Go(ctx, func(k *eventloop.Task) error { return lockAndWait(lock)(k) })
			m.loop.Go(ctx, func(k *eventloop.Task) error {
				time.AfterFunc(2*time.Second, func() { <-lock })
				m.place = nextLine()
				lock <- true
				return nil
			})
		}, want: []string{"holds up the loop", "task=", "TestMistakes", "here"}},
		"a callback that waits for a goroutine that calls the loop": {cfg: watched, start: func(m *mistaken) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			called := make(chan error)
			go func() {
				_, err := eventloop.Call(ctx, m.loop, func() (int, error) { return 0, nil })
				called <- err
			}()
			m.loop.Post(func() {
				defer cancel()
				m.place = nextLine()
				<-called
			})
		}, want: []string{"holds up the loop", "here"}},
		"a loop that does not end": {start: func(m *mistaken) {
			m.loop.Every(time.Hour, func() {})
			m.loop.Hold()
			m.loop.Go(ctx, func(k *eventloop.Task) error { return k.Sleep(time.Hour) })
			eventloop.NewFuture[map[string]int](m.loop)
			m.loop.AfterFunc(time.Second/2, m.loop.LogHandles)
		}, want: []string{"kind=interval", "kind=hold", "kind=task name=github.com/onloop/eventloop_test.TestMistakes", "kind=future name=\"of map[string]int\"", "age=500ms"}},
		"a listener that is not closed": {start: func(m *mistaken) {
			ln, err := m.loop.Listen("tcp", "127.0.0.1:0", nil)
			if err != nil {
				m.t.Fatal(err)
			}
			m.place = ln.Addr().String()
			m.loop.LogHandles()
			m.loop.Stop()
		}, want: []string{"kind=listener", "here"}},
		"a connection that its task leaves open": {start: func(m *mistaken) {
			a, b := net.Pipe()
			m.t.Cleanup(func() { b.Close() })
			m.loop.Go(ctx, func(*eventloop.Task) error {
				_, err := m.loop.Adopt(a, nil)
				return err
			})
			m.loop.AfterFunc(time.Second/2, m.loop.LogHandles)
		}, want: []string{"kind=conn name=\"pipe pipe\"", "age=500ms"}},
		"Wait on the loop": {start: func(m *mistaken) {
			f, resolve := eventloop.NewFuture[int](m.loop)
			resolve(42, nil)
			v, err := f.Wait(ctx)
			m.say(v, err)
		}, want: []string{"0 eventloop: would wait on the loop for the loop itself"}},
		"Call on the loop": {start: func(m *mistaken) {
			v, err := eventloop.Call(ctx, m.loop, func() (int, error) { return 42, nil })
			m.say(v, err)
		}, want: []string{"0 eventloop: would wait on the loop for the loop itself"}},
		"Run in a callback": {start: func(m *mistaken) {
			m.say(m.loop.Run(ctx))
		}, want: []string{"eventloop: loop already running"}},
		"Listen before Run": {start: func(m *mistaken) {
			_, err := eventloop.New(nil).Listen("tcp", "127.0.0.1:0", nil)
			m.say(err)
		}, want: []string{"eventloop: loop not running"}},
		"a panic in a callback": {start: func(m *mistaken) {
			m.loop.Post(func() {
				m.place = nextLine()
				panic("boom")
			})
		}, want: []string{"panic in a callback: boom, in", "TestMistakes", "here\n"}},
		"a panic in a task, in the standard library": {start: func(m *mistaken) {
			m.loop.Go(ctx, func(*eventloop.Task) error {
				m.place = nextLine()
				_ = strings.Repeat("x", -1)
				return nil
			})
		}, want: []string{"panic in a callback: strings", "TestMistakes", "here\n"}},
		"a nil callback": {start: func(m *mistaken) {
			m.loop.Post(func() {
				m.place = nextLine()
				m.loop.AfterFunc(time.Second, nil)
			})
		}, want: []string{"panic in a callback: ", "AfterFunc", "here\n"}},
		"a NetConn in another goroutine": {start: func(m *mistaken) {
			a, b := net.Pipe()
			m.t.Cleanup(func() { b.Close() })
			m.loop.Go(ctx, func(k *eventloop.Task) error {
				c, err := m.loop.Adopt(a, nil)
				if err != nil {
					return err
				}
				nc := c.NetConn(k)
				go func() {
					_, err := nc.Read(make([]byte, 1))
					m.say(err)
				}()
				return k.Sleep(time.Second / 2)
			})
		}, want: []string{"eventloop: not called by the running task"}},
		"a write after Close": {start: func(m *mistaken) {
			a, b := net.Pipe()
			m.t.Cleanup(func() { b.Close() })
			c, err := m.loop.Adopt(a, nil)
			if err != nil {
				m.t.Fatal(err)
			}
			c.Close()
			_, err = c.WriteString("late")
			m.say(err)
		}, want: []string{"use of closed network connection"}},
	} {
		t.Run(name, func(t *testing.T) {
			test := func(t *testing.T) {
				m := &mistaken{}
				answer := m.run(t, mistake.cfg, mistake.start)
				for _, want := range mistake.want {
					if want = strings.Replace(want, "here", m.place, 1); !strings.Contains(answer, want) {
						t.Errorf("the answer lacks %q:\n%s", want, answer)
					}
				}
			}
			if name == "a listener that is not closed" {
				test(t) // a real socket
			} else {
				synctest.Test(t, test)
			}
		})
	}
}

// The same for connections and requests, which are real.
func TestMistakesWithConnectionsAndRequestsAreReportedAndNameTheirPlace(t *testing.T) {
	ctx := context.Background()
	get := func(m *mistaken, s *eventloop.HTTPServer) {
		m.loop.HTTP().Get(ctx, "http://"+s.Addr().String()+"/path").Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil {
				m.say(err)
			} else {
				m.say("status", res.Status)
			}
			s.Close()
		})
	}
	refused := func(m *mistaken) string {
		m.place = deadAddr(m.t)
		return m.place
	}
	for name, mistake := range map[string]struct {
		cfg   eventloop.Config
		start func(m *mistaken)
		want  []string
	}{
		"a dial without callbacks": {start: func(m *mistaken) {
			m.loop.Dial(ctx, "tcp", refused(m), nil)
		}, want: []string{"Run: dial tcp here", "refused"}},
		"a client in a task whose server is down": {start: func(m *mistaken) {
			address := refused(m)
			m.place = nextLine()
			m.loop.Go(ctx, func(k *eventloop.Task) error {
				c, err := m.loop.Dial(k.Context(), "tcp", address, nil)
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = io.ReadAll(c.NetConn(k))
				return err
			})
		}, want: []string{"dial tcp 127.0.0.1", "refused", "task=", "started=here"}},
		"a panic in a handler": {cfg: eventloop.Config{CatchPanics: true}, start: func(m *mistaken) {
			get(m, serveHTTP(m.t, m.loop, nil, func(r *eventloop.HTTPRequest) {
				m.place = nextLine()
				panic("boom")
			}))
		}, want: []string{"status 500", "panic in a callback: boom", "here"}},
		"a task for a request that fails": {start: func(m *mistaken) {
			get(m, serveHTTP(m.t, m.loop, nil, eventloop.TaskHandler(func(*eventloop.Task, *eventloop.HTTPRequest) error {
				return errors.New("no disk")
			})))
		}, want: []string{"status 500", "no disk", "/path"}},
		"a second response": {start: func(m *mistaken) {
			get(m, serveHTTP(m.t, m.loop, nil, func(r *eventloop.HTTPRequest) {
				r.Respond(http.StatusOK, nil, nil)
				m.say(r.Respond(http.StatusOK, nil, nil))
			}))
		}, want: []string{"status 200", "eventloop: the request already has a response"}},
		"a request without a response": {start: func(m *mistaken) {
			get(m, serveHTTP(m.t, m.loop, nil, func(r *eventloop.HTTPRequest) {
				m.loop.Post(func() {
					m.loop.LogHandles()
					m.loop.Shutdown(0)
				})
			}))
		}, want: []string{"kind=\"http request\" name=\"GET /path\"", "Run: eventloop: ended by force: ", "http request GET /path"}},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			m := &mistaken{limit: watchdogTime} // all of them end by themselves
			answer := m.run(t, mistake.cfg, mistake.start)
			for _, want := range mistake.want {
				if want = strings.Replace(want, "here", m.place, 1); !strings.Contains(answer, want) {
					t.Errorf("the answer lacks %q:\n%s", want, answer)
				}
			}
		})
	}
}

// What is no mistake is not answered like one.
func TestATaskThatEndsWithItsClientSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mistaken{}
		answer := m.run(t, eventloop.Config{}, func(m *mistaken) {
			m.loop.Hold()
			m.loop.Go(context.Background(), func(*eventloop.Task) error { return io.EOF })
		})
		wantEqual(t, "what the program is told", answer, "")
	})
}

func TestAFunctionThatIsGivenNoLoopSaysSo(t *testing.T) {
	ctx, ch := context.Background(), make(chan int)
	for name, f := range map[string]func(){
		"All":             func() { eventloop.All[int](nil) },
		"Any":             func() { eventloop.Any[int](nil) },
		"Race":            func() { eventloop.Race[int](nil) },
		"Call":            func() { eventloop.Call(ctx, nil, func() (int, error) { return 0, nil }) },
		"FastHTTPHandler": func() { eventloop.FastHTTPHandler(nil, func(*eventloop.HTTPRequest) {}) },
		"HTTPHandler":     func() { eventloop.HTTPHandler(nil, func(*eventloop.HTTPRequest) {}) },
		"NewFuture":       func() { eventloop.NewFuture[int](nil) },
		"NewHTTPClient":   func() { eventloop.NewHTTPClient(nil, nil) },
		"NewOwner":        func() { eventloop.NewOwner(nil, "kind", "name", func(error) {}) },
		"NewPipe":         func() { eventloop.NewPipe(nil, 0) },
		"NewWorkers":      func() { eventloop.NewWorkers(nil, 1, "") },
		"ReadFrom":        func() { eventloop.ReadFrom(nil, strings.NewReader(""), func([]byte) {}, nil) },
		"Receive":         func() { eventloop.Receive(nil, ch, func(int, bool) {}) },
		"ReceiveBatch":    func() { eventloop.ReceiveBatch(nil, ch, func([]int, bool) {}) },
		"SendTo":          func() { eventloop.SendTo(nil, ch) },
		"Work":            func() { eventloop.Work(ctx, nil, func(context.Context) (int, error) { return 0, nil }) },
	} {
		if panicked, _ := outcome(f); fmt.Sprint(panicked) != "eventloop: nil Loop" {
			t.Errorf("%s: panic %v", name, panicked)
		}
	}
}

func TestWhatIsGivenNilSaysSo(t *testing.T) {
	var (
		ln *net.TCPListener
		nc *net.TCPConn
		f  *os.File
	)
	mustRun(t, nil, func(l *eventloop.Loop) {
		handler := func(*eventloop.HTTPRequest) {}
		for name, test := range map[string]struct {
			call func() error
			want string
		}{
			"Adopt":                {func() error { _, err := l.Adopt(nil, nil); return err }, "eventloop: Adopt of a nil connection"},
			"Adopt, a pointer":     {func() error { _, err := l.Adopt(nc, nil); return err }, "eventloop: Adopt of a nil connection"},
			"Serve":                {func() error { _, err := l.Serve(nil, nil); return err }, "eventloop: Serve of a nil listener"},
			"Serve, a pointer":     {func() error { _, err := l.Serve(ln, nil); return err }, "eventloop: Serve of a nil listener"},
			"ServeHTTP":            {func() error { _, err := l.ServeHTTP(nil, handler, nil); return err }, "eventloop: ServeHTTP of a nil listener"},
			"ServeHTTP, a pointer": {func() error { _, err := l.ServeHTTP(ln, handler, nil); return err }, "eventloop: ServeHTTP of a nil listener"},
		} {
			if err := test.call(); err == nil || err.Error() != test.want {
				t.Errorf("%s: %v, want %q", name, err, test.want)
			}
		}
		panicked, _ := outcome(func() { eventloop.ReadFrom(l, f, func([]byte) {}, nil) })
		wantEqual(t, "panic of ReadFrom", panicked, any("eventloop: ReadFrom needs a reader and a function"))
		panicked, _ = outcome(func() {
			eventloop.WorkOn(t.Context(), nil, func(context.Context) (int, error) { return 0, nil })
		})
		wantEqual(t, "panic of WorkOn", panicked, any("eventloop: nil Workers"))
		lc := &eventloop.ListenConfig{Shared: true}
		if _, err := lc.Serve(l, ln, nil); err == nil {
			t.Error("Serve of a shared nil listener returns no error")
		}
	})
}
