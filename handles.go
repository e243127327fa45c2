package eventloop

import (
	"iter"
	"time"
)

// A Handle describes an open handle of a loop at the time of [Loop.Handles].
type Handle struct {
	// Kind is one of the constants that begin with Kind, or the kind of an [Owner].
	Kind string

	// Name distinguishes handles of the same kind: an address, signals and so on. It
	// may be empty.
	Name string

	// Ref reports whether the handle keeps the loop alive.
	Ref bool

	// Age is the time since the handle was opened. For a handle opened by a callback or
	// a task, the age counts from the beginning of that turn, so a callback that ran
	// for a long time before it opened the handle adds this time. For a timer, Age is
	// the exact time since AfterFunc, Every or Reset armed it; ticks of an interval do
	// not restart it. For a handle opened before Run, it counts from the beginning of
	// Run.
	Age time.Duration

	// Due is the time until a timer fires or an interval ticks next, zero if it is due
	// now. For other handles it is zero.
	Due time.Duration
}

// The values of [Handle.Kind].
const (
	KindConn              = "conn"                // a Conn
	KindListener          = "listener"            // a Listener
	KindTimer             = "timer"               // a Timer of AfterFunc
	KindInterval          = "interval"            // a Timer of Every
	KindSignal            = "signal"              // a SignalHandler
	KindHold              = "hold"                // the result of Loop.Hold
	KindFuture            = "future"              // a future of NewFuture; or, unref'd, an unused result of Detach
	KindLookup            = "lookup"              // a name being looked up
	KindTask              = "task"                // a Task
	KindWork              = "work"                // a function of Work
	KindReceiver          = "receiver"            // a Receiver
	KindSender            = "sender"              // a Sender with waiting values
	KindReader            = "reader"              // a Reader
	KindPipe              = "pipe"                // a PipeWriter
	KindHTTPServer        = "http server"         // an HTTPServer
	KindHTTPRequest       = "http request"        // an HTTPRequest without a complete response
	KindHTTPClient        = "http client"         // the idle connections of an HTTPClient
	KindHTTPClientRequest = "http client request" // a request of an HTTPClient
)

// String returns the kind, the name, the age, the time until the handle is due, and
// whether it is unref'd.
func (h Handle) String() string {
	s := h.Kind
	if h.Name != "" {
		s += " " + h.Name
	}
	s += " " + h.Age.Round(time.Millisecond).String()
	if h.Due > 0 {
		s += ", due in " + h.Due.Round(time.Millisecond).String()
	}
	if !h.Ref {
		s += " (unref)"
	}
	return s
}

// Handles returns a sequence of the loop's open handles. It shows why the loop does not
// end: the handles with Ref keep it alive. The sequence is a snapshot, and the loop
// continues while the caller iterates.
func (l *Loop) Handles() iter.Seq[Handle] {
	all, _ := l.snapshot()
	return func(yield func(Handle) bool) {
		for _, h := range all {
			if !yield(h) {
				return
			}
		}
	}
}

// snapshot returns the loop's open handles: first those with an owner, in the order of
// owners, then the timers.
func (l *Loop) snapshot() (all []Handle, owners []owner) {
	l.mu.Lock()
	now := l.now()
	for h := range l.handles.all {
		all = append(all, Handle{Kind: h.kindName(), Ref: !h.unref, Age: now - h.born})
		owners = append(owners, h.owner)
	}
	for t := range l.timers.All {
		all = append(all, (*Timer)(t).handle(now))
	}
	for t := range l.dueTimers {
		all = append(all, t.handle(now))
	}
	l.mu.Unlock()
	for i, o := range owners {
		all[i].Name = o.describe() // without l.mu, because it takes other locks
	}
	return all, owners
}

// kind is the kind of a handle.
type kind uint8

const (
	kindConnIn  kind = iota // accepted or adopted
	kindConnOut             // dialed
	kindListener
	kindSignal
	kindHold
	kindFuture
	kindLookup
	kindTask
	kindWork
	kindReceiver
	kindSender
	kindReader
	kindPipe
	kindHTTPServer
	kindHTTPRequest
	kindHTTPClient // a request of the client
	kindHTTPPool   // the idle connections of a client
	kindOwner      // of a driver; see handle.kindName
	kindCount
)

var kindNames = [kindCount]string{
	KindConn, KindConn, KindListener, KindSignal, KindHold, KindFuture, KindLookup, KindTask, KindWork, KindReceiver, KindSender, KindReader, KindPipe,
	KindHTTPServer, KindHTTPRequest, KindHTTPClientRequest, KindHTTPClient, "owner",
}

func (k kind) String() string { return kindNames[k] }

// An owner is the object that a handle belongs to.
type owner interface {
	// terminate closes the owner by force at the end of the loop. It runs on the loop.
	// It must lead to unregister, at once or by a task.
	terminate()

	// describe returns the name for Handles. It is called from any goroutine.
	describe() string
}

// A shutdowner is an owner that Loop.Shutdown closes.
type shutdowner interface{ shutdown() }

// A spareable owner keeps the loop alive, but may have nothing to lose.
type spareable interface {
	// isSpare reports whether an end by force loses nothing that a graceful end would
	// keep: the owner only accepts connections, or is idle, or is closed and only waits for
	// peers that already have all of its output. It is called from any goroutine.
	isSpare() bool
}

// handle is embedded in every object that a loop keeps track of. The loop's list links the
// handles directly, so opening a handle allocates nothing else.
type handle struct {
	loop *Loop

	// Guarded by loop.mu.
	owner      owner // nil if not registered
	next, prev *handle
	born       time.Duration // see turnTime
	kind       kind
	unref      bool
}

