package resolver

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestResolvConfFollowsTheManualPage(t *testing.T) {
	def := resolvConf{ndots: 1, timeout: 5 * time.Second, attempts: 2}
	with := func(f func(c *resolvConf)) resolvConf { c := def; f(&c); return c }
	addrs := func(s ...string) (a []netip.Addr) {
		for _, s := range s {
			a = append(a, netip.MustParseAddr(s))
		}
		return a
	}
	tests := []struct {
		name, data string
		want       resolvConf
		problems   int
	}{
		{"empty", "", def, 0},
		{"no newline at the end", "nameserver 192.0.2.1", with(func(c *resolvConf) { c.servers = addrs("192.0.2.1") }), 0},
		{"DOS line ends", "nameserver 192.0.2.1\r\nsearch a\r\n", with(func(c *resolvConf) {
			c.servers, c.search, c.searchSet = addrs("192.0.2.1"), []string{"a."}, true
		}), 0},
		{"at most three servers", "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%lo\nnameserver 192.0.2.4\n",
			with(func(c *resolvConf) { c.servers = addrs("192.0.2.1", "2001:db8::1", "fe80::1%lo") }), 0},
		{"a server must be an address", "nameserver ns.example\nnameserver\nnameserver 192.0.2.1 junk\n",
			with(func(c *resolvConf) { c.servers = addrs("192.0.2.1") }), 2},
		{"comments", "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n  # not one, but nothing either\n", def, 0},
		{"search", "search a.example b.example.\tc\n", with(func(c *resolvConf) {
			c.search, c.searchSet = []string{"a.example.", "b.example.", "c."}, true
		}), 0},
		{"the last of search and domain wins", "search a b\ndomain c d\n", with(func(c *resolvConf) {
			c.search, c.searchSet = []string{"c."}, true
		}), 0},
		{"the root is no suffix", "search .\n", with(func(c *resolvConf) { c.searchSet = true }), 0},
		{"an empty search list is one", "search\n", with(func(c *resolvConf) { c.searchSet = true }), 0},
		{"a suffix must be a name", "search a..b -x c\n", with(func(c *resolvConf) {
			c.search, c.searchSet = []string{"c."}, true
		}), 1},
		{"numbers", "options ndots:3 timeout:7 attempts:4\n", with(func(c *resolvConf) {
			c.ndots, c.timeout, c.attempts = 3, 7*time.Second, 4
		}), 0},
		{"numbers have limits", "options ndots:99 timeout:999999999999 attempts:99\n", with(func(c *resolvConf) {
			c.ndots, c.timeout, c.attempts = 15, 30*time.Second, 5
		}), 0},
		{"numbers that fit into no type have them, too", "options ndots:99999999999999999999 timeout:99999999999999999999 attempts:99999999999999999999\n", with(func(c *resolvConf) {
			c.ndots, c.timeout, c.attempts = 15, 30*time.Second, 5
		}), 0},
		{"a number of seconds that overflows a duration is capped", "options timeout:18446744074\n", with(func(c *resolvConf) {
			c.timeout = 30 * time.Second
		}), 0},
		{"numbers have lower limits", "options ndots:-1 timeout:0 attempts:-7\n", with(func(c *resolvConf) {
			c.ndots, c.timeout, c.attempts = 0, time.Second, 1
		}), 0},
		{"also those that fit into no type", "options ndots:-99999999999999999999 timeout:-99999999999999999999 attempts:-99999999999999999999\n", with(func(c *resolvConf) {
			c.ndots, c.timeout, c.attempts = 0, time.Second, 1
		}), 0},
		{"numbers must be numbers", "options ndots:x timeout attempts:\n", def, 1},
		{"flags", "options rotate single-request use-vc trust-ad edns0 no-reload\n", with(func(c *resolvConf) {
			c.rotate, c.singleRequest, c.useTCP, c.trustAD, c.noReload = true, true, true, true, true
		}), 0},
		{"flags by other names", "options single-request-reopen tcp\n", with(func(c *resolvConf) {
			c.singleRequest, c.useTCP = true, true
		}), 0},
		{"flags that are taken back", "options rotate use-vc trust-ad no-reload no-aaaa\noptions -rotate -use-vc -trust-ad -no-reload -no-aaaa\n", def, 0},
		{"no EDNS", "options -edns0\n", with(func(c *resolvConf) { c.noEDNS = true }), 0},
		{"no EDNS by another name", "options no-edns0\n", with(func(c *resolvConf) { c.noEDNS = true }), 0},
		{"EDNS after all", "options -edns0 edns0\n", def, 0},
		{"no IPv6 addresses", "options no-aaaa\n", with(func(c *resolvConf) { c.noAAAA = true }), 0},
		{"unknown options are ignored", "sortlist 130.155.160.0\noptions inet6 debug\nlookup file bind\n", def, 0},
		{"binary", "\x00\xff\xfe\n\x7fELF\n", def, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, problems := parseResolvConf(tt.data)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if len(problems) != tt.problems {
				t.Errorf("problems = %q, want %d", problems, tt.problems)
			}
		})
	}
}

