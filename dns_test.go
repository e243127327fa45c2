package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop"
)

var bg = context.Background()

// A nameServer is a server on the loopback interface, UDP and TCP.
type nameServer struct {
	addr string

	mu    sync.Mutex // guards the following
	asked map[string]int
}

// serveNames starts a server that passes questions to h.
func serveNames(t testing.TB, h dns.HandlerFunc) *nameServer {
	t.Helper()
	pc, ln := listenBoth(t)
	s := &nameServer{addr: pc.LocalAddr().String(), asked: make(map[string]int)}
	counted := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.mu.Lock()
		s.asked[q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]]++
		s.mu.Unlock()
		h(w, q)
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: counted}, {Listener: ln, Handler: counted}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			srv.Shutdown()
			if err := <-ended; err != nil {
				t.Errorf("name server: %v", err)
			}
		})
	}
	return s
}

// listenBoth returns a UDP and a TCP socket with the same port.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 { // the TCP port may be in use
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if ln, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln
		}
		pc.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// total returns the number of queries that arrived.
func (s *nameServer) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.asked {
		n += k
	}
	return n
}

// count returns how often a question arrived, such as "a.test. A".
func (s *nameServer) count(question string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[question]
}

// zone replies from records, as a server with authority over all names does.
func zone(records ...string) dns.HandlerFunc {
	var rrs []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(zoneReply(rrs, q)) }
}

func zoneReply(rrs []dns.RR, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	m.Rcode = dns.RcodeNameError
	for _, rr := range rrs {
		if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
			m.Rcode = dns.RcodeSuccess
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR("test. 300 IN SOA ns.test. admin.test. 1 2 3 4 300")
		m.Ns = append(m.Ns, soa)
	}
	return m
}

// silence never replies.
func silence(dns.ResponseWriter, *dns.Msg) {}

// namesConfig returns the configuration of a loop that queries servers, and ignores
// the files of this machine.
func namesConfig(t testing.TB, servers ...string) *eventloop.Config {
	t.Helper()
	return &eventloop.Config{Resolver: &eventloop.ResolverConfig{
		Servers:    servers,
		Timeout:    10 * time.Second,
		ResolvConf: tempFile(t, "resolv.conf", ""),
		HostsFile:  tempFile(t, "hosts", ""),
		NSSwitch:   tempFile(t, "nsswitch.conf", "hosts: files dns\n"),
		Search:     []string{},
	}}
}

func tempFile(t testing.TB, name, contents string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(contents), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// record returns a callback for Then that records its arguments.
func record[T any](calls *int, v *T, err *error) func(T, error) {
	return func(v1 T, err1 error) {
		*calls++
		*v, *err = v1, err1
	}
}

// mustAwait returns the result of f in a task. If it is an error, the task ends.
func mustAwait[T any](t *testing.T, task *eventloop.Task, f *eventloop.Future[T]) T {
	t.Helper()
	v, err := f.Await(task)
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	return v
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// wantLookupError checks an error of a lookup of name: its type, and the flags of
// the *net.DNSError, such as "notfound".
func wantLookupError(t testing.TB, err error, name, flags string) {
	t.Helper()
	var op *eventloop.OpError
	if !errors.As(err, &op) || op != err {
		t.Errorf("error = %#v, want an *OpError", err)
		return
	}
	wantEqual(t, "Op", op.Op, "lookup")
	wantEqual(t, "Addr", op.Addr, name)
	for _, sentinel := range []error{eventloop.ErrDNS, eventloop.ErrConn} {
		wantEqual(t, fmt.Sprintf("errors.Is(%v, %v)", err, sentinel), errors.Is(err, sentinel), true)
	}
	wantEqual(t, "IsInfo", eventloop.IsInfo(err), false)
	var de *net.DNSError
	if !errors.As(err, &de) {
		t.Errorf("error %v is around %T, want a *net.DNSError", err, op.Err)
		return
	}
	var got []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{de.IsNotFound, "notfound"}, {de.IsTimeout, "timeout"}, {de.IsTemporary, "temporary"},
		{errors.Is(err, eventloop.ErrTimeout), "ErrTimeout"}, {errors.Is(err, eventloop.ErrDNSNoData), "nodata"},
		{errors.Is(err, context.Canceled), "canceled"}, {errors.Is(err, context.DeadlineExceeded), "deadline"},
	} {
		if f.set {
			got = append(got, f.name)
		}
	}
	wantEqual(t, fmt.Sprintf("flags of %v", err), strings.Join(got, " "), flags)
}

func TestLookupOfLocalhostIsTheLoopbackAddress(t *testing.T) { // cl-async: dns-lookup-simple
	ns := serveNames(t, silence)
	var calls int
	var got []netip.Addr
	var err error
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		l.LookupNetIP(bg, "ip4", "localhost").Then(record(&calls, &got, &err))
	})
	wantEqual(t, "calls", calls, 1)
	wantEqual(t, "error", err, nil)
	wantSlice(t, "addresses", got, addrs("127.0.0.1"))
	wantEqual(t, "queries", ns.total(), 0)
}

func TestTwoLookupsAtOnceBothSucceed(t *testing.T) { // cl-async: dns-lookup-multi
	ns := serveNames(t, zone("a.test. 60 IN A 192.0.2.1", "b.test. 60 IN A 192.0.2.2"))
	var calls [2]int
	var got [2][]netip.Addr
	var errs [2]error
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		l.LookupNetIP(bg, "ip", "a.test").Then(record(&calls[0], &got[0], &errs[0]))
		l.LookupNetIP(bg, "ip", "b.test").Then(record(&calls[1], &got[1], &errs[1]))
		wantEqual(t, "open queries", l.Stats().DNS.Lookups, 2)
	})
	wantEqual(t, "calls", calls, [2]int{1, 1})
	wantEqual(t, "errors", errs, [2]error{})
	wantSlice(t, "addresses of a.test", got[0], addrs("192.0.2.1"))
	wantSlice(t, "addresses of b.test", got[1], addrs("192.0.2.2"))
}

func TestLookupReturnsTheRequestedFamily(t *testing.T) { // cl-async: dns-lookup-family
	ns := serveNames(t, zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1"))
	for network, want := range map[string][]netip.Addr{"ip4": addrs("192.0.2.1"), "ip6": addrs("2001:db8::1")} {
		var calls int
		var got []netip.Addr
		var err error
		mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
			l.LookupNetIP(bg, network, "a.test").Then(record(&calls, &got, &err))
		})
		wantEqual(t, "calls", calls, 1)
		wantEqual(t, "error", err, nil)
		wantSlice(t, network, got, want)
	}
	wantEqual(t, "queries", ns.total(), 2)
}

func TestAPanicWithTheErrorOfALookupLeavesRunOnce(t *testing.T) { // cl-async: dns-fail
	ns := serveNames(t, zone())
	calls := 0
	panicked, _ := outcome(func() {
		runLoop(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
			l.LookupNetIP(bg, "ip", "no-such-host.test").Then(func(_ []netip.Addr, err error) {
				calls++
				panic(err)
			})
		})
	})
	wantEqual(t, "calls", calls, 1)
	pe, ok := panicked.(*eventloop.PanicError)
	if !ok {
		t.Fatalf("Run panicked with %v, want a *PanicError", panicked)
	}
	wantLookupError(t, pe.Unwrap(), "no-such-host.test", "notfound")
}

func TestReverseLookup(t *testing.T) { // cl-async: reverse-dns-lookup
	ns := serveNames(t, zone("1.2.0.192.in-addr.arpa. 60 IN PTR a.test.",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR six.test."))
	for addr, want := range map[string]string{"192.0.2.1": "a.test.", "::ffff:192.0.2.1": "a.test.", "2001:db8::1": "six.test."} {
		var calls int
		var got []string
		var err error
		mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
			l.LookupAddr(bg, netip.MustParseAddr(addr)).Then(record(&calls, &got, &err))
		})
		wantEqual(t, "calls", calls, 1)
		wantEqual(t, "error", err, nil)
		wantSlice(t, "names of "+addr, got, []string{want})
	}
}

