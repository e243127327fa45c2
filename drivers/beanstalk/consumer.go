package beanstalk

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// ConsumeOptions are the settings of a [Consumer].
type ConsumeOptions struct {
	// Tubes lists the tubes to reserve jobs from. Empty: "default".
	Tubes []string

	// Parallel is the maximum number of jobs that the application holds at a time. Each
	// needs its own connection, because a connection that waits for a job cannot serve
	// other commands. Zero: 1. It must not be negative or exceed 65,535.
	Parallel int

	// OnJob is called on the loop with each job. The application settles the job, in OnJob
	// or at any time later, and then gets the next job. OnJob must not be nil. After a
	// caught panic, see [eventloop.Config.CatchPanics], the connection ends: the job is
	// lost, and the server gives it to another consumer.
	OnJob func(j *Job)

	// OnLost, if not nil, is called on the loop when an unsettled job is lost: its
	// connection has ended, or its time to run is over. The server has made the job ready
	// for another consumer.
	OnLost func(j *Job, err error)

	// OnError, if not nil, is called on the loop when a connection is lost or an attempt
	// to connect has failed. The consumer reconnects, see Options.MinBackoff. If OnError
	// is nil, only panics of OnJob are reported.
	OnError func(err error)

	// ManualTouch leaves the time to run of jobs to the application, see [Job.Touch].
	ManualTouch bool
}

// heartbeat is the maximum time of each wait for a job. The server then replies that
// there was no job, which shows that the server is alive.
const heartbeat = 30 * time.Second

// A Consumer reserves jobs from a server, see [Client.Consume]. It keeps the loop alive
// until it is closed, unless it is unref'd; [eventloop.Loop.Shutdown] closes it. All methods
// may be called from any goroutine and from any callback.
type Consumer struct {
	c     *Client
	o     ConsumeOptions
	owner *eventloop.Owner
	done  eventloop.Promise[struct{}] // resolved when the consumer has ended
	slots []*slot

	mu      sync.Mutex // guards the following
	paused  bool
	closing bool
	aborted bool
	unref   bool

	open int // the number of slots that have not ended; used only on the loop
}

// Consume reserves jobs and calls o.OnJob with them. It may be called before the loop
// runs. It fails if an option is invalid or the client is closed.
func (c *Client) Consume(o ConsumeOptions) (*Consumer, error) {
	if o.OnJob == nil {
		return nil, errors.New("beanstalk: Consume without OnJob")
	}
	if len(o.Tubes) == 0 {
		o.Tubes = []string{"default"}
	}
	for _, tube := range o.Tubes {
		if err := checkTube(tube); err != nil {
			return nil, err
		}
	}
	if o.Parallel == 0 {
		o.Parallel = 1
	}
	if o.Parallel < 0 || o.Parallel > math.MaxUint16 {
		return nil, fmt.Errorf("beanstalk: Parallel %d", o.Parallel)
	}
	o.Tubes = append([]string(nil), o.Tubes...)
	k := &Consumer{c: c, o: o, open: o.Parallel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return nil, c.closing
	}
	name := c.o.Addr + " " + strings.Join(o.Tubes, " ")
	owner, err := eventloop.NewOwner(c.l, "beanstalk consumer", name, nil)
	if err != nil {
		return nil, err
	}
	k.owner = owner
	if err := k.done.Init(owner); err != nil {
		return nil, err
	}
	k.done.Ignore()
	c.consumers[k] = struct{}{}
	for range o.Parallel {
		s := &slot{k: k, backoff: backoff{min: c.o.MinBackoff, max: c.o.MaxBackoff}}
		k.slots = append(k.slots, s)
		c.l.Post(s.proceed)
	}
	owner.OnShutdown(func() { k.Close() })
	return k, nil
}

// Pause stops the consumer from reserving jobs. It does not affect jobs that the
// application already has. If Pause is called on the loop, OnJob is not called after it,
// until Resume.
func (k *Consumer) Pause() { k.set(&k.paused, true) }

// Resume undoes Pause.
func (k *Consumer) Resume() { k.set(&k.paused, false) }

