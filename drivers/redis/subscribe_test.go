package redis_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
	"github.com/onloop/eventloop/looptest"
)

func TestASubscriptionGetsChannelsPatternsAndShards(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		var got []string
		s := c.Subscribe(redis.SubscribeOptions{
			Channels: []string{"a", "b"}, Patterns: []string{"news.*"}, Shards: []string{"shard"},
			OnMessage: func(m redis.Message) { got = append(got, fmt.Sprintf("%s|%s|%s", m.Channel, m.Pattern, m.Payload)) },
			OnGap:     func(err error) { t.Errorf("gap: %v", err) },
		})
		want(t, task, s.Ready(), done)
		want(t, task, c.Publish(ctx, "a", "1"), 1)
		want(t, task, c.Publish(ctx, "b", "2"), 1)
		want(t, task, c.Publish(ctx, "news.go", "3"), 1)
		want(t, task, c.SPublish(ctx, "shard", "4"), 1)
		want(t, task, s.Add("c", "d"), done)
		want(t, task, s.AddPatterns("x?"), done)
		want(t, task, s.AddShards("shard2"), done)
		want(t, task, s.Remove("a"), done)
		want(t, task, s.RemovePatterns("news.*"), done)
		want(t, task, s.RemoveShards("shard"), done)
		want(t, task, s.Add(), done)
		want(t, task, c.Publish(ctx, "a", "5"), 0)
		want(t, task, c.Publish(ctx, "news.go", "6"), 0)
		want(t, task, c.SPublish(ctx, "shard", "7"), 0)
		want(t, task, c.Publish(ctx, "d", "8"), 1)
		want(t, task, c.Publish(ctx, "xy", "9"), 1)
		want(t, task, c.SPublish(ctx, "shard2", "10"), 1)
		for len(got) < 7 {
			task.Sleep(time.Millisecond)
		}
		if w := []string{"a||1", "b||2", "news.go|news.*|3", "shard||4", "d||8", "xy|x?|9", "shard2||10"}; !slices.Equal(got, w) {
			t.Errorf("got %q, want %q", got, w)
		}
		s.Close()
		want(t, task, s.Done(), done)
		if _, err := s.Add("late").Await(task); err == nil {
			t.Error("Add after Close succeeds")
		}
		s.Close()
	})
}

func TestAPausedSubscriptionPressesBack(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		const n = 3000
		payload := strings.Repeat("x", 1000)
		var s *redis.Subscription
		got := 0
		s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(m redis.Message) {
			if m.Payload != fmt.Sprint(got, payload) {
				t.Errorf("message %d is %.20q", got, m.Payload)
			}
			if got++; got%100 == 0 {
				s.Pause()
			}
		}})
		want(t, task, s.Ready(), done)
		for i := range n {
			c.Publish(task.Context(), "c", fmt.Sprint(i, payload)).Ignore()
		}
		for got < n {
			at := got
			task.Sleep(time.Millisecond)
			if got == at {
				s.Resume()
			} else if got%100 != 0 && got-at >= 100 {
				t.Errorf("%d messages came while it was paused", got-at)
			}
		}
		s.Resume()
		s.Close()
	})
}

func TestATaskRangesOverMessages(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		const n = 2000 // several times what a subscription keeps
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}})
		want(t, task, s.Ready(), done)
		for i := range n {
			c.Publish(task.Context(), "c", i).Ignore()
		}
		c.Ping(task.Context()).Await(task)
		got := 0
		for range 2 {
			for m, err := range s.All(task) {
				if err != nil || m.Payload != fmt.Sprint(got) {
					t.Fatalf("message %d: %v, %v", got, m, err)
				}
				if got++; got%(n/2) == 0 {
					break
				}
			}
		}
		s.Close()
		for m, err := range s.All(task) {
			t.Errorf("after Close: %v, %v", m, err)
		}
		if got != n {
			t.Errorf("%d messages, want %d", got, n)
		}
	})
}

