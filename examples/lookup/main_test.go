package main

import (
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// serve runs a name server that knows a.test, and returns its address.
func serve(t *testing.T) string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(answer)}
	go func() { ended <- srv.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { srv.Shutdown(); <-ended })
	return pc.LocalAddr().String()
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	m.Rcode = dns.RcodeNameError
	for _, record := range []string{
		"a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1", "a.test. 60 IN MX 10 b.test.",
		"1.2.0.192.in-addr.arpa. 60 IN PTR a.test.",
	} {
		rr, _ := dns.NewRR(record)
		if rr.Header().Name == q.Question[0].Name {
			m.Rcode = dns.RcodeSuccess
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	w.WriteMsg(m)
}

func TestLookupPrintsAnswersTimesAndTheCache(t *testing.T) {
	server := serve(t)
	const took = `: [0-9.µnm]+s\n`
	for _, tt := range []struct {
		args, want string
		ok         bool
	}{
		{"a.test", `a\.test has (IPv6 )?address .*\na\.test has (IPv6 )?address .*\n; a\.test` + took +
			`; cache: 0 hits, 1 misses; queries: 2, failed: 0\n`, true},
		{"192.0.2.1", `192\.0\.2\.1 has name a\.test\.\n; 192\.0\.2\.1` + took + `(?s:.*)`, true},
		{"-t mx a.test", `a\.test\.\t60\tIN\tMX\t10 b\.test\.\n; a\.test` + took + `(?s:.*)`, true},
		{"-t PTR 192.0.2.1", `1\.2\.0\.192\.in-addr\.arpa\.\t60\tIN\tPTR\ta\.test\.\n(?s:.*)`, true},
		{"-t type65280 a.test", `lookup a\.test: has no records of type TYPE65280\n(?s:.*)`, false},
		{"none.test a.test", `lookup none\.test on .*: no such host\n; none\.test` + took + `a\.test has (?s:.*)`, false},
		{"-n 3 a.test", `(?s:.*); a\.test: .*, then 2 times in .* on average\n; cache: 2 hits, 1 misses; queries: 2, failed: 0\n`, true},
	} {
		var out, log strings.Builder
		ok, err := run(t.Context(), append([]string{"-server", server}, strings.Fields(tt.args)...), &out, &log)
		if ok != tt.ok || err != nil || !regexp.MustCompile(`^`+tt.want+`$`).MatchString(out.String()) {
			t.Errorf("lookup %s = %v, %v and prints\n%swant %s", tt.args, ok, err, out.String(), tt.want)
		}
	}
}

func TestLookupRefusesABadCommandLine(t *testing.T) {
	for _, args := range []string{"", "-t nonsense a.test", "-t TYPE65536 a.test", "-n x a.test"} {
		var out, log strings.Builder
		if _, err := run(t.Context(), strings.Fields(args), &out, &log); err == nil || out.Len() != 0 {
			t.Errorf("lookup %s = %v and prints %q", args, err, out.String())
		}
	}
}
