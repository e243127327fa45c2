package smtp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"

	"github.com/onloop/eventloop"
)

// A pool holds the sessions of a client. It is used only on the loop.
type pool struct {
	c        *Client
	sessions []*session // the sessions whose connection is not closed
	idle     []*session // the last element is the most recently used session
	opening  int        // attempts to open a session in progress

	failures int       // failed attempts to connect since the last success
	lastErr  error     // of the last failed attempt
	retryAt  time.Time // the earliest time of the next attempt, if failures > 0
	nextAt   time.Time // the earliest start of the next mail, because of Options.Rate
	timer    *eventloop.Timer
	graceEnd time.Time // until then, overdue mails do not fail, see expire; zero: no such time

	shutting bool // the loop is being shut down: sessions without a mail end
}

func (p *pool) init(c *Client) { p.c = c }

// pump assigns waiting mails to sessions, opens new sessions, fails the mails that have
// timed out, sets the timer, and completes Close and Abort.
func (p *pool) pump() {
	now := time.Now() // read first: times that the code below finds too early are later than now
	c := p.c
	c.mu.Lock()
	c.posted = false
	end, pending := c.closing, c.pending
	c.mu.Unlock()
	if end != nil && end.abort {
		p.abort()
	} else if end != nil && pending == 0 {
		p.endSessions()
	}
	p.expire(now)
	for len(p.idle) > 0 {
		s := p.idle[len(p.idle)-1]
		j := p.next()
		if j == nil {
			break
		}
		p.idle = p.idle[:len(p.idle)-1]
		s.wake(j)
	}
	p.grow()
	p.arm(now)
	if end != nil && len(p.sessions) == 0 && pending == 0 {
		end.resolve(struct{}{}, nil)
		c.owner.CloseWithError(c.opError(errClientClosed))
	}
}

// next returns the next mail, or nil if there is none or Options.Rate delays it.
func (p *pool) next() *job { return p.nextIf(func(*job) bool { return true }) }

// nextIf is like next, but returns the mail only if ok permits it.
func (p *pool) nextIf(ok func(j *job) bool) *job {
	now := time.Now()
	if now.Before(p.nextAt) {
		return nil
	}
	j := p.c.take(ok)
	if rate := p.c.opts.Rate; j != nil && rate > 0 {
		p.nextAt = now.Add(time.Duration(float64(time.Second) / rate))
	}
	return j
}

// expire fails the mails whose wait for a session has timed out. If it is called late,
// mails wait for lateGrace first, so that the loop can handle the replies that are there: a
// slow callback has delayed the loop as well as the timer.
func (p *pool) expire(now time.Time) {
	overdue, _ := p.c.overdue(now)
	if len(overdue) == 0 {
		p.graceEnd = time.Time{}
		return
	}
	if p.graceEnd.IsZero() && now.Sub(overdue[0].until) > lateTimer {
		p.graceEnd = now.Add(lateGrace)
	}
	if now.Before(p.graceEnd) {
		return
	}
	p.graceEnd = time.Time{}
	for _, j := range overdue {
		err := fmt.Errorf("no session within %v: %w", p.c.opts.QueueTimeout, os.ErrDeadlineExceeded)
		if p.lastErr != nil {
			err = fmt.Errorf("%w: %w", err, p.lastErr)
		}
		j.giveUp(err)
	}
}

const (
	lateTimer = 10 * time.Millisecond // a timer is this late only after a slow callback
	lateGrace = 50 * time.Millisecond
)

// grow opens sessions for the queued mails, up to MaxConns in total. It opens none before
// retryAt or nextAt. After a failure, or with Options.Rate, it opens one at a time.
func (p *pool) grow() {
	now := time.Now()
	if p.failures > 0 && now.Before(p.retryAt) || now.Before(p.nextAt) {
		return
	}
	n := min(p.c.queued()-len(p.idle)-p.opening, p.c.opts.MaxConns-len(p.sessions))
	if p.failures > 0 || p.c.opts.Rate > 0 {
		n = min(n, 1-p.opening)
	}
	for range n {
		s, err := newSession(p)
		p.opening++
		if err != nil {
			p.failed(err)
			return
		}
		p.sessions = append(p.sessions, s)
		s.start(nil)
	}
}

// opened records that a session is open. opened or failed is called once per attempt.
func (p *pool) opened() {
	p.opening--
	p.failures, p.lastErr = 0, nil
}

