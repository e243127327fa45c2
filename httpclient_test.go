package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// httpPeer is a server of connections that a test scripts.
type httpPeer struct {
	addr  string
	conns atomic.Int32 // accepted

	wg   sync.WaitGroup
	mu   sync.Mutex
	ln   net.Listener // nil: pipes
	open []net.Conn
	done bool
}

// serve runs script on a goroutine for c, and closes c after it.
func (p *httpPeer) serve(c net.Conn, script func(c net.Conn)) {
	p.conns.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		c.Close()
		return
	}
	p.open = append(p.open, c)
	p.wg.Go(func() {
		defer c.Close()
		script(c)
	})
}

func (p *httpPeer) stop() {
	p.mu.Lock()
	p.done = true
	if p.ln != nil {
		p.ln.Close()
	}
	for _, c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// newHTTPPeer is a peer on a port of loopback.
func newHTTPPeer(t testing.TB, script func(c net.Conn)) *httpPeer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveHTTPPeer(t, ln, script)
}

func serveHTTPPeer(t testing.TB, ln net.Listener, script func(c net.Conn)) *httpPeer {
	p := &httpPeer{addr: ln.Addr().String(), ln: ln}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.serve(c, script)
		}
	})
	t.Cleanup(p.stop)
	return p
}

// newHTTPPipe is a peer at the other end of pipes, and the Dial that leads to it,
// whatever the address is. It works in virtual time.
func newHTTPPipe(script func(c net.Conn)) (*httpPeer, func(ctx context.Context, network, address string) (net.Conn, error)) {
	p := &httpPeer{}
	return p, func(ctx context.Context, network, address string) (net.Conn, error) {
		client, server := net.Pipe()
		p.serve(server, script)
		return client, nil
	}
}

// readHTTPHead reads a request up to the end of its head.
func readHTTPHead(br *bufio.Reader) string {
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String()
		}
	}
}

// answerAll answers each request on a connection, none of which has a body, with
// the same bytes.
func answerAll(response string) func(c net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		for readHTTPHead(br) != "" {
			if _, err := io.WriteString(c, response); err != nil {
				return
			}
		}
	}
}

// answerOnce answers the first request and ends the connection.
func answerOnce(response string) func(c net.Conn) {
	return func(c net.Conn) {
		readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, response)
	}
}

const httpOK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// runHTTPLoop runs a loop to its natural end.
func runHTTPLoop(t testing.TB, cfg *eventloop.Config, start func(l *eventloop.Loop)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // a watchdog
	defer cancel()
	err := eventloop.Run(ctx, logged(t, cfg), func(l *eventloop.Loop) error { start(l); return nil })
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}

// doHTTP sends one request on a loop of its own.
func doHTTP(t testing.TB, cfg eventloop.HTTPClientConfig, method, url string, opts *eventloop.HTTPOptions) (res *eventloop.HTTPResponse, err error) {
	t.Helper()
	if cfg.Proxy == nil {
		cfg.Proxy = eventloop.NoProxy
	}
	calls := 0
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.HTTP().Do(context.Background(), method, url, opts).Then(func(r *eventloop.HTTPResponse, e error) {
			calls++
			res, err = r, e
		})
	})
	if calls != 1 {
		t.Errorf("results = %d, want 1", calls)
	}
	if (res == nil) == (err == nil) {
		t.Errorf("result %v and error %v", res, err)
	}
	return res, err
}

func TestHTTPResponseHasAllTheServerSaid(t *testing.T) {
	p := newHTTPPeer(t, answerAll("HTTP/1.1 201 Made it so\r\nb: 2\r\nset-cookie: x=1; path=/\r\nContent-LENGTH: 5\r\na:\t1 \r\n"+
		"Set-Cookie: y\r\nCONTENT-type: text/plain\r\nfolded: one\r\n  two\r\nb: 3\r\nempty:\r\n\r\nhello"))
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr+"/x?y#z", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := eventloop.HTTPHeaders{{"B", "2"}, {"Set-Cookie", "x=1; path=/"}, {"Content-Length", "5"}, {"A", "1"}, {"Set-Cookie", "y"},
		{"Content-Type", "text/plain"}, {"Folded", "one two"}, {"B", "3"}, {"Empty", ""}}
	if !slices.Equal(res.Headers, want) {
		t.Errorf("headers = %q, want %q", res.Headers, want)
	}
	if res.Status != 201 || res.Reason != "Made it so" || res.Proto != "HTTP/1.1" || string(res.Body) != "hello" {
		t.Errorf("got %d %q %s %q", res.Status, res.Reason, res.Proto, res.Body)
	}
	if res.URL != "http://"+p.addr+"/x?y#z" || res.Reused || res.Redirects != 0 || res.RemoteAddr.String() != p.addr || res.TLS != nil {
		t.Errorf("got %+v", res)
	}
	if tm := res.Timing; tm.Connect <= 0 || tm.FirstByte < tm.Connect || tm.Total < tm.FirstByte || tm.TLS != 0 {
		t.Errorf("timing = %+v", tm)
	}
}

// wire returns the bytes of a request, up to and with the end of its body, which
// is given by its length.
func wire(t *testing.T, url, method string, opts *eventloop.HTTPOptions, body int) string {
	t.Helper()
	var got string
	p, dial := newHTTPPipe(func(c net.Conn) {
		br := bufio.NewReader(c)
		got = readHTTPHead(br)
		b := make([]byte, body)
		io.ReadFull(br, b)
		got += string(b)
		io.WriteString(c, httpOK)
	})
	if _, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial, UserAgent: "u"}, method, url, opts); err != nil {
		t.Error(err)
	}
	p.stop()
	return got
}

