package eventloop_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestHTTPClientTakesWhatBrowsersTake(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
	for name, v := range map[string]struct{ response, trailers string }{
		"the same length twice":          {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", ""},
		"the same length as a list":      {"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nhi", ""},
		"bare LF":                        {"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", ""},
		"bare LF in places":              {"HTTP/1.1 200 OK\r\nContent-Length: 2\nA: b\r\n\nhi", ""},
		"bare LF in an interim response": {"HTTP/1.1 103 Hints\nA: b\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""},
		"bare LF in trailers":            {chunked + "A: b\n\n", "A=b "},
		"a later minor version":          {"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""},
		"a forbidden trailer":            {chunked + "Content-Type: text/plain\r\n\r\n", ""},
		"a forbidden trailer that is announced": {"HTTP/1.1 200 OK\r\nTrailer: Set-Cookie, A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" +
			"Set-Cookie: a\r\nAuthorization: b\r\nLocation: /\r\nX-Forwarded-For: c\r\nA: b\r\n\r\n", "A=b "},
		"long trailers": {chunked + "X-Sum: " + strings.Repeat("a", 5000) + "\r\n" + strings.Repeat("A: b\r\n", 5000) + "\r\n",
			"X-Sum=" + strings.Repeat("a", 5000) + " " + strings.Repeat("A=b ", 5000)},
		"spaces after a chunk size": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nhi\r\n0 ;a\r\n\r\n", ""},
		"identity":                  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPeer(t, answerAll(v.response))
			runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}, func(l *eventloop.Loop) {
				reused := false
				check := func(res *eventloop.HTTPResponse, err error) {
					if err != nil || res.Status != 200 || string(res.Body) != "hi" || res.Reused != reused {
						t.Errorf("%+v, %v", res, err)
						return
					}
					trailers := ""
					for _, f := range res.Trailers {
						trailers += f.Name + "=" + f.Value + " "
					}
					if trailers != v.trailers {
						t.Errorf("trailers %.100q, want %.100q", trailers, v.trailers)
					}
				}
				l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
					check(res, err)
					reused = true
					l.HTTP().Get(context.Background(), "http://"+p.addr).Then(check)
				})
			})
		})
	}
}

func TestHTTPTrailersAreBoundedLikeTheHead(t *testing.T) {
	for _, n := range []int{200, 201} { // of 5 bytes: 1000 is the bound
		p := newHTTPPeer(t, answerOnce("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"+strings.Repeat("A:b\r\n", n)+"\r\n"))
		res, err := doHTTP(t, eventloop.HTTPClientConfig{MaxHeaderBytes: 1000}, "GET", "http://"+p.addr, nil)
		if n == 200 && (err != nil || len(res.Trailers) != n) || n == 201 && !errors.Is(err, eventloop.ErrHTTPTooLarge) {
			t.Errorf("%d trailers: %v", n, err)
		}
	}
}

func TestHTTPErrorsDoNotQuoteTheResponse(t *testing.T) {
	for _, response := range []string{
		"HTTP/1.1 200 OK\r\nSet-Cookie: SECRET\r\nContent-Length: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nSet-Cookie: SECRET\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\nSet-Cookie: SECRET\x00\r\n\r\n",
		"HTTP/1.1 SECRET\r\nSet-Cookie: SECRET\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSECRET\r\n\r\n",
	} {
		p := newHTTPPeer(t, answerOnce(response))
		_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, nil)
		if !errors.Is(err, eventloop.ErrHTTPMalformed) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", response, err)
		}
	}
}

func TestHTTPErrorsAreOneLine(t *testing.T) {
	const bad = "a\nlevel=INFO msg=forged"
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+bad, nil)
	errs := []error{err}
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		_, err := l.Dial(context.Background(), "tcp", bad, nil)
		errs = append(errs, err)
		_, err = l.Dial(context.Background(), "tcp", bad+":80", &eventloop.ConnConfig{OnEvent: func(_ *eventloop.Conn, err error) { errs = append(errs, err) }})
		if err != nil {
			errs = append(errs, err)
		}
		l.LookupNetIP(context.Background(), "ip", bad).Then(func(_ []netip.Addr, err error) { errs = append(errs, err) })
	})
	for _, err := range errs {
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", fmt.Sprint(err))
		}
	}
}

