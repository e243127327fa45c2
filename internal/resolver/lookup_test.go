package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func refuseAll(t *testing.T) *server {
	return newServer(t, func(p peer) { p.reply(dns.RcodeRefused) })
}

func TestLiteralsAreResolvedWithoutAQuery(t *testing.T) {
	s := refuseAll(t)
	r := resolverFor(t, s)
	for host, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"::1":              "::1",
		"2001:DB8::1":      "2001:db8::1",
		"fe80::1%eth0":     "fe80::1%eth0",
		"::ffff:192.0.2.1": "192.0.2.1",
	} {
		wantAddrs(t, r, "ip", host, want)
	}
	wantAddrs(t, r, "ip4", "::ffff:192.0.2.1", "192.0.2.1")
	_, err := lookup(t, r, "ip4", "::1")
	wantError(t, err, "::1", "notfound")
	_, err = lookup(t, r, "ip6", "192.0.2.1")
	wantError(t, err, "192.0.2.1", "notfound")
	if q := s.queries(); len(q) > 0 {
		t.Errorf("server was asked %q", q)
	}
}

func TestInvalidNamesAreNotFoundWithoutAQuery(t *testing.T) {
	s := refuseAll(t)
	r := resolverFor(t, s)
	for _, host := range []string{
		"", "..", "a..b", ".a", "-a.example", "a b", "127.1", "1.2.3.4.5", "300.300.300.300",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "a", "\x00", "a.example\n",
		"x.onion", "X.ONION.", "onion", "a.invalid", "invalid.", "xn--\u00fc..b",
		"\xff\xfe.test", "\xc3.test", "a\x80b", "\u00fc\xff.test", "\xed\xa0\x80.test", "\ufffd.test", "\u2028.test",
	} {
		_, err := lookup(t, r, "ip", host)
		wantError(t, err, host, "notfound")
		if _, err, ok := r.Cached("ip", host); !ok || err == nil {
			t.Errorf("Cached(%q) = %v, %v, want an error", host, err, ok)
		}
	}
	if q := s.queries(); len(q) > 0 {
		t.Errorf("server was asked %q", q)
	}
}

func TestAnUnknownNetworkIsAnError(t *testing.T) {
	r := resolverFor(t, refuseAll(t))
	for _, network := range []string{"", "tcp", "ip5", "ip:1"} {
		_, err := r.LookupNetIP(t.Context(), network, "a.test")
		if want := net.UnknownNetworkError(network); err != want {
			t.Errorf("LookupNetIP(%q): %v, want %v", network, err, want)
		}
	}
}

func TestLocalhostIsLoopbackAndNeverQueried(t *testing.T) {
	s := refuseAll(t)
	cfg := testConfig(t, s.addr)
	cfg.NSSwitch = writeFile(t, "nsswitch.conf", "hosts: dns files\n")
	r := newResolver(t, cfg)
	for _, host := range []string{"localhost", "LOCALHOST.", "a.localhost", "a.b.LocalHost"} {
		wantAddrs(t, r, "ip4", host, "127.0.0.1")
		wantAddrs(t, r, "ip6", host, "::1")
		if addrs, err := r.LookupNetIP(t.Context(), "ip", host); len(addrs) != 2 || err != nil {
			t.Errorf("LookupNetIP(%q) = %v, %v", host, addrs, err)
		}
	}
	cfg.HostsFile = writeFile(t, "hosts", "127.0.0.2 a.localhost\n")
	wantAddrs(t, newResolver(t, cfg), "ip", "a.localhost", "127.0.0.2")
	if q := s.queries(); len(q) > 0 {
		t.Errorf("server was asked %q", q)
	}
}

