package beanstalk

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// A Job is a job that is reserved for this program. It stays reserved until the
// application settles it: deletes, releases or buries it. Until then the driver extends
// its time to run, unless ConsumeOptions.ManualTouch is set.
//
// An unsettled job keeps the loop alive, and [eventloop.Loop.Handles] shows it with its
// age. If its connection is lost, the server makes the job ready for another consumer, and
// commands about it fail with [ErrJobLost].
//
// All methods may be called from any goroutine and from any callback.
type Job struct {
	ID   uint64
	Body []byte // belongs to the application

	c     *Client
	link  *link
	slot  *slot // the slot of the consumer; nil for ReserveJob
	owner *eventloop.Owner

	// Used only on the loop.
	state jobState
	held  eventloop.Promise[struct{}] // keeps the loop alive
	touch *eventloop.Timer            // nil if the time to run is not extended
	ttr   time.Duration               // zero if not known
	lost  func(j *Job, err error)     // ConsumeOptions.OnLost, or nil
}

type jobState uint8

const (
	jobHeld jobState = iota
	jobSettled
	jobLost
)

// firstTouch is the time after which the driver first queries and extends the time to run
// of a job. It is less than the minimum time to run, one second. Most jobs are settled
// sooner and cost no extra command.
const firstTouch = 400 * time.Millisecond

// hold begins to hold the job. It runs on the loop.
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

// Delete deletes the job, which is done.
func (j *Job) Delete() *eventloop.Future[struct{}] {
	return j.settle(wire.Append(nil, "delete", j.ID), kind(wire.Deleted))
}

// Release makes the job ready again, with a new priority, after a delay. The delay is
// rounded up to whole seconds.
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

// Touch restarts the job's time to run.
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

// refused returns an error if the client no longer accepts commands about the job. Close
// of the client waits for the jobs of consumers, but not for those of ReserveJob: it would
// close the connection right after the command, whose outcome would then be uncertain.
func (j *Job) refused() error {
	if j.slot != nil {
		return nil
	}
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.c.closing
}

// call creates a command about the job. The command belongs to the client's owner, because
// it may outlive the job.
func (j *Job) call(command []byte, decode func(r wire.Reply) (struct{}, error, bool)) *call[struct{}] {
	x := &call[struct{}]{decode: decode}
	x.command, x.timeout, x.size = command, j.c.o.Timeout, len(command)
	x.waiter = x
	x.Init(j.c.owner)
	return x
}

// send sends a command about the job. If the command settles the job, send sends the
// command for the next job in the same write.
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

// end ends the hold. It runs on the loop.
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

// lose ends the hold because of err. It runs on the loop.
func (j *Job) lose(err error) {
	if j.state != jobHeld {
		return
	}
	j.end(jobLost)
	if f := j.lost; f != nil {
		j.c.l.Post(func() { f(j, err) })
	}
}

// extend extends the time to run. The first call also queries it.
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
			j.lose(ErrNotFound) // its time to run was over: the job is ready again
		case j.state == jobHeld:
			j.touch.Reset(max(j.ttr/2, firstTouch))
		}
		return nil
	}))
	if j.link.send(requests...) != nil {
		j.touch.Reset(firstTouch)
	}
}

// own returns a command about the job that the driver itself sends.
func (j *Job) own(command string, answer answerFunc) *request {
	r := &request{command: wire.Append(nil, command, j.ID), waiter: answer}
	if j.c.o.Timeout > 0 {
		r.due = time.Now().Add(j.c.o.Timeout)
	}
	return r
}

// giveBack releases a job that no caller waits for, with its current priority.
func (j *Job) giveBack() {
	j.link.send(j.own("stats-job", func(r wire.Reply) error {
		j.Release(uint32(parseStats(r.Body).Int("pri")), 0).Ignore()
		return nil
	}))
}

// ReserveJob reserves the job with the given ID, if it is ready, delayed or buried. The
// job belongs to the connection for commands. If ctx ends after the command was sent, the
// client releases the job. Servers older than 1.12 do not support this command.
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
