package eventloop

import (
	"fmt"
	"slices"
	"sync"
)

// maxReceived is how many values a [Receiver] takes from its channel in one go.
const maxReceived = 256

// A Receiver is a Go channel as a handle of the loop. It keeps the loop alive
// until the channel is closed or Stop is called, unless it is unref'd. All
// methods may be called from any goroutine and from any callback.
type Receiver[T any] struct {
	handle
	one  func(v T, ok bool)    // of Receive
	many func(vs []T, ok bool) // of ReceiveBatch
	ch   <-chan T
	gate               // of the goroutine; quit is closed by Stop and by the end of the loop
	left chan struct{} // closed when the goroutine has let go of ch, after that

	mu      sync.Mutex // guards the following
	started bool       // the goroutine runs
	taking  bool       // it is about to receive; batch is its own then
	paused  bool
	stopped bool
	calling bool // deliver
	batch   []T  // taken from the channel; those before next are delivered
	next    int
	closed  bool // the channel is closed after batch, which is not delivered yet
}

// Receive calls f on the loop with each value that it receives from ch, and once
// with ok == false when ch is closed, which ends the handle. It takes what waits in
// ch in one go, up to 256 values, and more when f has returned from the last of them:
// senders wait for the loop as they would for any receiver. Receive may be called
// before Run, and then begins with it; after the end of the loop it receives nothing.
// It panics if ch or f is nil.
func Receive[T any](l *Loop, ch <-chan T, f func(v T, ok bool)) *Receiver[T] {
	if ch == nil || f == nil {
		panic("eventloop: Receive needs a channel and a function")
	}
	return (&Receiver[T]{one: f, ch: ch}).begin(l)
}

// ReceiveBatch is [Receive] for many values at a time: it calls f on the loop with all
// values that it takes from ch in one go, at least one, and once with none and
// ok == false when ch is closed. vs is valid until f returns. ReceiveBatch panics if
// ch or f is nil.
func ReceiveBatch[T any](l *Loop, ch <-chan T, f func(vs []T, ok bool)) *Receiver[T] {
	if ch == nil || f == nil {
		panic("eventloop: ReceiveBatch needs a channel and a function")
	}
	return (&Receiver[T]{many: f, ch: ch}).begin(l)
}

func (r *Receiver[T]) begin(l *Loop) *Receiver[T] {
	r.gate, r.left = newGate(), make(chan struct{})
	r.loop = l
	if l.register(&r.handle, r, kindReceiver, true) != nil {
		r.stop()
		return r
	}
	l.Post(r.start)
	return r
}

func (r *Receiver[T]) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.started = true
	r.loop.wg.Add(1)
	go r.receive()
}

// receive is the goroutine.
func (r *Receiver[T]) receive() {
	defer r.loop.wg.Done()
	for open := true; open && r.mayReceive(); {
		select {
		case v, ok := <-r.ch:
			open = r.received(v, ok)
			r.loop.send((*receivedTask[T])(r))
		case <-r.quit:
			r.letGo()
		}
	}
	r.awaitDelivery()
	r.loop.send((*receiverGoneTask[T])(r))
}

// mayReceive waits until the last batch is delivered and there is no pause. It
// returns false after Stop.
func (r *Receiver[T]) mayReceive() (more bool) {
	r.await(&r.mu, func() bool {
		more = !r.stopped
		r.taking = more && !r.paused && !r.holds() && !r.calling
		return r.stopped || r.taking
	})
	return more
}

// holds reports whether something was taken from the channel that is not delivered
// yet. The caller holds r.mu.
func (r *Receiver[T]) holds() bool { return r.closed || r.next < len(r.batch) }

