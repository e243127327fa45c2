package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// serveHTTP starts a server on l, which is closed at the end of the test.
func serveHTTP(t testing.TB, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) *eventloop.HTTPServer {
	t.Helper()
	s, err := l.ListenHTTP("127.0.0.1:0", h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// hai answers every request with "hai".
func hai(r *eventloop.HTTPRequest) {
	r.Respond(200, eventloop.HTTPHeaders{{"Content-Type", "text/plain"}}, []byte("hai"))
}

// A rawClient speaks HTTP byte by byte.
type rawClient struct {
	net.Conn
	t  testing.TB
	br *bufio.Reader
}

func dialRaw(t testing.TB, addr net.Addr) *rawClient {
	t.Helper()
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return newRawClient(t, nc)
}

func newRawClient(t testing.TB, nc net.Conn) *rawClient {
	t.Cleanup(func() { nc.Close() })
	return &rawClient{nc, t, bufio.NewReader(nc)}
}

func (c *rawClient) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Errorf("send: %v", err)
	}
}

// response reads a response to a request with the given method.
func (c *rawClient) response(method string) (*http.Response, string) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(watchdogTime))
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body of the response: %v", err)
	}
	return resp, string(body)
}

// get sends a GET and returns status and body of the response.
func (c *rawClient) get(path string) (int, string) {
	c.t.Helper()
	c.send("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, body := c.response("GET")
	return resp.StatusCode, body
}

// rest returns what comes until the server closes the connection, and how it did:
// nil for an orderly end.
func (c *rawClient) rest() (string, error) {
	c.SetReadDeadline(time.Now().Add(watchdogTime))
	b, err := io.ReadAll(c.br)
	return string(b), err
}

// mustClose fails unless the server closes the connection without another byte.
func (c *rawClient) mustClose() {
	c.t.Helper()
	if rest, err := c.rest(); rest != "" || err != nil {
		c.t.Errorf("after the response came %q and %v, want the end", rest, err)
	}
}

func TestHTTPServerRespondsInTheCallbackAndLater(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		switch r.Path() {
		case "/later":
			l.AfterFunc(time.Millisecond, func() { r.Respond(200, nil, []byte("later")) })
		case "/elsewhere":
			go r.Respond(200, nil, []byte("elsewhere"))
		default:
			hai(r)
		}
	})
	c := dialRaw(t, s.Addr())
	for range 3 { // on one connection
		for path, want := range map[string]string{"/": "hai", "/later": "later", "/elsewhere": "elsewhere"} {
			if status, body := c.get(path); status != 200 || body != want {
				t.Errorf("%s: %d %q, want 200 %q", path, status, body, want)
			}
		}
	}
	if got := l.Stats(); got.HTTPServer.RequestsTotal != 9 || got.HTTPServer.Status2xxTotal != 9 || got.HTTPServer.Requests != 0 || got.HTTPServer.Conns != 1 {
		t.Errorf("stats: %d requests, %d answered, %d open, %d connections; want 9, 9, 0, 1",
			got.HTTPServer.RequestsTotal, got.HTTPServer.Status2xxTotal, got.HTTPServer.Requests, got.HTTPServer.Conns)
	}
}

func TestHTTPRequestGivesWhatTheClientSent(t *testing.T) {
	l, _ := startLoop(t, nil)
	got := make(chan *eventloop.HTTPRequest, 2)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		got <- r
		hai(r)
	})
	c := dialRaw(t, s.Addr())
	c.send("PROPFIND /a%%2Fb/../c?q=%%3F&r?s HTTP/1.1\r\nHost: example.org\r\nx-DUP: 1\r\nCookie: a=b; c=d\r\n" +
		"X-Dup:2 \r\nX-Empty:\r\nContent-Length: 5\r\n\r\nhello")
	c.response("PROPFIND")
	c.get("/next-request-overwrites-buffers?xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
	r := <-got
	<-got
	for _, v := range []struct{ name, got, want string }{
		{"Method", r.Method(), "PROPFIND"},
		{"URI", r.URI(), "/a%2Fb/../c?q=%3F&r?s"},
		{"Path", r.Path(), "/a%2Fb/../c"},
		{"Query", r.Query(), "q=%3F&r?s"},
		{"Header", r.Header("X-dup"), "1"},
		{"empty Header", r.Header("X-Empty"), ""},
		{"absent Header", r.Header("X-Du"), ""},
		{"Body", string(r.Body()), "hello"},
		{"RemoteAddr", r.RemoteAddr().String(), c.LocalAddr().String()},
		{"cookie", string(r.FastHTTP().Header.Cookie("c")), "d"},
		{"argument", string(r.FastHTTP().URI().QueryArgs().Peek("q")), "?"},
		{"String", r.String(), "PROPFIND /a%2Fb/../c?q=%3F&r?s HTTP/1.1 from " + c.LocalAddr().String() +
			"\nHost: example.org\nx-DUP: 1\nCookie: a=b; c=d\nX-Dup: 2\nX-Empty: \nContent-Length: 5\n\nhello\n"},
	} {
		if v.got != v.want {
			t.Errorf("%s = %q, want %q", v.name, v.got, v.want)
		}
	}
	want := eventloop.HTTPHeaders{{"Host", "example.org"}, {"x-DUP", "1"}, {"Cookie", "a=b; c=d"}, {"X-Dup", "2"},
		{"X-Empty", ""}, {"Content-Length", "5"}}
	if !slices.Equal(r.Headers(), want) {
		t.Errorf("Headers = %v, want %v", r.Headers(), want)
	}
	if r.TLS() != nil {
		t.Error("TLS of a request in the clear is not nil")
	}
}

