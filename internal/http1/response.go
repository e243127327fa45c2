package http1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Errors of a response head. The messages do not quote the head, because fields may
// contain secrets, and errors end up in logs. They say where to look.
var (
	errStatusLine = errors.New("malformed status line")
	errField      = errors.New("malformed field line")
	errLengths    = errors.New("malformed or conflicting Content-Length")
	errCoding     = errors.New("unsupported Transfer-Encoding")
)

// A Response is the content of a response head.
type Response struct {
	Status    int
	Reason    string
	Proto     string // such as "HTTP/1.1"
	Length    int64  // of the body: LengthChunked, LengthOpen, or a number
	KeepAlive bool   // the connection can carry another request, according to the head
	NoBody    bool   // whatever Length says
	Fields    Fields
}

// Values of Response.Length.
const (
	LengthChunked = -1
	LengthOpen    = -2 // until the end of the connection
)

// HeadEnd returns the end of the response head in b, or 0 if b does not contain it.
// The head does not end before from. Lines may end in a bare LF (RFC 9112 section
// 2.2).
func HeadEnd(b []byte, from int) int {
	for i := max(from, 1); i < len(b); i++ {
		if b[i] == '\n' && (b[i-1] == '\n' || i > 1 && b[i-1] == '\r' && b[i-2] == '\n') {
			return i + 1
		}
	}
	return 0
}

// version is the beginning of every response.
const version = "HTTP/1."

// CheckStart returns an error if b cannot be the beginning of a response. A server
// of another protocol may speak first and then wait.
func CheckStart(b []byte) error {
	if n := min(len(b), len(version)); string(b[:n]) != version[:n] {
		return fmt.Errorf("begins with %q", b[:min(len(b), 32)])
	}
	return nil
}

// ParseResponse parses the head of a response to a request with that method, up to
// and including its empty line. The names of its fields must already be canonical:
// see Canonicalize.
func ParseResponse(head, method string) (r Response, err error) {
	line, rest, _ := cutAnyLine(head)
	if err := r.parseLine(line); err != nil {
		return r, err
	}
	r.Fields = Fields{block: rest}
	f := responseFields{length: LengthOpen}
	for first := true; ; first = false {
		line, after, ok := cutAnyLine(rest)
		if !ok || !IsFieldValue(line) {
			return r, badField(head, rest)
		}
		if line == "" {
			return r, f.end(&r, method)
		}
		if !f.line(line, rest, first) {
			return r, badField(head, rest)
		}
		rest = after
	}
}

// badField returns the error of the field line at the beginning of rest, the end of head.
func badField(head, rest string) error {
	return fmt.Errorf("%w: line %d of the head", errField, strings.Count(head[:len(head)-len(rest)], "\n")+1)
}

// parseLine parses the status line.
func (r *Response) parseLine(line string) error {
	proto, rest, _ := strings.Cut(line, " ")
	if len(proto) != len(version)+1 || proto[:len(version)] != version || !isDigit(proto[len(version)]) {
		return errStatusLine
	}
	rest = strings.TrimLeft(rest, " ")
	code, reason, _ := strings.Cut(rest, " ")
	if len(code) != 3 || code[0] == '0' {
		return errStatusLine
	}
	if !IsFieldValue(reason) {
		reason = "" // it has no meaning, and control characters are dangerous
	}
	for i := range len(code) {
		if !isDigit(code[i]) {
			return errStatusLine
		}
		r.Status = 10*r.Status + int(code[i]-'0')
	}
	r.Proto, r.Reason = proto, reason
	return nil
}

// responseFields collects the fields about the framing of a response.
type responseFields struct {
	length           int64
	sized            bool  // there is a valid Content-Length
	badLength        error // the first error in it
	coded, chunked   bool  // Transfer-Encoding is present, and "chunked"
	badCoding        bool
	close, keepAlive bool // from Connection
}

// line examines the line at the beginning of rest. It returns false if it is malformed.
func (f *responseFields) line(line, rest string, first bool) bool {
	if isSpace(line[0]) { // it continues the previous line, which Next handles
		return !first
	}
	colon := strings.IndexByte(line, ':')
	if colon < 0 {
		return false
	}
	switch name := trimRight(line[:colon]); name {
	case "Connection", "Content-Length", "Transfer-Encoding":
		one := Fields{block: rest}
		_, value, _ := one.Next()
		f.add(name, value)
	}
	return true
}

func (f *responseFields) add(name, value string) {
	switch name {
	case "Connection":
		f.close = f.close || HasElement(value, "close")
		f.keepAlive = f.keepAlive || HasElement(value, "keep-alive")
	case "Content-Length":
		f.addLength(value)
	case "Transfer-Encoding":
		switch {
		case EqualFold(value, "chunked"):
			f.badCoding = f.badCoding || f.chunked
			f.chunked = true
		case !EqualFold(value, "identity"): // identity was once a coding, and has no effect
			f.badCoding = true
		}
		f.coded = true
	}
}

