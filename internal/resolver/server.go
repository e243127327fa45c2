package resolver

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// A dead server is probed after firstProbe, and then at intervals that double
	// up to maxProbe.
	firstProbe = time.Second
	maxProbe   = time.Minute

	// ednsPause is how long queries to a server that seems to lose or refuse EDNS are
	// sent without EDNS. After that, the network may have changed or recovered.
	ednsPause = 10 * time.Minute

	// maxEDNSLosses is the number of consecutive questions that a server with EDNS
	// support must answer only without EDNS before queries to it have none. A single one
	// can be a coincidence: the first query started a recursive lookup that had finished
	// when the second query arrived.
	maxEDNSLosses = 3
)

// A nameServer is a server, its state, and the connections to it that queries
// share. The state decides which servers are queried first, and how. It never
// decides which replies are accepted.
type nameServer struct {
	addr string // host:port

	mu     sync.Mutex // guards the following
	health health
	edns   ednsState
	links  map[string][]*link // by network
}

func newNameServer(addr string) *nameServer {
	return &nameServer{addr: addr, links: make(map[string][]*link)}
}

// health records whether a server is considered alive.
//
//	alive -- a query brought no reply --> dead -- any reply --> alive
//
// The zero health is alive.
type health struct {
	replied time.Time // when the last reply arrived
	failed  time.Time // when the last failure was counted
	losses  int       // failures since the last reply; with at least one, the server is dead
	probeAt time.Time // the earliest time of the next probe of a dead server
	probing bool
}

func (s *nameServer) isDead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health.losses > 0
}

// onFailure records a query, sent at began, without a reply. If the server has
// replied to another query since then, the cause is the name, and attackers can own
// such names; then the failure does not count. Concurrent queries fail together,
// and count once.
func (s *nameServer) onFailure(began, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health
	if h.replied.After(began) || h.losses > 0 && began.Before(h.failed) {
		return
	}
	h.failed = now
	h.probeAt = now.Add(backoff(firstProbe, maxProbe, h.losses))
	h.losses++
}

// beginProbe reports whether the server should be probed now. If so, endProbe must
// follow.
func (s *nameServer) beginProbe(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health
	if h.losses == 0 || h.probing || now.Before(h.probeAt) {
		return false
	}
	h.probing = true
	return true
}

func (s *nameServer) endProbe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.probing = false
}

// backoff returns d doubled n times, but at most limit.
func backoff(d, limit time.Duration, n int) time.Duration {
	for ; n > 0 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}

// ednsState records whether a server supports EDNS, and so whether queries to it have an
// OPT record (RFC 6891). In the zero state this is unknown, and queries have one.
type ednsState struct {
	replied  time.Time // the last reply to a query with an OPT record
	accepted time.Time // the last such reply with an answer or an OPT record
	sends    bool      // that reply had an OPT record
	losses   int       // consecutive questions answered only without an OPT record
	offUntil time.Time
}

// knowsEDNS reports whether queries should have an OPT record.
func (s *nameServer) knowsEDNS(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(s.edns.offUntil)
}

// onReply records a reply to a query, with or without an OPT record.
func (s *nameServer) onReply(now time.Time, edns bool, m *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.replied, s.health.losses = now, 0
	if !edns {
		return
	}
	e := &s.edns
	e.replied = now
	if isAnswer(m) || m.IsEdns0() != nil {
		e.accepted, e.sends, e.losses = now, m.IsEdns0() != nil, 0
	}
}

// suspectsEDNS reports whether a query with an OPT record, sent at began, may have been
// lost because of it: the server has replied to no such query since.
func (s *nameServer) suspectsEDNS(began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.edns.replied.After(began)
}

// onEDNSLoss records a question that was answered without an OPT record after a query
// with one was lost.
func (s *nameServer) onEDNSLoss(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.edns.losses++; s.edns.accepted.IsZero() || s.edns.losses >= maxEDNSLosses {
		s.edns = ednsState{offUntil: now.Add(ednsPause)}
	}
}

// onEDNSRefusal records a question that was refused with an OPT record and answered
// without one.
func (s *nameServer) onEDNSRefusal(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edns = ednsState{offUntil: now.Add(ednsPause)}
}

// mayRefuseEDNS reports whether m may be an error that the OPT record of the query
// caused. Servers that do not support EDNS reply FORMERR, NOTIMP or BADVERS (RFC
// 6891 section 7), but others reply SERVFAIL or REFUSED. The OPT record is not the
// cause if the reply has one itself, as replies of servers that support EDNS must,
// or if the server has recently accepted one and does not send any.
func (s *nameServer) mayRefuseEDNS(now time.Time, m *dns.Msg) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return true
	case dns.RcodeServerFailure, dns.RcodeRefused:
		return m.IsEdns0() == nil && (s.edns.sends || now.Sub(s.edns.accepted) >= ednsPause)
	}
	return false
}

// isAnswer reports whether m contains information about the name, even if only that it
// does not exist.
func isAnswer(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError
}