func TestNSSwitchGivesTheOrderOfFilesAndDNS(t *testing.T) {
	tests := []struct {
		data    string
		want    order
		problem bool
	}{
		{"", orderFilesDNS, false},
		{"passwd: files\n", orderFilesDNS, false},
		{"hosts: files dns\n", orderFilesDNS, false},
		{" hosts\t: dns files # as we like it\n", orderDNSFiles, false},
		{"hosts: files\n", orderFiles, false},
		{"hosts:dns", orderDNS, false},
		{"hosts:\n", orderFilesDNS, false},
		{"hosts: files mdns4_minimal [NOTFOUND=return] dns\n", orderFilesDNS, false},
		{"hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n", orderFilesDNS, false},
		{"hosts: files resolve\n", orderFilesDNS, false},
		{"hosts: resolve files\n", orderDNSFiles, false},
		{"hosts: mdns4\n", orderDNS, false},
		{"hosts: files[SUCCESS=continue]dns\n", orderFilesDNS, false},
		{"hosts: dns [NOTFOUND=return files\n", orderFilesDNS, true},
		{"# hosts: dns\n", orderFilesDNS, false},
		{"hosts: files\nhosts: dns\n", orderFiles, false},
	}
	for _, tt := range tests {
		got, problem := parseNSSwitch(tt.data)
		if got != tt.want || (problem != "") != tt.problem {
			t.Errorf("parseNSSwitch(%q) = %v, %q, want %v, problem %v", tt.data, got, problem, tt.want, tt.problem)
		}
	}
}

func TestHostsFileMergesAllLinesOfAName(t *testing.T) {
	h := parseHosts("127.0.0.1 localhost\n" +
		"192.0.2.1\tOne.Example one # two.example\n" +
		"2001:db8::1 one.example.\n" +
		"192.0.2.1 one.example\n" +
		"::ffff:192.0.2.9 mapped\n" +
		"fe80::1%lo zoned\n" +
		"#192.0.2.3 commented\n" +
		"not-an-address name\n" +
		"127.1 short\n" +
		"192.0.2.4\n")
	const none = "none" // the file has the name, but no such address
	tests := []struct{ network, name, want string }{
		{"ip4", "localhost", "127.0.0.1"},
		{"ip4", "one.example", "192.0.2.1"},
		{"ip6", "ONE.EXAMPLE.", "2001:db8::1"},
		{"ip", "one", "192.0.2.1"},
		{"ip6", "one", none},
		{"ip", "two.example", ""},
		{"ip4", "mapped", "192.0.2.9"},
		{"ip6", "zoned", "fe80::1%lo"},
		{"ip", "commented", ""},
		{"ip", "name", ""},
		{"ip", "short", ""},
	}
	for _, tt := range tests {
		got, ok, done := h.lookup(tt.network, tt.name, false)
		if join(got) != strings.TrimPrefix(tt.want, none) || ok != (tt.want != "") || !done {
			t.Errorf("lookup(%s, %s) = %v, %v, %v, want %q", tt.network, tt.name, got, ok, done, tt.want)
		}
	}
	if got, want := fmt.Sprint(h.names(netip.MustParseAddr("192.0.2.1"))), "[One.Example. one one.example.]"; got != want {
		t.Errorf("names = %s, want %s", got, want)
	}
}

func TestOnlyHostNamesAreDomainNames(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Repeat(label+".", 3) + strings.Repeat("a", 61) // 253 bytes
	for _, s := range []string{".", "a", "a.", "a.b", "_sip._tcp.example", "xn--bcher-kva.example", "1.a", "a-b.c", label, long, long + "."} {
		if !isDomainName(s) {
			t.Errorf("isDomainName(%q) = false", s)
		}
	}
	for _, s := range []string{"", "..", ".a", "a..b", "-a", "a-", "a-.b", "a.-b", "1.2.3", "a b", "a/b", "a\x00", "bücher", "a%lo", label + "a", long + "a", long + "a."} {
		if isDomainName(s) {
			t.Errorf("isDomainName(%q) = true", s)
		}
	}
}