// addLength examines a Content-Length, which may be a list that repeats the same
// length (RFC 9110 section 8.6).
func (f *responseFields) addLength(list string) {
	for more := true; more; {
		var e string
		e, list, more = strings.Cut(list, ",")
		switch n, ok := ParseLength(Trim(e)); {
		case f.badLength != nil:
		case !ok:
			f.badLength = fmt.Errorf("%w: not a valid number", errLengths)
		case f.sized && n != f.length:
			f.badLength = fmt.Errorf("%w: %d and %d", errLengths, f.length, n)
		default:
			f.length, f.sized = n, true
		}
	}
}

// end evaluates the fields together (RFC 9112 section 6.3).
func (f *responseFields) end(r *Response, method string) error {
	r.NoBody = method == "HEAD" || r.Status < 200 || r.Status == 204 || r.Status == 304
	if method == "CONNECT" && r.Status/100 == 2 { // a tunnel begins, whatever the fields say
		r.NoBody = true
		return nil
	}
	r.KeepAlive = !f.close && r.Status >= 200 // after 101 the protocol changes
	if r.Proto == "HTTP/1.0" {
		// Transfer-Encoding is not defined there, but the sender may think it is.
		r.KeepAlive = r.KeepAlive && f.keepAlive && !f.coded
		f.chunked, f.badCoding = false, false
	}
	switch {
	case f.badCoding:
		return errCoding
	case f.chunked:
		r.Length = LengthChunked
		r.KeepAlive = r.KeepAlive && !f.sized && f.badLength == nil // it might be an attack
		return nil
	case f.badLength != nil:
		return f.badLength
	}
	r.Length = f.length
	r.KeepAlive = r.KeepAlive && (r.NoBody || r.Length >= 0)
	return nil
}

// Fields are the fields of a message that Next has not returned yet. They have been
// checked.
type Fields struct {
	block   string
	trailer bool // leave out fields that are not allowed in a trailer section
}

// Next returns the next field. The lines of a folded value are joined by spaces.
func (f *Fields) Next() (name, value string, ok bool) {
	for f.block != "" {
		line := f.line()
		colon := strings.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		name, value = trimRight(line[:colon]), Trim(line[colon+1:])
		for f.block != "" && isSpace(f.block[0]) {
			value = Trim(value + " " + Trim(f.line()))
		}
		if name != "" && !(f.trailer && IsForbiddenTrailer(name)) {
			return name, value, true
		}
	}
	return "", "", false
}

// line takes the next line, without its end.
func (f *Fields) line() string {
	line, rest, ok := cutAnyLine(f.block)
	if !ok {
		line = f.block
	}
	f.block = rest
	if !ok {
		f.block = ""
	}
	return line
}

// Count returns an upper bound of the number of fields in a head.
func (f Fields) Count() int { return max(strings.Count(f.block, "\n")-1, 0) }

// Get returns the values of the fields with the given name, joined as a list. The
// name must be canonical.
func (f Fields) Get(name string) (list string) {
	for n, v, ok := f.Next(); ok; n, v, ok = f.Next() {
		switch {
		case n != name:
		case list == "":
			list = v
		default:
			list += ", " + v
		}
	}
	return list
}

// Canonicalize changes the names of the fields in block to canonical case, as
// net/http does: "Content-Type". The block may begin with a status line.
func Canonicalize(block []byte) {
	for len(block) > 0 {
		line, rest, _ := bytes.Cut(block, []byte("\n"))
		if i := bytes.IndexByte(line, ':'); i > 0 && !isSpace(line[0]) {
			canonicalName(trimRight(line[:i]))
		}
		block = rest
	}
}

func canonicalName(name []byte) {
	if !IsToken(name) {
		return
	}
	upper := true
	for i, c := range name {
		if upper && 'a' <= c && c <= 'z' {
			name[i] = c - 'a' + 'A'
		} else if !upper {
			name[i] = lower(c)
		}
		upper = c == '-'
	}
}

// IsForbiddenTrailer reports whether a field is not allowed after the body and is
// dropped there: it affects framing or routing, authenticates a party, or says how
// to process content that has already been processed (RFC 9110 section 6.5.1). The
// name must be canonical.
func IsForbiddenTrailer(name string) bool {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer", "Te", "Connection", "Keep-Alive", "Proxy-Connection", "Upgrade",
		"Host", "Max-Forwards", "Expect", "Range", "Location", "X-Real-Ip",
		"Authorization", "Proxy-Authorization", "Proxy-Authenticate", "Www-Authenticate", "Cookie", "Set-Cookie",
		"Content-Encoding", "Content-Type", "Content-Range":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded")
}
