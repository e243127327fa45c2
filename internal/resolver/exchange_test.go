package resolver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const good = "a.test. 60 IN A 192.0.2.1"

// forgeries are packets that are not the reply to p.
func forgeries(p peer) [][]byte {
	pack := func(change func(m *dns.Msg)) []byte {
		m := p.message(dns.RcodeSuccess, "a.test. 60 IN A 192.0.2.66", "a.test. 60 IN AAAA 2001:db8::66")
		change(m)
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return b
	}
	valid := pack(func(m *dns.Msg) {})
	lyingCount := slices.Clone(valid)
	lyingCount[7] = 200 // records in the answer section
	echo, _ := p.query.Pack()
	return [][]byte{
		pack(func(m *dns.Msg) { m.Id++ }),
		pack(func(m *dns.Msg) { m.Response = false }),
		pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
		pack(func(m *dns.Msg) { m.Question[0].Name = "forged.test." }),
		pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }),
		pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		pack(func(m *dns.Msg) { m.Question = nil }),
		pack(func(m *dns.Msg) { m.Question, m.Rcode = nil, dns.RcodeNameError }),
		lyingCount,
		valid[:len(valid)-3],
		valid[:headerSize],
		valid[:5],
		append(slices.Clone(valid[:headerSize]), strings.Repeat("\xc0\x0c", 100)...), // names that point to themselves
		{},
		[]byte(strings.Repeat("\xff", 512)),
		echo,
	}
}

func TestForgedAndGarbledPacketsAreIgnored(t *testing.T) {
	s := newServer(t, func(p peer) {
		for _, b := range forgeries(p) {
			p.write(b)
		}
		p.reply(dns.RcodeSuccess, good)
	})
	wantAddrs(t, resolverFor(t, s), "ip4", "a.test", "192.0.2.1")
	if q := s.queries(); len(q) != 1 {
		t.Errorf("queries = %q, want one", q)
	}
}

// TestThousandsOfForgeriesDoNotEndAQuery passes the packets to the query one by one, so
// that none is lost.
func TestThousandsOfForgeriesDoNotEndAQuery(t *testing.T) {
	const rounds = 500
	cfg := testConfig(t, "192.0.2.53")
	sent := 0
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		return packetPipe(t, func(p peer) {
			for range rounds {
				for _, b := range forgeries(p) {
					p.write(b)
					sent++
				}
			}
			p.reply(dns.RcodeSuccess, good)
		}), nil
	}
	wantAddrs(t, newResolver(t, cfg), "ip4", "a.test", "192.0.2.1")
	if sent < 5000 {
		t.Errorf("only %d forgeries were sent", sent)
	}
}

func TestAServerThatOnlySendsGarbageTimesOut(t *testing.T) {
	s := newServer(t, func(p peer) {
		for _, b := range forgeries(p) {
			p.write(b)
		}
	})
	cfg := testConfig(t, s.addr)
	cfg.Timeout, cfg.Attempts = 50*time.Millisecond, 2
	r := newResolver(t, cfg)
	_, err := lookup(t, r, "ip4", "a.test")
	wantError(t, err, "a.test", "timeout temporary try")
	if st := r.Stats(); st.Queries != 2 || st.Failures != 2 || st.Open != 0 {
		t.Errorf("stats = %+v", st)
	}
}

// withoutEDNS answers queries without EDNS, and replies to others with rcode.
func withoutEDNS(rcode int) handler {
	return func(p peer) {
		if p.query.IsEdns0() != nil {
			p.reply(rcode)
		} else {
			p.reply(0, p.name()+" 60 IN A 192.0.2.1")
		}
	}
}

