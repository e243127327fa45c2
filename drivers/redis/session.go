package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// A Session has its own connection, for commands that change the state of a connection:
// Watch, WAIT, another database, commands that block those behind them. It connects with
// its first command. Until the connection is up, the commands wait, within their timeouts,
// like those of a Client. If the connection is lost after that, the session ends: pending
// and later commands fail.
type Session struct {
	Commands
	client *Client
}

// Session returns a session. The caller must close it when it is no longer needed.
func (c *Client) Session() *Session {
	s := &Session{client: c}
	p := newPipe(c.l, c.o, c.owner)
	p.single = true
	p.events.gone = func(error) { c.removePart(s) }
	s.Commands = Commands{p: p}
	if err := c.addPart(s); err != nil {
		p.queue.close(err)
	}
	return s
}

// Tx returns a transaction on the connection of the session. The server executes it only
// if no key that the session watches has changed.
func (s *Session) Tx() *Tx { return newTx(s.p, false) }

// Watch makes the next transaction of the session fail with [ErrConflict] if one of the
// keys changes before it.
func (s *Session) Watch(ctx context.Context, keys ...string) *eventloop.Future[struct{}] {
	return run(ctx, &s.Commands, toNothing, "WATCH", keys)
}

// Unwatch undoes Watch.
func (s *Session) Unwatch(ctx context.Context) *eventloop.Future[struct{}] {
	return run(ctx, &s.Commands, toNothing, "UNWATCH")
}

// Close ends the session when its pending commands have their replies. Later commands
// fail with an error that matches net.ErrClosed. A second call does nothing.
func (s *Session) Close() {
	if !s.p.queue.close(s.p.o.opError(errSessionClosed)) {
		return
	}
	s.client.l.Post(func() {
		s.p.drain(func() {
			s.client.removePart(s)
			s.p.finish(func() {})
		})
	})
}

func (s *Session) silence() {} // it has no callbacks

// abort implements part.
func (s *Session) abort(err error) { s.p.abort(err) }
