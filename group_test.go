package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestGroupCallsStartOnceOnEachLoop(t *testing.T) {
	g := eventloop.NewGroup(3, nil)
	var mu sync.Mutex
	calls := make(map[*eventloop.Loop]int)
	err := g.Run(context.Background(), func(l *eventloop.Loop) error {
		mu.Lock()
		defer mu.Unlock()
		calls[l]++
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	for i, l := range g.Loops() {
		if got := calls[l]; got != 1 {
			t.Errorf("start was called %d times on loop %d, want once", got, i)
		}
	}
	if got := len(calls); got != 3 {
		t.Errorf("start was called on %d loops, want 3", got)
	}
}

func TestGroupWithoutASizeHasOneLoopPerProcessor(t *testing.T) {
	if got, want := len(eventloop.NewGroup(0, nil).Loops()), runtime.GOMAXPROCS(0); got != want {
		t.Errorf("%d loops, want %d", got, want)
	}
}

func TestGroupRunsUntilTheLastLoopHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(3, nil)
		began := time.Now()
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			for i, other := range g.Loops() {
				if l == other {
					l.AfterFunc(time.Duration(i)*time.Hour, func() {})
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if got, want := time.Since(began), 2*time.Hour; got != want {
			t.Errorf("Run returned after %v, want %v", got, want)
		}
	})
}

func TestGroupErrorOfStartEndsAllLoopsAndIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(3, nil)
		want := errors.New("bad start")
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			if l == g.Loops()[1] {
				return want
			}
			l.Hold()
			return nil
		})
		if err != want {
			t.Errorf("Run = %v, want %v", err, want)
		}
	})
}

func TestGroupPanicInACallbackLeavesRunAfterAllLoopsHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(3, nil)
		defer func() {
			pe, ok := recover().(*eventloop.PanicError)
			if !ok || pe.Value != "oops" {
				t.Errorf("recovered %v, want a PanicError of oops", pe)
			}
			for i, l := range g.Loops() {
				select {
				case <-l.Done():
				default:
					t.Errorf("loop %d still runs", i)
				}
			}
		}()
		g.Run(context.Background(), func(l *eventloop.Loop) error {
			l.Hold()
			if l == g.Loops()[2] {
				l.AfterFunc(time.Second, func() { panic("oops") })
			}
			return nil
		})
		t.Error("Run returned")
	})
}

func TestGroupGoexitInACallbackLeavesRunAsSuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(2, nil)
		exited := make(chan bool)
		go func() {
			returned := false
			defer func() { exited <- !returned }()
			g.Run(context.Background(), func(l *eventloop.Loop) error {
				l.Hold()
				if l == g.Loops()[0] {
					l.Post(runtime.Goexit)
				}
				return nil
			})
			returned = true
		}()
		if !<-exited {
			t.Error("Run returned, want the end of its goroutine")
		}
		for i, l := range g.Loops() {
			if err := l.Post(func() {}); err != eventloop.ErrLoopClosed {
				t.Errorf("Post to loop %d = %v, want ErrLoopClosed", i, err)
			}
		}
	})
}

func TestGroupContextEndsAllLoopsWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(time.Second, func() { cancel(want) })
		err := eventloop.NewGroup(3, nil).Run(ctx, func(l *eventloop.Loop) error {
			l.Hold()
			return nil
		})
		if err != want {
			t.Errorf("Run = %v, want %v", err, want)
		}
	})
}

func TestGroupStopEndsAllLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(3, nil)
		time.AfterFunc(time.Second, g.Stop)
		var exits atomic.Int32
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			l.Hold()
			l.OnExit(func() { exits.Add(1) })
			return nil
		})
		if err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if got := exits.Load(); got != 3 {
			t.Errorf("%d exit callbacks, want 3", got)
		}
	})
}

func TestGroupStopBeforeRunMakesItReturnAtOnce(t *testing.T) {
	g := eventloop.NewGroup(2, nil)
	g.Stop()
	err := g.Run(context.Background(), func(*eventloop.Loop) error {
		t.Error("start was called")
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestGroupShutdownLetsPendingWorkFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(2, logged(t, nil))
		var fired atomic.Int32
		time.AfterFunc(time.Second, func() { g.Shutdown(-1) })
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			l.Every(100*time.Millisecond, func() {})
			l.AfterFunc(time.Hour, func() { fired.Add(1) })
			return nil
		})
		if err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if got := fired.Load(); got != 2 {
			t.Errorf("%d timers fired, want 2", got)
		}
	})
}

