package beanstalk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"github.com/onloop/eventloop/looptest"
)

func wantErr(t testing.TB, what string, got error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(got, w) {
			t.Errorf("%s = %v, want %v", what, got, w)
		}
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

var bg = context.Background()

func silent() *eventloop.Config {
	return &eventloop.Config{Logger: slog.New(slog.DiscardHandler)}
}

func TestD1MethodsMayBeCalledFromAnyGoroutineAndNeverBlock(t *testing.T) {
	s := &script{}
	virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		var mu sync.Mutex
		var all []*eventloop.Future[struct{}]
		var started sync.WaitGroup
		for g := range 8 {
			started.Go(func() {
				for i := range 50 {
					f := c.Delete(bg, uint64(100*g+i))
					mu.Lock()
					all = append(all, f)
					mu.Unlock()
				}
			})
		}
		started.Wait()
		for _, f := range all {
			if _, err := f.Await(k); err != nil {
				return err
			}
		}
		equal(t, "commands", len(s.got()), 400)
		return nil
	})
}

func TestD2EveryFutureGetsAResultHoweverTheServerBehaves(t *testing.T) {
	for name, serve := range map[string]func(nc net.Conn){
		"silent":           func(nc net.Conn) { io.Copy(io.Discard, nc) },
		"closes at once":   func(nc net.Conn) {},
		"closes after one": func(nc net.Conn) { commands(nc, func(string, string) string { return "quit" }) },
		"garbage":          func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n"); io.Copy(io.Discard, nc) },
		"half a reply":     func(nc net.Conn) { io.WriteString(nc, "DELE"); io.Copy(io.Discard, nc) },
		"half a body":      func(nc net.Conn) { io.WriteString(nc, "FOUND 1 100\r\nx"); io.Copy(io.Discard, nc) },
		"another reply":    func(nc net.Conn) { commands(nc, func(string, string) string { return "WATCHING 1" }) },
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
				results := 0
				for i := range 10 {
					c.Put(bg, fmt.Sprint("tube", i%2), []byte("body"), beanstalk.PutOptions{}).Then(func(_ uint64, err error) {
						results++
						if err == nil {
							t.Error("a Put succeeded")
						}
					})
					c.Peek(bg, 1).Then(func(_ beanstalk.Peeked, err error) {
						results++
						if err == nil {
							t.Error("a Peek succeeded")
						}
					})
				}
				k.Sleep(20 * time.Second)
				equal(t, "results", results, 20)
				return nil
			})
		})
	}
}

func TestD2TheEndsOfTheClientAndOfTheLoopFailPendingCommands(t *testing.T) {
	for name, end := range map[string]struct {
		end  func(c *beanstalk.Client)
		want error
	}{
		"Abort": {func(c *beanstalk.Client) { c.Abort() }, net.ErrClosed},
		"Stop":  {func(c *beanstalk.Client) { c.Loop().Stop() }, eventloop.ErrLoopClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all []*eventloop.Future[uint64]
				eventloop.Run(t.Context(), silent(), func(l *eventloop.Loop) error {
					c, err := beanstalk.New(l, served(nil, func(nc net.Conn) { io.Copy(io.Discard, nc) }))
					if err != nil {
						return err
					}
					put := func() {
						f := c.Put(bg, "a", nil, beanstalk.PutOptions{})
						f.Ignore()
						all = append(all, f)
					}
					put()
					l.AfterFunc(time.Second, func() { put(); end.end(c); put() })
					return nil
				})
				for i, f := range all {
					_, err := f.Result()
					wantErr(t, fmt.Sprint("result ", i), err, end.want)
				}
				if _, err := all[0].Result(); name == "Abort" {
					wantErr(t, "result of the command that was sent", err, beanstalk.ErrUncertain)
				}
				if _, err := all[2].Result(); errors.Is(err, beanstalk.ErrUncertain) {
					t.Errorf("the command that was not sent failed with %v", err)
				}
			})
		})
	}
}

