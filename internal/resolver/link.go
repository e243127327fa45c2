package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxLinks bounds the connections of each kind to one server, and maxFlights
	// the queries under way on one of them.
	maxLinks   = 64
	maxFlights = 1024

	// maxPacketFlights is how many queries a UDP socket is used for: to guess
	// its port must not pay for long.
	maxPacketFlights = 4096

	// linkIdle is how long a stream without a query is kept, at least. Servers
	// close theirs after some 10 to 30 s.
	linkIdle = 10 * time.Second

	// linkStall is how long a stream may owe a reply until other queries prefer
	// another one. There are servers that answer one query after the other, and
	// to those a name that hangs is a roadblock.
	linkStall = 250 * time.Millisecond

	// maxResends is how often a query is sent again because the server closed
	// the stream.
	maxResends = 2
)

// linkState is how far a link has come. It only grows.
type linkState uint8

const (
	linkDialing linkState = iota
	linkOpen              // takes queries
	linkRetired           // takes no new ones; closes when nobody waits any more
	linkOver
)

// A link is a connection to a server that several queries share: a stream, which
// costs a handshake or two to open (RFC 7766, RFC 7858), or a UDP socket, when
// there are too many queries to give each its own.
//
// The goroutine run owns the connection: it dials, writes to streams, and closes;
// the goroutine read reads. Everybody else only gives them queries and waits. The
// link ends when its context does.
type link struct {
	srv    *nameServer
	end    context.CancelFunc
	up     chan struct{} // closed when conn and packet are set
	conn   net.Conn
	packet bool            // conn keeps the bounds of messages
	out    chan []byte     // what run has to write to a stream
	raw    syscall.RawConn // of conn, if it is TCP; see quickAck

	// Guarded by srv.mu.
	state    linkState
	alone    bool // for the query that opened it only
	flights  map[uint16]*flight
	waiting  int // flights that somebody waits for
	joined   int // flights ever
	replies  int
	progress time.Time // of the last reply, or when there was first somebody waiting
}

// A flight is a query under way on a link.
type flight struct {
	q    question
	done chan landing // has room for one
	open bool         // the link was open when the query joined it
	left bool         // nobody waits; it is kept to know its late reply by
}

// landing is the end of a flight.
type landing struct {
	m     *dns.Msg
	size  int
	err   error
	again bool // the server closed a stream that had worked: send it again
}

// shared sends q over a link and returns the reply and its size. If the server
// closes the stream, as it may at any time (RFC 7766 section 6.2.4), the query is
// sent again over another one, in the last instance over one of its own: there are
// servers that close it after each reply.
func (r *Resolver) shared(ctx context.Context, deadline time.Time, network string, srv *nameServer, q question, m *dns.Msg) (*dns.Msg, int, error) {
	for resends := 0; ; resends++ {
		l, f, err := r.join(network, srv, q, deadline, resends == maxResends)
		if err != nil {
			return nil, 0, err
		}
		m.Id = f.q.id
		end := l.fly(ctx, r, deadline, f, m)
		if !end.again || resends == maxResends {
			return end.m, end.size, end.err
		}
	}
}

// join gives q a place on a link to srv, which it opens if need be.
func (r *Resolver) join(network string, srv *nameServer, q question, deadline time.Time, alone bool) (*link, *flight, error) {
	now := time.Now()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	l, ok := srv.pick(network, now, alone)
	if !ok {
		return nil, nil, errBusy
	}
	if l == nil {
		l = &link{srv: srv, up: make(chan struct{}), out: make(chan []byte), alone: alone, flights: make(map[uint16]*flight)}
		var ctx context.Context
		ctx, l.end = context.WithCancel(r.table.root)
		srv.links[network] = append(srv.links[network], l)
		// Not after table.close: the goroutine that runs this is one of the
		// table's, for which close waits.
		r.table.wg.Go(func() { l.run(ctx, r, network, deadline) })
	}
	return l, l.add(q, now), nil
}

// pick returns the link that the next query should take, or nil if it should open
// one. ok is false if there is no room at all.
func (s *nameServer) pick(network string, now time.Time, alone bool) (best *link, ok bool) {
	for _, l := range s.links[network] {
		if l.state >= linkRetired || l.alone || len(l.flights) >= maxFlights {
			continue
		}
		if !alone && !l.stalled(now) {
			return l, true
		}
		if best == nil || l.waiting < best.waiting {
			best = l
		}
	}
	if len(s.links[network]) < maxLinks {
		return nil, true
	}
	return best, best != nil
}

// stalled reports whether the link has owed a reply for too long.
func (l *link) stalled(now time.Time) bool {
	return l.state == linkOpen && !l.packet && l.waiting > 0 && now.Sub(l.progress) > linkStall
}

// add takes q aboard, under an id that no other query of the link has.
func (l *link) add(q question, now time.Time) *flight {
	for l.flights[q.id] != nil {
		q.id = uint16(rand.Uint32())
	}
	f := &flight{q: q, done: make(chan landing, 1), open: l.state == linkOpen}
	l.flights[q.id] = f
	if l.waiting == 0 {
		l.progress = now
	}
	l.waiting++
	l.joined++
	if l.packet && l.joined == maxPacketFlights {
		l.state = linkRetired
	}
	return f
}