func TestReverseLookupFails(t *testing.T) {
	ns := serveNames(t, zone("9.2.0.192.in-addr.arpa. 60 IN PTR good.test.", "9.2.0.192.in-addr.arpa. 60 IN PTR <script>.test."))
	cfg := namesConfig(t, ns.addr)
	cfg.Resolver.HostsFile = tempFile(t, "hosts", "192.0.2.5 five.test five\n")
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			_, err := l.LookupAddr(bg, netip.MustParseAddr("192.0.2.7")).Await(task)
			wantLookupError(t, err, "192.0.2.7", "notfound")
			_, err = l.LookupAddr(bg, netip.Addr{}).Await(task)
			wantLookupError(t, err, "invalid IP", "notfound")
			names, err := l.LookupAddr(bg, netip.MustParseAddr("192.0.2.9")).Await(task)
			wantSlice(t, "names together with the error", names, []string{"good.test."})
			wantLookupError(t, err, "192.0.2.9", "")
			names = mustAwait(t, task, l.LookupAddr(bg, netip.MustParseAddr("192.0.2.5")))
			wantSlice(t, "names in the file", names, []string{"five.test.", "five"})
			return nil
		})
	})
}

func TestNothingIsLeftOneTurnAfterALookup(t *testing.T) { // cl-async: dns-lookup-mem-leak
	ns := serveNames(t, zone("a.test. 60 IN A 192.0.2.1", "1.2.0.192.in-addr.arpa. 60 IN PTR a.test."))
	for what, start := range map[string]func(l *eventloop.Loop, then func(error)){
		"LookupNetIP": func(l *eventloop.Loop, then func(error)) {
			l.LookupNetIP(bg, "ip4", "a.test").Then(func(_ []netip.Addr, err error) { then(err) })
		},
		"LookupAddr": func(l *eventloop.Loop, then func(error)) {
			l.LookupAddr(bg, netip.MustParseAddr("192.0.2.1")).Then(func(_ []string, err error) { then(err) })
		},
		"Query": func(l *eventloop.Loop, then func(error)) {
			l.Query(bg, "a.test", dns.TypeTXT).Then(func(_ *dns.Msg, err error) { then(err) })
		},
		"a failure": func(l *eventloop.Loop, then func(error)) {
			l.LookupNetIP(bg, "ip6", "a.test").Then(func(_ []netip.Addr, err error) {
				wantLookupError(t, err, "a.test", "notfound nodata")
				then(nil)
			})
		},
	} {
		mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
			before := l.Stats()
			start(l, func(err error) {
				wantEqual(t, what, err, nil)
				l.Post(func() {
					after := l.Stats()
					wantEqual(t, what+": open queries", after.DNS.Lookups, before.DNS.Lookups)
					wantEqual(t, what+": handles", after.Loop.Handles, before.Loop.Handles)
					wantEqual(t, what+": callbacks", after.Loop.Callbacks, before.Loop.Callbacks)
				})
			})
			wantEqual(t, what+": open queries meanwhile", l.Stats().DNS.Lookups, 1)
		})
	}
}

func TestLaw2NoLookupCallsBackBeforeItReturns(t *testing.T) {
	ns := serveNames(t, zone("a.test. 60 IN A 192.0.2.1"))
	cfg := namesConfig(t, ns.addr)
	cfg.Resolver.HostsFile = tempFile(t, "hosts", "192.0.2.5 five.test\n")
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			mustAwait(t, task, l.LookupNetIP(bg, "ip", "a.test")) // cached from now on
			l.LookupNetIP(bg, "ip", "none.test").Await(task)
			for host, want := range map[string]int{
				"192.0.2.1": 1, "2001:db8::1": 1, "fe80::1%lo": 1, "::ffff:192.0.2.1": 1,
				"a.test": 1, "five.test": 1, "localhost": 2, "none.test": 0, "-bad-.test": 0, "": 0, "x.invalid": 0,
			} {
				for _, network := range []string{"ip", "bogus"} {
					called := 0
					f := l.LookupNetIP(bg, network, host)
					select {
					case <-f.Done():
					default:
						t.Errorf("%s %q is not resolved at once", network, host)
					}
					f.Then(func(addrs []netip.Addr, err error) {
						called++
						if network == "ip" {
							wantEqual(t, fmt.Sprintf("addresses of %q", host), len(addrs), want)
						}
						wantEqual(t, fmt.Sprintf("%s %q fails", network, host), err != nil, want == 0 || network == "bogus")
					})
					wantEqual(t, fmt.Sprintf("calls before LookupNetIP(%s, %q).Then returned", network, host), called, 0)
					task.Yield()
					wantEqual(t, fmt.Sprintf("calls for %s %q", network, host), called, 1)
				}
			}
			wantEqual(t, "open queries", l.Stats().DNS.Lookups, 0)
			return nil
		})
	})
	wantEqual(t, "queries", ns.total(), 4)
}

func TestTheFirstLookupOfALiteralSendsNoQuery(t *testing.T) {
	var got []netip.Addr
	var calls int
	var err error
	mustRun(t, namesConfig(t, "192.0.2.53"), func(l *eventloop.Loop) {
		l.LookupNetIP(bg, "ip", "192.0.2.1").Then(record(&calls, &got, &err))
		wantEqual(t, "calls", calls, 0)
		wantEqual(t, "open queries", l.Stats().DNS.Lookups, 0)
		l.LookupNetIP(bg, "ip6", "192.0.2.1").Then(func(_ []netip.Addr, err error) {
			wantLookupError(t, err, "192.0.2.1", "notfound")
		})
	})
	wantEqual(t, "calls", calls, 1)
	wantEqual(t, "error", err, nil)
	wantSlice(t, "addresses", got, addrs("192.0.2.1"))
}

func TestErrorsOfLookups(t *testing.T) {
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		switch q.Question[0].Name {
		case "fail.test.":
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		case "refuse.test.":
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
		case "silent.test.":
		default:
			zone("four.test. 60 IN A 192.0.2.4")(w, q)
		}
	})
	cfg := namesConfig(t, ns.addr)
	cfg.Resolver.Attempts = 1
	impatient := namesConfig(t, ns.addr)
	impatient.Resolver.Attempts, impatient.Resolver.Timeout = 1, 50*time.Millisecond
	mustRun(t, impatient, func(l *eventloop.Loop) {
		l.LookupNetIP(bg, "ip", "silent.test").Then(func(_ []netip.Addr, err error) {
			wantLookupError(t, err, "silent.test", "timeout temporary ErrTimeout")
		})
	})
	deadline, cancel := context.WithTimeout(bg, time.Millisecond)
	defer cancel()
	<-deadline.Done()
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			for _, tt := range []struct {
				ctx                  context.Context
				network, host, flags string
			}{
				{bg, "ip", "none.test", "notfound"},
				{bg, "ip6", "four.test", "notfound nodata"},
				{bg, "ip", "fail.test", "temporary"},
				{bg, "ip", "refuse.test", ""},
				{bg, "ip", "", "notfound"},
				{bg, "ip", strings.Repeat("a", 300) + ".test", "notfound"},
				{bg, "ip", "a..test", "notfound"},
				{bg, "ip", "x.onion", "notfound"},
				{deadline, "ip", "192.0.2.1", "timeout temporary ErrTimeout deadline"},
				{deadline, "ip", "four.test", "timeout temporary ErrTimeout deadline"},
			} {
				_, err := l.LookupNetIP(tt.ctx, tt.network, tt.host).Await(task)
				wantLookupError(t, err, tt.host, tt.flags)
			}
			_, err := l.LookupNetIP(bg, "tcp", "four.test").Await(task)
			if !errors.Is(err, net.UnknownNetworkError("tcp")) || !errors.Is(err, eventloop.ErrDNS) {
				t.Errorf("error = %v, want an unknown network", err)
			}
			_, err = l.LookupNetIP(bg, "ip", "none.test").Await(task)
			wantEqual(t, "message", err.Error(), "lookup none.test on "+ns.addr+": no such host")
			return nil
		})
	})
}