// redirects runs a request to a server that redirects "/" to location, and returns
// the Authorization of each request.
func redirects(t *testing.T, location, user string) (res *eventloop.HTTPResponse, auth []string) {
	t.Helper()
	var mu sync.Mutex
	var addr string
	p := newHTTPPeer(t, func(c net.Conn) {
		for br := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			mu.Lock()
			auth = append(auth, r.Header.Get("Authorization"))
			mu.Unlock()
			if r.URL.Path == "/" {
				fmt.Fprintf(c, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 2\r\n\r\nhi", strings.ReplaceAll(location, "ADDR", addr))
			} else {
				io.WriteString(c, httpOK)
			}
		}
	})
	addr = p.addr
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, p.addr)
	}
	res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "GET", "http://"+user+p.addr+"/", &eventloop.HTTPOptions{MaxRedirects: 3})
	if err != nil {
		t.Fatalf("Location %q: %v", location, err)
	}
	return res, auth
}

func TestHTTPRedirectWithoutATargetIsTheResult(t *testing.T) {
	for _, location := range []string{"", " \t"} {
		if res, auth := redirects(t, location, ""); res.Status != 302 || string(res.Body) != "hi" || res.Redirects != 0 || len(auth) != 1 {
			t.Errorf("%+v after %d requests", res, len(auth))
		}
	}
}

func TestHTTPUserOfTheURLGoesToTheSameOriginOnly(t *testing.T) {
	const ann, bob = "Basic YW5uOnB3", "Basic Ym9iOngy"
	for location, want := range map[string]string{
		"/end": ann, "http://ADDR/end": ann, "//ADDR/end": ann, "http://bob:x2@ADDR/end": bob,
		"http://other.example/end": "", "http://127.0.0.1:9/end": "",
	} {
		res, auth := redirects(t, location, "ann:pw@")
		if len(auth) != 2 || auth[0] != ann || auth[1] != want {
			t.Errorf("Location %q: Authorization %q, want %q", location, auth, want)
		}
		if strings.Contains(res.URL, "@") || !strings.HasSuffix(res.URL, "/end") {
			t.Errorf("Location %q: URL %q, want one without user and password", location, res.URL)
		}
	}
}

