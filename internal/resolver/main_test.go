package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// A peer is the server's side of one query.
type peer struct {
	network string // "udp" or "tcp"
	query   *dns.Msg
	nth     int // number of the query, from 1
	write   func(p []byte)
}

func (p peer) name() string  { return p.query.Question[0].Name }
func (p peer) qtype() uint16 { return p.query.Question[0].Qtype }
func (p peer) udp() bool     { return p.network == "udp" }

// reply sends a reply with an rcode and records.
func (p peer) reply(rcode int, answer ...string) { p.send(p.message(rcode, answer...)) }

// message returns a reply. A record that begins with "ns " goes into the
// authority section, one that begins with "extra " into the additional one.
func (p peer) message(rcode int, records ...string) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(p.query, rcode)
	m.RecursionAvailable = true
	for _, s := range records {
		section := &m.Answer
		if rest, ok := strings.CutPrefix(s, "ns "); ok {
			s, section = rest, &m.Ns
		} else if rest, ok := strings.CutPrefix(s, "extra "); ok {
			s, section = rest, &m.Extra
		}
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		*section = append(*section, rr)
	}
	return m
}

func (p peer) send(m *dns.Msg) {
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	p.write(b)
}

// A handler replies to queries, or does not. It runs on its own goroutine.
type handler func(p peer)

// server is a name server on the loopback interface, UDP and TCP on one port.
type server struct {
	addr   string
	handle handler
	udp    net.PacketConn
	tcp    net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the following
	asked []string   // "name type network", in order
	conns map[net.Conn]bool
}

func newServer(t testing.TB, h handler) *server {
	t.Helper()
	s := &server{handle: h, conns: make(map[net.Conn]bool)}
	for try := 0; ; try++ {
		var err error
		if s.udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		s.addr = s.udp.LocalAddr().String()
		if s.tcp, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		s.udp.Close()
		if try == 10 {
			t.Fatal(err)
		}
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	t.Cleanup(s.close)
	return s
}

func (s *server) close() {
	s.udp.Close()
	s.tcp.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *server) serveUDP() {
	for {
		buf := make([]byte, 4096)
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		s.wg.Go(func() {
			s.serve("udp", buf[:n], func(p []byte) { s.udp.WriteTo(p, from) })
		})
	}
}

func (s *server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() {
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
				c.Close()
			}()
			serveStream(c, s.serve)
		})
	}
}

// serveStream reads queries that are preceded by their length from c, and passes them to
// serve, one after the other.
func serveStream(c net.Conn, serve func(network string, p []byte, write func([]byte))) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		p := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, p); err != nil {
			return
		}
		serve("tcp", p, func(reply []byte) {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		})
	}
}

func (s *server) serve(network string, p []byte, write func([]byte)) {
	q := new(dns.Msg)
	if q.Unpack(p) != nil || len(q.Question) != 1 {
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s %s", lowerName(q.Question[0].Name), dns.TypeToString[q.Question[0].Qtype], network))
	nth := len(s.asked)
	s.mu.Unlock()
	s.handle(peer{network: network, query: q, nth: nth, write: write})
}

// queries returns the queries that the server received, sorted.
func (s *server) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.asked))
}

// inOrder returns the queries that the server received, in order.
func (s *server) inOrder() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

const soa = "ns test. 60 IN SOA ns.test. host.test. 1 3600 600 86400 30"

// zone returns a handler that serves the given records like a recursive server: it
// follows aliases, and adds the SOA record to NXDOMAIN and NODATA.
func zone(records ...string) handler {
	var all []dns.RR
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		all = append(all, rr)
	}
	return func(p peer) {
		m := p.message(dns.RcodeSuccess)
		name, exists := p.name(), false
		for range maxChain + 2 {
			next := ""
			for _, rr := range all {
				if !strings.EqualFold(rr.Header().Name, name) {
					continue
				}
				exists = true
				if rr.Header().Rrtype == p.qtype() {
					m.Answer = append(m.Answer, rr)
				} else if c, ok := rr.(*dns.CNAME); ok {
					m.Answer = append(m.Answer, rr)
					next = c.Target
				}
			}
			if next == "" {
				break
			}
			name, exists = next, false
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == p.qtype() }) {
			m.Ns = append(m.Ns, p.message(0, soa).Ns...)
		}
		p.send(m)
	}
}

// writeFile writes a file into a directory of the test and returns its path.
func writeFile(t testing.TB, name, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// testConfig returns a Config that depends on no file of the system. Its timeout is one
// that no query to a real server needs, however busy the machine is.
func testConfig(t testing.TB, servers ...string) Config {
	return Config{
		Servers:    servers,
		Search:     []string{},
		ResolvConf: os.DevNull,
		HostsFile:  os.DevNull,
		NSSwitch:   os.DevNull,
		Timeout:    time.Minute,
	}
}

func newResolver(t testing.TB, cfg Config) *Resolver {
	t.Helper()
	return newLogging(t, cfg, quiet)
}

var quiet = slog.New(slog.DiscardHandler)

func newLogging(t testing.TB, cfg Config, log *slog.Logger) *Resolver {
	t.Helper()
	r, err := New(cfg, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// resolverFor returns a resolver that only queries s.
func resolverFor(t testing.TB, s *server) *Resolver {
	t.Helper()
	return newResolver(t, testConfig(t, s.addr))
}

// lookup returns the addresses as one string, or the error.
func lookup(t testing.TB, r *Resolver, network, host string) (string, error) {
	t.Helper()
	addrs, err := r.LookupNetIP(t.Context(), network, host)
	return join(addrs), err
}

func join(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, " ")
}

func wantAddrs(t testing.TB, r *Resolver, network, host, want string) {
	t.Helper()
	if got, err := lookup(t, r, network, host); got != want || err != nil {
		t.Errorf("LookupNetIP(%s, %q) = %q, %v, want %q", network, host, got, err, want)
	}
}

// wantError checks that err is a *net.DNSError for name with the given flags:
// any of "notfound", "nodata", "timeout", "temporary", "canceled", "closed".
func wantError(t testing.TB, err error, name, flags string) {
	t.Helper()
	var e *net.DNSError
	if !errors.As(err, &e) {
		t.Errorf("error = %#v, want a *net.DNSError", err)
		return
	}
	if e.Name != name {
		t.Errorf("error names %q, want %q", e.Name, name)
	}
	if got := errorFlags(err); got != flags {
		t.Errorf("error %q is %q, want %q", err, got, flags)
	}
}

func errorFlags(err error) string {
	var e *net.DNSError
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{e.IsNotFound, "notfound"},
		{errors.Is(err, ErrNoData), "nodata"},
		{e.Timeout(), "timeout"},
		{e.IsTemporary, "temporary"},
		{errors.Is(err, os.ErrDeadlineExceeded), "try"},
		{errors.Is(err, context.Canceled), "canceled"},
		{errors.Is(err, context.DeadlineExceeded), "deadline"},
		{errors.Is(err, net.ErrClosed), "closed"},
	} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	return strings.Join(flags, " ")
}
