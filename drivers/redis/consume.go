package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop"
)

// ConsumeOptions are the settings of a [Consumer].
type ConsumeOptions struct {
	// Stream, Group and Consumer are names. All are required. The group must exist, see
	// [Commands.XGroupCreate]. A consumer that restarts under the same name first gets the
	// entries that it did not acknowledge.
	Stream, Group, Consumer string

	// OnEntry is called on the loop with each entry. It is required. The application
	// calls Ack when it is done with the entry, at once or later.
	OnEntry func(d *Delivery)

	// Parallel is the maximum number of unsettled entries, which were delivered and neither
	// acknowledged nor released. At this limit the consumer stops reading. Zero: 16. It must
	// not be negative.
	Parallel int

	// ClaimAfter makes the consumer take over entries that other consumers of the group
	// have not acknowledged for this time. It is at least a millisecond. Zero: never.
	ClaimAfter time.Duration

	// OnError, if not nil, is called on the loop with errors that do not end the consumer,
	// such as a lost connection.
	OnError func(err error)
}

// A Consumer reads a stream as a member of a group. It keeps the loop alive until it is
// closed. Loop.Shutdown closes it.
//
// Each entry is delivered at least once: if a consumer ends, or its connection is lost,
// before an entry is acknowledged, the entry is delivered again. The same Consumer does not
// deliver an entry again before the application has settled it.
//
// All methods may be called from any goroutine and from any callback.
type Consumer struct {
	c       *Client
	o       ConsumeOptions
	owner   *eventloop.Owner
	done    *eventloop.Promise[struct{}]
	ctx     context.Context
	cancel  context.CancelFunc
	backoff backoff

	// Only on the loop.
	taken   map[string]*Delivery // entries that were read and are not released, by ID
	ready   ring[*Delivery]      // the taken entries that wait for delivery
	hand    int                  // the number of delivered entries that are not settled
	after   string               // own pending entries were read up to this ID; ">": all of them
	reading bool
	timer   *eventloop.Timer // for the next attempt after an error
	claims  *eventloop.Timer
	from    string // where the next claim begins
	over    bool

	closed atomic.Bool // set at once, on the caller's goroutine
}

// A Delivery is an entry that was delivered to the application.
type Delivery struct {
	Entry
	consumer *Consumer
	settled  bool // only on the loop
}

const (
	defaultParallel = 16
	consumeBlock    = 5 * time.Second // of one XREADGROUP; it is repeated
)

// Consume begins to read a stream as a member of a group. It fails if an option is missing
// or invalid. If the client is closed, the error matches net.ErrClosed.
func (c *Client) Consume(o ConsumeOptions) (*Consumer, error) {
	switch {
	case o.Stream == "" || o.Group == "" || o.Consumer == "":
		return nil, errors.New("redis: a consumer needs a stream, a group and a name")
	case o.OnEntry == nil:
		return nil, errors.New("redis: a consumer needs OnEntry")
	case o.Parallel < 0:
		return nil, fmt.Errorf("redis: a consumer with Parallel %d", o.Parallel)
	case o.ClaimAfter < 0 || o.ClaimAfter > 0 && o.ClaimAfter < time.Millisecond:
		return nil, fmt.Errorf("redis: a consumer with ClaimAfter %v, want at least 1ms, or 0", o.ClaimAfter)
	}
	o.Parallel = cmp.Or(o.Parallel, defaultParallel)
	s := &Consumer{c: c, o: o, taken: make(map[string]*Delivery), after: "0", from: "0-0", done: &eventloop.Promise[struct{}]{}}
	s.backoff = backoff{min: c.o.MinBackoff, max: c.o.MaxBackoff}
	var err error
	s.owner, err = eventloop.NewOwner(c.l, "redis consumer", o.Stream+" "+o.Group+" "+o.Consumer, func(error) { s.over = true })
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.done.Init(s.owner)
	if err := c.addPart(s); err != nil { // from here on the loop may end it at any time
		s.done.Ignore()
		s.owner.Close()
		return nil, err
	}
	s.owner.OnShutdown(func() { s.end(nil) })
	c.l.Post(func() {
		s.read()
		s.claim()
	})
	return s, nil
}

// Done returns a future that succeeds when the consumer is closed. It fails if the consumer
// has ended because its group or its stream does not exist, or, with an error that
// matches net.ErrClosed, if the client was closed first.
func (s *Consumer) Done() *eventloop.Future[struct{}] { return &s.done.Future }

// Close ends the consumer. If it is called on the loop, no callback is called after it. The
// application can still acknowledge delivered entries. A second call does nothing.
func (s *Consumer) Close() {
	s.closed.Store(true)
	s.c.l.Post(func() { s.end(nil) })
}

// Ref makes the consumer keep the loop alive. This is the default.
func (s *Consumer) Ref() { s.owner.Ref() }

// Unref lets the loop end although the consumer is open.
func (s *Consumer) Unref() { s.owner.Unref() }

// silence implements part.
func (s *Consumer) silence() { s.closed.Store(true) }

// abort implements part.
func (s *Consumer) abort(err error) { s.end(err) }

func (s *Consumer) end(err error) {
	if s.over {
		return
	}
	s.over = true
	s.cancel() // cancels the read that waits at the server
	for _, t := range []*eventloop.Timer{s.timer, s.claims} {
		if t != nil {
			t.Stop()
		}
	}
	s.c.removePart(s)
	if err == s.c.closedErr {
		s.done.Ignore() // the application has closed the client
	}
	s.done.Resolve(struct{}{}, err)
	s.owner.Close()
}