func TestD3AnIdleClientDoesNotKeepTheLoopAliveAndAPendingCommandDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answered := false
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := beanstalk.New(l, served(nil, func(nc net.Conn) {
				commands(nc, func(string, string) string { time.Sleep(time.Second); return "DELETED" })
			}))
			if err != nil {
				return err
			}
			c.Delete(bg, 1).Then(func(struct{}, error) { answered = true })
			return nil
		})
		equal(t, "Run", err, nil)
		equal(t, "answered", answered, true)
		equal(t, "time", time.Since(began), time.Second)
	})
}

func TestD3CloseWaitsForPendingCommands(t *testing.T) {
	slow := func(nc net.Conn) {
		commands(nc, func(string, string) string { time.Sleep(time.Second); return "DELETED" })
	}
	virtually(t, nil, slow, func(k *eventloop.Task, c *beanstalk.Client) error {
		results := 0
		for range 3 {
			c.Delete(bg, 1).Then(func(_ struct{}, err error) {
				equal(t, "error", err, nil)
				results++
			})
		}
		_, err := c.Close().Await(k)
		equal(t, "error of Close", err, nil)
		equal(t, "results", results, 3)
		_, err = c.Delete(bg, 1).Await(k)
		wantClosed(t, "error after Close", err)
		_, err = c.Close().Await(k)
		wantClosed(t, "error of the second Close", err)
		_, err = c.Consume(beanstalk.ConsumeOptions{OnJob: func(*beanstalk.Job) {}})
		wantClosed(t, "error of Consume", err)
		return nil
	})
}

// wantClosed checks the error of a call to a client that is closed.
func wantClosed(t testing.TB, what string, err error) {
	t.Helper()
	wantErr(t, what, err, net.ErrClosed)
	op, ok := errors.AsType[*eventloop.OpError](err)
	if !ok || op.Op != beanstalk.OpBeanstalk || op.Addr == "" || !strings.HasSuffix(err.Error(), ": the client is closed") {
		t.Errorf("%s = %v", what, err)
	}
}

func TestD3CallsAfterAbortFailWithOneError(t *testing.T) {
	quiet := func(nc net.Conn) { io.Copy(io.Discard, nc) }
	virtually(t, &beanstalk.Options{Timeout: -1}, quiet, func(k *eventloop.Task, c *beanstalk.Client) error {
		sent := c.Delete(bg, 1)
		k.Sleep(time.Second)
		queued := c.Delete(bg, 2)
		c.Abort()
		_, err := sent.Await(k)
		wantErr(t, "error of a command that was sent", err, beanstalk.ErrUncertain)
		wantClosed(t, "error of a command that was sent", err)
		_, err = queued.Await(k)
		wantClosed(t, "error of a command of the same turn", err)
		for _, when := range []string{"at once", "later"} {
			_, err = c.Delete(bg, 1).Await(k)
			wantClosed(t, "error "+when, err)
			_, err = c.Close().Await(k)
			wantClosed(t, "error of Close "+when, err)
			k.Sleep(time.Second)
		}
		return nil
	})
}

func TestD3AbortCutsACloseShort(t *testing.T) {
	virtually(t, nil, func(nc net.Conn) { io.Copy(io.Discard, nc) }, func(k *eventloop.Task, c *beanstalk.Client) error {
		c.Delete(bg, 1).Ignore()
		k.Sleep(time.Second)
		closed := c.Close()
		k.Sleep(time.Second)
		c.Abort()
		_, err := closed.Await(k)
		return err
	})
}

func TestD4CommandsAreSentInOrderWithUseOnlyWhenTheTubeChanges(t *testing.T) {
	s := &script{}
	virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		var last *eventloop.Future[uint64]
		for _, tube := range []string{"a", "a", "b", "default"} {
			c.Put(bg, tube, nil, beanstalk.PutOptions{Priority: 1, Delay: time.Millisecond, TTR: 1500 * time.Millisecond}).Ignore()
			c.Delete(bg, 7).Ignore()
			last = c.Put(bg, tube, []byte("xy"), beanstalk.PutOptions{})
		}
		_, err := last.Await(k)
		want := "use a;put 1 1 2 0;delete 7;put 0 0 60 2;put 1 1 2 0;delete 7;put 0 0 60 2;" +
			"use b;put 1 1 2 0;delete 7;put 0 0 60 2;use default;put 1 1 2 0;delete 7;put 0 0 60 2"
		equal(t, "commands", strings.Join(s.got(), ";"), want)
		return err
	})
}

