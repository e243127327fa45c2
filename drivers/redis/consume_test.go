package redis_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

func TestAConsumerDeliversWhatIsNotAcknowledgedAgain(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.XGroupCreate(ctx, "s", "g", "0"), true)
		const n = 100
		for i := range n {
			c.XAdd(ctx, "s", "n", i).Ignore()
		}
		var order []string
		inHand, most := 0, 0
		consume := func(name string, parallel int, onEntry func(d *redis.Delivery)) *redis.Consumer {
			s, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: name, Parallel: parallel, OnEntry: onEntry, ClaimAfter: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		// Half of them are acknowledged, a few milliseconds later; ten are kept.
		var kept []string
		first := consume("me", 10, func(d *redis.Delivery) {
			order = append(order, d.Get("n"))
			inHand++
			most = max(most, inHand)
			if len(order) > n/2 {
				kept = append(kept, d.Get("n"))
				return
			}
			c.Loop().AfterFunc(time.Millisecond, func() {
				inHand--
				d.Ack()
				d.Release() // does nothing
			})
		})
		for len(kept) < 10 {
			task.Sleep(time.Millisecond)
		}
		if most > 10 || len(order) != n/2+10 {
			t.Errorf("%d entries in hand, %d delivered", most, len(order))
		}
		first.Close()
		want(t, task, first.Done(), done)

		// The same consumer gets these first, then the rest.
		order = nil
		second := consume("me", 3, func(d *redis.Delivery) {
			order = append(order, d.Get("n"))
			d.Ack().Then(nil)
		})
		for len(order) < n/2 {
			task.Sleep(time.Millisecond)
		}
		var rest []string
		for i := n / 2; i < n; i++ {
			rest = append(rest, fmt.Sprint(i))
		}
		if !slices.Equal(order, rest) {
			t.Errorf("got %q, want %q", order, rest)
		}
		c.XAdd(ctx, "s", "n", "late").Ignore()
		for len(order) <= n/2 {
			task.Sleep(time.Millisecond)
		}
		want(t, task, redis.Do[[]any](ctx, c, "XPENDING", "s", "g"), []any{int64(0), nil, nil, nil})
		c.XGroupDestroy(ctx, "s", "g").Ignore()
		if _, err := second.Done().Await(task); err == nil {
			t.Error("a consumer without a group ends without an error")
		}
		second.Close()
	})
}

func TestAConsumerTakesOverFromOthers(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		c.XGroupCreate(ctx, "s", "g", "0").Ignore()
		c.XAdd(ctx, "s", "n", 1).Ignore()
		if e, err := c.XReadGroup(ctx, "s", "g", "dead", 1, 0).Await(task); err != nil || len(e) != 1 {
			t.Fatal(e, err)
		}
		got := 0
		s, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", ClaimAfter: 2 * time.Millisecond, OnEntry: func(d *redis.Delivery) {
			got++
			d.Ack().Ignore()
		}})
		if err != nil {
			t.Fatal(err)
		}
		for got == 0 {
			task.Sleep(time.Millisecond)
		}
		s.Close()
	})
}

// Its first read and its first claim fail together.
func TestOnErrorOfAConsumerIsNotCalledAfterClose(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) { return hangUp, args[0] == "XAUTOCLAIM" }}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		calls := 0
		var consumer *redis.Consumer
		consumer, err := c.Consume(redis.ConsumeOptions{
			Stream: "s", Group: "g", Consumer: "me", ClaimAfter: time.Minute,
			OnEntry: func(*redis.Delivery) {},
			OnError: func(error) { calls++; consumer.Close() },
		})
		if err != nil {
			t.Fatal(err)
		}
		l.OnExit(func() {
			if calls != 1 {
				t.Errorf("%d calls, want 1", calls)
			}
		})
	})
}

