package resolver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	maxChain   = 16 // aliases from a name to its records
	udpSize    = 1232
)

// A question is one query as it is sent.
type question struct {
	id    uint16
	name  string // absolute, in the form in which miekg/dns prints it
	qtype uint16
	exact bool // the reply must repeat the case of the letters
}

// newQuestion chooses a random id. The generator of math/rand/v2 is ChaCha8 with a
// random seed, which cannot be predicted from earlier ids.
func newQuestion(name string, qtype uint16, use0x20 bool) question {
	q := question{id: uint16(rand.Uint32()), name: name, qtype: qtype}
	if use0x20 {
		q.name, q.exact = mixCase(name), true
	}
	return q
}

// mixCase gives each letter of name a random case. An attacker who forges replies
// blindly must guess it, one bit per letter (draft-vixie-dnsext-dns0x20).
func mixCase(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c = lower(c); 'a' <= c && c <= 'z' {
			b[i] = c - byte(rand.Uint32()&1)*('a'-'A')
		}
	}
	return string(b)
}

// msg returns the query to send.
func (q question) msg(edns, trustAD bool) *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}}}
	m.Id, m.RecursionDesired, m.AuthenticatedData = q.id, true, trustAD
	if edns {
		m.SetEdns0(udpSize, false)
	}
	return m
}

// parse returns the reply to q in p, or false if p is anything else: a forgery, an
// echo, the late reply to another query, or invalid data. It checks the bytes of
// the header first, so that a flood of forgeries costs little.
//
// A reply that is truncated in the middle of a record is valid if its TC bit is
// set: it only means that the question must be asked again over TCP.
func (q question) parse(p []byte) (*dns.Msg, bool) {
	if len(p) < headerSize || binary.BigEndian.Uint16(p) != q.id {
		return nil, false
	}
	const responseBit, opcodeBits = 0x80, 0x78
	if p[2]&responseBit == 0 || p[2]&opcodeBits != 0 {
		return nil, false
	}
	m := new(dns.Msg)
	err := m.Unpack(p)
	if !q.isOf(m) {
		return nil, false
	}
	if err == nil && countsAgree(m, p) {
		return m, true
	}
	m.Answer, m.Ns, m.Extra = nil, nil, nil
	return m, m.Truncated
}

// isOf reports whether m repeats the question. Some servers leave it out when they
// refuse a query (RFC 6891 section 7 shows it for FORMERR). isOf accepts that only
// for errors, which only lead to the next server.
func (q question) isOf(m *dns.Msg) bool {
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	if len(m.Question) != 1 {
		return false
	}
	got := m.Question[0]
	if got.Qtype != q.qtype || got.Qclass != dns.ClassINET {
		return false
	}
	if q.exact {
		return got.Name == q.name
	}
	return equalFold(got.Name, q.name)
}

// countsAgree reports whether m has as many records as the header of p announced.
// The codec accepts a message that ends early between two records.
func countsAgree(m *dns.Msg, p []byte) bool {
	count := func(i int) int { return int(binary.BigEndian.Uint16(p[i:])) }
	return count(4) == len(m.Question) && count(6) == len(m.Answer) &&
		count(8) == len(m.Ns) && count(10) == len(m.Extra)
}

// verdict classifies a reply: nil for records of the requested type, errNoSuchHost
// and ErrNoData for final answers without such records, and any other error if
// another server should be queried. ttl is how long the answer is valid; hasTTL is
// false if the reply does not say.
func verdict(m *dns.Msg, name string, qtype uint16) (ttl time.Duration, hasTTL bool, err error) {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeServerFailure:
		return 0, false, errServFail
	default:
		return 0, false, errMisbehaving
	}
	records, ttl, err := follow(m, name, qtype)
	if err != nil {
		return 0, false, err
	}
	if m.Rcode == dns.RcodeSuccess && len(records) > 0 {
		return ttl, true, nil
	}
	soa, hasSOA := negativeTTL(m)
	if m.Rcode == dns.RcodeNameError {
		return min(ttl, soa), hasSOA, errNoSuchHost
	}
	// A server that is neither responsible for the name nor willing to resolve it
	// refers to other servers. It has not said that there is no such record
	// (golang.org/issue/15434). The check in libresolv for an empty additional
	// section would miss every such reply with an OPT record.
	if !m.Authoritative && !m.RecursionAvailable && !hasSOA && len(m.Answer) == 0 {
		return 0, false, errLame
	}
	return min(ttl, soa), hasSOA, ErrNoData
}

// follow returns the records of type qtype that name has in m, through its aliases,
// and the smallest TTL on the way. Records of other names are ignored: no server
// has a reason to send them, so they may be forged. An error means that the reply
// is not trustworthy.
func follow(m *dns.Msg, name string, qtype uint16) (records []dns.RR, ttl time.Duration, err error) {
	ttl = maxDuration
	for range maxChain + 1 {
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !equalFold(h.Name, name) {
				continue
			}
			if h.Rrtype == qtype || qtype == dns.TypeANY {
				if isHollow(rr) {
					return nil, 0, errBadReply
				}
				records = append(records, rr)
				ttl = min(ttl, ttlOf(h))
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = c.Target
				ttl = min(ttl, ttlOf(h))
			}
		}
		if alias == "" || len(records) > 0 {
			return records, ttl, nil
		}
		name = alias
	}
	return nil, 0, errCNAMELoop
}

// isHollow reports whether rr is an address record without an address. The codec
// accepts records without data, because dynamic updates contain them.
func isHollow(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		return len(rr.A) == 0
	case *dns.AAAA:
		return len(rr.AAAA) == 0
	}
	return false
}

const maxDuration = time.Duration(1<<63 - 1)

// ttlOf returns the TTL of a record. A TTL with the highest bit set counts as zero
// (RFC 2181 section 8).
func ttlOf(h *dns.RR_Header) time.Duration {
	if h.Ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(h.Ttl) * time.Second
}

// negativeTTL returns how long a negative answer is valid: the smaller of the TTL
// of the SOA record and its last field (RFC 2308 section 5).
func negativeTTL(m *dns.Msg) (time.Duration, bool) {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			minttl := dns.RR_Header{Ttl: soa.Minttl}
			return min(ttlOf(&soa.Hdr), ttlOf(&minttl)), true
		}
	}
	return 0, false
}

// addresses returns the addresses of name in m.
func addresses(m *dns.Msg, name string, qtype uint16) []netip.Addr {
	records, _, _ := follow(m, name, qtype)
	addrs := make([]netip.Addr, 0, len(records))
	for _, rr := range records {
		var ip []byte
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}
