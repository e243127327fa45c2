package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// startTransport runs a loop, and returns the RoundTripper of its client.
func startTransport(t testing.TB, cfg *eventloop.HTTPClientConfig) (rt http.RoundTripper, l *eventloop.Loop, end func() error) {
	t.Helper()
	if cfg == nil {
		cfg = &eventloop.HTTPClientConfig{}
	}
	if cfg.Proxy == nil {
		cfg.Proxy = eventloop.NoProxy
	}
	l, end = startLoop(t, &eventloop.Config{HTTPClient: cfg})
	return l.HTTP().RoundTripper(), l, end
}

// serveHandler starts a server of net/http. Its connections are counted.
func serveHandler(t testing.TB, h http.HandlerFunc) (s *httptest.Server, conns *atomic.Int32) {
	t.Helper()
	s = httptest.NewUnstartedServer(h)
	conns = new(atomic.Int32)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, conns
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// mustTrip returns the response and its body.
func mustTrip(t testing.TB, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatalf("RoundTrip: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("body: %v", err)
	}
	res.Body.Close()
	return res, string(body)
}

func TestRoundTripReturnsTheResponseAsNetHTTPDoes(t *testing.T) {
	const date = "Date: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
	for name, test := range map[string]struct{ method, response string }{
		"length":                 {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\nX: b\r\n\r\nhello"},
		"chunks":                 {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		"chunks with a trailer":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A, B\r\n\r\n5\r\nhello\r\n0\r\nA: 1\r\nC: 2\r\n\r\n"},
		"until the end":          {"GET", "HTTP/1.1 200 OK\r\n\r\nhello"},
		"HTTP/1.0":               {"GET", "HTTP/1.0 200 OK\r\n\r\nhello"},
		"close":                  {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"},
		"empty":                  {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"no content":             {"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		"not modified":           {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"},
		"not modified in chunks": {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"HEAD":                   {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		"HEAD without a length":  {"HEAD", "HTTP/1.1 200 OK\r\n\r\n"},
		"HEAD in chunks":         {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"no reason":              {"GET", "HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n"},
		"redirect":               {"GET", "HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"},
		"not found":              {"GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"},
		"after interim ones":     {"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
		"gzip":                   {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(gzipped("hello")), gzipped("hello"))},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := newHTTPPeer(t, func(c net.Conn) {
				readHTTPHead(bufio.NewReader(c))
				io.WriteString(c, strings.Replace(test.response, "\r\nX-Date", date, 1))
			})
			transport := &http.Transport{DisableCompression: true}
			defer transport.CloseIdleConnections()
			rt, _, _ := startTransport(t, nil)
			req := newRequest(t, test.method, "http://"+p.addr, nil)
			got, body := mustTrip(t, rt, req)
			want, wantBody := mustTrip(t, transport, req)
			wantEqual(t, "body", body, wantBody)
			if got.Request != req {
				t.Error("Request is not the request")
			}
			got.Body, want.Body = nil, nil
			if g, w := fmt.Sprintf("%+v", *got), fmt.Sprintf("%+v", *want); g != w {
				t.Errorf("response\n%s, want\n%s", g, w)
			}
		})
	}
}

// echoed is what serveEcho tells of a request.
func echoed(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s host=%s length=%d coding=%v close=%v\n", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, r.TransferEncoding, r.Close)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(&b, "%s: %q\n", name, r.Header[name])
	}
	fmt.Fprintf(&b, "%q %v trailer=%v", body, err, r.Trailer)
	return b.String()
}

func TestRoundTripSendsTheRequestAsNetHTTPDoes(t *testing.T) {
	checkLeaks(t)
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, echoed(r)) })
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	rt, _, _ := startTransport(t, &eventloop.HTTPClientConfig{UserAgent: "Go-http-client/1.1"})
	unknown := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
	for name, test := range map[string]struct {
		method, path string
		body         io.Reader
		change       func(req *http.Request)
	}{
		"GET":               {"GET", "/a?b=c", nil, nil},
		"no method":         {"", "/", nil, nil},
		"method of its own": {"BREW", "/pot", strings.NewReader("tea"), nil},
		"no path":           {"GET", "", nil, nil},
		"fields":            {"GET", "/", nil, func(r *http.Request) { r.Header = http.Header{"B": {"1", "2"}, "A": {" 3 "}, "c": {"4"}} }},
		"nil header map":    {"GET", "/", nil, func(r *http.Request) { r.Header = http.Header{} }},
		"own user agent":    {"GET", "/", nil, func(r *http.Request) { r.Header.Set("User-Agent", "me") }},
		"no user agent":     {"GET", "/", nil, func(r *http.Request) { r.Header["User-Agent"] = []string{""} }},
		"fields of the framing": {"POST", "/", strings.NewReader("x"), func(r *http.Request) {
			r.Header = http.Header{"Content-Length": {"7"}, "Transfer-Encoding": {"gzip"}, "Host": {"other"}, "Trailer": {"T"}}
		}},
		"Host":               {"GET", "/", nil, func(r *http.Request) { r.Host = "other.example:81" }},
		"Host in IDN":        {"GET", "/", nil, func(r *http.Request) { r.Host = "bücher.example:81" }},
		"no Host":            {"GET", "/", nil, func(r *http.Request) { r.Host = "" }},
		"Close":              {"GET", "/", nil, func(r *http.Request) { r.Close = true }},
		"Connection: close":  {"GET", "/", nil, func(r *http.Request) { r.Header.Set("Connection", "close"); r.Close = true }},
		"Connection":         {"GET", "/", nil, func(r *http.Request) { r.Header.Set("Connection", "keep-alive, TE"); r.Header.Set("TE", "trailers") }},
		"opaque":             {"GET", "/", nil, func(r *http.Request) { r.URL.Opaque = "/a%2Fb;c" }},
		"escaped path":       {"GET", "/a%2Fb%20c", nil, nil},
		"asterisk":           {"OPTIONS", "", nil, func(r *http.Request) { r.URL.Path = "*" }},
		"user in the URL":    {"GET", "/", nil, func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") }},
		"bytes.Reader":       {"POST", "/", bytes.NewReader([]byte("hello")), nil},
		"strings.Reader":     {"PUT", "/", strings.NewReader("hello"), nil},
		"bytes.Buffer":       {"POST", "/", bytes.NewBufferString("hello"), nil},
		"long":               {"POST", "/", strings.NewReader(strings.Repeat("hello ", 20000)), nil},
		"length not known":   {"POST", "/", unknown("hello"), nil},
		"length said":        {"POST", "/", unknown("hello"), func(r *http.Request) { r.ContentLength = 5 }},
		"chunked":            {"POST", "/", strings.NewReader("hello"), func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }},
		"empty body":         {"POST", "/", strings.NewReader(""), nil},
		"http.NoBody":        {"POST", "/", http.NoBody, nil},
		"POST without body":  {"POST", "/", nil, nil},
		"PATCH without body": {"PATCH", "/", nil, nil},
		"DELETE":             {"DELETE", "/", nil, nil},
		"GET with a body":    {"GET", "/", strings.NewReader("hello"), nil},
		"GET with a reader":  {"GET", "/", unknown("hello"), nil},
		"GET without bytes":  {"GET", "/", unknown(""), nil},
		"Expect":             {"POST", "/", unknown("hello"), func(r *http.Request) { r.Header.Set("Expect", "100-continue") }},
		"trailer": {"POST", "/", unknown("hello"), func(r *http.Request) {
			r.Trailer = http.Header{"B": nil, "A": {"1"}}
			r.Body = io.NopCloser(io.MultiReader(r.Body, readerFunc(func([]byte) (int, error) {
				r.Trailer["B"] = []string{"2", "3"}
				return 0, io.EOF
			})))
		}},
		"trailer without chunks": {"POST", "/", strings.NewReader("hello"), func(r *http.Request) { r.Trailer = http.Header{"A": {"1"}} }},
	} {
		t.Run(name, func(t *testing.T) {
			var bodies [2]string
			for i, rt := range []http.RoundTripper{rt, transport} {
				if seeker, ok := test.body.(io.Seeker); ok {
					seeker.Seek(0, io.SeekStart)
				}
				if m, ok := test.body.(*bytes.Buffer); ok {
					m.Reset()
					m.WriteString("hello")
				}
				body := test.body
				if strings.Contains(fmt.Sprintf("%T", body), "multiReader") {
					text := "hello"
					if name == "GET without bytes" {
						text = ""
					}
					body = unknown(text)
				}
				req := newRequest(t, test.method, s.URL+test.path, body)
				if test.change != nil {
					test.change(req)
				}
				_, bodies[i] = mustTrip(t, rt, req)
			}
			wantEqual(t, "request", bodies[0], bodies[1])
		})
	}
}

// The server reads the bytes: order and case of the fields are as with net/http.
func TestRoundTripSendsSortedFieldsAndDoesNotChangeTheRequest(t *testing.T) {
	var mu sync.Mutex
	var heads []string
	p := newHTTPPeer(t, func(c net.Conn) {
		head := readHTTPHead(bufio.NewReader(c))
		mu.Lock()
		heads = append(heads, head)
		mu.Unlock()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	})
	transport := &http.Transport{DisableCompression: true}
	rt, _, _ := startTransport(t, nil)
	req := newRequest(t, "GET", "http://"+p.addr+"/p?q", nil)
	req.Header = http.Header{"b": {"1"}, "User-Agent": {"x"}, "A": {"2", "3"}, "Cookie": {"c=d"}}
	before := fmt.Sprintf("%+v", *req)
	mustTrip(t, rt, req)
	mustTrip(t, transport, req)
	wantEqual(t, "the request", fmt.Sprintf("%+v", *req), before)
	wantEqual(t, "the head", heads[0], heads[1])
}

// A server does not look at the case of a name. A second field of framing would have it
// see another request than the one that is sent.
func TestRoundTripSendsNoFieldOfFramingOfTheCaller(t *testing.T) {
	for _, change := range []func(string) string{http.CanonicalHeaderKey, strings.ToLower, strings.ToUpper} {
		for _, length := range []int64{5, -1} {
			heads := make(chan string, 1)
			p := newHTTPPeer(t, func(c net.Conn) {
				heads <- readHTTPHead(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			})
			rt, _, _ := startTransport(t, nil)
			req := newRequest(t, "POST", "http://"+p.addr, strings.NewReader("hello"))
			req.ContentLength = length
			for name, value := range map[string]string{"host": "other", "content-length": "3", "transfer-encoding": "chunked", "trailer": "A"} {
				req.Header[change(name)] = []string{value}
			}
			mustTrip(t, rt, req)
			want := "POST / HTTP/1.1\r\nHost: " + p.addr + "\r\nUser-Agent: eventloop\r\nContent-Length: 5\r\n\r\n"
			if length < 0 {
				want = strings.Replace(want, "Content-Length: 5", "Transfer-Encoding: chunked", 1)
			}
			wantEqual(t, "head", <-heads, want)
		}
	}
}

func TestRoundTripIsStoppedByInvalidRequestsAndClosesTheirBodies(t *testing.T) {
	rt, l, _ := startTransport(t, nil)
	for name, change := range map[string]func(req *http.Request){
		"nil URL":              func(r *http.Request) { r.URL = nil },
		"no host":              func(r *http.Request) { r.URL.Host = "" },
		"no scheme":            func(r *http.Request) { r.URL.Scheme = "" },
		"other scheme":         func(r *http.Request) { r.URL.Scheme = "ftp" },
		"port":                 func(r *http.Request) { r.URL.Host = "h:x" },
		"method":               func(r *http.Request) { r.Method = " " },
		"CONNECT":              func(r *http.Request) { r.Method = "CONNECT" },
		"field name":           func(r *http.Request) { r.Header["a b"] = []string{"c"} },
		"field value":          func(r *http.Request) { r.Header["A"] = []string{"b\nc"} },
		"trailer name":         func(r *http.Request) { r.Trailer = http.Header{"a b": nil} },
		"trailer value":        func(r *http.Request) { r.Trailer = http.Header{"A": {"b\nc"}} },
		"trailer of framing":   func(r *http.Request) { r.Trailer = http.Header{"Content-Length": nil} },
		"Host":                 func(r *http.Request) { r.Host = "a b" },
		"opaque with a space":  func(r *http.Request) { r.URL.Opaque = "/a b\nc" },
		"canceled context":     func(r *http.Request) { ctx, cancel := context.WithCancel(bg); cancel(); *r = *r.WithContext(ctx) },
		"length without bytes": func(r *http.Request) { r.Body = nil; r.ContentLength = 5 },
	} {
		body := &closeCounter{Reader: strings.NewReader("hello")}
		req := newRequest(t, "POST", "http://127.0.0.1:1/", body)
		change(req)
		res, err := rt.RoundTrip(req)
		if res != nil || err == nil {
			t.Errorf("%s: %v, %v", name, res, err)
		}
		if name == "length without bytes" && !strings.HasSuffix(err.Error(), "Request.ContentLength=5 with nil Request.Body") {
			t.Errorf("%s: %v", name, err)
		}
		if name != "length without bytes" {
			wantEqual(t, name+": Close", body.closed.Load(), 1)
		}
	}
	wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 0)
}

func TestRoundTripWithoutHeaderMapOrBodyIsARequest(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Method) })
	rt, _, _ := startTransport(t, nil)
	u, _ := url.Parse(s.URL)
	_, body := mustTrip(t, rt, &http.Request{URL: u})
	wantEqual(t, "body", body, "GET")
}

