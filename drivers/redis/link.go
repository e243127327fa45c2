package redis

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A link is one connection to the server, from the dial to its end. It is used only on the
// loop.
type link struct {
	l    *eventloop.Loop
	o    *Options
	host linkHost

	conn      *eventloop.Conn
	parser    resp.Parser
	inFlight  ring[request] // written, and without all of their replies
	timer     *eventloop.Timer
	handshake handshake
	gone      func() // called when the connection is closed, after leave
	up        bool   // the handshake is complete
	over      bool
}

// A linkHost is the owner of a link.
type linkHost interface {
	// linkUp reports that the handshake is complete.
	linkUp()

	// linkDown reports that the link has ended. It is the last call, made once, and not
	// after link.close.
	linkDown(err error)

	// answered and dropped report that requests are finished.
	answered(over tally)
	dropped(over tally)

	// unsolicited handles pushes, and values that arrive while no request awaits a reply. It
	// must not keep the elements of v.
	unsolicited(v resp.Value) error

	// mustPause reports whether the link must not read until link.pause(false).
	mustPause() bool

	// sendFailed handles an error reply to a request without a waiter, or the error that
	// ended such requests.
	sendFailed(err error)
}

// dialLink begins to connect.
func dialLink(l *eventloop.Loop, o *Options, host linkHost) (*link, error) {
	lk := &link{l: l, o: o, host: host}
	lk.parser.Limit = o.MaxReplyBytes
	lk.handshake.link = lk
	conn, err := l.Dial(context.Background(), o.Network, o.Addr, &eventloop.ConnConfig{
		OnConnect:      func(*eventloop.Conn) { lk.handshake.begin() },
		OnData:         lk.onData,
		OnEvent:        func(_ *eventloop.Conn, err error) { lk.end(err) },
		OnClose:        func(*eventloop.Conn) { lk.closed() },
		TLS:            o.TLS,
		Dial:           o.Dial,
		ConnectTimeout: orNone(o.ConnectTimeout),
		HighWater:      -1, // replies are read regardless of unsent output
		MaxBuffered:    -1, // the queue has its own limit
	})
	if err != nil {
		return nil, err
	}
	conn.Unref() // pending commands keep the loop alive, not the connection
	lk.conn = conn
	if o.ConnectTimeout > 0 {
		lk.timer = afterTimeout(l, o.ConnectTimeout, lk.handshakeOverdue)
	}
	return lk, nil
}

// orNone converts a duration of which zero means none to one for ConnConfig.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (lk *link) handshakeOverdue() {
	if !lk.up {
		lk.end(os.ErrDeadlineExceeded)
	}
}

// onData decodes replies and passes them to the waiting requests.
func (lk *link) onData(c *eventloop.Conn, data []byte) {
	var over tally
	for len(data) > 0 && !lk.over {
		if lk.up && lk.host.mustPause() {
			lk.conn.Unread(data)
			lk.pause(true)
			break
		}
		v, n, ok, err := lk.parser.Next(data)
		data = data[n:]
		if err != nil {
			lk.end(parseError(err))
			break
		}
		if ok {
			lk.handle(v, &over)
		}
	}
	if over.requests > 0 {
		lk.host.answered(over)
	}
	// Not earlier: unsolicited values that have arrived after the handshake would be matched
	// to commands sent before this point.
	if lk.handshake.done && !lk.up && !lk.over {
		lk.handshakeDone()
	}
}

func (lk *link) handle(v resp.Value, over *tally) {
	r := lk.inFlight.front()
	if r == nil || v.Kind == resp.Push {
		if err := lk.host.unsolicited(v); err != nil {
			lk.end(err)
		}
		lk.parser.Recycle(v)
		return
	}
	to := r.to
	if r.replies--; r.replies == 0 {
		over.add(r)
		lk.inFlight.pop()
	}
	if to != nil {
		to.answer(v)
	} else if v.Kind == resp.Error {
		lk.host.sendFailed(&Error{v.Str})
	}
}

// errUnsolicited ends a connection that received an unsolicited reply.
var errUnsolicited = &badReply{errors.New("a reply without a command"), ErrMalformed}

// handshakeDone lets the host use the link.
func (lk *link) handshakeDone() {
	lk.up = true
	lk.stopTimer()
	lk.host.linkUp()
}

// pause stops or resumes reading.
func (lk *link) pause(on bool) {
	if on {
		lk.conn.PauseReading()
	} else {
		lk.conn.ResumeReading()
	}
}

func (lk *link) stopTimer() {
	if lk.timer != nil {
		lk.timer.Stop()
	}
}

// end closes the connection because of err. The requests in flight fail.
func (lk *link) end(err error) { lk.endOverdue(err, 0) }

// endOverdue is like end, but requests that are due by now fail with a timeout, and the
// others with err.
func (lk *link) endOverdue(err error, now int64) {
	if lk.over {
		return
	}
	lk.close()
	if !lk.up && lk.handshake.err != nil {
		err = lk.handshake.err // the server gave the reason
	}
	err = lk.o.opError(err)
	failed := uncertain(err)
	late := uncertain(lk.o.opError(os.ErrDeadlineExceeded))
	var over tally
	sends := false
	for lk.inFlight.len > 0 {
		r := lk.inFlight.pop()
		over.add(&r)
		switch {
		case r.to == nil:
			sends = true
		case r.due > 0 && r.due <= now:
			r.to.fail(late)
		default:
			r.to.fail(failed)
		}
	}
	if sends {
		lk.host.sendFailed(failed)
	}
	lk.host.dropped(over)
	lk.host.linkDown(err)
}

// close ends the connection at once, without a call to the host.
func (lk *link) close() {
	lk.over = true
	lk.stopTimer()
	lk.conn.Abort()
}

var errGivenUp = errors.New("the connection was given up, because a reply before it is overdue")

// opError returns err as a connection error.
func (o *Options) opError(err error) error {
	if err == eventloop.ErrLoopClosed {
		return err
	}
	if op, ok := err.(*eventloop.OpError); ok {
		switch op.Op {
		case OpRedis, eventloop.OpDial, eventloop.OpHandshake:
			return err
		}
		err = op.Err
	}
	if err == io.EOF {
		err = errServerClosed
	}
	return &eventloop.OpError{Op: OpRedis, Net: o.Network, Addr: o.Addr, Err: err}
}

// errServerClosed matches io.EOF.
var errServerClosed error = &serverClosed{}

type serverClosed struct{}

func (*serverClosed) Error() string { return "the server closed the connection" }
func (*serverClosed) Unwrap() error { return io.EOF }

// leave closes a connection that the host no longer needs, and calls gone when it is
// closed.
func (lk *link) leave(gone func()) {
	lk.over, lk.gone = true, gone
	lk.stopTimer()
	lk.conn.Close()
}

// closed is called when the connection is closed.
func (lk *link) closed() {
	lk.end(eventloop.ErrLoopClosed) // unless it has ended before
	if lk.gone != nil {
		lk.gone()
	}
}
