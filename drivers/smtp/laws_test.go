package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// The rules that all drivers of eventloop keep, D1 to D12.

func TestD1SendNeverRunsCodeOfTheApplicationAndMayBeCalledFromAnyGoroutine(t *testing.T) {
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		f := &fakeServer{}
		var calls atomic.Int32
		c := newClient(t, l, n, nil)
		const goroutines, mails = 8, 20
		var body writerToFunc = func(w io.Writer) (int64, error) {
			calls.Add(1)
			n, err := io.WriteString(w, "x")
			return int64(n), err
		}
		first := c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: body})
		if calls.Load() > 0 {
			t.Error("Send called WriteTo")
		}
		sent(t, first, nil)
		var wg sync.WaitGroup
		fs := make(chan *eventloop.Future[Receipt], goroutines*mails)
		for range goroutines {
			wg.Go(func() {
				for range mails {
					fs <- c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: body})
					c.Pending()
				}
			})
		}
		eventloop.Work(t.Context(), l, func(context.Context) (int, error) { wg.Wait(); return 0, nil }).Then(func(int, error) {
			close(fs)
			for f := range fs {
				sent(t, f, func(Receipt) {
					if c.Pending() == 0 {
						c.Close()
					}
				})
			}
		})
		l.OnExit(func() {
			if len(f.mails) != 1+goroutines*mails {
				t.Errorf("the server has %d mails", len(f.mails))
			}
		})
		return n.Script(server, f.serve)
	})
}

type writerToFunc func(w io.Writer) (int64, error)

func (f writerToFunc) WriteTo(w io.Writer) (int64, error) { return f(w) }

// The other tests have each of these ends by itself; here they come at any moment.
func TestD2EveryFutureSettlesExactlyOnce(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop, n *looptest.Net, c *Client, cancel func()){
		"reply":            func(*eventloop.Loop, *looptest.Net, *Client, func()) {},
		"cancel":           func(_ *eventloop.Loop, _ *looptest.Net, _ *Client, cancel func()) { cancel() },
		"close":            func(_ *eventloop.Loop, _ *looptest.Net, c *Client, _ func()) { c.Close() },
		"abort":            func(_ *eventloop.Loop, _ *looptest.Net, c *Client, _ func()) { c.Abort() },
		"close and abort":  func(_ *eventloop.Loop, _ *looptest.Net, c *Client, _ func()) { c.Close().Ignore(); c.Abort() },
		"cancel and abort": func(_ *eventloop.Loop, _ *looptest.Net, c *Client, cancel func()) { cancel(); c.Abort() },
		"crash":            func(_ *eventloop.Loop, n *looptest.Net, _ *Client, _ func()) { n.Crash("mail.example") },
		"cut":              func(_ *eventloop.Loop, n *looptest.Net, _ *Client, _ func()) { n.Cut("client", "mail.example") },
		"stop":             func(l *eventloop.Loop, _ *looptest.Net, _ *Client, _ func()) { l.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				f := &fakeServer{delay: 5 * time.Millisecond}
				c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.ReplyTimeout = 3, time.Minute })
				ctx, cancel := context.WithCancel(t.Context())
				const mails = 12
				var fs []*eventloop.Future[Receipt]
				calls := make([]int, mails)
				for i := range mails {
					sendCtx := ctx
					if i%2 == 1 && name == "cancel and abort" {
						sendCtx = t.Context()
					}
					f := c.Send(sendCtx, from(i))
					f.Then(func(Receipt, error) {
						calls[i]++
						if c.Pending() == 0 {
							c.Close().Ignore()
						}
					})
					fs = append(fs, f)
				}
				l.AfterFunc(time.Duration(looptest.Rand(t).IntN(100))*time.Millisecond, func() { end(l, n, c, cancel) })
				l.OnExit(func() {
					cancel()
					for i, f := range fs {
						_, err := f.Result()
						if err == eventloop.ErrPending || calls[i] > 1 || calls[i] == 0 && name != "stop" {
							t.Errorf("mail %d: %d calls, %v", i, calls[i], err)
						}
					}
					if n := c.Pending(); n != 0 && name != "stop" {
						t.Errorf("%d mails are pending", n)
					}
				})
				return n.Script(server, f.serve)
			})
		})
	}
}