func TestRoundTripInACallbackReturnsErrOnLoopAndClosesTheBody(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	mustRun(t, nil, func(l *eventloop.Loop) {
		body := &closeCounter{Reader: strings.NewReader("x")}
		res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, "POST", s.URL, body))
		if res != nil || err != eventloop.ErrOnLoop {
			t.Errorf("%v, %v", res, err)
		}
		t.Cleanup(func() { wantEqual(t, "Close", body.closed.Load(), 1) }) // by the end of Run
		got := make(chan *http.Response, 1)
		go func() {
			res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, "GET", s.URL, nil))
			if err != nil {
				t.Error(err)
			}
			got <- res
		}()
		eventloop.Receive(l, got, func(res *http.Response, ok bool) {
			if ok {
				n, err := res.Body.Read(make([]byte, 9))
				if n != 0 || err != eventloop.ErrOnLoop {
					t.Errorf("Read = %d, %v", n, err)
				}
				wantEqual(t, "Close", res.Body.Close(), nil)
				l.Stop()
			}
		})
	})
}

func TestRoundTripBeforeRunAndAfterTheEndFails(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	l := eventloop.New(nil)
	rt := l.HTTP().RoundTripper()
	trip := func() error {
		body := &closeCounter{Reader: strings.NewReader("x")}
		_, err := rt.RoundTrip(newRequest(t, "POST", s.URL, body))
		wantEqual(t, "Close", body.closed.Load(), 1)
		return err
	}
	wantEqual(t, "before Run", trip(), eventloop.ErrNotRunning)
	wantEqual(t, "Run", l.Run(bg), nil)
	wantEqual(t, "after the end", trip(), eventloop.ErrLoopClosed)
}