// TestServers sends one question to servers with different behaviors, and then to one
// that replies normally, and checks which reply counts.
func TestServers(t *testing.T) {
	tests := []struct {
		name    string
		handle  handler
		want    string // flags of the error; an address if the answer counts
		queries string // that the first server received
		next    bool   // the next server was queried
	}{
		{"an answer counts", func(p peer) { p.reply(0, good) }, "192.0.2.1", "udp", false},
		{"an answer in another case counts", func(p peer) {
			m := p.message(0, "A.TEST. 60 IN A 192.0.2.1")
			m.Question[0].Name = "A.tEsT."
			p.send(m)
		}, "192.0.2.1", "udp", false},
		{"NXDOMAIN is final", func(p peer) { p.reply(dns.RcodeNameError) }, "notfound", "udp", false},
		{"NODATA is final", func(p peer) { p.reply(0, soa) }, "notfound nodata", "udp", false},
		{"NODATA without SOA is final", func(p peer) { p.reply(0) }, "notfound nodata", "udp", false},
		{"records of other names are NODATA", func(p peer) { p.reply(0, "b.test. 60 IN A 192.0.2.66") }, "notfound nodata", "udp", false},
		{"SERVFAIL goes on, after a query without EDNS", func(p peer) { p.reply(dns.RcodeServerFailure) }, "192.0.2.2", "udp udp", true},
		{"REFUSED goes on, after a query without EDNS", func(p peer) { p.reply(dns.RcodeRefused) }, "192.0.2.2", "udp udp", true},
		{"SERVFAIL with EDNS goes on", func(p peer) {
			m := p.message(dns.RcodeServerFailure)
			m.SetEdns0(1232, false)
			p.send(m)
		}, "192.0.2.2", "udp", true},
		{"SERVFAIL may be for EDNS", withoutEDNS(dns.RcodeServerFailure), "192.0.2.1", "udp udp", false},
		{"REFUSED may be for EDNS", withoutEDNS(dns.RcodeRefused), "192.0.2.1", "udp udp", false},
		{"NOTIMP may be for EDNS", withoutEDNS(dns.RcodeNotImplemented), "192.0.2.1", "udp udp", false},
		{"an error without a question goes on", func(p peer) {
			m := p.message(dns.RcodeRefused)
			m.Question = nil
			p.send(m)
		}, "192.0.2.2", "udp udp", true},
		{"an unknown rcode goes on", func(p peer) { p.reply(11) }, "192.0.2.2", "udp", true},
		{"an extended rcode goes on", func(p peer) {
			m := p.message(dns.RcodeSuccess)
			m.SetEdns0(1232, false)
			m.Rcode = dns.RcodeBadCookie
			p.send(m)
		}, "192.0.2.2", "udp", true},
		{"a lame referral goes on", func(p peer) {
			m := p.message(0, "ns test. 60 IN NS ns.test.")
			m.RecursionAvailable = false
			p.send(m)
		}, "192.0.2.2", "udp", true},
		{"a lame referral with EDNS and glue goes on", func(p peer) {
			m := p.message(0, "ns test. 60 IN NS ns.test.", "extra ns.test. 60 IN A 192.0.2.53")
			m.RecursionAvailable = false
			m.SetEdns0(1232, false)
			p.send(m)
		}, "192.0.2.2", "udp", true},
		{"NODATA from the authority is final", func(p peer) {
			m := p.message(0)
			m.RecursionAvailable, m.Authoritative = false, true
			p.send(m)
		}, "notfound nodata", "udp", false},
		{"FORMERR leads to a query without EDNS", func(p peer) {
			if p.query.IsEdns0() != nil {
				p.reply(dns.RcodeFormatError)
			} else {
				p.reply(0, good)
			}
		}, "192.0.2.1", "udp udp", false},
		{"BADVERS leads to a query without EDNS", func(p peer) {
			if p.query.IsEdns0() == nil {
				p.reply(0, good)
				return
			}
			m := p.message(0)
			m.SetEdns0(1232, false)
			m.Rcode = dns.RcodeBadVers
			p.send(m)
		}, "192.0.2.1", "udp udp", false},
		{"NOTIMP twice goes on", func(p peer) { p.reply(dns.RcodeNotImplemented) }, "192.0.2.2", "udp udp", true},
		{"a truncated reply is asked for over TCP", func(p peer) {
			m := p.message(0, good)
			if m.Truncated = p.udp(); m.Truncated {
				m.Answer = nil
			}
			p.send(m)
		}, "192.0.2.1", "tcp udp", false},
		{"a partial reply is not believed", func(p peer) {
			m := p.message(0, "a.test. 60 IN A 192.0.2.66")
			if m.Truncated = p.udp(); !m.Truncated {
				m = p.message(0, good)
			}
			p.send(m)
		}, "192.0.2.1", "tcp udp", false},
		{"nor one that ends in a record", func(p peer) {
			m := p.message(0, good, "a.test. 60 IN A 192.0.2.66")
			m.Truncated = p.udp()
			b, _ := m.Pack()
			if p.udp() {
				b = b[:len(b)-2]
			} else {
				b, _ = p.message(0, good).Pack()
			}
			p.write(b)
		}, "192.0.2.1", "tcp udp", false},
		{"a truncated reply over TCP is accepted", func(p peer) {
			m := p.message(0, good)
			m.Truncated = true
			p.send(m)
		}, "192.0.2.1", "tcp udp", false},
		{"TCP that fails after truncation goes on", func(p peer) {
			if p.udp() {
				m := p.message(0, good)
				m.Truncated = true
				p.send(m)
			} else {
				p.write([]byte("garbage that is long enough"))
			}
		}, "192.0.2.2", "tcp udp", true},
		{"another id over TCP goes on", func(p peer) {
			m := p.message(0, good)
			if m.Truncated = p.udp(); !m.Truncated {
				m.Id++
			}
			p.send(m)
		}, "192.0.2.2", "tcp udp", true},
		{"aliases are followed in any order", func(p peer) {
			p.reply(0, "c.test. 60 IN A 192.0.2.1", "b.test. 60 IN CNAME C.test.", "a.test. 60 IN CNAME b.test.")
		}, "192.0.2.1", "udp", false},
		{"an alias without address is NODATA", func(p peer) { p.reply(0, "a.test. 60 IN CNAME b.test.") }, "notfound nodata", "udp", false},
		{"an alias of nothing is NXDOMAIN", func(p peer) { p.reply(dns.RcodeNameError, "a.test. 60 IN CNAME b.test.") }, "notfound", "udp", false},
		{"a loop of aliases goes on", func(p peer) {
			p.reply(0, "a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME a.test.")
		}, "192.0.2.2", "udp", true},
		{"a long chain goes on", func(p peer) {
			rrs := []string{"a.test. 60 IN CNAME n0.test."}
			for i := range maxChain {
				rrs = append(rrs, fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
			}
			p.reply(0, append(rrs, fmt.Sprintf("n%d.test. 60 IN A 192.0.2.66", maxChain))...)
		}, "192.0.2.2", "udp", true},
		{"the longest chain counts", func(p peer) {
			rrs := []string{"a.test. 60 IN CNAME n1.test."}
			for i := 1; i < maxChain; i++ {
				rrs = append(rrs, fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
			}
			p.reply(0, append(rrs, fmt.Sprintf("n%d.test. 60 IN A 192.0.2.1", maxChain))...)
		}, "192.0.2.1", "udp", false},
		{"a reply longer than advertised counts", func(p peer) {
			rrs := []string{good}
			for range 90 {
				rrs = append(rrs, "b.test. 60 IN A 192.0.2.66")
			}
			p.reply(0, rrs...)
		}, "192.0.2.1", "udp", false},
		{"an address record without an address goes on", func(p peer) {
			m := p.message(0, good)
			m.Answer[0].(*dns.A).A = nil
			p.send(m)
		}, "192.0.2.2", "udp", true},
		{"records of another class do not count", func(p peer) { p.reply(0, "a.test. 60 CH A 192.0.2.66", good) }, "192.0.2.1", "udp", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first := newServer(t, tt.handle)
			next := newServer(t, zone("a.test. 60 IN A 192.0.2.2"))
			cfg := testConfig(t, first.addr, next.addr)
			got, err := lookup(t, newResolver(t, cfg), "ip4", "a.test")
			if err != nil {
				wantError(t, err, "a.test", tt.want)
			} else if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var networks []string
			for _, q := range first.queries() {
				networks = append(networks, strings.Fields(q)[2])
			}
			if got := strings.Join(networks, " "); got != tt.queries {
				t.Errorf("queries = %q, want %q", got, tt.queries)
			}
			if got := len(next.queries()) > 0; got != tt.next {
				t.Errorf("next server asked = %v, want %v", got, tt.next)
			}
		})
	}
}

func TestARefusedQueryFailsAtOnce(t *testing.T) {
	// A socket that is connected elsewhere keeps the port from others, and refuses packets.
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := newResolver(t, testConfig(t, c.LocalAddr().String()))
	start := time.Now()
	_, err = lookup(t, r, "ip4", "a.test")
	wantError(t, err, "a.test", "temporary")
	if errno := syscall.ECONNREFUSED; !strings.Contains(err.Error(), errno.Error()) {
		t.Errorf("error %q does not say %q", err, errno)
	}
	if d := time.Since(start); d >= r.cfg.Timeout {
		t.Errorf("took %v", d)
	}
}

func TestAttemptsAlternateBetweenAllServers(t *testing.T) {
	var mu sync.Mutex
	var order []string
	mark := func(name string) handler {
		return func(p peer) {
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			p.reply(dns.RcodeServerFailure)
		}
	}
	a, b := newServer(t, mark("a")), newServer(t, mark("b"))
	cfg := testConfig(t, a.addr, b.addr)
	cfg.Attempts = 2
	cfg.CacheSize = -1
	cfg.NoEDNS = true
	r := newResolver(t, cfg)
	lookup(t, r, "ip4", "a.test")
	asked := func() string {
		mu.Lock()
		defer mu.Unlock()
		got := strings.Join(order, "")
		order = nil
		return got
	}
	if got := asked(); got != "abab" {
		t.Errorf("servers asked = %q, want abab", got)
	}
	cfg.Rotate, cfg.Attempts = true, 1
	r = newResolver(t, cfg)
	for range 3 {
		lookup(t, r, "ip4", "a.test")
	}
	if got := asked(); got != "abbaab" {
		t.Errorf("servers queried in rotation = %q, want abbaab", got)
	}
}

func TestEveryQueryHasItsOwnSocketAndID(t *testing.T) {
	var mu sync.Mutex
	ids, ports := make(map[uint16]int), make(map[string]int)
	s := newServer(t, func(p peer) {
		mu.Lock()
		ids[p.query.Id]++
		mu.Unlock()
		p.reply(dns.RcodeNameError)
	})
	cfg := testConfig(t, s.addr)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			mu.Lock()
			ports[c.LocalAddr().String()]++
			mu.Unlock()
		}
		return c, err
	}
	r := newResolver(t, cfg)
	const n = 200
	for i := range n {
		lookup(t, r, "ip4", fmt.Sprintf("n%d.test", i))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < n*9/10 {
		t.Errorf("%d queries had %d ids", n, len(ids))
	}
	if len(ports) < n/10 {
		t.Errorf("%d queries had %d ports", n, len(ports))
	}
}