func TestHTTPRequestPathOfOtherTargets(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		r.Respond(200, nil, []byte(r.URI()+" "+r.Path()+" "+r.Query()))
	})
	for _, v := range [][2]string{
		{"GET http://example.org/p?q", "http://example.org/p?q /p q"},
		{"GET http://example.org", "http://example.org / "},
		{"OPTIONS *", "* * "},
		{"GET //x://y", "//x://y //x://y "},
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s HTTP/1.1\r\nHost: example.org\r\n\r\n", v[0])
		if _, body := c.response("GET"); body != v[1] {
			t.Errorf("%s: %q, want %q", v[0], body, v[1])
		}
	}
}

// The Host field does not count where the target says the host.
func TestHTTPRequestHostIsThatOfTheTargetIfItHasOne(t *testing.T) {
	l, _ := startLoop(t, nil)
	host := func(r *eventloop.HTTPRequest) {
		r.Respond(200, nil, []byte(r.Host()+"|"+r.Header("Host")+"|"+r.URI()))
	}
	s := serveHTTP(t, l, nil, host)
	std := httptest.NewServer(eventloop.HTTPHandler(l, host))
	t.Cleanup(std.Close)
	for _, v := range []struct{ request, want, mounted string }{
		{"GET /p HTTP/1.1\r\nHost: x:80", "x:80|x:80|/p", "x:80|x:80|/p"},
		{"GET /p HTTP/1.1\r\nHost:", "||/p", "||/p"},
		{"GET /p HTTP/1.0", "||/p", "||/p"},
		{"GET http://in.example/p HTTP/1.1\r\nHost: x", "in.example|x|http://in.example/p", "in.example|in.example|http://in.example/p"},
		{"GET http://in.example:80?q HTTP/1.1\r\nHost: x", "in.example:80|x|http://in.example:80?q", "in.example:80|in.example:80|http://in.example:80?q"},
		{"OPTIONS * HTTP/1.1\r\nHost: x", "x|x|*", ""},
		{"CONNECT a:80 HTTP/1.1\r\nHost: x", "a:80|x|a:80", ""},
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s\r\nConnection: close\r\n\r\n", v.request)
		if _, body := c.response("GET"); body != v.want {
			t.Errorf("%q: %q, want %q", v.request, body, v.want)
		}
		if v.mounted == "" {
			continue // net/http answers itself, or returns another target
		}
		c = dialRaw(t, std.Listener.Addr())
		c.send("%s\r\nConnection: close\r\n\r\n", v.request)
		if _, body := c.response("GET"); body != v.mounted {
			t.Errorf("%q through HTTPHandler: %q, want %q", v.request, body, v.mounted)
		}
	}
}

// The parser of fasthttp refuses some of what the server takes. FastHTTP returns it
// nevertheless.
func TestHTTPRequestCookiesAndBasicAuth(t *testing.T) {
	l, _ := startLoop(t, nil)
	got := make(chan string, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		a, ok := r.Cookie("a")
		_, none := r.Cookie("none")
		name, password, auth := r.BasicAuth()
		got <- fmt.Sprintf("%v %q %v %v %q %q %v", r.Cookies(), a, ok, none, name, password, auth)
		hai(r)
	})
	c := dialRaw(t, s.Addr())
	for fields, want := range map[string]string{
		"": `[] "" false false "" "" false`,
		"cookie: a=1; b=\"two\"; a=3; bad name=x\r\nCookie: c=4\r\nauthorization: basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==\r\n": `[a=1 b="two" a=3 c=4] "1" true false "Aladdin" "open:sesame" true`,
		"Cookie: ;=;a\r\nAuthorization: Bearer QWxhZGRpbjpvcGVu\r\n":                                                      `[a=] "" true false "" "" false`,
		"Cookie: a=\"q\"\r\nAuthorization: Basic !!\r\n":                                                                  `[a="q"] "q" true false "" "" false`,
	} {
		c.send("GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", fields)
		c.response("GET")
		wantEqual(t, fmt.Sprintf("what is in %q", fields), <-got, want)
	}
}