// failed records that a session could not be opened, and schedules the next attempt.
func (p *pool) failed(err error) {
	o := &p.c.opts
	p.opening--
	p.lastErr = err
	wait := o.MinBackoff << min(p.failures, 30)
	if wait <= 0 || wait > o.MaxBackoff {
		wait = o.MaxBackoff
	}
	p.failures++
	// The clock is the seed, so that a test with a virtual clock is reproducible.
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(p.failures)))
	wait -= time.Duration(random.Int64N(int64(wait)/2 + 1))
	p.retryAt = time.Now().Add(wait)
	if !isTransient(err) && p.usable() == 0 {
		for _, j := range p.c.waiting() {
			j.giveUp(err)
		}
	}
	p.wake() // forget may have run, and called wake, long before
}

// usable returns the number of open sessions.
func (p *pool) usable() (n int) {
	for _, s := range p.sessions {
		if s.state == sessionBusy || s.state == sessionIdle {
			n++
		}
	}
	return n
}

// isTransient reports whether another attempt to connect may succeed after err.
func isTransient(err error) bool {
	var reply *Error
	if errors.As(err, &reply) {
		return reply.Temporary()
	}
	for _, target := range []error{ErrNoTLS, ErrAuth, ErrMalformed, ErrReplyTooLarge} {
		if errors.Is(err, target) {
			return false
		}
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return !dns.IsNotFound
	}
	var (
		cert  *tls.CertificateVerificationError
		plain tls.RecordHeaderError
		alert tls.AlertError
	)
	return !errors.As(err, &cert) && !errors.As(err, &plain) && !errors.As(err, &alert)
}

// arm sets the timer to the next time after now at which pump has work.
func (p *pool) arm(now time.Time) {
	_, at := p.c.overdue(now)
	earliest := func(t time.Time) {
		if now.Before(t) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if p.c.queued() > 0 {
		earliest(p.graceEnd)
		earliest(p.nextAt)
		if p.failures > 0 && len(p.sessions) < p.c.opts.MaxConns {
			earliest(p.retryAt)
		}
	}
	switch {
	case at.IsZero() && p.timer != nil:
		p.timer.Stop()
	case at.IsZero():
	case p.timer == nil:
		p.timer = p.c.l.AfterFunc(at.Sub(now), p.pump)
		p.timer.Unref() // the mails keep the loop alive
	default:
		p.timer.Reset(at.Sub(now))
	}
}

// addIdle makes s idle.
func (p *pool) addIdle(s *session) {
	p.idle = append(p.idle, s)
	p.wake()
}

// forget removes s, whose connection is closed.
func (p *pool) forget(s *session) {
	p.removeIdle(s)
	p.sessions = slices.DeleteFunc(p.sessions, func(other *session) bool { return other == s })
	p.wake()
}

// removeIdle removes s from the idle sessions.
func (p *pool) removeIdle(s *session) {
	p.idle = slices.DeleteFunc(p.idle, func(other *session) bool { return other == s })
}

// closeIdle closes the idle sessions after the server has ended another session: the server
// may have ended all of them. The mail of the lost session must not spend its only retry
// on one of them.
func (p *pool) closeIdle() {
	for _, s := range slices.Clone(p.idle) {
		s.drop()
	}
}

// endSessions ends the idle and opening sessions. The client is closing and has no pending
// mails.
func (p *pool) endSessions() {
	for _, s := range slices.Clone(p.sessions) {
		switch s.state {
		case sessionIdle:
			s.retire()
		case sessionOpening:
			s.drop()
		}
	}
}

// shutdown ends the idle sessions, because the loop is being shut down. The other sessions
// end when they have sent their mails.
func (p *pool) shutdown() {
	p.shutting = true
	for _, s := range slices.Clone(p.idle) {
		s.retire()
	}
}

// abort fails all mails and closes all sessions.
func (p *pool) abort() {
	for _, j := range p.c.waiting() {
		j.giveUp(errClientClosed)
	}
	for _, s := range slices.Clone(p.sessions) {
		for _, j := range []*job{s.job, s.ahead} {
			if j != nil {
				j.giveUp(errClientClosed)
			}
		}
		s.drop()
		s.conn.Abort() // even if the session is waiting for the reply to QUIT
	}
}

// wake calls pump in a later turn.
func (p *pool) wake() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.wakeLocked()
}
