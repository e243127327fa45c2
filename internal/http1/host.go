package http1

import (
	"net/netip"
	"strings"
)

// IsHost reports whether s is a host with an optional port, as in a Host field that
// is not empty (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
func IsHost[T text](s T) bool {
	host, _, ok := cutPort(s)
	return ok && isHostName(host)
}

// cutPort splits an authority into host and port. The port may be empty.
func cutPort[T text](s T) (host, port T, ok bool) {
	if len(s) > 0 && s[0] == '[' { // the colons of the address do not begin a port
		for i := range len(s) {
			if s[i] == ']' {
				return cutColon(s, i+1)
			}
		}
		return s, s[:0], false
	}
	for i := range len(s) {
		if s[i] == ':' {
			return cutColon(s, i)
		}
	}
	return s, s[len(s):], true
}

// cutColon splits s at i, where s ends or a port begins.
func cutColon[T text](s T, i int) (host, port T, ok bool) {
	host, port = s[:i], s[i:]
	if len(port) == 0 {
		return host, port, true
	}
	if port[0] != ':' {
		return host, port, false
	}
	port = port[1:]
	for i := range len(port) {
		if !isDigit(port[i]) {
			return host, port, false
		}
	}
	return host, port, true
}

// isHostName reports whether s is an address in brackets or a registered name.
func isHostName[T text](s T) bool {
	if len(s) == 0 {
		return false
	}
	if s[0] == '[' {
		return isLiteral(string(s[1 : len(s)-1]))
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if !isEscape(s, i) {
				return false
			}
			i += 2
		case !regNameByte(c):
			return false
		}
	}
	return true
}

// isLiteral reports whether s is an IPv6 address, optionally with a zone (RFC
// 6874), or an address of a future version.
func isLiteral(s string) bool {
	if version, address, ok := strings.Cut(s, "."); ok && len(version) > 1 && lower(version[0]) == 'v' {
		for i := range len(address) {
			if !regNameByte(address[i]) && address[i] != ':' {
				return false
			}
		}
		return isHex(version[1:]) && address != ""
	}
	address, zone, zoned := strings.Cut(s, "%25")
	a, err := netip.ParseAddr(address)
	return err == nil && a.Is6() && a.Zone() == "" && (!zoned || zone != "" && zone[0] != '[' && isHostName(zone))
}

// regNameByte reports whether a registered name may contain c unescaped.
func regNameByte(c byte) bool {
	return isAlpha(c) || isDigit(c) || strings.IndexByte("-._~!$&'()*+,;=", c) >= 0
}

func isHex(s string) bool {
	for i := range len(s) {
		if _, ok := hexDigit(s[i]); !ok {
			return false
		}
	}
	return s != ""
}

func hexDigit(c byte) (n int64, ok bool) {
	switch c = lower(c); {
	case isDigit(c):
		return int64(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10, true
	}
	return 0, false
}

// isEscape reports whether "%" at i is followed by two hexadecimal digits.
func isEscape[T text](s T, i int) bool {
	if len(s) < i+3 {
		return false
	}
	_, a := hexDigit(s[i+1])
	_, b := hexDigit(s[i+2])
	return a && b
}
