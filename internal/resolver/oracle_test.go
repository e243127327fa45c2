package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// goResolver returns the Go resolver of package net for the same server. Because it
// continues to read after a lookup is canceled, its connections are closed at the end.
func goResolver(t testing.TB, s *server) *net.Resolver {
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, s.addr)
		if err == nil {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
		return c, err
	}}
}

// asNetDoes reduces a result to the part on which both resolvers must agree: the
// addresses in their order, and the kind of error.
func asNetDoes(addrs []netip.Addr, err error) string {
	if err == nil {
		s := make([]string, len(addrs))
		for i, a := range addrs {
			s[i] = a.Unmap().String()
		}
		// Package net concatenates the families in the order of their replies, and
		// then sorts them stably, so equal addresses of two families have no fixed order.
		slices.Sort(s)
		return strings.Join(s, " ")
	}
	var e *net.DNSError
	if !errors.As(err, &e) {
		return fmt.Sprintf("%T", err)
	}
	return fmt.Sprintf("%s: not found %v, timeout %v, temporary %v", e.Name, e.IsNotFound, e.IsTimeout, e.Temporary())
}

func TestAnswersAreThoseOfTheGoResolver(t *testing.T) {
	many := make([]string, 0, 60)
	for i := range 60 {
		many = append(many, fmt.Sprintf("a.test. 60 IN A 192.0.2.%d", i+1))
	}
	always := func(rcode int, records ...string) handler {
		return func(p peer) {
			if p.qtype() == dns.TypeAAAA {
				p.reply(dns.RcodeSuccess, soa)
			} else {
				p.reply(rcode, records...)
			}
		}
	}
	truncated := func(h handler) handler {
		return func(p peer) {
			if !p.udp() {
				h(p)
				return
			}
			m := p.message(0)
			m.Truncated = true
			p.send(m)
		}
	}
	both := zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN A 198.51.100.1", "a.test. 60 IN AAAA 2001:db8::1", "a.test. 60 IN AAAA ::1", "a.test. 60 IN A 127.0.0.1")
	tests := []struct {
		name string
		h    handler
	}{
		{"A", zone(good)},
		{"AAAA", zone("a.test. 60 IN AAAA 2001:db8::1")},
		{"both", both},
		{"many", zone(many...)},
		{"many, truncated", truncated(zone(many...))},
		{"both, truncated", truncated(both)},
		{"alias", zone("a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME c.test.", "c.test. 60 IN A 192.0.2.3")},
		{"alias of nothing", zone("a.test. 60 IN CNAME b.test.")},
		{"alias without addresses", zone("a.test. 60 IN CNAME b.test.", `b.test. 60 IN TXT "x"`)},
		{"NXDOMAIN", zone()},
		{"NODATA", zone(`a.test. 60 IN TXT "x"`)},
		{"NODATA without SOA", always(0)},
		{"SERVFAIL", func(p peer) { p.reply(dns.RcodeServerFailure) }},
		{"REFUSED", func(p peer) { p.reply(dns.RcodeRefused) }},
		{"YXDOMAIN", func(p peer) { p.reply(dns.RcodeYXDomain) }},
		{"A, and AAAA refused", func(p peer) {
			if p.qtype() == dns.TypeA {
				p.reply(0, good)
			} else {
				p.reply(dns.RcodeRefused)
			}
		}},
		{"AAAA, and A does not exist", func(p peer) {
			if p.qtype() == dns.TypeA {
				p.reply(dns.RcodeNameError)
			} else {
				p.reply(0, "a.test. 60 IN AAAA 2001:db8::1")
			}
		}},
		{"forgeries first", func(p peer) {
			for i, b := range forgeries(p) {
				// Package net checks neither the opcode nor the counts.
				if i != 2 && i != 6 && i != 9 && i != 10 {
					p.write(b)
				}
			}
			zone(good)(p)
		}},
		{"lame referral", func(p peer) {
			m := p.message(0, "ns test. 60 IN NS ns.test.")
			m.RecursionAvailable = false
			p.send(m)
		}},
		{"a reply in another case", func(p peer) {
			m := p.message(0)
			if p.qtype() == dns.TypeA {
				m = p.message(0, "A.TEST. 60 IN A 192.0.2.1")
			}
			m.Question[0].Name = "A.Test."
			p.send(m)
		}},
		{"TTL of zero", zone("a.test. 0 IN A 192.0.2.1")},
		{"the same address twice", always(0, good, good)},
		{"records of other types", always(0, good, `a.test. 60 IN TXT "x"`)},
		{"truncated over TCP too", func(p peer) {
			m := p.message(0)
			if p.qtype() == dns.TypeA && !p.udp() {
				m = p.message(0, good)
			}
			m.Truncated = true
			p.send(m)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.h)
			sameAnswers(t, s, "a.test.", "A.Test.")
		})
	}
}

