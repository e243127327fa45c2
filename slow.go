package eventloop

import (
	"bytes"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"
)

// A slowWatch reports callbacks that hold up the loop, while they run. Its goroutine
// watches a counter that the dispatcher advances after each callback. This is cheaper than
// reading the clock before and after each callback.
type slowWatch struct {
	loop     *Loop
	limit    time.Duration
	header   []byte // "goroutine 12 ", of the dispatcher
	progress atomic.Uint64
	quit     chan struct{}
	done     chan struct{}
}

// startWatch starts to watch the dispatcher if Config.SlowCallback is positive. The
// caller is the dispatcher.
func (l *Loop) startWatch() {
	if l.cfg.SlowCallback <= 0 {
		return
	}
	w := &slowWatch{
		loop:   l,
		limit:  l.cfg.SlowCallback,
		header: goroutineHeader(),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	l.watch = w
	go w.run()
}

// stopWatch stops the slowWatch and waits for its goroutine.
func (l *Loop) stopWatch() {
	if w := l.watch; w != nil {
		close(w.quit)
		<-w.done
	}
}

// run checks often enough to report a callback at most half the limit late, or 1 ms if that
// is more. It never reports a callback that takes less than the limit.
func (w *slowWatch) run() {
	defer close(w.done)
	tick := time.NewTicker(max(w.limit/2, time.Millisecond))
	defer tick.Stop()
	var last uint64
	var since time.Time // when the current callback was first seen; zero: not yet
	reported := false
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
		switch p := w.progress.Load(); {
		case w.loop.isSleeping():
			since, reported = time.Time{}, false
		case p != last || since.IsZero():
			last, since, reported = p, time.Now(), false
		case !reported && time.Since(since) >= w.limit:
			reported = true
			w.report(time.Since(since))
		}
	}
}

func (l *Loop) isSleeping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sleeping
}

func (w *slowWatch) report(d time.Duration) {
	l := w.loop
	l.count.slow.Add(1)
	header, args := w.header, []any{"for", d}
	if t := l.task.Load(); t != nil {
		args = append(args, "task", t.describe())
		if h := t.co.header.Load(); h != nil { // nil if the task is about to begin
			header = *h
		}
	}
	stack := stackOf(header)
	if fn, place := userFrame(stack); fn != "" {
		args = append(args, "in", fn, "at", place)
	}
	args = append(args, "stack", string(stack))
	l.log(slog.LevelWarn, "a callback holds up the loop", args...)
}

// stackOf returns the stack of the goroutine whose trace begins with header. It has to
// format the stacks of all goroutines, because the runtime cannot format the stack of one
// other goroutine. So report calls it only once per slow callback.
func stackOf(header []byte) []byte {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, s := range bytes.Split(buf, []byte("\n\n")) {
		if bytes.HasPrefix(s, header) {
			return s
		}
	}
	return nil
}

// goroutineHeader returns the beginning of the caller's stack trace.
func goroutineHeader() []byte {
	buf := make([]byte, 64)
	buf = buf[:runtime.Stack(buf, false)]
	header, _, _ := bytes.Cut(buf, []byte("["))
	return header
}