func TestAConsumerGoesOnAfterALostConnection(t *testing.T) {
	s := redistest.Start(t)
	checkDescriptors(t)
	runTask(t, func(task *eventloop.Task) {
		c, err := redis.New(task.Loop(), patiently(redis.Options{Addr: s.Addr}))
		if err != nil {
			t.Fatal(err)
		}
		ctx := task.Context()
		c.XGroupCreate(ctx, "s", "g", "0").Ignore()
		c.XAdd(ctx, "s", "n", 1).Ignore()
		var got []string
		failures := 0
		consumer, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", OnEntry: func(d *redis.Delivery) {
			got = append(got, d.Get("n"))
			if d.Get("n") == "2" {
				d.Ack().Ignore()
			}
		}, OnError: func(err error) {
			failures++
			if !errors.Is(err, redis.ErrUncertain) {
				t.Error(err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		for len(got) < 1 {
			task.Sleep(time.Millisecond)
		}
		c.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Await(task)
		for failures == 0 {
			task.Sleep(time.Millisecond)
		}
		c.XAdd(ctx, "s", "n", 2).Ignore()
		for len(got) < 2 {
			task.Sleep(time.Millisecond)
		}
		if !slices.Equal(got, []string{"1", "2"}) { // 1 is in hand, and is not delivered again
			t.Errorf("got %q", got)
		}
		consumer.Close()
	})
}

func TestAConsumerNeedsNamesAndValidOptions(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		for _, o := range []redis.ConsumeOptions{
			{}, {Stream: "s", Group: "g", Consumer: "c"}, {Stream: "s", Group: "g", OnEntry: func(*redis.Delivery) {}},
			{Stream: "s", Group: "g", Consumer: "c", OnEntry: func(*redis.Delivery) {}, Parallel: -1},
			{Stream: "s", Group: "g", Consumer: "c", OnEntry: func(*redis.Delivery) {}, ClaimAfter: -1},
			{Stream: "s", Group: "g", Consumer: "c", OnEntry: func(*redis.Delivery) {}, ClaimAfter: time.Microsecond},
		} {
			if _, err := c.Consume(o); err == nil {
				t.Errorf("%+v is taken", o)
			}
		}
	})
}

// With CatchPanics, a panic in OnEntry leaves its entry pending and takes no place from
// the others.
func TestAConsumerGoesOnAfterAPanic(t *testing.T) {
	server := redistest.Start(t)
	var panics, entries int
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
		if _, ok := errors.AsType[*eventloop.PanicError](err); ok {
			panics++
		}
	}}
	err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
		c, err := redis.New(l, patiently(redis.Options{Addr: server.Addr}))
		if err != nil {
			return err
		}
		ctx := t.Context()
		c.XGroupCreate(ctx, "panics", "g", "0").Ignore()
		for i := range 5 {
			c.XAdd(ctx, "panics", "n", i).Ignore()
		}
		var s *redis.Consumer
		s, err = c.Consume(redis.ConsumeOptions{Stream: "panics", Group: "g", Consumer: "me", Parallel: 1, OnEntry: func(d *redis.Delivery) {
			if entries++; entries == 5 {
				s.Close()
			}
			panic("not this one")
		}})
		return err
	})
	if err != nil || entries != 5 || panics != 5 {
		t.Errorf("%v, %d entries, %d panics, want 5 of each", err, entries, panics)
	}
}

func entries(ids ...int) string {
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(ids))
	for _, id := range ids {
		fmt.Fprintf(&out, "*2\r\n%s*2\r\n%s%s", bulk(fmt.Sprint(id, "-0")), bulk("n"), bulk(fmt.Sprint(id)))
	}
	return out.String()
}

// A stream is a fake with a group of which another consumer has the entries 1 to 5, and
// of which 6 and 7 are new after a second.
func stream() *fake {
	read := false
	return &fake{command: func(p *peer, args []string) (string, bool) {
		switch {
		case args[0] == "XAUTOCLAIM":
			from, next, n := 1, "0-0", 0
			fmt.Sscanf(args[5], "%d-0", &from)
			fmt.Sscan(args[7], &n)
			var ids []int
			for id := max(from, 1); id <= 5; id++ {
				if len(ids) == n {
					next = fmt.Sprint(id, "-0")
					break
				}
				ids = append(ids, id)
			}
			return "*3\r\n" + bulk(next) + entries(ids...) + "*0\r\n", true
		case args[0] != "XREADGROUP":
			return ":1\r\n", true
		case args[len(args)-1] != ">":
			return "%1\r\n" + bulk("s") + "*0\r\n", true
		case read:
			return p.after(5*time.Second, "_\r\n")
		}
		read = true
		return p.after(time.Second, "%1\r\n"+bulk("s")+entries(6, 7))
	}}
}

