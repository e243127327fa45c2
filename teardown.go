package eventloop

import (
	"slices"
	"time"

	"github.com/onloop/eventloop/internal/funcqueue"
)

// teardown closes all handles of the loop, waits for them, and runs the exit callbacks.
// Run defers it. The end may be a Goexit, in which case the loop is still marked as
// running.
func (l *Loop) teardown() {
	l.mu.Lock()
	if l.state != stateClosed {
		l.stopping = true // Goexit is an end by force
	}
	l.state = stateClosed
	l.ended.Store(true)
	l.busy += l.now() - l.woke // the statistics end here
	l.mu.Unlock()
	defer close(l.done)
	defer l.self.Store(0)  // the goroutine continues without the loop
	defer l.ClearSignals() // last, because a signal must not end the process before
	defer l.runExits()
	defer l.closeAll()
	l.cancel()
}

// closeAll terminates every handle. Until the last handle is gone, it runs the tasks of
// their goroutines, so that none of them waits for the dispatcher forever.
func (l *Loop) closeAll() {
	// An OnClose callback may call Goexit before this function has finished.
	finished := false
	defer func() {
		if !finished {
			l.closeAll()
		}
	}()
	l.mu.Lock()
	l.timers.Clear()
	l.posts, l.batch, l.taken, l.due = funcqueue.Queue{}, funcqueue.Batch{}, 0, nil
	if l.ordered != nil {
		l.ordered.dropPosts()
	}
	owners := make([]owner, 0, l.handles.len)
	for h := range l.handles.all {
		if h.kind != kindSignal { // see teardown
			owners = append(owners, h.owner)
		}
	}
	l.mu.Unlock()
	l.borrowed.end()
	l.writers.EndTurn(false)
	for _, o := range owners {
		o.terminate()
	}
	if t := l.first; t != nil {
		l.first = nil
		t.run()
	}
	grace, foreign := l.graces()
	defer grace.Stop()
	defer foreign.Stop()
	for l.handleCount() > 0 {
		if l.ordered != nil && l.serveOrdered() {
			continue
		}
		select {
		case t := <-l.tasks:
			if l.ordered != nil {
				l.first = t // the test chooses among all tasks that are ready
				continue
			}
			t.run()
		case <-grace.C:
			l.abandonWork()
		case <-foreign.C:
			l.abandonForeign()
			foreign.Reset(foreignGrace)
		}
	}
	l.writers.Close()
	l.wg.Go(l.names.close) // waits for foreign code
	l.endCoroutines()
	l.awaitGoroutines(foreign)
	l.poller.Close()
	l.timer.Stop()
	l.passer.Close()
	finished = true
	l.runReports()
	l.flushUnhandled()
}

// graces returns timers for the end of Config.WorkGrace, one for work and one for
// foreign code.
func (l *Loop) graces() (work, foreign *time.Timer) {
	d := l.cfg.WorkGrace
	if d == 0 {
		d = defaultWorkGrace
	}
	return time.NewTimer(max(d, 0)), time.NewTimer(max(d, foreignGrace))
}

// awaitGoroutines waits for the goroutines of the loop. When foreign has fired, it no
// longer waits for the goroutines in foreign code. The other goroutines do not block.
func (l *Loop) awaitGoroutines(foreign *time.Timer) {
	for !l.wg.end() {
		select {
		case <-l.wg.idle:
		case <-foreign.C:
			if l.abandonForeign(); l.abandoned {
				return
			}
			foreign.Reset(foreignGrace)
		}
	}
}

// handleCount returns the number of handles for which closeAll has to wait.
func (l *Loop) handleCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handles.len - l.kinds[kindSignal]
}

// runExits runs all exit callbacks, even if one panics or calls Goexit. The first panic
// leaves Run.
func (l *Loop) runExits() {
	for {
		l.mu.Lock()
		if len(l.exits) == 0 {
			l.mu.Unlock()
			return
		}
		f := l.exits[len(l.exits)-1]
		l.exits = slices.Delete(l.exits, len(l.exits)-1, len(l.exits))
		l.mu.Unlock()
		l.runExit(f)
	}
}

func (l *Loop) runExit(f func()) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			l.keepPanic(newPanicError(v))
		} else if !returned {
			l.runExits() // Goexit in f: this goroutine ends, the others still run
		}
	}()
	f()
	returned = true
}

// keepPanic records p for Run, unless there was a panic before.
func (l *Loop) keepPanic(p *PanicError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panicked == nil {
		l.panicked = p
	}
}
