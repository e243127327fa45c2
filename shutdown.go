package eventloop

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// ErrForced matches the error of [Loop.Run] when a shutdown did not come to its end
// within the grace period, or was cut short by a second one. The error names the
// handles that were cut off.
var ErrForced = errors.New("eventloop: ended by force")

// A shutdown is how far Loop.Shutdown has come. Guarded by Loop.mu.
type shutdown struct {
	begun    bool
	queued   bool          // beginShutdown is a post that has not run
	limit    time.Duration // when the grace period is over, since Run; 0: never
	force    *Timer        // fires then
	delivery uint64        // of the signal whose handler called Shutdown last, or 0
	told     []func()      // of OnShutdown

	// Only on the loop.
	began time.Time
	pause time.Duration // before the next report
}

// firstReport is when Shutdown first logs what it waits for. Each time that passes
// until the next report is twice as long.
const firstReport = 5 * time.Second

// Shutdown ends the loop gracefully: listeners, servers and intervals are closed,
// and the functions of [Loop.OnShutdown] are called; connections, timers, requests,
// tasks and holds go on until they end by themselves, and then Run returns nil.
// Signal handlers are called until then, but do not keep the loop alive. What the
// loop waits for is logged after 5 s, and again 10 s, 20 s, 40 s and so on later.
//
// When grace is over the loop is ended by force, as by [Loop.Stop]. What kept it
// alive is logged, and Run returns an error that matches [ErrForced] and names it. If
// nothing is lost, because there are only idle servers, and connections that are
// closed and whose peers have all of their output, the end counts as graceful. On
// Linux the peer's kernel is asked; elsewhere what our own has taken is not lost.
// A grace of zero ends the loop by force at once; with a negative one Shutdown
// waits without limit. Shutdown closes no connection but the idle ones of an
// [HTTPServer]: any other that is idle lasts until grace is over, unless its peer,
// a timeout or the application closes it, see OnShutdown.
//
// After a second call the grace period ends when the first of the two would. If a
// signal handler makes the second call, the loop is ended by force at once, unless
// the first call was made for the same signal.
//
// Shutdown does not wait. Before Run, it makes Run return at once.
func (l *Loop) Shutdown(grace time.Duration) { l.shutdown(grace, l.currentDelivery()) }

// currentDelivery returns the number of the signal whose handler is the caller, or
// zero if it is none.
func (l *Loop) currentDelivery() uint64 {
	if l.onLoop() {
		return l.delivery
	}
	return 0
}

func (l *Loop) shutdown(grace time.Duration, delivery uint64) {
	l.mu.Lock()
	state, d := l.state, &l.down
	if state == stateClosed || l.stopping {
		l.mu.Unlock()
		return
	}
	if state == stateNew {
		l.mu.Unlock()
		l.stop(nil)
		return
	}
	force := grace == 0 || d.begun && delivery != 0 && delivery != d.delivery
	if delivery != 0 {
		d.delivery = delivery
	}
	first := !d.begun
	d.begun = true
	if !force {
		d.queued = d.queued || first
		l.boundShutdown(grace)
	}
	l.mu.Unlock()
	switch {
	case force:
		l.force()
	case first:
		l.Post(l.beginShutdown)
	}
}

// boundShutdown ends the grace period after grace, if it does not end before. The
// caller holds l.mu.
func (l *Loop) boundShutdown(grace time.Duration) {
	d := &l.down
	limit := l.now() + grace
	if grace < 0 || limit < 0 || d.limit != 0 && d.limit <= limit {
		return
	}
	d.limit = limit
	if d.force == nil {
		d.force = &Timer{loop: l, unref: true, f: l.force}
	}
	d.force.disarm()
	d.force.arm(grace)
}

// beginShutdown closes what would not end by itself, and then tells the application.
func (l *Loop) beginShutdown() {
	l.closeEndless()
	l.mu.Lock()
	d := &l.down
	told := d.told
	d.told = nil
	d.queued = false
	d.began, d.pause = time.Now(), firstReport
	l.mu.Unlock()
	l.reportLater()
	for _, f := range told {
		l.call(f)
		if l.ended.Load() {
			return
		}
	}
}

// closeEndless closes what does not end by itself.
func (l *Loop) closeEndless() {
	l.mu.Lock()
	var owners []shutdowner
	for h := range l.handles.all {
		if s, ok := h.owner.(shutdowner); ok {
			owners = append(owners, s)
		}
	}
	var intervals []*Timer
	for t := range l.timers.All {
		if t.period > 0 {
			intervals = append(intervals, (*Timer)(t))
		}
	}
	l.mu.Unlock()
	for _, s := range owners {
		s.shutdown()
	}
	for _, t := range intervals {
		t.Stop()
	}
}

func (l *Loop) isShuttingDown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down.begun
}

// reportLater logs what the loop waits for, after a while and again and again.
func (l *Loop) reportLater() {
	d := &l.down
	t := l.AfterFunc(d.pause, func() {
		waits := l.keptBy(true)
		l.log(slog.LevelInfo, "shutdown waits", "for", time.Since(d.began).Round(time.Second), "count", len(waits), "handles", listed(waits))
		d.pause = 2 * d.pause
		l.reportLater()
	})
	t.Unref()
}

// force ends the loop by force, at the end of a Shutdown. If nothing is cut off it
// is an end like any other.
func (l *Loop) force() {
	cut := l.keptBy(false)
	if len(cut) == 0 {
		l.stop(nil)
		return
	}
	if l.stop(fmt.Errorf("%w: %s", ErrForced, listed(cut))) {
		l.log(slog.LevelWarn, "shutdown ended by force", "count", len(cut), "handles", listed(cut))
	}
}

