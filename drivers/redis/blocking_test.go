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

// What waits for a connection gives up its place when it is canceled, and was certainly
// not executed. It does not wait for longer than it may wait at the server.
func TestABlockingCommandMayEndBeforeItHasAConnection(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(*peer, []string) (string, bool) { return silence, true }}
	}
	law(t, server, redis.Options{MaxBlocking: 1, MaxPending: 3, Timeout: time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		ends := 0
		first, end := context.WithCancel(background())
		c.BLPop(first, -1, "k").Then(func(redis.Popped, error) { ends++ })
		for i := range 5 {
			l.AfterFunc(time.Duration(1+i)*time.Second, func() {
				ctx, cancel := context.WithCancel(background())
				l.AfterFunc(500*time.Millisecond, cancel)
				for range 3 {
					c.BLPop(ctx, -1, "k").Then(func(_ redis.Popped, err error) {
						if ends++; !errors.Is(err, context.Canceled) || errors.Is(err, redis.ErrUncertain) {
							t.Errorf("canceled: %v", err)
						}
					})
				}
			})
		}
		l.AfterFunc(10*time.Second, func() {
			start := time.Now()
			c.BLPop(background(), 2*time.Second, "k").Then(func(_ redis.Popped, err error) {
				ends++
				if d := time.Since(start); d != 3*time.Second || !errors.Is(err, eventloop.ErrTimeout) || errors.Is(err, redis.ErrUncertain) {
					t.Errorf("%v after %v, want a timeout after 3s", err, d)
				}
				end()
			})
		})
		l.OnExit(func() {
			if ends != 17 || s.connsSeen() != 1 {
				t.Errorf("%d results on %d connections, want 17 on 1", ends, s.connsSeen())
			}
		})
	})
}

// A connection that ends because its command was canceled is no failure, after which the
// client would wait before it connects again.
func TestACanceledBlockingCommandDoesNotDelayTheNext(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(*peer, []string) (string, bool) { return silence, true }}
	}
	law(t, server, redis.Options{MaxBlocking: 1}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		const n = 8
		ends := 0
		var next func()
		next = func() {
			ctx, cancel := context.WithTimeout(background(), 20*time.Millisecond)
			c.BLPop(ctx, -1, "k").Then(func(_ redis.Popped, err error) {
				cancel()
				if ends++; !errors.Is(err, redis.ErrUncertain) {
					t.Errorf("command %d was not sent: %v", ends, err)
				}
				if ends < n {
					next()
				}
			})
		}
		next()
		l.OnExit(func() {
			if sent := len(s.commandsSeen()); ends != n || sent != n {
				t.Errorf("%d results and %d commands sent, want %d", ends, sent, n)
			}
		})
	})
}

// The time of a command is its own, also on a connection that had a longer one before.
func TestABlockingCommandIsOverdueAfterItsOwnTime(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if p.count == 1 {
				return "*2\r\n" + bulk(args[1]) + bulk("v"), true
			}
			return silence, true
		}}
	}
	law(t, server, redis.Options{MaxBlocking: 1}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		ends := 0
		c.BLPop(background(), time.Hour, "k").Then(func(redis.Popped, error) {
			start := time.Now()
			c.BLPop(background(), time.Second, "k").Then(func(_ redis.Popped, err error) {
				ends++
				if d := time.Since(start); d != 6*time.Second || !errors.Is(err, eventloop.ErrTimeout) {
					t.Errorf("%v after %v, want a timeout after 6s", err, d)
				}
			})
		})
		l.OnExit(func() {
			if ends != 1 || s.connsSeen() != 1 {
				t.Errorf("%d results on %d connections", ends, s.connsSeen())
			}
		})
	})
}

// In a session the others wait behind a command that waits at the server. Neither is
// overdue because of that.
func TestACommandOfASessionMayWaitAtTheServer(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			switch args[0] {
			case "BLPOP":
				if args[2] == "0" {
					return p.after(time.Hour, "*-1\r\n")
				}
				return p.after(20*time.Second, "*-1\r\n")
			case "WAIT":
				return p.after(time.Minute, ":0\r\n")
			case "SILENT":
				return silence, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, _ *fake) {
		s := c.Session()
		ends := 0
		expect := func(args ...any) {
			s.Do(background(), args...).Then(func(_ redis.Reply, err error) {
				if ends++; err != nil {
					t.Errorf("%v: %v", args, err)
				}
			})
		}
		expect("BLPOP", "k", uint8(20))
		expect("ECHO", "x")
		expect("WAIT", "1", "60000")
		expect("ECHO", "x")
		expect("BLPOP", "k", 0)
		expect("ECHO", "x")
		l.AfterFunc(2*time.Hour, func() {
			start := time.Now()
			s.Do(background(), "SILENT").Then(func(_ redis.Reply, err error) {
				ends++
				if d := time.Since(start); d != 5*time.Second || !errors.Is(err, eventloop.ErrTimeout) {
					t.Errorf("%v after %v, want a timeout after 5s", err, d)
				}
			})
		})
		l.OnExit(func() {
			if ends != 7 {
				t.Errorf("%d results, want 7", ends)
			}
		})
	})
}

// Names of groups may be words of the command.
func TestAReadThatWaitsIsFoundWhateverTheNames(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "XREADGROUP" {
				return p.after(time.Minute, "_\r\n")
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		ends := 0
		for _, group := range []string{"streams", "block", "count", "group"} {
			c.XReadGroup(background(), "s", group, "streams", 1, time.Minute).Then(func(_ []redis.Entry, err error) {
				if ends++; err != redis.ErrNil {
					t.Errorf("group %q: %v", group, err)
				}
			})
		}
		start := time.Now()
		c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
			if ends++; err != nil || time.Since(start) > time.Second {
				t.Errorf("another command: %v after %v", err, time.Since(start))
			}
		})
		l.OnExit(func() {
			if ends != 5 {
				t.Errorf("%d results, want 5", ends)
			}
		})
	})
}
