package http1

import (
	"bytes"
	"net/http"
	"strings"
)

// A Request gives the positions of the parts of a request head, and the properties
// that the server needs.
type Request struct {
	Length    int64 // of the body; 0 if none was announced
	MethodEnd int32 // where the method ends; the target begins after the space
	TargetEnd int32
	Fields    int32 // where the field lines begin
	HTTP11    bool  // HTTP/1.1 or a later minor version
	Close     bool  // the connection is not persistent
	Upgrade   bool  // Connection: upgrade
	Chunked   bool
	Expect    bool // 100-continue
}

// ParseRequest parses a request head up to and including its empty line. It returns
// the status of a rejection, or 0. It rejects everything that parsers are known to
// interpret differently: folded lines, lines that end in a bare LF, control
// characters, a length together with a transfer coding, repeated lengths, codings
// other than chunked, and Host fields that are missing, repeated or invalid.
func ParseRequest(head []byte) (r Request, status int) {
	line, rest, ok := cutLine(head)
	if !ok {
		return r, http.StatusBadRequest
	}
	r.Fields = int32(len(head) - len(rest))
	if status = r.parseLine(line); status != 0 {
		return r, status
	}
	f := requestFields{r: &r}
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return r, http.StatusBadRequest
		}
		if len(line) == 0 {
			return r, f.end(len(rest))
		}
		name, value, ok := cutField(line)
		if !ok || !f.add(name, value) {
			return r, http.StatusBadRequest
		}
	}
}

// parseLine parses the request line.
func (r *Request) parseLine(line []byte) (status int) {
	method := bytes.IndexByte(line, ' ')
	target := bytes.LastIndexByte(line, ' ')
	if method < 0 {
		return http.StatusBadRequest
	}
	minor, status := parseVersion(line[target+1:])
	if status != 0 {
		return status
	}
	if target <= method || !IsToken(line[:method]) || !isTarget(line[:method], line[method+1:target]) {
		return http.StatusBadRequest
	}
	r.MethodEnd, r.TargetEnd, r.HTTP11 = int32(method), int32(target), minor > 0
	return 0
}

// parseVersion parses the version of a request. A later minor version is treated as
// the latest known one (RFC 9110 section 2.5).
func parseVersion(v []byte) (minor byte, status int) {
	if len(v) != len("HTTP/1.1") || string(v[:5]) != "HTTP/" || !isDigit(v[5]) || v[6] != '.' || !isDigit(v[7]) {
		return 0, http.StatusBadRequest
	}
	if v[5] != '1' {
		return 0, http.StatusHTTPVersionNotSupported
	}
	return v[7] - '0', 0
}

// isTarget reports whether t has a form that is allowed for the method (RFC 9112
// section 3.2).
func isTarget(method, t []byte) bool {
	switch {
	case len(t) == 0:
		return false
	case string(method) == http.MethodConnect:
		host, port, ok := cutPort(t)
		return ok && len(port) > 0 && isHostName(host)
	case t[0] == '/':
		return isPath(t)
	case string(t) == "*":
		return string(method) == http.MethodOptions
	}
	authority, path, ok := CutAuthority(t)
	return ok && IsHost(authority) && isPath(path)
}

// CutAuthority splits a target in absolute form. A path that does not begin with
// "/" is a query.
func CutAuthority[T text](target T) (authority, path T, ok bool) {
	n := 0
	for n < len(target) && (isAlpha(target[n]) || n > 0 && (isDigit(target[n]) || strings.IndexByte("+-.", target[n]) >= 0)) {
		n++
	}
	if n == 0 || len(target) < n+3 || string(target[n:n+3]) != "://" {
		return target[:0], target, false
	}
	rest := target[n+3:]
	for i := range len(rest) {
		if rest[i] == '/' || rest[i] == '?' {
			return rest[:i], rest[i:], true
		}
	}
	return rest, rest[len(rest):], true
}

// isPath reports whether p has no bytes that end a target, and no invalid escapes
// before the query.
func isPath(p []byte) bool {
	query := false
	for i, c := range p {
		switch {
		case c <= ' ' || c == 0x7f:
			return false
		case c == '?':
			query = true
		case c == '%' && !query && !isEscape(p, i):
			return false
		}
	}
	return true
}

// requestFields collects the fields about the framing of a request.
type requestFields struct {
	r                               *Request
	hosts                           int
	hasLength, hasCoding, keepAlive bool
	refuse                          int // status, unless the head is malformed
}

// add examines a field, and returns false if the field makes the head malformed.
func (f *requestFields) add(name, value []byte) (ok bool) {
	r := f.r
	switch len(name) {
	case len("Host"):
		if EqualFold(name, "host") {
			f.hosts++
			return f.hosts == 1 && (len(value) == 0 || IsHost(value))
		}
	case len("Expect"):
		if EqualFold(name, "expect") {
			f.expect(value)
		}
	case len("Connection"):
		if EqualFold(name, "connection") {
			r.Close = r.Close || HasElement(value, "close")
			r.Upgrade = r.Upgrade || HasElement(value, "upgrade")
			f.keepAlive = f.keepAlive || HasElement(value, "keep-alive")
		}
	case len("Content-Length"):
		if EqualFold(name, "content-length") {
			if f.hasLength {
				return false
			}
			f.hasLength = true
			r.Length, ok = ParseLength(value)
			return ok
		}
	case len("Transfer-Encoding"):
		if EqualFold(name, "transfer-encoding") {
			if f.hasCoding {
				return false
			}
			f.hasCoding = true
			r.Chunked = EqualFold(value, "chunked")
		}
	}
	return true
}

// expect examines a list of expectations. Expectations of an HTTP/1.0 client are
// ignored (RFC 9110 section 10.1.1).
func (f *requestFields) expect(list []byte) {
	for len(list) > 0 {
		var e []byte
		switch e, list = cutElement(list); {
		case len(e) == 0:
		case EqualFold(e, "100-continue"):
			f.r.Expect = f.r.HTTP11
		default:
			f.refuse = http.StatusExpectationFailed
		}
	}
}

// end evaluates the fields together. left is the number of bytes after the empty
// line, where the head should end.
func (f *requestFields) end(left int) (status int) {
	r := f.r
	r.Close = r.Close || !r.HTTP11 && !f.keepAlive
	switch {
	case left > 0,
		f.hosts == 0 && r.HTTP11,
		f.hasCoding && (f.hasLength || !r.HTTP11):
		return http.StatusBadRequest
	case f.refuse != 0:
		return f.refuse
	case f.hasCoding && !r.Chunked:
		return http.StatusNotImplemented
	}
	return 0
}

// A HeadSearch finds the end of a request head in growing input.
type HeadSearch struct{ searched int }

// Find looks for the end of the head in b, the part of the head that has been read.
// It returns 0 if more input is needed; bad means that b cannot become a valid
// head.
func (s *HeadSearch) Find(b []byte) (end int, bad bool) {
	for i := s.searched; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			s.searched = len(b)
			return 0, false
		}
		i += n + 1
		if i < 2 || b[i-2] != '\r' {
			return 0, true // the head could never end
		}
		if i >= 4 && b[i-3] == '\n' {
			return i, false
		}
	}
}