func TestHTTPOnATLSPortGetsAResponse(t *testing.T) {
	const want = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	for _, listener := range []bool{false, true} {
		l, _ := startLoop(t, nil)
		server, _ := testTLS()
		events := make(chan error, 10)
		cfg := &eventloop.HTTPServerConfig{OnEvent: func(_ *eventloop.HTTPServer, err error) { events <- err }}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if listener {
			ln = tls.NewListener(ln, server)
		} else {
			cfg.TLS = server
		}
		s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) { t.Error("the handler is called") }, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, first := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000)} {
			c := dialRaw(t, s.Addr())
			c.send("%s", first)
			if got, err := c.rest(); got != want || err != nil && !listener { // whose TLS reads nothing more
				t.Errorf("TLS of the listener %v: %q and %v came", listener, got, err)
			}
			wait(t, events, "event")
		}
		c := dialRaw(t, s.Addr())
		c.send("SSH-2.0-OpenSSH_9.2\r\n")
		if got, _ := c.rest(); strings.Contains(got, "HTTP") {
			t.Errorf("%q came to a client that does not speak HTTP", got)
		}
		s.Close()
	}
}

func TestHTTPRequestFastHTTPHasWhatItsOwnParserRefuses(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		req := r.FastHTTP()
		r.Respond(200, nil, fmt.Appendf(nil, "%s %s %s %s %v", req.Header.Method(), req.RequestURI(), req.Header.Peek("A"), req.Header.Cookie("c"), req.Header.IsHTTP11()))
	})
	for _, version := range []string{"1.1", "1.0"} {
		c := dialRaw(t, s.Addr())
		c.send("GET /p?q HTTP/%s\r\nHost:\r\nA: b\r\nCookie: c=d\r\nConnection: close\r\n\r\n", version)
		if _, body := c.response("GET"); body != fmt.Sprintf("GET /p?q b d %v", version == "1.1") {
			t.Errorf("HTTP/%s: %q", version, body)
		}
	}
}

func TestHTTPRequestMultipartForm(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		form, err := r.FastHTTP().MultipartForm()
		if err != nil {
			r.Respond(400, nil, []byte(err.Error()))
			return
		}
		r.Respond(200, nil, []byte(form.Value["name"][0]))
	})
	c := dialRaw(t, s.Addr())
	body := "--b\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nvalue\r\n--b--\r\n"
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "value" {
		t.Errorf("%d %q, want 200 %q", resp.StatusCode, body, "value")
	}
}

func TestHTTPRequestGetsOneResponse(t *testing.T) {
	l, _ := startLoop(t, nil)
	errs := make(chan error, 5)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		errs <- r.Respond(200, nil, []byte("first"))
		errs <- r.Respond(200, nil, []byte("second"))
		_, err := r.RespondStream(200, nil)
		errs <- err
		_, err = r.Upgrade(nil, nil)
		errs <- err
		errs <- r.ServeHTTP(http.NotFoundHandler())
	})
	c := dialRaw(t, s.Addr())
	for range 2 { // the second response to the first request is not the response to the second
		if _, body := c.get("/"); body != "first" {
			t.Errorf("response %q, want %q", body, "first")
		}
		if err := <-errs; err != nil {
			t.Errorf("Respond: %v", err)
		}
		for range 4 {
			if err := <-errs; err != eventloop.ErrHTTPResponded {
				t.Errorf("answered again: %v, want ErrHTTPResponded", err)
			}
		}
	}
}

func TestHTTPRespondStreamWithConflictingLengthsIsAnError(t *testing.T) {
	for name, mount := range allServers {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			addr := mount(t, l, nil, func(r *eventloop.HTTPRequest) {
				lengths := eventloop.HTTPHeaders{{"Content-Length", "5"}, {"content-length", r.Query()}}
				w, err := r.RespondStream(200, lengths)
				if err != nil {
					wantEqual(t, "the error matches ErrHTTPHeader", errors.Is(err, eventloop.ErrHTTPHeader), true)
					hai(r)
					return
				}
				w.Write([]byte("12345"))
				w.Close()
			})
			for _, method := range []string{"GET", "HEAD"} {
				for query, want := range map[string]int64{"6": 3, "x": 3, "5": 5} {
					c := dialRaw(t, addr)
					c.send("%s /?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, query)
					resp, body := c.response(method)
					if got := resp.Header.Values("Content-Length"); resp.ContentLength != want || len(got) > 1 || method == "GET" && int64(len(body)) != want {
						t.Errorf("%s with 5 and %s: Content-Length %q, body %q, want length %d", method, query, got, body, want)
					}
					c.Close()
				}
			}
		})
	}
}