func TestD4CommandsOfOneCallbackLeaveInOneWrite(t *testing.T) {
	var sizes []int
	serve := func(nc net.Conn) {
		p := make([]byte, 4096)
		for {
			n, err := nc.Read(p)
			if err != nil {
				return
			}
			sizes = append(sizes, n)
			io.WriteString(nc, strings.Repeat("DELETED\r\n", strings.Count(string(p[:n]), "delete")))
		}
	}
	virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		for range 2 {
			var last *eventloop.Future[struct{}]
			for range 50 {
				last = c.Delete(bg, 1)
			}
			if _, err := last.Await(k); err != nil {
				return err
			}
		}
		synctest.Wait()
		if want := 50 * len("delete 1\r\n"); !slices.Equal(sizes, []int{want, want}) {
			t.Errorf("the server read %v bytes, want %d twice", sizes, want)
		}
		return nil
	})
}

func TestD5PendingCommandsAreBoundedInNumberAndBytes(t *testing.T) {
	s := &script{}
	o := &beanstalk.Options{MaxPending: 10, MaxPendingBytes: 1000}
	virtually(t, o, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		for round := range 3 {
			var fs []*eventloop.Future[struct{}]
			for range 12 {
				fs = append(fs, c.Delete(bg, 1))
			}
			for i, f := range fs {
				_, err := f.Await(k)
				if wantFull := i >= 10; errors.Is(err, eventloop.ErrBufferFull) != wantFull || !wantFull && err != nil {
					t.Errorf("round %d: error of command %d = %v", round, i, err)
				}
			}
			big := c.Put(bg, "a", make([]byte, 900), beanstalk.PutOptions{})
			over := c.Put(bg, "a", make([]byte, 100), beanstalk.PutOptions{})
			_, err := over.Await(k)
			wantErr(t, "error beyond the bytes", err, eventloop.ErrBufferFull)
			if _, err := big.Await(k); err != nil {
				return err
			}
		}
		equal(t, "commands", len(s.got()), 3*11+1)
		return nil
	})
}

func TestD6ACanceledCommandFailsAtOnceAndShiftsNoReply(t *testing.T) {
	serve := func(nc net.Conn) {
		time.Sleep(10 * time.Second)
		(&script{}).serve(nc)
	}
	why := errors.New("enough")
	virtually(t, &beanstalk.Options{Timeout: -1}, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		ctx, cancel := context.WithCancelCause(bg)
		var kept, canceled []*eventloop.Future[beanstalk.Peeked]
		ask := func() {
			for range 5 {
				kept = append(kept, c.Peek(bg, uint64(len(kept))))
				canceled = append(canceled, c.Peek(ctx, 1000))
			}
		}
		ask()
		k.Sleep(time.Second) // until they are sent
		ask()
		cancel(why)
		synctest.Wait() // while the task runs, nothing is sent
		for i, f := range canceled {
			_, err := f.Await(k)
			wantErr(t, "error of a canceled command", err, why, context.Canceled)
			equal(t, fmt.Sprintf("command %d is uncertain", i), errors.Is(err, beanstalk.ErrUncertain), i < 5)
		}
		_, err := c.Peek(ctx, 1).Await(k)
		wantErr(t, "error of a command whose context has ended", err, why, context.Canceled)
		for i, f := range kept {
			v, err := f.Await(k)
			if err != nil || v.ID != uint64(i) || string(v.Body) != fmt.Sprint(i) {
				t.Errorf("reply to command %d = %d %q, %v", i, v.ID, v.Body, err)
			}
		}
		return nil
	})
}

