package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// parse parses a head as the client does.
func parse(head, method string) (r Response, fields []string, err error) {
	b := []byte(head)
	Canonicalize(b)
	r, err = ParseResponse(string(b), method)
	f := r.Fields
	for name, value, ok := f.Next(); ok; name, value, ok = f.Next() {
		fields = append(fields, name+"="+value)
	}
	return r, fields, err
}

func TestResponseHeadsDetermineTheEndOfTheBody(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, v := range []struct {
		head   string // without its empty line
		length int64
		keep   bool
	}{
		{ok, LengthOpen, false},
		{ok + "Content-Length: 0\r\n", 0, true},
		{ok + "content-length:  5 \r\n", 5, true},
		{ok + "Content-Length : 5\r\n", 5, true},
		{ok + "Content-Length:\r\n 5\r\n", 5, true},
		{ok + "Content-Length: 5\r\nContent-Length: 5\r\nContent-length: 5, 5\r\n", 5, true},
		{ok + "Content-Length: 9223372036854775807\r\n", 9223372036854775807, true},
		{ok + "Content-Length: 5\r\nConnection: x, Close\r\n", 5, false},
		{ok + "Transfer-Encoding: Chunked\r\n", LengthChunked, true},
		{ok + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", LengthChunked, false},
		{ok + "Content-Length: x\r\nTransfer-Encoding: chunked\r\n", LengthChunked, false},
		{ok + "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", 5, true},
		{ok + "Transfer-Encoding: identity\r\n", LengthOpen, false},
		{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", 5, false},
		{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n", 5, true},
		{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, close\r\n", 5, false},
		{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n", LengthOpen, false},
		{"HTTP/1.9 200 OK\r\nContent-Length: 5\r\n", 5, true},
		{"HTTP/1.1 200\nA: b\nContent-Length: 5\n", 5, true},
		{"HTTP/1.1 200 O\x00K\r\nContent-Length: 5\n", 5, true},
		{"HTTP/1.1  200  O K \r\nContent-Length: 5\n", 5, true},
	} {
		r, fields, err := parse(v.head+"\r\n", "GET")
		if err != nil || r.Length != v.length || r.KeepAlive != v.keep || r.Status != 200 || r.NoBody {
			t.Errorf("%q: %+v %q, %v; want length %d, keep %v", v.head, r, fields, err, v.length, v.keep)
		}
	}
	for _, v := range []struct {
		method, status string
		keep           bool
	}{{"HEAD", "200", true}, {"GET", "204", true}, {"GET", "304", true}, {"GET", "100", false}, {"GET", "101", false}, {"CONNECT", "200", false}} {
		for _, fields := range []string{"", "Content-Length: 5\r\n"} {
			r, _, err := parse("HTTP/1.1 "+v.status+" X\r\n"+fields+"\r\n", v.method)
			if err != nil || !r.NoBody || v.method != "CONNECT" && r.KeepAlive != v.keep {
				t.Errorf("%s %s %q: %+v, %v", v.method, v.status, fields, r, err)
			}
		}
	}
}

func TestInvalidResponseHeadsAreRejected(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, head := range []string{
		"HTTP/1.1\r\n", "HTTP/1.1 \r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.1 2000\r\n", "HTTP/1.1 099 X\r\n", "HTTP/1.1 2x0 X\r\n", "HTTP/1.1 +20 X\r\n",
		"HTTP/1.x 200 OK\r\n", "HTTP/1.10 200 OK\r\n", "HTTP/1. 200 OK\r\n", "HTTP/1.1\t200 OK\r\n",
		ok + " A: b\r\n", ok + "A\r\n", ok + "A: b\x00\r\n", ok + "A: b\rc\r\n", ok + "A\x01: b\r\n", ok + "A: b\r\r\n", ok + "A: b\r\n c\x01\r\n",
		ok + "Content-Length: 5\r\nContent-Length: 6\r\n", ok + "Content-Length: 5, 6\r\n", ok + "Content-Length: 5,\r\n", ok + "Content-Length:\r\n",
		ok + "Content-Length: -5\r\n", ok + "Content-Length: +5\r\n", ok + "Content-Length: 0x5\r\n", ok + "Content-Length: 9223372036854775808\r\n",
		ok + "Transfer-Encoding: gzip\r\n", ok + "Transfer-Encoding: gzip, chunked\r\n", ok + "Transfer-Encoding: chunked, chunked\r\n",
		ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ok + "Transfer-Encoding:\r\n",
	} {
		if r, fields, err := parse(head+"\r\n", "GET"); err == nil {
			t.Errorf("%q is taken: %+v %q", head, r, fields)
		}
	}
}

func TestResponseErrorsDoNotQuoteFields(t *testing.T) {
	for _, bad := range []string{"Content-Length: SECRET", "Transfer-Encoding: SECRET", "Set-Cookie: SECRET\x00", "SECRET"} {
		if _, _, err := parse("HTTP/1.1 200 OK\r\nSet-Cookie: SECRET\r\n"+bad+"\r\n\r\n", "GET"); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFieldsKeepTheirOrderAndAreCanonicalAndUnfolded(t *testing.T) {
	_, got, err := parse("HTTP/1.1 200 OK\r\nx-b: 1\nSET-cookie:a\r\nset-Cookie: b \r\nA b:c\r\n: d\r\nEmpty:\r\nFolded: e\r\n\tf\n  g \r\n(odd): h\r\n\r\n", "GET")
	want := []string{"X-B=1", "Set-Cookie=a", "Set-Cookie=b", "A b=c", "Empty=", "Folded=e f g", "(odd)=h"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestForbiddenTrailerFieldsAreLeftOut(t *testing.T) {
	b := newBody(true)
	b.MaxTrailer = 1000
	decode(b, []byte("0\r\nx-sum: 1\r\nContent-Type: a\r\ncontent-length: 5\r\nSet-Cookie: a\r\n b\r\nAuthorization: x\r\nLocation: /\r\nX-Forwarded-For: y\nB: 2\n 3\n\r\n"), 7)
	var got []string
	f := b.TrailerFields()
	for name, value, ok := f.Next(); ok; name, value, ok = f.Next() {
		got = append(got, name+"="+value)
	}
	if want := []string{"X-Sum=1", "B=2 3"}; !b.Over() || !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// takeResponse reads one response from a stream after which the connection ends, as a
// client does. It returns nil if that fails.
func takeResponse(in []byte, method string) (r *Response, body []byte) {
	end := 0
	for piece := 1; end == 0 && piece <= len(in); piece++ { // as input arrives
		if end = HeadEnd(in[:piece], piece-1); end != HeadEnd(in[:piece], 0) {
			panic("where the head ends depends on how it arrives")
		}
	}
	if CheckStart(in) != nil || end == 0 {
		return nil, nil
	}
	head, rest := in[:end], in[end:]
	res, _, err := parse(string(head), method)
	if err != nil {
		return nil, nil
	}
	b := Body{Limit: 1 << 40, MaxTrailer: 64 << 10, Lenient: true}
	switch {
	case res.NoBody:
	case res.Length == LengthChunked:
		b.Chunked()
	case res.Length == LengthOpen:
		return &res, rest
	default:
		b.Fixed(res.Length)
	}
	body, _, err = decode(&b, rest, len(rest))
	if err != io.EOF {
		return nil, nil
	}
	return &res, body
}

// sameResponse fails the test if net/http accepts a response that this package rejects,
// or if both accept it and interpret it differently.
func sameResponse(t *testing.T, in []byte, method string) (taken bool) {
	t.Helper()
	if bytes.Contains(in, []byte(" :")) || bytes.Contains(in, []byte("\t:")) {
		return false // net/http treats the space as a part of the name
	}
	res, body := takeResponse(in, method)
	std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method})
	if err != nil || std.ProtoMajor != 1 || std.StatusCode < 100 || method == "CONNECT" {
		return false
	}
	stdBody, err := io.ReadAll(std.Body)
	if err != nil {
		return false
	}
	switch {
	case res == nil:
		t.Fatalf("%s: %q is taken by net/http: %d %q", method, in, std.StatusCode, stdBody)
	case res.Status != std.StatusCode || !bytes.Equal(body, stdBody) && res.Status >= 200:
		t.Fatalf("%s: %q: %d %q, for net/http %d %q", method, in, res.Status, body, std.StatusCode, stdBody)
	case res.KeepAlive && std.Close:
		t.Fatalf("%s: %q: net/http closes the connection", method, in)
	}
	return true
}

// generateResponse makes a response that is almost valid in most cases.
func generateResponse(rnd *rand.Rand) []byte {
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	usual := func(usually string, from ...string) string {
		if rnd.IntN(6) > 0 {
			return usually
		}
		return pick(from...)
	}
	var b bytes.Buffer
	eol := func() string { return usual("\r\n", "\n", "\n", "\r", "\r\r\n", "\r\n ", "\r\n\t") }
	b.WriteString(usual("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.10", "http/1.1") + usual(" ", "  ", "\t") +
		usual("200", "204", "304", "404", "100", "999", "099", "20", "2000") + usual(" OK", "", " ", "  Not  OK ", " \xff", ": x") + eol())
	for range rnd.IntN(4) {
		b.WriteString(pick("a-b: c", "Set-Cookie: x", "A b: c", "Connection: close", "Connection: keep-alive", "connection: Close, x", ": x", "A", "A:", "A: \x01", "Date: x") + eol())
	}
	body := strings.Repeat("b", rnd.IntN(20))
	switch rnd.IntN(4) {
	case 0:
	case 1, 2:
		for range 1 + rnd.IntN(2) {
			b.WriteString(usual("Content-Length: ", "content-length:", "Content-Length:\t") + usual(fmt.Sprint(len(body)), "0"+fmt.Sprint(len(body)), "+1", "x", "1, 1", "") + usual("", " ") + eol())
		}
	default:
		b.WriteString("Transfer-Encoding: " + usual("chunked", "Chunked ", "gzip", "identity", "chunked, chunked") + eol())
		if body != "" {
			body = fmt.Sprintf("%x%s\r\n%s\r\n", len(body), usual("", " ", ";a=b", " ;a"), body)
		}
		body += "0\r\n" + usual("", "T: u\r\n", "T: u\n", "Content-Type: x\r\n", "T: u\r\n v\r\n") + "\r\n"
	}
	b.WriteString(usual("\r\n", "\n"))
	b.WriteString(body)
	return b.Bytes()
}

// This package accepts every response that net/http accepts, with the same meaning.
func TestResponsesThatNetHTTPAcceptsAreAccepted(t *testing.T) {
	taken := 0
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		if sameResponse(t, generateResponse(rnd), []string{"GET", "HEAD", "POST"}[rnd.IntN(3)]) {
			taken++
		}
	}
	if taken < 2000 {
		t.Errorf("only %d responses were accepted by both", taken)
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2 ;a\r\nok\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200\r\nA: b\r\n c\r\n\r\nbody",
		"HTTP/1.1 304 N\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
		"HTTP/1.2 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\nconnection: keep-alive\r\n\r\nokHTTP/1.1",
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		sameResponse(t, in, map[bool]string{false: "GET", true: "HEAD"}[head])
	})
}

func TestParseResponseSaysWhereTheErrorIs(t *testing.T) {
	const start = "HTTP/1.1 200 OK\r\nA: b\r\n"
	for fields, want := range map[string]string{
		"Content-Length: -1\r\n":                     "Content-Length: not a valid number",
		"Content-Length: 3, x\r\n":                   "Content-Length: not a valid number",
		"Content-Length: 3\r\nContent-Length: 4\r\n": "Content-Length: 3 and 4",
		"Content-Length: x\r\nContent-Length: 4\r\n": "Content-Length: not a valid number",
		"secret\r\n":             "field line: line 3 of the head",
		"Cookie: secret\x00\r\n": "field line: line 3 of the head",
		"C: d\r\nsecret\r\n":     "field line: line 4 of the head",
	} {
		if _, err := ParseResponse(start+fields+"\r\n", "GET"); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: error %v, want one that ends with %q", fields, err, want)
		}
	}
}