func gzipOf(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

func TestHTTPBytesAfterACodedBodyAreIgnored(t *testing.T) {
	const text = "some text, some text, some text"
	for coding, coded := range map[string]string{
		"gzip": gzipOf(text), "br": "\x1b\x1e\x00\x00\xc4cl]}\xf7\x9a2\x18b\xa8\b\xb2\xb10}\x04", "zstd": "(\xb5/\xfd\x04\x00\x95\x00\x00Xsome text, \x01T\v\x03\x11\x0eX\xa7\xae\xb2",
	} {
		for _, tail := range []string{"", "\r\n", "\x00\x00\x00\x00", "text", "\x1f\x8b\x08"} {
			for _, stream := range []bool{false, true} {
				if stream && coding != "gzip" {
					continue
				}
				p := newHTTPPeer(t, answerAll(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s%s", coding, len(coded)+len(tail), coded, tail)))
				var got string
				opts := &eventloop.HTTPOptions{Decompress: true}
				if stream {
					opts.OnBody = func(_ *eventloop.HTTPResponse, data []byte) { got += string(data) }
				}
				res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, opts)
				if err != nil {
					t.Errorf("%s, %q, stream %v: %v", coding, tail, stream, err)
					continue
				}
				if got += string(res.Body); got != text || res.Header("Content-Encoding") != "" {
					t.Errorf("%s, %q, stream %v: %q", coding, tail, stream, got)
				}
			}
		}
	}
}

// A part of a coded body cannot be decoded, so the client asks for none.
func TestHTTPDecompressAsksForNoCodingOfAPart(t *testing.T) {
	for _, name := range []string{"Range", "rANGE"} {
		opts := &eventloop.HTTPOptions{Decompress: true, Headers: eventloop.HTTPHeaders{{name, "bytes=10-11"}, {"If-Range", "\"x\""}}}
		want := "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n" + name + ": bytes=10-11\r\nIf-Range: \"x\"\r\n\r\n"
		if got := wire(t, "http://h/", "GET", opts, 0); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		// A server that sends a coded part nevertheless: it stays as it is.
		p := newHTTPPeer(t, answerOnce("HTTP/1.1 206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x00\x01"))
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, opts)
		if err != nil || string(res.Body) != "\x00\x01" || res.Header("Content-Encoding") != "gzip" {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

func TestHTTPZoneOfAnAddressKeepsItsCase(t *testing.T) {
	dialed := make(chan string, 2)
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		dialed <- address
		client, server := net.Pipe()
		go func() {
			head := readHTTPHead(bufio.NewReader(server))
			dialed <- head[:strings.Index(head, "\r\nUser")]
			io.WriteString(server, httpOK)
			server.Close()
		}()
		return client, nil
	}
	if _, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "GET", "http://[FE80::1%25enP4p65s0]:80/", nil); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "dialed address", <-dialed, "[fe80::1%enP4p65s0]:80")
	wantEqual(t, "head", <-dialed, "GET / HTTP/1.1\r\nHost: [fe80::1]:80")
}

// orderedCloser is a body that tells when it is closed.
type orderedCloser struct {
	io.Reader
	closed func()
}

func (c *orderedCloser) Close() error { c.closed(); return nil }

func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// A Close that takes a lock which the caller of Do holds must not be a deadlock.
func TestHTTPDoDoesNotCloseTheBodyItself(t *testing.T) {
	for name, do := range map[string]func(c *eventloop.HTTPClient, body io.Reader) *eventloop.Future[*eventloop.HTTPResponse]{
		"a URL that is not valid": func(c *eventloop.HTTPClient, body io.Reader) *eventloop.Future[*eventloop.HTTPResponse] {
			return c.Do(context.Background(), "POST", "ftp://x", &eventloop.HTTPOptions{BodyReader: body})
		},
		"two bodies": func(c *eventloop.HTTPClient, body io.Reader) *eventloop.Future[*eventloop.HTTPResponse] {
			return c.Do(context.Background(), "POST", "http://x", &eventloop.HTTPOptions{BodyReader: body, Body: []byte("x")})
		},
		"a context that has ended": func(c *eventloop.HTTPClient, body io.Reader) *eventloop.Future[*eventloop.HTTPResponse] {
			return c.Do(endedContext(), "POST", "http://x", &eventloop.HTTPOptions{BodyReader: body})
		},
	} {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, running %v", name, running), func(t *testing.T) {
				var mu sync.Mutex
				var closed atomic.Int32
				body := &orderedCloser{strings.NewReader("x"), func() { mu.Lock(); closed.Add(1); mu.Unlock() }}
				call := func(l *eventloop.Loop) {
					mu.Lock()
					defer mu.Unlock()
					f := do(l.HTTP(), body)
					wantEqual(t, "closed in Do", closed.Load(), 0)
					f.Then(func(_ *eventloop.HTTPResponse, err error) {
						if err == nil {
							t.Error("no error")
						}
					})
				}
				if running {
					mustRun(t, nil, call)
				} else {
					call(eventloop.New(nil))
					eventually(func() bool { return closed.Load() > 0 })
				}
				wantEqual(t, "closed", closed.Load(), 1)
			})
		}
	}
}

