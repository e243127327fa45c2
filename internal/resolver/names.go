package resolver

import (
	"errors"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// isDomainName reports whether s is a host name that may be asked for: labels
// of letters, digits, hyphens and underscores, not all digits, within the
// limits of RFC 1035. It accepts what package net accepts: a stricter rule
// breaks SRV owners and hosts in the wild, a laxer one lets anything into
// search lists and logs.
func isDomainName(s string) bool {
	if s == "." {
		return true
	}
	rooted := strings.HasSuffix(s, ".")
	if rooted {
		s = s[:len(s)-1]
	}
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	nonNumeric := false
	for label := range strings.SplitSeq(s, ".") {
		ok, named := checkLabel(label)
		if !ok {
			return false
		}
		nonNumeric = nonNumeric || named
	}
	return nonNumeric
}

// checkLabel reports whether label is well-formed, and whether it has
// anything but digits in it.
func checkLabel(label string) (ok, nonNumeric bool) {
	if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false, false
	}
	for i := 0; i < len(label); i++ {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
			nonNumeric = true
		case '0' <= c && c <= '9':
		default:
			return false, false
		}
	}
	return true, nonNumeric
}

// isLocalhost reports whether name is localhost or below it. Such names are
// answered here and never asked (RFC 6761 section 6.3): a server that answered
// them could point a program that trusts the local machine anywhere.
func isLocalhost(name string) bool { return isUnder(name, "localhost") }

// isNeverAsked reports whether no server can know name: .onion belongs to Tor,
// and a query would tell what the user visits (RFC 7686 section 2); .invalid
// exists nowhere (RFC 6761 section 6.4).
func isNeverAsked(name string) bool {
	return isUnder(name, "onion") || isUnder(name, "invalid")
}

// isUnder reports whether name is the given top-level domain or below it.
func isUnder(name, tld string) bool {
	name = strings.TrimSuffix(name, ".")
	head := len(name) - len(tld)
	return head >= 0 && equalFold(name[head:], tld) && (head == 0 || name[head-1] == '.')
}

// equalFold compares as DNS does: ASCII letters without case, all else exactly
// (RFC 4343). strings.EqualFold would let a Kelvin sign pass for a k.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// lowerName returns s in lower case. It allocates only if s is not.
func lowerName(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = lower(b[i])
			}
			return string(b)
		}
	}
	return s
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// profile returns what maps names as browsers do. StrictDomainName is off because
// it refuses underscores; isDomainName checks the outcome. It is made when it is
// first needed: the tables that it refers to would else be in every program.
func profile() *idna.Profile {
	profileOnce.Do(func() {
		idnaProfile = idna.New(idna.MapForLookup(), idna.Transitional(false),
			idna.StrictDomainName(false), idna.VerifyDNSLength(true), idna.BidiRule())
	})
	return idnaProfile
}

var (
	profileOnce sync.Once
	idnaProfile *idna.Profile
)

var errNotUTF8 = errors.New("not valid UTF-8")

// toASCII returns the name to ask for. Only names that need it go through
// IDNA, so that what DNS itself permits is left alone. Package idna accepts
// bytes that are not UTF-8 and encodes the replacement character for each, so
// all such names would become the same name, which a stranger may own.
func toASCII(name string) (string, error) {
	switch {
	case isASCII(name):
		return name, nil
	case !utf8.ValidString(name):
		return "", errNotUTF8
	}
	return profile().ToASCII(name)
}

// nameList returns the absolute names to ask for, in order, by the rules of
// resolv.conf(5): a rooted name alone; a name with at least ndots dots as it is
// and then with each suffix; any other name with each suffix first.
func nameList(name string, search []string, ndots int) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	names := make([]string, 0, 1+len(search))
	asIs := name + "."
	enough := strings.Count(name, ".") >= ndots
	if enough {
		names = append(names, asIs)
	}
	for _, suffix := range search {
		// A suffix can make a name too long, or one that must not be asked.
		if fqdn := asIs + suffix; len(fqdn) <= 254 && !isNeverAsked(fqdn) && !isLocalhost(fqdn) {
			names = append(names, fqdn)
		}
	}
	if !enough {
		names = append(names, asIs)
	}
	return names
}
