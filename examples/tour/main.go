// Tour shows a loop at work. It uses no other machine:
//
//	go run ./examples/tour
//
// Read its output first, and then this file from top to bottom. Each chapter of the
// output is a function.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

// A tour is the state of the program. Callbacks and tasks share it without
// locks, because only one of them runs at a time.
type tour struct {
	loop   *eventloop.Loop
	began  time.Time
	tcp    *eventloop.Listener
	unix   *eventloop.Listener
	echoes int
	failed error
}

func main() {
	// Package os/signal starts a goroutine at its first use, and keeps it. Use it now.
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, os.Interrupt)
	signal.Stop(sig)

	before := runtime.NumGoroutine()
	r := &tour{began: time.Now()}
	cfg := &eventloop.Config{
		Name:        "tour",
		CatchPanics: true,
		EventHandler: func(err error) { // errors that no other callback handles
			if eventloop.IsInfo(err) {
				return // a client closed its connection
			}
			if p, ok := errors.AsType[*eventloop.PanicError](err); ok {
				err = fmt.Errorf("a panic: %v", p.Value)
			}
			r.say("the event handler got %v", err)
		},
	}
	err := eventloop.Run(context.Background(), cfg, r.start)
	if err = cmp.Or(err, r.failed); err != nil {
		fmt.Fprintln(os.Stderr, "tour:", err)
		os.Exit(1)
	}
	r.say("Run returned nil. Goroutines before: %d, now: %d.", before, runtime.NumGoroutine())
}

// start runs on the loop. It starts a task, which runs the chapters one after another.
// While the task waits, the loop continues.
func (r *tour) start(l *eventloop.Loop) error {
	r.loop = l
	l.OnExit(func() { r.say("the exit callback: everything is closed") })
	l.Go(context.Background(), func(t *eventloop.Task) error {
		for _, chapter := range []struct {
			title string
			tell  func(t *eventloop.Task) error
		}{
			{"One loop, one goroutine", r.turns},
			{"Timers", r.timers},
			{"An echo server, on TCP and on a unix socket", r.servers},
			{"Clients come and go, and the statistics move", r.traffic},
			{"Work that blocks", r.work},
			{"A signal", r.signal},
			{"Errors are events", r.refused},
			{"So are panics", r.panics},
			{"What keeps the loop alive", r.handles},
		} {
			fmt.Printf("\n%s\n", chapter.title)
			if err := chapter.tell(t); err != nil {
				return fmt.Errorf("%s: %w", chapter.title, err)
			}
		}
		return nil
	}).Then(func(_ struct{}, err error) {
		if err != nil {
			r.failed = err
			l.Stop()
		}
	})
	return nil
}

// say prints a line with the time since the beginning.
func (r *tour) say(format string, args ...any) {
	fmt.Printf("%7.1f ms  %s\n", float64(time.Since(r.began))/float64(time.Millisecond), fmt.Sprintf(format, args...))
}

// turns shows in which order things run.
func (r *tour) turns(t *eventloop.Task) error {
	r.say("every callback runs on the goroutine that called Run, one at a time")
	done, resolve := eventloop.NewFuture[int](r.loop)
	r.loop.Post(func() {
		r.say("... and here is the callback: no call runs it; a later turn does")
	})
	go func() { // any goroutine may post
		r.loop.Post(func() { resolve(42, nil) })
	}()
	r.say("this task has posted a callback ...")
	n, err := done.Await(t)
	r.say("a goroutine posted %d, and this task, which had waited for it, goes on", n)
	return err
}

// timers shows one-shot timers, which fire in the order of their times, and an interval.
func (r *tour) timers(t *eventloop.Task) error {
	for _, d := range []time.Duration{30, 10, 20} {
		r.loop.AfterFunc(d*time.Millisecond, func() { r.say("timer of %d ms", d) })
	}
	r.loop.AfterFunc(0, func() { r.say("timer of 0 ms: the next turn") })
	never := r.loop.AfterFunc(time.Hour, func() { r.say("never printed") })
	r.say("armed five timers, and stopped that of an hour: %v", never.Stop())

	done, resolve := eventloop.NewFuture[int](r.loop)
	ticks := 0
	var interval *eventloop.Timer
	interval = r.loop.Every(15*time.Millisecond, func() {
		ticks++
		r.say("interval of 15 ms, tick %d", ticks)
		if ticks == 4 {
			interval.Stop()
			resolve(ticks, nil)
		}
	})
	_, err := done.Await(t)
	return err
}

// servers starts two listeners, whose connections all have the same callbacks.
func (r *tour) servers(*eventloop.Task) error {
	echo := &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, data []byte) {
			r.echoes++ // no lock: this is a callback
			c.Write(data)
		},
	}
	var err error
	if r.tcp, err = r.loop.Listen("tcp", "127.0.0.1:0", echo); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tour")
	if err != nil {
		return err
	}
	r.loop.OnExit(func() { os.RemoveAll(dir) })
	if r.unix, err = r.loop.Listen("unix", filepath.Join(dir, "echo.sock"), echo); err != nil {
		return err
	}
	r.say("listening on tcp  %v", r.tcp.Addr())
	r.say("listening on unix %v", r.unix.Addr())
	return nil
}

