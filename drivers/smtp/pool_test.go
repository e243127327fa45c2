package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// A fakeServer is a server that takes all mails, for tests of the pool.
type fakeServer struct {
	delay   time.Duration // before each reply
	refuses int           // so many connections are refused with 421 first

	mu       sync.Mutex
	open     int
	most     int // connections at a time
	sessions int
	quits    int
	mails    []string // senders, in order
}

// serve is a step.
func (f *fakeServer) serve(c net.Conn, in *bufio.Reader) error {
	f.mu.Lock()
	f.sessions++
	f.open++
	f.most = max(f.most, f.open)
	refused := f.sessions <= f.refuses
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	var broken error // of a write
	say := func(s string) {
		time.Sleep(f.delay)
		if _, err := fmt.Fprintf(c, "%s\r\n", s); err != nil {
			broken = err
		}
	}
	if refused {
		say("421 4.7.0 too many connections")
		return nil
	}
	say("220 hi")
	var from string
	for broken == nil {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO":
			say("250-mail\r\n250 PIPELINING")
		case "MAIL":
			from, _, _ = strings.Cut(strings.TrimPrefix(line, "MAIL FROM:<"), ">")
			say("250 ok")
		case "DATA":
			if say("354 go"); broken != nil {
				return nil
			}
			for line != ".\r\n" && err == nil {
				line, err = in.ReadString('\n')
			}
			if err != nil {
				return nil
			}
			f.mu.Lock()
			f.mails = append(f.mails, from)
			f.mu.Unlock()
			say("250 taken from " + from)
		case "QUIT":
			f.mu.Lock()
			f.quits++
			f.mu.Unlock()
			say("221 bye")
			return nil
		default:
			_, broken = fmt.Fprintf(c, "250 ok\r\n")
		}
	}
	return nil
}

// from returns a mail of a sender of its own.
func from(i int) Mail {
	m := mail()
	m.From = fmt.Sprintf("a%d@x", i)
	return m
}

func TestAtMostMaxConnsSessionsAreOpen(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: 10 * time.Millisecond}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 3 })
		for i := range 20 {
			sent(t, c.Send(t.Context(), from(i)), func(r Receipt) {
				if want := fmt.Sprintf("taken from a%d@x", i); r.Reply != want {
					t.Errorf("got %q, want %q", r.Reply, want)
				}
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			if f.most != 3 || f.sessions != 3 || len(f.mails) != 20 || f.quits != 3 {
				t.Errorf("%d sessions at a time, %d in all, %d mails, %d QUIT; want 3, 3, 20, 3", f.most, f.sessions, len(f.mails), f.quits)
			}
		})
		return n.Script(server, f.serve)
	})
}

func TestAFewMailsOpenAFewSessions(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, nil)
		left := 10
		var next func()
		next = func() {
			if left--; left == 0 {
				c.Close()
				return
			}
			sent(t, c.Send(t.Context(), mail()), nil)
			sent(t, c.Send(t.Context(), mail()), func(Receipt) { l.AfterFunc(time.Second, next) })
		}
		next()
		l.OnExit(func() {
			if f.sessions != 2 || len(f.mails) != 18 {
				t.Errorf("%d sessions and %d mails, want 2 and 18", f.sessions, len(f.mails))
			}
		})
		return n.Script(server, f.serve)
	})
}

func TestASessionEndsAfterMaxMessages(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.MaxMessages = 1, 3 })
		for range 7 {
			sent(t, c.Send(t.Context(), mail()), func(Receipt) {
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			if f.sessions != 3 || f.quits != 3 || f.most != 1 {
				t.Errorf("%d sessions, %d at a time, %d QUIT; want 3, 1, 3", f.sessions, f.most, f.quits)
			}
		})
		return n.Script(server, f.serve)
	})
}

func TestAnIdleSessionEndsWithQUIT(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.IdleTimeout = time.Minute })
		check := func(quits int) func() {
			return func() {
				if f.quits != quits || f.open != 1-quits {
					t.Errorf("%d QUIT and %d connections, want %d and %d", f.quits, f.open, quits, 1-quits)
				}
			}
		}
		sent(t, c.Send(t.Context(), mail()), func(Receipt) {
			l.AfterFunc(59*time.Second, check(0))
			l.AfterFunc(61*time.Second, check(1))
		})
		return n.Script(server, f.serve)
	})
}

