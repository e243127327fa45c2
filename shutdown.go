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

// ErrForced matches the error of [Loop.Run] when a shutdown did not complete within the
// grace period, or a second shutdown cut it short. The error names the handles that were
// cut off.
var ErrForced = errors.New("eventloop: ended by force")

// A shutdown is the state of Loop.Shutdown. Guarded by Loop.mu.
type shutdown struct {
	begun     bool
	queued    bool          // beginShutdown is a post that has not run
	limit     time.Duration // when the grace period ends, since Run; 0: never
	force     *Timer        // fires at limit
	delivery  uint64        // number of the last signal whose handler called Shutdown, or 0
	callbacks []func()      // of OnShutdown

	// Only on the loop.
	began time.Time
	pause time.Duration // before the next report
}

// firstReport is the time until Shutdown first logs the handles that it waits for. The
// pause before each further report is twice as long as the one before.
const firstReport = 5 * time.Second

// Shutdown ends the loop gracefully. It closes listeners, servers and intervals, and calls
// the functions of [Loop.OnShutdown]. Connections, timers, requests, tasks and holds
// continue until they end by themselves; then Run returns nil. Until then signal handlers
// are still called, but they no longer keep the loop alive. Shutdown logs the handles that
// the loop waits for after 5 s, and again after another 10 s, 20 s, 40 s and so on.
//
// When the grace period is over, the loop ends by force, as with [Loop.Stop]. The handles
// that kept the loop alive are logged, and Run returns an error that matches [ErrForced] and
// names them. The end still counts as graceful if nothing is lost: only idle servers are
// open, and closed connections whose peers have all of their output. On Linux and macOS,
// output counts as delivered when the peer's kernel has acknowledged it; elsewhere, when the
// local kernel has accepted it.
//
// If grace is zero, the loop ends by force at once. If grace is negative, Shutdown waits
// without limit. Shutdown closes no connections except the idle ones of an [HTTPServer]. Any
// other idle connection stays open until the grace period is over, unless its peer, a
// timeout or the application closes it; see OnShutdown.
//
// After a second call, the grace period ends at the earlier of the two times. If a signal
// handler makes the second call, the loop ends by force at once, unless the first call was
// made for the same signal.
//
// Shutdown does not wait. Before Run, it makes Run return at once.
func (l *Loop) Shutdown(grace time.Duration) { l.shutdown(grace, l.currentDelivery()) }

// currentDelivery returns the number of the signal that is being handled if the caller is
// its handler, or else zero.
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

// boundShutdown ends the grace period after grace, unless it already ends earlier. The
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

// beginShutdown closes the handles that would not end by themselves, and then calls the
// functions of OnShutdown.
func (l *Loop) beginShutdown() {
	l.closeEndless()
	l.mu.Lock()
	d := &l.down
	callbacks := d.callbacks
	d.callbacks = nil
	d.queued = false
	d.began, d.pause = time.Now(), firstReport
	l.mu.Unlock()
	l.reportLater()
	for _, f := range callbacks {
		l.call(f)
		if l.ended.Load() {
			return
		}
	}
}

// closeEndless closes the handles that would not end by themselves.
func (l *Loop) closeEndless() {
	endless := owners[shutdowner](l)
	l.mu.Lock()
	var intervals []*Timer
	for t := range l.timers.All {
		if t.period > 0 {
			intervals = append(intervals, (*Timer)(t))
		}
	}
	l.mu.Unlock()
	for _, s := range endless {
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

// reportLater logs, at growing intervals, the handles that the loop waits for.
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

// force ends the loop by force at the end of a Shutdown. If this cuts nothing off, the end
// counts as graceful.
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

// keptBy describes the handles and posts that keep the loop alive. Without spare, it leaves
// out the handles that lose nothing if the loop ends now.
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
	l.mu.Lock()
	queued := l.queuedPosts()
	if queued > 0 && l.down.queued {
		queued--
	}
	l.mu.Unlock()
	if queued > 0 {
		all = append(all, fmt.Sprintf("posted functions: %d", queued))
	}
	return all
}

// listed returns the first few of all as text for a log or an error.
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
	ended  bool // the acceptor has ended, so no more connections are added
	due    bool // the grace period was over before ended was set
	forced error
}

// Shutdown closes the listener, and ends its connections by the rules of [Loop.Shutdown].
// The listener accepts no more connections. The future succeeds when the last accepted
// connection has ended, after its OnClose. If the grace period is over before that, the
// connections are aborted, and the future fails with an error that matches [ErrForced] and
// names them. If grace is zero, they are aborted at once. If grace is negative, Shutdown
// waits without limit. After a second call, the grace period ends at the earlier of the
// two times.
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

// acceptorEnded is called when the acceptor has ended, so no more connections are added.
func (ln *Listener) acceptorEnded() {
	d := &ln.drain
	d.ended = true
	if d.due {
		ln.force()
	}
	ln.drained()
}

// connClosed is called on the loop when a connection of the listener has ended.
func (ln *Listener) connClosed() {
	ln.acceptor.connClosed()
	ln.drained()
}

// drained completes Shutdown if the acceptor and all connections have ended.
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
	conns := ln.conns()
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

// OnShutdown arranges for f to be called on the loop when [Loop.Shutdown] begins, after
// listeners and servers are closed. In f, close connections that the application knows to
// be idle, and notify tasks that wait. The functions are called in the order in which
// OnShutdown was called, once each, and not at all if the loop ends in another way. During
// a Shutdown, f is called in a later turn. A nil f is ignored, and so is a call after the
// end of the loop. OnShutdown may be called before Run.
func (l *Loop) OnShutdown(f func()) {
	if f == nil {
		return
	}
	l.mu.Lock()
	begun := l.down.begun
	if !begun {
		l.down.callbacks = append(l.down.callbacks, f)
	}
	l.mu.Unlock()
	if begun {
		l.Post(f)
	}
}

// ShutdownOn calls [Loop.Shutdown] with grace when the process receives one of sigs. A
// second signal ends the loop by force. ShutdownOn does not keep the loop alive. If several
// calls name the same signal, its arrival counts once, with the shortest grace. The errors
// are those of [Loop.OnSignal].
func (l *Loop) ShutdownOn(grace time.Duration, sigs ...os.Signal) error {
	h, err := l.OnSignal(func(os.Signal) { l.Shutdown(grace) }, sigs...)
	if err == nil {
		h.Unref()
	}
	return err
}

// shutdownOn installs f for a group's ShutdownOn. The loop may not be running yet.
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

// LogHandles logs one message per handle that [Loop.Handles] returns, to show why the loop
// does not end. It may be called from any goroutine.
func (l *Loop) LogHandles() {
	for h := range l.Handles() {
		l.log(slog.LevelInfo, "open handle", "kind", h.Kind, "name", h.Name, "age", h.Age, "due", h.Due, "ref", h.Ref)
	}
}