func TestHTTPRequestOnTheWire(t *testing.T) {
	type H = eventloop.HTTPHeaders
	type O = eventloop.HTTPOptions
	for _, test := range []struct {
		name, method, url string
		opts              *O
		want              string
	}{
		{"plain", "GET", "http://h", nil,
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n"},
		{"empty method", "", "HTTP://H:8080/a", nil,
			"GET /a HTTP/1.1\r\nHost: h:8080\r\nUser-Agent: u\r\n\r\n"},
		{"escaped", "GET", "http://h/a b/ü%2F/../c?q=a b&ü=\"<>", nil,
			"GET /a%20b/%C3%BC%2F/../c?q=a%20b&%C3%BC=%22%3C%3E HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n"},
		{"no path but a query", "GET", "http://h?x", nil,
			"GET /?x HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n"},
		{"empty port", "GET", "http://h:/", nil,
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n"},
		{"IDN", "GET", "http://Bücher.example/", nil,
			"GET / HTTP/1.1\r\nHost: xn--bcher-kva.example\r\nUser-Agent: u\r\n\r\n"},
		{"IPv6 zone", "GET", "http://[fe80::1%25eth0]:81/", nil,
			"GET / HTTP/1.1\r\nHost: [fe80::1]:81\r\nUser-Agent: u\r\n\r\n"},
		{"IPv6", "GET", "http://[::1]/", nil,
			"GET / HTTP/1.1\r\nHost: [::1]\r\nUser-Agent: u\r\n\r\n"},
		{"user", "GET", "http://al%40:p%3Aw@h/", nil,
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nAuthorization: Basic YWxAOnA6dw==\r\n\r\n"},
		{"user, and a field", "GET", "http://u:p@h/", &O{Headers: H{{"authorization", "x"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nauthorization: x\r\n\r\n"},
		{"order, case and duplicates", "GET", "http://h/", &O{Headers: H{{"x-b", "1"}, {"Cookie", "a=1; b"}, {"X-A", "é"}, {"x-b", "2"}, {"Cookie", "c"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nx-b: 1\r\nCookie: a=1; b\r\nX-A: é\r\nx-b: 2\r\nCookie: c\r\n\r\n"},
		{"Host as a field", "GET", "http://h/", &O{Headers: H{{"host", "other"}, {"Host", "more"}}},
			"GET / HTTP/1.1\r\nHost: other\r\nUser-Agent: u\r\n\r\n"},
		{"Host as an option", "GET", "http://h/", &O{Host: "opt", Headers: H{{"host", "other"}}},
			"GET / HTTP/1.1\r\nHost: opt\r\nUser-Agent: u\r\n\r\n"},
		{"other agent", "GET", "http://h/", &O{Headers: H{{"user-agent", "mine"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nuser-agent: mine\r\n\r\n"},
		{"order", "GET", "http://h/", &O{Headers: H{{"X-First", "1"}, {"User-Agent", "mine"}, {"x-last", "2"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nX-First: 1\r\nUser-Agent: mine\r\nx-last: 2\r\n\r\n"},
		{"nothing to expect", "GET", "http://h/", &O{Headers: H{{"expect", "100-continue"}, {"X", "y"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nX: y\r\n\r\n"},
		{"nothing to expect of an empty body", "POST", "http://h/", &O{Body: []byte{}, Headers: H{{"Expect", "100-continue"}}},
			"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 0\r\n\r\n"},
		{"no agent", "GET", "http://h/", &O{Headers: H{{"User-Agent", ""}}},
			"GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"framing is not the caller's", "POST", "http://h/", &O{Body: []byte("abc"), Headers: H{
			{"content-length", "999"}, {"Transfer-Encoding", "chunked"}, {"Connection", "keep-alive, X"}, {"Keep-Alive", "9"},
			{"Proxy-Connection", "x"}, {"Upgrade", "websocket"}, {"X", "y"}}},
			"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"},
		{"close as an option", "GET", "http://h/", &O{Close: true},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nConnection: close\r\n\r\n"},
		{"close as a field", "GET", "http://h/", &O{Headers: H{{"connection", "Close"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nConnection: close\r\n\r\n"},
		{"empty POST", "POST", "http://h/", nil,
			"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 0\r\n\r\n"},
		{"GET with a body", "GET", "http://h/", &O{Body: []byte("q")},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 1\r\n\r\nq"},
		{"reader of known length", "PUT", "http://h/", &O{BodyReader: strings.NewReader("abc")},
			"PUT / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 3\r\n\r\nabc"},
		{"reader with a length", "PUT", "http://h/", &O{BodyReader: io.MultiReader(strings.NewReader("abc")), ContentLength: 3},
			"PUT / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 3\r\n\r\nabc"},
		{"reader of unknown length", "PUT", "http://h/", &O{BodyReader: io.MultiReader(strings.NewReader("abc"), strings.NewReader("0123456789abcdefg"))},
			"PUT / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n"},
		{"empty reader", "POST", "http://h/", &O{BodyReader: strings.NewReader("")},
			"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nContent-Length: 0\r\n\r\n"},
		{"compressed", "GET", "http://h/", &O{Decompress: true},
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nAccept-Encoding: gzip, br, zstd\r\n\r\n"},
		{"other method", "MKCOL", "http://h/", nil,
			"MKCOL / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, body, _ := strings.Cut(test.want, "\r\n\r\n")
			if got := wire(t, test.url, test.method, test.opts, len(body)); got != test.want {
				t.Errorf("got  %q,\nwant %q", got, test.want)
			}
		})
	}
}

func TestHTTPBadRequestsFailWithoutBeingSent(t *testing.T) {
	type H = eventloop.HTTPHeaders
	type O = eventloop.HTTPOptions
	peer, dial := newHTTPPipe(answerAll(httpOK))
	defer peer.stop()
	for _, test := range []struct {
		method, url string
		opts        *O
		is          error
	}{
		{"GET", "", nil, nil},
		{"GET", "h/path", nil, nil},
		{"GET", "http://", nil, nil},
		{"GET", "http:///x", nil, nil},
		{"GET", "http:opaque", nil, nil},
		{"GET", "ftp://h/", nil, nil},
		{"GET", "http://h:x/", nil, nil},
		{"GET", "http://h:70000/", nil, nil},
		{"GET", "http://h:0/", nil, nil},
		{"GET", "http://[::1/", nil, nil},
		{"GET", "http://h/%zz", nil, nil},
		{"GET", "http://h/\r\nX: y", nil, nil},
		{"GET", "http://h /", nil, nil},
		{"GET", "http://xn--a\u0300.\u00ad/", nil, nil},
		{"GET", "http://user:secret@h:x/", nil, nil},
		{"G T", "http://h/", nil, nil},
		{"GET\r\n", "http://h/", nil, nil},
		{"CONNECT", "http://h/", nil, nil},
		{"GET", "http://h/", &O{Host: "a\r\nb"}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Host: "a b"}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Host: "a:b:c"}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Host: "a/b"}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Headers: H{{"host", "a b"}}}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Headers: H{{"Host", "[::1"}}}, eventloop.ErrHTTPHeader},
		{"GET", "http://a\"b/", nil, nil},
		{"GET", "http://h/", &O{Headers: H{{"", "x"}}}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Headers: H{{"a b", "x"}}}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Headers: H{{"a", "x\r\ny: z"}}}, eventloop.ErrHTTPHeader},
		{"GET", "http://h/", &O{Headers: H{{"a", "x\x00"}}}, eventloop.ErrHTTPHeader},
		{"PUT", "http://h/", &O{Body: []byte("x"), BodyReader: strings.NewReader("x")}, nil},
		{"PUT", "http://h/", &O{BodyReader: strings.NewReader("x"), ContentLength: -1}, nil},
		{"PUT", "http://h/", &O{ContentLength: 1}, eventloop.ErrHTTPBodyLength},
		{"GET", "http://h/", &O{BodyReader: http.NoBody, ContentLength: 1}, eventloop.ErrHTTPBodyLength},
		{"PUT", "http://h/", &O{Body: []byte("x"), ContentLength: 2}, eventloop.ErrHTTPBodyLength},
	} {
		res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, test.method, test.url, test.opts)
		if res != nil || !errors.Is(err, eventloop.ErrHTTP) || !errors.Is(err, eventloop.ErrConn) {
			t.Errorf("%q %q %+v: %v, %v; want ErrHTTP", test.method, test.url, test.opts, res, err)
		} else if test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%q %q: %v, want %v", test.method, test.url, err, test.is)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in %q", err)
		}
	}
	if n := peer.conns.Load(); n != 0 {
		t.Errorf("connections = %d, want 0", n)
	}
}

// Do returns no future then, and the loop has nothing to wait for.
func TestDoWithAContextThatPanicsLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("done") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			body := &closeCounter{Reader: strings.NewReader("x")}
			cfg := &eventloop.Config{EventHandler: func(err error) { t.Errorf("event %v", err) }}
			mustRun(t, cfg, func(l *eventloop.Loop) {
				tripIn(l, "goroutine", func() {
					l.HTTP().Do(badContext{bg, end}, "POST", "http://h", &eventloop.HTTPOptions{BodyReader: body})
					t.Error("Do has returned")
				})
			})
			wantEqual(t, "Close", body.closed.Load(), 1)
		})
	}
}

func TestHTTPResponsesByTheirFraming(t *testing.T) {
	for _, test := range []struct {
		name, method, response, body string
		reused                       bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", true},
		{"no bytes", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", "abc", true},
		{"chunks and trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: 1\r\nX-Y: 2\r\n\r\n", "a", true},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nabc", "abc", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", false},
		{"HTTP/1.0 that keeps alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", "abc", true},
		{"HTTP/1.0 does not know chunks", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", "1\r\n", false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 3\r\n\r\nabc", "abc", false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "", true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", true},
		{"HEAD without a length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "", true},
		{"HEAD and close", "HEAD", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "", false},
		{"204", "GET", "HTTP/1.1 204 No\r\n\r\n", "", true},
		{"304", "GET", "HTTP/1.1 304 Not\r\nContent-Length: 77\r\n\r\n", "", true},
		{"100 first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", true},
		{"both framings", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "a", false},
		{"more than announced", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc", "a", false},
		{"a body where there must be none", "GET", "HTTP/1.1 204 No\r\n\r\nabc", "", false},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", "x", true},
		{"101", "GET", "HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newHTTPPeer(t, func(c net.Conn) {
				br := bufio.NewReader(c)
				for readHTTPHead(br) != "" {
					io.WriteString(c, test.response)
					if strings.Contains(test.name, "until the end") || strings.Contains(test.name, "does not know") {
						return
					}
				}
			})
			runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}, func(l *eventloop.Loop) {
				check := func(res *eventloop.HTTPResponse, err error, reused bool) {
					if err != nil || string(res.Body) != test.body || res.Reused != reused {
						t.Errorf("got %+v, %v; want body %q, reused %v", res, err, test.body, reused)
					} else if strings.Contains(test.name, "trailers") && !slices.Equal(res.Trailers, eventloop.HTTPHeaders{{"X", "1"}, {"X-Y", "2"}}) {
						t.Errorf("trailers = %q", res.Trailers)
					}
				}
				do := func() *eventloop.Future[*eventloop.HTTPResponse] {
					return l.HTTP().Do(context.Background(), test.method, "http://"+p.addr, nil)
				}
				do().Then(func(res *eventloop.HTTPResponse, err error) {
					check(res, err, false)
					do().Then(func(res *eventloop.HTTPResponse, err error) { check(res, err, test.reused) })
				})
			})
		})
	}
}

func TestHTTPEveryStatusIsAResult(t *testing.T) {
	var status atomic.Int32
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for readHTTPHead(br) != "" {
			s := status.Load()
			fmt.Fprintf(c, "HTTP/1.1 %03d X\r\nContent-Length: 1\r\n\r\n", s)
			if s != 204 && s != 304 {
				io.WriteString(c, "x")
			}
		}
	})
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		n := int32(200)
		var next func()
		next = func() {
			status.Store(n)
			l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || res.Status != int(n) {
					t.Errorf("status %d: %v, %v", n, res, err)
				}
				if n++; n < 1000 {
					next()
				}
			})
		}
		next()
	})
	if got := p.conns.Load(); got != 1 {
		t.Errorf("connections = %d, want 1", got)
	}
}

func TestHTTPInvalidResponsesAreErrors(t *testing.T) {
	type is []error
	malformed, tooLarge := eventloop.ErrHTTPMalformed, eventloop.ErrHTTPTooLarge
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name     string
		response string
		repeat   string // sent after it, without an end
		hold     bool   // the connection stays open, so the error does not come from its end
		is       is
	}{
		{"nothing", "", "", false, is{io.EOF}},
		{"garbage", "SSH-2.0-OpenSSH_9\r\n", "", true, is{malformed}},
		{"garbage without an end", "", "\x00\xff\x7fgarbage", true, is{malformed}},
		{"binary", "\x16\x03\x01\x00", "", true, is{malformed}},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", "", true, is{malformed}},
		{"HTTP/0.9", "<html>", "", true, is{malformed}},
		{"HTTP/1.", "HTTP/1.x 200 OK\r\n\r\n", "", true, is{malformed}},
		{"empty lines first", "\r\nHTTP/1.1 200 OK\r\n\r\n", "", true, is{malformed}},
		{"no status", "HTTP/1.1 OK\r\n\r\n", "", true, is{malformed}},
		{"status 99", "HTTP/1.1 099 X\r\n\r\n", "", true, is{malformed}},
		{"status 000", "HTTP/1.1 000 X\r\n\r\n", "", true, is{malformed}},
		{"status 1000", "HTTP/1.1 1000 X\r\n\r\n", "", true, is{malformed}},
		{"status with a sign", "HTTP/1.1 +20 X\r\n\r\n", "", true, is{malformed}},
		{"no colon", "HTTP/1.1 200 OK\r\nfoo\r\n\r\n", "", true, is{malformed}},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nA: x\x00y\r\n\r\n", "", true, is{malformed}},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "", true, is{malformed}},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", "", true, is{malformed}},
		{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx", "", true, is{malformed}},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nx", "", true, is{malformed}},
		{"half a head", "HTTP/1.1 200 OK\r\nA: b\r\n", "", false, is{io.ErrUnexpectedEOF}},
		{"half a line", "HTTP/1.1 2", "", false, is{io.ErrUnexpectedEOF}},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "", false, is{io.ErrUnexpectedEOF}},
		{"half a chunk", chunked + "5\r\nab", "", false, is{io.ErrUnexpectedEOF}},
		{"half a size", chunked + "5", "", false, is{io.ErrUnexpectedEOF}},
		{"no last chunk", chunked + "1\r\na\r\n", "", false, is{io.ErrUnexpectedEOF}},
		{"half of the last chunk", chunked + "1\r\na\r\n0\r\n", "", false, is{io.ErrUnexpectedEOF}},
		{"half a trailer", chunked + "0\r\nA: b\r\n", "", false, is{io.ErrUnexpectedEOF}},
		{"chunk longer than said", chunked + "1\r\nab\r\n0\r\n\r\n", "", true, is{malformed}},
		{"chunk size that is none", chunked + "x\r\n", "", true, is{malformed}},
		{"huge chunk size", chunked + "fffffffffffffffff\r\n", "", true, is{malformed}},
		{"interim only", "HTTP/1.1 100 Continue\r\n\r\n", "", false, is{io.EOF}},
		{"endless field", "HTTP/1.1 200 OK\r\nA: ", "x", true, is{tooLarge}},
		{"endless fields", "HTTP/1.1 200 OK\r\n", "A: b\r\n", true, is{tooLarge}},
		{"endless interim answers", "", "HTTP/1.1 100 Continue\r\n\r\n", true, is{tooLarge}},
		{"endless status line", "HTTP/1.1 200 ", "x", true, is{tooLarge}},
		{"endless chunk extension", chunked + "1;", "x", true, is{tooLarge}},
		{"endless chunk size", chunked, "0", true, is{tooLarge}},
		{"endless trailers", chunked + "0\r\n", "A: b\r\n", true, is{tooLarge}},
		{"endless body", chunked, "1000\r\n" + strings.Repeat("x", 4096) + "\r\n", true, is{tooLarge}},
		{"endless body until the end", "HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 4096), true, is{tooLarge}},
		{"long body", "HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n", "", true, is{tooLarge}},
		{"long chunk", chunked + "F4241\r\n", strings.Repeat("x", 4096), true, is{tooLarge}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newHTTPPeer(t, func(c net.Conn) {
				readHTTPHead(bufio.NewReader(c))
				io.WriteString(c, test.response)
				for err := error(nil); test.repeat != "" && err == nil; {
					_, err = io.WriteString(c, test.repeat)
				}
				if test.hold {
					io.Copy(io.Discard, c) // until the client closes
				}
			})
			cfg := eventloop.HTTPClientConfig{MaxBodyBytes: 1e6}
			res, err := doHTTP(t, cfg, "GET", "http://"+p.addr, nil)
			for _, is := range append(test.is, eventloop.ErrHTTP) {
				if !errors.Is(err, is) {
					t.Errorf("got %+v, %v; want %v", res, err, is)
				}
			}
		})
	}
}

// A response that ends, or is reset, after any of its bytes but the last is an
// error, and one that is whole is a result.
func TestHTTPResponseCutAtEveryByte(t *testing.T) {
	for _, response := range []string{
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nA: b\r\n\r\n",
	} {
		for _, reset := range []bool{false, true} {
			var n atomic.Int32
			p := newHTTPPeer(t, func(c net.Conn) {
				readHTTPHead(bufio.NewReader(c))
				io.WriteString(c, response[:n.Load()])
				if reset {
					c.(*net.TCPConn).SetLinger(0)
				}
			})
			runHTTPLoop(t, nil, func(l *eventloop.Loop) {
				var next func()
				next = func() {
					l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
						i := int(n.Load())
						whole := i == len(response)
						if whole != (err == nil) || whole && string(res.Body) != "hello" {
							t.Errorf("%d of %d bytes, reset %v: %v, %v", i, len(response), reset, res, err)
						}
						if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, eventloop.ErrReset) {
							t.Errorf("%d bytes, reset %v: %v, want io.EOF or a reset", i, reset, err)
						}
						if n.Add(1) <= int32(len(response)) {
							next()
						}
					})
				}
				next()
			})
			if got, want := int(p.conns.Load()), len(response)+1; got != want {
				t.Errorf("connections = %d, want %d", got, want)
			}
		}
	}
}

