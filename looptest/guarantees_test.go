package looptest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// A guarantee about calls: whatever they lead to happens later.
func TestGuarantee2NoCallRunsUserCode(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		calling, ran := false, 0
		callback := func() {
			if ran++; calling {
				t.Error("a callback runs inside of a call")
			}
		}
		call := func(f func()) {
			calling = true
			f()
			calling = false
		}
		cfg := &eventloop.ConnConfig{
			OnConnect: func(*eventloop.Conn) { callback() },
			OnData: func(c *eventloop.Conn, p []byte) {
				callback()
				call(func() { c.Write(p); c.Close() })
			},
			OnDrain: func(*eventloop.Conn) { callback() },
			OnEvent: func(*eventloop.Conn, error) { callback() },
			OnClose: func(*eventloop.Conn) { callback() },
		}
		for range 2 {
			call(func() {
				l.Post(callback)
				l.AfterFunc(0, callback)
				f, resolve := eventloop.NewFuture[int](l)
				f.Then(func(int, error) { callback() })
				resolve(1, nil)
				f.Then(func(int, error) { callback() })
				eventloop.Work(t.Context(), l, func(context.Context) (int, error) { return 1, nil }).Then(func(int, error) { callback() })
				l.Go(t.Context(), func(*eventloop.Task) error { callback(); return nil })
				x, y, err := looptest.Pipe(t, l, cfg, cfg)
				if err != nil {
					t.Error(err)
					return
				}
				x.WriteString("hello")
				y.Flushed().Then(func(struct{}, error) { callback() })
				l.OnExit(callback)
			})
		}
		l.OnExit(func() {
			if ran < 2*12 {
				t.Errorf("%d callbacks", ran)
			}
		})
		return nil
	})
}

// Dials that fail in every way, at the same instants.
func TestGuarantee3EveryFailureIsReportedOnce(t *testing.T) {
	loopEvents := 0
	cfg := &eventloop.Config{EventHandler: func(error) { loopEvents++ }}
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 2*time.Millisecond)
		if err := n.Script("rude:1", looptest.Expect("hello"), looptest.Reset()); err != nil {
			return err
		}
		if err := n.Script("far:1"); err != nil {
			return err
		}
		n.Cut("client", "far")
		ctx, cancel := context.WithCancel(t.Context())
		l.AfterFunc(time.Second, cancel)
		loopEvents = 0
		for _, address := range []string{"rude:1", "closed:1", "far:1", "far:1"} {
			events, closes := 0, 0
			dialing := t.Context()
			if address == "far:1" {
				dialing = ctx
			}
			c, err := l.Dial(dialing, "tcp", address, &eventloop.ConnConfig{
				Dial:           n.Dialer("client"),
				ConnectTimeout: time.Second,
				OnEvent: func(_ *eventloop.Conn, err error) {
					if events++; err == io.EOF {
						t.Error(err)
					}
				},
				OnClose: func(*eventloop.Conn) { closes++ },
			})
			if err != nil {
				return err
			}
			c.WriteString("hello\n")
			if _, err := l.Dial(ctx, "tcp", "no address", &eventloop.ConnConfig{
				OnEvent: func(*eventloop.Conn, error) { events++ },
				OnClose: func(*eventloop.Conn) { closes++ },
			}); err == nil {
				t.Error("a dial without an address succeeds")
			}
			l.OnExit(func() {
				if events != 1 || closes != 1 || loopEvents != 0 {
					t.Errorf("%s: %d events, %d calls of OnClose, %d events of the loop", address, events, closes, loopEvents)
				}
			})
		}
		return nil
	}, looptest.Config(cfg))
}