func TestHostsFileComesBeforeDNSUnlessNSSwitchSaysOtherwise(t *testing.T) {
	tests := []struct {
		nsswitch           string
		both, file, server string // addresses of these names, "" if not found
	}{
		{"", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
		{"hosts: files dns", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
		{"hosts: dns files", "192.0.2.2", "192.0.2.1", "192.0.2.2"},
		{"hosts: files", "192.0.2.1", "192.0.2.1", ""},
		{"hosts: dns", "192.0.2.2", "", "192.0.2.2"},
	}
	for _, tt := range tests {
		t.Run(tt.nsswitch, func(t *testing.T) {
			s := newServer(t, zone("both.test. 60 IN A 192.0.2.2", "server.test. 60 IN A 192.0.2.2"))
			cfg := testConfig(t, s.addr)
			cfg.HostsFile = writeFile(t, "hosts", "192.0.2.1 both.test file.test\n")
			cfg.NSSwitch = writeFile(t, "nsswitch.conf", tt.nsswitch)
			r := newResolver(t, cfg)
			for range 2 { // the second time from the cache
				for host, want := range map[string]string{"both.test": tt.both, "file.test": tt.file, "server.test": tt.server} {
					got, err := lookup(t, r, "ip4", host)
					if got != want || (err != nil) != (want == "") {
						t.Errorf("%s = %q, %v, want %q", host, got, err, want)
					}
				}
			}
		})
	}
}

func TestNamesOutsideASCIIAreQueriedInPunycode(t *testing.T) {
	s := newServer(t, zone("xn--bcher-kva.test. 60 IN A 192.0.2.1"))
	r := resolverFor(t, s)
	wantAddrs(t, r, "ip4", "Bücher.test", "192.0.2.1")
	wantAddrs(t, r, "ip4", "bücher。test", "192.0.2.1") // an ideographic full stop is a dot
	if want := []string{"xn--bcher-kva.test. A udp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("server was asked %q, want %q", s.queries(), want)
	}
	if _, err, ok := r.Cached("ip4", "bücher.test"); !ok || err != nil {
		t.Errorf("Cached = %v, %v", err, ok)
	}
	_, err := lookup(t, r, "ip4", "a\u200d.test") // a joiner in a place where it is not allowed
	wantError(t, err, "a\u200d.test", "notfound")
}

func TestBothFamiliesAreQueriedOnceAndReturnedTogether(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1"))
	r := resolverFor(t, s)
	addrs, err := r.LookupNetIP(t.Context(), "ip", "a.test")
	slices.SortFunc(addrs, netip.Addr.Compare)
	if got := join(addrs); got != "192.0.2.1 2001:db8::1" || err != nil {
		t.Errorf("addresses = %q, %v", got, err)
	}
	wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
	wantAddrs(t, r, "ip6", "A.TEST.", "2001:db8::1")
	if want := []string{"a.test. A udp", "a.test. AAAA udp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("server was asked %q, want %q", s.queries(), want)
	}
}

func TestSingleRequestQueriesOneFamilyAfterTheOther(t *testing.T) {
	first := make(chan struct{})
	s := newServer(t, func(p peer) {
		if p.nth == 1 {
			close(first)
		} else if p.qtype() == dns.TypeA {
			panic("A asked for twice")
		}
		zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1")(p)
	})
	cfg := testConfig(t, s.addr)
	cfg.ResolvConf = writeFile(t, "resolv.conf", "options single-request\n")
	r := newResolver(t, cfg)
	if addrs, err := r.LookupNetIP(t.Context(), "ip", "a.test"); len(addrs) != 2 || err != nil {
		t.Errorf("addresses = %v, %v", addrs, err)
	}
	if want := []string{"a.test. A udp", "a.test. AAAA udp"}; !slices.Equal(s.inOrder(), want) {
		t.Errorf("server was asked %q, want %q", s.inOrder(), want)
	}
}

func TestSearchListErrors(t *testing.T) {
	const notFound, noData, servFail = "notfound", "notfound nodata", "temporary"
	tests := []struct {
		name           string
		host           string
		search1, asIs  int // rcodes; -1 for NODATA, -2 for an address
		want           string
		wantQueryNames string
	}{
		{"a suffix has it", "a", -2, dns.RcodeNameError, "", "a.one."},
		{"the name itself has it", "a", dns.RcodeNameError, -2, "", "a.one. a."},
		{"a failing suffix does not end the search", "a", dns.RcodeServerFailure, -2, "", "a.one. a."},
		{"no server has it", "a", dns.RcodeNameError, dns.RcodeNameError, notFound, "a.one. a."},
		{"a name without addresses exists", "a", -1, dns.RcodeNameError, noData, "a.one. a."},
		{"the error of the name itself counts", "a", dns.RcodeServerFailure, dns.RcodeNameError, notFound, "a.one. a."},
		{"also if it is the worse one", "a", dns.RcodeNameError, dns.RcodeServerFailure, servFail, "a.one. a."},
		{"also if it is the first", "a.b", dns.RcodeNameError, dns.RcodeServerFailure, servFail, "a.b. a.b.one."},
		{"a rooted name is not searched", "a.", -2, dns.RcodeNameError, notFound, "a."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, func(p peer) {
				rcode := tt.asIs
				if strings.HasSuffix(p.name(), ".one.") {
					rcode = tt.search1
				}
				switch rcode {
				case -1:
					p.reply(dns.RcodeSuccess, soa)
				case -2:
					p.reply(dns.RcodeSuccess, p.name()+" 60 IN A 192.0.2.1")
				default:
					p.reply(rcode, soa)
				}
			})
			cfg := testConfig(t, s.addr)
			cfg.Search, cfg.Attempts, cfg.NoEDNS = []string{"one"}, 1, true
			r := newResolver(t, cfg)
			_, err := lookup(t, r, "ip4", tt.host)
			if tt.want == "" && err != nil {
				t.Errorf("error = %v", err)
			} else if tt.want != "" {
				wantError(t, err, tt.host, tt.want)
			}
			var names []string
			for _, q := range s.inOrder() {
				names = append(names, strings.Fields(q)[0])
			}
			if got := strings.Join(names, " "); got != tt.wantQueryNames {
				t.Errorf("asked for %q, want %q", got, tt.wantQueryNames)
			}
		})
	}
}