func TestHTTPRequestThatItsContextEndsMatchesWhatEndedIt(t *testing.T) {
	cause := errors.New("the user went away")
	stuck := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, v := range map[string]struct {
		cfg eventloop.HTTPClientConfig
		end func(ctx context.Context) (context.Context, context.CancelFunc)
		is  []error
		not []error
	}{
		"canceled with a cause": {end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(cause) })
			return ctx, func() {}
		}, is: []error{context.Canceled, cause, eventloop.ErrHTTP}, not: []error{eventloop.ErrTimeout}},
		"canceled": {end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, is: []error{context.Canceled, eventloop.ErrHTTP}, not: []error{eventloop.ErrTimeout}},
		"late": {end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, is: []error{context.DeadlineExceeded, eventloop.ErrTimeout, eventloop.ErrHTTP}, not: []error{context.Canceled}},
		"late with a cause": {end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, cause)
		}, is: []error{context.DeadlineExceeded, cause, eventloop.ErrTimeout, eventloop.ErrHTTP}, not: []error{context.Canceled}},
		"Timeout": {cfg: eventloop.HTTPClientConfig{Timeout: time.Second}, end: context.WithCancel,
			is: []error{eventloop.ErrTimeout, eventloop.ErrHTTP}, not: []error{context.Canceled}},
	} {
		for phase, dial := range map[string]bool{"dialing": true, "waiting for the response": false} {
			t.Run(name+", "+phase, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, pipe := newHTTPPipe(func(c net.Conn) { io.Copy(io.Discard, c) })
					defer peer.stop()
					v.cfg.Proxy, v.cfg.Dial = eventloop.NoProxy, pipe
					if dial {
						v.cfg.Dial = stuck
					}
					eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
						ctx, cancel := v.end(t.Context())
						eventloop.NewHTTPClient(l, &v.cfg).Get(ctx, "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
							cancel()
							for _, is := range v.is {
								if !errors.Is(err, is) {
									t.Errorf("%v is not %v", err, is)
								}
							}
							for _, not := range v.not {
								if errors.Is(err, not) {
									t.Errorf("%v is %v", err, not)
								}
							}
						})
						return nil
					})
				})
			})
		}
	}
}

// slowWriter is a connection of which a Write of a body ends only when the test lets
// it, although the connection is closed.
type slowWriter struct {
	net.Conn
	began  chan struct{}
	let    chan struct{}
	writes atomic.Int32
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if len(p) < 16<<10 {
		return w.Conn.Write(p)
	}
	if w.writes.Add(1) == 1 {
		close(w.began)
	}
	<-w.let
	return len(p), nil
}

// countedReader counts what is read of it.
type countedReader struct {
	io.Reader
	read atomic.Int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read.Add(int64(n))
	return n, err
}

// The body belongs to the caller again when the request has ended, even if a write of
// it goes on.
func TestHTTPBodyIsNotReadAfterTheRequestHasEnded(t *testing.T) {
	for _, reader := range []bool{false, true} {
		t.Run(fmt.Sprint("BodyReader ", reader), func(t *testing.T) {
			var w *slowWriter
			p := newHTTPPeer(t, func(c net.Conn) {
				readHTTPHead(bufio.NewReader(c))
				<-w.began
				io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
				io.Copy(io.Discard, c)
			})
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				w = &slowWriter{Conn: c, began: make(chan struct{}), let: make(chan struct{})}
				return w, err
			}
			body := make([]byte, 1<<20)
			counted := &countedReader{Reader: bytes.NewReader(body)}
			opts := &eventloop.HTTPOptions{Body: body}
			if reader {
				opts = &eventloop.HTTPOptions{BodyReader: counted, ContentLength: int64(len(body))}
			}
			cfg := eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, Dial: dial}
			mustRun(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
				l.HTTP().Do(context.Background(), "POST", "http://"+p.addr, opts).Then(func(res *eventloop.HTTPResponse, err error) {
					if err != nil || res.Status != 413 {
						t.Errorf("%+v, %v", res, err)
					}
					before := counted.read.Load()
					clear(body) // a data race if it is read still
					close(w.let)
					l.OnExit(func() {
						wantEqual(t, "bytes read after the end", counted.read.Load()-before, 0)
						wantEqual(t, "writes of the body", w.writes.Load(), 1)
					})
				})
			})
		})
	}
}

