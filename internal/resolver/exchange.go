package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxSockets is the maximum number of queries with their own UDP socket, so that
	// thousands of lookups do not use up the descriptors of the process while a server is
	// down. Further queries share sockets (see link). They do not wait, because then
	// names that time out would delay all others.
	maxSockets = 256

	// failureTTL is how long a failed question is remembered, and maxFailureTTL how
	// long if it keeps failing. RFC 9520 section 3.2 requires at least 1 s and at
	// most 5 minutes.
	failureTTL    = 5 * time.Second
	maxFailureTTL = 5 * time.Minute

	// bufferSize is larger than the advertised size (udpSize), because some servers
	// send more.
	bufferSize = 4096
)

// nextServer returns the index of the first of n servers to query.
func (r *Resolver) nextServer(n int) int { return int((r.rotation.Add(1) - 1) % uint32(n)) }

// query asks the servers one question, in turn, until one of them gives a final
// answer. It does not use the miekg/dns client, which gives up at the first garbled
// packet, accepts replies to other questions, and cannot be canceled.
//
// If a server may have lost the question because of EDNS, the next query to that
// server has no EDNS. If there is no next attempt in the settings, query adds one.
func (r *Resolver) query(ctx context.Context, s *settings, name string, qtype uint16, c *call) *answer {
	servers := r.order(s, name, qtype)
	var plain map[*nameServer]bool // servers to query without EDNS
	var last *answer
	for round := range max(s.attempts, 2) {
		for _, srv := range servers {
			if round >= s.attempts && !plain[srv] {
				continue
			}
			ans, lost := r.try(ctx, s, srv, name, qtype, plain[srv])
			if ans.err == nil || ans.err.IsNotFound {
				return ans
			}
			if ctx.Err() != nil {
				return &answer{err: dnsError(ctxError(ctx), name, srv.addr)}
			}
			if last = ans; lost && plain == nil {
				plain = make(map[*nameServer]bool)
			}
			if plain != nil {
				plain[srv] = lost
			}
		}
	}
	return r.failure(last.cause, name, last.server, c)
}

// order returns the servers in the order in which to query them: dead servers come
// last. If a dead server is due for a probe, it also gets the question, but no
// lookup waits for it.
func (r *Resolver) order(s *settings, name string, qtype uint16) []*nameServer {
	n := len(s.servers)
	if n == 1 {
		return s.servers
	}
	first := 0
	if s.rotate {
		first = r.nextServer(n)
	}
	now := time.Now()
	alive, dead := make([]*nameServer, 0, n), []*nameServer(nil)
	for i := range n {
		if srv := s.servers[(first+i)%n]; srv.isDead() {
			dead = append(dead, srv)
		} else {
			alive = append(alive, srv)
		}
	}
	for _, srv := range dead {
		if len(alive) > 0 && srv.beginProbe(now) {
			r.table.wg.Go(func() { r.probe(s, srv, name, qtype) })
		}
	}
	return append(alive, dead...)
}

// probe checks whether a dead server is alive again.
func (r *Resolver) probe(s *settings, srv *nameServer, name string, qtype uint16) {
	defer srv.endProbe()
	if _, lost := r.try(r.table.root, s, srv, name, qtype, false); lost {
		r.try(r.table.root, s, srv, name, qtype, true)
	}
}

// failure returns an answer for c that caches the failure for a short time (RFC
// 9520, RFC 2308 section 7). The time doubles when the question times out again
// although servers have replied to other questions since it was first asked. Then
// the cause is the name, not the network, and each new attempt costs a whole
// timeout.
func (r *Resolver) failure(err error, name, server string, c *call) *answer {
	ans := &answer{err: dnsError(err, name, server), made: c.began}
	if before := c.before; ans.err.IsTimeout && before != nil && before.cause != nil {
		ans.silences = before.silences
		if r.lastReply.Load() >= before.made.UnixNano() {
			ans.silences++
		}
	}
	ans.cause = err
	ttl := min(backoff(failureTTL, maxFailureTTL, ans.silences), r.cfg.CacheMaxNegativeTTL)
	if ttl > 0 && !isLocal(err) {
		ans.expires = time.Now().Add(ttl)
	}
	return ans
}