func TestOneRangeAtATimeGetsTheMessages(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}})
		want(t, task, s.Ready(), done)
		refused := func(k *eventloop.Task, s *redis.Subscription) {
			t.Helper()
			n := 0
			for m, err := range s.All(k) {
				if n++; err == nil {
					t.Errorf("another range got %v", m)
				}
			}
			if n != 1 {
				t.Errorf("another range got %d results, want one error", n)
			}
		}
		var got []string
		ranges := false
		waiting := task.Loop().Go(task.Context(), func(k *eventloop.Task) error {
			ranges = true
			for m, err := range s.All(k) {
				if err != nil {
					return err
				}
				refused(k, s) // not even in the body of the range that goes on
				if got = append(got, m.Payload); len(got) == 2 {
					break
				}
			}
			return nil
		})
		waitFor(t, task, "the first range", func() bool { return ranges })
		refused(task, s)
		for i := range 3 {
			c.Publish(task.Context(), "c", i).Ignore()
		}
		if _, err := waiting.Await(task); err != nil {
			t.Error(err)
		}
		for m, err := range s.All(task) {
			if err != nil {
				t.Error(err)
			}
			got = append(got, m.Payload)
			break
		}
		if !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("got %q", got)
		}
		s.Close()

		s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {}})
		refused(task, s)
		s.Close()
	})
}

// pubsub is a fake that confirms subscriptions, and sends a numbered message with each
// confirmation.
func pubsub(p *peer, args []string) (string, bool) {
	var out strings.Builder
	for _, name := range args[1:] {
		if strings.HasSuffix(strings.ToLower(args[0]), "subscribe") {
			fmt.Fprintf(&out, ">3\r\n%s%s:1\r\n", bulk(strings.ToLower(args[0])), bulk(name))
		}
	}
	return out.String(), out.Len() > 0
}

func message(channel, payload string) string {
	return ">3\r\n" + bulk("message") + bulk(channel) + bulk(payload)
}

func TestALostSubscriptionComesBackAndTellsTheGap(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			reply, ok := pubsub(p, args)
			if args[0] != "SUBSCRIBE" {
				return reply, ok
			}
			slices.Sort(args[1:])
			reply += message("c", fmt.Sprint(p.number, args[1:]))
			if p.number < 4 {
				go func() { // it dies a second later
					time.Sleep(time.Second)
					p.conn.Close()
				}()
			}
			return reply, ok
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		var got []string
		s := c.Subscribe(redis.SubscribeOptions{
			Channels: []string{"c"},
			OnMessage: func(m redis.Message) {
				if got = append(got, m.Payload); m.Payload == "4 [c d]" {
					l.AfterFunc(time.Minute, func() { // nothing else happens
						if f.connsSeen() != 4 {
							t.Errorf("%d connections", f.connsSeen())
						}
						c.Close() // and the subscription with it
					})
				}
			},
			OnGap: func(err error) {
				if !errors.Is(err, io.EOF) {
					t.Errorf("gap: %v", err)
				}
				got = append(got, "gap")
			},
		})
		ready := settled(s.Ready(), func(_ struct{}, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		l.AfterFunc(1500*time.Millisecond, func() { s.Add("d").Then(nil) })
		ended := settled(s.Done(), func(_ struct{}, err error) {
			if err == nil {
				t.Error("the subscription ends without an error when the client does")
			}
		})
		l.OnExit(func() {
			if *ready != 1 || *ended != 1 {
				t.Errorf("ready %d times, ended %d times", *ready, *ended)
			}
			if want := []string{"1 [c]", "gap", "2 [c]", "2 [d]", "gap", "3 [c d]", "gap", "4 [c d]"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	})
}

func TestASilentConnectionOfASubscriptionIsChecked(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "PING" && p.number == 1 && p.count > 4 {
				return silence, true
			}
			return pubsub(p, args)
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		gaps := 0
		start := time.Now()
		var s *redis.Subscription
		s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {}, OnGap: func(err error) {
			gaps++
			if took := time.Since(start); !errors.Is(err, eventloop.ErrTimeout) || took < 4*time.Minute || took > 6*time.Minute {
				t.Errorf("gap after %v: %v", took, err)
			}
			l.AfterFunc(time.Hour, s.Close)
		}})
		l.OnExit(func() {
			if gaps != 1 || f.connsSeen() != 2 {
				t.Errorf("%d gaps, %d connections", gaps, f.connsSeen())
			}
		})
	})
}

