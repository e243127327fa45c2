package redis_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/looptest"
)

func looptestRand(t *testing.T) *rand.Rand { return looptest.Rand(t) }

func TestBlockingCommandsDoNotDelayOthers(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		popped := c.BLPop(ctx, -1, "jobs")
		moved := c.BLMove(ctx, -1, "other", "jobs", redis.Left, redis.Right)
		byDo := redis.Do[[]string](ctx, c, "brpop", "third", 0)
		read := c.XRead(ctx, "stream", "$", 1, -1)
		want(t, task, c.Ping(ctx), "PONG")
		for { // until all of them wait
			n, err := redis.Do[int](ctx, c, "EVAL", "local n = 0 for w in string.gmatch(redis.call('INFO', 'clients'), 'blocked_clients:(%d+)') do n = w end return tonumber(n)", 0).Await(task)
			if err != nil {
				t.Fatal(err)
			}
			if n == 4 {
				break
			}
			task.Sleep(time.Millisecond)
		}
		want(t, task, c.RPush(ctx, "jobs", "one"), 1)
		want(t, task, popped, redis.Popped{Key: "jobs", Value: "one"})
		want(t, task, c.RPush(ctx, "other", "two"), 1)
		want(t, task, moved, "two")
		want(t, task, c.RPush(ctx, "third", "three"), 1)
		want(t, task, byDo, []string{"third", "three"})
		id, _ := c.XAdd(ctx, "stream", "k", "v").Await(task)
		want(t, task, read, []redis.Entry{{ID: id, Fields: []redis.Field{{Name: "k", Value: "v"}}}})
	})
}

func TestBlockingCommandsShareABoundedNumberOfConnections(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "BLPOP" {
				p.mu.Unlock()
				time.Sleep(time.Second)
				p.mu.Lock()
				return "*2\r\n" + bulk(args[1]) + bulk("v"), true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{MaxBlocking: 3}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		start, results := time.Now(), 0
		for range 9 {
			c.BLPop(background(), -1, "k").Then(func(p redis.Popped, err error) {
				if results++; err != nil || p.Key != "k" {
					t.Error(p, err)
				}
			})
		}
		l.OnExit(func() {
			took := time.Since(start)
			if results != 9 || s.connsSeen() != 3 || took < 3*time.Second || took > 4*time.Second {
				t.Errorf("%d results on %d connections after %v", results, s.connsSeen(), took)
			}
		})
	})
}

func TestABlockingCommandEndsWithItsContextItsTimeoutOrTheClient(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "BLPOP" {
				return silence, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{MaxBlocking: 2, Timeout: time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		results := 0
		expect := func(f *eventloop.Future[redis.Popped], after time.Duration, targets ...error) {
			start := time.Now()
			f.Then(func(_ redis.Popped, err error) {
				results++
				for _, target := range targets {
					if !errors.Is(err, target) {
						t.Errorf("got %v, want %v", err, target)
					}
				}
				if took := time.Since(start); took < after || took > after+100*time.Millisecond {
					t.Errorf("after %v, want %v", took, after)
				}
			})
		}
		ctx, cancel := context.WithCancel(background())
		l.AfterFunc(500*time.Millisecond, cancel)
		expect(c.BLPop(ctx, -1, "k"), 500*time.Millisecond, context.Canceled, redis.ErrUncertain)
		expect(c.BLPop(background(), 2*time.Second, "k"), 3*time.Second, eventloop.ErrTimeout, redis.ErrUncertain)
		l.AfterFunc(4*time.Second, func() {
			expect(c.BLPop(background(), -1, "k"), time.Second, redis.ErrUncertain)
			expect(c.BLPop(background(), -1, "k"), time.Second, redis.ErrUncertain)
			expect(c.BLPop(background(), -1, "k"), time.Second) // has no connection
		})
		l.AfterFunc(5*time.Second, func() { c.Close() })
		l.OnExit(func() {
			if results != 5 {
				t.Errorf("%d results, want 5", results)
			}
		})
	})
}
