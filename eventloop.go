package eventloop

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/funcqueue"
	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/histogram"
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
	// failed futures that nobody asked about are logged; with CatchPanics,
	// panics are logged; any other error ends the loop, and Run returns it.
	EventHandler func(err error)

	// CatchPanics turns a panic in a callback into an event: a [*PanicError]
	// goes to the event callback of the operation, else to EventHandler, and the
	// loop goes on (catch-app-errors). By default a panic closes everything that
	// the loop has, and leaves Run as a *PanicError.
	CatchPanics bool

	// Logger receives what no callback takes: failures that nobody asked about,
	// what remote peers cause, caught panics, slow callbacks, mistakes in
	// resolv.conf. If nil, it goes to what slog.Default returns at that moment.
	// For silence set slog.New(slog.DiscardHandler).
	Logger *slog.Logger

	// SlowCallback is how long a callback, or a task between two suspensions, may
	// hold up the loop before Logger is told, with the stack of the dispatcher and
	// the name of the task. Zero or negative: such callbacks are not looked for.
	SlowCallback time.Duration

	// Resolver says how names are resolved. The zero value goes by the files of
	// the system.
	Resolver ResolverConfig

	// MaxWork is how many functions of [Work] run at a time. Zero or negative:
	// 64.
	MaxWork int

	// WorkGrace is how long Run waits, at the end by force, for functions of
	// [Work] to return. Zero: 5 s. Negative: not at all.
	WorkGrace time.Duration

	// HTTP holds the settings of [Loop.HTTP].
	HTTP HTTPClientConfig
}

// A Loop runs callbacks one at a time on the goroutine that calls [Loop.Run],
// the dispatcher. It must be created with [New] and is used once.
//
// All methods may be called from any goroutine and from any callback.
type Loop struct {
	cfg     Config
	tasks   chan task                 // the road of the network goroutines
	writers writers.Pool[writers.Job] // carries out what callbacks wrote
	done    chan struct{}             // closed when Run returns
	ctx     context.Context           // of what the loop waits for; ends with the loop
	cancel  context.CancelFunc
	ended   atomic.Bool          // no callback starts any more
	self    atomic.Uintptr       // goid.ID of the dispatcher
	task    atomic.Pointer[Task] // the one that runs now, or nil
	count   counters
	names   names
	work    workers
	wg      sync.WaitGroup // network goroutines, so that Run can see the last one off

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
	unasked  map[*unasked]struct{}

	// Statistics, guarded by mu as well: the dispatcher has it anyway when they
	// change.
	turns      uint64
	queuePeak  int
	busy, idle time.Duration  // up to when the dispatcher went to sleep last
	woke       time.Duration  // when it woke up last
	kinds      [kindCount]int // handles by kind

	// Only on the loop.
	labels       context.Context // pprof labels of tasks
	coroutines   []*coroutine    // that have no task
	batch        funcqueue.Batch // posts taken
	posted       bool            // the last turn had posts
	due          []*Timer
	first        task          // what ended the last sleep
	timer        *time.Timer   // wakes the dispatcher for the first deadline
	alarm        int64         // when timer fires, -1 if it does not
	watch        *slowWatch    // nil unless Config.SlowCallback is set
	crowded      bool          // see reckon
	alone        int           // times in a row that reckon found nobody
	bulk         bool          // much data came since reckon
	sinceRelease int           // callbacks since the writers got their work
	together     int           // turns since the dispatcher stepped aside
	turned       time.Duration // when the last turn began; written with mu held
	lag          histogram.Histogram
}

type loopState uint8

const (
	stateNew loopState = iota
	stateRunning
	stateClosed // nothing can be added any more
)

// A task is what a network goroutine hands to the dispatcher. Tasks are pointers
// to existing structures under another type, so sending one allocates nothing.
type task interface{ run() }

// wakeTask ends the sleep of the dispatcher, which then looks at its queues.
type wakeTask struct{}

func (wakeTask) run() {}

// Bounds of one turn. They keep a flood of one kind of work from delaying the
// others, timers above all, for more than some hundred callbacks.
const (
	maxTasksQueued = 1024 // network goroutines wait when so many are ahead
	maxPerTurn     = 256  // of each kind
	releaseEvery   = 8    // callbacks between two hand-overs to the writers
)

var errNilFunc = errors.New("eventloop: nil function")