func TestStrangeNamesAreTreatedAsByTheGoResolver(t *testing.T) {
	sameAnswers(t, newServer(t, zone(good)), "b.test.", "192.0.2.7", "::1", "", "a..test.", "-a.test.", "a b.", "1.2.3.4.5",
		".", "bücher_", strings.Repeat("a", 64)+".", strings.Repeat("a.", 127), strings.Repeat("a.", 128))
}

// sameAnswers asks both resolvers the same questions and compares the results.
func sameAnswers(t *testing.T, s *server, hosts ...string) {
	r, oracle := resolverFor(t, s), goResolver(t, s)
	for _, host := range hosts {
		for _, network := range []string{"ip", "ip4", "ip6"} {
			got := asNetDoes(r.LookupNetIP(t.Context(), network, host))
			want := asNetDoes(oracle.LookupNetIP(t.Context(), network, host))
			// Package net returns an error of another type for an address of
			// the wrong family.
			if want == "*net.AddrError" {
				want = host + ": not found true, timeout false, temporary false"
			}
			if got != want {
				t.Errorf("LookupNetIP(%s, %q)\ngot  %s\nwant %s", network, host, got, want)
			}
		}
	}
}

func TestNamesOfAddressesAreThoseOfTheGoResolver(t *testing.T) {
	s := newServer(t, zone("1.2.0.192.in-addr.arpa. 60 IN PTR a.test.", "1.2.0.192.in-addr.arpa. 60 IN PTR b.test.",
		`2.2.0.192.in-addr.arpa. 60 IN PTR a\ b.test.`, "2.2.0.192.in-addr.arpa. 60 IN PTR a.test.",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR six.test."))
	r, oracle := resolverFor(t, s), goResolver(t, s)
	for _, addr := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"} {
		got, gotErr := r.LookupAddr(t.Context(), netip.MustParseAddr(addr))
		want, wantErr := oracle.LookupAddr(t.Context(), addr)
		if fmt.Sprint(got) != fmt.Sprint(want) || (gotErr == nil) != (wantErr == nil) {
			t.Errorf("LookupAddr(%s) = %q, %v, want %q, %v", addr, got, gotErr, want, wantErr)
			continue
		}
		if gotErr != nil {
			var g, w *net.DNSError
			if !errors.As(gotErr, &g) || !errors.As(wantErr, &w) || g.IsNotFound != w.IsNotFound {
				t.Errorf("LookupAddr(%s): %v, want %v", addr, gotErr, wantErr)
			}
		}
	}
}

func TestTimeoutsAndCancellationAreThoseOfTheGoResolver(t *testing.T) {
	s := newServer(t, func(peer) {})
	r, oracle := resolverFor(t, s), goResolver(t, s)
	contexts := map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 200*time.Millisecond)
		},
		"cancel": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(200*time.Millisecond, cancel)
			return ctx, cancel
		},
	}
	for name, make := range contexts {
		result := func(lookup func(context.Context, string, string) ([]netip.Addr, error)) string {
			ctx, cancel := make()
			defer cancel()
			addrs, err := lookup(ctx, "ip", "a.test.")
			return fmt.Sprint(asNetDoes(addrs, err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), " ", err)
		}
		if got, want := result(r.LookupNetIP), result(oracle.LookupNetIP); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// TestAddressesAreSortedAsPackageNetSortsThem compares the order of addresses of one
// family, which does not depend on the order of the replies.
func TestAddressesAreSortedAsPackageNetSortsThem(t *testing.T) {
	s := newServer(t, zone(
		"a.test. 60 IN AAAA 2001:db8::1", "a.test. 60 IN AAAA ::1", "a.test. 60 IN AAAA fe80::1", "a.test. 60 IN AAAA 2002:c000:201::1",
		"a.test. 60 IN AAAA fd00::2", "a.test. 60 IN AAAA 2001::1", "a.test. 60 IN AAAA fec0::1", "a.test. 60 IN AAAA ff02::1", "a.test. 60 IN AAAA fd00::1:2",
		"a.test. 60 IN A 192.0.2.1", "a.test. 60 IN A 127.0.0.1", "a.test. 60 IN A 169.254.1.1", "a.test. 60 IN A 10.1.2.3", "a.test. 60 IN A 224.0.0.1"))
	r, oracle := resolverFor(t, s), goResolver(t, s)
	for _, network := range []string{"ip4", "ip6"} {
		got, err := r.LookupNetIP(t.Context(), network, "a.test.")
		if err != nil {
			t.Fatal(err)
		}
		want, err := oracle.LookupNetIP(t.Context(), network, "a.test.")
		if err != nil {
			t.Fatal(err)
		}
		if join(got) != join(want) {
			t.Errorf("%s: got %s, want %s", network, join(got), join(want))
		}
	}
}