func TestMailsBeginNoFasterThanRate(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.Rate = 2 })
		start := time.Now()
		for i := range 10 {
			sent(t, c.Send(t.Context(), from(i)), func(Receipt) {
				d, want := time.Since(start), time.Duration(i)*500*time.Millisecond
				if d < want || d > want+100*time.Millisecond {
					t.Errorf("mail %d after %v, want %v", i, d, want)
				}
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			if f.sessions != 1 {
				t.Errorf("%d sessions, want 1: there is one mail at a time", f.sessions)
			}
		})
		return n.Script(server, f.serve)
	})
}

func TestAMailWaitsForAServerThatComesBack(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.QueueTimeout = time.Minute })
		for i := range 10 {
			sent(t, c.Send(t.Context(), from(i)), func(Receipt) {
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.AfterFunc(20*time.Second, func() {
			if err := n.Script(server, f.serve); err != nil {
				t.Error(err)
			}
		})
		return nil
	})
}

func TestAMailWithoutASessionFailsAfterQueueTimeout(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.QueueTimeout = 10 * time.Second })
		start := time.Now()
		f := fails(t, c.Send(t.Context(), mail()), eventloop.ErrTimeout, os.ErrDeadlineExceeded, eventloop.ErrRefused, syscall.ECONNREFUSED)
		f.Then(func(Receipt, error) {
			if d := time.Since(start); d != 10*time.Second {
				t.Errorf("after %v, want 10s", d)
			}
		})
		return nil
	})
}

// While a callback is slower than the timeout, the server greets, or a session becomes idle.
func TestASlowCallbackDoesNotMakeAMailOverdue(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.QueueTimeout = 1, time.Second })
		for i := range 2 {
			c.Send(t.Context(), from(i)).Then(func(_ Receipt, err error) {
				if err != nil {
					t.Errorf("mail %d: %v", i, err)
				}
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		at := time.Duration(looptest.Rand(t).Int64N(int64(60 * time.Millisecond)))
		l.AfterFunc(at, func() { time.Sleep(2 * time.Second) })
		return n.Script(server, f.serve)
	})
}

func TestASlowCallbackDelaysTheTimeoutOfAMailOnlyShortly(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.QueueTimeout = time.Second })
		start := time.Now()
		fails(t, c.Send(t.Context(), mail()), eventloop.ErrTimeout, eventloop.ErrRefused).Then(func(Receipt, error) {
			if d := time.Since(start); d < 2*time.Second || d > 2100*time.Millisecond {
				t.Errorf("after %v, want 2s and a short wait", d)
			}
		})
		l.AfterFunc(500*time.Millisecond, func() { time.Sleep(1500 * time.Millisecond) })
		return nil
	})
}

// The server permits fewer connections than the client wants.
func TestAFailureToConnectIsNoFailureWhileThereAreOtherSessions(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: 100 * time.Millisecond}
		var mu sync.Mutex
		connections := 0
		limit := looptest.Step(func(c net.Conn, in *bufio.Reader) error {
			mu.Lock()
			connections++
			ok := connections%3 == 1
			mu.Unlock()
			if !ok {
				time.Sleep(time.Second)
				fmt.Fprint(c, "554 5.7.0 one connection is enough\r\n")
				return nil
			}
			return f.serve(c, in)
		})
		c := newClient(t, l, n, nil)
		for i := range 30 {
			sent(t, c.Send(t.Context(), from(i)), func(Receipt) {
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		return n.Script(server, limit)
	})
}

