package eventloop

import (
	"fmt"
	"slices"
)

// maxReceived is the maximum number of values in one batch of a [Receiver].
const maxReceived = 256

// A Receiver is a handle of the loop that receives from a Go channel. It keeps the loop alive
// until the channel is closed or Stop is called, unless it is unref'd. All methods may be
// called from any goroutine and from any callback.
type Receiver[T any] struct {
	handle
	one  func(v T, ok bool)    // of Receive
	many func(vs []T, ok bool) // of ReceiveBatch
	ch   <-chan T
	left chan struct{} // closed when the goroutine no longer uses ch, after quit is closed
	gate               // its mu guards the following

	started bool // the goroutine runs
	taking  bool // the goroutine is receiving and owns batch
	batch   []T  // received from the channel; delivered up to next
	next    int
	closed  bool // the channel is closed, and this is not delivered yet
}

// Receive calls f on the loop with each value that it receives from ch, and once with
// ok == false when ch is closed, which ends the handle. It receives the values that wait in
// ch as a batch of up to 256, and continues when f has returned from the last value of the
// batch. So senders wait for the loop as they would for any receiver. If Receive is called
// before Run, it starts to receive with Run; after the end of the loop it receives nothing.
// Receive panics if ch or f is nil.
func Receive[T any](l *Loop, ch <-chan T, f func(v T, ok bool)) *Receiver[T] {
	checkLoop(l)
	if ch == nil || f == nil {
		panic("eventloop: Receive needs a channel and a function")
	}
	return (&Receiver[T]{one: f, ch: ch}).begin(l)
}

// ReceiveBatch is [Receive] with one call of f per batch: it calls f on the loop with all
// values of a batch, at least one, and once with no values and ok == false when ch is closed.
// vs is valid until f returns. ReceiveBatch panics if ch or f is nil.
func ReceiveBatch[T any](l *Loop, ch <-chan T, f func(vs []T, ok bool)) *Receiver[T] {
	checkLoop(l)
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

// receive is the body of the goroutine.
func (r *Receiver[T]) receive() {
	defer r.loop.wg.Done()
	for open := true; open && r.mayReceive(); {
		select {
		case v, ok := <-r.ch:
			open = r.received(v, ok)
			r.loop.send((*receivedTask[T])(r))
		case <-r.quit:
			r.stopTaking()
		}
	}
	r.await(func() bool { return r.stopped || !r.holds() }) // until the end is delivered
	r.loop.send((*receiverEndedTask[T])(r))
}

// mayReceive waits until the last batch is delivered and the receiver is not paused. It
// returns false after Stop.
func (r *Receiver[T]) mayReceive() (more bool) {
	r.await(func() bool {
		more = !r.stopped
		r.taking = more && !r.paused && !r.holds() && !r.calling
		return r.stopped || r.taking
	})
	return more
}

// holds reports whether a value, or the end of the channel, is not delivered yet. The caller
// holds r.mu.
func (r *Receiver[T]) holds() bool { return r.closed || r.next < len(r.batch) }

// received stores v, and the values that wait in the channel, in the batch, for deliver or
// for Stop. It reports whether the channel is open.
func (r *Receiver[T]) received(v T, ok bool) (open bool) {
	batch, most := r.batch[:0], maxReceived
	if r.loop.ordered != nil {
		most = 1 // the test can then choose the order of each value
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
	r.stopTaking()
	return ok
}

// stopTaking records that the goroutine does not receive for now. The goroutine calls it
// before it sends a task to the dispatcher, because the dispatcher may be waiting for it in
// Stop.
func (r *Receiver[T]) stopTaking() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taking = false
	if r.stopped {
		close(r.left)
	}
}

type (
	receivedTask[T any]      Receiver[T]
	receiverEndedTask[T any] Receiver[T]
)

func (t *receivedTask[T]) run() { (*Receiver[T])(t).deliver() }

func (t *receiverEndedTask[T]) run() {
	r := (*Receiver[T])(t)
	r.loop.unregister(&r.handle)
}

// deliver calls the function with the values that are not delivered yet, unless the receiver
// is paused. It then lets the goroutine receive again.
func (r *Receiver[T]) deliver() {
	defer r.delivered()
	for r.deliverNext() {
		r.loop.ran(true) // as after each callback
	}
}

// delivered ends deliver. It clears a batch that is delivered completely, because the next
// values may come much later, and the old ones would stay in memory.
func (r *Receiver[T]) delivered() {
	r.mu.Lock()
	if r.calling && !r.holds() { // without calling, the goroutine may own batch
		clear(r.batch)
		r.batch, r.next = r.batch[:0], 0
	}
	r.calling = false
	r.mu.Unlock()
	r.notify()
}

// deliverNext calls the function once. It reports whether there is more to deliver, even
// after a panic that was caught.
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

// Pause stops the calls of the function. The receiver may still receive one batch from the
// channel, but no more.
func (r *Receiver[T]) Pause() { r.pause() }

// Resume undoes Pause.
func (r *Receiver[T]) Resume() { r.resume(r.loop, r.holds, r.deliver) }

// Stop ends the handle. It returns, in order, the values that were received from the channel
// and not delivered, even after the end of the loop. If Stop is called on the loop, the
// function is not called again. Stop waits until the receiver's goroutine has stopped using
// the channel, which takes no longer than a goroutine switch. A second call returns no
// values.
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

// stop ends the handle. If the goroutine runs, the goroutine unregisters it.
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