func TestHTTPRespondFromManyGoroutinesRespondsOnce(t *testing.T) {
	l, _ := startLoop(t, nil)
	var answered atomic.Int64
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		for range 4 {
			go func() {
				if r.Respond(200, nil, []byte("hai")) == nil {
					answered.Add(1)
				}
			}()
		}
	})
	c := dialRaw(t, s.Addr())
	const n = 200
	for range n {
		if _, body := c.get("/"); body != "hai" {
			t.Fatalf("response %q, want %q", body, "hai")
		}
	}
	if !eventually(func() bool { return answered.Load() >= n }) || answered.Load() > n {
		t.Errorf("%d answers were accepted, want %d", answered.Load(), n)
	}
}

func TestHTTPRespondRefusesWhatMustNotGoOnTheWire(t *testing.T) {
	l, _ := startLoop(t, nil)
	errs := make(chan error, 16)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		for _, f := range []eventloop.HTTPHeader{{"A", "b\r\nC: d"}, {"A\r\n", "b"}, {"A", "b\x00"}, {"A", "\n"}, {"", "b"}, {"A b", "c"}} {
			errs <- r.Respond(200, eventloop.HTTPHeaders{f}, nil)
			_, err := r.RespondStream(200, eventloop.HTTPHeaders{f})
			errs <- err
		}
		for _, status := range []int{0, 100, 101, 199, 1000, -1} {
			if r.Respond(status, nil, nil) == nil {
				t.Errorf("status %d was accepted", status)
			}
		}
		hai(r)
	})
	if status, body := dialRaw(t, s.Addr()).get("/"); status != 200 || body != "hai" {
		t.Errorf("%d %q, want 200 %q", status, body, "hai")
	}
	for range 12 {
		if err := <-errs; !errors.Is(err, eventloop.ErrHTTPHeader) {
			t.Errorf("error %v, want ErrHTTPHeader", err)
		}
	}
}

func TestHTTPRespondKeepsOrderAndSpellingOfFields(t *testing.T) {
	l, _ := startLoop(t, nil)
	body := []byte("body")
	headers := eventloop.HTTPHeaders{{"x-b", "1"}, {"X-A", "2"}, {"Set-Cookie", "a"}, {"x-b", "3"}, {"Set-Cookie", "b"},
		{"Content-Length", "99"}, {"Transfer-Encoding", "chunked"}, {"Connection", "keep-alive, x"}, {"Date", "now"}}
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		r.Respond(299, headers, body)
		copy(body, "over") // it was copied
		headers[0].Value = "X"
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	got, err := c.rest()
	want := "HTTP/1.1 299 Unknown Status Code\r\nx-b: 1\r\nX-A: 2\r\nSet-Cookie: a\r\nx-b: 3\r\nSet-Cookie: b\r\nDate: now\r\n" +
		"Content-Length: 4\r\nConnection: close\r\n\r\nbody"
	if got != want || err != nil {
		t.Errorf("response\n%s\nand %v, want\n%s", got, err, want)
	}
}

func TestHTTPResponsesHaveADateAndNoServerField(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, hai)
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, _ := c.response("GET")
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || time.Since(date).Abs() > time.Minute {
		t.Errorf("Date %q", resp.Header.Get("Date"))
	}
	if got := resp.Header.Values("Server"); got != nil {
		t.Errorf("Server: %q, want none", got)
	}
}