// keptBy returns what keeps the loop alive; without spare only what is lost if the
// loop ends now.
func (l *Loop) keptBy(spare bool) []string {
	var all []string
	handles, owners := l.snapshot()
	for i, h := range handles {
		if !h.Ref || !spare && h.Kind == KindInterval {
			continue
		}
		if !spare && i < len(owners) {
			if o, ok := owners[i].(spareable); ok && o.isSpare() {
				continue
			}
		}
		all = append(all, h.String())
	}
	onLoop := l.onLoop()
	l.mu.Lock()
	queued := l.posts.Len() + l.taken // of which some have run in this turn
	if onLoop {
		queued = l.posts.Len() + l.batch.Len()
	}
	if queued > 0 && l.down.queued {
		queued--
	}
	l.mu.Unlock()
	if queued > 0 {
		all = append(all, fmt.Sprintf("posted functions: %d", queued))
	}
	return all
}

// listed returns the first of all for a log or an error.
func listed(all []string) string {
	const most = 10
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
}

// A listenerDrain is a Listener.Shutdown in progress.
type listenerDrain struct {
	mu      sync.Mutex // guards the following
	waiters []*Future[struct{}]

	// Only on the loop.
	ended  bool // the acceptor has: no connection is added any more
	due    bool // the grace period was over before that
	forced error
}

// Shutdown is Close for the listener and its connections, by the rule of
// [Loop.Shutdown]: nothing more is accepted, and the future succeeds when the last
// accepted connection has ended, after its OnClose. When grace is over before
// that, the connections are aborted, and the future fails with an error that
// matches [ErrForced] and names them. A grace of zero aborts them at once; with a
// negative one Shutdown waits without limit. After a second call the shorter
// remaining grace counts.
func (ln *Listener) Shutdown(grace time.Duration) *Future[struct{}] {
	l, d := ln.loop, &ln.drain
	f := newFuture[struct{}](l, kindFuture)
	d.mu.Lock()
	d.waiters = append(d.waiters, f)
	d.mu.Unlock()
	ln.Close()
	switch {
	case grace == 0:
		l.Post(ln.force)
	case grace > 0:
		l.AfterFunc(grace, ln.force).Unref()
	}
	l.Post(ln.drained)
	return f
}

// acceptorGone is called when no connection is added any more.
func (ln *Listener) acceptorGone() {
	d := &ln.drain
	d.ended = true
	if d.due {
		ln.force()
	}
	ln.drained()
}

// connGone is called on the loop when a connection of the listener has ended.
func (ln *Listener) connGone() {
	ln.acceptor.connGone()
	ln.drained()
}

// drained ends Shutdown if nothing is left of the listener.
func (ln *Listener) drained() {
	d := &ln.drain
	if !d.ended || ln.open.Load() > 0 {
		return
	}
	d.mu.Lock()
	waiters := d.waiters
	d.waiters = nil
	d.mu.Unlock()
	for _, f := range waiters {
		f.resolve(struct{}{}, d.forced)
	}
}

// force aborts the connections at the end of the grace period.
func (ln *Listener) force() {
	d := &ln.drain
	if !d.ended {
		d.due = true // the acceptor may be about to add a connection
		return
	}
	l := ln.loop
	l.mu.Lock()
	var conns []*Conn
	for h := range l.handles.all {
		if c, ok := h.owner.(*Conn); ok && c.listener == ln {
			conns = append(conns, c)
		}
	}
	l.mu.Unlock()
	if len(conns) == 0 {
		return
	}
	var names []string
	for _, c := range conns {
		if !c.isSpare() {
			names = append(names, "conn "+c.describe())
		}
	}
	if d.forced == nil && len(names) > 0 {
		d.forced = fmt.Errorf("%w: %s", ErrForced, listed(names))
	}
	for _, c := range conns {
		c.Abort()
	}
}

// OnShutdown arranges for f to be called on the loop when [Loop.Shutdown] begins,
// after listeners and servers are closed: the place to close connections that the
// application knows to be idle, and to tell tasks that wait. Functions are called
// in the order of OnShutdown, each once, and not if the loop ends otherwise. During
// a Shutdown, f is called in a later turn. A nil f, and an OnShutdown after the end,
// are ignored. OnShutdown may be called before Run.
func (l *Loop) OnShutdown(f func()) {
	if f == nil {
		return
	}
	l.mu.Lock()
	begun := l.down.begun
	if !begun {
		l.down.told = append(l.down.told, f)
	}
	l.mu.Unlock()
	if begun {
		l.Post(f)
	}
}

// ShutdownOn calls [Loop.Shutdown] with grace when the process gets one of sigs. A
// second signal ends the loop by force. It does not keep the loop alive. Several
// calls add up: one signal that is in several of them counts once, with the
// shortest grace. Its errors are those of [Loop.OnSignal].
func (l *Loop) ShutdownOn(grace time.Duration, sigs ...os.Signal) error {
	h, err := l.OnSignal(func(os.Signal) { l.Shutdown(grace) }, sigs...)
	if err == nil {
		h.Unref()
	}
	return err
}

// shutdownOn is ShutdownOn for a group, whose loops may not run yet.
func (l *Loop) shutdownOn(f func(os.Signal), sigs []os.Signal) error {
	h, err := l.OnSignal(f, sigs...)
	switch err {
	case nil:
		h.Unref()
	case ErrNotRunning:
		return l.Post(func() { l.shutdownOn(f, sigs) })
	}
	return err
}

// LogHandles logs what [Loop.Handles] returns, a line each, for finding out why the
// loop does not end. It may be called from any goroutine.
func (l *Loop) LogHandles() {
	for h := range l.Handles() {
		l.log(slog.LevelInfo, "open handle", "kind", h.Kind, "name", h.Name, "age", h.Age, "due", h.Due, "ref", h.Ref)
	}
}