func TestAPermanentFailureToConnectFailsAllMailsThatWait(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
		for i := range 3 {
			failsWith(t, c.Send(t.Context(), from(i)), Error{Code: 554, Enhanced: "5.7.1", Text: "go away"})
		}
		l.AfterFunc(time.Hour, func() { sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() }) })
		return n.Script(server, perConnection(reply("554 5.7.1 go away"), steps(greet("PIPELINING"), accept(), bye))...)
	})
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	l := eventloop.New(nil)
	ok := Options{Addr: "mail.example:25"}
	for name, change := range map[string]func(o *Options){
		"no address":              func(o *Options) { o.Addr = "" },
		"no port":                 func(o *Options) { o.Addr = "mail.example" },
		"no host":                 func(o *Options) { o.Addr = ":25" },
		"unknown network":         func(o *Options) { o.Network = "udp" },
		"no path":                 func(o *Options) { o.Network, o.Addr = "unix", "" },
		"unknown security":        func(o *Options) { o.Security = NoTLS + 1 },
		"an injection by name":    func(o *Options) { o.LocalName = "x\r\nQUIT" },
		"a name with a space":     func(o *Options) { o.LocalName = "a b" },
		"negative MaxConns":       func(o *Options) { o.MaxConns = -1 },
		"negative MaxQueue":       func(o *Options) { o.MaxQueue = -1 },
		"negative MaxReplyBytes":  func(o *Options) { o.MaxReplyBytes = -1 },
		"negative ReplyTimeout":   func(o *Options) { o.ReplyTimeout = -1 },
		"negative ConnectTimeout": func(o *Options) { o.ConnectTimeout = -1 },
		"negative IdleTimeout":    func(o *Options) { o.IdleTimeout = -1 },
		"negative MaxQueueBytes":  func(o *Options) { o.MaxQueueBytes = -1 },
		"negative MinBackoff":     func(o *Options) { o.MinBackoff = -1 },
		"negative MaxBackoff":     func(o *Options) { o.MaxBackoff = -1 },
		"backoff that shrinks":    func(o *Options) { o.MinBackoff, o.MaxBackoff = 2, 1 },
		"negative Rate":           func(o *Options) { o.Rate = -1 },
		"infinite Rate":           func(o *Options) { o.Rate = math.Inf(1) },
		"Rate that is no number":  func(o *Options) { o.Rate = math.NaN() },
		"tiny Rate":               func(o *Options) { o.Rate = 1e-11 },
	} {
		o := ok
		change(&o)
		if _, err := New(l, &o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(nil, &ok); err == nil {
		t.Error("a nil loop: no error")
	}
	for _, o := range []Options{ok, {Addr: ok.Addr, MaxBackoff: 1}, {Addr: ok.Addr, MinBackoff: time.Hour}, {Addr: ok.Addr, Rate: 1e-7}} {
		if _, err := New(l, &o); err != nil {
			t.Error(err)
		}
	}
}

func TestAMailIsCanceledInTheQueue(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: time.Second}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.MaxQueue = 1, 2 })
		sent(t, c.Send(t.Context(), from(0)), nil)
		l.AfterFunc(3500*time.Millisecond, func() { // a session sends the first mail
			ctx, cancel := context.WithCancelCause(t.Context())
			second := fails(t, c.Send(ctx, from(1)), errDisk)
			sent(t, c.Send(t.Context(), from(2)), nil)
			fails(t, c.Send(t.Context(), from(3)), eventloop.ErrBufferFull)
			cancel(errDisk)
			fails(t, second, context.Canceled)
			<-second.Done() // at once: no callback has run since
			sent(t, c.Send(t.Context(), from(4)), func(Receipt) { c.Close() })
			late := fails(t, c.Send(ctx, from(5)), errDisk)
			fails(t, late, context.Canceled)
		})
		l.OnExit(func() {
			if got := strings.Join(f.mails, " "); got != "a0@x a2@x a4@x" {
				t.Errorf("the server has %s", got)
			}
		})
		return n.Script(server, f.serve)
	})
}

var errGivenUp = errors.New("given up")

// With a real loop: only there does a connection that fails at once end before the task
// of its session begins.
func TestAttemptsThatFailAtOnceAreAllCounted(t *testing.T) {
	const attempts = 3000
	var dials atomic.Int32
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		c, err := New(l, &Options{
			Addr: server, Security: NoTLS, MinBackoff: 1, MaxBackoff: 1, QueueTimeout: 5 * time.Minute,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				if dials.Add(1) < attempts {
					return nil, eventloop.ErrRefused
				}
				return nil, ErrNoTLS // which no further attempt can change
			},
		})
		if err != nil {
			return err
		}
		for range 5 {
			fails(t, c.Send(t.Context(), mail()), ErrNoTLS)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
