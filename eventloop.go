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

// A Config holds what a loop is made with. The zero Config, and nil where a
// *Config is asked for, mean the defaults.
type Config struct {
	// Name appears in logs and as the pprof label "eventloop" of the
	// dispatcher and of the goroutines that it starts.
	Name string

	// EventHandler is called on the loop with each event that no callback of an
	// operation took (default-event-cb). It decides alone: the loop goes on
	// unless the handler stops it. A panic in it ends the loop.
	//
	// If nil, information (see [IsInfo]) is ignored; errors that a remote peer
	// causes — of accepted connections, of requests, of single accepts — and
	// unhandled failures of futures are logged; with CatchPanics,
	// panics are logged; any other error ends the loop, and Run returns it.
	EventHandler func(err error)

	// CatchPanics turns a panic in a callback into an event: a [*PanicError]
	// goes to the event callback of the operation, else to EventHandler, and the
	// loop goes on (catch-app-errors). By default a panic closes everything that
	// the loop has, and leaves Run as a *PanicError.
	//
	// The same holds for code that the loop calls on other goroutines: methods of
	// a net.Conn or net.Listener that it was given, callbacks of a tls.Config,
	// ConnConfig.Dial, HTTPClientConfig.Dial, ResolverConfig.Dial. While the loop is being stopped no event callback of an
	// operation runs any more, so a panic goes to EventHandler then.
	CatchPanics bool

	// Logger receives what no callback takes: unhandled failures of futures,
	// what remote peers cause, caught panics, slow callbacks, mistakes in
	// resolv.conf. If nil, it goes to what slog.Default returns at that moment.
	// For silence set slog.New(slog.DiscardHandler).
	Logger *slog.Logger

	// SlowCallback is how long a callback, or a task between two suspensions, may
	// hold up the loop before Logger is told, with the stack of the callback, or with
	// that of the task and its name. Zero or negative: such callbacks are not looked
	// for.
	SlowCallback time.Duration

	// Resolver says how names are resolved. Nil means by the files of the system.
	Resolver *ResolverConfig

	// MaxWork is how many functions of [Work] run at a time. Zero or negative:
	// 64.
	MaxWork int

	// WorkGrace is how long Run waits, at the end by force, for functions of
	// [Work] to return. Zero: 5 s. Negative: not at all. It also bounds the wait
	// for methods of a net.Conn or net.Listener that is not of package net, which
	// get at least 100 ms.
	WorkGrace time.Duration

	// MaxBuffered bounds the bytes of output that are pending on all connections
	// together, those of HTTP servers included: above it a Write to a Conn returns
	// [ErrBufferFull], unless it is of at most 4 KB and nothing is pending on its
	// connection, and connections over their HighWater do not read on. Zero: 1 GB.
	// Negative: no bound.
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
	tasks   chan task                 // the road of the network goroutines
	writers writers.Pool[writers.Job] // carries out what callbacks wrote
	poller  netcore.Poller            // waits for connections that are quiet
	done    chan struct{}             // closed when Run returns
	labels  context.Context           // pprof labels; set by Run, before anything runs
	ctx     context.Context           // of what the loop waits for; ends with the loop
	cancel  context.CancelFunc
	ended   atomic.Bool          // no callback starts any more
	self    atomic.Uintptr       // goid.ID of the dispatcher
	task    atomic.Pointer[Task] // the one that runs now, or nil
	count   counters
	names   names
	work    Workers // of Work
	wg      crew    // the goroutines that Run waits for

	httpOnce sync.Once
	http     *HTTPClient // of HTTP

	mu       sync.Mutex // guards the following
	state    loopState
	sleeping bool        // the dispatcher waits, or is about to: wake it
	stopping bool        // by force
	stopErr  error       // what Run is to return
	panicked *PanicError // what Run is to panic with
	epoch    time.Time   // when Run began; times of the loop count from here
	posts    funcqueue.Queue
	taken    int // posts taken by the dispatcher, at the beginning of the turn
	timers   timerheap.Heap[*timerItem]
	refs     int // handles, timers and one-shots that keep the loop alive
	handles  handleList
	exits    []func()
	failures map[*unhandled]struct{}
	strays   []func() // see stray
	calls    map[*foreignCall]struct{}
	down     shutdown

	// Statistics, guarded by mu as well: the dispatcher has it anyway when they
	// change.
	turns      uint64
	queuePeak  int
	busy, idle time.Duration  // up to when the dispatcher went to sleep last
	woke       time.Duration  // when it woke up last
	kinds      [kindCount]int // handles by kind

	ordered *ordered // nil but in tests that decide the order; set before Run

	// Only on the loop.
	coroutines []*coroutine    // that have no task
	batch      funcqueue.Batch // posts taken
	due        []*Timer
	first      task        // what ended the last sleep
	timer      *time.Timer // wakes the dispatcher for the first deadline
	alarm      int64       // when timer fires, -1 if it does not
	watch      *slowWatch  // nil unless Config.SlowCallback is set
	pace       pacer
	parking    parking
	reading    writers.Job // of the connection whose data a callback has got, or nil
	passer     pollpass.Passer
	turned     time.Duration // when the last turn began; written with mu held
	lag        histogram.Histogram
	lastPanics [8]*PanicError // see tookPanic
	abandoned  bool           // foreign code did not return, see abandonForeign
	delivery   uint64         // of the signal whose handler runs, else 0
}

