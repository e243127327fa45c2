package resolver

import (
	"errors"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// isDomainName reports whether s is a host name that may be queried: labels of
// letters, digits, hyphens and underscores, not all digits, within the limits of
// RFC 1035. It accepts the same names as package net. A stricter rule would break
// SRV owners and existing hosts; a laxer one would admit any bytes into search
// lists and logs.
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

// checkLabel reports whether label is well-formed, and whether it has a character
// that is not a digit.
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
// resolved here and never queried (RFC 6761 section 6.3): a server that answered
// them could redirect programs that trust the local machine.
func isLocalhost(name string) bool { return isUnder(name, "localhost") }

// isNeverAsked reports whether name must not be queried: .onion belongs to Tor, and
// a query would reveal what the user visits (RFC 7686 section 2); .invalid does not
// exist (RFC 6761 section 6.4).
func isNeverAsked(name string) bool {
	return isUnder(name, "onion") || isUnder(name, "invalid")
}

// isUnder reports whether name is the given top-level domain or below it.
func isUnder(name, tld string) bool {
	name = strings.TrimSuffix(name, ".")
	head := len(name) - len(tld)
	return head >= 0 && equalFold(name[head:], tld) && (head == 0 || name[head-1] == '.')
}

// equalFold compares as DNS does: ASCII letters without case, all other bytes
// exactly (RFC 4343). strings.EqualFold would accept a Kelvin sign as a k.
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

// lowerName returns s in lower case. It allocates only if s has upper-case letters.
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

// profile returns the mapping that browsers apply to names. StrictDomainName is off
// because it rejects underscores; isDomainName checks the result. The profile is
// created on first use, because otherwise its tables would be part of every
// program.
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

// toASCII returns the name to query. Only names that need IDNA go through it, so
// that names that are valid in DNS itself are unchanged. Package idna accepts bytes
// that are not UTF-8 and encodes the replacement character for each of them, so all
// such names would become the same name, which an attacker may own.
func toASCII(name string) (string, error) {
	switch {
	case isASCII(name):
		return name, nil
	case !utf8.ValidString(name):
		return "", errNotUTF8
	}
	return profile().ToASCII(name)
}

// nameList returns the absolute names to query, in order, by the rules of
// resolv.conf(5): a rooted name alone; a name with at least ndots dots first as it
// is and then with each suffix; any other name first with each suffix.
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
		// With a suffix, a name can become too long, or one that must not be
		// queried.
		if fqdn := asIs + suffix; len(fqdn) <= 254 && !isNeverAsked(fqdn) && !isLocalhost(fqdn) {
			names = append(names, fqdn)
		}
	}
	if !enough {
		names = append(names, asIs)
	}
	return names
}
