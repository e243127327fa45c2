package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/looptest"
)

// seeds is in how many orders of events the laws are tested.
const seeds = 100

// law runs f with a client of a fake server, in many orders of events. The network
// splits what it forwards.
func law(t *testing.T, server func() *fake, o redis.Options, f func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake)) {
	t.Helper()
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, time.Millisecond)
		n.Split(40)
		s := serveFake(t, n, server())
		f(t, l, newClient(t, l, n, o), s)
		return nil
	})
}

func newClient(t *testing.T, l *eventloop.Loop, n *looptest.Net, o redis.Options) *redis.Client {
	t.Helper()
	o.Addr = addr
	o.Dial = n.Dialer("client")
	c, err := redis.New(l, &o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func anyServer() *fake { return &fake{} }

// settled counts the results of a future.
func settled[T any](f *eventloop.Future[T], check func(v T, err error)) *int {
	n := new(int)
	f.Then(func(v T, err error) {
		*n++
		check(v, err)
	})
	return n
}

func background() context.Context { return context.Background() }

func TestD1MethodsNeitherBlockNorRunUserCode(t *testing.T) {
	// The server never answers, and the loop does not run: a call that waits for either
	// would hang. 64 goroutines call at the same time.
	synctest.Test(t, func(t *testing.T) {
		l := eventloop.New(nil)
		c, err := redis.New(l, &redis.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, io.ErrUnexpectedEOF
		}})
		if err != nil {
			t.Fatal(err)
		}
		var called atomic.Int32
		var running atomic.Bool
		done := make(chan struct{})
		for range 64 {
			go func() {
				defer func() { done <- struct{}{} }()
				for range 10 {
					c.Get(background(), "k").Then(func(_ string, err error) {
						called.Add(1)
						if !running.Load() || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, eventloop.ErrTimeout) {
							t.Errorf("called with %v, running %v", err, running.Load())
						}
					})
					c.Send("SET", "k", "v")
				}
			}()
		}
		for range 64 {
			<-done
		}
		running.Store(true)
		if err := l.Run(t.Context()); err != nil || called.Load() != 640 {
			t.Errorf("Run returned %v after %d calls, want 640", err, called.Load())
		}
	})
}

func TestD2EveryFutureSettlesOnce(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			switch args[0] {
			case "SILENT":
				return silence, true
			case "DIE":
				return hangUp, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{Timeout: 3 * time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		var counts []*int
		expect := func(what string, f *eventloop.Future[redis.Reply], ok func(r redis.Reply, err error) bool) {
			counts = append(counts, settled(f, func(r redis.Reply, err error) {
				if !ok(r, err) {
					t.Errorf("%s: %v, %v", what, r, err)
				}
			}))
		}
		uncertain := func(_ redis.Reply, err error) bool { return errors.Is(err, redis.ErrUncertain) }
		expect("reply", c.Do(background(), "ECHO", "x"), func(r redis.Reply, err error) bool { return r.String() == `"x"` && err == nil })
		expect("nil", c.Do(background(), "GET", "none"), func(r redis.Reply, err error) bool { return r.IsNil() && err == nil })
		expect("error", c.Do(background(), "NONE"), func(_ redis.Reply, err error) bool {
			e, ok := errors.AsType[*redis.Error](err)
			return ok && e.Code() == "ERR"
		})
		ctx, cancel := context.WithCancelCause(background())
		cause := errors.New("changed my mind")
		expect("cancel", c.Do(ctx, "ECHO", "y"), func(_ redis.Reply, err error) bool { return err == nil || errors.Is(err, cause) })
		l.AfterFunc(time.Millisecond, func() { cancel(cause) })
		l.AfterFunc(time.Second, func() {
			expect("lost", c.Do(background(), "DIE"), uncertain)
			expect("behind it", c.Do(background(), "ECHO", "z"), uncertain)
		})
		l.AfterFunc(2*time.Second, func() {
			expect("overdue", c.Do(background(), "SILENT"), func(_ redis.Reply, err error) bool {
				return errors.Is(err, redis.ErrUncertain) && errors.Is(err, eventloop.ErrTimeout)
			})
		})
		l.AfterFunc(3*time.Second, func() {
			expect("behind it", c.Do(background(), "SILENT"), func(_ redis.Reply, err error) bool {
				return errors.Is(err, redis.ErrUncertain) && !errors.Is(err, eventloop.ErrTimeout)
			})
		})
		l.AfterFunc(10*time.Second, func() {
			expect("before Close", c.Do(background(), "ECHO", "last"), func(r redis.Reply, err error) bool { return err == nil })
			c.Close().Then(func(_ struct{}, err error) {
				if err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			expect("closed", c.Do(background(), "ECHO", "late"), func(_ redis.Reply, err error) bool { return errors.Is(err, net.ErrClosed) })
		})
		l.OnExit(func() {
			if len(counts) != 10 {
				t.Errorf("%d futures, want 10", len(counts))
			}
			for i, n := range counts {
				if *n != 1 {
					t.Errorf("future %d has settled %d times", i, *n)
				}
			}
		})
	})
}

func TestD2TheEndOfTheLoopEndsFutures(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(*peer, []string) (string, bool) { return silence, true }}
	}
	for _, after := range []time.Duration{0, 500 * time.Microsecond, time.Second} {
		looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
			n := looptest.NewNet(t)
			n.Latency(0, time.Millisecond)
			serveFake(t, n, server())
			c := newClient(t, l, n, redis.Options{})
			var futures []*eventloop.Future[redis.Reply]
			for range 3 {
				futures = append(futures, c.Do(background(), "PING"))
			}
			l.AfterFunc(after, l.Stop)
			l.OnExit(func() {
				futures = append(futures, c.Do(background(), "PING"))
				for i, f := range futures {
					if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
						t.Errorf("future %d: %v, want ErrLoopClosed", i, err)
					}
				}
			})
			return nil
		})
	}
}