func TestQueriesHaveTheExpectedFlagsAndOptions(t *testing.T) {
	got := make(chan *dns.Msg, 1)
	s := newServer(t, func(p peer) {
		got <- p.query
		p.reply(dns.RcodeNameError)
	})
	cfg := testConfig(t, s.addr)
	cfg.ResolvConf = writeFile(t, "resolv.conf", "options trust-ad\n")
	lookup(t, newResolver(t, cfg), "ip4", "a.test")
	m := <-got
	opt := m.IsEdns0()
	if opt == nil || opt.UDPSize() != udpSize || opt.Do() || !m.RecursionDesired || !m.AuthenticatedData || m.Response {
		t.Errorf("query = %v", m)
	}
}

func TestWith0x20OnlyAReplyInTheSameCaseCounts(t *testing.T) {
	name := strings.Repeat("abcdefgh.", 8) + "test."
	s := newServer(t, func(p peer) {
		m := p.message(0, name+" 60 IN A 192.0.2.66")
		m.Question[0].Name = strings.ToLower(p.name())
		if m.Question[0].Name == p.name() {
			t.Errorf("the query for %q is not in mixed case", p.name())
		}
		p.send(m)
		p.reply(0, name+" 60 IN A 192.0.2.1")
	})
	cfg := testConfig(t, s.addr)
	cfg.Use0x20 = true
	wantAddrs(t, newResolver(t, cfg), "ip4", name, "192.0.2.1")
}