// Close ends the consumer when the application has settled its jobs. The consumer reserves
// no more jobs. If Close is called on the loop, OnJob is not called after it. The future
// succeeds when the consumer has ended.
func (k *Consumer) Close() *eventloop.Future[struct{}] {
	k.set(&k.closing, true)
	return &k.done.Future
}

// Abort ends the consumer at once. The server makes its unsettled jobs ready for other
// consumers. OnLost is not called for them. If Abort is called on the loop, no callback is
// called after it.
func (k *Consumer) Abort() {
	k.mu.Lock()
	k.closing = true
	k.mu.Unlock()
	k.set(&k.aborted, true)
}

// Ref makes the consumer keep the loop alive. This is the default.
func (k *Consumer) Ref() { k.setUnref(false) }

// Unref lets the loop end although the consumer is open. Jobs that the consumer gets after
// Unref do not keep the loop alive either.
func (k *Consumer) Unref() { k.setUnref(true) }

func (k *Consumer) setUnref(unref bool) {
	k.mu.Lock()
	k.unref = unref
	k.mu.Unlock()
	if unref {
		k.owner.Unref()
	} else {
		k.owner.Ref()
	}
}

// set sets a flag of the consumer, and makes its slots act on the change.
func (k *Consumer) set(flag *bool, v bool) {
	k.mu.Lock()
	changed := *flag != v
	*flag = v
	k.mu.Unlock()
	if changed {
		k.c.l.Post(func() {
			for _, s := range k.slots {
				s.proceed()
			}
		})
	}
}

// wants reports whether the consumer reserves jobs, is closing, or was aborted.
func (k *Consumer) wants() (jobs, end, abort bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.paused && !k.closing, k.closing, k.aborted
}

// ended records the end of a slot. After the last slot, the consumer ends.
func (k *Consumer) ended() {
	if k.open--; k.open > 0 {
		return
	}
	k.c.mu.Lock()
	delete(k.c.consumers, k)
	k.c.mu.Unlock()
	k.done.Resolve(struct{}{}, nil)
	k.owner.Close()
}

// report passes the loss of a connection to OnError. A panic of OnJob that OnError does not
// report becomes the failure of a future that has no callback, which the loop reports.
func (k *Consumer) report(err error) {
	if _, _, abort := k.wants(); k.o.OnError != nil && !abort {
		k.o.OnError(err)
	} else if p, ok := errors.AsType[*eventloop.PanicError](err); ok {
		_, resolve := eventloop.NewFuture[struct{}](k.c.l)
		resolve(struct{}{}, p)
	}
}

// A slot reserves one job at a time, over its own connection. It is used only on the loop.
type slot struct {
	k         *Consumer
	link      *link
	job       *Job // the application's current job, or nil
	reserving bool // a reserve is in flight
	backoff   backoff
	retry     *eventloop.Timer // for the next attempt to connect; nil if not armed
	over      bool
}

// proceed performs the next step of the slot, given its state and the consumer's flags.
// Only proceed makes this decision; events change the state and call proceed.
func (s *slot) proceed() {
	jobs, end, abort := s.k.wants()
	switch {
	case s.over:
	case abort, end && s.isIdle():
		s.over = true
		s.leave()
		s.k.ended()
	case !jobs && s.isIdle():
		s.leave()
	case !jobs || s.job != nil || s.reserving:
	case s.link == nil && s.retry == nil:
		s.connect()
	case s.link != nil && s.link.up:
		s.reserve()
	}
}

// isIdle reports whether the slot can disconnect without losing a job. If the server has
// just reserved a job for it, that job becomes ready again.
func (s *slot) isIdle() bool {
	if s.job != nil || s.link == nil {
		return s.job == nil
	}
	return len(s.link.inFlight) == 0 || s.reserving && len(s.link.inFlight) == 1
}

// leave closes the connection, and stops the retry timer.
func (s *slot) leave() {
	if s.retry != nil {
		s.retry.Stop()
		s.retry = nil
	}
	if s.link != nil {
		link := s.link
		s.link, s.reserving, s.job = nil, false, nil
		link.close(s.k.c.o.opError(errConsumerClosed))
	}
}