// Names are the resolver's business, and the time that it takes is told.
func TestHTTPNamesAreResolvedByTheLoop(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 server.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(p.addr)
	cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{
		HostsFile: hosts, Servers: []string{"192.0.2.1"}, Attempts: 1,
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") },
	}, HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}
	runHTTPLoop(t, cfg, func(l *eventloop.Loop) {
		l.HTTP().Get(context.Background(), "http://Server.Example:"+port).Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil || res.Timing.Lookup <= 0 || res.Timing.Connect <= 0 || res.RemoteAddr.String() != p.addr {
				t.Errorf("%+v, %v", res, err)
			}
		})
		l.HTTP().Get(context.Background(), "http://name.invalid").Then(func(_ *eventloop.HTTPResponse, err error) {
			if !errors.Is(err, eventloop.ErrDNS) || !errors.Is(err, eventloop.ErrHTTP) {
				t.Errorf("name.invalid: %v", err)
			}
		})
	})
}

// In a task, a request is a line.
func TestHTTPInATask(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(task *eventloop.Task) error {
			for range 3 {
				res, err := l.HTTP().Get(task.Context(), "http://"+p.addr).Await(task)
				if err != nil || string(res.Body) != "ok" {
					t.Errorf("%+v, %v", res, err)
				}
			}
			return nil
		})
	})
	if n := p.conns.Load(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

func TestHTTPRefusedAndUnknownHosts(t *testing.T) {
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+deadAddr(t), nil)
	if !errors.Is(err, eventloop.ErrHTTP) || !errors.Is(err, eventloop.ErrRefused) || errors.Is(err, eventloop.ErrTimeout) {
		t.Errorf("refused: %v", err)
	}
	if eventloop.Errno(err) <= 0 {
		t.Errorf("Errno = %d", eventloop.Errno(err))
	}
	_, err = doHTTP(t, eventloop.HTTPClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}}
	}}, "GET", "http://h", nil)
	if !errors.Is(err, eventloop.ErrHTTP) || !errors.Is(err, eventloop.ErrDNS) {
		t.Errorf("unknown: %v", err)
	}
}