func TestUseTCPNeverUsesUDP(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN A 192.0.2.1"))
	for _, set := range []func(c *Config){
		func(c *Config) { c.UseTCP = true },
		func(c *Config) { c.ResolvConf = writeFile(t, "resolv.conf", "options use-vc\n") },
	} {
		cfg := testConfig(t, s.addr)
		set(&cfg)
		wantAddrs(t, newResolver(t, cfg), "ip4", "a.test", "192.0.2.1")
	}
	if want := []string{"a.test. A tcp", "a.test. A tcp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("queries = %q, want %q", s.queries(), want)
	}
}

func TestATruncatedReplyOverTCPIsAccepted(t *testing.T) {
	s := newServer(t, func(p peer) {
		m := p.message(0, good)
		m.Truncated = true
		p.send(m)
	})
	cfg := testConfig(t, s.addr)
	cfg.UseTCP = true
	wantAddrs(t, newResolver(t, cfg), "ip4", "a.test", "192.0.2.1")
	if want := []string{"a.test. A tcp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("queries = %q, want %q", s.queries(), want)
	}
}

func TestTheNextServerIsQueriedIfATCPServerClosesOrStalls(t *testing.T) {
	for name, serve := range map[string]func(c net.Conn){
		"close at once":   func(c net.Conn) {},
		"close in length": func(c net.Conn) { c.Read(make([]byte, 512)); c.Write([]byte{0}) },
		"close in reply":  func(c net.Conn) { c.Read(make([]byte, 512)); c.Write([]byte{0, 50, 1, 2, 3}) },
		"empty reply":     func(c net.Conn) { c.Read(make([]byte, 512)); c.Write([]byte{0, 0}) },
		"stall in reply": func(c net.Conn) {
			c.Read(make([]byte, 512))
			c.Write([]byte{0, 50, 1})
			c.Read(make([]byte, 1)) // until the client closes
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					serve(c)
					c.Close()
				}
			})
			t.Cleanup(func() { ln.Close(); wg.Wait() })
			next := newServer(t, zone("a.test. 60 IN A 192.0.2.2"))
			cfg := testConfig(t, ln.Addr().String(), next.addr)
			cfg.UseTCP = true
			if name == "stall in reply" {
				cfg.Timeout, cfg.Attempts = time.Second, 5 // the next server may be late once
			}
			wantAddrs(t, newResolver(t, cfg), "ip4", "a.test", "192.0.2.2")
		})
	}
}