func TestARefusedSubscriptionSaysWhy(t *testing.T) {
	t.Run("user", func(t *testing.T) {
		server := func() *fake {
			return &fake{hello: func(*peer, []string) string { return "-WRONGPASS invalid username-password pair\r\n" }}
		}
		law(t, server, redis.Options{Password: "x"}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
			s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {}})
			check := func(_ struct{}, err error) {
				if e, ok := errors.AsType[*redis.Error](err); !ok && err == nil || ok && e.Code() != "WRONGPASS" {
					t.Error(err)
				}
			}
			a, b := settled(s.Ready(), check), settled(s.Done(), check)
			l.OnExit(func() {
				if *a != 1 || *b != 1 || f.connsSeen() != 1 {
					t.Errorf("%d and %d results, %d connections", *a, *b, f.connsSeen())
				}
			})
		})
	})
	t.Run("channel", func(t *testing.T) {
		server := func() *fake {
			return &fake{command: func(p *peer, args []string) (string, bool) {
				if args[1] == "secret" {
					return "-NOPERM no permissions to access a channel\r\n", true
				}
				return pubsub(p, args)
			}}
		}
		law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
			s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {}})
			var results []string
			s.Ready().Then(func(_ struct{}, err error) {
				results = append(results, fmt.Sprint(err))
				s.Add("secret").Then(func(_ struct{}, err error) { results = append(results, fmt.Sprint(err)) })
				s.Add("other").Then(func(_ struct{}, err error) {
					results = append(results, fmt.Sprint(err))
					s.Close()
				})
			})
			l.OnExit(func() {
				if want := []string{"<nil>", "redis: NOPERM no permissions to access a channel", "<nil>"}; !slices.Equal(results, want) {
					t.Errorf("got %q", results)
				}
			})
		})
	})
}

// A refused change leaves alone what was subscribed to before.
func TestARefusedAddKeepsTheNamesBeforeIt(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if slices.Contains(args, "secret") {
				return "-NOPERM no permissions to access a channel\r\n", true
			}
			reply, ok := pubsub(p, args)
			if args[0] == "SUBSCRIBE" && p.number == 2 {
				reply += message("c", "after the gap")
			}
			if p.number == 1 {
				go func() {
					time.Sleep(time.Second)
					p.conn.Close()
				}()
			}
			return reply, ok
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		got := 0
		var s *redis.Subscription
		s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {
			got++
			s.Close()
		}})
		s.Ready().Then(func(struct{}, error) {
			s.Add("secret", "c").Then(func(_ struct{}, err error) {
				if err == nil {
					t.Error("Add of a secret channel succeeds")
				}
			})
		})
		l.AfterFunc(time.Minute, s.Close)
		l.OnExit(func() {
			if got != 1 {
				t.Errorf("%d messages, want 1", got)
			}
		})
	})
}

// What ends by itself is reported, unless the application asks for the reason.
func TestAnEndWithoutACallOfCloseIsReported(t *testing.T) {
	for _, name := range []string{"subscription", "change", "consumer", "closed client"} {
		for _, asked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,asked=%v", name, asked), func(t *testing.T) {
				reported := 0
				cfg := &eventloop.Config{EventHandler: func(err error) {
					if reported++; !errors.As(err, new(*redis.Error)) {
						t.Error(err)
					}
				}}
				looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
					n := looptest.NewNet(t)
					serveFake(t, n, &fake{command: func(p *peer, args []string) (string, bool) {
						switch {
						case args[0] == "XREADGROUP":
							return "-NOGROUP No such key\r\n", true
						case args[1] == "secret":
							return "-NOPERM no permissions\r\n", true
						}
						return pubsub(p, args)
					}})
					c := newClient(t, l, n, redis.Options{})
					ask := func(f *eventloop.Future[struct{}]) {
						if asked {
							f.Then(func(struct{}, error) {})
						}
					}
					switch name {
					case "subscription":
						ask(c.Subscribe(redis.SubscribeOptions{Channels: []string{"secret"}}).Done())
					case "change":
						s := c.Subscribe(redis.SubscribeOptions{})
						s.Ready().Then(func(struct{}, error) { ask(s.Add("secret")) })
						l.AfterFunc(time.Minute, s.Close)
					case "consumer":
						k, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "c", OnEntry: func(*redis.Delivery) {}})
						if err != nil {
							return err
						}
						ask(k.Done())
					case "closed client":
						ask(c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}}).Done())
						l.AfterFunc(time.Second, c.Abort)
					}
					l.AfterFunc(10*time.Second, func() {})
					return nil
				}, looptest.Config(cfg))
				want := 1
				if asked || name == "closed client" {
					want = 0
				}
				if reported != want {
					t.Errorf("%d reports, want %d", reported, want)
				}
			})
		}
	}
}

