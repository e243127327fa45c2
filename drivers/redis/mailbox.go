package redis

import (
	"errors"
	"iter"

	"github.com/onloop/eventloop"
)

// A mailbox queues the messages of a subscription for its iterator. It is used only on the
// loop.
type mailbox struct {
	items ring[mail]
	taken bool // a range is in progress
	full  bool // the connection must not be read
	ended bool
	err   error // why the subscription ended
	wait  *eventloop.Promise[struct{}]
}

// A mail is a message or a gap.
type mail struct {
	m   Message
	gap error
}

// mailboxSize is the number of messages at which a mailbox becomes full. It stays full
// until half of them have been taken.
const mailboxSize = 256

// A GapError says that messages are missing, see SubscribeOptions.OnGap. Messages follow
// it.
type GapError struct{ Err error }

func (e *GapError) Error() string { return "redis: messages may be missing: " + e.Err.Error() }
func (e *GapError) Unwrap() error { return e.Err }

// put adds a message and reports whether the box became full.
func (b *mailbox) put(m Message) (full bool) {
	b.items.push(mail{m: m})
	b.wake()
	if b.full || b.items.len < mailboxSize {
		return false
	}
	b.full = true
	return true
}

func (b *mailbox) putGap(err error) {
	b.items.push(mail{gap: err})
	b.wake()
}

// end records that no more messages will arrive.
func (b *mailbox) end(err error) {
	b.ended, b.err = true, err
	b.wake()
}

func (b *mailbox) wake() {
	if b.wait != nil {
		b.wait.Resolve(struct{}{}, nil)
		b.wait = nil
	}
}

// All returns a sequence of the messages of a subscription without OnMessage, for a task.
// The task waits for each message. A gap yields a [*GapError], and the sequence continues.
// The sequence ends when the subscription ends, or with the cause when the context of the
// task ends.
//
// The subscription queues up to 256 messages that the task has not taken. Then it stops
// reading, which is back-pressure to the server.
//
// Each message is delivered once. While a range is in progress in any task, another range
// fails at once and takes nothing. A later range continues where the previous one has
// stopped. If the subscription has OnMessage, a range fails at once.
func (s *Subscription) All(t *eventloop.Task) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if err := s.box.acquire(s.onMessage != nil); err != nil {
			yield(Message{}, err)
			return
		}
		defer s.box.release()
		for {
			next, err := s.next(t)
			switch {
			case err == errEndOfMail:
				return
			case err != nil:
				yield(Message{}, err)
				return
			case next.gap != nil:
				if !yield(Message{}, &GapError{next.gap}) {
					return
				}
			case !yield(next.m, nil):
				return
			}
		}
	}
}

var (
	errRanged  = errors.New("redis: the messages of the subscription are in use by another range")
	errNoRange = errors.New("redis: a range over the messages of a subscription with OnMessage")
)

// acquire begins a range, unless the messages go to a callback or to another range.
func (b *mailbox) acquire(callback bool) error {
	switch {
	case callback:
		return errNoRange
	case b.taken:
		return errRanged
	}
	b.taken = true
	return nil
}

func (b *mailbox) release() { b.taken = false }

var errEndOfMail error = &endOfMail{}

type endOfMail struct{}

func (*endOfMail) Error() string { return "redis: the subscription has ended" }

// next waits for the next message or gap.
func (s *Subscription) next(t *eventloop.Task) (mail, error) {
	b := &s.box
	for b.items.len == 0 {
		switch {
		case b.err != nil:
			return mail{}, b.err
		case b.ended:
			return mail{}, errEndOfMail
		}
		b.wait = &eventloop.Promise[struct{}]{}
		if err := b.wait.Init(s.owner); err != nil {
			return mail{}, err
		}
		wait := b.wait
		if _, err := wait.Await(t); err != nil {
			b.wake()
			return mail{}, err
		}
	}
	next := b.items.pop()
	if b.full && b.items.len <= mailboxSize/2 {
		b.full = false
		s.setPaused()
	}
	return next, nil
}