func (s *slot) connect() {
	link, err := dialLink(s.k.c.l, s.k.c.o, s)
	if err != nil {
		s.linkDown(err)
		return
	}
	s.link = link
}

// linkUp implements linkHost.
func (s *slot) linkUp() {
	s.k.owner.SetName(s.k.name(nil))
	var requests []*request
	needless := true
	for _, tube := range s.k.o.Tubes {
		needless = needless && tube != "default"
		requests = append(requests, s.own(wire.AppendTube(nil, "watch", tube), 0, expect(wire.Watching)))
	}
	if needless {
		requests = append(requests, s.own(wire.AppendTube(nil, "ignore", "default"), 0, expect(wire.Watching)))
	}
	if err := s.link.send(requests...); err != nil {
		s.link.end(err)
		return
	}
	s.proceed()
}

func (k *Consumer) name(err error) string {
	name := k.c.o.Addr + " " + strings.Join(k.o.Tubes, " ")
	if err != nil {
		name += ", not connected: " + err.Error()
	}
	return name
}

// linkDown implements linkHost.
func (s *slot) linkDown(err error) {
	s.link, s.reserving, s.job = nil, false, nil
	if err == eventloop.ErrLoopClosed {
		return
	}
	s.k.owner.SetName(s.k.name(err))
	s.k.c.l.Post(func() { s.k.report(err) })
	s.retry = s.k.c.l.AfterFunc(s.backoff.delay(), func() { s.retry = nil; s.proceed() })
	s.retry.Unref()
	s.proceed()
}

// done implements linkHost.
func (s *slot) done(r *request) {
	s.k.c.done(r)
	if jobs, _, _ := s.k.wants(); !jobs {
		s.k.c.l.Post(s.proceed) // when the reply is handled
	}
}

// own returns a command that the slot itself sends. Its reply may take longer, by up to
// wait.
func (s *slot) own(command []byte, wait time.Duration, answer answerFunc) *request {
	r := &request{command: command, waiter: answer}
	if t := s.k.c.o.Timeout; t > 0 {
		r.due = time.Now().Add(t + wait)
	}
	return r
}

// reserve sends the command for the next job.
func (s *slot) reserve() {
	s.reserving = true
	if err := s.link.send(s.reserveRequest()); err != nil {
		s.link.end(err)
	}
}

func (s *slot) reserveRequest() *request {
	return s.own(wire.Append(nil, "reserve-with-timeout", uint64(heartbeat/time.Second)), heartbeat, s.reserved)
}

// andReserve appends the command for the next job to the command that settles the current
// job.
func (s *slot) andReserve(requests []*request) []*request {
	if jobs, _, _ := s.k.wants(); !jobs {
		return requests
	}
	s.reserving = true
	return append(requests, s.reserveRequest())
}

// settled is called when the command that settles the job has been sent.
func (s *slot) settled() {
	s.job = nil
	s.backoff.reset() // not earlier: the server, or a job, may end every connection
	s.proceed()
}

// reserved handles the reply to a reserve.
func (s *slot) reserved(r wire.Reply) error {
	s.reserving = false
	jobs, _, _ := s.k.wants()
	switch {
	case r.Kind == wire.TimedOut, r.Kind == wire.DeadlineSoon: // there was no job
		s.backoff.reset()
		s.proceed()
		return nil
	case r.Kind != wire.Reserved:
		if err := refusals[r.Kind]; err != nil {
			return err // the server has a problem: reconnect later
		}
		return unexpected(r.Kind)
	case !jobs:
		s.leave() // Pause or Close was called in the meantime; the job becomes ready again
		s.proceed()
		return nil
	}
	k := s.k
	j := &Job{ID: r.ID, Body: r.Body, c: k.c, link: s.link, slot: s}
	if k.o.OnLost != nil {
		j.lost = func(j *Job, err error) {
			if _, _, abort := k.wants(); !abort {
				k.o.OnLost(j, err)
			}
		}
	}
	k.mu.Lock()
	unref := k.unref
	k.mu.Unlock()
	s.job = j
	j.hold(unref, k.o.ManualTouch)
	k.o.OnJob(j)
	return nil
}
