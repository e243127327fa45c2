package beanstalk

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// A Job is a job that is reserved for this program. It stays reserved until it is
// deleted, released or buried, which settles it. The driver extends its time to run
// meanwhile, unless ConsumeOptions.ManualTouch is set.
//
// A job that is not settled keeps the loop alive, and [eventloop.Loop.Handles] shows it
// with its age. If its connection is lost, the server makes the job ready for another
// consumer, and commands about it fail with [ErrJobLost].
//
// All methods may be called from any goroutine and from any callback.
type Job struct {
	ID   uint64
	Body []byte // belongs to the application

	c     *Client
	link  *link
	slot  *slot // of a consumer; nil for ReserveJob
	owner *eventloop.Owner

	// Only on the loop.
	state jobState
	held  eventloop.Promise[struct{}] // keeps the loop alive
	touch *eventloop.Timer            // nil if the time to run is not extended
	ttr   time.Duration               // zero if not known
	lost  func(j *Job, err error)     // or nil
}

type jobState uint8

const (
	jobHeld jobState = iota
	jobSettled
	jobLost
)

// firstTouch is how long a job is held before the driver asks for its time to run, and
// extends it. It is less than the second that the time to run has at least. A job that is
// settled sooner, as most are, costs no command for this.
const firstTouch = 400 * time.Millisecond

// hold begins to hold a job. On the loop.
func (j *Job) hold(unref, manual bool) {
	l := j.c.l
	j.link.jobs = append(j.link.jobs, j)
	owner, err := eventloop.NewOwner(l, "beanstalk job", strconv.FormatUint(j.ID, 10), nil)
	if err != nil {
		return // the loop is ending
	}
	j.owner = owner
	if unref {
		owner.Unref()
	}
	j.held.Init(owner)
	j.held.Ignore()
	if !manual {
		j.touch = l.AfterFunc(firstTouch, j.extend)
		j.touch.Unref()
	}
}

// Delete deletes the job: it is done.
func (j *Job) Delete() *eventloop.Future[struct{}] {
	return j.settle(wire.Append(nil, "delete", j.ID), kind(wire.Deleted))
}

// Release makes the job ready again, with a new priority, after a delay. A fraction of a
// second counts as one.
func (j *Job) Release(priority uint32, delay time.Duration) *eventloop.Future[struct{}] {
	s, err := seconds("delay", delay)
	if err != nil {
		return failed[struct{}](j.c, err)
	}
	return j.settle(wire.Append(nil, "release", j.ID, uint64(priority), uint64(s)), func(r wire.Reply) (struct{}, error, bool) {
		if r.Kind == wire.Buried {
			return struct{}{}, ErrBuried, true
		}
		return struct{}{}, nil, r.Kind == wire.Released
	})
}

// Bury sets the job aside, with a new priority, until [Client.Kick], [Client.KickJob] or
// [Client.Delete].
func (j *Job) Bury(priority uint32) *eventloop.Future[struct{}] {
	return j.settle(wire.Append(nil, "bury", j.ID, uint64(priority)), kind(wire.Buried))
}

// Touch gives the job its whole time to run from now on.
func (j *Job) Touch() *eventloop.Future[struct{}] {
	if err := j.refused(); err != nil {
		return failed[struct{}](j.c, err)
	}
	x := j.call(wire.Append(nil, "touch", j.ID), kind(wire.Touched))
	j.c.l.Post(func() { j.send(x, false) })
	return &x.Future
}

func (j *Job) settle(command []byte, decode func(r wire.Reply) (struct{}, error, bool)) *eventloop.Future[struct{}] {
	if err := j.refused(); err != nil {
		return failed[struct{}](j.c, err)
	}
	x := j.call(command, decode)
	j.c.l.Post(func() { j.send(x, true) })
	return &x.Future
}

// refused returns why the client takes no command about the job any more. Close of the
// client waits for the jobs of consumers, but not for those of ReserveJob: the connection
// would be closed behind the command, whose outcome would then be uncertain.
func (j *Job) refused() error {
	if j.slot != nil {
		return nil
	}
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.c.closing
}