func TestHTTPKeptConnectionIsUsedAgainAndNotKeptBeyondItsTime(t *testing.T) {
	for _, test := range []struct {
		name   string
		fields string
		cfg    eventloop.HTTPClientConfig
		wait   time.Duration
		conns  int32
	}{
		{"soon", "", eventloop.HTTPClientConfig{}, 59 * time.Second, 1},
		{"late", "", eventloop.HTTPClientConfig{}, 61 * time.Second, 2},
		{"configured", "", eventloop.HTTPClientConfig{IdleTimeout: time.Second}, 2 * time.Second, 2},
		{"off", "", eventloop.HTTPClientConfig{IdleTimeout: -1}, 0, 2},
		{"disabled", "", eventloop.HTTPClientConfig{DisableKeepAlives: true}, 0, 2},
		{"none of a host", "", eventloop.HTTPClientConfig{MaxIdlePerHost: -1}, 0, 2},
		{"none at all", "", eventloop.HTTPClientConfig{MaxIdle: -1}, 0, 2},
		{"before the server's time", "Keep-Alive: max=5, timeout=5\r\n", eventloop.HTTPClientConfig{}, 3900 * time.Millisecond, 1},
		{"the server keeps none", "Keep-Alive: timeout=0, max=100\r\n", eventloop.HTTPClientConfig{}, 0, 2},
		{"after the server's time", "Keep-Alive: timeout=5\r\n", eventloop.HTTPClientConfig{}, 4100 * time.Millisecond, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(answerAll("HTTP/1.1 200 OK\r\n" + test.fields + "Content-Length: 0\r\n\r\n"))
				test.cfg.Dial = dial
				runHTTPLoop(t, nil, func(l *eventloop.Loop) {
					c := eventloop.NewHTTPClient(l, &test.cfg)
					c.Get(context.Background(), "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
						if err != nil {
							t.Error(err)
						}
						rel := l.Hold()
						l.AfterFunc(test.wait, func() {
							c.Get(context.Background(), "http://h").Then(func(res *eventloop.HTTPResponse, err error) {
								if err != nil || res.Reused != (test.conns == 1) {
									t.Errorf("%+v, %v", res, err)
								}
								rel()
							})
						})
					})
				})
				p.stop()
				if got := p.conns.Load(); got != test.conns {
					t.Errorf("connections = %d, want %d", got, test.conns)
				}
			})
		})
	}
}

func TestLaw5IdleConnectionsOfTheHTTPClientDoNotKeepTheLoopAlive(t *testing.T) {
	closed := make(chan struct{})
	p := newHTTPPeer(t, func(c net.Conn) {
		answerAll(httpOK)(c)
		close(closed)
	})
	began := time.Now()
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, nil)
	if err != nil || res.Status != 200 {
		t.Fatal(res, err)
	}
	<-closed
	if d := time.Since(began); d > watchdogTime { // half of the default IdleTimeout
		t.Errorf("the loop lived for %v", d)
	}
}

// A kept connection that the server has closed, or on which it has sent unsolicited
// bytes, is noticed before it is used: even a POST succeeds, and nothing is sent twice.
func TestHTTPStaleConnectionIsNotUsed(t *testing.T) {
	for _, parting := range []string{"", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"} {
		var first atomic.Bool
		gone := make(chan struct{})
		p := newHTTPPeer(t, func(c net.Conn) {
			answerOnce(httpOK)(c)
			if first.CompareAndSwap(false, true) {
				io.WriteString(c, parting)
				c.Close()
				close(gone)
			}
		})
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Error(err)
				}
				rel := l.Hold()
				go func() {
					<-gone // and so, on loopback, it has arrived
					l.HTTP().Do(context.Background(), "POST", "http://"+p.addr, nil).Then(func(res *eventloop.HTTPResponse, err error) {
						if err != nil || res.Reused {
							t.Errorf("%+v, %v", res, err)
						}
						if n := l.Stats().HTTPClient.RetriedTotal; n != 0 {
							t.Errorf("retried %d, want 0", n)
						}
						rel()
					})
				}()
			})
		})
		if got := p.conns.Load(); got != 2 {
			t.Errorf("connections = %d, want 2", got)
		}
	}
}

// The server reads a request on a kept connection and closes it, with or without
// a byte of a response.
func TestHTTPRequestIsSentTwiceOnlyIfThatIsSafe(t *testing.T) {
	for _, test := range []struct {
		name     string
		method   string
		opts     *eventloop.HTTPOptions
		partial  string
		warm     bool // on a kept connection
		requests int32
		ok       bool
	}{
		{"GET", "GET", nil, "", true, 2, true},
		{"PUT", "PUT", &eventloop.HTTPOptions{Body: []byte("b")}, "", true, 2, true},
		{"DELETE", "DELETE", nil, "", true, 2, true},
		{"POST", "POST", nil, "", true, 1, false},
		{"PATCH", "PATCH", nil, "", true, 1, false},
		{"with a reader", "PUT", &eventloop.HTTPOptions{BodyReader: io.MultiReader(strings.NewReader("b"))}, "", true, 1, false},
		{"with a reader that seeks", "PUT", &eventloop.HTTPOptions{BodyReader: strings.NewReader("b")}, "", true, 2, true},
		{"answered by a byte", "GET", nil, "H", true, 1, false},
		{"first on its connection", "GET", nil, "", false, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int32
			warm := make(chan struct{}, 1)
			synctest.Test(t, func(t *testing.T) { // pipes: a close cannot be seen beforehand
				peer, dial := newHTTPPipe(func(c net.Conn) {
					br := bufio.NewReader(c)
					for {
						req, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						io.Copy(io.Discard, req.Body)
						if req.URL.Path == "/warm" {
							io.WriteString(c, httpOK)
							warm <- struct{}{}
							continue
						}
						if requests.Add(1) == 1 {
							io.WriteString(c, test.partial)
							return
						}
						io.WriteString(c, httpOK)
					}
				})
				runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
					send := func() {
						l.HTTP().Do(context.Background(), test.method, "http://h/", test.opts).Then(func(res *eventloop.HTTPResponse, err error) {
							if test.ok != (err == nil) {
								t.Errorf("got %v, %v", res, err)
							}
							if got, want := l.Stats().HTTPClient.RetriedTotal, uint64(test.requests-1); got != want {
								t.Errorf("retried = %d, want %d", got, want)
							}
						})
					}
					if !test.warm {
						send()
						return
					}
					l.HTTP().Get(context.Background(), "http://h/warm").Then(func(*eventloop.HTTPResponse, error) { send() })
				})
				peer.stop()
			})
			if got := requests.Load(); got != test.requests {
				t.Errorf("requests = %d, want %d", got, test.requests)
			}
		})
	}
}

func TestHTTPRequestIsNotSentAThirdTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		peer, dial := newHTTPPipe(func(c net.Conn) {
			br := bufio.NewReader(c)
			for i := 0; ; i++ {
				head := readHTTPHead(br)
				if head == "" {
					return
				}
				if !strings.Contains(head, "/warm") {
					requests.Add(1)
					return
				}
				io.WriteString(c, httpOK)
			}
		})
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
			var warm []*eventloop.Future[*eventloop.HTTPResponse]
			for range 5 {
				warm = append(warm, l.HTTP().Get(context.Background(), "http://h/warm"))
			}
			eventloop.All(l, warm...).Then(func([]*eventloop.HTTPResponse, error) {
				l.HTTP().Get(context.Background(), "http://h/").Then(func(res *eventloop.HTTPResponse, err error) {
					if !errors.Is(err, io.EOF) {
						t.Errorf("got %v, %v", res, err)
					}
				})
			})
		})
		peer.stop()
		if got := requests.Load(); got != 2 {
			t.Errorf("requests = %d, want 2", got)
		}
	})
}

func TestHTTPRequestsBeyondTheLimitWaitInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		var mu sync.Mutex
		peer, dial := newHTTPPipe(func(c net.Conn) {
			br := bufio.NewReader(c)
			for {
				line, _, _ := strings.Cut(readHTTPHead(br), " HTTP")
				if line == "" {
					return
				}
				mu.Lock()
				order = append(order, line)
				mu.Unlock()
				time.Sleep(time.Second)
				io.WriteString(c, httpOK)
			}
		})
		cfg := eventloop.HTTPClientConfig{Dial: dial, MaxConnsPerHost: 1}
		var errs []error
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
			send := func(path string, timeout time.Duration) {
				l.HTTP().Do(context.Background(), "GET", "http://h"+path, &eventloop.HTTPOptions{Timeout: timeout}).Then(
					func(res *eventloop.HTTPResponse, err error) { errs = append(errs, err) })
			}
			for i := range 4 {
				timeout := time.Duration(0)
				if i == 2 {
					timeout = 1500 * time.Millisecond // while it waits
				}
				l.AfterFunc(time.Duration(i), func() { send(fmt.Sprintf("/%d", i), timeout) })
			}
		})
		peer.stop()
		if want := []string{"GET /0", "GET /1", "GET /3"}; !slices.Equal(order, want) {
			t.Errorf("order = %q, want %q", order, want)
		}
		if len(errs) != 4 || errs[0] != nil || !errors.Is(errs[1], eventloop.ErrTimeout) || errs[2] != nil || errs[3] != nil {
			t.Errorf("errors = %v", errs)
		}
		if n := peer.conns.Load(); n != 1 {
			t.Errorf("connections = %d, want 1", n)
		}
	})
}