func TestAllFuturesOfARefusedSubscriptionSayWhy(t *testing.T) {
	server := func() *fake {
		return &fake{hello: func(*peer, []string) string { return "-WRONGPASS invalid\r\n" }}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, Patterns: []string{"p*"}})
		ends := 0
		for _, f := range []*eventloop.Future[struct{}]{s.Ready(), s.Add("d"), s.Done()} {
			f.Then(func(_ struct{}, err error) {
				if e, ok := errors.AsType[*redis.Error](err); !ok || e.Code() != "WRONGPASS" {
					t.Errorf("got %v, want the reason", err)
				}
				ends++
			})
		}
		l.OnExit(func() {
			if ends != 3 {
				t.Errorf("%d results, want 3", ends)
			}
		})
	})
}

func TestShutdownClosesSubscriptionsAndWaitsForCommands(t *testing.T) {
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		serveFake(t, n, &fake{command: pubsub})
		c := newClient(t, l, n, redis.Options{})
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) {}})
		ended, replied := 0, 0
		s.Ready().Then(func(struct{}, error) {
			c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
				if replied++; err != nil {
					t.Error(err)
				}
			})
			s.Done().Then(func(_ struct{}, err error) {
				if ended++; err != nil {
					t.Error(err)
				}
			})
			l.Shutdown(time.Minute)
		})
		l.OnExit(func() {
			if ended != 1 || replied != 1 {
				t.Errorf("ended %d times, %d replies", ended, replied)
			}
		})
		return nil
	})
}

// losing is a server whose connections end a second after their subscription, and then
// stay, from the third on.
func losing() *fake {
	return &fake{command: func(p *peer, args []string) (string, bool) {
		reply, ok := pubsub(p, args)
		if args[0] != "SUBSCRIBE" {
			return reply, ok
		}
		if p.number < 3 {
			go func() {
				time.Sleep(time.Second)
				p.conn.Close()
			}()
		}
		return reply + message("c", fmt.Sprint(p.number)), ok
	}}
}

// panics runs a subscription to a losing server with CatchPanics for an hour, in many
// orders of events. It compares the calls of the subscription, and what EventHandler gets.
func panics(t *testing.T, conns int, want, wantReports []string, subscribe func(c *redis.Client, told func(format string, args ...any))) {
	t.Helper()
	var got, reports []string
	told := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
		if p, ok := errors.AsType[*eventloop.PanicError](err); ok {
			reports = append(reports, fmt.Sprint(p.Value))
		} else {
			t.Errorf("EventHandler got %v", err)
		}
	}}
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		got, reports = nil, nil
		n := looptest.NewNet(t)
		n.Latency(0, time.Millisecond)
		f := serveFake(t, n, losing())
		c := newClient(t, l, n, redis.Options{})
		subscribe(c, told)
		l.AfterFunc(time.Hour, func() {
			if f.connsSeen() != conns {
				t.Errorf("%d connections, want %d", f.connsSeen(), conns)
			}
			c.Abort()
		})
		l.OnExit(func() {
			if !slices.Equal(got, want) || !slices.Equal(reports, wantReports) {
				t.Errorf("got %q and %q, want %q and %q", got, reports, want, wantReports)
			}
		})
		return nil
	}, looptest.Config(cfg))
}

func TestAPanicInOnGapIsReportedOnceAndKeepsTheConnection(t *testing.T) {
	want := []string{"message 1", "gap true", "message 2", "gap true", "message 3"}
	panics(t, 3, want, []string{"in OnGap", "in OnGap"}, func(c *redis.Client, told func(string, ...any)) {
		c.Subscribe(redis.SubscribeOptions{
			Channels:  []string{"c"},
			OnMessage: func(m redis.Message) { told("message %s", m.Payload) },
			OnGap: func(err error) {
				told("gap %v", errors.Is(err, io.EOF))
				panic("in OnGap")
			},
		})
	})
}

func TestAPanicInOnMessageIsNoGap(t *testing.T) {
	want := []string{"message 1", "gap true", "message 2", "gap true", "message 3"}
	panics(t, 3, want, []string{"first"}, func(c *redis.Client, told func(string, ...any)) {
		c.Subscribe(redis.SubscribeOptions{
			Channels: []string{"c"},
			OnMessage: func(m redis.Message) {
				if told("message %s", m.Payload); m.Payload == "1" {
					panic("first")
				}
			},
			OnGap: func(err error) { told("gap %v", errors.Is(err, io.EOF)) },
		})
	})
}

// batch is a server that sends five messages together.
func batch(t *testing.T, n *looptest.Net) *fake {
	return serveFake(t, n, &fake{command: func(p *peer, args []string) (string, bool) {
		reply, ok := pubsub(p, args)
		if args[0] == "SUBSCRIBE" {
			for i := range 5 {
				reply += message("c", fmt.Sprint(i))
			}
		}
		return reply, ok
	}})
}