// An idempotent request whose body is at hand is sent again when a kept connection
// turns out to be dead, however long the body is.
func TestHTTPPutIsSentAgainWhateverItsSize(t *testing.T) {
	for _, size := range []int{0, 48 << 10, 48<<10 + 1, 4 << 20} {
		for _, expect := range []bool{false, true} {
			for _, reset := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d bytes, expect %v, reset %v", size, expect, reset), func(t *testing.T) {
					var conns atomic.Int32
					p := newHTTPPeer(t, func(c net.Conn) {
						first := conns.Add(1) == 1
						for br := bufio.NewReader(c); ; {
							head := readHTTPHead(br)
							switch {
							case head == "":
								return
							case first && strings.HasPrefix(head, "PUT"):
								if reset {
									c.(*net.TCPConn).SetLinger(0)
								} else {
									c.(*net.TCPConn).CloseWrite()
									io.Copy(io.Discard, br)
								}
								return
							case strings.Contains(head, "Expect"):
								io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
							}
							if strings.HasPrefix(head, "PUT") {
								if n, err := io.CopyN(io.Discard, br, int64(size)); err != nil {
									t.Errorf("after %d bytes of the body: %v", n, err)
									return
								}
							}
							io.WriteString(c, httpOK)
						}
					})
					opts := &eventloop.HTTPOptions{Body: bytes.Repeat([]byte("b"), size)}
					if expect {
						opts.Headers = eventloop.HTTPHeaders{{"Expect", "100-continue"}}
					}
					mustRun(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}, func(l *eventloop.Loop) {
						l.HTTP().Get(context.Background(), "http://"+p.addr).Then(func(_ *eventloop.HTTPResponse, err error) {
							if err != nil {
								t.Error(err)
							}
							l.HTTP().Do(context.Background(), "PUT", "http://"+p.addr, opts).Then(func(res *eventloop.HTTPResponse, err error) {
								if err != nil || string(res.Body) != "ok" || res.Reused {
									t.Errorf("%+v, %v", res, err)
								}
							})
						})
					})
					wantEqual(t, "connections", conns.Load(), 2)
				})
			}
		}
	}
}

// serveSOCKS is a SOCKS5 proxy that connects to where lead leads, and notes what it
// is asked for. With a user it wants to know the password, which is "pw".
func serveSOCKS(t *testing.T, user string, lead string) (p *httpPeer, asked func() []string) {
	var mu sync.Mutex
	var all []string
	p = newHTTPPeer(t, func(c net.Conn) {
		read := func(n byte) []byte {
			b := make([]byte, n)
			if _, err := io.ReadFull(c, b); err != nil {
				return make([]byte, n)
			}
			return b
		}
		read(read(2)[1]) // methods
		if user == "" {
			c.Write([]byte{5, 0})
		} else {
			c.Write([]byte{5, 2})
			name := string(read(read(2)[1]))
			password := string(read(read(1)[0]))
			if name != user || password != "pw" {
				c.Write([]byte{1, 1})
				return
			}
			c.Write([]byte{1, 0})
		}
		host := ""
		switch request := read(4); request[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(read(1)[0]))
		case 4:
			host = net.IP(read(16)).String()
		}
		mu.Lock()
		all = append(all, fmt.Sprintf("%s:%d", host, binary.BigEndian.Uint16(read(2))))
		mu.Unlock()
		if host == "refused.example" {
			c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		c.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80})
		up, err := net.Dial("tcp", lead)
		if err != nil {
			return
		}
		go func() { io.Copy(up, c); up.Close() }()
		io.Copy(c, up)
	})
	return p, func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

func TestHTTPThroughASOCKSProxy(t *testing.T) {
	plain := newHTTPPeer(t, answerAll(httpOK))
	secure := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	for _, scheme := range []string{"socks5", "socks5h"} {
		for _, user := range []string{"", "ann"} {
			for _, https := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, user %q, https %v", scheme, user, https), func(t *testing.T) {
					target, lead := "http://", plain.addr
					if https {
						target, lead = "https://", secure.addr
					}
					p, asked := serveSOCKS(t, user, lead)
					proxy := &url.URL{Scheme: scheme, Host: p.addr}
					if user != "" {
						proxy.User = url.UserPassword(user, "pw")
					}
					cfg := eventloop.HTTPClientConfig{TLS: httpClientTLS(), Proxy: func(*url.URL) (*url.URL, error) { return proxy, nil }}
					runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
						get := func(path string, reused bool, then func()) {
							l.HTTP().Get(context.Background(), target+path).Then(func(res *eventloop.HTTPResponse, err error) {
								if err != nil || string(res.Body) != "ok" || res.Reused != reused || (res.TLS != nil) != https {
									t.Errorf("%s: %+v, %v", path, res, err)
								}
								then()
							})
						}
						get("example.com/a", false, func() {
							get("example.com/b", true, func() {
								get("example.com:81/c", false, func() { get("127.0.0.1:82/d", false, func() {}) })
							})
						})
					})
					port := map[bool]string{false: "80", true: "443"}[https]
					wantSlice(t, "asked for", asked(), []string{"example.com:" + port, "example.com:81", "127.0.0.1:82"})
				})
			}
		}
	}
}