func TestHTTPResponsesWithoutABody(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		status := 0
		fmt.Sscan(r.Path()[1:], &status)
		var headers eventloop.HTTPHeaders
		if r.Query() != "" {
			headers.Add("Content-Length", r.Query())
		}
		r.Respond(status, headers, []byte(r.Header("X-Body")))
	})
	for _, v := range []struct{ method, target, body, length string }{
		{"GET", "/204", "some", ""},
		{"GET", "/304", "", ""},
		{"GET", "/304?77", "", "77"},
		{"GET", "/205", "some", "0"},
		{"GET", "/200", "", "0"},
		{"HEAD", "/200", "some", "4"},
		{"HEAD", "/200?77", "", "77"},
		{"HEAD", "/404", "some", "4"},
		{"HEAD", "/204", "", ""},
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s %s HTTP/1.1\r\nHost: x\r\nX-Body: %s\r\nConnection: close\r\n\r\n", v.method, v.target, v.body)
		got, _ := c.rest()
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if body != "" {
			t.Errorf("%s %s: body %q, want none", v.method, v.target, body)
		}
		length := ""
		if _, after, ok := strings.Cut(head, "Content-Length: "); ok {
			length, _, _ = strings.Cut(after, "\r\n")
		}
		if length != v.length {
			t.Errorf("%s %s: Content-Length %q, want %q", v.method, v.target, length, v.length)
		}
	}
}

func TestHTTPKeepAlive(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxRequestsPerConn: 3}, func(r *eventloop.HTTPRequest) {
		var headers eventloop.HTTPHeaders
		if r.Path() == "/close" {
			headers.Add("Connection", "close")
		}
		r.Respond(200, headers, []byte("hai"))
	})
	for _, v := range []struct{ request, connection string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, close\r\n\r\n", "close"},
		{"GET /close HTTP/1.1\r\nHost: x\r\n\r\n", "close"},
		{"GET / HTTP/1.0\r\n\r\n", "close"},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "keep-alive"},
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s", v.request)
		resp, _ := c.response("GET")
		got := resp.Header.Get("Connection")
		if resp.Close && got == "" {
			got = "close" // ReadResponse takes it out
		}
		if got != v.connection {
			t.Errorf("%q: Connection: %q, want %q", v.request, got, v.connection)
		}
		if v.connection == "close" {
			c.mustClose()
			continue
		}
		c.get("/")
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.response("GET"); !resp.Close {
			t.Error("the third response does not say that it is the last")
		}
		c.mustClose()
	}
}

// A fast client sends its next request before the server has finished the previous one.
func TestHTTPBusyConnectionsAlwaysGetTheirResponses(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, []byte(r.Path())) })
	var wg sync.WaitGroup
	for range 16 {
		c := dialRaw(t, s.Addr())
		wg.Go(func() {
			defer c.Close()
			for i := range 2000 {
				path := fmt.Sprintf("/%d", i)
				if status, body := c.get(path); status != 200 || body != path {
					t.Errorf("the response to %s = %d, %q", path, status, body)
					return
				}
			}
		})
	}
	wg.Wait()
	wantEqual(t, "requests", l.Stats().HTTPServer.RequestsTotal, 16*2000)
}

// After a second a connection that is idle goes on with another goroutine: the
// client must not notice, and Close must find the connection still.
func TestHTTPConnectionThatIsIdleForAWhileIsKept(t *testing.T) {

	l, end := startLoop(t, nil)
	s := serveHTTP(t, l, nil, hai)
	kept, closed := dialRaw(t, s.Addr()), dialRaw(t, s.Addr())
	idle := func(c *rawClient) {
		c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		if _, err := c.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an idle connection: %v, want nothing to read", err)
		}
		c.SetReadDeadline(time.Time{})
	}
	closed.get("/")
	kept.get("/")
	idle(kept)
	wantEqual(t, "connections", l.Stats().HTTPServer.Conns, 2)
	status, body := kept.get("/")
	if status != 200 || body != "hai" {
		t.Errorf("a response after a while = %d, %q", status, body)
	}
	s.Close()
	closed.mustClose()
	kept.mustClose()
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestHTTPPipelinedResponsesAreInOrder(t *testing.T) {
	l, _ := startLoop(t, nil)
	var running, most atomic.Int64
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		most.Store(max(most.Load(), running.Add(1)))
		respond := func() {
			running.Add(-1)
			r.Respond(200, nil, []byte(r.Path()))
		}
		if strings.HasSuffix(r.Path(), "7") {
			l.AfterFunc(time.Millisecond, respond)
		} else {
			respond()
		}
	})
	c := dialRaw(t, s.Addr())
	const n = 300
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
	}
	go c.Write(b.Bytes())
	for i := range n {
		if _, body := c.response("GET"); body != fmt.Sprint("/", i) {
			t.Fatalf("response %d is %q", i, body)
		}
	}
	if got := most.Load(); got != 1 {
		t.Errorf("%d requests of one connection at once, want 1", got)
	}
}

