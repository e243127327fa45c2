package redis_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

func TestATransactionIsExecutedAsAWhole(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		tx := c.Tx()
		n := tx.Incr(ctx, "n")
		tx.Set(ctx, "k", "v")
		got := redis.Do[string](ctx, tx, "GET", "k")
		between := c.Get(ctx, "k") // before EXEC
		replies, err := tx.Exec(ctx).Await(task)
		if err != nil || len(replies) != 3 || replies[0].String() != "1" {
			t.Errorf("Exec: %v, %v", replies, err)
		}
		want(t, task, n, 1)
		want(t, task, got, "v")
		wantNil(t, task, between)
		if _, err := tx.Exec(ctx).Await(task); err == nil {
			t.Error("a second Exec succeeds")
		}
		if _, err := tx.Incr(ctx, "n").Await(task); err == nil {
			t.Error("a command after Exec succeeds")
		}
		want(t, task, c.Tx().Exec(ctx), nil)
	})
}

func TestATransactionReportsTheFirstCommandThatFails(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		tx := c.Tx()
		tx.Set(ctx, "k", "text")
		bad := tx.Incr(ctx, "k")
		last := tx.Set(ctx, "after", 1)
		replies, err := tx.Exec(ctx).Await(task)
		if e, ok := errors.AsType[*redis.Error](err); !ok || e.Code() != "ERR" || len(replies) != 3 || replies[1].Err() == nil {
			t.Errorf("Exec: %v, %v", replies, err)
		}
		if _, err := bad.Await(task); err == nil {
			t.Error("the command succeeds")
		}
		want(t, task, last, done)
		want(t, task, c.Get(ctx, "after"), "1")
	})
}

func TestATransactionThatTheServerRefusesIsNotExecuted(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		tx := c.Tx()
		set := tx.Set(ctx, "k", 1)
		tx.Do(ctx, "NO-SUCH-COMMAND")
		_, err := tx.Exec(ctx).Await(task)
		if e, ok := errors.AsType[*redis.Error](err); !ok || e.Code() != "ERR" {
			t.Errorf("Exec: %v", err)
		}
		if _, err := set.Await(task); err == nil {
			t.Error("Set succeeds")
		}
		wantNil(t, task, c.Get(ctx, "k"))

		tx = c.Tx()
		set = tx.Set(ctx, "k", struct{}{})
		if _, err := tx.Exec(ctx).Await(task); err == nil {
			t.Error("Exec with a bad argument succeeds")
		}
		if _, err := set.Await(task); err == nil {
			t.Error("Set with a bad argument succeeds")
		}

		tx = c.Tx()
		set = tx.Set(ctx, "k", 1)
		tx.Discard()
		if _, err := set.Await(task); err == nil {
			t.Error("Set of a discarded transaction succeeds")
		}
		wantNil(t, task, c.Get(ctx, "k"))
	})
}

func TestALaterCallSaysHowTheTransactionHasEnded(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		for how, end := range map[string]func(tx *redis.Tx){
			"discarded":    func(tx *redis.Tx) { tx.Discard() },
			"sent already": func(tx *redis.Tx) { tx.Exec(ctx).Await(task); tx.Discard() },
		} {
			tx := c.Tx()
			tx.Get(ctx, "k")
			end(tx)
			for range 2 {
				_, err := tx.Exec(ctx).Await(task)
				_, late := tx.Get(ctx, "k").Await(task)
				for _, err := range []error{err, late} {
					if err == nil || !strings.Contains(err.Error(), how) {
						t.Errorf("got %v, want %q", err, how)
					}
				}
			}
		}
	})
}

// A transaction must not be executed without one of its commands.
func TestATransactionWithAnInvalidCommandIsNotSent(t *testing.T) {
	law(t, anyServer, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		for name, add := range map[string]func(tx *redis.Tx){
			"argument": func(tx *redis.Tx) { tx.Set(background(), "k", []any{1, struct{}{}}) },
			"refused":  func(tx *redis.Tx) { tx.Do(background(), "SUBSCRIBE", "c") },
			"options":  func(tx *redis.Tx) { tx.SetWith(background(), "k", 1, redis.SetOptions{TTL: -1}) },
			"count":    func(tx *redis.Tx) { tx.XRange(background(), "s", "-", "+", -1) },
		} {
			tx := c.Tx()
			tx.Incr(background(), "n").Then(func(_ int64, err error) {
				if err == nil {
					t.Errorf("%s: another command succeeds", name)
				}
			})
			add(tx)
			tx.Exec(background()).Then(func(_ []redis.Reply, err error) {
				if err == nil {
					t.Errorf("%s: Exec succeeds", name)
				}
			})
		}
		l.OnExit(func() {
			if seen := s.commandsSeen(); len(seen) > 0 {
				t.Errorf("%q was sent", seen)
			}
		})
	})
}