// try queries one server once, without EDNS if plain is set. If lost is true, the
// server may have lost the question because of EDNS.
func (r *Resolver) try(ctx context.Context, s *settings, srv *nameServer, name string, qtype uint16, plain bool) (ans *answer, lost bool) {
	began := time.Now()
	edns := !plain && !s.noEDNS && srv.knowsEDNS(began)
	m, size, err := r.exchange(ctx, s, srv, newQuestion(name, qtype, r.cfg.Use0x20), edns)
	if err == nil && plain && isAnswer(m) {
		srv.onEDNSLoss(time.Now())
	}
	lost = edns && isTimeout(err) && srv.suspectsEDNS(began)
	var ttl time.Duration
	var hasTTL bool
	if err == nil {
		ttl, hasTTL, err = verdict(m, name, qtype)
	}
	ans = &answer{msg: m, server: srv.addr, made: time.Now()}
	switch err {
	case nil:
		ttl = min(ttl, r.cfg.CacheMaxTTL)
	case errNoSuchHost, ErrNoData:
		ans.err, ans.noSOA = dnsError(err, name, srv.addr), !hasTTL
		ttl = min(ttl, r.cfg.CacheMaxNegativeTTL)
	default:
		r.failures.Add(1)
		return &answer{err: dnsError(err, name, srv.addr), cause: err, server: srv.addr}, lost
	}
	// The cache is bounded in entries, so it takes no large messages.
	if hasTTL && ttl > 0 && size <= maxCachedSize {
		ans.expires = ans.made.Add(ttl)
	}
	return ans, lost
}

// exchange sends q to a server and returns the reply and its size. It falls back to
// a query without EDNS if the server seems to refuse EDNS (RFC 6891 section 7), and
// to TCP if the reply does not fit (RFC 7766 section 5). Each query has the whole
// timeout of an attempt, as in package net.
func (r *Resolver) exchange(ctx context.Context, s *settings, srv *nameServer, q question, edns bool) (m *dns.Msg, size int, err error) {
	network := "udp"
	if s.useTCP {
		network = "tcp"
	}
	m, size, err = r.roundTrip(ctx, s, network, srv, q, edns)
	if err == nil && edns && srv.mayRefuseEDNS(time.Now(), m) {
		if plain, n, err := r.roundTrip(ctx, s, network, srv, q, false); err == nil {
			m, size, edns = plain, n, false
			if isAnswer(m) {
				srv.onEDNSRefusal(time.Now())
			}
		}
	}
	// A truncated reply over TCP is accepted, as glibc and package net do
	// (golang.org/issue/64896): there is no way to get more.
	if err == nil && m.Truncated && network == "udp" {
		m, size, err = r.roundTrip(ctx, s, "tcp", srv, q, edns)
	}
	return m, size, err
}

// roundTrip sends q and returns the reply and its size, unless the attempt times
// out first. Over UDP each query has its own socket, and so its own port that an
// attacker has to guess, as long as there are not too many queries.
func (r *Resolver) roundTrip(ctx context.Context, s *settings, network string, srv *nameServer, q question, edns bool) (m *dns.Msg, size int, err error) {
	r.queries.Add(1)
	r.open.Add(1)
	defer r.open.Add(-1)
	began := time.Now()
	deadline := began.Add(s.timeout)
	query := q.msg(edns, s.trustAD)
	if network == "udp" && r.takeSocket() {
		var reply *dns.Msg // apart, because the function may still run after an error
		var n int
		err = r.guard(func() (err error) {
			reply, n, err = r.single(ctx, deadline, network, srv.addr, q, query)
			return err
		})
		if err == nil {
			m, size = reply, n
		}
		<-r.sockets
	} else {
		m, size, err = r.shared(ctx, deadline, network, srv, q, query)
	}
	switch {
	case err == nil:
		now := time.Now()
		r.lastReply.Store(now.UnixNano())
		srv.onReply(now, edns, m)
	case ctx.Err() != nil:
		err = ctxError(ctx)
	case !isLocal(err):
		srv.onFailure(began, time.Now())
	}
	return m, size, err
}