// A read that waits at the server and a claim ask for as many entries each. The
// application does not get more than it takes. One that it keeps does not keep claims
// from those behind it.
func TestAConsumerNeverDeliversMoreThanParallel(t *testing.T) {
	law(t, stream, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		hand := 0
		var got []string
		var s *redis.Consumer
		s, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", Parallel: 2, ClaimAfter: time.Second, OnEntry: func(d *redis.Delivery) {
			if hand++; hand > 2 {
				t.Errorf("%d entries in hand", hand)
			}
			if got = append(got, d.Get("n")); len(got) == 7 {
				s.Close()
			}
			if d.Get("n") != "1" { // which it keeps
				l.AfterFunc(3*time.Second, func() {
					hand--
					d.Ack().Ignore()
				})
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		l.AfterFunc(10*time.Minute, s.Close)
		l.OnExit(func() {
			sort.Strings(got)
			if want := []string{"1", "2", "3", "4", "5", "6", "7"}; !slices.Equal(slices.Compact(got), want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	})
}

func TestAClaimThatFailsIsTold(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "XAUTOCLAIM" {
				return "-NOPERM no permission\r\n", true
			}
			if args[len(args)-1] != ">" {
				return "%1\r\n" + bulk("s") + "*0\r\n", true
			}
			return p.after(5*time.Second, "_\r\n")
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
		told := 0
		s, err := c.Consume(redis.ConsumeOptions{
			Stream: "s", Group: "g", Consumer: "me", ClaimAfter: time.Minute, OnEntry: func(*redis.Delivery) {},
			OnError: func(err error) {
				if told++; !errors.As(err, new(*redis.Error)) {
					t.Error(err)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		l.AfterFunc(100*time.Second, s.Close)
		l.OnExit(func() {
			if told != 4 { // after 0, 30, 60 and 90 seconds
				t.Errorf("told %d times, want 4", told)
			}
		})
	})
}

func TestAnUnrefdConsumerDoesNotKeepTheLoopAlive(t *testing.T) {
	for _, keep := range []bool{false, true} {
		law(t, stream, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, f *fake) {
			s, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", ClaimAfter: time.Second, OnEntry: func(d *redis.Delivery) {}})
			if err != nil {
				t.Fatal(err)
			}
			s.Unref()
			if keep {
				s.Ref()
			}
			start := time.Now()
			l.AfterFunc(10*time.Second, func() {})
			l.AfterFunc(time.Minute, s.Close).Unref()
			l.OnExit(func() {
				if took := time.Since(start) > 50*time.Second; took != keep {
					t.Errorf("keep=%v: the loop ends after %v", keep, time.Since(start))
				}
			})
		})
	}
}

// Whatever is made while another goroutine ends the client ends with it, or is refused.
func TestConsumersSubscriptionsAndSessionsRaceWithAbort(t *testing.T) {
	makes := map[string]func(c *redis.Client){
		"consumer": func(c *redis.Client) {
			k, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "c", OnEntry: func(*redis.Delivery) {}})
			if err == nil {
				k.Done().Ignore()
			}
		},
		"subscription": func(c *redis.Client) {
			c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}}).Done().Ignore()
		},
		"session": func(c *redis.Client) { c.Session().Ping(background()).Ignore() },
	}
	for name, makeOne := range makes {
		t.Run(name, func(t *testing.T) {
			left := 0
			err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
				release := l.Hold()
				go func() {
					for i := range 1000 {
						c, err := redis.New(l, &redis.Options{Addr: "127.0.0.1:1"})
						if err != nil {
							t.Error(err)
							break
						}
						var both sync.WaitGroup
						both.Go(func() {
							for range i % 300 {
								runtime.Gosched()
							}
							c.Abort()
						})
						both.Go(func() {
							for range 20 {
								makeOne(c)
							}
						})
						both.Wait()
					}
					l.Post(func() {
						for h := range l.Handles() {
							if strings.HasPrefix(h.Kind, "redis") {
								left++
							}
						}
						release()
					})
				}()
				return nil
			})
			if err != nil || left > 0 {
				t.Errorf("%v, %d handles are left", err, left)
			}
		})
	}
}