// New returns a loop that does nothing until [Loop.Run]. It starts no goroutine,
// so a loop that is never run needs no cleaning up. A nil cfg means the zero
// Config; cfg is copied.
func New(cfg *Config) *Loop {
	l := &Loop{
		tasks: make(chan task, maxTasksQueued),
		done:  make(chan struct{}),
	}
	if cfg != nil {
		l.cfg = *cfg
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.writers.Init(runtime.GOMAXPROCS(0))
	return l
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
// Run returns nil at the natural end and after [Loop.Stop] or [Loop.Shutdown];
// the cause of ctx if ctx ended the loop by force; or the error that ended the
// loop: of the start function, or an event that the default handler let through.
// A panic in a callback leaves Run as a [*PanicError] (see Config.CatchPanics).
//
// A loop runs once: Run returns [ErrRunning] while the loop runs, in a callback
// too, and [ErrLoopClosed] after it ended.
func (l *Loop) Run(ctx context.Context) (err error) {
	if ctx == nil {
		ctx = context.Background()
	}
	if err := l.begin(); err != nil {
		return err
	}
	labels := pprof.WithLabels(ctx, pprof.Labels("eventloop", l.cfg.Name))
	pprof.SetGoroutineLabels(labels)
	l.labels = labels
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

// begin turns a new loop into a running one.
func (l *Loop) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.state {
	case stateRunning:
		return ErrRunning
	case stateClosed:
		return ErrLoopClosed
	}
	l.state = stateRunning
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
func (l *Loop) Post(f func()) error {
	if f == nil {
		return errNilFunc
	}
	l.lockSoon()
	if err := l.usable(true); err != nil {
		l.mu.Unlock()
		return err
	}
	l.posts.Push(f)
	if !l.sleeping {
		l.mu.Unlock()
		return nil
	}
	l.sleeping = false
	l.mu.Unlock()
	l.wake()
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

// wake ends the sleep of the dispatcher. If the channel is full the dispatcher cannot
// be asleep.
func (l *Loop) wake() {
	select {
	case l.tasks <- wakeTask{}:
	default:
	}
}

// send gives t to the dispatcher. It waits while the channel is full.
func (l *Loop) send(t task) { l.tasks <- t }

// hand gives t to the dispatcher. It is for writers, which may be the dispatcher
// itself: that must not wait for room in its own channel.
func (l *Loop) hand(t task) {
	select {
	case l.tasks <- t:
		return
	default:
	}
	if l.onLoop() {
		l.Post(t.run) // refused or dropped at the end of the loop: nobody waits for t then
	} else {
		l.send(t)
	}
}

// wakeLocked is wake for callers that hold l.mu.
func (l *Loop) wakeLocked() {
	if l.sleeping {
		l.sleeping = false
		l.wake()
	}
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
// once. A second call does nothing.
func (l *Loop) Stop() { l.stop(nil) }

// stop ends the loop by force. The first reason counts.
func (l *Loop) stop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == stateClosed || l.stopping {
		return
	}
	l.stopping = true
	l.stopErr = err
	l.ended.Store(true)
	l.wakeLocked()
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

// Shutdown ends the loop gracefully. Listeners, servers, signal handlers and
// intervals are closed; connections, timers, requests, tasks and holds go on
// until they end by themselves, and then Run returns nil. When ctx ends before
// that, the loop is stopped by force.
//
// Shutdown does not wait, so a callback, of a signal say, may call it. Before
// Run, it makes Run return at once.
func (l *Loop) Shutdown(ctx context.Context) {
	if ctx == nil {
		ctx = context.Background()
	}
	release := context.AfterFunc(ctx, l.Stop)
	l.mu.Lock()
	state := l.state
	if state == stateRunning {
		l.exits = append(l.exits, func() { release() })
	}
	l.mu.Unlock()
	switch state {
	case stateNew:
		release()
		l.Stop()
	case stateRunning:
		l.Post(l.shutdownHandles)
	case stateClosed:
		release()
	}
}

// shutdownHandles closes what would go on for ever.
func (l *Loop) shutdownHandles() {
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

// now returns the time since Run began. It is zero before Run, so that timers
// made then start with Run. The caller holds l.mu or is on the loop.
func (l *Loop) now() time.Duration {
	if l.state == stateNew {
		return 0
	}
	return time.Since(l.epoch)
}

// turnTime is now for what needs no more than the time when the present turn
// began: reading the clock is half of what a new future costs. Only callers on the
// loop can do with that; while the dispatcher sleeps the last turn may be long ago.
// The caller holds l.mu.
func (l *Loop) turnTime() time.Duration {
	if l.state == stateRunning && l.onLoop() {
		return l.turned
	}
	return l.now()
}

// onLoop reports whether the caller runs on the loop: on the dispatcher, or as a
// task while the dispatcher waits for it.
func (l *Loop) onLoop() bool {
	id := uintptr(goid.Current())
	if id == l.self.Load() {
		return true
	}
	t := l.task.Load()
	return t != nil && id == t.self.Load()
}

// dispatch runs turns until the loop ends.
func (l *Loop) dispatch() {
	for l.prepare() {
		l.turn()
	}
}

// prepare collects what is to be done in the next turn, and sleeps until there
// is something. It returns false at the end, and then nothing can be added any
// more: whether anything keeps the loop alive, and that nothing does any more,
// is decided under one lock, so no Post falls in between.
func (l *Loop) prepare() bool {
	now := l.now()
	l.lockSoon()
	defer l.mu.Unlock()
	l.lag.Record(now - l.turned) // the last turn: who came in it waited so long
	for !l.stopping {
		l.turned = now
		l.collectDue(now)
		l.collectPosts()
		posted := l.batch.Len() > 0
		if l.refs == 0 && !posted {
			break // what else is due belongs to handles that are unref'd
		}
		if posted || l.first != nil || len(l.due) > 0 || len(l.tasks) > 0 {
			l.turns++
			l.posted = posted
			return true
		}
		if l.posted && l.crowded {
			l.yield() // the clock is not read again: a timer may be late by it, never early
		} else {
			now = l.sleep(now)
		}
	}
	l.state = stateClosed
	l.ended.Store(true)
	return false
}

// collectDue moves the timers that are due to l.due. Timers that are armed later
// in this turn wait for the next, however short they are.
func (l *Loop) collectDue(now time.Duration) {
	when, ok := l.timers.Min()
	for ok && when <= int64(now) && len(l.due) < maxPerTurn {
		item, _ := l.timers.Pop()
		t := (*Timer)(item)
		t.state = timerDue
		l.due = append(l.due, t)
		l.lag.Record(now - time.Duration(when))
		when, ok = l.timers.Min()
	}
}

// collectPosts takes the posts once those taken before have run: what a post
// posts runs in a later turn.
func (l *Loop) collectPosts() {
	if l.batch.Len() == 0 {
		l.batch.Take(&l.posts)
		l.queuePeak = max(l.queuePeak, l.batch.Len())
	}
	l.taken = l.batch.Len()
}

// yield lets others run before the dispatcher goes to sleep after a post: who gets
// an answer often posts again, and then needs to wake nobody. That makes a post and
// its answer a third cheaper, and costs nothing that could be measured otherwise.
// The caller holds l.mu, which is released meanwhile.
func (l *Loop) yield() {
	l.posted = false
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
}

// sleep waits from now on for a task, a wake-up or the first deadline, and returns
// the time when it is over. The caller holds l.mu, which is released meanwhile.
func (l *Loop) sleep(now time.Duration) time.Duration {
	l.sleeping = true
	l.busy += now - l.woke
	when, timed := l.timers.Min()
	l.mu.Unlock()
	if !timed {
		l.first = <-l.tasks
	} else {
		if when != l.alarm { // the timer runs on while the dispatcher is awake
			l.alarm = when
			l.timer.Reset(time.Duration(when) - now)
		}
		select {
		case l.first = <-l.tasks:
		case <-l.timer.C:
			l.alarm = -1
		}
	}
	gathered := l.crowded && l.first != nil
	if gathered {
		runtime.Gosched()
	}
	l.mu.Lock()
	l.sleeping = false
	l.woke = l.now()
	l.idle += l.woke - now
	l.reckon(gathered, l.woke-now)
	return l.woke
}

// reckon decides whether the dispatcher is to let others run after its next sleep,
// before it begins a turn. It learns that from the last one, how long it was or
// what came of it.
//
// A goroutine that is woken runs next on the processor of who woke it, so the
// dispatcher would have a turn for each task, and wake a writer for each answer,
// while goroutines that the poller found ready at the same time still wait. Let
// first, they leave their tasks in the queue. (HTTP with 50 and 500 connections:
// 1.17 and 1.05 times the requests; echo with 500: 0.91 of the CPU time.) Where
// there are none it would only cost time, so the dispatcher does it when sleeps
// are short, and as long as it finds anything; and not where much data comes at a
// time, of which little would be left in the caches by its turn (echo of 32 KB:
// 0.83 of the throughput).
func (l *Loop) reckon(gathered bool, slept time.Duration) {
	switch {
	case l.bulk:
		l.crowded, l.bulk = false, false
	case !gathered:
		l.crowded = slept < shortSleep
	case len(l.tasks) > 0:
		l.alone = 0
	default:
		if l.alone++; l.alone == 32 {
			l.crowded, l.alone = false, 0
		}
	}
}

// shortSleep is less than a peer takes to answer.
const shortSleep = 5 * time.Microsecond

// bulk is how many bytes are much data.
const bulk = 8 << 10

// stepAside is after how many turns the dispatcher lets others run first. It and
// the goroutines that it wakes hand a processor to each other past its queue of
// goroutines, for up to ten milliseconds at a time, while those that wait there
// have requests as well. (The slowest hundredth of echoes with 500 connections:
// 8 to 10 ms instead of 16 to 24 ms; throughput the same within 2 %.)
const stepAside = 128

// turn runs what prepare collected: timers, then posts, then tasks, a bounded
// number of each.
func (l *Loop) turn() {
	if l.together++; l.together == stepAside {
		l.together = 0
		runtime.Gosched()
	}
	l.sinceRelease = 0
	l.writers.BeginTurn()
	defer func() { l.writers.EndTurn(len(l.tasks) == 0 && !l.bulk) }()
	l.runDue()
	l.runPosts()
	l.runTasks()
}

func (l *Loop) runDue() {
	for i, t := range l.due {
		l.due[i] = nil
		if l.ended.Load() {
			continue
		}
		l.fire(t)
		l.ran()
	}
	if l.due = l.due[:0]; cap(l.due) > maxPerTurn {
		l.due = nil
	}
}

func (l *Loop) runPosts() {
	for n := 0; l.batch.Len() > 0 && n < maxPerTurn && !l.ended.Load(); n++ {
		l.call(l.batch.Pop())
		l.ran()
	}
}

func (l *Loop) runTasks() {
	n := min(len(l.tasks), maxPerTurn)
	if t := l.first; t != nil {
		l.first = nil
		t.run()
		l.ran()
	}
	for ; n > 0 && !l.ended.Load(); n-- {
		(<-l.tasks).run()
		l.ran()
	}
}

// ran counts a callback and lets the writers have, every few callbacks, what
// was written.
func (l *Loop) ran() {
	if l.watch != nil {
		l.watch.progress.Add(1)
	}
	if l.sinceRelease++; l.sinceRelease >= releaseEvery {
		l.sinceRelease = 0
		l.writers.Release()
	}
}

// teardown closes everything that the loop has, waits until it is gone, and runs
// the exit callbacks. It is deferred by Run: the end may be a Goexit, in which
// case the loop is still marked as running.
func (l *Loop) teardown() {
	l.mu.Lock()
	if l.state != stateClosed {
		l.stopping = true // Goexit is an end by force
	}
	l.state = stateClosed
	l.ended.Store(true)
	l.busy += l.now() - l.woke // statistics end here
	l.mu.Unlock()
	defer close(l.done)
	defer l.self.Store(0) // the goroutine goes on without us
	defer l.runExits()
	defer l.closeAll()
	l.cancel()
}

// closeAll terminates every handle and serves the tasks of their goroutines, so
// that none of them waits for the dispatcher, until the last is gone.
func (l *Loop) closeAll() {
	// A callback of OnClose may call Goexit in the middle of it.
	finished := false
	defer func() {
		if !finished {
			l.closeAll()
		}
	}()
	l.mu.Lock()
	l.timers.Clear()
	l.posts, l.batch, l.taken, l.due = funcqueue.Queue{}, funcqueue.Batch{}, 0, nil
	owners := make([]owner, 0, l.handles.len)
	for h := range l.handles.all {
		owners = append(owners, h.owner)
	}
	l.mu.Unlock()
	l.writers.EndTurn(false)
	for _, o := range owners {
		o.terminate()
	}
	if t := l.first; t != nil {
		l.first = nil
		t.run()
	}
	grace := l.workGrace()
	defer grace.Stop()
	for l.handleCount() > 0 {
		select {
		case t := <-l.tasks:
			t.run()
		case <-grace.C:
			l.abandonWork()
		}
	}
	l.writers.Close()
	l.names.close()
	l.endCoroutines()
	l.wg.Wait()
	l.timer.Stop()
	finished = true
	l.flushUnasked()
}

// workGrace returns a timer for the end of Config.WorkGrace.
func (l *Loop) workGrace() *time.Timer {
	d := l.cfg.WorkGrace
	if d == 0 {
		d = defaultWorkGrace
	}
	return time.NewTimer(max(d, 0))
}

func (l *Loop) handleCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handles.len
}

// runExits runs the exit callbacks, all of them even if one panics or exits the
// goroutine. The first panic is the one that leaves Run.
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
			l.runExits() // Goexit in f: the goroutine ends, the others still run
		}
	}()
	f()
	returned = true
}

// keepPanic remembers a panic of an exit callback for Run.
func (l *Loop) keepPanic(p *PanicError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panicked == nil {
		l.panicked = p
	}
}