func TestHTTPBodiesOfAllKinds(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		r.Respond(200, nil, fmt.Appendf(nil, "%s %d %.20s", r.Method(), len(r.Body()), r.Body()))
	})
	long := strings.Repeat("0123456789", 30_000)
	c := dialRaw(t, s.Addr())
	for _, v := range []struct{ request, want string }{
		{"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "GET 3 abc"},
		{"DELETE / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "DELETE 0 "},
		{"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "POST 0 "},
		{"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + long, "PUT 300000 01234567890123456789"},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;ext=\"x\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", "POST 13 abc0123456789"},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n493E0\r\n" + long + "\r\n000\r\n\r\n", "POST 300000 01234567890123456789"},
	} {
		go c.Write([]byte(v.request))
		if _, body := c.response("POST"); body != v.want {
			t.Errorf("%.80q: %q, want %q", v.request, body, v.want)
		}
	}
}

func TestHTTPBodyThatArrivesByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			ln := pipelistener.New()
			s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) {
				r.Respond(200, nil, fmt.Appendf(nil, "%s", r.Body()))
			}, nil)
			go func() {
				defer s.Close()
				c := newRawClient(t, ln.Dial())
				defer c.Close()
				for _, b := range []byte("\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;e\r\nc\r\n0\r\nT: t\r\n\r\n") {
					time.Sleep(10 * time.Millisecond)
					c.Write([]byte{b})
				}
				if _, body := c.response("POST"); body != "abc" {
					t.Errorf("body %q, want %q", body, "abc")
				}
			}()
			return err
		})
		if err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestHTTPExpectContinue(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxBodyBytes: 100}, func(r *eventloop.HTTPRequest) {
		r.Respond(200, nil, r.Body())
	})
	c := dialRaw(t, s.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
	if line, _ := c.br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first line %q", line)
	}
	c.br.ReadString('\n')
	c.send("abc")
	if _, body := c.response("POST"); body != "abc" {
		t.Errorf("body %q", body)
	}
	// The body is there already: nothing to wait for.
	c.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
	if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "abc" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	// No body: no 100 either.
	c.send("GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	c.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n")
	if resp, _ := c.response("POST"); resp.StatusCode != 413 {
		t.Errorf("status %d, want 413 before the body was sent", resp.StatusCode)
	}
	c.mustClose()
}