func TestD7ACommandThatMayHaveBeenExecutedIsNeverRepeated(t *testing.T) {
	s := &script{more: func(command string) (string, bool) { return "quit", strings.HasPrefix(command, "put 1 ") }}
	virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		lost := c.Put(bg, "default", nil, beanstalk.PutOptions{Priority: 1})
		behind := c.Put(bg, "default", nil, beanstalk.PutOptions{Priority: 2})
		_, err := lost.Await(k)
		wantErr(t, "error", err, beanstalk.ErrUncertain, eventloop.ErrConn, io.EOF)
		_, err = behind.Await(k)
		wantErr(t, "error of the command behind it", err, beanstalk.ErrUncertain)
		_, err = c.Put(bg, "default", nil, beanstalk.PutOptions{Priority: 3}).Await(k)
		equal(t, "error of the next command", err, nil)
		equal(t, "commands", strings.Join(s.got(), ";"), "put 1 0 60 0;put 3 0 60 0")
		return nil
	})
}

func TestD8ReconnectingBacksOffAndWhatWasNotSentWaits(t *testing.T) {
	s := &script{}
	var dials []time.Duration
	var states []string
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := served(&beanstalk.Options{MinBackoff: 100 * time.Millisecond, MaxBackoff: 400 * time.Millisecond,
			OnState: func(up bool, err error) { states = append(states, fmt.Sprint(up, " ", err != nil)) }}, s.serve)
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials = append(dials, time.Since(began))
			if len(dials) < 6 {
				return nil, errors.New("no route")
			}
			return dial(ctx, network, addr)
		}
		run(t, o, func(k *eventloop.Task, c *beanstalk.Client) error {
			_, err := c.Delete(bg, 1).Await(k)
			return err
		})
	})
	for i, most := range []int{0, 100, 200, 400, 400, 400} {
		if i == 0 {
			continue
		}
		most := time.Duration(most) * time.Millisecond
		if wait := dials[i] - dials[i-1]; wait < most/2 || wait > most {
			t.Errorf("attempt %d came after %v, want %v to %v", i, wait, most/2, most)
		}
	}
	equal(t, "states", strings.Join(states, ","), strings.Repeat("false true,", 5)+"true false")
}

func TestD8ACommandThatIsNotSentInTimeFailsWithATimeoutAndTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noRoute := errors.New("no route")
		o := &beanstalk.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, noRoute }}
		run(t, o, func(k *eventloop.Task, c *beanstalk.Client) error {
			began := time.Now()
			_, err := c.Delete(bg, 1).Await(k)
			wantErr(t, "error", err, eventloop.ErrTimeout, noRoute)
			equal(t, "uncertain", errors.Is(err, beanstalk.ErrUncertain), false)
			equal(t, "time", time.Since(began), 5*time.Second)
			return nil
		})
	})
}

func TestD8AnOverdueReplyEndsTheConnectionAndTheNextCommandGetsAnother(t *testing.T) {
	conns := 0
	serve := func(nc net.Conn) {
		if conns++; conns == 1 {
			io.Copy(io.Discard, nc)
			return
		}
		(&script{}).serve(nc)
	}
	virtually(t, &beanstalk.Options{Timeout: 2 * time.Second}, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		began := time.Now()
		first := c.Delete(bg, 1)
		k.Sleep(time.Second)
		second := c.Delete(bg, 2)
		_, err := first.Await(k)
		wantErr(t, "error", err, eventloop.ErrTimeout, beanstalk.ErrUncertain)
		equal(t, "time", time.Since(began), 2*time.Second)
		_, err = second.Await(k)
		wantErr(t, "error of the command behind it", err, beanstalk.ErrUncertain)
		equal(t, "time", time.Since(began), 2*time.Second)
		_, err = c.Delete(bg, 3).Await(k)
		return err
	})
}