func TestQueryReturnsRepliesAndErrors(t *testing.T) {
	big := make([]string, 0, 100)
	for i := range 100 {
		big = append(big, fmt.Sprintf("big.test. 60 IN TXT %q", fmt.Sprintf("%03d %s", i, strings.Repeat("x", 100))))
	}
	records := append(big, "a.test. 60 IN MX 10 mail.test.", "a.test. 60 IN TXT hello",
		"_s._tcp.test. 60 IN SRV 1 2 443 a.test.", "a.test. 60 IN TYPE65280 \\# 4 0a000001")
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && q.Question[0].Name == "big.test." {
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
			return
		}
		zone(records...)(w, q)
	})
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			for _, tt := range []struct {
				name  string
				qtype uint16
				n     int
				rcode int
			}{
				{"a.test", dns.TypeMX, 1, dns.RcodeSuccess},
				{"A.Test.", dns.TypeTXT, 1, dns.RcodeSuccess},
				{"_s._tcp.test", dns.TypeSRV, 1, dns.RcodeSuccess},
				{"a.test", 65280, 1, dns.RcodeSuccess},
				{"a.test", dns.TypeCAA, 0, dns.RcodeSuccess},
				{"none.test", dns.TypeMX, 0, dns.RcodeNameError},
				{"big.test", dns.TypeTXT, 100, dns.RcodeSuccess},
			} {
				m := mustAwait(t, task, l.Query(bg, tt.name, tt.qtype))
				what := tt.name + " " + dns.Type(tt.qtype).String()
				wantEqual(t, what+": records", len(m.Answer), tt.n)
				wantEqual(t, what+": rcode", m.Rcode, tt.rcode)
			}
			first := mustAwait(t, task, l.Query(bg, "a.test", dns.TypeMX))
			first.Answer[0].(*dns.MX).Mx = "changed.test."
			second := mustAwait(t, task, l.Query(bg, "a.test", dns.TypeMX))
			wantEqual(t, "the message after its copy was changed", second.Answer[0].(*dns.MX).Mx, "mail.test.")
			for _, bad := range []struct {
				name  string
				qtype uint16
			}{{"", dns.TypeA}, {"a.test", dns.TypeAXFR}, {"localhost", dns.TypeA}, {strings.Repeat("a", 64) + ".test", dns.TypeA}} {
				_, err := l.Query(bg, bad.name, bad.qtype).Await(task)
				var op *eventloop.OpError
				if !errors.As(err, &op) || !errors.Is(err, eventloop.ErrDNS) || op.Addr != bad.name {
					t.Errorf("Query(%q, %d): %v", bad.name, bad.qtype, err)
				}
			}
			return nil
		})
	})
	wantEqual(t, "queries for a.test MX", ns.count("a.test. MX"), 1)
	wantEqual(t, "queries for big.test TXT", ns.count("big.test. TXT"), 2)
}

func TestAThousandLookupsOfOneNameAreOneQueryPerFamily(t *testing.T) {
	const n = 1000
	var loop atomic.Pointer[eventloop.Loop]
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		// Wait until all lookups have begun, or some would find the answer in the cache.
		eventually(func() bool { return loop.Load().Stats().DNS.CacheMissesTotal == n })
		zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1")(w, q)
	})
	calls := 0
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		loop.Store(l)
		for range n {
			l.LookupNetIP(bg, "ip", "a.test").Then(func(addrs []netip.Addr, err error) {
				calls++
				if err != nil || len(addrs) != 2 {
					t.Errorf("lookup = %v, %v", addrs, err)
				}
			})
		}
		wantEqual(t, "open queries", l.Stats().DNS.Lookups, n)
		l.OnExit(func() {
			s := l.Stats()
			wantEqual(t, "misses", s.DNS.CacheMissesTotal, n)
			wantEqual(t, "queries counted", s.DNS.QueriesTotal, 2)
		})
	})
	wantEqual(t, "calls", calls, n)
	wantEqual(t, "A queries", ns.count("a.test. A"), 1)
	wantEqual(t, "AAAA queries", ns.count("a.test. AAAA"), 1)
}

func TestStatsCountTheCacheAndTheQueries(t *testing.T) {
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name == "fail.test." {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
			return
		}
		zone("a.test. 60 IN A 192.0.2.1")(w, q)
	})
	cfg := namesConfig(t, ns.addr)
	cfg.Resolver.Attempts = 1
	cfg.Resolver.NoEDNS = true // otherwise there is another attempt without EDNS
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			wantEqual(t, "queries before any", l.Stats().DNS.QueriesTotal, 0)
			mustAwait(t, task, l.LookupNetIP(bg, "ip4", "a.test"))
			mustAwait(t, task, l.LookupNetIP(bg, "ip4", "a.test"))
			mustAwait(t, task, l.LookupNetIP(bg, "ip4", "A.TEST"))
			l.LookupNetIP(bg, "ip4", "fail.test").Await(task)
			s := l.Stats()
			wantEqual(t, "entries", s.DNS.CacheEntries, 4) // two per lookup: the question, and the name
			wantEqual(t, "hits", s.DNS.CacheHitsTotal, 2)
			wantEqual(t, "misses", s.DNS.CacheMissesTotal, 2)
			wantEqual(t, "queries", s.DNS.QueriesTotal, 2)
			wantEqual(t, "failures", s.DNS.FailuresTotal, 1)
			wantEqual(t, "open", s.DNS.Lookups, 0)
			return nil
		})
	})
}

func TestForgedAndGarbledPacketsAreIgnored(t *testing.T) {
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	pc, ln := listenBoth(t)
	ln.Close()
	blind, err := net.ListenPacket("udp", "127.0.0.1:0") // knows everything but the port of the resolver
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	sent := 0
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				t.Error("the query is malformed")
				return
			}
			good := zoneReply([]dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: "a.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.IPv4(192, 0, 2, 1),
			}}, q)
			evil := good.Copy()
			evil.Answer[0].(*dns.A).A = net.IPv4(203, 0, 113, 66)
			packed, _ := evil.Pack()
			blind.WriteTo(packed, from)
			// Few enough for the buffer of the socket; if it is full anyway, the
			// resolver sends the query again.
			for range 12 {
				for _, p := range garble(random, evil) {
					pc.WriteTo(p, from)
					sent++
				}
			}
			packed, _ = good.Pack()
			pc.WriteTo(packed, from)
		}
	}()
	cfg := namesConfig(t, pc.LocalAddr().String())
	cfg.Resolver.Timeout, cfg.Resolver.Attempts, cfg.Resolver.CacheSize = 200*time.Millisecond, 30, -1
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			for range 10 {
				wantSlice(t, "addresses", mustAwait(t, task, l.LookupNetIP(bg, "ip4", "a.test")), addrs("192.0.2.1"))
			}
			return nil
		})
	})
	pc.Close()
	blind.Close()
	<-done
	if sent < 1000 {
		t.Errorf("only %d packets were forged", sent)
	}
}

// garble returns packets derived from a reply that must not be accepted as the reply.
func garble(random *rand.Rand, m *dns.Msg) (packets [][]byte) {
	change := func(f func(m *dns.Msg)) {
		c := m.Copy()
		f(c)
		p, _ := c.Pack()
		packets = append(packets, p)
	}
	change(func(m *dns.Msg) { m.Id ^= 1 << random.UintN(16) })
	change(func(m *dns.Msg) { m.Response = false })
	change(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify })
	change(func(m *dns.Msg) { m.Question[0].Name = "b.test." })
	change(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })
	change(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
	change(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
	change(func(m *dns.Msg) { m.Question = nil })
	whole, _ := m.Pack()
	packets = append(packets, nil, whole[:random.IntN(len(whole))])
	garbage := make([]byte, random.IntN(600))
	for i := range garbage {
		garbage[i] = byte(random.Uint32())
	}
	return append(packets, garbage)
}

// pipeNames returns a Dial for a resolver in a synctest bubble, and the number of
// queries that h has answered.
func pipeNames(h func(q *dns.Msg) *dns.Msg) (dial func(context.Context, string, string) (net.Conn, error), asked *atomic.Int64) {
	asked = new(atomic.Int64)
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			c := &dns.Conn{Conn: server}
			for {
				q, err := c.ReadMsg()
				if err != nil {
					return
				}
				asked.Add(1)
				if m := h(q); m != nil && c.WriteMsg(m) != nil {
					return
				}
			}
		}()
		return client, nil
	}, asked
}

func TestAnAnswerIsCachedForItsTTLAndTheCacheDoesNotKeepTheLoopAlive(t *testing.T) {
	a, _ := dns.NewRR("a.test. 60 IN A 192.0.2.1")
	cfg := namesConfig(t, "192.0.2.53")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked *atomic.Int64
		cfg.Resolver.Dial, asked = pipeNames(func(q *dns.Msg) *dns.Msg { return zoneReply([]dns.RR{a}, q) })
		err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			l.Go(bg, func(task *eventloop.Task) error {
				for _, step := range []struct {
					after time.Duration
					asked int64
				}{{0, 1}, {59 * time.Second, 1}, {2 * time.Second, 2}} {
					task.Sleep(step.after)
					mustAwait(t, task, l.LookupNetIP(bg, "ip4", "a.test"))
					wantEqual(t, fmt.Sprintf("queries after %v", time.Since(began)), asked.Load(), step.asked)
				}
				return nil
			})
			return nil
		})
		wantEqual(t, "error", err, nil)
		wantEqual(t, "life of the loop", time.Since(began), 61*time.Second)
	})
}