// traffic connects clients, half of them to each server. Each client sends its message
// again as soon as the echo arrives, for a quarter of a second.
func (r *tour) traffic(t *eventloop.Task) error {
	const clients = 20
	r.say("%d clients play ping-pong with the servers, 250 ms each", clients)
	fmt.Println("           clients  served  timers   echoes     bytes in   turns  lag p99")
	stats := r.loop.Every(60*time.Millisecond, r.showStats)
	defer stats.Stop()

	g := t.Group()
	for i := range clients {
		ln := r.tcp
		if i%2 == 1 {
			ln = r.unix
		}
		g.Go(func(t *eventloop.Task) error { return r.pingPong(t, ln) })
		if err := t.Sleep(15 * time.Millisecond); err != nil {
			return err
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.showStats()
	return nil
}

func (r *tour) pingPong(t *eventloop.Task, ln *eventloop.Listener) error {
	message := bytes.Repeat([]byte("ping "), 20)
	c, err := r.loop.Dial(t.Context(), ln.Addr().Network(), ln.Addr().String(), &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.Write(message) },
		OnData:    func(c *eventloop.Conn, data []byte) { c.Write(data) },
	})
	if err != nil {
		return err
	}
	if err := t.Sleep(250 * time.Millisecond); err != nil {
		return err
	}
	return c.Close()
}

func (r *tour) showStats() {
	s := r.loop.Stats()
	r.say("%6d  %6d  %6d  %7d  %11d  %6d  %v", s.Conns.Outgoing, s.Conns.Incoming, s.Loop.Timers,
		r.echoes, s.Conns.BytesInTotal, s.Loop.IterationsTotal, s.Loop.LagP99.Round(time.Microsecond))
}

// work runs a computation on another goroutine.
func (r *tour) work(t *eventloop.Task) error {
	ticks := 0
	interval := r.loop.Every(time.Millisecond, func() { ticks++ })
	defer interval.Stop()
	sum := eventloop.Work(t.Context(), r.loop, func(context.Context) (int, error) {
		sum := 0
		for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
			sum++
		}
		return sum, nil
	})
	n, err := sum.Await(t)
	r.say("a goroutine counted to %d, and meanwhile the loop ticked %d times", n, ticks)
	return err
}

// signal makes the process send a signal to itself.
func (r *tour) signal(t *eventloop.Task) error {
	got, resolve := eventloop.NewFuture[os.Signal](r.loop)
	h, err := r.loop.OnSignal(func(sig os.Signal) { resolve(sig, nil) }, os.Interrupt)
	if err != nil {
		return err
	}
	defer h.Stop() // restores the previous effect of the signal
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	r.say("sending SIGINT, which ends most programs, to process %d", self.Pid)
	if err := self.Signal(os.Interrupt); err != nil {
		r.say("this system cannot do that: %v", err)
		resolve(nil, nil)
	}
	sig, err := got.Await(t)
	r.say("the signal handler got: %v", sig)
	return err
}

// refused dials an address without a listener.
func (r *tour) refused(t *eventloop.Task) error {
	over, resolve := eventloop.NewFuture[struct{}](r.loop)
	_, err := r.loop.Dial(t.Context(), "tcp", "127.0.0.1:1", &eventloop.ConnConfig{
		OnEvent: func(_ *eventloop.Conn, err error) {
			r.say("OnEvent: %v", err)
			r.say("errors.Is(err, ErrRefused): %v", errors.Is(err, eventloop.ErrRefused))
		},
		OnClose: func(*eventloop.Conn) {
			r.say("OnClose: the last callback of every connection, exactly once")
			resolve(struct{}{}, nil)
		},
	})
	if err != nil {
		return err // an error of the call itself, such as a bad address
	}
	_, err = over.Await(t)
	return err
}

// panics shows what Config.CatchPanics does. Without it, the loop would close
// everything, and the panic would leave Run.
func (r *tour) panics(t *eventloop.Task) error {
	r.loop.Post(func() {
		r.say("this callback panics")
		panic("oh no")
	})
	if err := t.Sleep(time.Millisecond); err != nil {
		return err
	}
	r.say("the loop goes on")
	return nil
}

// handles lists the open handles, and closes them. Then nothing keeps the loop alive.
func (r *tour) handles(*eventloop.Task) error {
	for h := range r.loop.Handles() {
		r.say("%v", strings.TrimSpace(h.String()))
	}
	r.say("closing both listeners; when this task ends nothing is left")
	r.tcp.Close()
	r.unix.Close()
	return nil
}
