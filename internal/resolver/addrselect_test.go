package resolver

import (
	"net/netip"
	"strings"
	"testing"
)

// TestSortFollowsRFC6724 covers the examples of RFC 6724 section 10.2, without those
// that need rule 3, 4 or 7, and the cases of bugs that package net had.
func TestSortFollowsRFC6724(t *testing.T) {
	tests := []struct{ name, addrs, sources, want string }{
		{"prefer matching scope", "2001:db8:1::1 198.51.100.121", "2001:db8:1::2 169.254.13.78", "2001:db8:1::1 198.51.100.121"},
		{"prefer matching scope, IPv4", "2001:db8:1::1 198.51.100.121", "fe80::1 198.51.100.117", "198.51.100.121 2001:db8:1::1"},
		{"prefer higher precedence", "2001:db8:1::1 10.1.2.3", "2001:db8:1::2 10.1.2.4", "2001:db8:1::1 10.1.2.3"},
		{"prefer smaller scope", "2001:db8:1::1 fe80::1", "2001:db8:1::2 fe80::2", "fe80::1 2001:db8:1::1"},
		{"prefer matching label", "2001:db8:1::1 2002:c633:6401::1", "2002:c633:6401::2 2002:c633:6401::2", "2002:c633:6401::1 2001:db8:1::1"},
		{"prefer higher precedence, 6to4", "2002:c633:6401::1 2001:db8:1::1", "2002:c633:6401::2 2001:db8:1::2", "2001:db8:1::1 2002:c633:6401::1"},
		{"longest prefix, IPv6", "2001:db8:2::1 2001:db8:1::1", "2001:db8:1::2 2001:db8:1::2", "2001:db8:1::1 2001:db8:2::1"},
		{"no longest prefix, IPv4", "54.83.193.112 10.2.3.4 54.84.1.1", "10.2.3.4 10.2.3.4 10.2.3.4", "54.83.193.112 10.2.3.4 54.84.1.1"},
		{"unusable last", "2001:db8::1 192.0.2.1 fe80::1", "- 192.0.2.2 -", "192.0.2.1 2001:db8::1 fe80::1"},
		{"all unusable", "2001:db8::1 192.0.2.1", "- -", "2001:db8::1 192.0.2.1"},
		{"loopback", "127.0.0.1 ::1", "127.0.0.1 ::1", "::1 127.0.0.1"},
	}
	parse := func(s string) (addrs []netip.Addr) {
		for _, f := range strings.Fields(s) {
			a, _ := netip.ParseAddr(f) // "-" is none
			addrs = append(addrs, a)
		}
		return addrs
	}
	for _, tt := range tests {
		got := parse(tt.addrs)
		sortWithSources(got, parse(tt.sources))
		if got := join(got); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestCommonPrefixEndsAt64Bits(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"2001:db8::1", "2001:db8::1", 64},
		{"2001:db8::1", "2001:db8:8000::1", 32},
		{"2001:db8::1", "2001:db8:4000::1", 33},
		{"::1", "8000::1", 0},
		{"192.0.2.1", "::1", 0},
	} {
		if got := commonPrefixLen(netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)); got != tt.want {
			t.Errorf("commonPrefixLen(%s, %s) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