func TestHTTPSlotOfAFailedRequestGoesToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		peer, pipe := newHTTPPipe(answerAll(httpOK))
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(time.Second)
			if n.Add(1) == 1 {
				return nil, errors.New("not today")
			}
			return pipe(ctx, network, address)
		}
		ok := 0
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial, MaxConnsPerHost: 1}}, func(l *eventloop.Loop) {
			for range 3 {
				l.HTTP().Get(context.Background(), "http://h").Then(func(res *eventloop.HTTPResponse, err error) {
					if err == nil {
						ok++
					}
				})
			}
		})
		peer.stop()
		if ok != 2 {
			t.Errorf("succeeded = %d, want 2", ok)
		}
	})
}

var httpCertificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	return newCertificate("example.com", "other.example")
})

func httpServerTLS() *tls.Config {
	cert, _ := httpCertificate()
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func httpClientTLS() *tls.Config {
	_, roots := httpCertificate()
	return &tls.Config{RootCAs: roots}
}

// withTLS runs script behind a handshake.
func withTLS(conf *tls.Config, script func(c net.Conn)) func(c net.Conn) {
	return func(c net.Conn) {
		tc := tls.Server(c, conf)
		if tc.Handshake() == nil {
			script(tc)
			tc.Close()
		}
	}
}

func TestHTTPSVerifiesTheServer(t *testing.T) {
	var name atomic.Value
	conf := httpServerTLS()
	conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name.Store(h.ServerName)
		return nil, nil
	}
	p := newHTTPPeer(t, withTLS(conf, answerAll(httpOK)))
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, p.addr)
	}
	ok := eventloop.HTTPClientConfig{TLS: httpClientTLS()}
	res, err := doHTTP(t, ok, "GET", "https://"+p.addr, nil)
	if err != nil || res.TLS == nil || res.TLS.NegotiatedProtocol != "" && res.TLS.NegotiatedProtocol != "http/1.1" || res.Timing.TLS <= 0 {
		t.Errorf("by address: %+v, %v", res, err)
	}
	ok.Dial = dial
	if _, err = doHTTP(t, ok, "GET", "https://example.com", &eventloop.HTTPOptions{Host: "x"}); err != nil || name.Load() != "example.com" {
		t.Errorf("by name: %v, SNI %q", err, name.Load())
	}
	_, err = doHTTP(t, ok, "GET", "https://wrong.example", nil)
	if hostErr := (x509.HostnameError{}); !errors.As(err, &hostErr) || !errors.Is(err, eventloop.ErrHTTP) {
		t.Errorf("wrong name: %v", err)
	}
	_, err = doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "GET", "https://example.com", nil)
	if ca := (x509.UnknownAuthorityError{}); !errors.As(err, &ca) {
		t.Errorf("unknown authority: %v", err)
	}
	named := httpClientTLS()
	named.ServerName = "other.example"
	if _, err = doHTTP(t, eventloop.HTTPClientConfig{Dial: dial, TLS: named}, "GET", "https://wrong.example", nil); err != nil || name.Load() != "other.example" {
		t.Errorf("ServerName: %v, SNI %q", err, name.Load())
	}
	plain := newHTTPPeer(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") })
	_, err = doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "https://"+plain.addr, nil)
	if he := (tls.RecordHeaderError{}); !errors.As(err, &he) {
		t.Errorf("no TLS: %v", err)
	}
}

func TestHTTPSKeepsConnections(t *testing.T) {
	p := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{TLS: httpClientTLS()}}, func(l *eventloop.Loop) {
		n := 0
		var next func()
		next = func() {
			l.HTTP().Get(context.Background(), "https://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || res.Reused != (n > 0) {
					t.Errorf("%d: %+v, %v", n, res, err)
				}
				if n++; n < 5 {
					next()
				}
			})
		}
		next()
	})
	if n := p.conns.Load(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

func TestHTTPOverAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var head string
	serveHTTPPeer(t, ln, func(c net.Conn) {
		head = readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, httpOK)
	})
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://docker/info", &eventloop.HTTPOptions{UnixSocket: path})
	if err != nil || string(res.Body) != "ok" || !strings.HasPrefix(head, "GET /info HTTP/1.1\r\nHost: docker\r\n") {
		t.Errorf("%+v, %v, head %q", res, err, head)
	}
}

func TestHTTPOverIPv6(t *testing.T) {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	p := serveHTTPPeer(t, ln, answerAll(httpOK))
	if res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, nil); err != nil || res.Status != 200 {
		t.Errorf("%v, %v", res, err)
	}
}

// An httpPhase is a place where a request can be stuck.
type httpPhase struct {
	name string
	url  string
	opts func() *eventloop.HTTPOptions
	cfg  func(cfg *eventloop.HTTPClientConfig)
	peer func(c net.Conn) // nil: Dial hangs

	lookup bool // in the loop's own resolver
}

var httpPhases = []httpPhase{
	{name: "looking up", url: "http://h.example", lookup: true},
	{name: "connecting", url: "http://h"},
	{name: "handshake", url: "https://h", peer: hang},
	{name: "asking for a tunnel", url: "https://h", peer: hang, cfg: func(cfg *eventloop.HTTPClientConfig) {
		cfg.Proxy = func(*url.URL) (*url.URL, error) { return url.Parse("http://proxy") }
	}},
	{name: "writing the head", url: "http://h", peer: neverRead},
	{name: "writing the body", url: "http://h", peer: func(c net.Conn) {
		readHTTPHead(bufio.NewReaderSize(c, 16))
		neverRead(c)
	}, opts: func() *eventloop.HTTPOptions { return &eventloop.HTTPOptions{Body: make([]byte, 1<<20)} }},
	{name: "reading BodyReader", url: "http://h", peer: hang, opts: func() *eventloop.HTTPOptions {
		r, _ := io.Pipe()
		return &eventloop.HTTPOptions{BodyReader: r}
	}},
	{name: "waiting for 100", url: "http://h", peer: hang, opts: func() *eventloop.HTTPOptions {
		return &eventloop.HTTPOptions{Body: []byte("x"), Headers: eventloop.HTTPHeaders{{"Expect", "100-continue"}}}
	}},
	{name: "waiting", url: "http://h", peer: hang},
	{name: "reading the head", url: "http://h", peer: hangAfter("HTTP/1.1 200 OK\r\nA:")},
	{name: "reading the body", url: "http://h", peer: hangAfter("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")},
	{name: "reading a chunk", url: "http://h", peer: hangAfter("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na")},
	{name: "reading for OnBody", url: "http://h", peer: hangAfter("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"),
		opts: func() *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{OnBody: func(*eventloop.HTTPResponse, []byte) {}}
		}},
	{name: "paused", url: "http://h", peer: answerAll("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
		opts: func() *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{OnBody: func(res *eventloop.HTTPResponse, _ []byte) { res.PauseReading() }}
		}},
	{name: "waiting for a connection", url: "http://h", peer: hang, cfg: func(cfg *eventloop.HTTPClientConfig) {
		cfg.MaxConnsPerHost = 1
	}},
}

// hang reads and never answers.
func hang(c net.Conn) { io.Copy(io.Discard, c) }

// neverRead reads nothing, for longer than any test takes in virtual time.
func neverRead(c net.Conn) {
	time.Sleep(time.Hour)
	hang(c)
}

func hangAfter(response string) func(c net.Conn) {
	return func(c net.Conn) {
		readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, response)
		hang(c)
	}
}

// Wherever a request is, it ends at the moment when its context, its time or its
// loop ends, and its connection is closed.
func TestHTTPRequestEndsAtOnceInEveryPhase(t *testing.T) {
	const when = 700 * time.Millisecond
	for _, phase := range httpPhases {
		for _, how := range []string{"cancel", "deadline", "timeout", "stop"} {
			t.Run(phase.name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testHTTPEnd(t, phase, how, when) })
			})
		}
	}
}