func TestAFailureOfOneFamilyIsNoErrorIfTheOtherHasAddresses(t *testing.T) {
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNameError} {
		s := newServer(t, func(p peer) {
			if p.qtype() == dns.TypeAAAA {
				p.reply(rcode, soa)
			} else {
				p.reply(dns.RcodeSuccess, "a.test. 60 IN A 192.0.2.1")
			}
		})
		wantAddrs(t, resolverFor(t, s), "ip", "a.test", "192.0.2.1")
	}
}

func TestANameInTheHostsFileIsNotQueriedForTheOtherFamily(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN AAAA 2001:db8::1"))
	cfg := testConfig(t, s.addr)
	cfg.HostsFile = writeFile(t, "hosts", "127.0.0.1 a.test localhost\n")
	r := newResolver(t, cfg)
	wantAddrs(t, r, "ip", "a.test", "127.0.0.1")
	_, err := lookup(t, r, "ip6", "a.test")
	wantError(t, err, "a.test", "notfound nodata")
	wantAddrs(t, r, "ip6", "localhost", "::1")
	if q := s.queries(); len(q) > 0 {
		t.Errorf("server was asked %q", q)
	}
}

func TestTheErrorOfBothFamiliesIsTheMoreUsefulOne(t *testing.T) {
	noData := func(p peer) { p.reply(0, soa) }
	nxdomain := func(p peer) { p.reply(dns.RcodeNameError, soa) }
	servFail := func(p peer) { p.reply(dns.RcodeServerFailure) }
	for _, tt := range []struct {
		a, aaaa handler
		want    string
	}{
		{noData, noData, "notfound nodata"},
		{noData, servFail, "temporary"}, // there may be addresses
		{servFail, noData, "temporary"},
		{nxdomain, servFail, "notfound"}, // holds for all types
		{servFail, nxdomain, "notfound"},
		{noData, nxdomain, "notfound"},
		{nxdomain, noData, "notfound"},
	} {
		s := newServer(t, func(p peer) {
			if p.qtype() == dns.TypeA {
				tt.a(p)
			} else {
				tt.aaaa(p)
			}
		})
		_, err := lookup(t, resolverFor(t, s), "ip", "a.test")
		wantError(t, err, "a.test", tt.want)
	}
}

