package eventloop

import (
	"iter"
	"time"
)

// A Handle describes something that a loop has open, at the moment it was asked.
type Handle struct {
	// Kind says what the handle is: one of the constants that begin with Kind.
	Kind string

	// Name is the address, the signals, or whatever tells one handle from
	// another of its kind; it may be empty.
	Name string

	// Ref reports whether the handle keeps the loop alive.
	Ref bool

	// Age is the time since the handle was opened. Of what a callback or a task
	// opened, it counts from the beginning of the turn, so a callback that ran for
	// long before it opened something makes that look older by as much. Of a timer
	// it is the exact time since it was armed by AfterFunc, Every or Reset; a tick
	// of an interval does not count. What was opened before Run counts from the
	// beginning of Run.
	Age time.Duration

	// Due is the time until a timer fires or an interval ticks next, zero if it is
	// about to. Of other handles it is zero.
	Due time.Duration
}

// The values of [Handle.Kind].
const (
	KindConn              = "conn"                // a Conn
	KindListener          = "listener"            // a Listener
	KindTimer             = "timer"               // a Timer of AfterFunc
	KindInterval          = "interval"            // a Timer of Every
	KindSignal            = "signal"              // a SignalHandler
	KindHold              = "hold"                // what Loop.Hold gives
	KindFuture            = "future"              // a future of NewFuture, or a result of Detach that was not taken
	KindLookup            = "lookup"              // a name being looked up
	KindTask              = "task"                // a Task
	KindWork              = "work"                // a function of Work
	KindReceiver          = "receiver"            // a Receiver
	KindSender            = "sender"              // a Sender with values that wait
	KindHTTPServer        = "http server"         // an HTTPServer
	KindHTTPRequest       = "http request"        // an HTTPRequest without a response, or with one being sent
	KindHTTPClient        = "http client"         // the idle connections of an HTTPClient
	KindHTTPClientRequest = "http client request" // a request of an HTTPClient
)

// String returns kind, name, age, when it is due, and whether the handle is
// unref'd.
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

// Handles returns a sequence over what the loop has open now, which answers the
// question why it does not end: those with Ref keep it alive. It is a snapshot;
// the loop goes on meanwhile.
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

// snapshot returns what the loop has open now: first what has an owner, in the order
// of owners, and then the timers.
func (l *Loop) snapshot() (all []Handle, owners []owner) {
	l.mu.Lock()
	now := l.now()
	for h := range l.handles.all {
		all = append(all, Handle{Kind: h.kind.String(), Ref: !h.unref, Age: now - h.born})
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
		all[i].Name = o.describe() // takes locks of its own
	}
	return all, owners
}

// kind says what a handle is.
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
	kindHTTPServer
	kindHTTPRequest
	kindHTTPClient // a request of the client
	kindHTTPPool   // the connections that a client keeps
	kindCount
)

var kindNames = [kindCount]string{
	KindConn, KindConn, KindListener, KindSignal, KindHold, KindFuture, KindLookup, KindTask, KindWork, KindReceiver, KindSender,
	KindHTTPServer, KindHTTPRequest, KindHTTPClientRequest, KindHTTPClient,
}

func (k kind) String() string { return kindNames[k] }

// An owner is what a handle is part of.
type owner interface {
	// terminate closes the owner by force, on the loop, when the loop ends. It
	// must lead to unregister, at once or by a task.
	terminate()

	// describe returns the name for Handles. It is called from any goroutine.
	describe() string
}

// A shutdowner is an owner that Loop.Shutdown closes.
type shutdowner interface{ shutdown() }

// A spareable owner keeps the loop alive, but may have nothing to lose.
type spareable interface {
	// isSpare reports whether an end by force takes nothing away that a graceful one
	// would not: the owner accepts, or is idle, or is closed and only waits for peers
	// that have all of its output. It is called from any goroutine.
	isSpare() bool
}