func TestD3AnIdleClientHoldsNothing(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		start := time.Now()
		c := newClient(t, l, n, nil)
		sent(t, c.Send(t.Context(), mail()), nil) // and the loop ends by itself
		l.OnExit(func() {
			if d := time.Since(start); d > time.Second {
				t.Errorf("the loop ended after %v", d)
			}
			if len(f.mails) != 1 {
				t.Error("the pending mail did not hold the loop")
			}
		})
		return n.Script(server, f.serve)
	})
}

// The mail is given up while the client connects, or while it waits for the server.
func TestD3AClientWhoseMailsAreGivenUpHoldsNothing(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		start := time.Now()
		c := newClient(t, l, n, nil)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(looptest.Rand(t).IntN(30))*time.Millisecond, errGivenUp)
		fails(t, c.Send(ctx, mail()), errGivenUp)
		l.OnExit(func() {
			cancel()
			if d := time.Since(start); d > time.Second {
				t.Errorf("the loop ended after %v", d)
			}
		})
		return n.Script(server, drain)
	})
}

func TestD3CloseSendsWhatIsPendingAndAbortDoesNot(t *testing.T) {
	for _, abort := range []bool{false, true} {
		protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
			f := &fakeServer{delay: 10 * time.Millisecond}
			c := newClient(t, l, n, func(o *Options) { o.MaxConns = 2 })
			for i := range 10 {
				f := c.Send(t.Context(), from(i))
				if abort {
					fails(t, f, net.ErrClosed)
				} else {
					sent(t, f, nil)
				}
			}
			closed := 0
			if abort {
				c.Abort()
			} else {
				c.Close().Then(func(_ struct{}, err error) {
					closed++
					if err != nil || c.Pending() != 0 || f.quits != 2 {
						t.Errorf("closed with %v, %d pending, %d QUIT", err, c.Pending(), f.quits)
					}
				})
			}
			c.Send(t.Context(), mail()).Then(func(_ Receipt, err error) {
				if !isClosed(err) {
					t.Errorf("a mail after the end: %v", err)
				}
			})
			c.Close().Then(func(_ struct{}, err error) {
				if !isClosed(err) {
					t.Errorf("a second Close: %v", err)
				}
			})
			l.OnExit(func() {
				if want := 10 * b2i(!abort); len(f.mails) != want || closed != b2i(!abort) {
					t.Errorf("the server has %d mails, want %d", len(f.mails), want)
				}
			})
			return n.Script(server, f.serve)
		})
	}
}

func TestD4MailsBeginInOrderAndTheCommandsOfOneLeaveInOneWrite(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		var k counter
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.Dial = 1, k.dialer(o.Dial) })
		var want []string
		const mails = 10
		for i := range mails {
			m := from(i)
			m.To = []string{"b@y", "c@y", "d@y"}
			want = append(want, m.From)
			sent(t, c.Send(t.Context(), m), func(Receipt) {
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			if fmt.Sprint(f.mails) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", f.mails, want)
			}
			if writes := k.writes(); writes != 1+1+mails+1 {
				t.Errorf("%d writes, want EHLO, the first envelope, one per mail, and QUIT", writes)
			}
		})
		return n.Script(server, f.serve)
	})
}

func TestD5WhatIsPendingIsBounded(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, func(o *Options) { o.MaxQueue, o.MaxQueueBytes, o.MaxConns = 5, 100, 1 })
		large := mail()
		large.Body = make([]byte, 51)
		sent(t, c.Send(t.Context(), large), nil)
		fails(t, c.Send(t.Context(), large), eventloop.ErrBufferFull) // 102 bytes
		for i := range 4 {
			m := from(i)
			m.Body = []byte("x")
			sent(t, c.Send(t.Context(), m), nil)
		}
		fails(t, c.Send(t.Context(), from(9)), eventloop.ErrBufferFull) // the sixth
		if n := c.Pending(); n != 5 {
			t.Errorf("%d mails are pending, want 5", n)
		}
		c.Close()
		return n.Script(server, f.serve)
	})
}

// isClosed reports whether err is that of a call to a client that is closed.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) && err.Error() == "send mail tcp "+server+": the client is closed"
}

