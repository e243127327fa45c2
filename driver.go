package eventloop

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// An Owner is a handle of a driver, for example of a client of a database. The driver
// may be in any package. [Loop.Handles] shows the owner with its kind, its name and the
// number of its pending promises. See [Promise] for the futures that a driver returns.
//
// An owner keeps the loop alive only while promises of it are pending: an idle client does
// not keep a program running. A driver of an operation that continues without requests, such
// as a subscription, needs a promise for the end of the operation.
//
// All methods may be called from any goroutine and from any callback.
type Owner struct {
	handle
	driver string // the kind
	end    func(err error)

	mu         sync.Mutex // guards the following
	name       string
	quiet      bool  // Unref was called
	closed     error // error of later promises; nil while the owner is open
	onShutdown func()
	promises   promiseList // pending
}

// NewOwner returns an owner. kind becomes [Handle].Kind; an example is "redis". name
// distinguishes owners of one kind, for example by an address, and may be empty.
//
// When the loop ends while the owner is open, whether by force or because nothing keeps
// it alive, the pending promises fail with [ErrLoopClosed], and then end is called on
// the loop, once, with ErrLoopClosed. At that time no other callbacks of the loop run,
// except those of closed connections (see [ConnConfig].OnClose) and of [Loop.OnExit].
// end may be nil.
//
// NewOwner may be called before Run. After the end of the loop it returns ErrLoopClosed.
func NewOwner(l *Loop, kind, name string, end func(err error)) (*Owner, error) {
	checkLoop(l)
	if kind == "" {
		return nil, errNoKind
	}
	o := &Owner{driver: kind, name: name, end: end}
	o.unref = true // there are no promises
	if err := l.register(&o.handle, o, kindOwner, true); err != nil {
		return nil, err
	}
	return o, nil
}

var errNoKind = errors.New("eventloop: NewOwner needs a kind")

// Loop returns the loop of the owner.
func (o *Owner) Loop() *Loop { return o.loop }

// SetName changes the name that [Loop.Handles] shows. The name can include state that helps
// to find out why a loop does not end: "10.0.0.7:6379, connecting".
func (o *Owner) SetName(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.name = name
}

// Pending returns the number of pending promises.
func (o *Owner) Pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.promises.len
}

// OnShutdown arranges for f to be called on the loop, once, in a later turn, when
// [Loop.Shutdown] begins or if it has already begun. Pending promises keep the loop alive
// until they are resolved or the grace period is over, so a client that only has requests
// needs no OnShutdown. An operation that does not end by itself, such as a subscription,
// should be ended in f. A second call replaces f if f was not called yet. After Close, f is
// not called.
func (o *Owner) OnShutdown(f func()) {
	o.mu.Lock()
	o.onShutdown = f
	o.mu.Unlock()
	if o.loop.isShuttingDown() {
		o.shutdown()
	}
}

// shutdown implements shutdowner.
func (o *Owner) shutdown() {
	o.mu.Lock()
	f := o.onShutdown
	o.mu.Unlock()
	if f != nil {
		o.loop.postFor(o.callOnShutdown, f)
	}
}

// callOnShutdown calls the function that is set now: since shutdown posted the call, it may
// have been replaced, or called by an earlier post.
func (o *Owner) callOnShutdown() {
	o.mu.Lock()
	f, closed := o.onShutdown, o.closed != nil
	o.onShutdown = nil
	o.mu.Unlock()
	if f != nil && !closed {
		f()
	}
}

// Ref makes the owner keep the loop alive while promises of it are pending. This is the
// default.
func (o *Owner) Ref() { o.setQuiet(false) }

// Unref lets the loop end although promises of the owner are pending; they then fail
// with [ErrLoopClosed].
func (o *Owner) Unref() { o.setQuiet(true) }

func (o *Owner) setQuiet(quiet bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.quiet = quiet
	o.updateRef()
}

// updateRef decides whether the owner keeps the loop alive. The caller holds o.mu, so
// that the last change counts.
func (o *Owner) updateRef() { o.setRef(o.promises.len > 0 && !o.quiet) }

// Close removes the owner from the handles of the loop. Pending promises, and promises that
// are initialized with this owner later, fail with net.ErrClosed. A driver that finishes its
// requests before it ends calls Close afterwards. After Close, the end of the loop is not
// reported to the owner. A second call has no effect.
func (o *Owner) Close() { o.CloseWithError(nil) }