func TestHTTPServerOnUnixSocket(t *testing.T) {
	l, _ := startLoop(t, nil)
	ln, err := net.Listen("unix", t.TempDir()+"/http")
	if err != nil && runtime.GOOS == "windows" {
		t.Skip(err) // old ones have no unix sockets
	} else if err != nil {
		t.Fatal(err)
	}
	s, err := l.ServeHTTP(ln, hai, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if status, body := dialRaw(t, s.Addr()).get("/"); status != 200 || body != "hai" {
		t.Errorf("%d %q", status, body)
	}
}

func TestHTTPServerReportsWhatIsWrongAtOnce(t *testing.T) {
	l := eventloop.New(nil)
	if _, err := l.ListenHTTP("127.0.0.1:0", hai, nil); err != eventloop.ErrNotRunning {
		t.Errorf("before Run: %v, want ErrNotRunning", err)
	}
	l, end := startLoop(t, nil)
	s := serveHTTP(t, l, nil, hai)
	for _, address := range []string{s.Addr().String(), "nowhere", "127.0.0.1:no-such-service", "192.0.2.1:0"} {
		_, err := l.ListenHTTP(address, hai, nil)
		if oe, ok := errors.AsType[*eventloop.OpError](err); !ok || oe.Op != "listen" {
			t.Errorf("%s: %v, want an OpError of listen", address, err)
		}
	}
	if _, err := l.ListenHTTP("127.0.0.1:0", nil, nil); err == nil {
		t.Error("a nil handler was accepted")
	}
	if _, err := l.ServeHTTP(nil, hai, nil); err == nil {
		t.Error("a nil listener was accepted")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.ServeHTTP(ln, nil, nil); err == nil {
		t.Error("a nil handler was accepted")
	}
	s.Close()
	end()
	if _, err := l.ListenHTTP("127.0.0.1:0", hai, nil); err != eventloop.ErrLoopClosed {
		t.Errorf("after the end: %v, want ErrLoopClosed", err)
	}
	if _, err := l.ServeHTTP(ln, hai, nil); err != eventloop.ErrLoopClosed {
		t.Errorf("after the end: %v, want ErrLoopClosed", err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("a listener that was not served: %v", err)
	}
}

func TestLaw12APanicOfAnHTTPHandlerIsReportedOnceAndTheServerContinues(t *testing.T) {
	events := make(chan error, 4)
	l, _ := startLoop(t, &eventloop.Config{CatchPanics: true})
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{
		OnEvent: func(s *eventloop.HTTPServer, err error) { events <- err },
	}, func(r *eventloop.HTTPRequest) {
		switch r.Path() {
		case "/panic":
			panic("boom")
		case "/answered":
			hai(r)
			panic("boom")
		case "/streaming":
			w, _ := r.RespondStream(200, nil)
			w.Write([]byte("part"))
			panic("boom")
		}
		hai(r)
	})
	c := dialRaw(t, s.Addr())
	for _, v := range []struct {
		path   string
		status int
	}{{"/panic", 500}, {"/answered", 200}, {"/", 200}} {
		if status, _ := c.get(v.path); status != v.status {
			t.Errorf("%s: %d, want %d", v.path, status, v.status)
		}
	}
	c.send("GET /streaming HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, _ := c.rest(); !strings.HasSuffix(got, "4\r\npart\r\n") {
		t.Errorf("the stream ended as if it were complete: %q", got)
	}
	for range 3 {
		if pe, ok := errors.AsType[*eventloop.PanicError](<-events); !ok || pe.Value != "boom" {
			t.Errorf("event %v, want the panic", pe)
		}
	}
	if len(events) > 0 {
		t.Errorf("one more event: %v", <-events)
	}
}

// A panic in any callback of a request is treated like one in the handler, in all servers.
func TestAPanicInACallbackOfAnHTTPRequestEndsTheResponseAndIsReportedOnce(t *testing.T) {
	request := "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
	for name, mount := range allServers {
		for _, v := range []struct {
			path     string
			response string // of the server: its beginning or, for a stream, its end
		}{
			{"handler", "HTTP/1.1 500 "},
			{"data", "HTTP/1.1 500 "},
			{"end", "HTTP/1.1 500 "},
			{"end-responded", "HTTP/1.1 200 "},
			{"end-stream", "4\r\npart\r\n"},
			{"drain", "4\r\npart\r\n"},
			{"abort", "HTTP/1.1 500 "},
			{"abort-stream", "4\r\npart\r\n"},
		} {
			for _, size := range []int{10, 5000} { // a body that has been read, and one that is a stream
				if strings.HasPrefix(v.path, "abort") && name == "fasthttp" {
					continue // it reports no disconnect
				}
				t.Run(fmt.Sprintf("%s, %s, %d bytes", name, v.path, size), func(t *testing.T) {
					events := make(chan error, 4)
					l, _ := startLoop(t, &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
						if name == "own" {
							t.Errorf("EventHandler got %v", err)
						}
						events <- err
					}})
					handled := make(chan struct{})
					stream := func(r *eventloop.HTTPRequest) *eventloop.HTTPResponseWriter {
						w, err := r.RespondStream(200, nil)
						if err != nil {
							t.Error(err)
						}
						w.Write([]byte("part"))
						return w
					}
					addr := mount(t, l, &eventloop.HTTPServerConfig{
						MaxInlineBody: 1000,
						OnEvent:       func(s *eventloop.HTTPServer, err error) { events <- err },
					}, func(r *eventloop.HTTPRequest) {
						defer l.Post(func() { close(handled) })
						switch r.Path() {
						case "/handler":
							panic("boom")
						case "/data":
							r.OnBody(func([]byte) { panic("boom") }, nil)
						case "/end":
							r.OnBody(nil, func(error) { panic("boom") })
						case "/end-responded":
							r.OnBody(nil, func(error) { hai(r); panic("boom") })
						case "/end-stream":
							stream(r)
							r.OnBody(nil, func(error) { panic("boom") })
						case "/drain":
							stream(r).OnDrain(func() { panic("boom") })
						case "/abort", "/abort-stream":
							if r.Path() == "/abort-stream" {
								stream(r)
							}
							r.OnAbort(func(error) { panic("boom") })
							r.OnBody(nil, nil)
						}
					})
					c := dialRaw(t, addr)
					c.send(request, v.path, size, strings.Repeat("b", size))
					wait(t, handled, "call of the handler")
					c.Conn.(*net.TCPConn).CloseWrite() // the server is not to wait for more
					if got, _ := c.rest(); !strings.HasPrefix(got, v.response) && !strings.HasSuffix(got, "\r\n"+v.response) {
						t.Errorf("response %q, want %q", got, v.response)
					}
					if pe, ok := errors.AsType[*eventloop.PanicError](wait(t, events, "event")); !ok || pe.Value != "boom" {
						t.Errorf("event %v, want the panic", pe)
					}
					if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 }) {
						t.Error("the request stays open")
					}
					onLoop(t, l, func() {})
					if len(events) > 0 {
						t.Errorf("one more event: %v", <-events)
					}
					wantEqual(t, "ErrorsTotal", l.Stats().Loop.ErrorsTotal, 1)
				})
			}
		}
	}
}