func TestTLSServersAreQueriedOnlyOverTLS(t *testing.T) {
	cert, pool := selfSigned(t, "dns.test")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serveStream(c, func(_ string, p []byte, write func([]byte)) {
					q := new(dns.Msg)
					if q.Unpack(p) == nil {
						zone("a.test. 60 IN A 192.0.2.1")(peer{network: "tcp", query: q, write: write})
					}
				})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	cfg := testConfig(t, ln.Addr().String())
	cfg.TLS = &tls.Config{RootCAs: pool, ServerName: "dns.test"}
	wantAddrs(t, newResolver(t, cfg), "ip4", "a.test", "192.0.2.1")

	cfg.TLS = &tls.Config{RootCAs: pool} // the certificate is not for the address
	_, err = lookup(t, newResolver(t, cfg), "ip4", "a.test")
	wantError(t, err, "a.test", "")

	cfg = testConfig(t, "192.0.2.53")
	cfg.TLS = &tls.Config{}
	cfg.Attempts = 1
	var asked string
	cfg.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		asked = network + " " + address
		return nil, syscall.ECONNREFUSED
	}
	lookup(t, newResolver(t, cfg), "ip4", "a.test")
	if asked != "tcp 192.0.2.53:853" {
		t.Errorf("asked %q", asked)
	}
}

func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// waitFor waits until cond holds. It fails the test after a long time.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come true")
		}
	}
}
