package redis_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/looptest"
)

// What is refused as separate words is refused in slices as well, however they are
// nested: it would change the connection that all commands share.
func TestWhatIsRefusedIsRefusedInSlicesToo(t *testing.T) {
	law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		for _, args := range [][]any{
			{"SELECT", "2"},
			{[]string{"SELECT", "2"}},
			{[]string{"subscribe", "x"}},
			{[]string{}, "MULTI"},
			{[]any{[]string{"QUIT"}}},
			{[][]byte{[]byte("MONITOR")}},
			{"CLIENT", []string{"REPLY", "OFF"}},
			{"CLIENT", []string{}, []any{"reply"}, "SKIP"},
		} {
			c.Do(background(), args...).Then(func(_ redis.Reply, err error) {
				if err == nil || !strings.Contains(err.Error(), "cannot be sent by Do") {
					t.Errorf("Do(%q): %v", args, err)
				}
			})
			if err := c.Send(args...); err == nil || !strings.Contains(err.Error(), "cannot be sent by Do") {
				t.Errorf("Send(%q): %v", args, err)
			}
		}
		if err := c.Send([]string{"BLPOP", "key", "1"}); err == nil {
			t.Error("Send of a blocking command succeeded")
		}
		c.Do(background(), []string{"ECHO", "x"}).Then(func(r redis.Reply, err error) {
			if r.String() != `"x"` || err != nil {
				t.Errorf("ECHO in a slice: %v, %v", r, err)
			}
		})
	})
}

// A callback that is slower than the timeout does not lose the replies that have come
// meanwhile, however often that happens.
func TestASlowCallbackDoesNotMakeRepliesOverdue(t *testing.T) {
	const rounds = 3
	law(t, anyServer, redis.Options{Timeout: 300 * time.Millisecond}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		results := 0
		var round func(n int)
		round = func(n int) {
			for range 20 {
				c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
					if results++; err != nil {
						t.Errorf("result %d: %v", results, err)
					}
					if n < rounds && results == 20*n {
						l.AfterFunc(time.Second, func() { round(n + 1) })
					}
				})
			}
			// The commands have left, and their replies come during the callback.
			l.AfterFunc(0, func() { time.Sleep(400 * time.Millisecond) })
		}
		c.Do(background(), "ECHO", "first").Then(func(redis.Reply, error) { round(1) })
		l.OnExit(func() {
			if results != 20*rounds {
				t.Errorf("%d results, want %d", results, 20*rounds)
			}
		})
	})
}

func TestACommandIsOverdueOnlyAfterItsTimeout(t *testing.T) {
	silent := func() *fake {
		return &fake{command: func(*peer, []string) (string, bool) { return silence, true }}
	}
	law(t, silent, redis.Options{Timeout: time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		began := time.Now()
		c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
			if d := time.Since(began); d != time.Second || !errors.Is(err, eventloop.ErrTimeout) {
				t.Errorf("%v after %v, want a timeout after 1s", err, d)
			}
		})
	})
}

// A callback that is slower than all timeouts, at any step of connecting, does not make a
// command fail that waits for the connection.
func TestASlowCallbackDoesNotMakeAHandshakeOverdue(t *testing.T) {
	o := redis.Options{Timeout: 300 * time.Millisecond, ConnectTimeout: 300 * time.Millisecond}
	law(t, anyServer, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		at := time.Duration(looptest.Rand(t).Int64N(int64(3 * time.Millisecond)))
		l.AfterFunc(at, func() { time.Sleep(400 * time.Millisecond) })
	})
}

// While a callback is slower than the timeout, a connection becomes free for the command
// that waits for one.
func TestASlowCallbackDoesNotMakeAWaitingBlockingCommandOverdue(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			return "*2\r\n" + bulk("k") + bulk("v"), args[0] == "BLPOP"
		}}
	}
	o := redis.Options{Timeout: 300 * time.Millisecond, MaxBlocking: 1}
	law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		results := 0
		block := func(then func()) {
			c.BLPop(background(), time.Second, "k").Then(func(_ redis.Popped, err error) {
				if results++; err != nil {
					t.Errorf("result %d: %v", results, err)
				}
				then()
			})
		}
		block(func() {
			block(func() {})
			block(func() {})
			l.AfterFunc(100*time.Microsecond, func() { time.Sleep(1500 * time.Millisecond) })
		})
		l.OnExit(func() {
			if results != 3 {
				t.Errorf("%d results, want 3", results)
			}
		})
	})
}