func testHTTPEnd(t *testing.T, phase httpPhase, how string, when time.Duration) {
	cfg := eventloop.HTTPClientConfig{}
	peer, pipe := newHTTPPipe(phase.peer)
	cfg.Dial = pipe
	if phase.peer == nil {
		cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
	}
	if phase.cfg != nil {
		phase.cfg(&cfg)
	}
	var opts eventloop.HTTPOptions
	if phase.opts != nil {
		opts = *phase.opts()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	reason := errors.New("reason")
	var want error
	switch how {
	case "cancel":
		want = reason
		time.AfterFunc(when, func() { cancel(reason) })
	case "deadline":
		var release func()
		ctx, release = context.WithTimeout(ctx, when)
		defer release()
		want = eventloop.ErrTimeout
	case "timeout":
		opts.Timeout = when
		want = eventloop.ErrTimeout
	case "stop":
		want = eventloop.ErrLoopClosed
	}
	conf := &eventloop.Config{HTTPClient: &cfg}
	if phase.lookup {
		conf.HTTPClient.Dial = nil
		conf.Resolver = &eventloop.ResolverConfig{Servers: []string{"192.0.2.1"}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
	}
	var first, last *eventloop.Future[*eventloop.HTTPResponse]
	began := time.Now()
	var ended time.Duration
	runHTTPLoop(t, conf, func(l *eventloop.Loop) {
		if how == "stop" {
			l.AfterFunc(when, l.Stop)
		}
		first = l.HTTP().Do(ctx, "GET", phase.url, &opts)
		last = first
		if cfg.MaxConnsPerHost == 1 {
			last = l.HTTP().Do(ctx, "GET", phase.url, &opts)
		}
		last.Then(func(*eventloop.HTTPResponse, error) { ended = time.Since(began) })
	})
	if how == "stop" {
		ended = time.Since(began)
	}
	if ended != when {
		t.Errorf("ended after %v, want %v", ended, when)
	}
	if d := time.Since(began); d != when {
		t.Errorf("Run ended after %v, want %v", d, when)
	}
	for _, f := range []*eventloop.Future[*eventloop.HTTPResponse]{first, last} {
		res, err := f.Result()
		if res != nil || !errors.Is(err, want) {
			t.Errorf("got %v, %v; want %v", res, err, want)
		}
		if how != "stop" && !errors.Is(err, eventloop.ErrHTTP) {
			t.Errorf("%v is no ErrHTTP", err)
		}
	}
	peer.wg.Wait() // the connection is closed: its scripts end
}

func TestHTTPSilenceOfTheServerEndsTheRequest(t *testing.T) {
	for _, phase := range httpPhases {
		if phase.peer == nil || phase.name == "paused" || phase.name == "reading BodyReader" ||
			phase.name == "handshake" || phase.name == "asking for a tunnel" {
			continue
		}
		t.Run(phase.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, dial := newHTTPPipe(phase.peer)
				cfg := eventloop.HTTPClientConfig{Dial: dial, InactivityTimeout: 8 * time.Second}
				var opts *eventloop.HTTPOptions
				if phase.opts != nil {
					opts = phase.opts()
				}
				began := time.Now()
				_, err := doHTTP(t, cfg, "GET", phase.url, opts)
				d := time.Since(began)
				peer.wg.Wait()
				if phase.name == "waiting for 100" {
					d -= time.Second // then the body is sent
				}
				if !errors.Is(err, eventloop.ErrTimeout) || !errors.Is(err, eventloop.ErrHTTP) || d < 8*time.Second || d > 9*time.Second {
					t.Errorf("%v after %v, want ErrTimeout after 8 to 9 s", err, d)
				}
			})
		})
	}
}

func TestHTTPConnectTimeoutCoversTheHandshake(t *testing.T) {
	for _, phase := range httpPhases[1:4] {
		synctest.Test(t, func(t *testing.T) {
			peer, dial := newHTTPPipe(hang)
			cfg := eventloop.HTTPClientConfig{Dial: dial, ConnectTimeout: 3 * time.Second}
			if phase.peer == nil {
				cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			}
			if phase.cfg != nil {
				phase.cfg(&cfg)
			}
			began := time.Now()
			_, err := doHTTP(t, cfg, "GET", phase.url, nil)
			peer.wg.Wait()
			if d := time.Since(began); !errors.Is(err, eventloop.ErrTimeout) || d != 3*time.Second {
				t.Errorf("%s: %v after %v", phase.name, err, d)
			}
		})
	}
}

func TestHTTPNeedsARunningLoop(t *testing.T) {
	l := eventloop.New(nil)
	body := &closeCounter{Reader: strings.NewReader("x")}
	f := l.HTTP().Do(context.Background(), "PUT", "http://127.0.0.1:1", &eventloop.HTTPOptions{BodyReader: body})
	if _, err := f.Result(); err != eventloop.ErrNotRunning {
		t.Errorf("before Run: %v", err)
	}
	if err := l.Run(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := l.HTTP().Get(context.Background(), "http://127.0.0.1:1").Result(); err != eventloop.ErrLoopClosed {
		t.Errorf("after Run: %v", err)
	}
	eventually(func() bool { return body.closed.Load() > 0 })
	if n := body.closed.Load(); n != 1 {
		t.Errorf("body closed %d times, want 1", n)
	}
}

// closeCounter is a body that counts its ends.
type closeCounter struct {
	io.Reader
	closed atomic.Int32
}

func (c *closeCounter) Close() error {
	c.closed.Add(1)
	if cl, ok := c.Reader.(io.Closer); ok {
		return cl.Close()
	}
	return nil
}

func TestAnHTTPFailureThatIsNotHandledIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []error
		cfg := &eventloop.Config{EventHandler: func(err error) { got = append(got, err) }}
		runHTTPLoop(t, cfg, func(l *eventloop.Loop) { l.HTTP().Get(context.Background(), "bad://") })
		if len(got) != 1 || !errors.Is(got[0], eventloop.ErrHTTP) {
			t.Errorf("events = %v", got)
		}
	})
}

func TestHTTPRedirects(t *testing.T) {
	const moved = "HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 3\r\n\r\nabc"
	var mu sync.Mutex
	var seen []string
	other := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		head := readHTTPHead(br)
		mu.Lock()
		seen = append(seen, head)
		mu.Unlock()
		io.WriteString(c, httpOK)
	})
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			mu.Lock()
			seen = append(seen, req.Method+" "+req.RequestURI+" "+string(body))
			mu.Unlock()
			switch path, code := req.URL.Path, 0; {
			case path == "/loop":
				fmt.Fprintf(c, moved, 302, "loop")
			case path == "/bad":
				fmt.Fprintf(c, moved, 302, "http://%zz/")
			case path == "/scheme":
				fmt.Fprintf(c, moved, 302, "ftp://x/")
			case path == "/none":
				io.WriteString(c, "HTTP/1.1 302 X\r\nContent-Length: 3\r\n\r\nabc")
			case path == "/away":
				fmt.Fprintf(c, moved, 307, "http://"+other.addr+"/there")
			default:
				if n, _ := fmt.Sscanf(path, "/%d", &code); n == 1 {
					fmt.Fprintf(c, moved, code, "../end?q#f")
				} else {
					io.WriteString(c, httpOK)
				}
			}
		}
	})
	type O = eventloop.HTTPOptions
	body := []byte("body")
	for _, test := range []struct {
		method, path string
		opts         *O
		status       int
		is           error
		seen         []string
	}{
		{"GET", "/301", nil, 301, nil, []string{"GET /301 "}},
		{"GET", "/301", &O{MaxRedirects: 1}, 200, nil, []string{"GET /301 ", "GET /end?q "}},
		{"POST", "/301", &O{MaxRedirects: 1, Body: body}, 200, nil, []string{"POST /301 body", "GET /end?q "}},
		{"POST", "/302", &O{MaxRedirects: 1, Body: body}, 200, nil, []string{"POST /302 body", "GET /end?q "}},
		{"PUT", "/303", &O{MaxRedirects: 1, BodyReader: bytes.NewReader(body)}, 200, nil, []string{"PUT /303 body", "GET /end?q "}},
		{"HEAD", "/303", &O{MaxRedirects: 1, Close: true}, 200, nil, []string{"HEAD /303 ", "HEAD /end?q "}},
		{"POST", "/307", &O{MaxRedirects: 1, Body: body}, 200, nil, []string{"POST /307 body", "POST /end?q body"}},
		{"PUT", "/308", &O{MaxRedirects: 1, Body: body}, 200, nil, []string{"PUT /308 body", "PUT /end?q body"}},
		{"PUT", "/308", &O{MaxRedirects: 1, BodyReader: bytes.NewReader(body)}, 200, nil, []string{"PUT /308 body", "PUT /end?q body"}},
		{"PUT", "/308", &O{MaxRedirects: 1, BodyReader: io.MultiReader(bytes.NewReader(body))}, 308, nil, []string{"PUT /308 body"}},
		{"GET", "/300", &O{MaxRedirects: 1}, 300, nil, []string{"GET /300 "}},
		{"GET", "/304", &O{MaxRedirects: 1, Close: true}, 304, nil, []string{"GET /304 "}},
		{"GET", "/none", &O{MaxRedirects: 1}, 302, nil, []string{"GET /none "}},
		{"GET", "/loop", &O{MaxRedirects: 2}, 0, eventloop.ErrHTTPRedirects, []string{"GET /loop ", "GET /loop ", "GET /loop "}},
		{"GET", "/bad", &O{MaxRedirects: 2}, 0, eventloop.ErrHTTPMalformed, []string{"GET /bad "}},
		{"GET", "/scheme", &O{MaxRedirects: 2}, 0, eventloop.ErrHTTPMalformed, []string{"GET /scheme "}},
		{"GET", "/away", &O{MaxRedirects: 1, Host: p.addr, Headers: eventloop.HTTPHeaders{{"Authorization", "a"}, {"X", "y"}, {"cookie", "c"}}}, 200, nil,
			[]string{"GET /away ", "GET /there HTTP/1.1\r\nHost: " + other.addr + "\r\nUser-Agent: eventloop\r\nX: y\r\n\r\n"}},
	} {
		seen = nil
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, test.method, "http://"+p.addr+test.path+"#g", test.opts)
		if test.is != nil && (!errors.Is(err, test.is) || !errors.Is(err, eventloop.ErrHTTP)) || test.is == nil && (err != nil || res.Status != test.status) {
			t.Errorf("%s %s: %+v, %v", test.method, test.path, res, err)
			continue
		}
		if !slices.Equal(seen, test.seen) {
			t.Errorf("%s %s: requests %q, want %q", test.method, test.path, seen, test.seen)
		}
		if res != nil && res.Redirects != len(test.seen)-1 {
			t.Errorf("%s %s: redirects = %d", test.method, test.path, res.Redirects)
		}
		if res != nil && len(test.seen) == 2 && strings.Contains(test.seen[1], "/end") && res.URL != "http://"+p.addr+"/end?q#f" {
			t.Errorf("URL = %s", res.URL)
		}
	}
}