func TestD6ACanceledMailFailsAtOnceAndNeverShiftsTheRepliesOfOthers(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: 5 * time.Millisecond}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
		ctx, cancel := context.WithCancelCause(t.Context())
		for i := range 6 {
			canceled := i%2 == 1
			sendCtx := t.Context()
			if canceled {
				sendCtx = ctx
			}
			c.Send(sendCtx, from(i)).Then(func(r Receipt, err error) {
				want := fmt.Sprintf("taken from a%d@x", i)
				switch {
				case err == nil && r.Reply != want:
					t.Errorf("got %q, want %q", r.Reply, want)
				case err != nil && !(canceled && errors.Is(err, errGivenUp) && errors.Is(err, context.Canceled)):
					t.Errorf("mail %d: %v", i, err)
				}
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.AfterFunc(time.Duration(looptest.Rand(t).IntN(150))*time.Millisecond, func() {
			cancel(errGivenUp)
		})
		return n.Script(server, f.serve)
	})
}

func TestD7AMailThatMayHaveBeenDeliveredIsNeverSentAgain(t *testing.T) {
	end := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), hi)
	again := step("again", func(net.Conn, *bufio.Reader) error { return errors.New("a second connection") })
	for name, script := range map[string][]looptest.Step{
		"lost":         end,
		"reset":        steps(end, []looptest.Step{func(c net.Conn, _ *bufio.Reader) error { return c.(interface{ SetLinger(int) error }).SetLinger(0) }}),
		"half a reply": steps(end, []looptest.Step{looptest.Reply("250 2.0.0 que")}),
		"no answer":    steps(end, []looptest.Step{drain}),
		"garbage":      steps(end, reply("354 go"), []looptest.Step{drain}),
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, nil)
				fails(t, c.Send(t.Context(), mail()), ErrUncertain).Then(func(Receipt, error) { c.Close() })
				return n.Script(server, perConnection(script, again)...)
			})
		})
	}
	for name, giveUp := range map[string]func(c *Client, cancel func()){
		"canceled": func(_ *Client, cancel func()) { cancel() },
		"aborted":  func(c *Client, _ func()) { c.Abort() },
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				f := fails(t, c.Send(ctx, mail()), ErrUncertain)
				if name == "canceled" {
					fails(t, f, errGivenUp)
					fails(t, f, context.Canceled)
				} else {
					fails(t, f, net.ErrClosed)
				}
				f.Then(func(Receipt, error) { c.Close().Ignore() })
				l.AfterFunc(time.Minute, func() { giveUp(c, func() { cancel(errGivenUp) }) })
				return n.Script(server, perConnection(steps(end, []looptest.Step{drain}), again)...)
			})
		})
	}
}

func TestD8AttemptsToConnectBackOff(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		var mu sync.Mutex
		var dials []time.Time
		dial := n.Dialer("client")
		c := newClient(t, l, n, func(o *Options) {
			o.QueueTimeout, o.MinBackoff, o.MaxBackoff = 5*time.Minute, time.Second, 20*time.Second
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				dials = append(dials, time.Now())
				mu.Unlock()
				return dial(ctx, network, addr)
			}
		})
		for i := range 20 {
			fails(t, c.Send(t.Context(), from(i)), eventloop.ErrTimeout, eventloop.ErrRefused)
		}
		l.OnExit(func() {
			// At first a session for each of 5 mails, then one attempt at a time.
			if len(dials) < 15 {
				t.Errorf("%d attempts in 5 minutes", len(dials))
			}
			wait := 16 * time.Second // after 5 failures
			for i := 5; i < len(dials); i++ {
				d := dials[i].Sub(dials[i-1])
				if d < wait/2 || d > wait+100*time.Millisecond {
					t.Errorf("attempt %d after %v, want %v to %v", i, d, wait/2, wait)
				}
				wait = 20 * time.Second
			}
		})
		return nil
	})
}

func TestD8AMailGoesOutAfterTheHandshake(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.Auth, o.PlaintextAuth, o.MaxConns = Plain("u", "p"), true, 1 })
		sent(t, c.Send(t.Context(), mail()), func(Receipt) {
			sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		})
		session := steps(greet("PIPELINING", "AUTH PLAIN"), say("AUTH PLAIN AHUAcA==", "235 ok"), accept())
		return n.Script(server, perConnection(session, reply("421 not yet"), steps(session, bye))...)
	})
}