func TestGuarantee5RunReturnsAsSoonAsNothingKeepsTheLoopAlive(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		var last time.Time
		over := func() { last = time.Now() }
		n := looptest.NewNet(t)
		n.Latency(0, time.Second)
		ln, err := n.Listen("server:1")
		if err != nil {
			return err
		}
		s, err := l.Serve(ln, &eventloop.ConnConfig{OnData: discard, OnClose: func(*eventloop.Conn) { over() }})
		if err != nil {
			return err
		}
		for i := range 3 {
			c, err := l.Dial(t.Context(), "tcp", "server:1", &eventloop.ConnConfig{
				Dial:    n.Dialer("client"),
				OnData:  discard,
				OnClose: func(*eventloop.Conn) { over() },
			})
			if err != nil {
				return err
			}
			l.AfterFunc(time.Duration(i)*time.Second, func() { over(); c.Close() })
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) {
				time.Sleep(time.Duration(i) * time.Second)
				return 0, nil
			}).Then(func(int, error) { over() })
		}
		l.Every(time.Minute, func() { t.Error("the loop goes on") }).Unref()
		l.AfterFunc(2*time.Second, func() { over(); s.Close() })
		l.OnExit(func() {
			if d := time.Since(last); d > 10*time.Millisecond {
				t.Errorf("the loop ends %s after the last callback", d)
			}
		})
		return nil
	})
}

// What is left would fail the test.
func TestGuarantee6NothingIsLeftAfterAStop(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 5*time.Millisecond)
		ln, err := n.Listen("server:1")
		if err != nil {
			return err
		}
		closes, conns := 0, 0
		cfg := eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.WriteString("hello") },
			OnData:    func(c *eventloop.Conn, p []byte) { c.Write(p) },
			OnClose:   func(*eventloop.Conn) { closes++ },
		}
		accepted := cfg
		accepted.OnConnect = func(c *eventloop.Conn) { conns++; cfg.OnConnect(c) }
		if _, err := l.Serve(ln, &accepted); err != nil {
			return err
		}
		cfg.Dial = n.Dialer("client")
		for range 3 {
			conns++
			if _, err := l.Dial(t.Context(), "tcp", "server:1", &cfg); err != nil {
				return err
			}
			eventloop.Work(t.Context(), l, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil })
			eventloop.Receive(l, make(chan int), func(int, bool) {})
			eventloop.SendTo(l, make(chan int)).Send(1)
			l.Go(t.Context(), func(t *eventloop.Task) error { return t.Sleep(time.Hour) }).Ignore()
		}
		l.AfterFunc(time.Duration(looptest.Rand(t).IntN(30))*time.Millisecond, l.Stop)
		l.OnExit(func() {
			if closes < conns {
				t.Errorf("OnClose ran %d times, of %d connections", closes, conns)
			}
		})
		return nil
	})
}

// A client that sends without end, to a server that reads for a second and then pauses.
func TestGuarantee10MemoryIsBounded(t *testing.T) {
	const most, window = 5000, 1000
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 10*time.Millisecond)
		n.Split(300)
		n.Window(window)
		ln, err := n.Listen("server:1")
		if err != nil {
			return err
		}
		got, sent := 0, 0
		var s *eventloop.Listener
		s, err = l.Serve(ln, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { l.AfterFunc(time.Second, c.PauseReading) },
			OnData:    func(c *eventloop.Conn, p []byte) { got += len(p) },
		})
		if err != nil {
			return err
		}
		c, err := l.Dial(t.Context(), "tcp", "server:1", &eventloop.ConnConfig{
			Dial: n.Dialer("client"), OnData: discard, MaxBuffered: most,
		})
		if err != nil {
			return err
		}
		refused := 0
		l.Every(10*time.Millisecond, func() {
			if n, err := c.Write(make([]byte, 700)); err == nil {
				sent += n
			} else if errors.Is(err, eventloop.ErrBufferFull) {
				refused++
			} else {
				t.Error(err)
			}
			if p := c.Buffered(); p > most {
				t.Errorf("%d bytes are pending", p)
			}
		}).Unref()
		l.AfterFunc(10*time.Second, func() {
			if refused == 0 || sent-got > most+window+64<<10 {
				t.Errorf("%d bytes were sent and %d received; %d writes refused", sent, got, refused)
			}
			s.Close()
			l.Stop()
		})
		return nil
	})
}