func TestAScanInATransactionFailsAtOnce(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		results := 0
		for key, err := range c.Tx().Scan(task, redis.ScanOptions{}) {
			if results++; err == nil {
				t.Errorf("Scan found %q", key)
			}
		}
		for key, err := range c.Scan(task, redis.ScanOptions{Count: -1}) {
			if results++; err == nil {
				t.Errorf("Scan with a negative count found %q", key)
			}
		}
		if results != 2 {
			t.Errorf("%d results, want 2", results)
		}
	})
}

func TestWatchBeginsAnewWhenAKeyHasChanged(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		c.Set(ctx, "n", 1).Await(task)
		calls := 0
		err := c.Watch(task, []string{"n"}, func(s *redis.Session, tx *redis.Tx) error {
			n, err := redis.Do[int](task.Context(), s, "GET", "n").Await(task)
			if err != nil {
				return err
			}
			if calls++; calls < 3 {
				c.Set(ctx, "n", 10*calls).Await(task) // another client
			}
			tx.Set(ctx, "n", n+1)
			return nil
		})
		if err != nil || calls != 3 {
			t.Errorf("Watch: %v after %d calls", err, calls)
		}
		want(t, task, c.Get(ctx, "n"), "21")

		changed := errors.New("changed my mind")
		if err := c.Watch(task, []string{"n"}, func(*redis.Session, *redis.Tx) error { return changed }); err != changed {
			t.Errorf("Watch: %v", err)
		}
	})
}

func TestASessionHasAStateOfItsOwn(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		s := c.Session()
		defer s.Close()
		want(t, task, redis.Do[string](ctx, s, "SELECT", 3), "OK")
		want(t, task, s.Set(ctx, "k", "in 3"), done)
		wantNil(t, task, c.Get(ctx, "k"))
		want(t, task, redis.Do[int](ctx, s, "WAIT", 0, 10), 0)
		want(t, task, s.Watch(ctx, "k"), done)
		want(t, task, s.Unwatch(ctx), done)
		want(t, task, s.Watch(ctx, "k"), done)
		want(t, task, s.Set(ctx, "k", 2), done)
		tx := s.Tx()
		got := tx.Get(ctx, "k")
		if _, err := tx.Exec(ctx).Await(task); err != redis.ErrConflict {
			t.Errorf("Exec: %v", err)
		}
		if _, err := got.Await(task); err != redis.ErrConflict {
			t.Errorf("Get: %v", err)
		}
		want(t, task, s.FlushDB(ctx), done)
	})
}

func TestWhatWouldBreakTheSharedConnectionIsRefused(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		s := c.Session()
		defer s.Close()
		for _, args := range [][]any{
			{"SUBSCRIBE", "x"}, {"psubscribe", "x"}, {"MONITOR"}, {"MULTI"}, {"exec"}, {"HELLO", 2}, {"RESET"}, {"QUIT"}, {"SYNC"},
			{"CLIENT", "REPLY", "OFF"}, {[]byte("Client"), []byte("tracking"), "on"},
			{"SCRIPT", "DEBUG", "YES"}, {"REPLCONF", "ACK", 0}, // which has no reply
		} {
			for name, x := range map[string]redis.Runner{"client": c, "session": s, "tx": c.Tx()} {
				if _, err := redis.Do[redis.Reply](ctx, x, args...).Await(task); err == nil {
					t.Errorf("%s: %v is sent", name, args)
				}
			}
			if err := c.Send(args...); err == nil {
				t.Errorf("%v is sent by Send", args)
			}
		}
		for _, args := range [][]any{{"SELECT", 1}, {"WATCH", "k"}, {"UNWATCH"}, {"AUTH", "x"}, {"WAIT", 0, 0}} {
			if _, err := c.Do(ctx, args...).Await(task); err == nil {
				t.Errorf("%v is sent", args)
			}
			tx := c.Tx()
			if _, err := tx.Do(ctx, args...).Await(task); err == nil {
				t.Errorf("%v is sent in a transaction on the connection that all commands share", args)
			}
			tx.Set(ctx, "k", "v")
			if _, err := tx.Exec(ctx).Await(task); err == nil || !strings.Contains(err.Error(), "cannot be sent by Do") {
				t.Errorf("Exec of a transaction with %v: %v", args, err)
			}
		}
		wantNil(t, task, c.Get(ctx, "k"))
		if err := c.Send("BLPOP", "k", 0); err == nil {
			t.Error("BLPOP is sent by Send")
		}
		for _, args := range [][]any{{}, {"SET", "k", nil}, {"SET", "k", struct{}{}}} {
			if _, err := c.Do(ctx, args...).Await(task); err == nil {
				t.Errorf("%v is sent", args)
			}
		}
		want(t, task, c.Ping(ctx), "PONG")
	})
}