func TestD3IdleHoldsNothingAndPendingHoldsTheLoop(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			time.Sleep(time.Second)
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		start := time.Now()
		got := 0
		c.Get(background(), "k").Then(func(_ string, err error) {
			got++
			if err != redis.ErrNil {
				t.Errorf("Get: %v", err)
			}
			c.Send("SET", "k", "v") // holds it, too
		})
		l.OnExit(func() {
			took := time.Since(start)
			if got != 1 || took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%d results; the loop ended after %v", got, took)
			}
			if want := []string{"GET k", "SET k v"}; !slices.Equal(s.commandsSeen(), want) {
				t.Errorf("the server got %q", s.commandsSeen())
			}
		})
	})
}

func TestD3AnUnusedClientHoldsNothing(t *testing.T) {
	law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		l.OnExit(func() {
			if n := s.connsSeen(); n != 0 {
				t.Errorf("%d connections", n)
			}
		})
	})
}

func TestD3CloseDrainsAndAbortDoesNot(t *testing.T) {
	for _, abort := range []bool{false, true} {
		law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			const n = 20
			ok, failed := 0, 0
			one := func() {
				c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
					switch {
					case err == nil:
						ok++
					case errors.Is(err, net.ErrClosed):
						failed++
					default:
						t.Error(err)
					}
				})
			}
			for range n {
				one()
			}
			closed := false
			if abort {
				c.Abort()
			} else {
				c.Close().Then(func(_ struct{}, err error) {
					closed = true
					if err != nil || ok != n {
						t.Errorf("Close: %v, after %d replies", err, ok)
					}
				})
			}
			one()
			l.OnExit(func() {
				if abort && failed != n+1 || !abort && (ok != n || failed != 1 || !closed) {
					t.Errorf("abort %v: %d succeeded, %d failed, closed %v", abort, ok, failed, closed)
				}
			})
		})
	}
}