// Peers that break the rules of TCP, of HTTP and of TLS, beside one that does not.
func TestGuarantee11NoPeerStopsTheLoop(t *testing.T) {
	quiet := &eventloop.Config{Logger: slog.New(slog.DiscardHandler)} // the default handler
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 3*time.Millisecond)
		n.Split(7)
		web, err := n.Listen("web:80")
		if err != nil {
			return err
		}
		s, err := l.ServeHTTP(web, func(r *eventloop.HTTPRequest) { r.RespondText(200, "fine") }, nil)
		if err != nil {
			return err
		}
		plain, err := n.Listen("plain:1")
		if err != nil {
			return err
		}
		echo, err := l.Serve(plain, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) }})
		if err != nil {
			return err
		}
		for i, bad := range []string{"\x00\x01\x02\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "GET"} {
			n.ScriptClient(fmt.Sprintf("bad%d", i), "web:80", looptest.Reply(bad), looptest.Delay(5*time.Millisecond), looptest.Reset())
			n.ScriptClient(fmt.Sprintf("rude%d", i), "plain:1", looptest.Reply(bad), looptest.Reset())
		}
		n.ScriptClient("good", "web:80", looptest.Delay(5*time.Millisecond), looptest.Request("GET", "/", ""), looptest.ExpectResponse(200, "fine"))
		n.ScriptClient("good", "plain:1", looptest.Delay(5*time.Millisecond), looptest.Reply("hello\n"), looptest.Expect("hello"))
		l.AfterFunc(time.Second, func() { s.Close(); echo.Close() })
		return nil
	}, looptest.Config(quiet))
}

func TestGuarantee12APanicIsAnEventOnce(t *testing.T) {
	panics := 0
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
		if _, ok := errors.AsType[*eventloop.PanicError](err); ok {
			panics++
		}
	}}
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		panics = 0
		l.Post(func() { panic(1) })
		l.AfterFunc(time.Millisecond, func() { panic(2) })
		l.Go(t.Context(), func(*eventloop.Task) error { panic(3) })
		x, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
			OnData:  func(*eventloop.Conn, []byte) { panic(4) },
			OnClose: func(*eventloop.Conn) { panic(5) },
		})
		if err != nil {
			return err
		}
		x.WriteString("hello")
		eventloop.Work(t.Context(), l, func(context.Context) (int, error) { return 0, nil }).Then(func(int, error) { panic(6) })
		l.AfterFunc(time.Minute, func() { // the loop goes on
			if panics != 6 {
				t.Errorf("%d panics are events", panics)
			}
		})
		return nil
	}, looptest.Config(cfg))
}

func TestGuarantee13MethodsMayBeCalledFromAnyGoroutineAndCallback(t *testing.T) {
	looptest.Seeds(t, orders, func(t *testing.T, l *eventloop.Loop) error {
		timer := l.AfterFunc(time.Second, func() {})
		var x, y *eventloop.Conn
		all := []func(){
			func() { x.WriteString("a") },
			func() { y.WriteString("b") },
			func() { x.PauseReading(); x.ResumeReading() },
			func() { x.Flushed(); x.Connected() },
			func() { x.SetTimeouts(time.Minute, time.Minute) },
			func() { y.CloseWrite() },
			func() {
				x.Buffered()
				x.NeedDrain()
				x.Err()
				x.Closed()
				x.LocalAddr()
				x.RemoteAddr()
			},
			func() { timer.Reset(time.Millisecond) },
			func() { timer.Stop() },
			func() { l.Stats() },
			func() {
				for range l.Handles() {
				}
			},
			func() { l.AfterFunc(time.Millisecond, func() {}).Unref() },
			func() { x.Close() },
			func() { y.Abort() },
		}
		r := looptest.Rand(t)
		next := func() { all[r.IntN(len(all))]() }
		cfg := &eventloop.ConnConfig{
			OnConnect: func(*eventloop.Conn) { next() },
			OnData:    func(*eventloop.Conn, []byte) { next() },
			OnEvent:   func(*eventloop.Conn, error) { next() },
			OnDrain:   func(*eventloop.Conn) { next() },
			OnClose:   func(*eventloop.Conn) { next() },
		}
		var err error
		if x, y, err = looptest.Pipe(t, l, cfg, cfg); err != nil {
			return err
		}
		for i := range 3 {
			order := r.Perm(len(all))
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for _, f := range order {
					all[f]()
				}
				return 0, nil
			}).Then(func(_ int, err error) {
				if err != nil {
					t.Error(err)
				}
				next()
			})
		}
		l.AfterFunc(time.Second, func() { x.Abort(); y.Abort() })
		return nil
	}, looptest.Config(&eventloop.Config{EventHandler: func(error) {}}))
}