func TestHTTPHandlerThatPanicsEndsTheLoopByDefault(t *testing.T) {
	checkLeaks(t)
	addr := make(chan net.Addr, 1)
	result := make(chan any, 1)
	go func() {
		defer func() { result <- recover() }()
		eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) { panic("boom") }, nil)
			addr <- s.Addr()
			return err
		})
	}()
	c := dialRaw(t, <-addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, _ := c.rest(); got != "" {
		t.Errorf("a response: %q", got)
	}
	if pe, ok := (<-result).(*eventloop.PanicError); !ok || pe.Value != "boom" {
		t.Errorf("Run ended with %v, want the panic", pe)
	}
}

func TestHTTPRequestWithoutAResponseIsLoggedWhenTheLoopEnds(t *testing.T) {
	var log bytes.Buffer
	l, end := startLoop(t, &eventloop.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var kept *eventloop.HTTPRequest
	handled := make(chan struct{})
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		kept = r
		l.Post(func() { close(handled) })
	})
	c := dialRaw(t, s.Addr())
	c.send("GET /forgotten HTTP/1.1\r\nHost: x\r\n\r\n")
	<-handled
	if names := handleNames(l); !strings.Contains(names, "http request GET /forgotten") {
		t.Errorf("Handles do not show the request:\n%s", names)
	}
	if got := l.Stats().HTTPServer.Requests; got != 1 {
		t.Errorf("HTTPServer.Requests = %d, want 1", got)
	}
	l.Stop()
	end()
	if got, _ := c.rest(); got != "" {
		t.Errorf("a response after the end: %q", got)
	}
	if got := log.String(); strings.Count(got, "GET /forgotten") != 1 {
		t.Errorf("log: %s", got)
	}
	if err := kept.Respond(200, nil, nil); err != eventloop.ErrLoopClosed {
		t.Errorf("Respond after the end: %v, want ErrLoopClosed", err)
	}
	if got := l.Stats(); got.HTTPServer.Requests != 0 || got.HTTPServer.Conns != 0 || got.Conns.Buffered != 0 {
		t.Errorf("stats after the end: %d requests, %d connections, %d bytes, want none", got.HTTPServer.Requests, got.HTTPServer.Conns, got.Conns.Buffered)
	}
}

func TestHTTPResponseTimeoutRespondsForTheApplication(t *testing.T) {
	events := make(chan error, 1)
	l, _ := startLoop(t, nil)
	late := make(chan error, 1)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{
		ResponseTimeout: 20 * time.Millisecond,
		OnEvent:         func(s *eventloop.HTTPServer, err error) { events <- err },
	}, func(r *eventloop.HTTPRequest) {
		if r.Path() == "/hai" {
			hai(r)
			return
		}
		context.AfterFunc(r.Context(), func() { late <- r.Respond(200, nil, nil) })
	})
	c := dialRaw(t, s.Addr())
	if status, _ := c.get("/"); status != 503 {
		t.Errorf("status %d, want 503", status)
	}
	if err := <-events; !errors.Is(err, eventloop.ErrTimeout) || !errors.Is(err, eventloop.ErrHTTP) {
		t.Errorf("event %v, want ErrTimeout and ErrHTTP", err)
	}
	if err := <-late; err != eventloop.ErrHTTPResponded {
		t.Errorf("Respond after the timeout: %v, want ErrHTTPResponded", err)
	}
	if status, _ := c.get("/hai"); status != 200 {
		t.Errorf("status %d on the same connection, want 200", status)
	}
}

func TestHTTPRequestContextEndsWithTheResponse(t *testing.T) {
	l, _ := startLoop(t, nil)
	contexts := make(chan context.Context, 2)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		ctx := r.Context()
		if ctx.Err() != nil || r.Context() != ctx {
			t.Error("the context has ended before the response, or is another each time")
		}
		contexts <- ctx
		hai(r)
		go func() {
			<-ctx.Done()
			contexts <- r.Context()
		}()
	})
	dialRaw(t, s.Addr()).get("/")
	<-(<-contexts).Done()
	<-(<-contexts).Done()
}

func TestHTTPHandlerThatCallsGoexit(t *testing.T) {
	checkLeaks(t)
	addr := make(chan net.Addr, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
			s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) { runtime.Goexit() }, nil)
			addr <- s.Addr()
			return err
		})
	}()
	c := dialRaw(t, <-addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, _ := c.rest(); got != "" {
		t.Errorf("a response: %q", got)
	}
	<-ended
}
