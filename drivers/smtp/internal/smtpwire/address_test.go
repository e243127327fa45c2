package smtpwire

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAddressesThatMayBeSent(t *testing.T) {
	for _, addr := range []string{
		"a@x", "first.last+tag@mail.example.com", "!#$%&'*+-/=?^_`{|}~@x.org", "a..b.@docomo.example",
		`"a b"@x`, `"a\"b>@c"@x`, "postmaster", "Postmaster", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]",
		"用户@例子.广告", "dörte@sörensen.example", "a@under_score.example",
		strings.Repeat("l", 64) + "@" + strings.Repeat("d.", 90) + "example",
	} {
		if err := CheckAddress(addr); err != nil {
			t.Error(err)
		}
	}
}

func TestAddressesThatMustNotBeSent(t *testing.T) {
	for _, addr := range []string{
		"", "a", "@", "a@", "@x", "a b@x", "a@x y", "<a@x>", "a@x>", "Name <a@x>", "a,b@x", "a@x,b@y",
		"a@x\r\nRCPT TO:<b@y>", "a\n@x", "a\r@x", "a\x00@x", "a\x7f@x", "a@x\t", "\"a\r\n\"@x", "a\u0085@x",
		`"a@x`, `"a"b@x`, `"a\"@x`, `"`, `"@x`, "a@.x", "a@x.", "a@x..y", "a@-?", "a@[", "a@[]", "a@[x]",
		"a@[1.2.3]", "a@[IPv6:1.2.3.4]", "a@[IPv6:fe80::1%eth0]", "a@[192.0.2.1", "a@\u2003x", "\xff@x",
		strings.Repeat("l", 65) + "@x", "a@" + strings.Repeat("d", 64), "a@" + strings.Repeat("d.", 130) + "example",
		"a@x> SIZE=1", "a@x BODY=8BITMIME",
	} {
		if CheckAddress(addr) == nil {
			t.Errorf("%q was accepted", addr)
		}
	}
}

func TestNamesForEHLO(t *testing.T) {
	for _, name := range []string{"localhost", "mail.example.com", "[192.0.2.1]", "[IPv6:::1]",
		Literal(netip.MustParseAddr("192.0.2.1")), Literal(netip.MustParseAddr("2001:db8::1")),
		Literal(netip.MustParseAddr("fe80::1%eth0")), Literal(netip.MustParseAddr("::ffff:192.0.2.1"))} {
		if err := CheckDomain(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "a b", "a\r\nQUIT", "ä.example", "a\x00", "[x]", strings.Repeat("a.", 128) + "b"} {
		if CheckDomain(name) == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@x", `"a b\""@[127.0.0.1]`, "a@x\r\n", "é@é", "a@[IPv6:::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		if CheckAddress(addr) != nil {
			return
		}
		for _, line := range [][]byte{
			AppendMail(nil, addr, MailParams{Size: 1, EightBit: true, UTF8: true, Return: "HDRS", EnvelopeID: "x y"}),
			AppendRcpt(nil, addr, RcptParams{Notify: "SUCCESS,DELAY", Original: addr}),
		} {
			s, ok := strings.CutSuffix(string(line), "\r\n")
			if !ok || strings.ContainsAny(s, "\r\n\x00") {
				t.Errorf("%q is not one line", line)
			}
			if len(addr) > 256-2 {
				t.Errorf("an address of %d bytes was accepted", len(addr))
			}
		}
		_, params, _ := strings.Cut(string(AppendRcpt(nil, "x", RcptParams{Original: addr})), ";")
		if !IsASCII(params) || strings.ContainsAny(strings.TrimSuffix(params, "\r\n"), " \r\n") {
			t.Errorf("ORCPT %q is not one word of ASCII", params)
		}
	})
}
