// Package http1 is the grammar of HTTP/1: request and response heads, field lines,
// host names and message framing, for the server and the client. It does no I/O and
// has no buffers: it examines bytes that its caller has read.
//
// The two sides differ deliberately. A server may stand behind a proxy that reads
// the same bytes, so the request side accepts only messages with a single
// interpretation and rejects all others: request smuggling depends on messages with
// two. The response side accepts what net/http and browsers accept, because
// existing servers do not change, and a client is the last to read a response.
package http1

import (
	"bytes"
	"math"
	"strings"
)

// text is the input of the functions of this package.
type text interface{ ~string | ~[]byte }

// tokenByte says which bytes a token may contain (RFC 9110 section 5.6.2).
var tokenByte = func() (t [256]bool) {
	for c := range 0x80 {
		t[c] = isAlpha(byte(c)) || isDigit(byte(c)) || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { c |= 0x20; return 'a' <= c && c <= 'z' }
func isSpace(c byte) bool { return c == ' ' || c == '\t' }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// IsToken reports whether s is a token, the form of methods and field names.
func IsToken[T text](s T) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// IsFieldValue reports whether s may be the value of a field: the tab is the only
// allowed control character (RFC 9110 section 5.5). Bytes from 0x80 on are opaque
// and allowed.
func IsFieldValue[T text](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// EqualFold compares names without regard to the case of ASCII letters. Unlike
// strings.EqualFold it folds no other characters.
func EqualFold[A, B text](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// Trim removes spaces and tabs from both ends of s.
func Trim[T text](s T) T {
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	return trimRight(s)
}

func trimRight[T text](s T) T {
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// cutElement cuts the first element off a comma-separated list.
func cutElement[T text](list T) (element, rest T) {
	for i := range len(list) {
		if list[i] == ',' {
			return Trim(list[:i]), list[i+1:]
		}
	}
	return Trim(list), list[len(list):]
}

// HasElement reports whether a comma-separated list contains element, in any case
// ("Connection: close, TE").
func HasElement[T text](list T, element string) bool {
	for len(list) > 0 {
		var e T
		if e, list = cutElement(list); EqualFold(e, element) {
			return true
		}
	}
	return false
}

// ParseLength parses a Content-Length, which consists of digits only.
func ParseLength[T text](s T) (n int64, ok bool) {
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if !isDigit(s[i]) || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = 10*n + d
	}
	return n, len(s) > 0
}

// SplitField splits a field line that has been checked.
func SplitField(line string) (name, value string) {
	name, value, _ = strings.Cut(line, ":")
	return name, Trim(strings.TrimRight(value, "\r\n"))
}

// cutLine cuts a line that ends in CRLF off b. It rejects any other CR or LF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}

// cutAnyLine is cutLine for a line that may end in a bare LF.
func cutAnyLine(s string) (line, rest string, ok bool) {
	i := strings.IndexByte(s, '\n')
	if i < 0 {
		return "", s, false
	}
	line, rest = s[:i], s[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest, true
}

// cutField splits a field line. It rejects a line that begins with white space,
// which continues the previous line (obs-fold, RFC 9112 section 5.2), a line with
// control characters, and a line without a valid name.
func cutField(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return nil, nil, false
	}
	name, value = line[:colon], line[colon+1:]
	return name, Trim(value), IsToken(name) && IsFieldValue(value)
}