func TestD3CallsAfterTheEndOfAClientFailWithOneError(t *testing.T) {
	// check reports an error that does not say what is closed, of which server.
	check := func(t *testing.T, results *int, what, text string) func(err error) {
		return func(err error) {
			*results++
			op, ok := errors.AsType[*eventloop.OpError](err)
			if !ok || op.Op != redis.OpRedis || op.Addr != addr || !errors.Is(err, net.ErrClosed) || err.Error() != "redis tcp "+addr+": "+text {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	silent := func() *fake {
		return &fake{command: func(_ *peer, args []string) (string, bool) { return silence, args[0] == "SILENT" || args[0] == "BLPOP" }}
	}
	const closed, uncertain = "the client is closed", "the command may have been executed: the client is closed"
	for _, abort := range []bool{false, true} {
		law(t, silent, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			results, want := 0, 0
			expect := func(f *eventloop.Future[redis.Reply], what, text string) {
				want++
				f.Then(func(_ redis.Reply, err error) { check(t, &results, what, text)(err) })
			}
			later := func(when string) {
				expect(c.Do(background(), "ECHO", 1), when, closed)
				expect(c.Do(background(), "BLPOP", "k", 0), "blocking, "+when, closed)
				tx := c.Tx()
				expect(tx.Do(background(), "ECHO", 1), "transaction, "+when, closed)
				tx.Exec(background()).Ignore()
				expect(c.Session().Do(background(), "ECHO", 1), "session, "+when, closed)
				expect(redis.NewScript("return 1").Run(background(), c, nil), "script, "+when, closed)
				want += 4
				check(t, &results, "Send, "+when, closed)(c.Send("ECHO", 1))
				_, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", OnEntry: func(*redis.Delivery) {}})
				check(t, &results, "Consume, "+when, closed)(err)
				c.Subscribe(redis.SubscribeOptions{}).Done().Then(func(_ struct{}, err error) { check(t, &results, "Subscribe, "+when, closed)(err) })
				c.Close().Then(func(_ struct{}, err error) { check(t, &results, "second Close, "+when, closed)(err) })
			}
			session := c.Session()
			session.Do(background(), "ECHO", 1).Then(func(redis.Reply, error) {
				session.Close()
				expect(session.Do(background(), "ECHO", 2), "after Session.Close", "the session is closed")
				expect(c.Do(background(), "BLPOP", "k", 0), "pending", uncertain)
				if abort {
					expect(c.Do(background(), "SILENT"), "pending", uncertain)
				}
				l.AfterFunc(time.Second, func() {
					if abort {
						expect(c.Do(background(), "SILENT"), "in the queue, sent before Abort takes effect", uncertain)
						c.Abort()
					} else {
						c.Close()
					}
					later("at once")
					l.AfterFunc(time.Second, func() { later("later") })
				})
			})
			l.OnExit(func() {
				if results != want {
					t.Errorf("%d results, want %d", results, want)
				}
			})
		})
	}
}

// A command that is canceled before it was sent is not waited for, although there is no
// connection and no timeout.
func TestD3CloseDoesNotWaitForCanceledCommands(t *testing.T) {
	for _, cancelFirst := range []bool{true, false} {
		looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
			c := newClient(t, l, looptest.NewNet(t), redis.Options{Timeout: -1}) // there is no server
			s := c.Session()
			ctx, cancel := context.WithCancel(background())
			c.Get(ctx, "k").Ignore()
			s.Get(ctx, "k").Ignore()
			closed := 0
			l.AfterFunc(time.Second, func() {
				if cancelFirst {
					cancel()
				}
				s.Close()
				c.Close().Then(func(_ struct{}, err error) {
					if closed++; err != nil {
						t.Error(err)
					}
				})
			})
			l.AfterFunc(2*time.Second, cancel)
			l.OnExit(func() {
				if closed != 1 {
					t.Errorf("closed %d times", closed)
				}
			})
			return nil
		})
	}
}

func TestD4CommandsOfOneCallbackLeaveInOneWriteInOrder(t *testing.T) {
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		s := serveFake(t, n, &fake{})
		var writes atomic.Int32
		dial := n.Dialer("client")
		c, err := redis.New(l, &redis.Options{Addr: addr, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := dial(ctx, network, address)
			return &countedConn{nc, &writes}, err
		}})
		if err != nil {
			return err
		}
		const commands = 50
		c.Ping(background()).Then(func(string, error) { // the connection is up
			before := writes.Load()
			last := -1
			for i := range commands {
				c.Do(background(), "ECHO", i).Then(func(r redis.Reply, err error) {
					if n, _ := r.Int(); err != nil || int(n) != i || i != last+1 {
						t.Errorf("reply %v, %v to %d after %d", r, err, i, last)
					}
					if last = i; i == commands-1 {
						if got := writes.Load() - before; got != 1 {
							t.Errorf("%d writes, want 1", got)
						}
					}
				})
			}
		})
		l.OnExit(func() {
			want := []string{"PING"}
			for i := range commands {
				want = append(want, fmt.Sprint("ECHO ", i))
			}
			if !slices.Equal(s.commandsSeen(), want) {
				t.Errorf("the server got %q", s.commandsSeen())
			}
		})
		return nil
	})
}

type countedConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestD5PendingIsBoundedInCountAndBytes(t *testing.T) {
	for _, o := range []redis.Options{{MaxPending: 10}, {MaxPendingBytes: 10 * len("*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n")}} {
		law(t, anyServer, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			ok, full := 0, 0
			ask := func(n int) {
				for range n {
					c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
						switch err {
						case nil:
							ok++
						case eventloop.ErrBufferFull:
							full++
						default:
							t.Error(err)
						}
					})
				}
			}
			ask(15)
			if err := c.Send("ECHO", "x"); err != eventloop.ErrBufferFull {
				t.Errorf("Send: %v", err)
			}
			l.AfterFunc(time.Minute, func() {
				if ok != 10 || full != 5 || len(s.commandsSeen()) != 10 {
					t.Errorf("%d succeeded, %d refused, %d sent", ok, full, len(s.commandsSeen()))
				}
				ask(10) // there is room again
			})
			l.OnExit(func() {
				if ok != 20 || full != 5 {
					t.Errorf("%d succeeded, %d refused", ok, full)
				}
			})
		})
	}
}

func TestD6ACanceledCommandNeverShiftsReplies(t *testing.T) {
	law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		rng := looptest.Rand(t)
		results := 0
		const commands = 60
		for i := range commands {
			ctx, cancel := context.WithCancel(background())
			doomed := rng.IntN(2) == 0
			at := time.Duration(rng.IntN(6000)) * time.Microsecond
			l.AfterFunc(time.Duration(rng.IntN(4))*time.Millisecond, func() {
				c.Do(ctx, "ECHO", i).Then(func(r redis.Reply, err error) {
					results++
					n, _ := r.Int()
					switch {
					case err == nil && n == int64(i):
					case doomed && errors.Is(err, context.Canceled):
					default:
						t.Errorf("command %d, canceled %v: %v, %v", i, doomed, r, err)
					}
				})
			})
			if doomed {
				l.AfterFunc(at, cancel)
			} else {
				l.OnExit(cancel)
			}
		}
		l.OnExit(func() {
			if results != commands || s.connsSeen() != 1 {
				t.Errorf("%d results, %d connections", results, s.connsSeen())
			}
		})
	})
}

// Like those of the HTTP client of the loop.
func TestD6TheErrorOfACanceledCommandMatchesTheContextAndItsCause(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			return silence, args[0] != "ECHO"
		}}
	}
	cause := errors.New("changed my mind")
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		law(t, server, redis.Options{Timeout: -1, MaxBlocking: 1}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			ctx, cancel := context.WithCancelCause(background())
			if end == context.DeadlineExceeded {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeoutCause(ctx, 2*time.Second, cause)
				l.OnExit(stop)
			}
			results := 0
			expect := func(what string, f *eventloop.Future[redis.Reply], sent bool) {
				f.Then(func(_ redis.Reply, err error) {
					results++
					for _, want := range []error{end, cause} {
						if !errors.Is(err, want) {
							t.Errorf("%s: %v, want %v", what, err, want)
						}
					}
					op, ok := errors.AsType[*eventloop.OpError](err)
					if !ok || op.Op != redis.OpRedis || op.Addr != addr {
						t.Errorf("%s: %#v", what, err)
					}
					if errors.Is(err, redis.ErrUncertain) != sent || errors.Is(err, eventloop.ErrTimeout) != (end == context.DeadlineExceeded) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			expect("sent", c.Do(ctx, "SILENT"), true)
			expect("blocking", c.Do(ctx, "BLPOP", "k", 0), true)
			expect("behind the blocking one", c.Do(ctx, "BLPOP", "k", 0), false)
			tx := c.Tx()
			expect("in a transaction", tx.Do(ctx, "GET", "k"), true)
			tx.Exec(ctx).Then(func(_ []redis.Reply, err error) {
				if results++; !errors.Is(err, end) || !errors.Is(err, cause) || !errors.Is(err, redis.ErrUncertain) {
					t.Errorf("transaction: %v", err)
				}
			})
			script := redis.NewScript("return 1")
			expect("script", script.Run(ctx, c, nil), true)
			l.AfterFunc(2*time.Second+1, func() {
				expect("in the queue, or too late", c.Do(ctx, "ECHO", 1), false)
				cancel(cause)
				expect("too late", c.Do(ctx, "ECHO", 2), false)
				expect("blocking, too late", c.Do(ctx, "BLPOP", "k", 0), false)
				l.AfterFunc(time.Second, c.Abort)
			})
			l.OnExit(func() {
				if results != 9 {
					t.Errorf("%d results, want 9", results)
				}
			})
		})
	}
}

