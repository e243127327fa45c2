// Copyright 2015 The Go Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE-GO file.

// This file is net/addrselect.go of Go, on netip.Addr instead of net.IPAddr.

package resolver

import (
	"net/netip"
	"slices"
)

// sortAddrs sorts destinations in place by RFC 6724 section 6 and returns them.
func sortAddrs(addrs []netip.Addr) []netip.Addr {
	if len(addrs) > 1 {
		sortWithSources(addrs, sources(addrs))
	}
	return addrs
}

// sortWithSources sorts destinations in place. It returns the end of each run of
// equal destinations.
func sortWithSources(addrs, srcs []netip.Addr) (ends []int) {
	infos := make([]addrInfo, len(addrs))
	for i, a := range addrs {
		infos[i] = addrInfo{addr: a, addrAttr: attrOf(a), src: srcs[i], srcAttr: attrOf(srcs[i])}
	}
	slices.SortStableFunc(infos, compareAddrs)
	for i := range infos {
		addrs[i] = infos[i].addr
		if i > 0 && compareAddrs(infos[i-1], infos[i]) != 0 {
			ends = append(ends, i)
		}
	}
	return append(ends, len(infos))
}

type addrAttr struct {
	scope      scope
	precedence uint8
	label      uint8
}

func attrOf(ip netip.Addr) addrAttr {
	if !ip.IsValid() {
		return addrAttr{}
	}
	p := classify(ip)
	return addrAttr{scope: scopeOf(ip), precedence: p.precedence, label: p.label}
}

type addrInfo struct {
	addr     netip.Addr
	addrAttr addrAttr
	src      netip.Addr
	srcAttr  addrAttr
}

// compareAddrs returns -1 if a is preferred, 1 if b is preferred, and 0 if they are
// equal. Rules 3, 4 and 7 require information about the interfaces that is not
// available portably; package net leaves them out too.
func compareAddrs(a, b addrInfo) int {
	// Rule 1: avoid unusable destinations.
	switch {
	case !a.src.IsValid() && !b.src.IsValid():
		return 0
	case !b.src.IsValid():
		return prefer(true)
	case !a.src.IsValid():
		return prefer(false)
	}

	// Rule 2: prefer matching scope.
	if am, bm := a.addrAttr.scope == a.srcAttr.scope, b.addrAttr.scope == b.srcAttr.scope; am != bm {
		return prefer(am)
	}

	// Rule 5: prefer matching label.
	if am, bm := a.addrAttr.label == a.srcAttr.label, b.addrAttr.label == b.srcAttr.label; am != bm {
		return prefer(am)
	}

	// Rule 6: prefer higher precedence.
	if a.addrAttr.precedence != b.addrAttr.precedence {
		return prefer(a.addrAttr.precedence > b.addrAttr.precedence)
	}

	// Rule 8: prefer smaller scope.
	if a.addrAttr.scope != b.addrAttr.scope {
		return prefer(a.addrAttr.scope < b.addrAttr.scope)
	}

	// Rule 9: use the longest matching prefix. Applied to IPv4 it breaks the
	// rotation of addresses by servers (golang.org/issue/13283 and 18518).
	if !a.addr.Is4() && !b.addr.Is4() {
		if ca, cb := commonPrefixLen(a.src, a.addr), commonPrefixLen(b.src, b.addr); ca != cb {
			return prefer(ca > cb)
		}
	}

	// Rule 10: leave the order unchanged.
	return 0
}

func prefer(a bool) int {
	if a {
		return -1
	}
	return 1
}

type policy struct {
	prefix     netip.Prefix
	precedence uint8
	label      uint8
}

// policies is the table of RFC 6724 section 2.1, longest prefix first.
var policies = []policy{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96), 35, 4}, // IPv4
	{netip.MustParsePrefix("::/96"), 1, 3},
	{netip.MustParsePrefix("2001::/32"), 5, 5},  // Teredo
	{netip.MustParsePrefix("2002::/16"), 30, 2}, // 6to4
	{netip.MustParsePrefix("3ffe::/16"), 1, 12},
	{netip.MustParsePrefix("fec0::/10"), 1, 11},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

func classify(ip netip.Addr) policy {
	ip = netip.AddrFrom16(ip.As16())
	for _, p := range policies {
		if p.prefix.Contains(ip) {
			return p
		}
	}
	return policy{}
}

// scope returns the scope of RFC 6724 section 3.1.
type scope uint8

const (
	scopeLinkLocal scope = 0x2
	scopeSiteLocal scope = 0x5
	scopeGlobal    scope = 0xe
)

func scopeOf(ip netip.Addr) scope {
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return scopeLinkLocal
	}
	if !ip.Is6() || ip.Is4In6() {
		return scopeGlobal
	}
	b := ip.As16()
	if ip.IsMulticast() {
		return scope(b[1] & 0xf)
	}
	// Site-local addresses are defined in RFC 3513 section 2.5.6
	// (and deprecated in RFC 3879).
	if b[0] == 0xfe && b[1]&0xc0 == 0xc0 {
		return scopeSiteLocal
	}
	return scopeGlobal
}

// commonPrefixLen returns the number of leading bits that two IPv6 addresses have
// in common, up to the length of a prefix, which is assumed to be 64 (RFC 6724
// section 2.2).
func commonPrefixLen(a, b netip.Addr) int {
	if a.Is4() || b.Is4() {
		return 0
	}
	x, y := a.As16(), b.As16()
	n := 0
	for i := 0; i < 8; i++ {
		d := x[i] ^ y[i]
		if d == 0 {
			n += 8
			continue
		}
		for ; d&0x80 == 0; d <<= 1 {
			n++
		}
		break
	}
	return n
}