func TestHTTPSOCKSProxyOfTheEnvironment(t *testing.T) {
	server := newHTTPPeer(t, answerAll(httpOK))
	p, asked := serveSOCKS(t, "ann", server.addr)
	t.Setenv("HTTP_PROXY", "socks5h://ann:pw@"+p.addr)
	t.Setenv("NO_PROXY", "")
	t.Setenv("REQUEST_METHOD", "")
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.HTTP().Get(context.Background(), "http://name.invalid/").Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil || string(res.Body) != "ok" {
				t.Errorf("%+v, %v", res, err)
			}
		})
	})
	wantSlice(t, "asked for", asked(), []string{"name.invalid:80"})
}

func TestHTTPSOCKSProxyThatDoesNotConnectIsAnError(t *testing.T) {
	refusing, _ := serveSOCKS(t, "", "")
	picky, _ := serveSOCKS(t, "bob", "")
	garbage := newHTTPPeer(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); io.Copy(io.Discard, c) })
	ends := newHTTPPeer(t, func(c net.Conn) { io.ReadFull(c, make([]byte, 3)) })
	for name, v := range map[string]struct{ proxy, target string }{
		"refuses":        {"socks5://" + refusing.addr, "http://refused.example"},
		"wants a user":   {"socks5://" + picky.addr, "http://h.example"},
		"another user":   {"socks5://ann:pw@" + picky.addr, "http://h.example"},
		"other password": {"socks5://bob:SECRET@" + picky.addr, "http://h.example"},
		"garbage":        {"socks5://" + garbage.addr, "http://h.example"},
		"ends":           {"socks5://" + ends.addr, "https://h.example"},
		"other version":  {"socks4://" + ends.addr, "http://h.example"},
		"no server":      {"socks5://127.0.0.1:1", "http://h.example"},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse(v.proxy) }}
			_, err := doHTTP(t, cfg, "GET", v.target, nil)
			if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), "proxy: ") || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%v", err)
			}
		})
	}
}

// A proxy that never answers is bounded by ConnectTimeout, and by the context.
func TestHTTPSOCKSProxyThatNeverRepliesIsATimeout(t *testing.T) {
	for name, v := range map[string]struct {
		cfg    eventloop.HTTPClientConfig
		cancel bool
		after  time.Duration
		is     error
	}{
		"ConnectTimeout": {eventloop.HTTPClientConfig{ConnectTimeout: 3 * time.Second}, false, 3 * time.Second, eventloop.ErrTimeout},
		"Timeout":        {eventloop.HTTPClientConfig{Timeout: 2 * time.Second}, false, 2 * time.Second, eventloop.ErrTimeout},
		"canceled":       {eventloop.HTTPClientConfig{}, true, time.Second, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, pipe := newHTTPPipe(func(c net.Conn) { io.Copy(io.Discard, c) })
				defer peer.stop()
				v.cfg.Dial = pipe
				v.cfg.Proxy = func(*url.URL) (*url.URL, error) { return url.Parse("socks5://proxy.example") }
				start := time.Now()
				eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					ctx, cancel := context.WithCancel(t.Context())
					if v.cancel {
						l.AfterFunc(time.Second, cancel)
					}
					eventloop.NewHTTPClient(l, &v.cfg).Get(ctx, "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
						cancel()
						if took := time.Since(start); !errors.Is(err, v.is) || took != v.after {
							t.Errorf("after %v: %v", took, err)
						}
					})
					return nil
				})
			})
		})
	}
}