func TestD6ACommandThatIsCanceledInTheQueueIsNeverSent(t *testing.T) {
	law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		ctx, cancel := context.WithCancel(background())
		c.Do(background(), "ECHO", "first").Then(nil)
		n := settled(c.Do(ctx, "SET", "k", "v"), func(_ redis.Reply, err error) {
			if !errors.Is(err, context.Canceled) || errors.Is(err, redis.ErrUncertain) {
				t.Errorf("canceled in the queue: %v", err)
			}
		})
		c.Do(background(), "ECHO", "last").Then(nil)
		cancel()
		ended, end := context.WithCancel(background())
		end()
		m := settled(c.Do(ended, "SET", "k", "v"), func(_ redis.Reply, err error) {
			if !errors.Is(err, context.Canceled) || errors.Is(err, redis.ErrUncertain) {
				t.Errorf("canceled before: %v", err)
			}
		})
		l.OnExit(func() {
			if want := []string{"ECHO first", "ECHO last"}; *n != 1 || *m != 1 || !slices.Equal(s.commandsSeen(), want) {
				t.Errorf("%d and %d results, the server got %q", *n, *m, s.commandsSeen())
			}
		})
	})
}

func TestD7WhatMayHaveBeenExecutedIsNeverRepeated(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if p.number == 1 && p.count == 3 {
				p.execute(args) // executed, and not answered
				return hangUp, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		var results []string
		incr := func() {
			redis.Do[int64](background(), c, "INCR", "n").Then(func(n int64, err error) {
				if errors.Is(err, redis.ErrUncertain) {
					results = append(results, "uncertain")
				} else {
					results = append(results, fmt.Sprint(n, err))
				}
			})
		}
		for range 5 {
			incr()
		}
		l.AfterFunc(time.Minute, incr)
		l.OnExit(func() {
			want := []string{"1 <nil>", "2 <nil>", "uncertain", "uncertain", "uncertain", "4 <nil>"}
			if !slices.Equal(results, want) || len(s.commandsSeen()) != 4 {
				t.Errorf("results %q, the server got %q", results, s.commandsSeen())
			}
		})
	})
}

func TestD8TheHandshakeIsCompleteBeforeTheQueueMoves(t *testing.T) {
	var s *fake
	server := func() *fake {
		s = &fake{hello: func(p *peer, args []string) string {
			if want := "HELLO 3 AUTH me secret SETNAME tester"; strings.Join(args, " ") != want {
				p.t.Errorf("got %q, want %q", args, want)
			}
			return "%1\r\n+proto\r\n:3\r\n"
		}, command: func(p *peer, args []string) (string, bool) {
			if args[0] == "SELECT" {
				p.store["db"] += args[1]
				return "+OK\r\n", true
			}
			if p.store["db"] != strings.Repeat("7", p.number) {
				p.t.Errorf("%q on connection %d in database %q", args, p.number, p.store["db"])
			}
			if args[0] == "DIE" {
				return hangUp, true
			}
			return "", false
		}}
		return s
	}
	o := redis.Options{Username: "me", Password: "secret", Name: "tester", DB: 7}
	law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		results := 0
		for i := range 4 {
			l.AfterFunc(time.Duration(i)*time.Second, func() {
				c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
					if results++; err != nil {
						t.Error(err)
					}
					c.Do(background(), "DIE").Ignore()
				})
			})
		}
		l.OnExit(func() {
			if results != 4 || s.connsSeen() != 4 {
				t.Errorf("%d results, %d connections", results, s.connsSeen())
			}
		})
	})
}

func TestD8OnlyWhatWasNeverWrittenSurvivesALostConnection(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "DIE" {
				return hangUp, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{MinBackoff: time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		var order []string
		note := func(what string) func(redis.Reply, error) {
			return func(_ redis.Reply, err error) {
				order = append(order, fmt.Sprintf("%s %v", what, err != nil && errors.Is(err, redis.ErrUncertain)))
			}
		}
		c.Do(background(), "DIE").Then(func(_ redis.Reply, err error) {
			note("die")(redis.Reply{}, err)
			// The connection is down. These wait for the next.
			c.Do(background(), "ECHO", 1).Then(note("one"))
			c.Do(background(), "ECHO", 2).Then(note("two"))
		})
		l.OnExit(func() {
			if want := []string{"die true", "one false", "two false"}; !slices.Equal(order, want) || s.connsSeen() != 2 {
				t.Errorf("got %q on %d connections", order, s.connsSeen())
			}
		})
	})
}

