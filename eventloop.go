package eventloop

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/funcqueue"
	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/histogram"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/pollpass"
	"github.com/onloop/eventloop/internal/timerheap"
	"github.com/onloop/eventloop/internal/writers"
)

// A Config holds the settings of a loop. The zero Config means the defaults, and so does
// a nil *Config.
type Config struct {
	// Name appears in logs and as the pprof label "eventloop" of the
	// dispatcher and of the goroutines that it starts.
	Name string

	// EventHandler is called on the loop with each event that no callback of an
	// operation received (default-event-cb). The loop continues unless the handler stops
	// it. A panic in the handler ends the loop.
	//
	// If EventHandler is nil, the loop ignores information (see [IsInfo]). It logs errors
	// that a remote peer causes: errors of accepted connections, of requests and of single
	// accepts. It also logs unhandled failures of futures and, with CatchPanics, panics.
	// Any other error ends the loop, and Run returns it.
	EventHandler func(err error)

	// CatchPanics turns a panic in a callback into an event: a [*PanicError] goes to the
	// event callback of the operation, or else to EventHandler, and the loop continues
	// (catch-app-errors). By default a panic ends the loop: everything is closed, and the
	// panic leaves Run as a *PanicError.
	//
	// The same applies to code that the loop calls on other goroutines: the methods of a
	// net.Conn or net.Listener passed to the loop, the callbacks of a tls.Config,
	// ConnConfig.Dial, HTTPClientConfig.Dial and ResolverConfig.Dial. While the loop is
	// being stopped, event callbacks of operations no longer run, so a panic then goes to
	// EventHandler.
	CatchPanics bool

	// Logger receives the messages that no callback receives: unhandled failures of
	// futures, errors caused by remote peers, caught panics, slow callbacks, progress of a
	// shutdown, mistakes in resolv.conf. If Logger is nil, each message goes to the logger
	// that slog.Default returns at that moment. To discard all messages, set
	// slog.New(slog.DiscardHandler).
	Logger *slog.Logger

	// SlowCallback is how long a callback, or a task between two suspensions, may hold up
	// the loop before it is logged to Logger. The message has the stack of the callback, or
	// the stack and the name of the task. Zero or negative disables the check.
	SlowCallback time.Duration

	// Resolver configures name resolution. Nil means the configuration files of the system.
	Resolver *ResolverConfig

	// MaxWork is the maximum number of functions of [Work] that run at the same time. Zero
	// or negative means 64.
	MaxWork int

	// WorkGrace is how long Run waits for functions of [Work] to return when the loop ends
	// by force. Zero means 5 s; negative means that Run does not wait. WorkGrace also
	// limits the wait for other code of the application that runs beside the loop, such as
	// methods of a net.Conn that is not of package net; it gets at least 100 ms. See
	// [ErrWorkLeft].
	WorkGrace time.Duration

	// MaxBuffered limits the bytes of pending output on all connections together, including
	// those of HTTP servers. Above the limit, a Write to a Conn returns [ErrBufferFull],
	// unless it has at most 4 KB and its connection has no pending output; and connections
	// over their HighWater stop reading. Zero means 1 GB; negative means no limit.
	MaxBuffered int

	// HTTPClient holds the settings of [Loop.HTTP]. Nil means the defaults.
	HTTPClient *HTTPClientConfig
}

// A Loop runs callbacks one at a time on the goroutine that calls [Loop.Run],
// the dispatcher. It must be created with [New] and is used once.
//
// All methods may be called from any goroutine and from any callback.
type Loop struct {
	cfg     Config
	tasks   chan task                 // from the network goroutines
	writers writers.Pool[writers.Job] // writes the output of callbacks
	poller  netcore.Poller            // waits for idle connections
	done    chan struct{}             // closed when Run returns
	labels  context.Context           // pprof labels; set by Run before it starts goroutines
	ctx     context.Context           // canceled when the loop ends
	cancel  context.CancelFunc
	ended   atomic.Bool          // no further callback starts
	self    atomic.Uintptr       // goid.ID of the dispatcher
	task    atomic.Pointer[Task] // the running task, or nil
	count   counters
	names   names
	work    Workers   // run the functions of Work
	wg      waitGroup // the goroutines that Run waits for

	httpOnce sync.Once
	http     *HTTPClient // returned by HTTP

	mu       sync.Mutex // guards the following
	state    loopState
	sleeping bool        // the dispatcher waits, or is about to: wake it
	stopping bool        // by force
	stopErr  error       // Run returns it
	panicked *PanicError // Run panics with it
	epoch    time.Time   // when Run began; times of the loop count from here
	posts    funcqueue.Queue
	taken    int // posts in batch at the beginning of the turn
	timers   timerheap.Heap[*timerItem]
	refs     int // handles, timers and one-shots that keep the loop alive
	handles  handleList
	exits    []func()
	failures map[*unhandled]struct{}
	reports  []func() // see postReport
	calls    map[*foreignCall]struct{}
	down     shutdown

	// Statistics, guarded by mu as well: the dispatcher has it anyway when they
	// change.
	turns      uint64
	queuePeak  int
	busy, idle time.Duration  // until the dispatcher last went to sleep
	woke       time.Duration  // when the dispatcher last woke up
	kinds      [kindCount]int // number of handles per kind

	ordered *ordered // nil except in tests that control the order; set before Run

	// Only on the loop.
	coroutines []*coroutine    // idle
	batch      funcqueue.Batch // posts that the dispatcher has taken and not yet run
	due        []*Timer
	first      task        // ended the last sleep; nil if it has run
	timer      *time.Timer // wakes the dispatcher for the first deadline
	alarm      int64       // when timer fires; -1 if it is not set
	watch      *slowWatch  // nil unless Config.SlowCallback is set
	pace       pacer
	borrowed   borrowedRead
	reading    writers.Job // the connection whose data a callback is handling, or nil
	passer     pollpass.Passer
	turned     time.Duration // when the last turn began; written with mu held
	lag        histogram.Histogram
	lastPanics [8]*PanicError // see tookPanic
	abandoned  bool           // foreign code did not return, see abandonForeign
	delivery   uint64         // number of the signal whose handler is running, else 0
}

