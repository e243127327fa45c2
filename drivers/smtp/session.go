package smtp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// A session is a connection to the server. While it opens or has a mail, its own task
// reads and writes. While it is idle, the callbacks of the connection notice when the
// server closes it. A session is used only on the loop.
//
// Neither the connection nor the task keeps the loop alive: the futures of the mails and
// of Close do.
type session struct {
	pool  *pool
	c     *Client
	conn  *eventloop.Conn
	state sessionState
	job   *job // the mail being sent
	ahead *job // the next mail, whose envelope was sent with the end of job
	timer *eventloop.Timer

	t   *eventloop.Task // the running task; nil while the session is idle
	nc  net.Conn        // the connection, for that task
	in  smtpwire.Parser
	buf [1 << 10]byte // for reads
	out []byte        // for writes

	ext   smtpwire.Extensions
	mails int  // the number of mails started
	reset bool // RSET must precede the next MAIL
}

type sessionState uint8

const (
	sessionOpening sessionState = iota
	sessionBusy                 // has a mail
	sessionIdle                 // waits for a mail
	sessionOver                 // is being closed, or is closed
)

// quitTimeout is the maximum time of the wait for the reply to QUIT.
const quitTimeout = 5 * time.Second

// newSession starts to connect.
func newSession(p *pool) (*session, error) {
	c := p.c
	s := &session{pool: p, c: c, in: smtpwire.Parser{Max: c.opts.MaxReplyBytes}}
	cfg := &eventloop.ConnConfig{
		ConnectTimeout: c.opts.ConnectTimeout,
		WriteTimeout:   c.opts.ReplyTimeout,
		Dial:           c.opts.Dial,
		OnData:         func(*eventloop.Conn, []byte) { s.drop() }, // idle: the server says why it closes
		OnEvent:        func(*eventloop.Conn, error) { s.drop() },  // idle, or opening: the task gets the error, too
		OnClose:        func(*eventloop.Conn) { s.over(); p.forget(s) },
	}
	if c.opts.Security == ImplicitTLS {
		cfg.TLS = c.opts.TLS
	}
	var err error
	if s.conn, err = c.l.Dial(context.Background(), c.opts.Network, c.opts.Addr, cfg); err != nil {
		return nil, err
	}
	s.conn.Unref()
	return s, nil
}

// start runs the task of the session. The task opens the session if j is nil, or else
// sends j. Then it sends further mails.
func (s *session) start(j *job) {
	s.job = j
	s.c.l.Go(context.Background(), s.run)
}

// wake starts the task of an idle session to send j.
func (s *session) wake(j *job) {
	s.state = sessionBusy
	s.timer.Stop()
	s.start(j)
}

// run is the body of the task. Errors go to the mails and to the pool.
func (s *session) run(t *eventloop.Task) error {
	t.Unref()
	s.t = t
	defer s.leave()
	if s.job == nil { // a new session
		if !s.tryOpen() {
			return nil
		}
		s.job = s.pool.next()
	} else {
		s.nc = s.conn.NetConn(t)
	}
	for sent := false; s.job != nil; {
		if s.mails++; !s.serve(s.job, sent) {
			return nil
		}
		if sent = s.ahead != nil; sent {
			s.job, s.ahead = s.ahead, nil
			continue
		}
		if s.mails == s.c.opts.MaxMessages {
			s.quit()
			return nil
		}
		s.job = s.pool.next()
	}
	if s.pool.shutting {
		s.quit()
		return nil
	}
	s.makeIdle()
	return nil
}

// leave closes the session when its task ends, unless the session is idle. The task has
// already closed it, or was unwound.
func (s *session) leave() {
	for _, j := range []*job{s.job, s.ahead} {
		if j != nil {
			j.giveUp(errTaskEnded)
		}
	}
	s.job, s.ahead = nil, nil
	if s.state != sessionIdle {
		s.drop()
		if s.nc != nil {
			s.nc.Read(s.buf[:]) // an error that the task has not seen would be an event
		}
	}
	s.t, s.nc = nil, nil
}