func TestAScriptIsSentByItsHashFirst(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		script := redis.NewScript(fmt.Sprintf("-- %d\nreturn {KEYS[1], ARGV[1], tonumber(ARGV[2])}", time.Now().UnixNano()))
		for i := range 3 {
			r, err := script.Run(ctx, c, []string{"key"}, "arg", i).Await(task)
			if got := fmt.Sprint(r, err); got != fmt.Sprintf(`["key" "arg" %d] <nil>`, i) {
				t.Errorf("Run: %s", got)
			}
		}
		want(t, task, redis.Do[[]bool](ctx, c, "SCRIPT", "EXISTS", script.Hash()), []bool{true})
		tx := c.Tx()
		inTx := script.Run(ctx, tx, []string{"key"}, "arg", 7)
		if _, err := tx.Exec(ctx).Await(task); err != nil {
			t.Error(err)
		}
		if r, err := inTx.Await(task); err != nil || r.At(2).String() != "7" {
			t.Errorf("in a transaction: %v, %v", r, err)
		}
		writes := redis.NewScript("return redis.call('SET', KEYS[1], 1)")
		want(t, task, writes.Load(ctx, c), done)
		if _, err := writes.RunReadOnly(ctx, c, []string{"k"}).Await(task); err == nil {
			t.Error("a read-only script writes")
		}
		if _, err := redis.NewScript("this is no Lua").Run(ctx, c, nil).Await(task); err == nil {
			t.Error("a script with an error runs")
		}
	})
}

// A script was taken when it was sent by its hash. Neither Close nor a full queue fails
// it when its source has to be sent.
func TestAScriptThatWasTakenIsFinished(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(_ *peer, args []string) (string, bool) {
			switch args[0] {
			case "EVALSHA":
				return "-NOSCRIPT No matching script\r\n", true
			case "EVAL":
				return ":7\r\n", true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{MaxPending: 3}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		ends := 0
		for range 3 {
			redis.NewScript("return 7").Run(background(), c, nil).Then(func(r redis.Reply, err error) {
				if ends++; err != nil || r.String() != "7" {
					t.Error(r, err)
				}
			})
		}
		c.Close().Then(func(_ struct{}, err error) {
			if ends++; err != nil || ends != 4 {
				t.Errorf("closed after %d results: %v", ends-1, err)
			}
		})
		l.OnExit(func() {
			if ends != 4 {
				t.Errorf("%d results, want 4", ends)
			}
		})
	})
}

func TestASessionIsOverWithItsConnection(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "DIE" {
				return hangUp, true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		session := c.Session()
		var results []bool
		note := func(_ redis.Reply, err error) { results = append(results, err == nil) }
		session.Do(background(), "ECHO", 1).Then(note)
		session.Do(background(), "DIE").Then(func(r redis.Reply, err error) {
			note(r, err)
			if !errors.Is(err, redis.ErrUncertain) {
				t.Error(err)
			}
			session.Do(background(), "ECHO", 2).Then(note)
		})
		l.OnExit(func() {
			if !slices.Equal(results, []bool{true, false, false}) || s.connsSeen() != 1 {
				t.Errorf("results %v, %d connections", results, s.connsSeen())
			}
		})
	})
}

