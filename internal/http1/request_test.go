package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

func TestHostsFollowRFC3986(t *testing.T) {
	for host, want := range map[string]bool{
		"a": true, "a.example": true, "A-b_c~d": true, "a:80": true, "a:": true, "a%20b": true, "a,b;c=d": true,
		"127.0.0.1": true, "127.0.0.1:8080": true, "999.1": true,
		"[::1]": true, "[::1]:80": true, "[::ffff:1.2.3.4]": true, "[v1.a:b]": true, "[fe80::1%25eth0]": true,
		"": false, ":80": false, "a:80:90": false, "a:b": false, "a:-1": false, "::1": false, "[::1": false, "::1]": false,
		"[::1]80": false, "[]": false, "[a]": false, "[1.2.3.4]": false, "[::1]:b": false, "[::1]]": false, "[[::1]]": false,
		"[fe80::1%eth0]": false, "[fe80::1%25]": false, "[v.a]": false, "[v1.]": false, "[vx.a]": false,
		"a%zz": false, "a%2": false, "a b": false, "a/b": false, "a@b": false, "a?b": false, "a#b": false,
		"a\x00": false, "\xe4": false, "a\tb": false, "a\\b": false, "a\"b": false, "a<b": false,
	} {
		if got := IsHost(host); got != want {
			t.Errorf("IsHost(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestTargetsHaveAFormThatIsAllowedForTheMethod(t *testing.T) {
	for line, want := range map[string]int{
		"GET /": 0, "GET /a?b?c": 0, "GET //a": 0, "GET /a%2Fb": 0, "GET /\xc3\xa4": 0, "GET /?%": 0, "GET /a#b": 0,
		"GET http://a": 0, "GET http://a/": 0, "GET http://a:80/b?c": 0, "GET http://a?b": 0, "GET HTTPS://[::1]/": 0, "GET x+y.1-z://a/b": 0,
		"OPTIONS *": 0, "CONNECT a:80": 0, "CONNECT [::1]:443": 0,
		"GET *": 400, "GET a": 400, "GET ?a": 400, "GET a/b": 400, "GET http:/a": 400, "GET http://": 400, "GET http:///a": 400,
		"GET http://:80/": 400, "GET http://u@a/": 400, "GET http://a:b/": 400, "GET http://a b/": 400, "GET 1http://a/": 400, "GET ://a": 400,
		"GET /%": 400, "GET /%zz": 400, "GET /%2": 400, "GET /a b": 400, "GET /a\x7f": 400, "GET http://a/%z1": 400,
		"CONNECT a": 400, "CONNECT a:": 400, "CONNECT :80": 400, "CONNECT ?abc": 400, "CONNECT /": 400, "CONNECT *": 400, "CONNECT http://a:80": 400, "CONNECT a:80/": 400,
		"OPTIONS **": 400, "GET ": 400, " /": 400, "G\x01T /": 400, "GET  /": 400, "GET": 400,
	} {
		head := line + " HTTP/1.1\r\nHost: x\r\n\r\n"
		r, status := ParseRequest([]byte(head))
		if status != want {
			t.Errorf("%q: status %d, want %d", line, status, want)
		}
		if method, target, _ := strings.Cut(line, " "); status == 0 &&
			(head[:r.MethodEnd] != method || head[r.MethodEnd+1:r.TargetEnd] != target || !strings.HasPrefix(head[r.Fields:], "Host: x")) {
			t.Errorf("%q: method %q, target %q", line, head[:r.MethodEnd], head[r.MethodEnd+1:r.TargetEnd])
		}
	}
}

func TestLaterMinorVersionsAreHTTP11AndOtherMajorVersionsAreNotSupported(t *testing.T) {
	for version, want := range map[string]int{
		"HTTP/1.0": 0, "HTTP/1.1": 0, "HTTP/1.2": 0, "HTTP/1.9": 0, "HTTP/0.9": 505, "HTTP/2.0": 505, "HTTP/9.9": 505,
		"HTTP/1.10": 400, "HTTP/1": 400, "HTTP/1.": 400, "http/1.1": 400, "HTTP/1,1": 400, "HTTP/11.": 400, "HTTP/x.1": 400, "HTTP/1.x": 400, "": 400,
	} {
		r, status := ParseRequest([]byte("GET / " + version + "\r\nHost: x\r\n\r\n"))
		if status != want || status == 0 && (r.HTTP11 != (version != "HTTP/1.0") || r.Close == r.HTTP11) {
			t.Errorf("%s: status %d, want %d; %+v", version, status, want, r)
		}
	}
}

func TestExpectationsAreAList(t *testing.T) {
	for value, want := range map[string]struct {
		status int
		expect bool
	}{
		"": {}, " , ": {}, "100-Continue": {0, true}, ", 100-continue,100-continue ": {0, true},
		"magic": {417, false}, "100-continue, magic": {417, true}, "100-continue;a": {417, false},
	} {
		r, status := ParseRequest([]byte("POST / HTTP/1.1\r\nHost: x\r\nExpect: " + value + "\r\n\r\n"))
		if status != want.status || r.Expect != want.expect {
			t.Errorf("%q: %d %v, want %v", value, status, r.Expect, want)
		}
	}
	if r, status := ParseRequest([]byte("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")); status != 0 || r.Expect {
		t.Errorf("a client of HTTP/1.0 expects %v, status %d", r.Expect, status)
	}
}

// takeRequest reads one request with its body from a stream, as a server does.
func takeRequest(in []byte) (head []byte, r Request, body, rest []byte, ok bool) {
	for bytes.HasPrefix(in, []byte("\r\n")) {
		in = in[2:]
	}
	var search HeadSearch
	end, bad := search.Find(in)
	if bad || end == 0 {
		return nil, r, nil, in, false
	}
	head, rest = in[:end], in[end:]
	r, status := ParseRequest(head)
	if status != 0 {
		return head, r, nil, rest, false
	}
	b := Body{Limit: math.MaxInt64, MaxTrailer: 16 << 10}
	if r.Chunked {
		b.Chunked()
	} else {
		b.Fixed(r.Length)
	}
	for {
		skip, n, err := b.Next(rest)
		rest = rest[skip:]
		if err != nil {
			return head, r, body, rest, err == io.EOF
		}
		body, rest = append(body, rest[:n]...), rest[n:]
		b.Consume(n)
	}
}

// sameAsNetHTTP fails the test if this package accepts a request of a stream that
// net/http rejects or interprets differently, which request smuggling depends on. It
// returns the number of accepted requests.
func sameAsNetHTTP(t *testing.T, stream []byte) (taken int) {
	t.Helper()
	src := bytes.NewReader(stream)
	br := bufio.NewReaderSize(src, 64<<10)
	for in := stream; ; taken++ {
		head, r, body, rest, ok := takeRequest(in)
		if !ok {
			return taken
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("request %d of %q is accepted: %+v %q; %s", taken, stream, r, body, fmt.Sprintf(format, args...))
		}
		for skipped, _ := br.Peek(2); string(skipped) == "\r\n"; skipped, _ = br.Peek(2) {
			br.Discard(2) // the server of net/http ignores only one
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			fail("net/http refuses it: %v", err)
		}
		got, err := io.ReadAll(req.Body)
		if err != nil && !lenientExtension(in) {
			fail("net/http refuses its body: %v", err)
		}
		if err != nil {
			return taken
		}
		wantLength := r.Length
		if r.Chunked {
			wantLength = -1
		}
		switch {
		case !bytes.Equal(got, body):
			fail("net/http reads the body %q", got)
		case req.ContentLength != wantLength:
			fail("net/http reads the length %d", req.ContentLength)
		case req.ProtoAtLeast(1, 1) != r.HTTP11:
			fail("net/http reads the version %s", req.Proto)
		case req.Close && !r.Close:
			fail("net/http closes the connection")
		case req.Method != string(head[:r.MethodEnd]) || req.RequestURI != string(head[r.MethodEnd+1:r.TargetEnd]):
			fail("net/http reads %s %s", req.Method, req.RequestURI)
		}
		if left := src.Len() + br.Buffered(); left != len(rest) {
			fail("net/http leaves %d bytes, %d are left here", left, len(rest))
		}
		in = rest
	}
}

// lenientExtension reports whether b has a chunk extension with a space before it.
// RFC 9112 section 7.1.1 accepts it, and net/http does not.
func lenientExtension(b []byte) bool {
	return bytes.Contains(b, []byte(" ;")) || bytes.Contains(b, []byte("\t;"))
}

// generate makes a stream of requests, most of which are almost valid.
func generate(rnd *rand.Rand) []byte {
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	usual := func(usually string, from ...string) string {
		if rnd.IntN(12) > 0 {
			return usually
		}
		return pick(from...)
	}
	var b bytes.Buffer
	for range 1 + rnd.IntN(3) {
		eol := func() string { return usual("\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", "\r\n ") }
		sp := func() string { return usual(" ", " ", " ", "  ", "\t", "") }
		b.WriteString(usual("", "", "\r\n", "\n", " "))
		b.WriteString(usual("POST", "GET", "PUT", "CONNECT", "OPTIONS", "BREW!", "G(T", "") + sp())
		b.WriteString(usual("/", "/a?b", "*", "http://a/b", "http:///", "a:80", "/%41", "/%zz", "/a b", "//", "/\x00", "x://y", "?a") + sp())
		b.WriteString(usual("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.10", "http/1.1", "HTTP/01.1") + eol())
		colon := func() string { return usual(": ", ": ", ":", " : ", ":\t", ": \x0b", "") }
		b.WriteString(usual("Host", "Host", "hOST", "Hosts") + colon() + usual("x", "x:80", "", "[::1]", "x y", "a:80:90", "x/y") + eol())
		size := pick("0", "1", "3", "5", "A", "a")
		body := strings.Repeat("b", map[string]int{"0": 0, "1": 1, "3": 3, "5": 5, "A": 10, "a": 10}[size])
		kind := rnd.IntN(8)
		if kind < 4 || kind == 7 {
			length := usual(fmt.Sprint(len(body)), "+"+fmt.Sprint(len(body)), "0"+fmt.Sprint(len(body)), fmt.Sprintf("%d, %d", len(body), len(body)), "-1", "0x1", "", "99999999999999999999", fmt.Sprint(len(body)+1))
			b.WriteString(usual("Content-Length", "content-length", "Content-Length ", "Content_Length") + colon() + length + eol())
			if rnd.IntN(10) == 0 {
				b.WriteString("Content-Length: " + pick(fmt.Sprint(len(body)), "7") + eol())
			}
		}
		if kind >= 4 {
			b.WriteString(usual("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ") + colon() + usual("chunked", "Chunked", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "\"chunked\"", "chunked;a=b", "") + eol())
			if rnd.IntN(10) == 0 {
				b.WriteString("Transfer-Encoding: " + pick("chunked", "identity") + eol())
			}
		}
		for range rnd.IntN(3) {
			b.WriteString(pick("A: b", "Connection: close", "connection: keep-alive, x", "Connection: upgrade", "Expect: 100-continue", "Expect:", "Cookie: a=b; c", "A : b", ": b", "A", "A: \x01", "A: \xff", " folded", "Trailer: T") + eol())
		}
		b.WriteString(usual("\r\n", "\r\n", "\n", "\r"))
		if kind < 4 {
			b.WriteString(body)
			continue
		}
		for range rnd.IntN(3) {
			if body == "" {
				break
			}
			b.WriteString(usual(size, "0"+size, size+" ", " "+size, "0x"+size, "+"+size, "-"+size, "", "ffffffffffffffff1", "7fffffffffffffff") +
				usual("", ";a", ";a=\"b\"", " ;a", "\t;a=b", ";a\nb", ";\x01", ";"+strings.Repeat("x", 300)) + eol() + body + eol())
		}
		b.WriteString(usual("0", "00", "0;a", "0 ", "") + eol())
		if rnd.IntN(4) == 0 {
			b.WriteString(pick("T: u", "T : u", "Content-Length: 3", " folded", "T", ": u", "T: \x01") + eol())
		}
		b.WriteString(usual("\r\n", "\n", "\r\n\r\n", ""))
	}
	return b.Bytes()
}

// net/http accepts every request that this package accepts, and interprets it in the
// same way, including where the next request begins.
func TestNoRequestIsAcceptedThatNetHTTPRejects(t *testing.T) {
	taken := 0
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		taken += sameAsNetHTTP(t, generate(rnd))
	}
	if taken < 4000 { // fewer would prove nothing
		t.Errorf("only %d requests were taken", taken)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: u\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"POST / HTTP/1.0\r\nConnection: keep-alive, close\r\nContent-Length: 05\r\n\r\nhello",
		"GET http://a:80/ HTTP/1.2\r\nHost:\r\nX: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
		"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		if _, status := ParseRequest(stream); status != 0 && (status < 400 || status > 505) {
			t.Fatalf("refused with status %d", status)
		}
		sameAsNetHTTP(t, stream)
	})
}