// received keeps what came from the channel, and what else waits there, for deliver or
// for Stop. It reports whether the channel is open.
func (r *Receiver[T]) received(v T, ok bool) (open bool) {
	batch, most := r.batch[:0], maxReceived
	if r.loop.ordered != nil {
		most = 1 // each value is an event whose place in the order can be chosen
	}
	for waits := true; ok && waits; {
		if batch = append(batch, v); len(batch) == most {
			break
		}
		select {
		case v, ok = <-r.ch:
		default:
			waits = false
		}
	}
	r.mu.Lock()
	r.batch, r.next, r.closed = batch, 0, !ok
	r.mu.Unlock()
	r.letGo()
	return ok
}

// letGo says that nothing more is taken for now. It is said before anything is
// sent to the dispatcher, which may be waiting for it in Stop.
func (r *Receiver[T]) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taking = false
	if r.stopped {
		close(r.left)
	}
}

// awaitDelivery waits until the last value, or the end, has been delivered.
func (r *Receiver[T]) awaitDelivery() {
	r.await(&r.mu, func() bool { return r.stopped || !r.holds() })
}

type (
	receivedTask[T any]     Receiver[T]
	receiverGoneTask[T any] Receiver[T]
)

func (t *receivedTask[T]) run() { (*Receiver[T])(t).deliver() }

func (t *receiverGoneTask[T]) run() {
	r := (*Receiver[T])(t)
	r.loop.unregister(&r.handle)
}

// deliver calls the function with what is held, unless there is a pause, and lets the
// goroutine receive again.
func (r *Receiver[T]) deliver() {
	defer r.delivered()
	for r.deliverNext() {
		r.loop.ran(true) // as after each callback
	}
}

// delivered is called when deliver is over. In the end it lets go of values: the
// goroutine may receive nothing for a long time.
func (r *Receiver[T]) delivered() {
	r.mu.Lock()
	if r.calling && !r.holds() { // or the goroutine may have batch
		clear(r.batch)
		r.batch, r.next = r.batch[:0], 0
	}
	r.calling = false
	r.mu.Unlock()
	r.ring()
}

// deliverNext calls the function once. It reports whether there is more to deliver,
// also after a panic that was caught.
func (r *Receiver[T]) deliverNext() (more bool) {
	r.mu.Lock()
	if !r.holds() || r.paused || r.stopped || r.loop.ended.Load() {
		r.mu.Unlock()
		return false
	}
	r.calling = true
	from := r.next
	switch {
	case from == len(r.batch):
		r.closed = false
	case r.one != nil:
		r.next++
	default:
		r.next = len(r.batch)
	}
	vs := r.batch[from:r.next]
	more = r.holds()
	r.mu.Unlock()
	defer r.loop.caught(nil)
	switch {
	case r.many != nil:
		r.many(vs, len(vs) > 0)
	case len(vs) > 0:
		r.one(vs[0], true)
	default:
		r.one(*new(T), false)
	}
	return more
}

// Pause stops calling the function, and soon receiving too: no more is taken from the
// channel than in one go.
func (r *Receiver[T]) Pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = true
}

// Resume undoes Pause.
func (r *Receiver[T]) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.paused {
		return
	}
	r.paused = false
	if r.holds() {
		r.loop.Post(r.deliver)
	}
	r.ring()
}

// Stop ends the handle and returns the values that were taken from the channel and
// not delivered, in order; so it does after the end of the loop. If it is called on
// the loop, the function is not called any more after it. It waits for the handle's
// goroutine to let go of the channel, which takes no longer than a task switch. A
// second call returns nothing.
func (r *Receiver[T]) Stop() []T {
	r.stop()
	r.mu.Lock()
	taking := r.taking
	r.mu.Unlock()
	if taking {
		<-r.left
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := slices.Clone(r.batch[r.next:])
	r.next, r.closed = len(r.batch), false
	return rest
}

// stop ends the handle; if its goroutine runs, through that.
func (r *Receiver[T]) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.stopped = true
	close(r.quit)
	if !r.started {
		r.loop.unregister(&r.handle)
	}
}

func (r *Receiver[T]) terminate() { r.stop() }

func (r *Receiver[T]) describe() string { return fmt.Sprintf("%T", r.ch) }
