package eventloop

import (
	"context"
	"errors"
	"net"
)

// ListenTask is [Loop.Listen] with f as [ConnConfig.Task]: it runs f as a task for
// each accepted connection, and closes the connection when f returns. If f is nil it
// returns an error.
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

// startTask starts the task of the connection, which is up. On the loop.
func (c *Conn) startTask() {
	f := c.cfg.Load().Task
	if f == nil || c.quit.Load() || c.loop.ended.Load() {
		return
	}
	run := func(t *Task) error { return f(t, c) }
	c.loop.startTask(context.Background(), run, origin{fn: funcPC(f)}).Then(func(_ struct{}, err error) { c.taskEnded(err) })
}

// taskEnded closes the connection after its task. On the loop.
func (c *Conn) taskEnded(err error) {
	switch {
	case err == nil, IsInfo(err), errors.Is(err, net.ErrClosed), err == ErrLoopClosed:
	case c.quit.Load(): // OnEvent comes no more
		c.loop.count.errors.Add(1)
		c.loop.event(c.taskError(err), c.kind == kindConnIn)
	default:
		c.event(c.taskError(err))
	}
	if isPanic(err) {
		c.Abort() // what was written may be half of it
	} else {
		c.Close()
	}
}

// taskError returns err with the address of the peer, unless err has it already.
func (c *Conn) taskError(err error) error {
	var oe *OpError
	if errors.As(err, &oe) && oe.Conn == c {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &OpError{Op: "task", Net: c.network(), Addr: c.remote(), Err: err, Conn: c}
}