// handle is the part that everything has that a loop knows: the loop's list
// runs through it, so opening a handle costs no memory besides it.
type handle struct {
	loop *Loop

	// Guarded by loop.mu.
	owner      owner // nil if not registered
	next, prev *handle
	born       time.Duration // see turnTime
	kind       kind
	unref      bool
}

// register adds h to the loop. early says that it may be done before Run.
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
		l.ordered.name(l, h, k)
	}
	if !h.unref { // a Sender is registered again and again
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

// usable returns the error of a call that the state of the loop forbids. The
// caller holds l.mu.
func (l *Loop) usable(early bool) error {
	switch {
	case l.state == stateClosed || l.stopping && l.state == stateRunning:
		return ErrLoopClosed
	case l.state == stateNew && !early:
		return ErrNotRunning
	}
	return nil
}

// unregister takes h from the loop and reports whether it was there.
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

// release takes back one reason to live. The caller holds l.mu.
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

// Ref makes the connection keep the loop alive, as it does from the start.
func (c *Conn) Ref() { c.setRef(true) }

// Unref lets the loop end although the connection is open; it is then closed as by force.
// While the loop lives the connection works as before.
func (c *Conn) Unref() { c.setRef(false) }

// Ref makes the listener keep the loop alive, as it does from the start.
func (ln *Listener) Ref() { ln.setRef(true) }

// Unref lets the loop end although the listener is open; it is then closed as by force.
// While the loop lives the listener works as before.
func (ln *Listener) Unref() { ln.setRef(false) }

// Ref makes the server keep the loop alive, as it does from the start.
func (s *HTTPServer) Ref() { s.setRef(true) }

// Unref lets the loop end although the server is open; it is then closed as by force.
// While the loop lives the server works as before.
func (s *HTTPServer) Unref() { s.setRef(false) }

// Ref makes the handler keep the loop alive, as it does from the start.
func (h *SignalHandler) Ref() { h.setRef(true) }

// Unref lets the loop end although the handler is active; it is then stopped.
// While the loop lives the handler works as before.
func (h *SignalHandler) Unref() { h.setRef(false) }

// Ref makes the future keep the loop alive, as it does from the start.
func (f *Future[T]) Ref() { f.setRef(true) }

// Unref lets the loop end although the future is pending; it is then failed with [ErrLoopClosed].
// While the loop lives the future works as before.
func (f *Future[T]) Unref() { f.setRef(false) }

// Ref makes the task keep the loop alive, as it does from the start.
func (t *Task) Ref() { t.setRef(true) }

// Unref lets the loop end although the task is running; it is then unwound as by force.
// While the loop lives the task works as before.
func (t *Task) Unref() { t.setRef(false) }

// Ref makes the receiver keep the loop alive, as it does from the start.
func (r *Receiver[T]) Ref() { r.setRef(true) }

// Unref lets the loop end although the receiver is open; it is then stopped.
// While the loop lives the receiver works as before.
func (r *Receiver[T]) Unref() { r.setRef(false) }

// Ref makes the sender keep the loop alive, as it does from the start.
func (s *Sender[T]) Ref() { s.setRef(true) }

// Unref lets the loop end although the sender is waiting; it is then stopped.
// While the loop lives the sender works as before.
func (s *Sender[T]) Unref() { s.setRef(false) }

// handleList is a list of handles in order of registration.
type handleList struct {
	head, tail *handle
	len        int
}

func (hl *handleList) add(h *handle) {
	h.prev, h.next = hl.tail, nil
	if hl.tail == nil {
		hl.head = h
	} else {
		hl.tail.next = h
	}
	hl.tail = h
	hl.len++
}

func (hl *handleList) remove(h *handle) {
	if h.prev == nil {
		hl.head = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next == nil {
		hl.tail = h.prev
	} else {
		h.next.prev = h.prev
	}
	h.prev, h.next = nil, nil
	hl.len--
}

func (hl *handleList) all(yield func(*handle) bool) {
	for h := hl.head; h != nil; h = h.next {
		if !yield(h) {
			return
		}
	}
}
