package beanstalk_test

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// A queue is a beanstalkd in memory that has faults. It does what producers and consumers
// need, and keeps its jobs when its connections end, as beanstalkd does with -b. All of it
// runs on the loop of the test.
type queue struct {
	t     *testing.T
	l     *eventloop.Loop
	n     *looptest.Net
	ln    *eventloop.Listener
	peers []*peer
	jobs  []*queued // that are not deleted, in order
	puts  map[string]uint64
	ids   uint64

	resets  atomic.Bool // connections end with a reset
	stopped bool        // nothing is read
	replies int         // sent so far
	sent    int         // bytes of them

	// fault takes the place of sending a reply if it returns true.
	fault func(p *peer, reply string) bool
}

// A peer is a connection of a queue.
type peer struct {
	q       *queue
	conn    *eventloop.Conn
	in      string
	waiting *eventloop.Timer // ends a reserve; nil if there is none
	mute    bool             // sends nothing
	gone    bool
}

type queued struct {
	id   uint64
	body string
	by   *peer // nil: ready
}

const queueAddr = "queue:11300"

func newQueue(t *testing.T, l *eventloop.Loop, n *looptest.Net) *queue {
	q := &queue{t: t, l: l, n: n, puts: make(map[string]uint64)}
	q.listen()
	return q
}

func (q *queue) listen() {
	ln, err := q.n.Listen(queueAddr)
	if err == nil {
		q.ln, err = q.l.Serve(&resetListener{ln, &q.resets}, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { q.peers = append(q.peers, &peer{q: q, conn: c}) },
			OnData: func(c *eventloop.Conn, data []byte) {
				p := q.peer(c)
				p.in += string(data)
				p.work()
			},
			OnEvent: func(*eventloop.Conn, error) {},
			OnClose: func(c *eventloop.Conn) {
				p := q.peer(c)
				p.gone = true
				p.work()
			},
		})
	}
	if err != nil {
		q.t.Error(err)
	}
}

func (q *queue) peer(c *eventloop.Conn) *peer {
	return q.peers[slices.IndexFunc(q.peers, func(p *peer) bool { return p.conn == c })]
}

// die ends the listener and all connections.
func (q *queue) die() {
	q.ln.Close()
	for _, p := range q.peers {
		p.end(true)
	}
}

// stop makes the server do nothing for d. Then it calls first and executes what has
// arrived meanwhile, although the client may have given up.
func (q *queue) stop(d time.Duration, first func()) {
	q.stopped = true
	q.l.AfterFunc(d, func() {
		q.stopped = false
		first()
		for _, p := range slices.Clone(q.peers) {
			p.work()
		}
	})
}

// work executes what has arrived. A connection that waits for a job does nothing else.
func (p *peer) work() {
	for !p.q.stopped && p.waiting == nil {
		line, rest, ok := strings.Cut(p.in, "\r\n")
		if !ok {
			break
		}
		f := strings.Fields(line)
		var body string
		if f[0] == "put" {
			n, _ := strconv.Atoi(f[4])
			if len(rest) < n+2 {
				break
			}
			body, rest = rest[:n], rest[n+2:]
		}
		p.in = rest
		if reply := p.execute(f, body); reply != "" {
			p.send(reply + "\r\n")
		}
	}
	if p.gone && !p.q.stopped {
		p.leave()
	}
}

// leave forgets the connection. Its jobs are ready again.
func (p *peer) leave() {
	p.stopWaiting()
	p.q.peers = slices.DeleteFunc(p.q.peers, func(other *peer) bool { return other == p })
	for _, j := range p.q.jobs {
		if j.by == p {
			j.by = nil
		}
	}
	p.q.give()
}

func (p *peer) stopWaiting() {
	if p.waiting != nil {
		p.waiting.Stop()
		p.waiting = nil
	}
}

func (p *peer) execute(f []string, body string) (reply string) {
	q := p.q
	switch f[0] {
	case "use":
		return "USING " + f[1]
	case "watch", "ignore":
		return "WATCHING 1"
	case "put":
		q.ids++
		if q.puts[body] != 0 {
			q.t.Errorf("%q is put twice", body)
		}
		q.puts[body] = q.ids
		q.jobs = append(q.jobs, &queued{id: q.ids, body: body})
		q.l.Post(q.give) // after the reply
		return fmt.Sprint("INSERTED ", q.ids)
	case "reserve-with-timeout":
		seconds, _ := strconv.Atoi(f[1])
		p.waiting = q.l.AfterFunc(time.Duration(seconds)*time.Second, func() {
			if q.stopped {
				p.waiting.Reset(time.Second)
				return
			}
			p.waiting = nil
			p.send("TIMED_OUT\r\n")
			p.work()
		})
		p.waiting.Unref()
		q.l.Post(q.give)
		return ""
	}
	id, _ := strconv.ParseUint(f[1], 10, 64)
	at := slices.IndexFunc(q.jobs, func(j *queued) bool { return j.id == id && j.by == p })
	switch {
	case at < 0:
		return "NOT_FOUND"
	case f[0] == "delete":
		q.jobs = slices.Delete(q.jobs, at, at+1)
		return "DELETED"
	case f[0] == "touch":
		return "TOUCHED"
	case f[0] == "stats-job":
		return "OK 12\r\n---\nttr: 60\n"
	}
	q.t.Errorf("the queue does not know the command %q", f)
	return "UNKNOWN_COMMAND"
}

// give gives ready jobs to connections that wait.
func (q *queue) give() {
	if q.stopped {
		return
	}
	for _, p := range slices.Clone(q.peers) {
		at := slices.IndexFunc(q.jobs, func(j *queued) bool { return j.by == nil })
		if at < 0 {
			return
		}
		if p.waiting == nil || p.gone {
			continue
		}
		p.stopWaiting()
		j := q.jobs[at]
		j.by = p
		p.send(fmt.Sprintf("RESERVED %d %d\r\n%s\r\n", j.id, len(j.body), j.body))
		p.work()
	}
}

func (p *peer) send(reply string) {
	q := p.q
	q.replies++
	if q.fault == nil || !q.fault(p, reply) {
		q.sent += len(reply)
		p.write(reply)
	}
}

func (p *peer) write(s string) {
	if !p.mute && !p.gone {
		p.conn.WriteString(s) // the connection may have ended
	}
}

// end ends the connection. A reset may overtake what was written.
func (p *peer) end(reset bool) {
	p.q.resets.Store(reset)
	if reset {
		p.conn.Abort()
	} else {
		p.conn.Close()
	}
}

// A resetListener has connections whose Close resets them while on is set, as the end of
// a process does.
type resetListener struct {
	net.Listener
	on *atomic.Bool
}

func (ln *resetListener) Accept() (net.Conn, error) {
	c, err := ln.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &resetConn{c, ln.on}, nil
}

type resetConn struct {
	net.Conn
	on *atomic.Bool
}

func (c *resetConn) Close() error {
	if c.on.Load() {
		c.Conn.(interface{ SetLinger(sec int) error }).SetLinger(0)
	}
	return c.Conn.Close()
}

func (c *resetConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