func TestLookupAddr(t *testing.T) {
	s := newServer(t, func(p peer) {
		switch p.name() {
		case "1.2.0.192.in-addr.arpa.":
			p.reply(dns.RcodeSuccess, p.name()+" 60 IN PTR one.test.", p.name()+" 60 IN PTR two.test.")
		case "2.2.0.192.in-addr.arpa.": // delegated as in RFC 2317
			p.reply(dns.RcodeSuccess, p.name()+" 60 IN CNAME 2.0-7.2.0.192.in-addr.arpa.", "2.0-7.2.0.192.in-addr.arpa. 60 IN PTR three.test.")
		case "3.2.0.192.in-addr.arpa.":
			p.reply(dns.RcodeSuccess, p.name()+` 60 IN PTR good.test.`, p.name()+` 60 IN PTR \<script\>.test.`, p.name()+" 60 IN TXT x")
		case "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.":
			p.reply(dns.RcodeSuccess, p.name()+" 60 IN PTR six.test.")
		case "4.2.0.192.in-addr.arpa.":
			p.reply(dns.RcodeServerFailure)
		default:
			p.reply(dns.RcodeNameError, soa)
		}
	})
	cfg := testConfig(t, s.addr)
	cfg.HostsFile = writeFile(t, "hosts", "192.0.2.9 nine.test nine\n")
	r := newResolver(t, cfg)
	for addr, want := range map[string]string{
		"192.0.2.1":        "[one.test. two.test.]",
		"::ffff:192.0.2.1": "[one.test. two.test.]",
		"192.0.2.2":        "[three.test.]",
		"2001:db8::1%eth0": "[six.test.]",
		"192.0.2.9":        "[nine.test. nine]",
	} {
		got, err := r.LookupAddr(t.Context(), netip.MustParseAddr(addr))
		if fmt.Sprint(got) != want || err != nil {
			t.Errorf("LookupAddr(%s) = %v, %v, want %s", addr, got, err, want)
		}
	}
	got, err := r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.3"))
	if fmt.Sprint(got) != "[good.test.]" {
		t.Errorf("names = %v, want only the good one", got)
	}
	wantError(t, err, "192.0.2.3", "")
	_, err = r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.4"))
	wantError(t, err, "192.0.2.4", "temporary")
	_, err = r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.5"))
	wantError(t, err, "192.0.2.5", "notfound")
	_, err = r.LookupAddr(t.Context(), netip.Addr{})
	wantError(t, err, "invalid IP", "notfound")

	cfg.NSSwitch = writeFile(t, "nsswitch.conf", "hosts: dns files\n")
	if got, err := newResolver(t, cfg).LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.9")); len(got) != 2 || err != nil {
		t.Errorf("after DNS the file gives %v, %v", got, err)
	}
	cfg.NSSwitch = writeFile(t, "nsswitch.conf", "hosts: files\n")
	_, err = newResolver(t, cfg).LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.1"))
	wantError(t, err, "192.0.2.1", "notfound")
}

func TestQueryReturnsAnyTypeAndNXDOMAINAsAMessage(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN MX 10 mail.test.", `*.a.test. 60 IN TXT "star"`, `a\.b.test. 60 IN TXT "escaped"`,
		"_x._tcp.test. 60 IN SRV 1 2 3 host.test.", "alias.test. 60 IN CNAME a.test."))
	cfg := testConfig(t, s.addr)
	cfg.Use0x20 = true
	r := newResolver(t, cfg)
	for _, tt := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers int
	}{
		{"a.test", dns.TypeMX, dns.RcodeSuccess, 1},
		{"A.test.", dns.TypeMX, dns.RcodeSuccess, 1},
		{"*.a.test", dns.TypeTXT, dns.RcodeSuccess, 1},
		{`\097\.b.test`, dns.TypeTXT, dns.RcodeSuccess, 1},
		{"_x._tcp.test.", dns.TypeSRV, dns.RcodeSuccess, 1},
		{"alias.test.", dns.TypeMX, dns.RcodeSuccess, 2},
		{"a.test", dns.TypeNS, dns.RcodeSuccess, 0},
		{"b.test", dns.TypeMX, dns.RcodeNameError, 0},
	} {
		m, err := r.Query(t.Context(), tt.name, tt.qtype)
		if err != nil || m.Rcode != tt.rcode || len(m.Answer) != tt.answers {
			t.Errorf("Query(%s, %s) = %v, %v", tt.name, dns.TypeToString[tt.qtype], m, err)
		}
	}
	m, err := r.Query(t.Context(), "a.test", dns.TypeMX)
	if err != nil || m.Question[0].Name != "a.test." {
		t.Errorf("question = %v, %v, want the name without random case", m, err)
	}
	m.Answer[0].(*dns.MX).Mx = "changed."
	if m, _ := r.Query(t.Context(), "a.test", dns.TypeMX); m.Answer[0].(*dns.MX).Mx != "mail.test." {
		t.Error("two callers share a message")
	}
}