func TestD9GarbageAndOversizeEndTheConnectionAndNotTheLoop(t *testing.T) {
	for _, c := range []struct {
		reply string
		want  error
	}{
		{"nonsense", beanstalk.ErrMalformed},
		{"INSERTED 1", beanstalk.ErrMalformed},
		{"BAD_FORMAT", beanstalk.ErrMalformed},
		{"DELETED\r\nDELETED", nil}, // the second one answers nothing
		{"OK 1000\r\n", beanstalk.ErrTooLarge},
	} {
		bad := true
		serve := func(nc net.Conn) {
			commands(nc, func(string, string) string {
				if bad {
					bad = false
					return c.reply
				}
				return "DELETED"
			})
		}
		virtually(t, &beanstalk.Options{MaxBodyBytes: 999}, serve, func(k *eventloop.Task, client *beanstalk.Client) error {
			_, err := client.Delete(bg, 1).Await(k)
			if c.want == nil {
				equal(t, "error", err, nil)
			} else {
				wantErr(t, "error", err, c.want, beanstalk.ErrUncertain, eventloop.ErrConn)
			}
			k.Sleep(time.Second)
			_, err = client.Delete(bg, 1).Await(k)
			return err
		})
	}
}

func TestD10NothingIsLeftWhenTheLoopEndsInAnyState(t *testing.T) {
	for d := range 20 {
		synctest.Test(t, func(t *testing.T) { // the bubble finds goroutines that are left
			eventloop.Run(t.Context(), silent(), func(l *eventloop.Loop) error {
				s := &script{}
				slow := func(nc net.Conn) {
					commands(nc, func(command, body string) string { time.Sleep(time.Millisecond); return s.reply(command, body) })
				}
				c, err := beanstalk.New(l, served(nil, slow))
				if err != nil {
					return err
				}
				c.Consume(beanstalk.ConsumeOptions{Parallel: 2, OnJob: func(*beanstalk.Job) {}})
				for range 5 {
					c.Put(bg, "a", nil, beanstalk.PutOptions{}).Ignore()
				}
				l.AfterFunc(time.Duration(d)*time.Millisecond/2, l.Stop)
				return nil
			})
			time.Sleep(time.Second) // the servers see the end
		})
	}
}

func TestD11HandlesShowTheAddressAndWhatIsPending(t *testing.T) {
	virtually(t, &beanstalk.Options{Addr: "queue:11300"}, func(nc net.Conn) { io.Copy(io.Discard, nc) }, func(k *eventloop.Task, c *beanstalk.Client) error {
		c.Delete(bg, 1).Ignore()
		c.Delete(bg, 2).Ignore()
		_, err := c.Consume(beanstalk.ConsumeOptions{Tubes: []string{"mails", "sms"}, OnJob: func(*beanstalk.Job) {}})
		var shown []string
		for h := range k.Loop().Handles() {
			if strings.HasPrefix(h.Kind, "beanstalk") {
				shown = append(shown, h.Kind+": "+h.Name)
			}
		}
		slices.Sort(shown)
		equal(t, "handles", strings.Join(shown, "; "), "beanstalk consumer: queue:11300 mails sms, 1 pending; beanstalk: queue:11300, 2 pending")
		return err
	})
}

// Producers and a consumer over the network in memory, whose order a seed decides. The
// network cuts connections.
func TestD12AnyOrderOfEvents(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 5*time.Millisecond)
		n.Split(7)
		ln, err := n.Listen("queue:11300")
		if err != nil {
			return err
		}
		s := &script{}
		rest := make(map[*eventloop.Conn]string)
		server, err := l.Serve(ln, &eventloop.ConnConfig{OnData: func(sc *eventloop.Conn, p []byte) {
			rest[sc] += string(p)
			for {
				line, after, ok := strings.Cut(rest[sc], "\r\n")
				if !ok {
					return
				}
				rest[sc] = after
				reply := s.reply(line, "")
				if len(s.all) == 3 {
					sc.Abort()
					return
				}
				sc.WriteString(reply + "\r\n")
			}
		}})
		if err != nil {
			return err
		}
		c, err := beanstalk.New(l, &beanstalk.Options{Addr: "queue:11300", Dial: n.Dialer("app"), MinBackoff: time.Millisecond})
		if err != nil {
			return err
		}
		results := 0
		for i := range 6 {
			l.AfterFunc(time.Duration(i)*time.Millisecond, func() {
				c.Peek(bg, uint64(i)).Then(func(v beanstalk.Peeked, err error) {
					results++
					if err == nil && v.ID != uint64(i) {
						t.Errorf("reply %d to command %d", v.ID, i)
					}
					if err != nil && !errors.Is(err, beanstalk.ErrUncertain) {
						t.Errorf("error of command %d = %v", i, err)
					}
					if results == 6 {
						c.Close().Then(func(struct{}, error) { server.Close() })
					}
				})
			})
		}
		l.OnExit(func() { equal(t, "results", results, 6) })
		return nil
	})
}

