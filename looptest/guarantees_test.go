package looptest_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// The guarantees of README that are about order, in 100 orders each. That nothing is
// left after Run is checked by every test here: a goroutine that is left fails it.

const orders = 100

func TestGuarantee1CallbacksNeverOverlap(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		inside := 0
		callback := func() {
			if inside++; inside != 1 {
				t.Error("two callbacks at once")
			}
			inside--
		}
		for i := range 3 {
			l.AfterFunc(time.Duration(i)*time.Millisecond, callback)
			l.Post(callback)
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) {
				l.Post(callback)
				return 0, nil
			}).Then(func(int, error) { callback() })
			if _, _, err := looptest.Pipe(t, l,
				&eventloop.ConnConfig{
					OnConnect: func(c *eventloop.Conn) { callback(); c.WriteString("x"); c.Close() },
					OnData:    func(*eventloop.Conn, []byte) { callback() },
					OnClose:   func(*eventloop.Conn) { callback() },
				},
				&eventloop.ConnConfig{
					OnData:  func(*eventloop.Conn, []byte) { callback() },
					OnEvent: func(*eventloop.Conn, error) { callback() },
					OnClose: func(*eventloop.Conn) { callback() },
				}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestGuarantee4PostsOfOneGoroutineRunInOrder(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		got := make([][]int, 3)
		for g := range got {
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) {
				for i := range 20 {
					l.Post(func() { got[g] = append(got[g], i) })
				}
				return 0, nil
			})
		}
		l.OnExit(func() {
			for g := range got {
				if len(got[g]) != 20 || !slices.IsSorted(got[g]) {
					t.Errorf("goroutine %d: %v", g, got[g])
				}
			}
		})
		return nil
	})
}

func TestGuarantee7CallbacksOfAConnectionComeInOrder(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 3*time.Millisecond)
		n.Split(3)
		ln, err := n.Listen("server:1")
		if err != nil {
			return err
		}
		calls := map[*eventloop.Conn]*strings.Builder{}
		data := map[*eventloop.Conn]string{}
		note := func(c *eventloop.Conn, what string) {
			if calls[c] == nil {
				calls[c] = &strings.Builder{}
			}
			if what != "data " || !strings.HasSuffix(calls[c].String(), what) {
				calls[c].WriteString(what)
			}
		}
		const clients = 3
		left := clients
		var s *eventloop.Listener
		s, err = l.Serve(ln, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { note(c, "connect ") },
			OnData:    func(c *eventloop.Conn, p []byte) { note(c, "data "); data[c] += string(p) },
			OnEvent: func(c *eventloop.Conn, err error) {
				note(c, "event ")
				if err != io.EOF {
					t.Error(err)
				}
			},
			OnClose: func(c *eventloop.Conn) {
				note(c, "close ")
				if left--; left == 0 {
					s.Close()
				}
			},
		})
		if err != nil {
			return err
		}
		for i := range clients {
			c, err := l.Dial(t.Context(), "tcp", "server:1", &eventloop.ConnConfig{
				Dial:   n.Dialer(fmt.Sprintf("client%d", i)),
				OnData: discard,
			})
			if err != nil {
				return err
			}
			c.WriteString("all of ")
			c.WriteString("this arrives")
			c.Close()
		}
		l.OnExit(func() {
			for c, b := range calls {
				if got, want := b.String(), "connect data event close "; got != want || data[c] != "all of this arrives" {
					t.Errorf("got %q and the data %q", got, data[c])
				}
			}
			if len(calls) != clients {
				t.Errorf("%d connections", len(calls))
			}
		})
		return nil
	})
}

func TestGuarantee8NoCallbackButOnCloseRunsAfterClose(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		for i := range 3 {
			closed, ended := false, 0
			check := func(what string) {
				if closed {
					t.Errorf("%s after Close", what)
				}
			}
			x, y, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
				OnConnect: func(*eventloop.Conn) { check("OnConnect") },
				OnData:    func(c *eventloop.Conn, p []byte) { check("OnData"); c.Write(p) },
				OnDrain:   func(*eventloop.Conn) { check("OnDrain") },
				OnEvent:   func(_ *eventloop.Conn, err error) { check("OnEvent " + err.Error()) },
				OnClose:   func(*eventloop.Conn) { ended++ },
			})
			if err != nil {
				return err
			}
			ticks, stopped := 0, false
			timer := l.Every(time.Millisecond, func() {
				if stopped {
					t.Error("a timer after Stop")
				}
				ticks++
				x.WriteString("ping")
			})
			l.AfterFunc(time.Duration(i)*time.Millisecond, func() {
				y.Close()
				closed = true
				timer.Stop()
				stopped = true
			})
			l.AfterFunc(time.Duration(i)*time.Millisecond, func() { x.Close() })
			l.OnExit(func() {
				if ended != 1 {
					t.Errorf("OnClose ran %d times", ended)
				}
			})
		}
		return nil
	})
}

func TestGuarantee9TimersFireInTheOrderOfTheirDeadlines(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		r := looptest.Rand(t)
		type timer struct {
			due    time.Duration
			number int
		}
		var want, got []timer
		start := time.Now()
		for i := range 40 {
			tm := timer{time.Duration(r.IntN(5)) * time.Millisecond, i}
			want = append(want, tm)
			l.AfterFunc(tm.due, func() {
				got = append(got, tm)
				if now := time.Since(start); now < tm.due {
					t.Errorf("a timer of %s fires after %s", tm.due, now)
				}
			})
			l.Post(func() {})
		}
		slices.SortStableFunc(want, func(a, b timer) int { return int(a.due - b.due) })
		l.OnExit(func() {
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
		return nil
	})
}