// read requests entries, unless a read is in progress or the application has Parallel
// unsettled entries. It runs on the loop, like all functions below.
func (s *Consumer) read() {
	n := s.o.Parallel - len(s.taken)
	if s.over || s.reading || n <= 0 || s.timer != nil {
		return
	}
	s.reading = true
	args := []any{"XREADGROUP", "GROUP", s.o.Group, s.o.Consumer, "COUNT", n}
	if s.after != ">" {
		args = append(args, "STREAMS", s.o.Stream, s.after)
		runFor(s.ctx, &s.c.Commands, s.owner, toEntriesOfOne, 0, args...).Then(s.got)
		return
	}
	args = append(args, "BLOCK", milliseconds(consumeBlock), "STREAMS", s.o.Stream, s.after)
	block(s.ctx, s.c, s.owner, toEntriesOfOne, consumeBlock, args...).Then(s.got)
}

// got handles the result of a read.
func (s *Consumer) got(entries []Entry, err error) {
	s.reading = false
	switch {
	case s.over:
		return
	case isCode(err, "NOGROUP"), isCode(err, "WRONGTYPE"): // another attempt would fail as well
		s.end(err)
		return
	case err == ErrNil: // no new entries within consumeBlock
	case err != nil:
		s.failed(err)
		return
	case s.after == ">":
		s.backoff.reset()
	case len(entries) == 0:
		s.after = ">"
	default:
		s.after = entries[len(entries)-1].ID
	}
	s.deliver(entries)
	s.read()
}

// failed schedules another read after a delay. Then the consumer reads its pending entries
// again.
func (s *Consumer) failed(err error) {
	s.reportError(err)
	s.after = "0"
	s.timer = s.c.l.AfterFunc(s.backoff.delay(), func() {
		s.timer = nil
		s.read()
	})
	s.timer.Unref() // the consumer keeps the loop alive
}

func (s *Consumer) reportError(err error) {
	if s.o.OnError != nil {
		s.c.l.Post(func() {
			if !s.closed.Load() {
				s.o.OnError(err)
			}
		})
	}
}

// deliver delivers entries up to Parallel. The others wait until the application has
// acknowledged or released some. There may be more than Parallel entries, because a
// waiting read and a claim each request that many.
func (s *Consumer) deliver(entries []Entry) {
	for _, e := range entries {
		switch {
		case e.Fields == nil: // it was deleted from the stream, and is only pending
			s.c.XAck(context.Background(), s.o.Stream, s.o.Group, e.ID).Ignore()
		case s.taken[e.ID] == nil:
			d := &Delivery{Entry: e, consumer: s}
			s.taken[e.ID] = d
			s.ready.push(d)
		}
	}
	s.handOut()
}

func (s *Consumer) handOut() {
	for s.ready.len > 0 && s.hand < s.o.Parallel {
		d := s.ready.pop()
		s.hand++
		s.c.l.Post(func() {
			if !s.over && !s.closed.Load() {
				s.call(d)
			}
		})
	}
}

// call calls OnEntry. After a panic the entry stays pending at the server, but no longer
// counts against Parallel.
func (s *Consumer) call(d *Delivery) {
	returned := false
	defer func() {
		if !returned {
			d.Release()
		}
	}()
	s.o.OnEntry(d)
	returned = true
}

// claim takes over entries of other consumers, periodically.
func (s *Consumer) claim() {
	if s.o.ClaimAfter == 0 || s.over {
		return
	}
	n := s.o.Parallel - len(s.taken)
	if n <= 0 {
		s.claimLater()
		return
	}
	runFor(s.ctx, &s.c.Commands, s.owner, toClaim, 0, "XAUTOCLAIM", s.o.Stream, s.o.Group, s.o.Consumer,
		milliseconds(s.o.ClaimAfter), s.from, "COUNT", n).Then(func(c Claim, err error) {
		switch {
		case s.over:
			return
		case err != nil: // reads may still work, for example without the permission to claim
			s.reportError(err)
		default:
			s.from = c.Next
			s.deliver(c.Entries)
		}
		s.claimLater()
	})
}

func (s *Consumer) claimLater() {
	if s.claims == nil {
		s.claims = s.c.l.AfterFunc(s.o.ClaimAfter/2, s.claim)
		s.claims.Unref() // the consumer keeps the loop alive
	} else {
		s.claims.Reset(s.o.ClaimAfter / 2)
	}
}

// Ack acknowledges the entry to the server, and makes room for another entry. The future
// fails if the server does not confirm. The entry may then be delivered again.
func (d *Delivery) Ack() *eventloop.Future[struct{}] {
	s := d.consumer
	f := run(context.Background(), &s.c.Commands, toNothing, "XACK", s.o.Stream, s.o.Group, d.ID)
	d.Release()
	return f
}

// Release makes room for another entry without Ack. The released entry stays pending, until
// XAutoClaim or a consumer with ClaimAfter claims it, or a consumer with the same name
// starts. A second call does nothing.
func (d *Delivery) Release() {
	s := d.consumer
	s.c.l.Post(func() {
		if !d.settled {
			d.settled = true
			delete(s.taken, d.ID)
			s.hand--
			s.handOut()
			s.read()
		}
	})
}