func TestAConnectionThatIsCutAtAnyByteFailsWhatHasNoReply(t *testing.T) {
	const replies = "FOUND 0 1\r\n0\r\nNOT_FOUND\r\nFOUND 2 3\r\n\r\n2\r\n"
	ends := []int{len("FOUND 0 1\r\n0\r\n"), len("FOUND 0 1\r\n0\r\nNOT_FOUND\r\n"), len(replies)}
	for cut := range len(replies) + 1 {
		first := true
		serve := func(nc net.Conn) {
			if !first {
				(&script{}).serve(nc)
				return
			}
			first = false
			nc.Read(make([]byte, 1000))
			io.WriteString(nc, replies[:cut])
		}
		virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
			var fs []*eventloop.Future[beanstalk.Peeked]
			for i := range 3 {
				fs = append(fs, c.Peek(bg, uint64(i)))
			}
			for i, f := range fs {
				_, err := f.Await(k)
				switch {
				case cut < ends[i]:
					wantErr(t, fmt.Sprintf("error of command %d, cut at %d", i, cut), err, beanstalk.ErrUncertain, io.EOF)
				case i == 1:
					wantErr(t, "error of command 1", err, beanstalk.ErrNotFound)
				default:
					equal(t, fmt.Sprintf("error of command %d, cut at %d", i, cut), err, nil)
				}
			}
			k.Sleep(time.Second) // until the end of the connection has arrived
			_, err := c.Peek(bg, 5).Await(k)
			return err
		})
	}
}

func TestInvalidArgumentsFailAtOnce(t *testing.T) {
	for _, o := range []*beanstalk.Options{
		{Addr: "nonsense"}, {Network: "udp"}, {MinBackoff: -1}, {MaxBackoff: -1}, {MinBackoff: 2, MaxBackoff: 1},
	} {
		if _, err := beanstalk.New(eventloop.New(nil), o); err == nil {
			t.Errorf("options %+v were accepted", o)
		}
	}
	if _, err := beanstalk.New(nil, nil); err == nil {
		t.Error("a nil loop was accepted")
	}
	s := &script{}
	virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		for _, tube := range []string{"", "a b", "-a", "a\r\nquit", strings.Repeat("x", 201)} {
			_, err := c.Put(bg, tube, nil, beanstalk.PutOptions{}).Await(k)
			wantErr(t, "error of Put", err, beanstalk.ErrTube)
			_, err = c.PeekReady(bg, tube).Await(k)
			wantErr(t, "error of PeekReady", err, beanstalk.ErrTube)
			_, err = c.Kick(bg, tube, 1).Await(k)
			wantErr(t, "error of Kick", err, beanstalk.ErrTube)
			_, err = c.PauseTube(bg, tube, 0).Await(k)
			wantErr(t, "error of PauseTube", err, beanstalk.ErrTube)
			_, err = c.StatsTube(bg, tube).Await(k)
			wantErr(t, "error of StatsTube", err, beanstalk.ErrTube)
			_, err = c.Consume(beanstalk.ConsumeOptions{Tubes: []string{tube}, OnJob: func(*beanstalk.Job) {}})
			wantErr(t, "error of Consume", err, beanstalk.ErrTube)
		}
		for _, d := range []time.Duration{-1, 1 << 62} {
			if _, err := c.Put(bg, "a", nil, beanstalk.PutOptions{Delay: d}).Await(k); err == nil {
				t.Errorf("a delay of %v was accepted", d)
			}
			if _, err := c.Put(bg, "a", nil, beanstalk.PutOptions{TTR: d}).Await(k); err == nil {
				t.Errorf("a TTR of %v was accepted", d)
			}
		}
		if _, err := c.Kick(bg, "a", -1).Await(k); err == nil {
			t.Error("Kick of -1 jobs was accepted")
		}
		if _, err := c.Consume(beanstalk.ConsumeOptions{}); err == nil {
			t.Error("Consume without OnJob was accepted")
		}
		if _, err := c.Consume(beanstalk.ConsumeOptions{Parallel: -1, OnJob: func(*beanstalk.Job) {}}); err == nil {
			t.Error("a negative Parallel was accepted")
		}
		equal(t, "commands", len(s.got()), 0)
		return nil
	})
}