func TestD8ReconnectingBacksOffWithJitter(t *testing.T) {
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		var attempts []time.Time
		c, err := redis.New(l, &redis.Options{
			Timeout: time.Minute, MinBackoff: time.Second, MaxBackoff: 4 * time.Second,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				attempts = append(attempts, time.Now())
				return nil, io.ErrUnexpectedEOF
			},
		})
		if err != nil {
			return err
		}
		n := settled(c.Get(background(), "k"), func(_ string, err error) {
			if !errors.Is(err, eventloop.ErrTimeout) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, redis.ErrUncertain) {
				t.Errorf("Get: %v", err)
			}
		})
		l.OnExit(func() {
			if *n != 1 || len(attempts) < 15 {
				t.Fatalf("%d results after %d attempts", *n, len(attempts))
			}
			varies := false
			for i := 1; i < len(attempts); i++ {
				most := min(time.Second<<(i-1), 4*time.Second)
				d := attempts[i].Sub(attempts[i-1])
				if d < most/2 || d > most+time.Millisecond {
					t.Errorf("attempt %d after %v, want %v to %v", i, d, most/2, most)
				}
				varies = varies || d != most
			}
			if !varies {
				t.Error("no jitter")
			}
		})
		return nil
	})
}

func TestD8BackoffBeginsAnewAfterAReplyAndNotAfterAHandshake(t *testing.T) {
	var replies bool // whether the server answers before it hangs up
	server := func() *fake {
		replies = false
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "DIE" || !replies {
				return hangUp, true
			}
			return "", false
		}}
	}
	o := redis.Options{MinBackoff: time.Second, MaxBackoff: time.Hour, Timeout: -1}
	law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		var took []time.Duration // from the loss of a connection to that of the next
		last := time.Now()
		var die func()
		die = func() {
			c.Do(background(), "DIE").Then(func(redis.Reply, error) {
				took = append(took, time.Since(last).Round(time.Second/2))
				last = time.Now()
				switch len(took) {
				case 5:
					replies = true
					c.Do(background(), "ECHO", "x").Then(func(redis.Reply, error) { last = time.Now() })
					die()
				case 8:
				default:
					die()
				}
			})
		}
		die()
		l.OnExit(func() {
			for i, most := range []time.Duration{0, 1, 2, 4, 8, 0, 1, 2} {
				if most *= time.Second; took[i] < most/2 || took[i] > most {
					t.Errorf("took %v", took)
				}
			}
		})
	})
}

func TestD9GarbageAndOversizeEndTheConnectionAndNotTheLoop(t *testing.T) {
	for _, tt := range []struct {
		reply string
		want  error
	}{
		{"HTTP/1.1 400 Bad Request\r\n\r\n", redis.ErrMalformed},
		{"$3\r\nabcdef\r\n", redis.ErrMalformed},
		{"*1\r\n>1\r\n:1\r\n", redis.ErrMalformed},
		{"$536870912\r\n", redis.ErrTooLarge},
		{"*100000000\r\n", redis.ErrTooLarge},
		{"$5000\r\n" + strings.Repeat("x", 5000) + "\r\n", redis.ErrTooLarge},
	} {
		server := func() *fake {
			return &fake{command: func(p *peer, args []string) (string, bool) {
				if p.number == 1 {
					return tt.reply, true
				}
				return "", false
			}}
		}
		law(t, server, redis.Options{MaxReplyBytes: 4096}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			results := 0
			for range 2 {
				c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
					results++
					if !errors.Is(err, tt.want) || !errors.Is(err, redis.ErrUncertain) || !errors.Is(err, eventloop.ErrConn) {
						t.Errorf("%.20q: %v", tt.reply, err)
					}
				})
			}
			l.AfterFunc(time.Minute, func() {
				c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
					if results++; err != nil {
						t.Error(err)
					}
				})
			})
			l.OnExit(func() {
				if results != 3 || s.connsSeen() != 2 {
					t.Errorf("%d results, %d connections", results, s.connsSeen())
				}
			})
		})
	}
}

