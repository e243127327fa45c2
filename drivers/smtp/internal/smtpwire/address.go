package smtpwire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of RFC 5321, section 4.5.3.1, in bytes.
const (
	maxLocalPart = 64
	maxDomain    = 255
	maxAddress   = 254 // a path has 256, with the angle brackets
)

// CheckAddress returns an error if addr is not a valid address of a mailbox. An address
// is a local part, "@" and a domain or an address literal, or "postmaster" alone.
// Characters beyond ASCII are allowed everywhere (RFC 6531).
//
// CheckAddress checks whether the address is safe in a command. So it allows dots anywhere
// in a local part, although RFC 5321 forbids two in a row: such mailboxes exist.
func CheckAddress(addr string) error {
	if err := checkAddress(addr); err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	return nil
}

func checkAddress(addr string) error {
	switch {
	case addr == "":
		return errors.New("empty")
	case len(addr) > maxAddress:
		return fmt.Errorf("longer than %d bytes", maxAddress)
	case !utf8.ValidString(addr):
		return errors.New("not UTF-8")
	case strings.ContainsFunc(addr, unicode.IsControl):
		return errors.New("has a control character")
	case strings.EqualFold(addr, "postmaster"):
		return nil // RFC 5321, section 4.1.1.3
	}
	at := strings.LastIndexByte(addr, '@')
	if at < 0 {
		return errors.New("has no domain")
	}
	if err := checkLocalPart(addr[:at]); err != nil {
		return err
	}
	return checkDomain(addr[at+1:])
}

func checkLocalPart(s string) error {
	switch {
	case s == "":
		return errors.New("has no local part")
	case len(s) > maxLocalPart:
		return fmt.Errorf("local part longer than %d bytes", maxLocalPart)
	case s[0] == '"':
		return checkQuoted(s)
	}
	for _, r := range s {
		if r < utf8.RuneSelf && !isAtext(byte(r)) && r != '.' {
			return fmt.Errorf("%q in the local part must be in quotes", r)
		}
	}
	return nil
}

// checkQuoted checks a quoted string (RFC 5321, section 4.1.2).
func checkQuoted(s string) error {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++ // the next byte, which is not a control character, is quoted
		case '"':
			if i == len(s)-1 {
				return nil
			}
			return errors.New("text after the quotes of the local part")
		}
	}
	return errors.New("quotes of the local part not closed")
}

func checkDomain(s string) error {
	switch {
	case s == "":
		return errors.New("has no domain")
	case len(s) > maxDomain:
		return fmt.Errorf("domain longer than %d bytes", maxDomain)
	case s[0] == '[':
		return checkLiteral(s)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("domain has an empty or too long label")
		}
	}
	for _, r := range s {
		// Domains with underscores exist, although host names must not contain any.
		if r < utf8.RuneSelf && !isLetterDigit(byte(r)) && r != '-' && r != '.' && r != '_' {
			return fmt.Errorf("%q in the domain", r)
		}
		if unicode.IsSpace(r) {
			return errors.New("space in the domain")
		}
	}
	return nil
}

// checkLiteral checks an address literal (RFC 5321, section 4.1.3).
func checkLiteral(s string) error {
	inner, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return errors.New("address literal not closed")
	}
	if v6, ok := strings.CutPrefix(inner, "IPv6:"); ok {
		if a, err := netip.ParseAddr(v6); err != nil || !a.Is6() || a.Zone() != "" {
			return errors.New("invalid IPv6 address literal")
		}
		return nil
	}
	if a, err := netip.ParseAddr(inner); err != nil || !a.Is4() {
		return errors.New("invalid address literal")
	}
	return nil
}

// CheckDomain returns an error if name is not a valid argument of EHLO: a host name or an
// address literal.
func CheckDomain(name string) error {
	if !IsASCII(name) {
		return fmt.Errorf("host name %q: not ASCII", name)
	}
	if err := checkDomain(name); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return nil
}

// Literal returns the address literal of a.
func Literal(a netip.Addr) string {
	if a = a.Unmap().WithZone(""); a.Is4() {
		return "[" + a.String() + "]"
	}
	return "[IPv6:" + a.String() + "]"
}

// IsASCII reports whether s has no byte above 127.
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isAtext reports whether an atom may contain c (RFC 5322, section 3.2.3).
func isAtext(c byte) bool {
	return isLetterDigit(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isLetterDigit(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