func TestHTTPRedirectUsesTheSameConnection(t *testing.T) {
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for i := 0; ; i++ {
			head := readHTTPHead(br)
			switch {
			case head == "":
				return
			case strings.HasPrefix(head, "GET /end"):
				io.WriteString(c, httpOK)
			default:
				fmt.Fprintf(c, "HTTP/1.1 302 X\r\nLocation: /%d\r\nContent-Length: 3\r\n\r\nabc", i)
			}
			if i == 5 {
				head = "end"
			}
		}
	})
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{MaxRedirects: 10})
	if !errors.Is(err, eventloop.ErrHTTPRedirects) || p.conns.Load() != 1 {
		t.Errorf("%v on %d connections, want ErrHTTPRedirects on 1", err, p.conns.Load())
	}
}

func TestHTTPStatsCountRequests(t *testing.T) {
	looked := make(chan struct{})
	p := newHTTPPeer(t, func(c net.Conn) {
		<-looked
		answerAll(httpOK)(c)
	})
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		f := l.HTTP().Get(context.Background(), "http://"+p.addr)
		if s := l.Stats(); s.HTTPClient.Requests != 1 || s.HTTPClient.RequestsTotal != 1 {
			t.Errorf("pending: %+v", s)
		}
		names := 0
		for h := range l.Handles() {
			if h.Kind == "http client request" && h.Name == "http://"+p.addr {
				names++
			}
		}
		if names != 1 {
			t.Errorf("handles of the request = %d, want 1", names)
		}
		close(looked)
		f.Then(func(*eventloop.HTTPResponse, error) {
			l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(*eventloop.HTTPResponse, error) {
				s := l.Stats()
				if s.HTTPClient.Requests != 0 || s.HTTPClient.RequestsTotal != 2 || s.HTTPClient.ReusedTotal != 1 || s.HTTPClient.RetriedTotal != 0 || s.Conns.DialedTotal != 1 {
					t.Errorf("stats = %+v", s)
				}
				if s.Conns.BytesInTotal != uint64(2*len(httpOK)) || s.Conns.BytesOutTotal == 0 || s.Conns.Buffered != 0 {
					t.Errorf("bytes in = %d, out = %d, buffered = %d", s.Conns.BytesInTotal, s.Conns.BytesOutTotal, s.Conns.Buffered)
				}
			})
		})
	})
}

func TestHTTPPanicInProxyIsTheFuturesError(t *testing.T) {
	cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { panic("proxy") }}
	_, err := doHTTP(t, cfg, "GET", "http://h", nil)
	if pe := new(eventloop.PanicError); !errors.As(err, &pe) || pe.Value != "proxy" {
		t.Errorf("got %v", err)
	}
}

// A panic in Dial does not keep the slot.
func TestHTTPCaughtPanicInDialIsTheFuturesError(t *testing.T) {
	cfg := eventloop.HTTPClientConfig{MaxConnsPerHost: 1, Dial: func(context.Context, string, string) (net.Conn, error) { panic("dial") }}
	errs := 0
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg, CatchPanics: true}, func(l *eventloop.Loop) {
		for range 3 {
			l.HTTP().Get(context.Background(), "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
				if pe := new(eventloop.PanicError); errors.As(err, &pe) && errors.Is(err, eventloop.ErrHTTP) {
					errs++
				}
			})
		}
	})
	if errs != 3 {
		t.Errorf("panics = %d, want 3", errs)
	}
}

// A request in flight takes at most two goroutines, and its memory, goroutines
// and descriptors come back, all but the connections that the pool may keep.
func TestHTTPManyRequestsToSlowServersTakeLittleAndGiveItBack(t *testing.T) {
	const n, kept = 1000, 10
	response := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 8<<10, strings.Repeat("x", 8<<10))
	release := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(n)
	p := newHTTPPeer(t, func(c net.Conn) {
		var head [512]byte // a server of few means, so that the client's are measured
		if k, _ := c.Read(head[:]); k > 0 {
			waiting.Done()
			<-release
			io.WriteString(c, response)
			io.Copy(io.Discard, c)
		}
	})
	l, end := startLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{MaxConnsPerHost: -1, MaxIdle: kept}})
	onLoop(t, l, func() { l.HTTP().Get(context.Background(), "http://127.0.0.1:1").Then(nil) }) // what is made once
	eventually(func() bool { return l.Stats().HTTPClient.Requests == 0 })
	goroutines, fds, heap := runtime.NumGoroutine(), openFDs(t), liveHeap()
	var answered sync.WaitGroup
	answered.Add(n)
	onLoop(t, l, func() {
		for range n {
			l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || len(res.Body) != 8<<10 {
					t.Error(res, err)
				}
				answered.Done()
			})
		}
	})
	waiting.Wait()
	more, inFlight := runtime.NumGoroutine()-goroutines-n, int(liveHeap()-heap) // the server has n goroutines
	if more > 2*n {
		t.Errorf("goroutines = %d for %d requests", more, n)
	}
	close(release)
	answered.Wait()
	back := eventually(func() bool {
		// With those of the server; a goroutine waits with each connection that is kept,
		// or the poller with its workers waits for all of them, and the loop keeps its
		// writers.
		procs := runtime.GOMAXPROCS(0)
		return runtime.NumGoroutine() <= goroutines+2*kept+procs+pollerGoroutines(procs) && openFDs(t) <= fds+2*kept+loopFDs
	})
	if !back {
		t.Errorf("goroutines = %d, before %d; descriptors = %d, before %d; want %d kept connections",
			runtime.NumGoroutine(), goroutines, openFDs(t), fds, kept)
	}
	left := int(liveHeap() - heap)
	t.Logf("in flight: %d goroutines and %d bytes of heap per request, with those of the server; left: %d bytes per request",
		more/n, inFlight/n, left/n)
	// A buffer of 4 KB a request would be too much. The server's connections and
	// the peer's list of them are in it, too.
	if left > n*(2<<10) {
		t.Errorf("%d bytes per request are left", left/n)
	}
	end()
	p.stop()
	if now := openFDs(t); now > fds {
		t.Errorf("descriptors = %d, before %d", now, fds)
	}
}

// openFDs returns how many descriptors are open, or 0 where that is not known.
func openFDs(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// Functions of the user that leave the goroutine of the request by Goexit.
func TestHTTPGoexitIsTheFuturesError(t *testing.T) {
	p := newHTTPPeer(t, withTLS(httpServerTLS(), hang))
	verify := httpClientTLS()
	verify.VerifyConnection = func(tls.ConnectionState) error { runtime.Goexit(); return nil }
	cases := map[string]struct {
		cfg  eventloop.HTTPClientConfig
		opts *eventloop.HTTPOptions
	}{
		"Proxy": {cfg: eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { runtime.Goexit(); return nil, nil }}},
		"Dial": {cfg: eventloop.HTTPClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
			runtime.Goexit()
			return nil, nil
		}}},
		"TLS":        {cfg: eventloop.HTTPClientConfig{TLS: verify}},
		"BodyReader": {cfg: eventloop.HTTPClientConfig{TLS: httpClientTLS()}, opts: &eventloop.HTTPOptions{BodyReader: exitingReader{}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			_, err := doHTTP(t, tc.cfg, "POST", "https://"+p.addr, tc.opts)
			if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), "Goexit") {
				t.Errorf("got %v, want an error that says Goexit", err)
			}
		})
	}
}

type exitingReader struct{}

func (exitingReader) Read([]byte) (int, error) { runtime.Goexit(); return 0, nil }

