package beanstalk

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// A link is one connection to the server, from the dial to its end. It is used only on the
// loop.
type link struct {
	l    *eventloop.Loop
	o    *Options
	host linkHost

	conn     *eventloop.Conn
	parser   wire.Parser
	inFlight []*request // sent, without a reply, in order
	jobs     []*Job     // reserved by the connection
	using    string     // the tube of put, kick and so on
	timeout  timeout    // for inFlight
	up       bool
	answered bool // a reply has arrived
	over     bool
}

// A linkHost is the owner of a link.
type linkHost interface {
	// linkUp reports that the link is connected.
	linkUp()

	// linkDown reports that the link has ended because of err. It is the last call, made
	// once, and not after link.close.
	linkDown(err error)

	// done reports that a request is finished. It is called before the request's waiter.
	done(r *request)
}

// dialLink begins to connect.
func dialLink(l *eventloop.Loop, o *Options, host linkHost) (*link, error) {
	k := &link{l: l, o: o, host: host, using: "default"}
	k.parser.Limit = o.MaxBodyBytes
	k.timeout = timeout{l: l, due: k.firstDue, overdue: func(time.Time) { k.end(errOverdue) }}
	connectTimeout := o.ConnectTimeout
	if connectTimeout == 0 {
		connectTimeout = -1
	}
	conn, err := l.Dial(context.Background(), o.Network, o.Addr, &eventloop.ConnConfig{
		OnConnect:      func(*eventloop.Conn) { k.connected() },
		OnData:         k.onData,
		OnEvent:        func(_ *eventloop.Conn, err error) { k.end(err) },
		OnClose:        func(*eventloop.Conn) { k.end(eventloop.ErrLoopClosed) }, // unless it has ended
		Dial:           o.Dial,
		ConnectTimeout: connectTimeout,
		HighWater:      -1, // replies are read regardless of unsent output
		MaxBuffered:    -1, // the client has its own limit
	})
	if err != nil {
		return nil, err
	}
	conn.Unref() // the owner keeps the loop alive while a command is pending
	k.conn = conn
	return k, nil
}

func (k *link) connected() {
	if !k.over {
		k.up = true
		k.host.linkUp()
	}
}

// send writes requests. If it returns an error, it has accepted none of them.
func (k *link) send(requests ...*request) error {
	if k.over || !k.up {
		return errNoLink
	}
	var out []byte
	using, inFlight := k.using, k.inFlight
	for _, r := range requests {
		if r.tube != "" && r.tube != using {
			using = r.tube
			out = wire.AppendTube(out, "use", using)
			inFlight = append(inFlight, &request{waiter: expect(wire.Using), due: r.due})
		}
		if out == nil && len(requests) == 1 {
			out = r.command
		} else {
			out = append(out, r.command...)
		}
		inFlight = append(inFlight, r)
	}
	if _, err := k.conn.Write(out); err != nil {
		return err
	}
	for _, r := range requests {
		r.command = nil
	}
	k.using, k.inFlight = using, inFlight
	k.timeout.arm()
	return nil
}

var errNoLink = errors.New("beanstalk: not connected")

// onData decodes replies and passes them to the requests.
func (k *link) onData(_ *eventloop.Conn, data []byte) {
	for len(data) > 0 && !k.over {
		r, n, ok, err := k.parser.Next(data)
		data = data[n:]
		switch {
		case err != nil:
			k.end(parseError(err))
		case ok && len(k.inFlight) == 0:
			k.end(unexpected(r.Kind))
		case ok:
			k.answered = true
			first := k.inFlight[0]
			k.inFlight[0] = nil
			if k.inFlight = k.inFlight[1:]; len(k.inFlight) == 0 {
				k.inFlight = nil
			}
			k.host.done(first)
			if err := first.waiter.answer(r); err != nil {
				err = k.o.opError(err)
				first.waiter.fail(uncertain(err))
				k.end(err)
			}
		}
	}
	k.timeout.arm() // the new first request may be due earlier
}

// firstDue returns when the first reply is due, or zero.
func (k *link) firstDue() time.Time {
	if len(k.inFlight) == 0 || k.over {
		return time.Time{}
	}
	return k.inFlight[0].due
}

// errOverdue ends a connection whose server does not reply. Requests whose own timeout has
// not passed fail with it, too: no reply can arrive before that of the first request.
var errOverdue error = &overdueError{}

type overdueError struct{}

func (*overdueError) Error() string { return "a reply is overdue" }
func (*overdueError) Timeout() bool { return true }
func (*overdueError) Unwrap() error { return os.ErrDeadlineExceeded }

// end ends the connection because of err.
func (k *link) end(err error) {
	if !k.over {
		err = k.o.opError(err)
		k.close(err)
		k.host.linkDown(err)
	}
}

// close is like end, but does not call the host. The requests in flight fail, and the jobs
// of the connection are lost.
func (k *link) close(err error) {
	if k.over {
		return
	}
	k.over, k.up = true, false
	k.conn.Abort()
	k.timeout.stop()
	for _, j := range slices.Clone(k.jobs) {
		j.lose(err)
	}
	inFlight := k.inFlight
	k.inFlight = nil
	for _, r := range inFlight {
		k.host.done(r)
		r.waiter.fail(uncertain(err))
	}
}