func TestD9GarbageEndsOneConnectionAndNotTheOthers(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: time.Millisecond}
		c := newClient(t, l, n, nil)
		bad := 0
		for i := range 10 {
			c.Send(t.Context(), from(i)).Then(func(_ Receipt, err error) {
				if err != nil {
					bad++
					if !errors.Is(err, ErrMalformed) {
						t.Error(err)
					}
				}
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			if bad != 1 || len(f.mails) != 9 {
				t.Errorf("%d mails failed and %d arrived, want 1 and 9", bad, len(f.mails))
			}
		})
		garbage := steps(greet("PIPELINING"), expect("MAIL *"), reply("\x00\x01\x02"), []looptest.Step{drain})
		return n.Script(server, perConnection(garbage, []looptest.Step{f.serve})...)
	})
}

// D10, that nothing is left after Run, is checked by looptest in every test here.

func TestD12TheClientWorksOverNetPipeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{delay: time.Second}
		var wg sync.WaitGroup
		start := time.Now()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := New(l, &Options{Addr: server, Security: NoTLS, Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				wg.Go(func() { f.serve(theirs, bufio.NewReader(theirs)); theirs.Close() })
				return ours, nil
			}})
			if err != nil {
				return err
			}
			for i := range 3 {
				sent(t, c.Send(t.Context(), from(i)), nil)
			}
			c.Close()
			return nil
		})
		wg.Wait()
		if err != nil || len(f.mails) != 3 {
			t.Errorf("%v, %d mails", err, len(f.mails))
		}
		if d := time.Since(start); d < 5*time.Second || d > 10*time.Second {
			t.Errorf("it took %v of virtual time", d)
		}
	})
}

func TestTheLocalNameComesFromTheConnection(t *testing.T) {
	for addr, want := range map[net.Addr]string{
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5}:          "[192.0.2.1]",
		&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 5}:      "[IPv6:2001:db8::1]",
		&net.UnixAddr{Name: "/run/x", Net: "unix"}:                 "localhost",
		&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}:     "[IPv6:fe80::1]",
		&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 5}: "[192.0.2.1]",
	} {
		if got := literalOf(addr); got != want {
			t.Errorf("%v: got %s, want %s", addr, got, want)
		}
	}
}

func TestD11HandlesSaysKindAddressAndPending(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{}
		c := newClient(t, l, n, nil)
		check := func(name string, ref bool) {
			for h := range l.Handles() {
				if h.Kind == "smtp" && (h.Name != name || h.Ref != ref) {
					t.Errorf("got %v, want %q, ref %v", h, name, ref)
				}
			}
		}
		check(server, false)
		sent(t, c.Send(t.Context(), mail()), nil)
		sent(t, c.Send(t.Context(), mail()), func(Receipt) {
			if c.Pending() > 0 {
				return
			}
			check(server, false)
			c.Close().Then(func(struct{}, error) {
				for h := range l.Handles() {
					if h.Kind == "smtp" {
						t.Errorf("a closed client is shown: %v", h)
					}
				}
				if _, err := c.Send(t.Context(), mail()).Result(); !isClosed(err) {
					t.Errorf("a mail after Close: %v", err)
				}
			})
		})
		check(server+", 2 pending", true)
		return n.Script(server, f.serve)
	})
}

func TestShutdownSendsWhatIsPendingAndEndsSessionsWithQUIT(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		f := &fakeServer{delay: 10 * time.Millisecond}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 2 })
		for i := range 6 {
			sent(t, c.Send(t.Context(), from(i)), nil)
		}
		release := l.Hold()
		l.AfterFunc(time.Duration(looptest.Rand(t).IntN(300))*time.Millisecond, func() {
			l.Shutdown(time.Minute)
			release()
		})
		l.OnExit(func() {
			if len(f.mails) != 6 || f.quits != f.sessions {
				t.Errorf("%d mails, %d sessions, %d QUIT", len(f.mails), f.sessions, f.quits)
			}
		})
		return n.Script(server, f.serve)
	})
}