func TestGroupLoopStoppedAloneLeavesTheOthersRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := eventloop.NewGroup(2, nil)
		fired := false
		err := g.Run(context.Background(), func(l *eventloop.Loop) error {
			l.Hold()
			if l == g.Loops()[0] {
				l.Stop()
				return nil
			}
			l.AfterFunc(time.Hour, func() {
				fired = true
				l.Stop()
			})
			return nil
		})
		if err != nil || !fired {
			t.Errorf("Run = %v, timer fired: %v; want nil and true", err, fired)
		}
	})
}

func TestGroupRunsOnce(t *testing.T) {
	g := eventloop.NewGroup(2, nil)
	again := make(chan error, 2)
	if err := g.Run(context.Background(), func(l *eventloop.Loop) error {
		again <- g.Run(context.Background(), func(*eventloop.Loop) error { return nil })
		return nil
	}); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	for range 2 {
		if err := <-again; err != eventloop.ErrRunning {
			t.Errorf("Run while running = %v, want ErrRunning", err)
		}
	}
	err := g.Run(context.Background(), func(*eventloop.Loop) error { return nil })
	if err != eventloop.ErrLoopClosed {
		t.Errorf("Run afterwards = %v, want ErrLoopClosed", err)
	}
	if err := eventloop.NewGroup(1, nil).Run(context.Background(), nil); err == nil {
		t.Error("Run of a nil start = nil, want an error")
	}
}

func TestGroupNumbersTheNamesOfItsLoops(t *testing.T) {
	g := eventloop.NewGroup(2, &eventloop.Config{Name: "web"})
	for i, want := range []string{"web/0", "web/1"} {
		if got := eventloop.LoopName(g.Loops()[i]); got != want {
			t.Errorf("name = %q, want %q", got, want)
		}
	}
}

// TestGroupStatsIncludesEveryFigure sets each figure to 1 in one set and to 2 in the
// other: the total is 3, or 2 for figures that are a maximum.
func TestGroupStatsIncludesEveryFigure(t *testing.T) {
	var sum, other eventloop.Stats
	for _, f := range figures(&sum) {
		setNumber(f, 1)
	}
	for _, f := range figures(&other) {
		setNumber(f, 2)
	}
	eventloop.AddStats(&sum, &other)
	worst := map[string]bool{"Loop.QueuePeak": true, "Loop.LagP50": true, "Loop.LagP99": true, "Loop.LagMax": true}
	for name, f := range figures(&sum) {
		want := 3
		if worst[name] {
			want = 2
		}
		if got := number(f); got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
	for name := range worst {
		if !figures(&sum)[name].IsValid() {
			t.Errorf("there is no figure %s", name)
		}
	}
}

// figures returns the fields of the groups of s by their names, such as
// "Loop.Timers".
func figures(s *eventloop.Stats) map[string]reflect.Value {
	all := map[string]reflect.Value{}
	for group, v := range reflect.ValueOf(s).Elem().Fields() {
		for f, v := range v.Fields() {
			all[group.Name+"."+f.Name] = v
		}
	}
	return all
}

func setNumber(v reflect.Value, n int) {
	if v.CanInt() {
		v.SetInt(int64(n))
	} else {
		v.SetUint(uint64(n))
	}
}

func number(v reflect.Value) int {
	if v.CanInt() {
		return int(v.Int())
	}
	return int(v.Uint())
}

func TestGroupServesOneListenerFromAllLoops(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	g := eventloop.NewGroup(2, nil)
	served := make(chan error, 1)
	shared := eventloop.ListenConfig{Shared: true}
	up := make(chan error, 2)
	go func() {
		served <- g.Run(context.Background(), func(l *eventloop.Loop) error {
			_, err := shared.Serve(l, ln, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
			})
			up <- err
			return err
		})
	}()
	for range g.Loops() { // after an error the other loop may never start
		if err := wait(t, up, "start of a loop"); err != nil {
			t.Fatalf("Serve = %v; Run = %v", err, wait(t, served, "end of the group"))
		}
	}
	const conns = 64
	for range conns {
		echoOnce(t, ln.Addr().String())
	}
	if got := g.Stats().Conns.AcceptedTotal; got != conns {
		t.Errorf("AcceptedTotal = %d, want %d", got, conns)
	}
	if got := g.Stats().Conns.Listeners; got != 2 {
		t.Errorf("Listeners = %d, want 2", got)
	}
	g.Shutdown(-1)
	if err := <-served; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func echoOnce(t *testing.T, addr string) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := nc.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(nc, answer); err != nil || string(answer) != "ping" {
		t.Fatalf("reply = %q, %v; want ping", answer, err)
	}
}