func TestD9AReplyThatNothingAskedForEndsTheConnection(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if p.number == 1 {
				return "+twice\r\n+twice\r\n", true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		results := 0
		c.Do(background(), "ECHO", "x").Then(func(r redis.Reply, err error) {
			if results++; err != nil || r.String() != "twice" {
				t.Error(r, err)
			}
		})
		l.AfterFunc(time.Minute, func() {
			c.Do(background(), "ECHO", "x").Then(func(r redis.Reply, err error) {
				if results++; err != nil || r.String() != `"x"` {
					t.Error(r, err)
				}
			})
		})
		l.OnExit(func() {
			if results != 2 || s.connsSeen() != 2 {
				t.Errorf("%d results, %d connections", results, s.connsSeen())
			}
		})
	})
}

// What arrives behind the replies to the handshake, before any command has left, is not
// taken for the replies to the commands that wait.
func TestD9WhatArrivesBehindTheHandshakeIsNoReply(t *testing.T) {
	server := func() *fake {
		return &fake{hello: func(p *peer, _ []string) string {
			hello := "%1\r\n+proto\r\n:3\r\n"
			if p.number == 1 {
				hello += "+injected\r\n"
			}
			return hello
		}}
	}
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error { // nothing is split
		n := looptest.NewNet(t)
		s := serveFake(t, n, server())
		c := newClient(t, l, n, redis.Options{})
		results := 0
		c.Do(background(), "ECHO", "x").Then(func(r redis.Reply, err error) {
			if results++; err != nil || r.String() != `"x"` {
				t.Error(r, err)
			}
		})
		l.OnExit(func() {
			if results != 1 || s.connsSeen() != 2 {
				t.Errorf("%d results, %d connections", results, s.connsSeen())
			}
		})
		return nil
	})
}

// D10 is checked after every test of this package: bubbles find goroutines that are
// left, and TestMain those outside of bubbles.

func TestD11HandlesSayKindAddressAndPending(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(*peer, []string) (string, bool) { return silence, true }}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		shown := func() string {
			for h := range l.Handles() {
				if h.Kind == "redis" {
					return fmt.Sprintf("%s, ref %v", h.Name, h.Ref)
				}
			}
			return "nothing"
		}
		if got, want := shown(), addr+", ref false"; got != want {
			t.Errorf("idle: %q, want %q", got, want)
		}
		for range 3 {
			c.Do(background(), "ECHO", "x").Ignore()
		}
		if got, want := shown(), addr+", 3 pending, ref true"; got != want {
			t.Errorf("pending: %q, want %q", got, want)
		}
		l.AfterFunc(time.Second, func() {
			if got, want := shown(), addr+", 3 pending, ref true"; got != want {
				t.Errorf("sent: %q, want %q", got, want)
			}
			c.Close()
			c.Abort()
		})
		l.AfterFunc(2*time.Second, func() {
			if got := shown(); got != "nothing" {
				t.Errorf("closed: %q", got)
			}
		})
	})
}

func TestD12TheClientWorksInABubbleOverNetPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fake{t: t, store: make(map[string]string)}
		start := time.Now()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := redis.New(l, &redis.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				go func() {
					defer b.Close()
					s.serve(b, bufio.NewReader(b))
				}()
				return a, nil
			}})
			if err != nil {
				return err
			}
			l.Go(t.Context(), func(task *eventloop.Task) error {
				if _, err := c.Do(task.Context(), "SET", "k", "v").Await(task); err != nil {
					return err
				}
				task.Sleep(time.Hour)
				v, err := c.Get(task.Context(), "k").Await(task)
				if v != "v" {
					t.Errorf("got %q, %v", v, err)
				}
				return err
			}).Then(func(_ struct{}, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			return nil
		})
		if took := time.Since(start); err != nil || took < time.Hour || took > time.Hour+time.Minute {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

// A client that is made while the loop ends is refused, or ends with it.
func TestD2AClientMayBeMadeWhileTheLoopEnds(t *testing.T) {
	for range 60 {
		l := eventloop.New(nil)
		var makers sync.WaitGroup
		for range 2 {
			makers.Go(func() {
				for {
					c, err := redis.New(l, nil)
					if err == eventloop.ErrLoopClosed {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					c.Ping(background()).Ignore()
				}
			})
		}
		l.AfterFunc(100*time.Microsecond, l.Stop)
		if err := l.Run(t.Context()); err != nil {
			t.Error(err)
		}
		makers.Wait()
	}
}