func TestNameListFollowsNdotsAndSearch(t *testing.T) {
	search := []string{"x.example.", "y."}
	long := strings.Repeat("a.", 124) + "aaa" // 251 bytes: one suffix still fits
	tests := []struct {
		name  string
		ndots int
		want  string
	}{
		{"a", 1, "a.x.example. a.y. a."},
		{"a.b", 1, "a.b. a.b.x.example. a.b.y."},
		{"a.b", 2, "a.b.x.example. a.b.y. a.b."},
		{"a", 0, "a. a.x.example. a.y."},
		{"a.b.", 5, "a.b."},
		{long, 1, long + ". " + long + ".y."},
	}
	for _, tt := range tests {
		if got := strings.Join(nameList(tt.name, search, tt.ndots), " "); got != tt.want {
			t.Errorf("nameList(%q, ndots %d) = %q, want %q", tt.name, tt.ndots, got, tt.want)
		}
	}
	if got := nameList("a", []string{"onion.", "b.invalid.", "localhost."}, 1); len(got) != 1 {
		t.Errorf("nameList with reserved suffixes = %q, want only the name", got)
	}
}

func TestServerAddressesAreCompletedOrRejected(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1":      "192.0.2.1:53",
		"192.0.2.1:5353": "192.0.2.1:5353",
		"::1":            "[::1]:53",
		"[::1]":          "[::1]:53",
		"[::1]:5353":     "[::1]:5353",
		"fe80::1%lo":     "[fe80::1%lo]:53",
		"[fe80::1%lo]:1": "[fe80::1%lo]:1",
	} {
		if got, err := serverAddress(s, "53"); got != want || err != nil {
			t.Errorf("serverAddress(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{"", "ns.example", "ns.example:53", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:dns", "[]", "[192.0.2.1", ":53"} {
		_, err := New(Config{Servers: []string{s}}, nil, quiet)
		if err == nil || !strings.Contains(err.Error(), "server") {
			t.Errorf("New with server %q: %v, want an error that says so", s, err)
		}
	}
}

func TestNewRejectsInvalidConfigurations(t *testing.T) {
	for want, cfg := range map[string]Config{
		"Search":   {Search: []string{"a..b"}},
		"search":   {Search: []string{"."}},
		"Attempts": {Attempts: -1},
		"Timeout":  {Timeout: -1},
	} {
		if _, err := New(cfg, nil, quiet); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("New(%+v): %v, want an error about %s", cfg, err, want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nsearch a b\noptions ndots:2 rotate timeout:3")
	f.Add("nameserver \x00\ndomain .\noptions ndots:")
	f.Fuzz(func(t *testing.T, data string) {
		c, _ := parseResolvConf(data)
		if len(c.servers) > maxServers || c.ndots < 0 || c.ndots > maxNdots ||
			c.timeout < time.Second || c.timeout > maxTimeout || c.attempts < 1 || c.attempts > maxAttempts {
			t.Errorf("out of bounds: %+v", c)
		}
		for _, s := range c.search {
			if !isDomainName(s) || !strings.HasSuffix(s, ".") || s == "." {
				t.Errorf("search has %q", s)
			}
		}
	})
}

func FuzzParseNSSwitch(f *testing.F) {
	f.Add("hosts: files mdns4 [NOTFOUND=return] dns")
	f.Add("hosts: [")
	f.Fuzz(func(t *testing.T, data string) {
		if o, problem := parseNSSwitch(data); o > orderDNS || problem != "" && o != orderFilesDNS {
			t.Errorf("parseNSSwitch = %v, %q", o, problem)
		}
	})
}

func FuzzParseHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost\n::1 a b # c")
	f.Add("fe80::1%eth0 . .. a.")
	f.Fuzz(func(t *testing.T, data string) {
		h := parseHosts(data)
		for name, e := range h.byName {
			if name != hostsKey(name) || len(e.addrs) == 0 {
				t.Errorf("entry %q: %v", name, e.addrs)
			}
			for _, a := range e.addrs {
				if len(h.names(a)) == 0 {
					t.Errorf("%v of %q has no names", a, name)
				}
			}
		}
	})
}

// FuzzNames checks that every accepted name can be queried.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a.example", "bücher.example", "a..b", "x.onion.", "LOCALHOST", "K", "_a\\.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		ascii, err := toASCII(name)
		if err != nil || !isDomainName(ascii) {
			return
		}
		for _, fqdn := range nameList(lowerName(ascii), []string{"a.example."}, 1) {
			if got, err := queryName(fqdn); !isNeverAsked(fqdn) && !isLocalhost(fqdn) && (err != nil || got != fqdn) {
				t.Errorf("queryName(%q) = %q, %v", fqdn, got, err)
			}
		}
	})
}