func TestQueriesAreBoundedByTimeoutAndAttempts(t *testing.T) {
	cfg := namesConfig(t, "192.0.2.53", "192.0.2.54")
	cfg.Resolver.Timeout, cfg.Resolver.Attempts = 3*time.Second, 2
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked *atomic.Int64
		cfg.Resolver.Dial, asked = pipeNames(func(*dns.Msg) *dns.Msg { return nil })
		err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			l.LookupNetIP(bg, "ip4", "a.test").Then(func(_ []netip.Addr, err error) {
				wantLookupError(t, err, "a.test", "timeout temporary ErrTimeout")
			})
			return nil
		})
		wantEqual(t, "error", err, nil)
		wantEqual(t, "took", time.Since(began), 12*time.Second)
		wantEqual(t, "queries", asked.Load(), 4)
	})
}

func TestTheConfigSetsHostsFileAndResolvConf(t *testing.T) {
	ns := serveNames(t, zone("www.corp.test. 60 IN A 192.0.2.1", "x.y. 60 IN A 192.0.2.2"))
	var log strings.Builder
	cfg := namesConfig(t)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	cfg.Resolver.Search = nil
	cfg.Resolver.ResolvConf = tempFile(t, "resolv.conf", "nameserver 127.0.0.1\nnameserver bogus\nsearch corp.test\noptions ndots:2 attempts:1\n")
	cfg.Resolver.HostsFile = tempFile(t, "hosts", "192.0.2.7 seven\n2001:db8::7 seven\n")
	cfg.Resolver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		wantEqual(t, "server", address, "127.0.0.1:53")
		return new(net.Dialer).DialContext(ctx, network, ns.addr)
	}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			for host, want := range map[string]string{"www": "192.0.2.1", "x.y": "192.0.2.2", "seven": "192.0.2.7"} {
				wantSlice(t, host, mustAwait(t, task, l.LookupNetIP(bg, "ip4", host)), addrs(want))
			}
			return nil
		})
	})
	wantEqual(t, "queries for the search list before the name itself", ns.count("x.y.corp.test. A"), 1)
	wantEqual(t, "warnings", strings.Count(log.String(), "level=WARN"), 1)
	wantEqual(t, "the warning names the mistake", strings.Contains(log.String(), "bogus"), true)
}

func TestAnInvalidResolverConfigFailsOperationsThatNeedNames(t *testing.T) {
	for what, change := range map[string]func(c *eventloop.ResolverConfig){
		`server "ns.test" is not an IP address`:   func(c *eventloop.ResolverConfig) { c.Servers = []string{"ns.test"} },
		`server "192.0.2.1:0" has port 0`:         func(c *eventloop.ResolverConfig) { c.Servers = []string{"192.0.2.1:0"} },
		`search "a..b" is not a domain name`:      func(c *eventloop.ResolverConfig) { c.Search = []string{"a..b"} },
		`negative Attempts -1`:                    func(c *eventloop.ResolverConfig) { c.Attempts = -1 },
		`negative Timeout -1ns`:                   func(c *eventloop.ResolverConfig) { c.Timeout = -1 },
		`server "192.0.2.1:dns" is not an IP add`: func(c *eventloop.ResolverConfig) { c.Servers = []string{"192.0.2.1:dns"} },
	} {
		cfg := namesConfig(t)
		change(cfg.Resolver)
		ln := acceptAndClose(t, "127.0.0.1:0")
		failed, connected := 0, 0
		mustRun(t, cfg, func(l *eventloop.Loop) {
			check := func(err error) {
				failed++
				if err == nil || !strings.Contains(err.Error(), what) || !errors.Is(err, eventloop.ErrDNS) {
					t.Errorf("error = %v, want %s", err, what)
				}
			}
			l.LookupNetIP(bg, "ip", "a.test").Then(func(_ []netip.Addr, err error) {
				check(err)
				wantLookupError(t, err, "a.test", "")
			})
			l.LookupAddr(bg, netip.MustParseAddr("192.0.2.1")).Then(func(_ []string, err error) { check(err) })
			l.Query(bg, "a.test", dns.TypeMX).Then(func(_ *dns.Msg, err error) { check(err) })
			l.Dial(bg, "tcp", "a.test:80", &eventloop.ConnConfig{OnEvent: func(_ *eventloop.Conn, err error) { check(err) }})
			l.Dial(bg, "tcp", ln.Addr().String(), &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { connected++; c.Abort() }})
		})
		wantEqual(t, "failures", failed, 4)
		wantEqual(t, "connections to an address", connected, 1)
	}
}

// Package idna treats bytes that are not UTF-8 as the replacement character, so all
// such names would be the same name.
func TestANameThatIsNotUTF8IsNotFoundAndNotQueried(t *testing.T) {
	ns := serveNames(t, zone("xn--zn7c.test. 60 IN A 127.0.0.1", "xn--zn7ca.test. 60 IN A 127.0.0.1"))
	for _, name := range []string{"\xff\xfe.test", "\xc3.test", "\xed\xa0\x80.test", "\u00fc\xff.test", "\ufffd.test"} {
		failed := 0
		mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
			check := func(err error) {
				failed++
				wantLookupError(t, err, name, "notfound")
			}
			l.LookupNetIP(bg, "ip", name).Then(func(_ []netip.Addr, err error) { check(err) })
			l.Query(bg, name, dns.TypeMX).Then(func(_ *dns.Msg, err error) { check(err) })
			l.Dial(bg, "tcp", name+":80", &eventloop.ConnConfig{OnEvent: func(_ *eventloop.Conn, err error) {
				failed++
				wantIs(t, err, eventloop.ErrDNS)
			}})
			l.HTTP().Get(bg, "http://"+name+"/").Then(func(_ *eventloop.HTTPResponse, err error) {
				failed++
				wantIs(t, err, eventloop.ErrHTTP)
			})
		})
		wantEqual(t, fmt.Sprintf("failures of %q", name), failed, 4)
	}
	wantEqual(t, "queries", ns.total(), 0)
}

// acceptAndClose listens, and closes each accepted connection when the peer does.
func acceptAndClose(t testing.TB, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
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
			wg.Go(func() { defer c.Close(); io.Copy(io.Discard, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln
}

func TestLookupsBeforeRunAndAfterTheEndFail(t *testing.T) {
	l := eventloop.New(namesConfig(t, "192.0.2.53"))
	check := func(want error) {
		t.Helper()
		_, err := l.LookupNetIP(bg, "ip", "192.0.2.1").Result()
		wantEqual(t, "LookupNetIP", err, want)
		_, err = l.LookupAddr(bg, netip.MustParseAddr("192.0.2.1")).Result()
		wantEqual(t, "LookupAddr", err, want)
		_, err = l.Query(bg, "a.test", dns.TypeA).Result()
		wantEqual(t, "Query", err, want)
	}
	check(eventloop.ErrNotRunning)
	wantEqual(t, "error of Run", l.Run(bg), nil)
	check(eventloop.ErrLoopClosed)
}

// A stage is a point at which a lookup waits. start begins a lookup and returns its
// subject; reached is closed when the lookup is at that point.
var stages = map[string]func(t *testing.T, cfg *eventloop.Config, reached func()){
	"UDP": func(t *testing.T, cfg *eventloop.Config, reached func()) {
		cfg.Resolver.Servers = []string{serveNames(t, func(dns.ResponseWriter, *dns.Msg) { reached() }).addr}
	},
	"TCP": func(t *testing.T, cfg *eventloop.Config, reached func()) {
		cfg.Resolver.Servers = []string{serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
			if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
				reached()
				return
			}
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
		}).addr}
	},
	"connecting": func(t *testing.T, cfg *eventloop.Config, reached func()) {
		cfg.Resolver.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			reached()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	},
	"TLS": func(t *testing.T, cfg *eventloop.Config, reached func()) {
		ln := acceptAndClose(t, "127.0.0.1:0")
		cfg.Resolver.TLS = &tls.Config{InsecureSkipVerify: true}
		cfg.Resolver.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			defer reached()
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		}
	},
}