var errTaskEnded = fmt.Errorf("the task of the session has ended: %w", net.ErrClosed)

// tryOpen opens the session and reports the outcome to the pool, exactly once, even if the
// task is unwound. The state does not show whether the pool has the outcome: if the
// connection fails at once, the session ends before its task begins.
func (s *session) tryOpen() bool {
	err := errTaskEnded
	defer func() {
		if err != nil {
			s.over()
			s.pool.failed(err)
			return
		}
		s.state = sessionBusy
		s.pool.opened()
	}()
	err = s.open()
	return err == nil
}

// makeIdle makes the session idle. If the connection is closed or there is unsolicited input,
// makeIdle drops the session instead.
func (s *session) makeIdle() {
	if s.in.Buffered() > 0 || s.conn.Closed() {
		s.drop()
		return
	}
	s.state = sessionIdle
	if d := s.c.opts.IdleTimeout; s.timer == nil {
		s.timer = s.c.l.AfterFunc(d, s.retire)
		s.timer.Unref()
	} else {
		s.timer.Reset(d)
	}
	s.pool.addIdle(s)
}

// retire ends an idle session with QUIT.
func (s *session) retire() {
	s.pool.removeIdle(s)
	s.over()
	s.c.l.Go(context.Background(), func(t *eventloop.Task) error {
		t.Unref()
		s.t, s.nc = t, s.conn.NetConn(t)
		defer s.drop()
		s.quit()
		return nil
	})
}

// quit ends the session with QUIT. All mails have their results, so quit ignores errors,
// and its wait for the reply does not keep the loop alive unless the loop is being shut
// down.
func (s *session) quit() {
	s.over()
	if s.pool.shutting {
		defer s.c.l.Hold()()
	}
	if s.write([]byte("QUIT\r\n")) == nil {
		s.reply(min(quitTimeout, s.c.opts.ReplyTimeout))
	}
	s.conn.Close()
}

// drop closes the connection at once, unless quit is closing it.
func (s *session) drop() {
	s.pool.removeIdle(s)
	s.over()
	if !s.conn.Closed() {
		s.conn.Abort()
	}
}

// over marks the session as over: it takes no more mails.
func (s *session) over() {
	s.state = sessionOver
	if s.timer != nil {
		s.timer.Stop()
	}
}

// write sends p, and waits while the server does not accept it.
func (s *session) write(p []byte) error {
	_, err := s.nc.Write(p)
	return err
}

// command sends a command and returns the reply.
func (s *session) command(line []byte) (smtpwire.Reply, error) {
	if s.in.Buffered() > 0 {
		return smtpwire.Reply{}, errEarlyBytes
	}
	if err := s.write(line); err != nil {
		return smtpwire.Reply{}, err
	}
	return s.reply(s.c.opts.ReplyTimeout)
}

// reply waits for the next reply, for at most d.
func (s *session) reply(d time.Duration) (smtpwire.Reply, error) {
	s.nc.SetReadDeadline(time.Now().Add(d))
	for {
		r, ok, err := s.in.Next()
		if ok || err != nil {
			return r, wireError(err)
		}
		n, err := s.nc.Read(s.buf[:])
		s.in.Write(s.buf[:n])
		if err == io.EOF {
			err = errServerClosed
		}
		if err != nil {
			return r, err
		}
	}
}

// localName returns the name that the client sends in EHLO.
func (s *session) localName() string {
	if name := s.c.opts.LocalName; name != "" {
		return name
	}
	return literalOf(s.conn.LocalAddr())
}

// literalOf returns the address literal of a.
func literalOf(a net.Addr) string {
	if p, err := netip.ParseAddrPort(fmt.Sprint(a)); err == nil {
		return smtpwire.Literal(p.Addr())
	}
	return "localhost"
}