// fly sends the message of f and waits for its end.
func (l *link) fly(ctx context.Context, r *Resolver, deadline time.Time, f *flight, m *dns.Msg) landing {
	query, err := m.PackBuffer(nil)
	if err != nil {
		l.leave(f, time.Time{})
		return landing{err: err}
	}
	began := time.Now()
	timer := time.NewTimer(deadline.Sub(began))
	defer timer.Stop()
	up, out := l.up, (chan<- []byte)(nil)
	for {
		select {
		case <-up:
			if up = nil; !l.packet {
				out, query = l.out, frame(query)
			} else if err := r.guard(func() error { return l.send(query) }); err != nil {
				l.leave(f, time.Time{})
				return landing{err: err}
			}
		case out <- query:
			out = nil
		case end := <-f.done:
			return end
		case <-ctx.Done():
			l.leave(f, time.Time{})
			return landing{err: ctx.Err()}
		case <-timer.C:
			l.leave(f, began)
			select {
			case end := <-f.done: // after a pause of the process, both may be the case
				return end
			default:
				return landing{err: os.ErrDeadlineExceeded}
			}
		}
	}
}

// frame puts the length in front of a message for a stream, in one piece: some
// servers want both in one segment (RFC 7766 section 8).
func frame(p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(p)), uint16(len(p))), p...)
}

// leave says that nobody waits for f any more. If f had waited since lostSince,
// until its time was over, and nothing at all has come since then, the link is
// not used again: a connection may have died without a word.
func (l *link) leave(f *flight, lostSince time.Time) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if l.flights[f.q.id] != f {
		return // it has landed
	}
	if l.packet {
		delete(l.flights, f.q.id)
	} else {
		f.left = true // its reply may still come, and must not be taken for garbage
	}
	if !lostSince.IsZero() && l.state == linkOpen && !l.progress.After(lostSince) {
		l.state = linkRetired
	}
	l.landed()
}

// landed says that somebody who waited does so no longer.
func (l *link) landed() {
	l.waiting--
	if l.waiting == 0 && (l.packet || l.alone || l.state != linkOpen) {
		l.state = max(l.state, linkRetired)
		l.end()
	}
}

// run is the life of the link.
func (l *link) run(ctx context.Context, r *Resolver, network string, deadline time.Time) {
	defer l.end()
	var conn net.Conn
	err := r.guard(func() (err error) {
		conn, err = r.dial(ctx, deadline, network, l.srv.addr)
		return err
	})
	if err == nil {
		err = l.serve(ctx, r, conn)
	}
	l.finish(network, err)
}

// serve carries queries and replies until ctx ends or the connection does.
func (l *link) serve(ctx context.Context, r *Resolver, conn net.Conn) error {
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		r.guard(conn.Close)
	})
	l.srv.mu.Lock()
	l.conn, l.raw = conn, rawTCP(conn)
	_, l.packet = conn.(net.PacketConn)
	l.state = max(l.state, linkOpen)
	l.srv.mu.Unlock()
	close(l.up)
	failed := make(chan error, 2) // the first error tells why
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed <- r.guard(l.read)
		l.end()
	}()
	if err := r.guard(func() error { return l.write(ctx) }); err != nil {
		failed <- err
	}
	l.end()
	<-done
	<-closed
	return <-failed
}

// write writes the queries of a stream, and ends when it is idle.
func (l *link) write(ctx context.Context) error {
	idle := time.NewTimer(linkIdle)
	defer idle.Stop()
	for {
		select {
		case p := <-l.out:
			if err := l.send(p); err != nil {
				return err
			}
		case <-idle.C:
			if l.retireIfIdle(time.Now()) {
				return nil
			}
			idle.Reset(linkIdle)
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *link) send(p []byte) error {
	_, err := l.conn.Write(p)
	if l.raw != nil {
		quickAck(l.raw)
	}
	return err
}

// rawTCP returns the socket of a TCP connection, in the clear or under TLS.
func rawTCP(conn net.Conn) syscall.RawConn {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, _ := c.SyscallConn()
	return raw
}

// retireIfIdle reports whether nobody needs the link, and has nobody join it then.
func (l *link) retireIfIdle(now time.Time) bool {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if l.waiting > 0 || now.Sub(l.progress) < linkIdle {
		return false
	}
	l.state = max(l.state, linkRetired)
	return true
}

// read reads replies until there is an error.
func (l *link) read() error {
	if !l.packet {
		return l.readStream()
	}
	var buf [bufferSize]byte
	for {
		n, err := l.conn.Read(buf[:])
		if err != nil {
			return err
		}
		l.land(buf[:n])
	}
}

func (l *link) readStream() error {
	for {
		p, err := readMessage(l.conn)
		if err != nil {
			return err
		}
		if !l.land(p) {
			return errBadReply
		}
	}
}

// readMessage reads a message with its length in front.
func readMessage(conn net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, noReply(err)
	}
	p := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, p); err != nil {
		return nil, noReply(err)
	}
	return p, nil
}

// land gives a reply to the query that it is for, and reports whether there is
// one. What comes in packets may be a forgery, and what is not the reply counts
// for nothing; on a stream only the server can have sent it.
func (l *link) land(p []byte) bool {
	if len(p) < headerSize {
		return false
	}
	l.srv.mu.Lock()
	f := l.flights[binary.BigEndian.Uint16(p)]
	l.srv.mu.Unlock()
	if f == nil {
		return false
	}
	end := landing{size: len(p)}
	var ok bool
	if end.m, ok = f.q.parse(p); !ok {
		if l.packet {
			return false
		}
		end = landing{err: errBadReply}
	}
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if l.flights[f.q.id] != f {
		return true // left meanwhile
	}
	delete(l.flights, f.q.id)
	l.replies++
	l.progress = time.Now()
	f.done <- end
	if !f.left {
		l.landed()
	}
	return true
}

// finish ends the link and every flight on it.
func (l *link) finish(network string, err error) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	l.state = linkOver
	l.srv.links[network] = slices.DeleteFunc(l.srv.links[network], func(o *link) bool { return o == l })
	for id, f := range l.flights {
		delete(l.flights, id)
		f.done <- landing{err: err, again: !l.packet && (l.replies > 0 || f.open)}
	}
}