func TestQueryRejectsReservedNamesAndTypes(t *testing.T) {
	s := newServer(t, func(p peer) { p.reply(dns.RcodeServerFailure) })
	r := resolverFor(t, s)
	for _, name := range []string{"", "..", "a..b", strings.Repeat("a", 64), strings.Repeat("a.", 128), "x.onion", "a.invalid", "localhost", "\xff\xfe.test", "\u00fc\xff", "\ufffd"} {
		_, err := r.Query(t.Context(), name, dns.TypeA)
		wantError(t, err, name, "notfound")
	}
	for _, qtype := range []uint16{0, dns.TypeAXFR, dns.TypeIXFR, dns.TypeOPT, dns.TypeTSIG} {
		_, err := r.Query(t.Context(), "a.test", qtype)
		wantError(t, err, "a.test", "")
	}
	if q := s.queries(); len(q) > 0 {
		t.Errorf("server was asked %q", q)
	}
	_, err := r.Query(t.Context(), "a.test", dns.TypeA)
	wantError(t, err, "a.test", "temporary")
}

func TestAnIPv4AddressInAnAAAARecordIsNoIPv6Address(t *testing.T) {
	s := newServer(t, zone("mapped.test. 60 IN AAAA ::ffff:192.0.2.9", "mixed.test. 60 IN AAAA ::ffff:192.0.2.9", "mixed.test. 60 IN AAAA 2001:db8::9"))
	r := newResolver(t, testConfig(t, s.addr))
	for range 2 { // the second time from the cache
		_, err := lookup(t, r, "ip6", "mapped.test")
		wantError(t, err, "mapped.test", "notfound")
		wantAddrs(t, r, "ip", "mapped.test", "192.0.2.9")
		wantAddrs(t, r, "ip6", "mixed.test", "2001:db8::9")
	}
	if _, err, ok := r.Cached("ip6", "mapped.test"); err == nil || !ok {
		t.Errorf("Cached returned %v, %v", err, ok)
	}
}

func TestUnreadableAndMalformedFilesGiveDefaultsAndOneWarning(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name string
		set  func(c *Config)
		want string // in the warning
	}{
		{"a directory", func(c *Config) { c.ResolvConf = dir }, "not a regular file"},
		{"a missing file", func(c *Config) { c.HostsFile = dir + "/none" }, "none"},
		{"malformed resolv.conf", func(c *Config) {
			c.ResolvConf = writeFile(t, "resolv.conf", "nameserver x\nnameserver y\noptions ndots:z\n")
		}, "ndots:z"},
		{"malformed nsswitch.conf", func(c *Config) { c.NSSwitch = writeFile(t, "nsswitch.conf", "hosts: files [\n") }, "bracket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, zone("a.test. 60 IN A 192.0.2.1", "b.test. 60 IN A 192.0.2.2"))
			var log strings.Builder
			cfg := testConfig(t, s.addr)
			tt.set(&cfg)
			r := newLogging(t, cfg, slog.New(slog.NewTextHandler(&log, nil)))
			wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
			wantAddrs(t, r, "ip4", "b.test", "192.0.2.2")
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), tt.want) {
				t.Errorf("log = %s, want one warning with %q", &log, tt.want)
			}
		})
	}
}

func TestWithoutServersTheLocalMachineIsQueried(t *testing.T) {
	cfg := testConfig(t)
	var asked []string
	cfg.Attempts = 1
	cfg.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		asked = append(asked, network+" "+address)
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", errors.New("refused"))}
	}
	r := newResolver(t, cfg)
	_, err := lookup(t, r, "ip4", "a.test")
	wantError(t, err, "a.test", "temporary")
	if want := []string{"udp 127.0.0.1:53", "udp [::1]:53"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestTheZeroConfigUsesTheFilesOfTheSystem(t *testing.T) {
	r := newResolver(t, Config{})
	addrs, err := r.LookupNetIP(t.Context(), "ip4", "localhost")
	if err != nil || len(addrs) == 0 || !addrs[0].IsLoopback() {
		t.Errorf("localhost = %v, %v", addrs, err)
	}
	s := r.system.get()
	if len(s.servers) == 0 || s.attempts < 1 || s.timeout < time.Second {
		t.Errorf("settings = %+v", s)
	}
	for _, server := range s.servers {
		if _, err := netip.ParseAddrPort(server.addr); err != nil {
			t.Errorf("server %q: %v", server.addr, err)
		}
	}
}

func TestSortingAddressesWithZonesLosesNone(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("fe80::1%lo"), netip.MustParseAddr("fe80::1%1"), netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.1")}
	if got := sortAddrs(slices.Clone(addrs)); len(got) != len(addrs) || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !slices.Contains(got, a) }) {
		t.Errorf("sorted = %v", got)
	}
}