// Many requests of all kinds meet a server that does whatever a server can do.
func TestLaw3EveryHTTPRequestEndsOnceAndWithItsOwnResponse(t *testing.T) {
	const total, inFlight = 4000, 40
	p := newHTTPPeer(t, stormServer)
	ctx := context.Background()
	var ended [total]atomic.Int32
	var answered, failed atomic.Int64
	mustRun(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{
		Proxy:             eventloop.NoProxy,
		MaxConnsPerHost:   inFlight / 2,
		MaxIdlePerHost:    inFlight / 3,
		InactivityTimeout: 200 * time.Millisecond,
		IdleTimeout:       20 * time.Millisecond,
	}}, func(l *eventloop.Loop) {
		n := 0
		var next func()
		next = func() {
			if n == total {
				return
			}
			i := n
			n++
			rnd := mrand.New(mrand.NewPCG(1, uint64(i)))
			method, opts, ctx, cancel := "GET", &eventloop.HTTPOptions{}, ctx, func() {}
			switch rnd.IntN(8) {
			case 0:
				method, opts.Body = "POST", make([]byte, rnd.IntN(40<<10))
			case 1:
				method, opts.BodyReader = "POST", strings.NewReader(strings.Repeat("x", rnd.IntN(9000)))
			case 2:
				method, opts.Body = "PUT", make([]byte, 100<<10)
			case 3:
				opts.Headers = eventloop.HTTPHeaders{{"X-Long", strings.Repeat("y", 6000)}}
			}
			switch rnd.IntN(8) {
			case 0:
				opts.Timeout = time.Duration(1+rnd.IntN(5000)) * time.Microsecond
			case 1:
				ctx, cancel = context.WithCancel(ctx)
				time.AfterFunc(time.Duration(rnd.IntN(2000))*time.Microsecond, cancel)
			case 2:
				ctx, cancel = context.WithCancel(ctx)
				l.Post(cancel)
			case 3:
				l.HTTP().CloseIdle()
			case 4:
				opts.MaxRedirects = 1
			}
			url := fmt.Sprintf("http://%s/%d", p.addr, i)
			l.HTTP().Do(ctx, method, url, opts).Then(func(res *eventloop.HTTPResponse, err error) {
				cancel()
				ended[i].Add(1)
				if err != nil {
					failed.Add(1)
					if !slices.ContainsFunc(stormErrors, func(e error) bool { return errors.Is(err, e) }) {
						t.Errorf("request %d failed with %v", i, err)
					}
				} else if answered.Add(1); string(res.Body) != fmt.Sprint("response ", i) {
					t.Errorf("request %d got %q", i, res.Body)
				}
				if rnd.IntN(4) == 0 {
					l.AfterFunc(time.Duration(rnd.IntN(1000))*time.Microsecond, next)
				} else {
					next()
				}
			})
		}
		for range inFlight {
			next()
		}
	})
	for i := range ended {
		if n := ended[i].Load(); n != 1 {
			t.Errorf("request %d ended %d times, want once", i, n)
		}
	}
	t.Logf("%d answers, %d failures", answered.Load(), failed.Load())
	if answered.Load() < total/4 {
		t.Errorf("answers = %d of %d", answered.Load(), total)
	}
}

// stormErrors are what the server of a storm, and those who ask it, can cause.
var stormErrors = []error{eventloop.ErrTimeout, eventloop.ErrReset, eventloop.ErrHTTPMalformed, io.EOF,
	io.ErrUnexpectedEOF, context.Canceled}

// Loops are stopped in the midst of requests. Every request has to end, too.
func TestLaw6NothingOfTheHTTPClientIsLeftWheneverTheLoopIsStopped(t *testing.T) {
	p := newHTTPPeer(t, stormServer)
	for round := range 30 {
		var futures []*eventloop.Future[*eventloop.HTTPResponse]
		mustRun(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}, func(l *eventloop.Loop) {
			ended := 0
			var next func()
			next = func() {
				f := l.HTTP().Get(context.Background(), fmt.Sprintf("http://%s/%d", p.addr, len(futures)))
				futures = append(futures, f)
				f.Then(func(*eventloop.HTTPResponse, error) {
					if ended++; ended == 10*round {
						go l.Stop()
					}
					next()
				})
			}
			for range 8 {
				next()
			}
			if round == 0 {
				l.Stop()
			}
		})
		for i, f := range futures {
			if _, err := f.Result(); err == eventloop.ErrPending {
				t.Errorf("round %d: request %d did not end", round, i)
			}
		}
	}
}

// stormServer answers "response N" to a request for /N, most of the time.
func stormServer(c net.Conn) {
	br := bufio.NewReader(c)
	pause := func() { time.Sleep(time.Duration(mrand.IntN(3000)) * time.Microsecond) }
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		response := "response " + strings.TrimPrefix(req.URL.Path, "/")
		response = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(response), response)
		do := mrand.IntN(40)
		if do != 0 { // else the response comes before the body is read
			io.Copy(io.Discard, req.Body)
		}
		switch do {
		case 1: // no response
			return
		case 2:
			pause()
			return
		case 3:
			io.WriteString(c, response[:mrand.IntN(len(response))])
			return
		case 4: // in pieces
			n := mrand.IntN(len(response))
			io.WriteString(c, response[:n])
			pause()
			response = response[n:]
		case 5:
			pause()
		case 6: // in silence
			time.Sleep(250 * time.Millisecond)
		case 7:
			c.(*net.TCPConn).SetLinger(0)
			return
		case 8:
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		case 9: // two for one
			response += "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
		}
		if _, err := io.WriteString(c, response); err != nil {
			return
		}
		switch mrand.IntN(40) {
		case 0:
			return
		case 1:
			pause()
			return
		case 2:
			pause()
			c.(*net.TCPConn).SetLinger(0)
			return
		case 3: // unsolicited bytes
			pause()
			io.WriteString(c, "nonsense")
		case 4:
			io.WriteString(c, "nonsense")
		case 5: // half-closed
			c.(*net.TCPConn).CloseWrite()
		}
	}
}

func TestHTTPKeptConnectionOutlivesTheTimesOfItsRequests(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	patiently(t, 500*time.Millisecond, func(silence time.Duration) (failure error) {
		before := p.conns.Load()
		mustRun(t, nil, func(l *eventloop.Loop) {
			client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{InactivityTimeout: silence})
			n := 0
			var next func()
			next = func() {
				client.Do(context.Background(), "POST", "http://"+p.addr, &eventloop.HTTPOptions{Timeout: 2 * silence}).Then(func(res *eventloop.HTTPResponse, err error) {
					if err != nil {
						failure = fmt.Errorf("request %d: %w", n, err)
						return
					}
					if res.Reused != (n > 0) {
						t.Errorf("request %d: Reused = %v", n, res.Reused)
					}
					if n++; n < 4 {
						l.AfterFunc(silence+100*time.Millisecond, next)
					}
				})
			}
			next()
		})
		if failure == nil {
			wantEqual(t, "connections", p.conns.Load()-before, 1)
		}
		return failure
	})
}

func TestHTTPRequestsThatNeedAGoroutineUseKeptConnections(t *testing.T) {
	var received, sent atomic.Uint64
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(io.TeeReader(c, countTo(&received)))
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			sent.Add(uint64(len(httpOK)))
			io.WriteString(c, httpOK)
		}
	})
	var stats eventloop.Stats
	mustRun(t, nil, func(l *eventloop.Loop) {
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{})
		requests := []*eventloop.HTTPOptions{
			{},
			{Headers: eventloop.HTTPHeaders{{"Long", strings.Repeat("x", 6<<10)}}}, // too long to be queued
			{},
			{Body: make([]byte, 48<<10)},
			{Body: make([]byte, 100<<10)},
			{},
			{BodyReader: strings.NewReader("hello")},
			{},
			{MaxRedirects: 1},
			{},
		}
		n := 0
		var next func()
		next = func() {
			client.Do(context.Background(), "POST", "http://"+p.addr, requests[n]).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Errorf("request %d: %v", n, err)
				} else if res.Reused != (n > 0) {
					t.Errorf("request %d: Reused = %v", n, res.Reused)
				}
				if n++; n < len(requests) {
					next()
				}
			})
		}
		next()
		l.OnExit(func() { stats = l.Stats() })
	})
	wantEqual(t, "connections", p.conns.Load(), 1)
	wantEqual(t, "reused", stats.HTTPClient.ReusedTotal, 9)
	wantEqual(t, "bytes sent", stats.Conns.BytesOutTotal, received.Load())
	wantEqual(t, "bytes received", stats.Conns.BytesInTotal, sent.Load())
	wantEqual(t, "bytes buffered", stats.Conns.Buffered, 0)
}

// countTo counts the bytes that are written to it.
func countTo(n *atomic.Uint64) io.Writer {
	return writerFunc(func(p []byte) (int, error) { n.Add(uint64(len(p))); return len(p), nil })
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