// stage prepares one of the stages. The server never replies, so that only the test
// can end the wait.
func stage(t *testing.T, name string) (cfg *eventloop.Config, reached chan struct{}) {
	cfg = namesConfig(t, "192.0.2.53")
	cfg.Resolver.Timeout = time.Hour
	reached = make(chan struct{})
	var once sync.Once
	stages[name](t, cfg, func() { once.Do(func() { close(reached) }) })
	return cfg, reached
}

// whenReached posts f when reached is closed.
func whenReached(l *eventloop.Loop, reached chan struct{}, f func()) {
	eventloop.Receive(l, reached, func(struct{}, bool) { f() })
}

func TestCancellationEndsALookupAtEveryStage(t *testing.T) {
	boom := errors.New("boom")
	for name := range stages {
		t.Run(name, func(t *testing.T) {
			cfg, reached := stage(t, name)
			ctx, cancel := context.WithCancelCause(bg)
			calls := 0
			mustRun(t, cfg, func(l *eventloop.Loop) {
				l.LookupNetIP(ctx, "ip", "a.test").Then(func(_ []netip.Addr, err error) {
					calls++
					wantLookupError(t, err, "a.test", "canceled")
					wantEqual(t, "errors.Is(err, cause)", errors.Is(err, boom), true)
				})
				whenReached(l, reached, func() { cancel(boom) })
			})
			wantEqual(t, "calls", calls, 1)
		})
	}
}

func TestACanceledLookupDoesNotEndIdenticalLookups(t *testing.T) {
	release := make(chan struct{})
	ns := serveNames(t, func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		zone("a.test. 60 IN A 192.0.2.1")(w, q)
	})
	ctx, cancel := context.WithCancel(bg)
	calls, left := 0, 0
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		l.LookupNetIP(ctx, "ip4", "a.test").Then(func(_ []netip.Addr, err error) {
			left++
			wantLookupError(t, err, "a.test", "canceled")
			close(release)
		})
		l.LookupNetIP(bg, "ip4", "a.test").Then(func(addrs []netip.Addr, err error) {
			calls++
			wantEqual(t, "addresses", len(addrs), 1)
		})
		cancel()
	})
	wantEqual(t, "canceled lookups", left, 1)
	wantEqual(t, "completed lookups", calls, 1)
}

func TestTheEndOfTheLoopEndsLookupsAtEveryStage(t *testing.T) {
	for name := range stages {
		t.Run(name, func(t *testing.T) {
			cfg, reached := stage(t, name)
			var fs []*eventloop.Future[[]netip.Addr]
			mustRun(t, cfg, func(l *eventloop.Loop) {
				for i := range 20 {
					f := l.LookupNetIP(bg, "ip", fmt.Sprintf("n%d.test", i/2))
					f.Then(func(_ []netip.Addr, err error) { t.Error("callback after the end") })
					fs = append(fs, f)
				}
				l.LookupAddr(bg, netip.MustParseAddr("192.0.2.1"))
				l.Query(bg, "a.test", dns.TypeMX)
				whenReached(l, reached, l.Stop)
			})
			for _, f := range fs {
				_, err := f.Result()
				wantEqual(t, "error", err, eventloop.ErrLoopClosed)
			}
		})
	}
}

func TestLaw6NothingOfTheResolverIsLeftWhenRunReturns(t *testing.T) {
	cfg, reached := namesConfig(t, "192.0.2.53"), make(chan struct{}, 100)
	var running atomic.Int64
	cfg.Resolver.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		running.Add(1)
		defer running.Add(-1)
		reached <- struct{}{}
		<-ctx.Done()
		time.Sleep(20 * time.Millisecond) // slow to return: Run waits for it
		return nil, ctx.Err()
	}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(bg)
		left := 0
		var r *eventloop.Receiver[struct{}]
		r = eventloop.Receive(l, reached, func(struct{}, bool) {
			if left++; left == 2 { // both families
				cancel()
				r.Stop()
			}
		})
		l.LookupNetIP(ctx, "ip", "left.test").Then(func(_ []netip.Addr, err error) {
			wantLookupError(t, err, "left.test", "canceled")
		})
	})
	wantEqual(t, "calls of Dial that run after Run", running.Load(), 0)
}

func TestAnUnrefdLookupDoesNotKeepTheLoopAlive(t *testing.T) {
	cfg, reached := stage(t, "UDP")
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.LookupNetIP(bg, "ip", "a.test").Unref()
		names := handleNames(l)
		wantEqual(t, "the lookup is listed", strings.HasPrefix(names, "lookup a.test ") && strings.Contains(names, "(unref)"), true)
		whenReached(l, reached, func() {})
	})
}

func TestLookupsInTasks(t *testing.T) {
	ns := serveNames(t, zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN MX 10 b.test.", "b.test. 60 IN A 192.0.2.2"))
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		for range 2 {
			l.Go(bg, func(task *eventloop.Task) error {
				m := mustAwait(t, task, l.Query(task.Context(), "a.test", dns.TypeMX))
				mail := m.Answer[0].(*dns.MX).Mx
				got := mustAwait(t, task, l.LookupNetIP(task.Context(), "ip", mail))
				wantSlice(t, "addresses of "+mail, got, addrs("192.0.2.2"))
				return nil
			})
		}
	})
}

func TestTheEndOfATaskEndsItsLookup(t *testing.T) {
	cfg, reached := stage(t, "UDP")
	ctx, cancel := context.WithCancel(bg)
	ended := 0
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(ctx, func(task *eventloop.Task) error {
			_, err := l.LookupNetIP(task.Context(), "ip", "a.test").Await(task)
			wantEqual(t, "error", errors.Is(err, context.Canceled), true)
			ended++
			return nil
		})
		whenReached(l, reached, cancel)
	})
	wantEqual(t, "tasks ended", ended, 1)
}

func TestLookupsFromOtherGoroutinesWhileTheLoopEnds(t *testing.T) {
	ns := serveNames(t, zone("a.test. 0 IN A 192.0.2.1"))
	for range 20 {
		l, end := startLoop(t, namesConfig(t, ns.addr))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for {
					var err error
					switch i % 3 {
					case 0:
						_, err = l.LookupNetIP(bg, "ip4", "a.test").Wait(bg)
					case 1:
						_, err = l.Query(bg, "a.test", dns.TypeA).Wait(bg)
					case 2:
						_, err = l.LookupAddr(bg, netip.MustParseAddr("192.0.2.1")).Wait(bg)
						if errors.Is(err, eventloop.ErrDNS) {
							continue // no such name
						}
					}
					if err != nil {
						wantEqual(t, "error", err, eventloop.ErrLoopClosed)
						return
					}
				}
			})
		}
		eventually(func() bool { return ns.total() > 0 })
		l.Stop()
		wg.Wait()
		wantEqual(t, "Run", end(), nil)
	}
}

// only replies to questions of one type, at once, and never to others, like some
// routers.
func only(qtype uint16) func(q *dns.Msg) *dns.Msg {
	return func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Qtype != qtype {
			return nil
		}
		return answerFor(q, "60 IN A 127.0.0.1", "60 IN AAAA ::1")
	}
}

// answerFor returns a reply to q with those of the records that have its type. The
// records have no name.
func answerFor(q *dns.Msg, records ...string) *dns.Msg {
	var rrs []dns.RR
	for _, s := range records {
		rr, err := dns.NewRR(q.Question[0].Name + " " + s)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return zoneReply(rrs, q)
}

// virtualNames runs f in a task, in virtual time, with servers whose replies come from
// h. Connections over the loopback interface take no time there.
func virtualNames(t *testing.T, h func(q *dns.Msg) *dns.Msg, f func(l *eventloop.Loop, task *eventloop.Task)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := namesConfig(t, "192.0.2.53")
		cfg.Resolver.Dial, _ = pipeNames(h)
		mustRun(t, cfg, func(l *eventloop.Loop) {
			l.Go(bg, func(task *eventloop.Task) error {
				f(l, task)
				return nil
			})
		})
	})
}

