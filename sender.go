package eventloop

import (
	"fmt"
	"sync"
)

// A Sender is the way from the loop to a Go channel: Send never blocks, and its
// future tells when the value was taken. While values wait the sender keeps the
// loop alive, unless it is unref'd. All methods may be called from any goroutine
// and from any callback.
type Sender[T any] struct {
	handle
	ch   chan<- T
	quit chan struct{} // closed by Stop

	mu      sync.Mutex // guards the following
	queue   []sending[T]
	active  bool // the goroutine runs
	stopped bool
}

type sending[T any] struct {
	v     T
	taken *Future[struct{}]
}

// SendTo returns a sender of values to ch, in the order of Send. It starts a
// goroutine only while values wait for a receiver. It panics if ch is nil. The
// channel must not be closed while values wait.
func SendTo[T any](l *Loop, ch chan<- T) *Sender[T] {
	if ch == nil {
		panic("eventloop: SendTo needs a channel")
	}
	s := &Sender[T]{ch: ch, quit: make(chan struct{})}
	s.loop = l
	return s
}

// Send sends v, after all values that were sent before, and returns a future that
// succeeds when it was taken, by a receiver or by the buffer of the channel. It
// fails with net.ErrClosed if the sender was stopped, with [ErrLoopClosed] at the
// end of the loop, and with [ErrNotRunning] before Run.
func (s *Sender[T]) Send(v T) *Future[struct{}] {
	f := looseFuture[struct{}](s.loop)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		f.resolve(struct{}{}, ErrClosed)
		return f
	}
	if !s.active {
		select {
		case s.ch <- v:
			f.resolve(struct{}{}, nil)
			return f
		default:
		}
		if err := s.loop.register(&s.handle, s, kindSender, false); err != nil {
			f.fail(err)
			return f
		}
		s.active = true
		s.loop.wg.Add(1)
		go s.send()
	}
	s.queue = append(s.queue, sending[T]{v, f})
	return f
}

// send is the goroutine.
func (s *Sender[T]) send() {
	defer s.loop.wg.Done()
	for {
		first, ok := s.first()
		if !ok {
			return
		}
		select {
		case s.ch <- first.v:
			s.sent()
			first.taken.resolve(struct{}{}, nil)
		case <-s.quit:
		}
	}
}

// first returns the value to send now. If there is none the handle ends, until
// the next Send.
func (s *Sender[T]) first() (sending[T], bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && !s.stopped {
		return s.queue[0], true
	}
	s.active = false
	s.loop.unregister(&s.handle)
	return sending[T]{}, false
}

func (s *Sender[T]) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 { // Stop may have taken them all
		s.queue[0] = sending[T]{}
		s.queue = s.queue[1:]
	}
}

// Pending returns the number of values that wait.
func (s *Sender[T]) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Stop ends the sender and returns the values that wait. Their futures fail with
// net.ErrClosed. A value that is taken at that very moment may be returned too.
func (s *Sender[T]) Stop() []T { return s.stop(ErrClosed) }

func (s *Sender[T]) stop(err error) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	close(s.quit)
	left := make([]T, len(s.queue))
	for i, q := range s.queue {
		left[i] = q.v
		q.taken.fail(err)
	}
	s.queue = nil
	return left
}

func (s *Sender[T]) terminate() {
	s.stop(ErrLoopClosed)
	s.loop.unregister(&s.handle)
}

func (s *Sender[T]) describe() string { return fmt.Sprintf("%T", s.ch) }
