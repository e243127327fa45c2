package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
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
	// maxOpen bounds the sockets of a resolver, so that lookups by the
	// thousand do not take every descriptor of the process while a server is
	// down. Whoever comes later waits for a place, not at the cost of its
	// own time-out.
	maxOpen = 256

	// bufferSize is more than what is advertised (udpSize): there are servers
	// that send more.
	bufferSize = 4096
)

// nextServer returns with which of n servers to begin.
func (r *Resolver) nextServer(n int) int { return int((r.rotation.Add(1) - 1) % uint32(n)) }

// query asks the servers for one question, in turn, until one of them gives
// a final answer. The miekg/dns client is not used: it gives up at the first
// garbled packet, believes replies to other questions, and cannot be cancelled.
func (r *Resolver) query(ctx context.Context, s *settings, name string, qtype uint16) *answer {
	first := 0
	if s.rotate {
		first = r.nextServer(len(s.servers))
	}
	var last *net.DNSError
	for range s.attempts {
		for i := range s.servers {
			server := s.servers[(first+i)%len(s.servers)]
			ans := r.try(ctx, s, server, name, qtype)
			if ans.err == nil || ans.err.IsNotFound {
				return ans
			}
			if ctx.Err() != nil {
				return &answer{err: dnsError(ctxError(ctx), name, server)}
			}
			last = ans.err
		}
	}
	return &answer{err: last}
}

// try asks one server once.
func (r *Resolver) try(ctx context.Context, s *settings, server, name string, qtype uint16) *answer {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return &answer{err: dnsError(ctxError(ctx), name, server)}
	}
	defer func() { <-r.slots }()

	m, size, err := r.guardedExchange(ctx, s, server, newQuestion(name, qtype, r.cfg.Use0x20))
	var ttl time.Duration
	var hasTTL bool
	if err == nil {
		ttl, hasTTL, err = verdict(m, name, qtype)
	}
	ans := &answer{msg: m, server: server, made: time.Now()}
	switch err {
	case nil:
		ttl = min(ttl, r.cfg.CacheMaxTTL)
	case errNoSuchHost, ErrNoData:
		ans.err, ans.noSOA = dnsError(err, name, server), !hasTTL
		ttl = min(ttl, r.cfg.CacheMaxNegativeTTL)
	default:
		r.failures.Add(1)
		return &answer{err: dnsError(err, name, server)}
	}
	// The cache is bounded in entries, so it takes no giants.
	if hasTTL && ttl > 0 && size <= maxCachedSize {
		ans.expires = ans.made.Add(ttl)
	}
	return ans
}

// guardedExchange is exchange under the guard of the configuration.
func (r *Resolver) guardedExchange(ctx context.Context, s *settings, server string, q question) (m *dns.Msg, size int, err error) {
	if r.cfg.Guard == nil || r.cfg.TLS == nil && r.cfg.Dial == nil {
		return r.exchange(ctx, s, server, q)
	}
	err = r.cfg.Guard(func() (err error) { m, size, err = r.exchange(ctx, s, server, q); return err })
	return m, size, err
}

// exchange sends q to server and returns the reply and its size. It falls back
// to a query without EDNS if the server does not know it (RFC 6891 section 7),
// and to TCP if the reply does not fit (RFC 7766 section 5). Each has the whole
// time-out of a try, as in package net.
func (r *Resolver) exchange(ctx context.Context, s *settings, server string, q question) (m *dns.Msg, size int, err error) {
	network, edns := "udp", true
	if s.useTCP {
		network = "tcp"
	}
	m, size, err = r.roundTrip(ctx, s, network, server, q, edns)
	if err == nil && refusesEDNS(m) {
		edns = false
		m, size, err = r.roundTrip(ctx, s, network, server, q, edns)
	}
	// Over TCP there is no more to be had: what is there is taken, as glibc
	// and package net do (golang.org/issue/64896).
	if err == nil && m.Truncated && network == "udp" {
		m, size, err = r.roundTrip(ctx, s, "tcp", server, q, edns)
	}
	return m, size, err
}

func refusesEDNS(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented || m.Rcode == dns.RcodeBadVers
}

// roundTrip sends q over a connection of its own and reads until the reply
// comes or the time-out of the try ends.
func (r *Resolver) roundTrip(ctx context.Context, s *settings, network, server string, q question, edns bool) (*dns.Msg, int, error) {
	r.queries.Add(1)
	r.open.Add(1)
	defer r.open.Add(-1)
	deadline := time.Now().Add(s.timeout)
	conn, err := r.dial(ctx, deadline, network, server)
	if err == nil {
		defer conn.Close()
		var m *dns.Msg
		var size int
		m, size, err = converse(ctx, deadline, conn, q, q.msg(edns, s.trustAD))
		if err == nil {
			return m, size, nil
		}
	}
	if ctx.Err() != nil {
		err = ctxError(ctx)
	}
	return nil, 0, err
}

// converse does what roundTrip says, until ctx ends.
func converse(ctx context.Context, deadline time.Time, conn net.Conn, q question, query *dns.Msg) (*dns.Msg, int, error) {
	conn.SetDeadline(deadline) // before the next line, which may have the last word
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

// interruptWith makes every read and write on conn fail as soon as ctx ends.
// The function that it returns undoes that, and does not return before the
// goroutine that does it is gone.
func interruptWith(ctx context.Context, conn net.Conn) (undo func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		conn.SetDeadline(time.Unix(1, 0)) // long ago
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// packetRoundTrip reads over everything that is not the reply to q: whoever
// forges packets must not be able to end a query (golang.org/issue/13281). The
// kernel has already dropped what is not from the server.
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

// streamRoundTrip takes nothing but the reply to q: on a connection of its own
// there is nothing else that could come.
func streamRoundTrip(conn net.Conn, q question, query []byte) (*dns.Msg, int, error) {
	// In one write: some servers want length and message in one segment
	// (RFC 7766 section 8).
	framed := make([]byte, 2, 2+len(query))
	binary.BigEndian.PutUint16(framed, uint16(len(query)))
	if _, err := conn.Write(append(framed, query...)); err != nil {
		return nil, 0, err
	}
	if _, err := io.ReadFull(conn, framed); err != nil {
		return nil, 0, noReply(err)
	}
	reply := make([]byte, binary.BigEndian.Uint16(framed))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, 0, noReply(err)
	}
	m, ok := q.parse(reply)
	if !ok {
		return nil, 0, errBadReply
	}
	return m, len(reply), nil
}

// noReply gives a connection that the server closed a name.
func noReply(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNoReply
	}
	return err
}

// dial connects to server, with TLS if the resolver uses it. A UDP socket is
// connected too: the kernel then gives it a random port, drops packets from
// others, and tells when nobody listens there.
func (r *Resolver) dial(ctx context.Context, deadline time.Time, network, server string) (net.Conn, error) {
	if network == "udp" && r.cfg.Dial == nil {
		// Does not block, so it needs no context: worth the two lines, as
		// every query comes along here.
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
		// Only the try is over. This must not look like the end of the
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