func TestAMissingReplyDelaysOnlyTheFirstLookup(t *testing.T) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		virtualNames(t, only(qtype), func(l *eventloop.Loop, task *eventloop.Task) {
			for i, want := range []time.Duration{time.Second, 0, 0} {
				began := time.Now()
				wantEqual(t, "addresses", len(mustAwait(t, task, l.LookupNetIP(bg, "ip", "a.test"))), 1)
				wantEqual(t, fmt.Sprintf("duration of lookup %d", i+1), time.Since(began), want)
			}
		})
	}
}

// answerHTTP listens and responds to one request on each connection.
func answerHTTP(t *testing.T, address string) (port string) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err) // a machine without IPv6
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
				if n, _ := c.Read(make([]byte, 4096)); n > 0 {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return port
}

// connectBy dials host and sends a request to it, and returns how long each took.
func connectBy(t *testing.T, l *eventloop.Loop, task *eventloop.Task, port, dialed, requested string) (dial, request time.Duration) {
	began := time.Now()
	connected, resolve := eventloop.NewFuture[struct{}](l)
	_, err := l.Dial(bg, "tcp", dialed+":"+port, &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.Abort(); resolve(struct{}{}, nil) },
		OnEvent:   func(_ *eventloop.Conn, err error) { resolve(struct{}{}, err) },
	})
	wantEqual(t, "error of Dial", err, nil)
	mustAwait(t, task, connected)
	dial = time.Since(began)
	began = time.Now()
	mustAwait(t, task, l.HTTP().Get(bg, "http://"+requested+":"+port+"/"))
	return dial, time.Since(began)
}

// RFC 8305 section 3: a dial waits 50 ms for IPv6, and not at all for IPv4.
func TestADialAndARequestStartWithTheKnownFamily(t *testing.T) {
	for _, test := range []struct {
		address string
		known   uint16
		want    time.Duration
	}{{"127.0.0.1:0", dns.TypeA, 50 * time.Millisecond}, {"[::1]:0", dns.TypeAAAA, 0}} {
		t.Run(test.address, func(t *testing.T) {
			port := answerHTTP(t, test.address)
			virtualNames(t, only(test.known), func(l *eventloop.Loop, task *eventloop.Task) {
				dial, request := connectBy(t, l, task, port, "dial.test", "http.test")
				wantEqual(t, "duration of the dial", dial, test.want)
				wantEqual(t, "duration of the request", request, test.want)
				task.Sleep(time.Second) // until the resolver knows that there are no more addresses
				dial, request = connectBy(t, l, task, port, "dial.test", "http.test")
				wantEqual(t, "duration of the second dial", dial, 0)
				wantEqual(t, "duration of the second request", request, 0)
			})
		})
	}
}

// The addresses that are known first may not respond.
func TestADialUsesAddressesThatAreKnownLater(t *testing.T) {
	port := answerHTTP(t, "127.0.0.1:0")
	virtualNames(t, func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Qtype == dns.TypeA {
			time.Sleep(300 * time.Millisecond)
		}
		return answerFor(q, "60 IN A 127.0.0.1", "60 IN AAAA ::1")
	}, func(l *eventloop.Loop, task *eventloop.Task) {
		dial, request := connectBy(t, l, task, port, "dial.test", "http.test")
		wantEqual(t, "duration of the dial", dial, 300*time.Millisecond)
		wantEqual(t, "duration of the request", request, 300*time.Millisecond)
	})
}

func TestNamesThatTimeOutDelayNothingElse(t *testing.T) {
	port := answerHTTP(t, "127.0.0.1:0")
	virtualNames(t, func(q *dns.Msg) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "hang") {
			return nil
		}
		return answerFor(q, "0 IN A 127.0.0.1", "0 IN PTR a.test.", "0 IN MX 1 a.test.")
	}, func(l *eventloop.Loop, task *eventloop.Task) {
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		for i := range 1000 {
			l.LookupNetIP(ctx, "ip", fmt.Sprintf("hang%d.test", i)).Then(func([]netip.Addr, error) {})
		}
		for i := range 12 { // longer than the lookups take to fail
			took := func(what string, f func()) {
				began := time.Now()
				f()
				wantEqual(t, what+" takes", time.Since(began), 0)
			}
			name := fmt.Sprintf("n%d.test", i)
			took("LookupNetIP", func() { mustAwait(t, task, l.LookupNetIP(bg, "ip", name)) })
			took("Query", func() { mustAwait(t, task, l.Query(bg, name, dns.TypeMX)) })
			took("LookupAddr", func() { mustAwait(t, task, l.LookupAddr(bg, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))) })
			dial, request := connectBy(t, l, task, port, "dial"+name, "http"+name)
			wantEqual(t, "Dial takes", dial, 0)
			wantEqual(t, "Get takes", request, 0)
			task.Sleep(time.Second)
		}
	})
}

func TestConnectionsByNameGoToAllAddressesInTurn(t *testing.T) {
	virtualNames(t, func(q *dns.Msg) *dns.Msg {
		return answerFor(q, "60 IN A 127.0.0.1", "60 IN A 127.0.0.2", "60 IN A 127.0.0.3")
	}, func(l *eventloop.Loop, task *eventloop.Task) {
		first := make(map[string]int)
		for range 30 {
			first[mustAwait(t, task, l.LookupNetIP(bg, "ip", "a.test"))[0].String()]++
		}
		wantEqual(t, "first addresses", fmt.Sprint(first), "map[127.0.0.1:10 127.0.0.2:10 127.0.0.3:10]")
	})
}

func TestANetworkThatLosesEDNSCanBeUsed(t *testing.T) {
	lossy := func(q *dns.Msg) *dns.Msg {
		if q.IsEdns0() != nil {
			return nil
		}
		return answerFor(q, "60 IN A 127.0.0.1")
	}
	virtualNames(t, lossy, func(l *eventloop.Loop, task *eventloop.Task) {
		for i, want := range []time.Duration{10 * time.Second, 0, 0} { // Timeout, once
			began := time.Now()
			mustAwait(t, task, l.LookupNetIP(bg, "ip4", fmt.Sprintf("n%d.test", i)))
			wantEqual(t, fmt.Sprintf("duration of lookup %d", i+1), time.Since(began), want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := namesConfig(t, "192.0.2.53")
		cfg.Resolver.NoEDNS = true
		cfg.Resolver.Dial, _ = pipeNames(lossy)
		began := time.Now()
		mustRun(t, cfg, func(l *eventloop.Loop) {
			l.LookupNetIP(bg, "ip4", "a.test").Then(func(_ []netip.Addr, err error) {
				wantEqual(t, "error", err, nil)
				wantEqual(t, "duration with NoEDNS", time.Since(began), 0)
			})
		})
	})
}

func TestADeadServerCostsItsTimeoutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := namesConfig(t, "192.0.2.53", "192.0.2.54")
		dead, _ := pipeNames(func(*dns.Msg) *dns.Msg { return nil })
		good, _ := pipeNames(func(q *dns.Msg) *dns.Msg { return answerFor(q, "60 IN A 127.0.0.1") })
		cfg.Resolver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "192.0.2.53:53" {
				return dead(ctx, network, address)
			}
			return good(ctx, network, address)
		}
		mustRun(t, cfg, func(l *eventloop.Loop) {
			l.Go(bg, func(task *eventloop.Task) error {
				for i, want := range []time.Duration{10 * time.Second, 0, 0, 0, 0, 0} { // Timeout, once
					began := time.Now()
					mustAwait(t, task, l.LookupNetIP(bg, "ip4", fmt.Sprintf("n%d.test", i)))
					wantEqual(t, fmt.Sprintf("duration of lookup %d", i+1), time.Since(began), want)
				}
				return nil
			})
		})
	})
}

func TestDNSOverTLSReusesItsConnection(t *testing.T) {
	cert, pool := newCertificate("dns.test")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	server := &dns.Server{
		Listener: tls.NewListener(countConns{ln, &accepted}, &tls.Config{Certificates: []tls.Certificate{cert}}),
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			w.WriteMsg(answerFor(q, "60 IN A 127.0.0.1"))
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); server.ActivateAndServe() }()
	t.Cleanup(func() { ln.Close(); <-done })
	cfg := namesConfig(t, ln.Addr().String())
	cfg.Resolver.TLS = &tls.Config{RootCAs: pool, ServerName: "dns.test"}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(task *eventloop.Task) error {
			for i := range 20 { // two queries per lookup, one per family
				mustAwait(t, task, l.LookupNetIP(bg, "ip", fmt.Sprintf("n%d.test", i)))
			}
			return nil
		})
	})
	wantEqual(t, "connections", accepted.Load(), 1)
}