func TestRoundTripInATaskLetsTheLoopGoOn(t *testing.T) {
	reached, release := make(chan struct{}, 2), make(chan struct{})
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		reached <- struct{}{}
		<-release
		w.Write(body)
		w.(http.Flusher).Flush()
		reached <- struct{}{}
		<-release
		io.WriteString(w, " and more")
	})
	mustRun(t, nil, func(l *eventloop.Loop) {
		calls := 0
		eventloop.Receive(l, reached, func(_ struct{}, ok bool) {
			if ok {
				calls++
				release <- struct{}{}
			}
		}).Unref()
		l.Go(bg, func(task *eventloop.Task) error {
			client := &http.Client{Transport: l.HTTP().RoundTripper(), Timeout: watchdogTime}
			res, err := client.Post(s.URL, "text/plain", io.MultiReader(strings.NewReader("hello")))
			if err != nil {
				return err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if string(body) != "hello and more" || err != nil || calls != 2 {
				t.Errorf("%q, %v, %d calls", body, err, calls)
			}
			return nil
		}).Then(func(_ struct{}, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	})
}

func TestHTTPClientOfNetHTTPKeepsCookiesOverARedirect(t *testing.T) {
	s, conns := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "7"})
			http.Redirect(w, r, "/next", http.StatusFound)
		default:
			c, _ := r.Cookie("session")
			fmt.Fprint(w, r.Method, " ", c)
		}
	})
	checkLeaks(t)
	mustRun(t, nil, func(l *eventloop.Loop) {
		jar, _ := cookiejar.New(nil)
		client := &http.Client{Transport: l.HTTP().RoundTripper(), Jar: jar}
		get := func() {
			res, err := client.PostForm(s.URL, url.Values{"a": {"b"}})
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			wantEqual(t, "body", string(body), "GET session=7")
			wantEqual(t, "error", err, nil)
		}
		l.Go(bg, func(*eventloop.Task) error {
			get()
			_, err := eventloop.Work(bg, l, func(context.Context) (any, error) { get(); return nil, nil }).Await(nil)
			_ = err
			return nil
		})
	})
	wantEqual(t, "connections", conns.Load(), 1)
}