// CloseWithError is like Close, but the promises fail with err instead of net.ErrClosed. It is
// for drivers whose errors have an operation and an address; err should match net.ErrClosed. A
// nil err means net.ErrClosed.
func (o *Owner) CloseWithError(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	o.close(err)
	o.loop.unregister(&o.handle)
}

// terminate implements the interface owner.
func (o *Owner) terminate() {
	first := o.close(ErrLoopClosed)
	o.loop.unregister(&o.handle) // before end, which may call Goexit
	if first && o.end != nil {
		o.loop.call(func() { o.end(ErrLoopClosed) })
	}
}

// close ends all pending promises and refuses later ones. It reports whether the owner
// was open.
func (o *Owner) close(reason error) (first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return false
	}
	o.closed = reason
	for o.promises.len > 0 {
		p := o.promises.root.next.promise
		o.mu.Unlock() // fail locks it, and posts callbacks
		p.fail(reason)
		o.mu.Lock()
	}
	return true
}

// describe implements the interface owner.
func (o *Owner) describe() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch n := o.promises.len; {
	case n == 0:
		return o.name
	case o.name == "":
		return fmt.Sprintf("%d pending", n)
	default:
		return fmt.Sprintf("%s, %d pending", o.name, n)
	}
}

// add adds a promise to the pending ones. If the owner is closed, it returns the reason.
func (o *Owner) add(p *promiseLink, promise pendingPromise) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return o.closed
	}
	p.promise = promise
	if o.promises.add(p); o.promises.len == 1 {
		o.updateRef()
	}
	return nil
}

// remove removes a promise that has its result. A second call has no effect.
func (o *Owner) remove(p *promiseLink) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.promise == nil {
		return
	}
	p.promise = nil
	if o.promises.remove(p); o.promises.len == 0 {
		o.updateRef()
	}
}

// A Promise is a future of a driver, together with the methods to resolve it. A driver
// embeds a Promise in its request type, so that one allocation serves both, and returns a
// pointer to the Future in it. The driver calls Init before that, and Resolve when the
// request has its result:
//
//	type command struct {
//		eventloop.Promise[string]
//		args []string
//	}
//
// Unlike a future of [NewFuture], a promise is not a handle. It belongs to an [Owner], which
// is one.
//
// A Promise must not be copied or reused.
type Promise[T any] struct {
	Future[T]
	owner *Owner
	link  promiseLink
}

// Init makes the promise pending. It must be called once, before anything else, and may
// be called on any goroutine. If o is closed, the promise fails at once with the error
// that Init returns: net.ErrClosed or the error of CloseWithError, or [ErrLoopClosed] after
// the end of the loop.
func (p *Promise[T]) Init(o *Owner) error {
	if p.owner != nil {
		panic("eventloop: second Init of a promise")
	}
	p.loop, p.owner = o.loop, o
	err := o.add(&p.link, p)
	if err != nil {
		p.Future.fail(err)
	}
	return err
}

// Resolve sets the result. It may be called on any goroutine. Only the first call has an
// effect. The callbacks of Then run in a later turn. If one goroutine calls Resolve and
// [Loop.Post] several times, the callbacks and posts run in the order of these calls.
func (p *Promise[T]) Resolve(v T, err error) {
	if p.owner == nil {
		panic("eventloop: Resolve of a promise without Init")
	}
	if p.finish(futureResolved, v, err) {
		p.owner.remove(&p.link)
	}
}

// fail implements pendingPromise.
func (p *Promise[T]) fail(err error) {
	p.Future.fail(err)
	p.owner.remove(&p.link) // always: a concurrent Resolve may not have reached its remove
}

// A pendingPromise is a Promise of any type.
type pendingPromise interface{ fail(err error) }

// A promiseLink links a promise into the list of its owner.
type promiseLink struct {
	next, prev *promiseLink
	promise    pendingPromise // nil if not in the list
}

// A promiseList is a ring of promises, in the order of Init.
type promiseList struct {
	root promiseLink // root.next is the first promise; nil before the first add
	len  int
}

func (l *promiseList) add(p *promiseLink) {
	r := &l.root
	if r.next == nil {
		r.next, r.prev = r, r
	}
	p.prev, p.next = r.prev, r
	p.prev.next, r.prev = p, p
	l.len++
}

func (l *promiseList) remove(p *promiseLink) {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
	l.len--
}
