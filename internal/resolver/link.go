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
	// maxLinks is the maximum number of connections of each kind to one server, and
	// maxFlights that of queries in flight on one connection.
	maxLinks   = 64
	maxFlights = 1024

	// maxPacketFlights is the number of queries after which a UDP socket is
	// replaced, so that an attacker who guesses its port gains little.
	maxPacketFlights = 4096

	// linkIdle is the minimum time for which an idle stream stays open. Servers
	// close idle streams after about 10 to 30 s.
	linkIdle = 10 * time.Second

	// linkStall is how long a reply on a stream may take before other queries
	// prefer another stream. Some servers process queries one after the other, so a
	// name that times out blocks the queries behind it.
	linkStall = 250 * time.Millisecond

	// maxResends is how often a query is sent again because the server closed the
	// stream.
	maxResends = 2
)

// linkState is the state of a link. It only increases.
type linkState uint8

const (
	linkDialing linkState = iota
	linkOpen              // accepts queries
	linkRetired           // accepts no new queries; closes when no query waits any more
	linkOver
)

// A link is a connection to a server that several queries share. It is a stream,
// which costs one or two handshakes to open (RFC 7766, RFC 7858), or a UDP socket,
// when there are too many queries for a socket per query.
//
// The goroutine run owns the connection: it dials, writes to streams, and closes.
// The goroutine read reads. All other goroutines only add queries and wait. The
// link ends when its context does.
type link struct {
	srv    *nameServer
	end    context.CancelFunc
	up     chan struct{} // closed when conn and packet are set
	conn   net.Conn
	packet bool            // conn preserves message boundaries
	out    chan []byte     // data that run writes to a stream
	raw    syscall.RawConn // of conn, if it is TCP; see quickAck

	// Guarded by srv.mu.
	state    linkState
	alone    bool // for a single query, the one that opened it
	flights  map[uint16]*flight
	waiting  int // flights whose query still waits
	joined   int // number of flights so far
	replies  int
	progress time.Time // time of the last reply, or of the first waiting query
}

// A flight is a query in flight on a link.
type flight struct {
	q    question
	done chan landing // has room for one landing
	open bool         // the link was open when the query joined it
	left bool         // the query no longer waits; the flight stays to recognize a late reply
}

// landing is the end of a flight.
type landing struct {
	m     *dns.Msg
	size  int
	err   error
	again bool // the server closed a stream that had worked: send the query again
}

// shared sends q over a link and returns the reply and its size. A server may close the
// stream at any time (RFC 7766 section 6.2.4). Then shared sends the query again over
// another stream. The last time this is a stream for the query alone, because some servers
// close the stream after each reply.
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

// join adds q to a link to srv, and opens a link if necessary.
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
		// This cannot happen after table.close: the caller's goroutine belongs to
		// the table, and close waits for it.
		r.table.wg.Go(func() { l.run(ctx, r, network, deadline) })
	}
	return l, l.add(q, now), nil
}

// pick returns the link for the next query, or nil if the query should open one. ok
// is false if neither is possible.
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

// stalled reports whether a reply on the link is overdue.
func (l *link) stalled(now time.Time) bool {
	return l.state == linkOpen && !l.packet && l.waiting > 0 && now.Sub(l.progress) > linkStall
}

// add adds q to the link, under an id that no other query of the link uses.
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
			if !l.leave(f, began) { // after a pause of the process, both cases may be ready
				return <-f.done
			}
			return landing{err: os.ErrDeadlineExceeded}
		}
	}
}

// frame prepends the length to a message for a stream, in one buffer: some servers
// require both in one segment (RFC 7766 section 8).
func frame(p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(p)), uint16(len(p))), p...)
}

// leave records that the query of f no longer waits, or returns false if f has landed.
// lostSince is not zero if the query timed out; it is the time at which the query began.
// If no reply at all has arrived since then, the link is not used again, because the
// connection may be dead. The end of the link may then land f, so after leave f.done no
// longer tells why the query has ended.
func (l *link) leave(f *flight, lostSince time.Time) bool {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if l.flights[f.q.id] != f {
		return false
	}
	if l.packet {
		delete(l.flights, f.q.id)
	} else {
		f.left = true // its reply may still arrive, and is not an error then
	}
	if !lostSince.IsZero() && l.state == linkOpen && !l.progress.After(lostSince) {
		l.state = linkRetired
	}
	l.landed()
	return true
}

// landed records that a query no longer waits.
func (l *link) landed() {
	l.waiting--
	if l.waiting == 0 && (l.packet || l.alone || l.state != linkOpen) {
		l.state = max(l.state, linkRetired)
		l.end()
	}
}

// run is the body of the link's goroutine.
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

// serve transfers queries and replies until ctx or the connection ends.
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
	failed := make(chan error, 2) // the first error is the cause
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

// write writes the queries of a stream. It returns when the stream is idle.
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

// rawTCP returns the socket of a TCP connection, with or without TLS.
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

// retireIfIdle reports whether the link is idle. If it is, no query can join it any
// more.
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

// readMessage reads a message that is preceded by its length.
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

// land delivers a reply to its query, and reports whether there is such a query. A
// packet may be forged, so packets that are not the reply are ignored. On a stream,
// every message comes from the server.
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
		return true // the query left in the meantime
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

// finish ends the link and all its flights.
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
