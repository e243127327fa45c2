package eventloop

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// ListenTask is [Loop.Listen] with f as [ConnConfig.Task]: it runs f as a task for each
// accepted connection, and closes the connection when f returns. If f is nil,
// ListenTask returns an error.
func (l *Loop) ListenTask(network, address string, f func(t *Task, c *Conn) error, cfg *ConnConfig) (*Listener, error) {
	if f == nil {
		return nil, errNilFunc
	}
	conf := ConnConfig{}
	if cfg != nil {
		conf = *cfg
	}
	conf.Task = f
	return l.Listen(network, address, &conf)
}

// startTask starts the task of the connection, which is up. It runs on the loop.
func (cl *connLoop) startTask() {
	c := (*Conn)(cl)
	f := c.cfg.Load().Task
	if f == nil || c.quit.Load() || c.loop.ended.Load() {
		return
	}
	run := func(t *Task) error { return f(t, c) }
	c.loop.startTask(context.Background(), run, origin{fn: funcPC(f)}).Then(func(_ struct{}, err error) { cl.taskEnded(err) })
}

// taskNeverStarts reports whether ConnConfig.Task is set, but does not start because the
// connection did not come up. No task will then call NetConn.
func (cl *connLoop) taskNeverStarts() bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return c.cfg.Load().Task != nil && !c.facts.has(factUp)
}

// taskEnded closes the connection after its task has ended. It runs on the loop.
func (cl *connLoop) taskEnded(err error) {
	c := (*Conn)(cl)
	switch {
	case err == nil, IsInfo(err), errors.Is(err, net.ErrClosed), err == ErrLoopClosed:
	case c.quit.Load(): // OnEvent is no longer called
		c.loop.count.errors.Add(1)
		c.loop.event(cl.taskError(err), c.kind == kindConnIn)
	default:
		cl.event(cl.taskError(err))
	}
	if isPanic(err) {
		c.Abort() // the output may be incomplete
	} else {
		c.Close()
	}
}

// taskError returns err with the address of the peer, unless err already has it.
func (cl *connLoop) taskError(err error) error {
	c := (*Conn)(cl)
	var oe *OpError
	if errors.As(err, &oe) && oe.Conn == c {
		return err
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.opErrorLocked(OpTask, err)
}

// DataOf returns the typed application data of c. The first call creates a zero T, and
// all calls return the same pointer. [Conn.Data] returns the same value, as a *T. If
// SetData, or DataOf with another type, has stored something else, DataOf panics.
func DataOf[T any](c *Conn) *T {
	c.core.Lock()
	if c.data == nil {
		c.data = new(T)
	}
	v := c.data
	c.core.Unlock()
	p, ok := v.(*T)
	if !ok {
		panic(fmt.Errorf("eventloop: the data of the connection is a %T, not a %T", v, p))
	}
	return p
}
