package resolver

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
)

func TestAParsedReplyDoesNotShareTheBuffer(t *testing.T) {
	q := question{id: 1, name: "a.test.", qtype: dns.TypeANY}
	p := peer{query: q.msg(true, false)}
	m := p.message(0, good, "a.test. 60 IN AAAA 2001:db8::1", `a.test. 60 IN TXT "text"`, "a.test. 60 IN MX 1 mail.test.",
		`a.test. 60 IN SVCB 1 svc.test. alpn=h2 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1 ech=AEn+ key65333=ex`,
		"a.test. 60 IN TYPE65534 \\# 4 01020304", "a.test. 60 IN APL 1:192.0.2.0/24", "a.test. 60 IN DS 1 8 2 "+fmt.Sprintf("%064x", 7))
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("data")})
	buf, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := q.parse(buf)
	if !ok || len(got.Answer) != 8 {
		t.Fatalf("parse = %v, %v", got, ok)
	}
	before := got.String()
	for i := range buf {
		buf[i] = 0xff
	}
	if after := got.String(); after != before {
		t.Errorf("the message changes with the buffer:\n%s\nbefore:\n%s", after, before)
	}
}

func TestMixCaseChangesOnlyTheCaseOfLetters(t *testing.T) {
	const name = `a-b_1.\065\.x.example.`
	seen := make(map[string]bool)
	for range 200 {
		m := mixCase(name)
		if !equalFold(m, name) {
			t.Fatalf("mixCase = %q", m)
		}
		seen[m] = true
	}
	if len(seen) < 50 {
		t.Errorf("200 mixes have only %d forms", len(seen))
	}
}

func TestEqualFoldFoldsOnlyASCII(t *testing.T) {
	if !equalFold("Kk.Z", "kK.z") || equalFold("k", "\u212a") || equalFold("a", "ab") || equalFold("[", "{") || equalFold("ä", "Ä") {
		t.Error("equalFold is not that of RFC 4343")
	}
}

// FuzzReply checks that every reply that the filter accepts answers the question, and
// that its evaluation terminates.
func FuzzReply(f *testing.F) {
	q := question{id: 0x1234, name: "a.test.", qtype: dns.TypeA}
	p := peer{query: q.msg(true, false)}
	for _, records := range [][]string{
		{good}, {soa}, {"a.test. 60 IN CNAME a.test."}, {"a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1", "extra x. 0 IN A 1.1.1.1"},
	} {
		b, err := p.message(0, records...).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b[:len(b)-1], true)
	}
	for _, b := range forgeries(p) {
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, exact bool) {
		q := q
		q.exact = exact
		m, ok := q.parse(b)
		if !ok {
			return
		}
		if m.Id != q.id || !m.Response || m.Opcode != dns.OpcodeQuery {
			t.Errorf("header = %+v", m.MsgHdr)
		}
		if len(m.Question) == 0 && (m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError) {
			t.Error("an answer without a question")
		}
		if len(m.Question) > 0 && (m.Question[0].Qtype != q.qtype || !equalFold(m.Question[0].Name, q.name)) {
			t.Errorf("question = %v", m.Question)
		}
		ttl, _, err := verdict(m, q.name, q.qtype)
		addrs := addresses(m, q.name, q.qtype)
		if err != nil && err != errServFail && err != errMisbehaving && err != errNoSuchHost && len(addrs) > 0 {
			t.Errorf("%v with addresses %v", err, addrs)
		}
		if err == nil && (ttl < 0 || len(addrs) == 0) {
			t.Errorf("ttl %v, addresses %v of %v", ttl, addrs, m)
		}
		(&answer{msg: m}).aged(q.name, (&answer{}).made)
	})
}