func TestReverseProxyOfNetHTTPWorksOverTheLoop(t *testing.T) {
	checkLeaks(t)
	back, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			line, _ := rw.ReadString('\n')
			io.WriteString(c, "got "+line)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Sum")
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
		w.Header().Set("Sum", "42")
	})
	rt, _, _ := startTransport(t, nil)
	u, _ := url.Parse(back.URL)
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.Transport = rt
	front := httptest.NewServer(proxy)
	defer front.Close()
	res, body := mustTrip(t, rt, newRequest(t, "POST", front.URL+"/a?b", io.MultiReader(strings.NewReader("hello"))))
	wantEqual(t, "body", body, "POST /a?b hello")
	wantEqual(t, "trailer", res.Trailer.Get("Sum"), "42")

	req := newRequest(t, "GET", front.URL, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := rt.RoundTrip(req)
	if err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	rw := res.Body.(io.ReadWriteCloser)
	io.WriteString(rw, "hello\n")
	line, err := bufio.NewReader(rw).ReadString('\n')
	if line != "got hello\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	rw.Close()
}

func TestRoundTripSpeaksTLS(t *testing.T) {
	checkLeaks(t)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "secret") }))
	defer s.Close()
	rt, _, _ := startTransport(t, &eventloop.HTTPClientConfig{TLS: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}})
	for i := range 2 {
		res, body := mustTrip(t, rt, newRequest(t, "GET", s.URL, nil))
		if body != "secret" || res.TLS == nil || !res.TLS.HandshakeComplete || res.TLS.NegotiatedProtocol != "http/1.1" {
			t.Errorf("request %d: %q, %+v", i, body, res.TLS)
		}
	}
}