// A callback that is slower than the timeout does not lose the replies that have come
// meanwhile, however often that happens.
func TestASlowCallbackDoesNotMakeRepliesOverdue(t *testing.T) {
	s := &script{}
	virtually(t, &beanstalk.Options{Timeout: 100 * time.Millisecond}, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		if _, err := c.Delete(bg, 1).Await(k); err != nil { // it connects
			return err
		}
		for round := range 3 {
			var all []*eventloop.Future[struct{}]
			for id := range uint64(5) {
				all = append(all, c.Delete(bg, id))
			}
			// The commands have left, and their replies come during the callback.
			k.Loop().AfterFunc(0, func() { time.Sleep(250 * time.Millisecond) })
			for i, f := range all {
				if _, err := f.Await(k); err != nil {
					t.Errorf("round %d, command %d: %v", round, i, err)
				}
			}
			k.Sleep(time.Second)
		}
		return nil
	})
}

// A command that waits for a connection does not fail because a callback is slower than
// the timeout: the connection opens during the callback, or soon afterwards.
func TestASlowCallbackDoesNotMakeWaitingCommandsOverdue(t *testing.T) {
	for name, tt := range map[string]struct{ callback, latency time.Duration }{
		"opens during the callback": {time.Millisecond, 100 * time.Millisecond},
		"opens soon afterwards":     {time.Millisecond, 260 * time.Millisecond},
		"not dialed before":         {0, 20 * time.Millisecond}, // due timers precede posts
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			synctest.Test(t, func(t *testing.T) {
				o := served(&beanstalk.Options{Timeout: 100 * time.Millisecond}, s.serve)
				dial := o.Dial
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					time.Sleep(tt.latency)
					return dial(ctx, network, addr)
				}
				run(t, o, func(k *eventloop.Task, c *beanstalk.Client) error {
					var all []*eventloop.Future[struct{}]
					for id := range uint64(5) {
						all = append(all, c.Delete(bg, id))
					}
					k.Loop().AfterFunc(tt.callback, func() { time.Sleep(250 * time.Millisecond) })
					for i, f := range all {
						if _, err := f.Await(k); err != nil {
							t.Errorf("command %d: %v", i, err)
						}
					}
					return nil
				})
			})
		})
	}
}

func TestASlowCallbackDelaysTheTimeoutOfWaitingCommandsOnlyShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noRoute := errors.New("no route")
		o := &beanstalk.Options{Timeout: 100 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, noRoute }}
		run(t, o, func(k *eventloop.Task, c *beanstalk.Client) error {
			for range 2 {
				began := time.Now()
				f := c.Delete(bg, 1)
				k.Loop().AfterFunc(0, func() { time.Sleep(250 * time.Millisecond) })
				_, err := f.Await(k)
				wantErr(t, "error", err, eventloop.ErrTimeout)
				equal(t, "time", time.Since(began), 300*time.Millisecond)
				_, err = c.Delete(bg, 1).Await(k)
				wantErr(t, "error without a slow callback", err, eventloop.ErrTimeout, noRoute)
				equal(t, "time", time.Since(began), 400*time.Millisecond)
			}
			return nil
		})
	})
}