// guard calls f under the guard of the resolver if f can run code of the application.
func (r *Resolver) guard(f func() error) error {
	if r.guards == nil || r.cfg.TLS == nil && r.cfg.Dial == nil {
		return f()
	}
	return r.guards(f)
}

// takeSocket reports whether a query may have its own socket.
func (r *Resolver) takeSocket() bool {
	select {
	case r.sockets <- struct{}{}:
		return true
	default:
		return false
	}
}

// single sends q over its own connection.
func (r *Resolver) single(ctx context.Context, deadline time.Time, network, server string, q question, query *dns.Msg) (*dns.Msg, int, error) {
	conn, err := r.dial(ctx, deadline, network, server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	return converse(ctx, deadline, conn, q, query)
}

// converse sends the query and reads until the reply to q comes, the deadline
// passes, or ctx ends.
func converse(ctx context.Context, deadline time.Time, conn net.Conn, q question, query *dns.Msg) (*dns.Msg, int, error) {
	conn.SetDeadline(deadline) // before the next line, whose deadline may replace this one
	defer interruptWith(ctx, conn)()

	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	packed, err := query.PackBuffer(buf[2:])
	if err != nil {
		return nil, 0, err
	}
	if _, ok := conn.(net.PacketConn); ok {
		return packetRoundTrip(conn, q, packed, buf[:])
	}
	return streamRoundTrip(conn, q, packed)
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// interruptWith makes every read and write on conn fail as soon as ctx ends. The
// returned function undoes that. It does not return before the goroutine that sets
// the deadline has ended.
func interruptWith(ctx context.Context, conn net.Conn) (undo func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		conn.SetDeadline(time.Unix(1, 0)) // in the past
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// packetRoundTrip ignores everything but the reply to q, so that forged packets
// cannot end a query (golang.org/issue/13281). The kernel has already dropped
// packets that are not from the server.
func packetRoundTrip(conn net.Conn, q question, query, buf []byte) (*dns.Msg, int, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, 0, err
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, 0, err
		}
		if m, ok := q.parse(buf[:n]); ok {
			return m, n, nil
		}
	}
}

// streamRoundTrip accepts only the reply to q, because nothing else can arrive on a
// connection for one query.
func streamRoundTrip(conn net.Conn, q question, query []byte) (*dns.Msg, int, error) {
	if _, err := conn.Write(frame(query)); err != nil {
		return nil, 0, err
	}
	reply, err := readMessage(conn)
	if err != nil {
		return nil, 0, err
	}
	m, ok := q.parse(reply)
	if !ok {
		return nil, 0, errBadReply
	}
	return m, len(reply), nil
}

// noReply returns errNoReply if err means that the server closed the connection, and err
// otherwise.
func noReply(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNoReply
	}
	return err
}

// dial connects to a server, with TLS if the resolver uses it. A UDP socket is
// connected too: the kernel then gives it a random port, drops packets from other
// addresses, and reports when nothing listens on the server's port.
func (r *Resolver) dial(ctx context.Context, deadline time.Time, network, server string) (net.Conn, error) {
	if network == "udp" && r.cfg.Dial == nil {
		// This does not block, so it needs no context. The shortcut pays because
		// every query takes it.
		ap, err := netip.ParseAddrPort(server)
		if err != nil {
			return nil, err
		}
		return connectUDP(ap)
	}
	try, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := r.connect(try, network, server)
	if err != nil && try.Err() != nil && ctx.Err() == nil {
		// Only this attempt has timed out. The error must not look like the end of the
		// caller's context.
		err = os.ErrDeadlineExceeded
	}
	return conn, err
}

func connectUDP(ap netip.AddrPort) (net.Conn, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(ap))
	if err != nil {
		return nil, err // not c: a nil *UDPConn in a net.Conn is not nil
	}
	return c, nil
}

func (r *Resolver) connect(ctx context.Context, network, server string) (net.Conn, error) {
	dial := r.cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, server)
	if err != nil || r.cfg.TLS == nil {
		return conn, err
	}
	cfg := r.cfg.TLS
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(server)
	}
	tlsConn := tls.Client(conn, cfg)
	ok := false
	defer func() {
		if !ok { // failed, or a callback of the tls.Config did not return
			conn.Close()
		}
	}()
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	ok = true
	return tlsConn, nil
}