// countConns counts the connections that it accepts.
type countConns struct {
	net.Listener
	n *atomic.Int64
}

func (c countConns) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// Dials.

func TestDialByName(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ns := serveNames(t, zone("a.test. 60 IN A 127.0.0.1"))
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		for range 2 {
			_, err := l.Dial(bg, "tcp", "a.test:"+port, &eventloop.ConnConfig{
				OnConnect: func(c *eventloop.Conn) {
					wantEqual(t, "peer", c.RemoteAddr().String(), ln.Addr().String())
					c.Close()
				},
				OnEvent: func(_ *eventloop.Conn, err error) { t.Error(err) },
			})
			wantEqual(t, "error", err, nil)
		}
		l.OnExit(func() { wantEqual(t, "open queries", l.Stats().DNS.Lookups, 0) })
	})
	wantEqual(t, "queries", ns.total(), 2)
}

func TestTheLookupOfADialIsAnOpenQuery(t *testing.T) {
	cfg, reached := stage(t, "UDP")
	mustRun(t, cfg, func(l *eventloop.Loop) {
		c, _ := l.Dial(bg, "tcp", "a.test:80", nil)
		whenReached(l, reached, func() {
			wantEqual(t, "open queries", l.Stats().DNS.Lookups, 1)
			c.Close()
		})
	})
}

// dialFailure dials and returns the error that OnEvent received.
func dialFailure(t *testing.T, cfg *eventloop.Config, ctx context.Context, address string, conn eventloop.ConnConfig) (err error) {
	t.Helper()
	events, closes := 0, 0
	conn.OnConnect = func(*eventloop.Conn) { t.Error("connected") }
	conn.OnEvent = func(_ *eventloop.Conn, e error) { events++; err = e }
	conn.OnClose = func(*eventloop.Conn) { closes++ }
	mustRun(t, cfg, func(l *eventloop.Loop) {
		if _, err := l.Dial(ctx, "tcp", address, &conn); err != nil {
			t.Errorf("Dial: %v", err)
		}
	})
	wantEqual(t, "events", events, 1)
	wantEqual(t, "closes", closes, 1)
	return err
}

func wantIs(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error %v does not match %v", err, target)
		}
	}
}

func TestADialOfANameThatDoesNotExist(t *testing.T) {
	ns := serveNames(t, zone())
	err := dialFailure(t, namesConfig(t, ns.addr), bg, "none.test:80", eventloop.ConnConfig{})
	wantIs(t, err, eventloop.ErrDNS, eventloop.ErrConn)
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsNotFound || de.Name != "none.test" {
		t.Errorf("error = %#v, want a *net.DNSError", err)
	}
	wantEqual(t, "message", err.Error(), "dial tcp none.test:80: lookup none.test on "+ns.addr+": no such host")
	wantEqual(t, "ErrRefused", errors.Is(err, eventloop.ErrRefused), false)
}

func TestADialOfANameThatDoesNotExistEndsALoopThatDoesNotListen(t *testing.T) {
	ns := serveNames(t, zone())
	err := runLoop(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) { l.Dial(bg, "tcp", "none.test:80", nil) })
	wantIs(t, err, eventloop.ErrDNS, eventloop.ErrConn)
}

func TestADialThatEveryAddressRefuses(t *testing.T) {
	_, port, _ := net.SplitHostPort(deadAddr(t))
	ns := serveNames(t, zone("a.test. 60 IN A 127.0.0.1", "a.test. 60 IN A 127.0.0.2"))
	err := dialFailure(t, namesConfig(t, ns.addr), bg, "a.test:"+port, eventloop.ConnConfig{})
	wantIs(t, err, eventloop.ErrRefused, eventloop.ErrTCP, eventloop.ErrConn)
	wantEqual(t, "ErrDNS", errors.Is(err, eventloop.ErrDNS), false)
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		wantEqual(t, fmt.Sprintf("%q names %s", err, ip), strings.Contains(err.Error(), ip+":"+port), true)
	}
}

func TestARefusalByANameServerIsNotARefusalByThePeer(t *testing.T) {
	pc, ln := listenBoth(t)
	addr := pc.LocalAddr().String()
	pc.Close()
	ln.Close()
	for _, tcp := range []bool{false, true} {
		cfg := namesConfig(t, addr)
		cfg.Resolver.UseTCP = tcp
		cfg.Resolver.Attempts = 1
		err := dialFailure(t, cfg, bg, "a.test:80", eventloop.ConnConfig{})
		wantIs(t, err, eventloop.ErrDNS, eventloop.ErrConn)
		wantEqual(t, "ErrRefused", errors.Is(err, eventloop.ErrRefused), false)
	}
}

func TestAResetByANameServerIsNotInformation(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1)) // leaves the rest of the query unread, so closing resets
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	defer func() { ln.Close(); <-done }()
	cfg := namesConfig(t, ln.Addr().String())
	cfg.Resolver.UseTCP = true
	cfg.Resolver.Attempts = 1
	// The default handler ignores information, so the failed dial would be lost.
	err = runLoop(t, cfg, func(l *eventloop.Loop) { l.Dial(bg, "tcp", "a.test:80", nil) })
	wantIs(t, err, eventloop.ErrDNS, eventloop.ErrConn)
	wantEqual(t, "IsInfo", eventloop.IsInfo(err), false)
	wantEqual(t, "ErrReset", errors.Is(err, eventloop.ErrReset), false)
}

func TestADialWhoseFirstAddressIsDeadTakesTheSecond(t *testing.T) {
	_, port, _ := net.SplitHostPort(acceptAndClose(t, "127.0.0.1:0").Addr().String())
	deafPort(t, "127.0.0.9:"+port)
	ns := serveNames(t, zone("a.test. 60 IN A 127.0.0.9", "a.test. 60 IN A 127.0.0.1"))
	connected := 0
	mustRun(t, namesConfig(t, ns.addr), func(l *eventloop.Loop) {
		l.Dial(bg, "tcp", "a.test:"+port, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				connected++
				wantEqual(t, "peer", c.RemoteAddr().String(), "127.0.0.1:"+port)
				c.Close()
			},
		})
	})
	wantEqual(t, "connections", connected, 1)
}

func TestADialWhoseFirstAddressRefusesTakesTheSecond(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	cfg := namesConfig(t)
	cfg.Resolver.HostsFile = tempFile(t, "hosts", "::1 both.test\n127.0.0.1 both.test\n")
	connected := 0
	mustRun(t, cfg, func(l *eventloop.Loop) {
		l.Dial(bg, "tcp", "both.test:"+port, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { connected++; c.Close() },
		})
	})
	wantEqual(t, "connections", connected, 1)
}

func TestADialThatTimesOutReportsATimeout(t *testing.T) {
	port := deafPort(t, "127.0.0.9:0")
	hosts := tempFile(t, "hosts", "127.0.0.9 one.test\n127.0.0.9 two.test\n127.0.0.8 two.test\n")
	for _, host := range []string{"one.test", "two.test", "127.0.0.9"} {
		cfg := namesConfig(t)
		cfg.Resolver.HostsFile = hosts
		err := dialFailure(t, cfg, bg, host+":"+port, eventloop.ConnConfig{ConnectTimeout: 50 * time.Millisecond})
		wantIs(t, err, eventloop.ErrTimeout, eventloop.ErrTCP, eventloop.ErrConn, context.DeadlineExceeded)
		boom := errors.New("boom")
		ctx, cancel := context.WithTimeoutCause(bg, 50*time.Millisecond, boom)
		err = dialFailure(t, cfg, ctx, host+":"+port, eventloop.ConnConfig{})
		wantIs(t, err, eventloop.ErrTimeout, eventloop.ErrTCP, context.DeadlineExceeded, boom)
		cancel()
	}
}

func TestConnConfigReachesADialByName(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	mustRun(t, namesConfig(t), func(l *eventloop.Loop) {
		l.Dial(bg, "tcp", "localhost:"+port, &eventloop.ConnConfig{
			LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)},
			OnConnect: func(c *eventloop.Conn) {
				wantEqual(t, "local address", c.LocalAddr().(*net.TCPAddr).IP.String(), "127.0.0.3")
				c.Close()
			},
			OnEvent: func(_ *eventloop.Conn, err error) { t.Error(err) },
		})
	})
}

