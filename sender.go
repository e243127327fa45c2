package eventloop

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// A Sender sends values from the loop to a Go channel. Send never blocks; its future
// reports when the value was received. While values wait, the sender keeps the loop
// alive, unless it is unref'd. All methods may be called from any goroutine and from
// any callback.
type Sender[T any] struct {
	handle
	ch   chan<- T
	quit chan struct{} // closed by Stop and by the end of the loop

	mu      sync.Mutex // guards the following
	queue   []sending[T]
	gone    chan struct{} // closed when the goroutine has ended; nil if there is none
	stopErr error         // why it accepts no more values
}

type sending[T any] struct {
	v     T
	taken *Future[struct{}]
}

// ErrChannelClosed is the error of a [Sender] whose channel was closed.
var ErrChannelClosed = errors.New("eventloop: send on a closed channel")

// SendTo returns a sender that sends values to ch in the order of the Send calls. It has a
// goroutine only while values wait for a receiver. Do not close ch before all values are
// received. SendTo panics if ch is nil.
func SendTo[T any](l *Loop, ch chan<- T) *Sender[T] {
	checkLoop(l)
	if ch == nil {
		panic("eventloop: SendTo needs a channel")
	}
	s := &Sender[T]{ch: ch, quit: make(chan struct{})}
	s.loop = l
	return s
}

// Send sends v after all values of earlier calls. It returns a future that succeeds
// when a receiver or the buffer of the channel has taken v. The future fails with
// net.ErrClosed if the sender was stopped, with [ErrChannelClosed] if the channel was
// closed, with [ErrLoopClosed] at the end of the loop, and with [ErrNotRunning] before
// Run.
func (s *Sender[T]) Send(v T) *Future[struct{}] {
	f := unregisteredFuture[struct{}](s.loop)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch taken, err := s.sendNow(v); {
	case err != nil:
		f.fail(err)
	case taken:
		f.resolve(struct{}{}, nil)
	default:
		s.queue = append(s.queue, sending[T]{v, f})
	}
	return f
}

// sendNow sends v if no value waits and the channel takes v at once. Otherwise it makes
// sure that the goroutine runs. The caller holds s.mu.
func (s *Sender[T]) sendNow(v T) (taken bool, err error) {
	switch {
	case s.stopErr != nil:
		return false, s.stopErr
	case s.gone != nil:
		return false, nil
	}
	if err := s.loop.mayOpen(); err != nil {
		return false, err
	}
	if taken, err := trySend(s.ch, v); taken || err != nil {
		return taken, err
	}
	if err := s.loop.register(&s.handle, s, kindSender, false); err != nil {
		return false, err
	}
	s.gone = make(chan struct{})
	s.loop.wg.Add(1)
	go s.send()
	return false, nil
}

// trySend sends v if it can do so without waiting.
func trySend[T any](ch chan<- T, v T) (taken bool, err error) {
	defer channelClosed(&err)
	select {
	case ch <- v:
		return true, nil
	default:
		return false, nil
	}
}

// sendOrQuit sends v. It waits until v is taken or quit is closed.
func sendOrQuit[T any](ch chan<- T, v T, quit <-chan struct{}) (taken bool, err error) {
	defer channelClosed(&err)
	select {
	case ch <- v:
		return true, nil
	case <-quit:
		return false, nil
	}
}

// channelClosed turns the only possible panic of a send into an error.
func channelClosed(err *error) {
	if recover() != nil {
		*err = ErrChannelClosed
	}
}

// send is the body of the goroutine.
func (s *Sender[T]) send() {
	defer s.loop.wg.Done()
	s.loop.worksFor(&s.handle)
	for {
		v, ok := s.first()
		if !ok {
			return
		}
		taken, err := sendOrQuit(s.ch, v, s.quit)
		switch {
		case err != nil:
			s.fail(err)
		case taken:
			s.sent()
		}
	}
}

// first returns the value to send next. If there is none, it unregisters the handle, and
// the goroutine has to end. The next Send starts a new one.
func (s *Sender[T]) first() (v T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && s.stopErr == nil {
		return s.queue[0].v, true
	}
	close(s.gone)
	s.gone = nil
	s.loop.unregister(&s.handle)
	return v, false
}

// sent resolves the first future. While the goroutine lives, no other code removes
// futures from the queue.
func (s *Sender[T]) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue[0].taken.resolve(struct{}{}, nil)
	s.queue[0] = sending[T]{}
	s.queue = s.queue[1:]
}

// Pending returns the number of waiting values.
func (s *Sender[T]) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Stop ends the sender and returns the values that were not received. Their futures
// fail with net.ErrClosed. Stop waits until the sender's goroutine has stopped using
// the channel, which takes no longer than a goroutine switch. A second call returns
// nil.
func (s *Sender[T]) Stop() []T { return s.stop(net.ErrClosed) }

func (s *Sender[T]) stop(err error) []T {
	s.mu.Lock()
	if s.stopErr == nil {
		s.stopErr = err
		close(s.quit)
	}
	gone := s.gone
	s.mu.Unlock()
	if gone != nil {
		<-gone
	}
	return s.fail(err)
}

// fail ends the sender with err and returns the waiting values. The goroutine must have
// ended or be the caller.
func (s *Sender[T]) fail(err error) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopErr == nil {
		s.stopErr = err
	}
	var left []T
	for _, q := range s.queue {
		left = append(left, q.v)
		q.taken.fail(s.stopErr)
	}
	s.queue = nil
	return left
}

func (s *Sender[T]) terminate() { s.stop(ErrLoopClosed) }

func (s *Sender[T]) describe() string { return fmt.Sprintf("%T", s.ch) }