type loopState uint8

const (
	stateNew loopState = iota
	stateRunning
	stateClosed // the loop accepts no more posts, timers or handles
)

// begin makes a new loop or group a running one. The caller holds the lock of s.
func (s *loopState) begin() error {
	switch *s {
	case stateRunning:
		return ErrRunning
	case stateClosed:
		return ErrLoopClosed
	}
	*s = stateRunning
	return nil
}

var errNilFunc = errors.New("eventloop: nil function")

// New returns a loop that does nothing until [Loop.Run]. It starts no goroutine, so a
// loop that is never run needs no cleanup. A nil cfg means the zero Config. New copies cfg
// and the configs that its fields Resolver and HTTPClient point to.
func New(cfg *Config) *Loop {
	l := &Loop{
		tasks: make(chan task, maxTasksQueued),
		done:  make(chan struct{}),
		wg:    waitGroup{idle: newWakeChan()},
	}
	if cfg != nil {
		l.cfg = *cfg
		l.cfg.Resolver = clone(cfg.Resolver)
		l.cfg.HTTPClient = clone(cfg.HTTPClient)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.work.init(l, l.cfg.MaxWork, "")
	l.writers.Init(runtime.GOMAXPROCS(0))
	return l
}

// clone returns a pointer to a copy of *p, or nil if p is nil.
func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// Run creates a loop and runs it as [Loop.Run] does. It calls start on the loop first.
// If start returns an error, the loop ends by force, and Run returns the error. If
// start is nil, Run returns an error at once.
func Run(ctx context.Context, cfg *Config, start func(l *Loop) error) error {
	if start == nil {
		return errNilFunc
	}
	l := New(cfg)
	l.Post(func() {
		if err := start(l); err != nil {
			l.stop(err)
		}
	})
	return l.Run(ctx)
}

// Run runs callbacks until nothing keeps the loop alive. When it returns, no goroutine,
// descriptor or signal registration of the loop is left. Run blocks; the calling
// goroutine is the dispatcher.
//
// Run returns
//
//   - nil after the natural exit, after [Loop.Stop], and after a [Loop.Shutdown] that
//     completed;
//   - an error that matches [ErrForced] after a Shutdown that did not complete;
//   - the cause of ctx, if ctx ended the loop by force;
//   - otherwise the error that ended the loop: the error of the start function, or an
//     event that the default handler does not tolerate (see Config.EventHandler).
//
// A panic in a callback leaves Run as a [*PanicError] (see Config.CatchPanics).
//
// During Run, the goroutine has the pprof labels of ctx and the label "eventloop" (see
// Config.Name). Afterwards it has the labels of ctx, as after [pprof.Do]; other labels
// that it had before Run are lost.
//
// A loop runs once: Run returns [ErrRunning] while the loop is running, including in a
// callback, and [ErrLoopClosed] after the loop has ended.
func (l *Loop) Run(ctx context.Context) (err error) {
	checkContext(ctx)
	if err := l.begin(ctx); err != nil {
		return err
	}
	pprof.SetGoroutineLabels(l.labels)
	defer pprof.SetGoroutineLabels(ctx)

	if ctx.Err() != nil {
		l.stop(context.Cause(ctx))
	}
	release := context.AfterFunc(ctx, func() { l.stop(context.Cause(ctx)) })
	defer release()

	// Deferred, because a callback may call runtime.Goexit, as t.FailNow does. Everything
	// must be closed in this case, too.
	defer func() {
		if p := l.panicked; p != nil {
			panic(p)
		}
		err = l.result()
	}()
	defer l.teardown()
	l.startWatch()
	defer l.stopWatch()
	l.dispatch()
	return nil
}

// checkContext panics if ctx is nil, as the functions of package context do.
func checkContext(ctx context.Context) {
	if ctx == nil {
		panic("eventloop: nil context")
	}
}

// checkLoop panics if l is nil. Functions that take a loop call it, because otherwise the
// mistake shows later, in a method of what they returned.
func checkLoop(l *Loop) {
	if l == nil {
		panic("eventloop: nil Loop")
	}
}

// begin turns a new loop into a running one.
func (l *Loop) begin(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.state.begin(); err != nil {
		return err
	}
	l.labels = pprof.WithLabels(ctx, pprof.Labels("eventloop", l.cfg.Name))
	l.epoch = time.Now()
	l.self.Store(uintptr(goid.Current()))
	l.timer = time.NewTimer(time.Hour)
	l.timer.Stop()
	l.alarm = -1
	return nil
}

func (l *Loop) result() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopErr
}