func TestMessagesThatFollowAPanicAreDelivered(t *testing.T) {
	var got, reports []string
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
		if p, ok := errors.AsType[*eventloop.PanicError](err); !ok || !strings.Contains(err.Error(), "subscribe_test.go:") {
			t.Errorf("EventHandler got %v", err)
		} else {
			reports = append(reports, fmt.Sprint(p.Value))
		}
	}}
	for how, want := range map[string]string{
		"the rest follows": "[0 1 2 3 4] [panic 1 panic 2]", "Close ends it": "[0 1] [panic 1]", "the loop stops": "[0 1] [panic 1]",
	} {
		t.Run(how, func(t *testing.T) {
			looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
				got, reports = nil, nil
				n := looptest.NewNet(t)
				f := batch(t, n)
				c := newClient(t, l, n, redis.Options{})
				var s *redis.Subscription
				s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(m redis.Message) {
					got = append(got, m.Payload)
					if m.Payload != "1" && m.Payload != "2" {
						return
					}
					switch how {
					case "Close ends it":
						s.Close()
					case "the loop stops":
						l.Stop()
					}
					panic("panic " + m.Payload)
				}})
				l.AfterFunc(time.Hour, c.Abort)
				l.OnExit(func() {
					if all := fmt.Sprint(got, " ", reports); all != want || f.connsSeen() != 1 {
						t.Errorf("got %s over %d connections, want %s over one", all, f.connsSeen(), want)
					}
				})
				return nil
			}, looptest.Config(cfg))
		})
	}
}

func TestAPanicInOnMessageLeavesRunAndNoMessageFollows(t *testing.T) {
	for _, stop := range []bool{false, true} {
		var got []string
		var panicked any
		server := redistest.Start(t)
		func() {
			defer func() { panicked = recover() }()
			eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
				c, err := redis.New(l, patiently(redis.Options{Addr: server.Addr}))
				if err != nil {
					return err
				}
				s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(m redis.Message) {
					if stop {
						l.Stop()
					}
					got = append(got, m.Payload)
					panic("panic " + m.Payload)
				}})
				s.Ready().Then(func(struct{}, error) {
					for i := range 5 {
						c.Publish(t.Context(), "c", i).Ignore()
					}
				})
				return nil
			})
		}()
		pe, ok := panicked.(*eventloop.PanicError)
		if !ok || pe.Value != "panic 0" || len(got) != 1 {
			t.Errorf("Run panicked with %v after the messages %v", panicked, got)
		}
	}
}

func TestAPanicInOnMessageWithoutOnGapIsReportedOnce(t *testing.T) {
	want := []string{"message 1", "message 2", "message 3"}
	panics(t, 3, want, []string{"first"}, func(c *redis.Client, told func(string, ...any)) {
		c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(m redis.Message) {
			if told("message %s", m.Payload); m.Payload == "1" {
				panic("first")
			}
		}})
	})
}

// A message may arrive before the other names are confirmed.
func TestAPanicInOnMessageIsReportedOnceAtAnyTime(t *testing.T) {
	subscribe := func(at string, then func(s *redis.Subscription)) func(c *redis.Client, told func(string, ...any)) {
		return func(c *redis.Client, told func(string, ...any)) {
			var s *redis.Subscription
			s = c.Subscribe(redis.SubscribeOptions{
				Channels: []string{"c"},
				Patterns: []string{"p*"},
				OnMessage: func(m redis.Message) {
					if told("message %s", m.Payload); m.Payload == at {
						then(s)
						panic("at " + at)
					}
				},
				OnGap: func(err error) { told("gap %v", errors.Is(err, io.EOF)) },
			})
		}
	}
	all := []string{"message 1", "message 2", "gap true", "message 3", "gap true"}
	nothing := func(*redis.Subscription) {}
	t.Run("before the first confirmation", func(t *testing.T) {
		panics(t, 3, all, []string{"at 1"}, subscribe("1", nothing))
	})
	t.Run("after a loss", func(t *testing.T) {
		panics(t, 3, all, []string{"at 2"}, subscribe("2", nothing))
	})
	t.Run("after Close", func(t *testing.T) {
		panics(t, 1, []string{"message 1"}, []string{"at 1"}, subscribe("1", (*redis.Subscription).Close))
	})
}