// kindName returns the name of the kind of h. The caller holds loop.mu.
func (h *handle) kindName() string {
	if o, ok := h.owner.(*Owner); ok {
		return o.driver
	}
	return h.kind.String()
}

// register adds h to the loop. early permits it before Run.
func (l *Loop) register(h *handle, o owner, k kind, early bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(early); err != nil {
		return err
	}
	if h.loop == nil {
		h.loop = l
	}
	h.owner, h.kind, h.born = o, k, l.turnTime()
	l.handles.add(h)
	l.kinds[k]++
	if l.ordered != nil {
		l.ordered.name(l, h)
	}
	if !h.unref { // a Sender is registered repeatedly
		l.refs++
	}
	return nil
}

// hasTasks reports whether the loop has tasks that have not ended.
func (l *Loop) hasTasks() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kinds[kindTask] > 0
}

// usable returns an error if the loop accepts no new work in its current state. early
// permits work before Run. The caller holds l.mu.
func (l *Loop) usable(early bool) error {
	switch {
	case l.state == stateClosed || l.stopping && l.state == stateRunning:
		return ErrLoopClosed
	case l.state == stateNew && !early:
		return ErrNotRunning
	}
	return nil
}

// unregister removes h from the loop and reports whether it was registered.
func (l *Loop) unregister(h *handle) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.owner == nil {
		return false
	}
	l.handles.remove(h)
	h.owner = nil
	l.kinds[h.kind]--
	if !h.unref {
		l.release()
	}
	return true
}

// unregisterAside is unregister for a goroutine that sends no task afterwards: closeAll,
// which waits for the last handle, has to look again.
func (l *Loop) unregisterAside(h *handle) {
	l.unregister(h)
	if l.ended.Load() {
		l.wake()
	}
}

// release drops one reference that keeps the loop alive. The caller holds l.mu.
func (l *Loop) release() {
	if l.refs--; l.refs == 0 {
		l.wakeLocked()
	}
}

func (h *handle) setRef(ref bool) {
	l := h.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.unref != ref {
		return
	}
	h.unref = !ref
	switch {
	case h.owner == nil:
	case ref:
		l.refs++
	default:
		l.release()
	}
}

// Ref makes the connection keep the loop alive. This is the default.
func (c *Conn) Ref() { c.setRef(true) }

// Unref lets the loop end although the connection is open; the connection is then
// closed by force. Until then it works as before.
func (c *Conn) Unref() { c.setRef(false) }

// Ref makes the listener keep the loop alive. This is the default.
func (ln *Listener) Ref() { ln.setRef(true) }

// Unref lets the loop end although the listener is open; the listener is then closed by
// force. Until then it works as before.
func (ln *Listener) Unref() { ln.setRef(false) }

// Ref makes the server keep the loop alive. This is the default.
func (s *HTTPServer) Ref() { s.setRef(true) }

// Unref lets the loop end although the server is open; the server is then closed by
// force. Until then it works as before.
func (s *HTTPServer) Unref() { s.setRef(false) }

// Ref makes the handler keep the loop alive. This is the default.
func (h *SignalHandler) Ref() { h.setRef(true) }

// Unref lets the loop end although the handler is active; the handler is then stopped.
// Until then it works as before.
func (h *SignalHandler) Unref() { h.setRef(false) }

// Ref makes the future keep the loop alive. This is the default. It has no effect on a
// future that belongs to something else, such as a connection.
func (f *Future[T]) Ref() {
	if f.own != nil {
		f.own.setRef(true)
	}
}

// Unref lets the loop end although the future is pending; the future then fails with
// [ErrLoopClosed]. Until then it works as before. It has no effect on a future that
// belongs to something else, such as a connection.
func (f *Future[T]) Unref() {
	if f.own != nil {
		f.own.setRef(false)
	}
}

// Ref makes the task keep the loop alive. This is the default.
func (t *Task) Ref() { t.setRef(true) }

// Unref lets the loop end although the task is running; the task is then unwound, as at
// an end by force. Until then it works as before.
func (t *Task) Unref() { t.setRef(false) }

// Ref makes the receiver keep the loop alive. This is the default.
func (r *Receiver[T]) Ref() { r.setRef(true) }

// Unref lets the loop end although the receiver is open; the receiver is then stopped.
// Until then it works as before.
func (r *Receiver[T]) Unref() { r.setRef(false) }

// Ref makes the sender keep the loop alive. This is the default.
func (s *Sender[T]) Ref() { s.setRef(true) }

// Unref lets the loop end although the sender is waiting; the sender is then stopped.
// Until then it works as before.
func (s *Sender[T]) Unref() { s.setRef(false) }

// owners returns the owners that are of type T, in the order of registration.
func owners[T any](l *Loop) (all []T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h := range l.handles.all {
		if o, ok := h.owner.(T); ok {
			all = append(all, o)
		}
	}
	return all
}

// handleList is a ring of handles in the order of registration.
type handleList struct {
	root handle // root.next is the first handle; nil before the first add
	len  int
}

func (hl *handleList) add(h *handle) {
	r := &hl.root
	if r.next == nil {
		r.next, r.prev = r, r
	}
	h.prev, h.next = r.prev, r
	h.prev.next, r.prev = h, h
	hl.len++
}

func (hl *handleList) remove(h *handle) {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
	hl.len--
}

func (hl *handleList) all(yield func(*handle) bool) {
	for h := hl.root.next; h != nil && h != &hl.root; h = h.next {
		if !yield(h) {
			return
		}
	}
}