// Post arranges for f to be called on the loop, in a later turn, after all functions that
// the same goroutine posted before. It never blocks.
//
// If Post returns nil, f runs exactly once before Run returns, unless the loop ends by
// force. A queued f keeps the loop alive. After the end of the loop, Post returns
// [ErrLoopClosed]. For a nil f it returns an error.
func (l *Loop) Post(f func()) error { return l.postFor(f, nil) }

// postFor is Post. In a loop whose order a test controls, f is named after what: a *Task,
// or a function that f calls.
func (l *Loop) postFor(f func(), what any) error {
	if f == nil {
		return errNilFunc
	}
	var name string
	if l.ordered != nil {
		name = l.ordered.postName(l, f, what)
	}
	l.lockSoon()
	if err := l.usable(true); err != nil {
		l.mu.Unlock()
		return err
	}
	if l.ordered == nil || !l.ordered.takePost(l, f, name) {
		l.posts.Push(f)
	}
	if !l.sleeping {
		l.mu.Unlock()
		return nil
	}
	l.sleeping = false
	l.mu.Unlock()
	l.wake()
	return nil
}

// postCallback is postFor for an object whose method Call is the function. It allocates no
// closure.
func (l *Loop) postCallback(c funcqueue.Callback, what any) error {
	if l.ordered != nil {
		return l.postFor(c.Call, what)
	}
	l.lockSoon()
	if err := l.usable(true); err != nil {
		l.mu.Unlock()
		return err
	}
	l.posts.PushCallback(c)
	sleeping := l.sleeping
	l.sleeping = false
	l.mu.Unlock()
	if sleeping {
		l.wake()
	}
	return nil
}

// lockSoon locks l.mu. The lock is held for about ten nanoseconds at a time. So when many
// goroutines post, a few more attempts are worthwhile before the goroutine sleeps. Lock
// itself makes them only on a processor that has nothing else to run. (With 32 senders, a
// Post takes half the time; measured.)
func (l *Loop) lockSoon() {
	for range 30 {
		if l.mu.TryLock() {
			return
		}
	}
	l.mu.Lock()
}

// Hold keeps the loop alive, even if it has nothing to do, until release is called. Both
// functions may be called from any goroutine, and Hold also before Run. A second call of
// release has no effect, and neither has a call after the end of the loop.
func (l *Loop) Hold() (release func()) {
	h := &hold{}
	if err := l.register(&h.handle, h, kindHold, true); err != nil {
		return func() {}
	}
	return func() { l.unregister(&h.handle) }
}

type hold struct{ handle }

func (h *hold) terminate()       { h.loop.unregister(&h.handle) }
func (h *hold) describe() string { return "" }

// Stop ends the loop by force. The callback that is running finishes, and no other callback
// starts. All handles are closed at once, without flushing: the peer of a connection with
// pending output sees a reset. Then the OnClose callbacks run, once each, and the exit
// callbacks, and Run returns nil.
//
// Stop does not wait; [Loop.Done] reports when the loop has ended. Before Run, Stop makes
// Run return at once. A second call has no effect. To end the loop gracefully, see
// [Loop.Shutdown].
func (l *Loop) Stop() { l.stop(nil) }

// stop ends the loop by force. Only the first reason counts; stop reports whether err is
// the first.
func (l *Loop) stop(err error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == stateClosed || l.stopping {
		return false
	}
	l.stopping = true
	l.stopErr = err
	l.ended.Store(true)
	l.wakeLocked()
	return true
}

// isStopping reports whether the loop is ending, or has ended, by force.
func (l *Loop) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// stopPanic ends the loop by force because of the panic p, with which Run then panics. A
// panic takes precedence over any other reason, and the first panic over later ones.
func (l *Loop) stopPanic(p *PanicError) {
	l.stop(p)
	l.keepPanic(p)
}

// OnExit arranges for f to be called on the loop after the loop has ended, for any reason,
// and all handles but signal handlers are closed. Exit callbacks run last in, first out. In
// them, Post and similar calls return [ErrLoopClosed]. If one panics, the others still run.
// A nil f is ignored, and so is a call after the end of the loop.
func (l *Loop) OnExit(f func()) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exits = append(l.exits, f)
}

// Done returns a channel that is closed when Run has nothing left to do but return.
func (l *Loop) Done() <-chan struct{} { return l.done }