func TestCloseIdleConnectionsOfTheTransportClosesThem(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	rt, _, _ := startTransport(t, nil)
	client := &http.Client{Transport: rt}
	for i := range 2 {
		mustTrip(t, rt, newRequest(t, "GET", "http://"+p.addr, nil))
		client.CloseIdleConnections()
		wantEqual(t, "connections", p.conns.Load(), int32(i+1))
	}
}

func TestTimeoutOfHTTPClientOfNetHTTPEndsTheRequestInEveryPhase(t *testing.T) {
	checkLeaks(t)
	unblock := make(chan struct{})
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
		}
		<-unblock
	})
	defer close(unblock)
	rt, l, _ := startTransport(t, nil)
	for _, where := range []string{"goroutine", "task"} {
		client := &http.Client{Transport: rt, Timeout: 20 * time.Millisecond}
		check := func(what string, err error) {
			if ue := net.Error(nil); !errors.As(err, &ue) || !ue.Timeout() || !strings.Contains(err.Error(), "Client.Timeout") && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s in a %s: %v", what, where, err)
			}
		}
		do := func() {
			_, err := client.Get(s.URL + "/head")
			check("head", err)
			patiently(t, 200*time.Millisecond, func(timeout time.Duration) error {
				client.Timeout = timeout
				res, err := client.Get(s.URL + "/body")
				if err != nil {
					return err
				}
				_, err = io.ReadAll(res.Body)
				check("body", err)
				res.Body.Close()
				return nil
			})
		}
		if where == "task" {
			l.Go(bg, func(*eventloop.Task) error { do(); return nil }).Wait(bg)
		} else {
			do()
		}
	}
}
