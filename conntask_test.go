package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestListenTaskRunsATaskForEachConnectionAndClosesItAfterwards(t *testing.T) {
	l, _ := startLoop(t, nil)
	order := make(map[*eventloop.Conn][]string) // a connection may arrive before OnClose of another one
	ln, err := l.ListenTask("tcp", "127.0.0.1:0", func(k *eventloop.Task, c *eventloop.Conn) error {
		order[c] = append(order[c], "task")
		line, err := bufio.NewReader(c.NetConn(k)).ReadString('\n')
		c.WriteString("got " + line)
		return err
	}, &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { order[c] = append(order[c], "OnConnect") },
		OnClose:   func(c *eventloop.Conn) { order[c] = append(order[c], "OnClose") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, "hello\n")
		got, err := io.ReadAll(nc) // until the server closes
		wantEqual(t, "answer", string(got), "got hello\n")
		wantEqual(t, "end", err, nil)
		nc.Close()
		eventually(func() bool { return l.Stats().Conns.Incoming == 0 }) // otherwise the next connection may arrive first
	}
	ln.Close()
	onLoop(t, l, func() {
		wantEqual(t, "connections", len(order), 3)
		for _, got := range order {
			wantSlice(t, "order", got, []string{"OnConnect", "task", "OnClose"})
		}
	})
}

// onePipe runs a loop in virtual time that adopts one end of a pipe with cfg, and client
// with the other end. It returns the log.
func onePipe(t *testing.T, conf eventloop.Config, cfg *eventloop.ConnConfig, client func(l *eventloop.Loop, nc net.Conn)) (log string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		book := &logBook{}
		conf.Logger = book.logger()
		server, nc := net.Pipe()
		err = eventloop.Run(t.Context(), &conf, func(l *eventloop.Loop) error {
			go client(l, nc)
			_, err := l.Adopt(server, cfg)
			return err
		})
		log = book.String()
	})
	return log, err
}

func TestTheErrorOfAConnectionsTaskIsReportedOnceUnlessItIsAnOrdinaryEnd(t *testing.T) {
	failure := errors.New("bad command")
	for _, v := range []struct {
		name string
		end  error
		told bool
	}{
		{"nil", nil, false},
		{"io.EOF", io.EOF, false},
		{"wrapped io.EOF", fmt.Errorf("reading: %w", io.EOF), false},
		{"closed", net.ErrClosed, false},
		{"reset", io.ErrClosedPipe, false},
		{"failure", failure, true},
		{"unexpected EOF", io.ErrUnexpectedEOF, true},
	} {
		for _, road := range []string{"OnEvent", "EventHandler", "log"} {
			t.Run(v.name+" to "+road, func(t *testing.T) {
				var told []error
				conf := eventloop.Config{}
				cfg := &eventloop.ConnConfig{
					Task: func(k *eventloop.Task, c *eventloop.Conn) error {
						c.WriteString("bye\n")
						return v.end
					},
				}
				switch road {
				case "OnEvent":
					cfg.OnEvent = func(_ *eventloop.Conn, err error) { told = append(told, err) }
				case "EventHandler":
					conf.EventHandler = func(err error) { told = append(told, err) }
				}
				log, err := onePipe(t, conf, cfg, func(_ *eventloop.Loop, nc net.Conn) {
					got, _ := io.ReadAll(nc)
					wantEqual(t, "received", string(got), "bye\n")
					nc.Close()
				})
				wantEqual(t, "Run", err, nil)
				n := len(told) + strings.Count(log, "level=WARN")
				switch {
				case !v.told && n == 0:
				case !v.told || n != 1 || (road == "log") != (len(told) == 0):
					t.Errorf("reported %v, logged %q; want a report: %v", told, log, v.told)
				case road == "log":
					if !strings.Contains(log, "pipe") || !strings.Contains(log, v.end.Error()) {
						t.Errorf("the log lacks the address or the error: %s", log)
					}
				default:
					oe, ok := errors.AsType[*eventloop.OpError](told[0])
					if !ok || !errors.Is(told[0], v.end) || oe.Addr != "pipe" || oe.Conn == nil {
						t.Errorf("reported %v, want an OpError with address and connection", told[0])
					}
				}
			})
		}
	}
}

// A connection that has failed is closed before its task can end.
func TestTheErrorThatClosedTheConnectionGoesToTheEventHandlerUnchanged(t *testing.T) {
	var told []error
	conf := eventloop.Config{EventHandler: func(err error) { told = append(told, err) }}
	cfg := &eventloop.ConnConfig{
		ReadTimeout: time.Second,
		OnEvent:     func(_ *eventloop.Conn, err error) { t.Errorf("OnEvent: %v", err) },
		Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			_, err := io.Copy(io.Discard, c.NetConn(k))
			return err
		},
	}
	onePipe(t, conf, cfg, func(_ *eventloop.Loop, nc net.Conn) { io.ReadAll(nc); nc.Close() })
	if len(told) != 1 || !errors.Is(told[0], eventloop.ErrTimeout) || told[0].Error() != "read pipe pipe: i/o timeout" {
		t.Errorf("reported %v, want the timeout once, with the address once", told)
	}
}