// A restarting server refuses connections, closes those that it has accepted, and loads its
// data. The session has sent no command until its handshake is complete.
func TestWatchWaitsForAServerThatRestarts(t *testing.T) {
	server := func() *fake {
		return &fake{hello: func(p *peer, args []string) string {
			switch p.number {
			case 1:
				return hangUp
			case 2:
				return "-LOADING Redis is loading the dataset in memory\r\n"
			}
			p.proto = 3
			return "%1\r\n+proto\r\n:3\r\n"
		}, command: func(p *peer, args []string) (string, bool) {
			switch args[0] {
			case "WATCH", "MULTI":
				return "+OK\r\n", true
			case "SET":
				return "+QUEUED\r\n", true
			case "EXEC":
				return "*1\r\n+OK\r\n", true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		l.Go(background(), func(task *eventloop.Task) error {
			calls := 0
			err := c.Watch(task, []string{"k"}, func(session *redis.Session, tx *redis.Tx) error {
				calls++
				tx.Set(task.Context(), "k", "v")
				return nil
			})
			want := []string{"WATCH k", "MULTI", "SET k v", "EXEC"}
			if err != nil || calls != 1 || s.connsSeen() != 3 || !slices.Equal(s.commandsSeen(), want) {
				t.Errorf("%v after %d calls and %d connections; the server got %q", err, calls, s.connsSeen(), s.commandsSeen())
			}
			return nil
		})
	})
}

func TestACommandOfASessionWaitsForAConnectionWithinItsTimeout(t *testing.T) {
	server := func() *fake {
		return &fake{hello: func(*peer, []string) string { return hangUp }}
	}
	law(t, server, redis.Options{Timeout: time.Second}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		session, start := c.Session(), time.Now()
		n := settled(session.Get(background(), "k"), func(_ string, err error) {
			if !errors.Is(err, eventloop.ErrTimeout) || !errors.Is(err, io.EOF) || errors.Is(err, redis.ErrUncertain) || time.Since(start) != time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
		closing := c.Session()
		m := settled(closing.Get(background(), "k"), func(_ string, err error) {
			if !errors.Is(err, eventloop.ErrTimeout) {
				t.Error(err)
			}
		})
		closing.Close()
		l.OnExit(func() {
			if *n != 1 || *m != 1 {
				t.Errorf("%d and %d results", *n, *m)
			}
		})
	})
}

// A session whose handshake the server refuses has lost nothing: it connects again for the
// next command.
func TestASessionThatIsRefusedMayConnectAgain(t *testing.T) {
	law(t, refusingFirst, redis.Options{DB: 99}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		session := c.Session()
		var ends []string
		session.Get(background(), "k").Then(func(_ string, err error) {
			ends = append(ends, fmt.Sprint(errors.As(err, new(*redis.Error))))
			session.Get(background(), "k").Then(func(_ string, err error) {
				ends = append(ends, fmt.Sprint(err == redis.ErrNil))
			})
		})
		l.OnExit(func() {
			if !slices.Equal(ends, []string{"true", "true"}) || s.connsSeen() != 2 {
				t.Errorf("%v, %d connections", ends, s.connsSeen())
			}
		})
	})
}

func TestATransactionThatIsCanceledSettlesAllItsFutures(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			switch args[0] {
			case "MULTI":
				p.store["multi"] = ""
				return "+OK\r\n", true
			case "EXEC":
				return "*2\r\n:1\r\n:2\r\n", true
			case "INCR":
				return "+QUEUED\r\n", true
			}
			return "", false
		}}
	}
	law(t, server, redis.Options{}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		rng := looptestRand(t)
		settledCount := 0
		const n = 20
		for i := range n {
			ctx, cancel := context.WithCancel(background())
			l.AfterFunc(time.Duration(rng.IntN(3000))*time.Microsecond, func() {
				tx := c.Tx()
				check := func(_ int64, err error) {
					settledCount++
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				}
				tx.Incr(ctx, "a").Then(check)
				tx.Incr(ctx, "b").Then(check)
				tx.Exec(ctx).Then(func(r []redis.Reply, err error) {
					settledCount++
					if err == nil && len(r) != 2 || err != nil && !errors.Is(err, context.Canceled) {
						t.Error(r, err)
					}
				})
			})
			l.AfterFunc(time.Duration(rng.IntN(6000))*time.Microsecond, cancel)
			c.Do(background(), "ECHO", i).Then(func(r redis.Reply, err error) {
				if m, _ := r.Int(); err != nil || int(m) != i {
					t.Errorf("%v, %v, want %d", r, err, i)
				}
			})
		}
		l.OnExit(func() {
			if settledCount != 3*n {
				t.Errorf("%d futures have settled, want %d", settledCount, 3*n)
			}
		})
	})
}