// call makes a command about the job. Its owner is the client's, because the command may
// outlive the job.
func (j *Job) call(command []byte, decode func(r wire.Reply) (struct{}, error, bool)) *call[struct{}] {
	x := &call[struct{}]{decode: decode}
	x.command, x.timeout, x.size = command, j.c.o.Timeout, len(command)
	x.waiter = x
	x.Init(j.c.owner)
	return x
}

// send sends a command about the job. A job that is settled makes room for the next one:
// both commands leave in one write.
func (j *Job) send(x *call[struct{}], settles bool) {
	switch j.state {
	case jobSettled:
		x.fail(ErrSettled)
		return
	case jobLost:
		x.fail(ErrJobLost)
		return
	}
	j.c.mu.Lock()
	err := j.c.count(&x.request)
	x.state = sent
	j.c.mu.Unlock()
	if err != nil {
		x.fail(err)
		return
	}
	requests := []*request{&x.request}
	if settles && j.slot != nil {
		requests = j.slot.andReserve(requests)
	}
	if err := j.link.send(requests...); err != nil {
		if settles && j.slot != nil {
			j.slot.reserving = false
		}
		j.c.done(&x.request)
		x.fail(err)
		return
	}
	if settles {
		j.end(jobSettled)
		if j.slot != nil {
			j.slot.settled()
		}
	}
}

// end ends the hold. On the loop.
func (j *Job) end(state jobState) {
	if j.state != jobHeld {
		return
	}
	j.state = state
	if j.touch != nil {
		j.touch.Stop()
	}
	j.link.jobs = slices.DeleteFunc(j.link.jobs, func(other *Job) bool { return other == j })
	if j.owner != nil {
		j.held.Resolve(struct{}{}, nil)
		j.owner.Close()
	}
}

// lose ends the hold because of err. On the loop.
func (j *Job) lose(err error) {
	if j.state != jobHeld {
		return
	}
	j.end(jobLost)
	if f := j.lost; f != nil {
		j.c.l.Post(func() { f(j, err) })
	}
}

// extend extends the time to run. The first time it asks for it.
func (j *Job) extend() {
	if j.state != jobHeld || j.link.over {
		return
	}
	var requests []*request
	if j.ttr == 0 {
		requests = append(requests, j.own("stats-job", func(r wire.Reply) error {
			if r.Kind == wire.OK {
				j.ttr = parseStats(r.Body).Seconds("ttr")
			}
			return nil
		}))
	}
	requests = append(requests, j.own("touch", func(r wire.Reply) error {
		switch {
		case r.Kind == wire.NotFound:
			j.lose(ErrNotFound) // its time was over, and the server has it back
		case j.state == jobHeld:
			j.touch.Reset(max(j.ttr/2, firstTouch))
		}
		return nil
	}))
	if j.link.send(requests...) != nil {
		j.touch.Reset(firstTouch)
	}
}

// own returns a command about the job that the driver sends by itself.
func (j *Job) own(command string, answer answerFunc) *request {
	r := &request{command: wire.Append(nil, command, j.ID), waiter: answer}
	if j.c.o.Timeout > 0 {
		r.due = time.Now().Add(j.c.o.Timeout)
	}
	return r
}

// giveBack releases a job that nothing has asked for, with the priority that it has.
func (j *Job) giveBack() {
	j.link.send(j.own("stats-job", func(r wire.Reply) error {
		j.Release(uint32(parseStats(r.Body).Int("pri")), 0).Ignore()
		return nil
	}))
}

// ReserveJob reserves the job with the number id, if it is ready, delayed or buried. The
// job belongs to the connection for commands. If ctx ends when the command has been sent,
// the job is released. A server older than 1.12 does not know this command.
func (c *Client) ReserveJob(ctx context.Context, id uint64) *eventloop.Future[*Job] {
	x := &call[*Job]{}
	x.decode = func(r wire.Reply) (*Job, error, bool) {
		if r.Kind != wire.Reserved {
			return nil, nil, false
		}
		j := &Job{ID: r.ID, Body: r.Body, c: c, link: c.link}
		j.hold(false, false)
		c.mu.Lock()
		unwanted := x.state == canceled
		c.mu.Unlock()
		if unwanted {
			j.giveBack()
		}
		return j, nil, true
	}
	x.command = wire.Append(nil, "reserve-job", id)
	return start(ctx, c, x)
}