func TestAPanicOfAConnectionsTaskIsAnEventAndResetsTheConnection(t *testing.T) {
	var told []error
	cfg := &eventloop.ConnConfig{
		OnEvent: func(_ *eventloop.Conn, err error) { told = append(told, err) },
		Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			k.Yield()
			panic("boom")
		},
	}
	_, err := onePipe(t, eventloop.Config{CatchPanics: true}, cfg, func(_ *eventloop.Loop, nc net.Conn) { io.ReadAll(nc); nc.Close() })
	wantEqual(t, "Run", err, nil)
	if len(told) != 1 {
		t.Fatalf("reported %v, want the panic", told)
	}
	if pe, ok := errors.AsType[*eventloop.PanicError](told[0]); !ok || pe.Value != "boom" {
		t.Errorf("reported %v, want the panic", told[0])
	}
}

func TestAfterItsTaskClosedAConnectionOnEventIsNotCalled(t *testing.T) {
	failure := errors.New("too late")
	var told []error
	cfg := &eventloop.ConnConfig{
		OnEvent: func(_ *eventloop.Conn, err error) { t.Errorf("OnEvent after Close: %v", err) },
		Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			c.Close()
			return failure
		},
	}
	conf := eventloop.Config{EventHandler: func(err error) { told = append(told, err) }}
	onePipe(t, conf, cfg, func(_ *eventloop.Loop, nc net.Conn) { io.ReadAll(nc); nc.Close() })
	if len(told) != 1 || !errors.Is(told[0], failure) {
		t.Errorf("EventHandler received %v, want the failure once", told)
	}
}

func TestATaskOfADialedConnection(t *testing.T) {
	l, _ := startLoop(t, nil)
	ln, err := l.ListenTask("tcp", "127.0.0.1:0", func(k *eventloop.Task, c *eventloop.Conn) error {
		_, err := io.Copy(c.NetConn(k), c.NetConn(k))
		return err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	_, err = l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
		Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			nc := c.NetConn(k)
			io.WriteString(nc, "hello")
			c.CloseWrite()
			all, err := io.ReadAll(nc)
			got <- string(all)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "echo", <-got, "hello")
	ln.Close()
}

type session struct{ lines int }

func TestDataOfIsOneValuePerConnection(t *testing.T) {
	var counts []int
	for _, lines := range []string{"a\nb\n", "c\n"} {
		cfg := &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				eventloop.DataOf[session](c).lines += strings.Count(string(data), "\n")
			},
			OnClose: func(c *eventloop.Conn) {
				counts = append(counts, eventloop.DataOf[session](c).lines)
				if c.Data() != any(eventloop.DataOf[session](c)) {
					t.Error("Data returns another value")
				}
			},
		}
		onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
			io.WriteString(nc, lines)
			nc.Close()
		})
	}
	wantSlice(t, "lines", counts, []int{2, 1})
}

func TestDataOfAnotherTypePanicsWithBothTypes(t *testing.T) {
	l, _ := startLoop(t, nil)
	server, client := net.Pipe()
	defer client.Close()
	c, err := l.Adopt(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	eventloop.DataOf[session](c)
	v, _ := outcome(func() { eventloop.DataOf[int](c) })
	if err, ok := v.(error); !ok || !strings.Contains(err.Error(), "*eventloop_test.session, not a *int") {
		t.Errorf("panics with %v", v)
	}
	c.SetData(nil)
	wantEqual(t, "after SetData(nil)", *eventloop.DataOf[int](c), 0)
}

func TestConcurrentCallsOfDataOfReturnTheSameValue(t *testing.T) {
	l, _ := startLoop(t, nil)
	server, client := net.Pipe()
	defer client.Close()
	c, err := l.Adopt(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	got := make(chan *session, 8)
	for range cap(got) {
		go func() { got <- eventloop.DataOf[session](c) }()
	}
	first := <-got
	for range cap(got) - 1 {
		wantEqual(t, "value", <-got, first)
	}
}

// Under the race detector, the data of OnData is overwritten afterwards, so that the bug
// in a program that keeps it becomes visible.
func TestKeepingTheDataOfOnDataShowsUnderTheRaceDetector(t *testing.T) {
	if !raceEnabled {
		t.Skip("data is poisoned only under the race detector")
	}
	var kept []byte
	cfg := &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
		wantEqual(t, "data", string(data), "secret")
		kept = data
	}}
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		io.WriteString(nc, "secret")
		nc.Close()
	})
	wantEqual(t, "what was kept", string(kept), strings.Repeat("\xDB", 6))
}

func TestAFailedDialOfAConnectionWithATaskEndsTheLoopAlthoughOtherTasksRun(t *testing.T) {
	addr := deadAddr(t)
	err := runLoop(t, nil, func(l *eventloop.Loop) {
		never(l)
		l.Go(context.Background(), func(k *eventloop.Task) error { return k.Sleep(time.Hour) }).Ignore()
		l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
			Task: func(k *eventloop.Task, c *eventloop.Conn) error {
				t.Error("the task runs")
				return nil
			},
		})
	})
	wantErr(t, "Run", err, eventloop.ErrRefused)
}