// dialStage prepares one of the points at which a dial waits: those of its lookup,
// connecting to one address, connecting to two addresses in parallel, and the handshake.
func dialStage(t *testing.T, name string) (cfg *eventloop.Config, reached chan struct{}, address string, conn *eventloop.ConnConfig) {
	conn = &eventloop.ConnConfig{}
	if _, ok := stages[name]; ok {
		cfg, reached = stage(t, name)
		return cfg, reached, "a.test:80", conn
	}
	cfg = namesConfig(t)
	reached = make(chan struct{})
	switch name {
	case "connect":
		close(reached) // not observable; the goroutine may have reached this point or not
		return cfg, reached, "127.0.0.9:" + deafPort(t, "127.0.0.9:0"), conn
	case "race":
		// Both attempts are in progress some time after the attempt delay. Otherwise
		// the test would still be valid.
		time.AfterFunc(300*time.Millisecond, func() { close(reached) })
		cfg.Resolver.HostsFile = tempFile(t, "hosts", "127.0.0.9 deaf.test\n127.0.0.10 deaf.test\n")
		return cfg, reached, "deaf.test:" + deafPort(t, "0.0.0.0:0"), conn
	case "handshake":
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := ln.Accept(); err == nil {
				io.ReadFull(c, make([]byte, 1))
				close(reached)
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		t.Cleanup(func() { ln.Close(); <-done })
		conn.TLS = &tls.Config{ServerName: "a.test"}
		return cfg, reached, ln.Addr().String(), conn
	}
	panic(name)
}

func TestADialCanBeCanceledAtEveryStage(t *testing.T) {
	boom := errors.New("boom")
	for _, name := range []string{"UDP", "TCP", "connecting", "TLS", "connect", "race", "handshake"} {
		for _, by := range []string{"context", "Close", "Abort", "Stop"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				cfg, reached, address, conn := dialStage(t, name)
				ctx, cancel := context.WithCancelCause(bg)
				defer cancel(nil)
				var events []error
				closes := 0
				conn.OnConnect = func(*eventloop.Conn) { t.Error("connected") }
				conn.OnEvent = func(_ *eventloop.Conn, err error) { events = append(events, err) }
				conn.OnClose = func(*eventloop.Conn) { closes++ }
				mustRun(t, cfg, func(l *eventloop.Loop) {
					c, err := l.Dial(ctx, "tcp", address, conn)
					wantEqual(t, "error of Dial", err, nil)
					whenReached(l, reached, func() {
						switch by {
						case "context":
							cancel(boom)
						case "Close":
							c.Close()
						case "Abort":
							c.Abort()
						case "Stop":
							l.Stop()
						}
					})
				})
				wantEqual(t, "closes", closes, 1)
				if by != "context" {
					wantEqual(t, "events", len(events), 0)
					return
				}
				if len(events) != 1 {
					t.Fatalf("events = %v, want one", events)
				}
				wantIs(t, events[0], boom, eventloop.ErrConn)
				wantEqual(t, "ErrTimeout", errors.Is(events[0], eventloop.ErrTimeout), false)
				if name != "handshake" { // whose error is only the cause
					wantIs(t, events[0], context.Canceled)
				}
			})
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	ns := serveNames(b, zone("a.test. 3600 IN A 192.0.2.1", "a.test. 3600 IN AAAA 2001:db8::1"))
	cfg := namesConfig(b, ns.addr)
	cfg.Resolver.ResolvConf = tempFile(b, "resolv.conf", "options no-reload\n")
	l, _ := startLoop(b, cfg)
	onLoop := func(f func()) {
		if _, err := eventloop.Call(bg, l, func() (struct{}, error) { f(); return struct{}{}, nil }); err != nil {
			b.Fatal(err)
		}
	}
	must := func(addrs []netip.Addr, err error) {
		if err != nil || len(addrs) == 0 {
			b.Fatal(addrs, err)
		}
	}
	must(l.LookupNetIP(bg, "ip", "a.test").Wait(bg))
	for _, host := range []string{"a.test", "192.0.2.1"} {
		b.Run("cached/"+host+"/future", func(b *testing.B) {
			b.ReportAllocs()
			onLoop(func() {
				for b.Loop() {
					l.LookupNetIP(bg, "ip", host)
				}
			})
		})
		b.Run("cached/"+host+"/result", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				must(l.LookupNetIP(bg, "ip", host).Result())
			}
		})
		b.Run("cached/"+host+"/then", func(b *testing.B) {
			b.ReportAllocs()
			done := make(chan struct{})
			i := 0
			var next func(addrs []netip.Addr, err error)
			next = func(addrs []netip.Addr, err error) {
				if i++; i > b.N {
					close(done)
					return
				}
				l.LookupNetIP(bg, "ip", host).Then(next)
			}
			l.Post(func() { next(nil, nil) })
			<-done
		})
	}
	b.Run("cached/a.test/await", func(b *testing.B) {
		b.ReportAllocs()
		_, err := l.Go(bg, func(task *eventloop.Task) error {
			for b.Loop() {
				must(l.LookupNetIP(bg, "ip", "a.test").Await(task))
			}
			return nil
		}).Wait(bg)
		if err != nil {
			b.Fatal(err)
		}
	})
	gos := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(bg, network, ns.addr)
	}}
	b.Run("net.Resolver/a.test", func(b *testing.B) { // it has no cache
		b.ReportAllocs()
		for b.Loop() {
			must(gos.LookupNetIP(bg, "ip", "a.test."))
		}
	})
	b.Run("net.Resolver/192.0.2.1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(gos.LookupNetIP(bg, "ip", "192.0.2.1"))
		}
	})
}

func BenchmarkLookupUncached(b *testing.B) {
	ns := serveNames(b, zone("a.test. 0 IN A 192.0.2.1", "a.test. 0 IN AAAA 2001:db8::1"))
	l, _ := startLoop(b, namesConfig(b, ns.addr))
	b.Run("loop", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.LookupNetIP(bg, "ip", "a.test").Wait(bg); err != nil {
				b.Fatal(err)
			}
		}
	})
	gos := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(bg, network, ns.addr)
	}}
	b.Run("net.Resolver", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := gos.LookupNetIP(bg, "ip", "a.test."); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLookupCancel measures, as ns/cancel, the time from the end of the context or
// of the loop, in the middle of a lookup, until everything has ended.
func BenchmarkLookupCancel(b *testing.B) {
	asked := make(chan struct{})
	ns := serveNames(b, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	cfg := namesConfig(b, ns.addr)
	measure := func(b *testing.B, begin func() (end func())) {
		var took, worst time.Duration
		for b.Loop() {
			end := begin()
			<-asked
			t := time.Now()
			end()
			d := time.Since(t)
			took, worst = took+d, max(worst, d)
		}
		b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/cancel")
		b.ReportMetric(float64(worst.Nanoseconds()), "ns/worst")
	}
	b.Run("context", func(b *testing.B) {
		l, _ := startLoop(b, cfg)
		names := 0
		measure(b, func() func() {
			ctx, cancel := context.WithCancel(bg)
			// Distinct names: a lookup may join the rest of the previous one.
			names++
			f := l.LookupNetIP(ctx, "ip4", fmt.Sprintf("n%d.test", names))
			return func() { cancel(); <-f.Done() }
		})
	})
	b.Run("loop", func(b *testing.B) {
		measure(b, func() func() {
			l := eventloop.New(cfg)
			done := make(chan error, 1)
			l.Post(func() { l.LookupNetIP(bg, "ip4", "a.test") })
			go func() { done <- l.Run(bg) }()
			return func() { l.Stop(); <-done }
		})
	})
}

// BenchmarkDialFirstAddressDead measures the delay of RFC 8305: the attempt delay of
// 250 ms, and little more.
func BenchmarkDialFirstAddressDead(b *testing.B) {
	_, port, _ := net.SplitHostPort(acceptAndClose(b, "127.0.0.1:0").Addr().String())
	deafPort(b, "127.0.0.9:"+port)
	ns := serveNames(b, zone("a.test. 60 IN A 127.0.0.9", "a.test. 60 IN A 127.0.0.1"))
	l, _ := startLoop(b, namesConfig(b, ns.addr))
	for b.Loop() {
		c, err := l.Dial(bg, "tcp", "a.test:"+port, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Connected().Wait(bg); err != nil {
			b.Fatal(err)
		}
		c.Abort()
	}
}