type loopState uint8

const (
	stateNew loopState = iota
	stateRunning
	stateClosed // nothing can be added any more
)

var errNilFunc = errors.New("eventloop: nil function")

// New returns a loop that does nothing until [Loop.Run]. It starts no goroutine,
// so a loop that is never run needs no cleaning up. A nil cfg means the zero
// Config. cfg is copied, and so is what Resolver and HTTPClient point to.
func New(cfg *Config) *Loop {
	l := &Loop{
		tasks: make(chan task, maxTasksQueued),
		done:  make(chan struct{}),
		wg:    crew{idle: newBell()},
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

// clone returns a copy of what p points to.
func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// Run makes a loop, calls start on it, and runs it to its end as [Loop.Run]
// does. An error of start ends the loop by force and is returned.
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

// Run runs callbacks until nothing keeps the loop alive, and returns then with
// no goroutine, descriptor or signal registration left behind. It blocks; the
// calling goroutine is the dispatcher.
//
// Run returns nil at the natural end, after [Loop.Stop], and after a
// [Loop.Shutdown] that came to its end; an error that matches [ErrForced] after one
// that did not; the cause of ctx if ctx ended the loop by force; or the error that
// ended the loop: of the start function, or an event that the default handler let
// through.
// A panic in a callback leaves Run as a [*PanicError] (see Config.CatchPanics).
//
// While it runs, the goroutine has the pprof labels of ctx and the label "eventloop",
// see Config.Name. Afterwards it has those of ctx, as after [pprof.Do]: labels that it
// had from elsewhere are lost.
//
// A loop runs once: Run returns [ErrRunning] while the loop runs, in a callback
// too, and [ErrLoopClosed] after it ended.
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

	// Deferred, because a callback may call runtime.Goexit (t.FailNow does), and
	// then too everything is to be closed.
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

// begin turns a new loop into a running one.
func (l *Loop) begin(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.state {
	case stateRunning:
		return ErrRunning
	case stateClosed:
		return ErrLoopClosed
	}
	l.state = stateRunning
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

// Post arranges for f to be called on the loop, in a later turn, after every f
// that the same goroutine posted before. It never blocks.
//
// If Post returns nil, f runs exactly once before Run returns, unless the loop
// is stopped by force. A queued f keeps the loop alive. After the end Post
// returns [ErrLoopClosed]; for a nil f, an error.
func (l *Loop) Post(f func()) error { return l.postFor(f, nil) }

// postFor is Post. A loop whose order a test decides names f after what it is for: a
// *Task, or a function that f calls.
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

// postCallback is postFor for an object that has a callback. It needs no closure.
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

// lockSoon locks l.mu. It is held for some ten nanoseconds at a time, so where
// many goroutines post it is worth trying a few times more before the goroutine
// is parked; Lock itself does so only on a processor that has nothing else to run
// (with 32 senders, a Post takes half the time; measured).
func (l *Loop) lockSoon() {
	for range 30 {
		if l.mu.TryLock() {
			return
		}
	}
	l.mu.Lock()
}

// Hold keeps the loop alive, even if it has nothing to do, until release is
// called. Both may be called from any goroutine, Hold also before Run; a second
// call of release does nothing, and so does a release after the end.
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

// Stop ends the loop by force. The callback that runs now finishes, and no other
// starts; whatever the loop has is closed at once, without flushing, and the peer
// of a connection with pending output sees a reset; then only OnClose callbacks,
// once each, and the exit callbacks run, and Run returns nil. Stop does not wait;
// [Loop.Done] tells when the loop has ended. Before Run, it makes Run return at
// once. A second call does nothing. To end the loop gracefully see [Loop.Shutdown].
func (l *Loop) Stop() { l.stop(nil) }

// stop ends the loop by force. The first reason counts; stop reports whether it is err.
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

// isStopping reports whether the loop ends by force, or did.
func (l *Loop) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// stopPanic ends the loop by force because of p, which Run will panic with. A
// panic counts more than any other reason, and the first panic the most.
func (l *Loop) stopPanic(p *PanicError) {
	l.stop(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panicked == nil {
		l.panicked = p
	}
}

// OnExit arranges for f to be called on the loop when it has ended, of whatever
// kind the end is, after everything that the loop had is closed. Exit callbacks
// run last in, first out. In them, Post and the like return [ErrLoopClosed]. If
// one panics the others still run. A nil f, and an OnExit after the end, are
// ignored.
func (l *Loop) OnExit(f func()) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exits = append(l.exits, f)
}

// Done returns a channel that is closed when Run has returned, or is about to
// with nothing left to do.
func (l *Loop) Done() <-chan struct{} { return l.done }
