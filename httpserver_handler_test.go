package eventloop_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
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
	"github.com/valyala/fasthttp"
)

// A handlerCase is a handler of net/http and the requests that it gets, one after the
// other on one connection as long as that is kept.
type handlerCase struct {
	name     string
	handler  http.HandlerFunc
	requests []string
	notFast  bool // fasthttp corrects or adds something
}

const plainGET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// post returns a request with a body.
func post(fields, body string) string {
	return "POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n" + body
}

// echoRequest shows all that net/http tells of a request.
func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	names := slices.Sorted(maps.Keys(r.Header))
	fmt.Fprintf(w, "%s %q %q %s %d.%d host %q length %d encoding %q close %v\n",
		r.Method, r.RequestURI, r.URL, r.Proto, r.ProtoMajor, r.ProtoMinor, r.Host, r.ContentLength, r.TransferEncoding, r.Close)
	for _, name := range names {
		fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
	}
	fmt.Fprintf(w, "body %q %v, pattern %q, value %q, tls %v\n", body, err, r.Pattern, r.PathValue("id"), r.TLS != nil)
	_, isFlusher := w.(http.Flusher)
	_, isReaderFrom := w.(io.ReaderFrom)
	_, isStringWriter := w.(io.StringWriter)
	remote, _, _ := net.SplitHostPort(r.RemoteAddr)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	fmt.Fprintln(w, isFlusher, isReaderFrom, isStringWriter, remote, local != nil, server != nil)
}

func handlerCases(t *testing.T) []handlerCase {
	mux := http.NewServeMux()
	mux.HandleFunc("/items/{id}", echoRequest)
	mux.HandleFunc("POST /only", echoRequest)
	dir := t.TempDir()
	os.WriteFile(dir+"/file.txt", []byte(strings.Repeat("0123456789", 1000)), 0o600)
	os.WriteFile(dir+"/page", []byte("<html><body>page"), 0o600)
	write := func(n, size int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for range n {
				if m, err := w.Write([]byte(strings.Repeat("w", size))); m != size || err != nil {
					panic(err)
				}
			}
		}
	}
	set := func(status int, body string, fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Add(fields[i], fields[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	head := strings.Replace(plainGET, "GET", "HEAD", 1)
	http10 := "GET / HTTP/1.0\r\n\r\n"
	keep10 := "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
	methods := []string{plainGET, head, http10}
	return []handlerCase{
		{name: "nothing written", handler: func(http.ResponseWriter, *http.Request) {}, requests: []string{plainGET, head, keep10, http10}},
		{name: "request", handler: echoRequest, requests: []string{
			plainGET,
			"GET /a%20b//c/../d?x=1&y=%20#f HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nCookie: a=b; c=d\r\nReferer:  r \r\n\r\n",
			"GET http://other:81/path?q HTTP/1.1\r\nHost: x\r\n\r\n",
			"OPTIONS /x HTTP/1.1\r\nHost: x\r\n\r\n",
			post("Content-Length: 5\r\n", "hello"),
			post("Content-Length: 0\r\n", ""),
			post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n3\r\n wo\r\n0\r\n\r\n"),
			post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
			"FOO / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		}},
		{name: "HTTP/1.0", handler: echoRequest, requests: []string{keep10, "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"}},
		{name: "mux", handler: mux.ServeHTTP, requests: []string{
			"GET /items/7 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /only HTTP/1.1\r\nHost: x\r\n\r\n", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET //items/7 HTTP/1.1\r\nHost: x\r\n\r\n",
		}},
		{name: "files", handler: http.FileServer(http.Dir(dir)).ServeHTTP, requests: []string{
			"GET /file.txt HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /file.txt HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /file.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=5-14\r\n\r\n",
			"GET /file.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=99999-\r\n\r\n",
			"GET /page HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /file.txt HTTP/1.0\r\n\r\n",
		}},
		{name: "short", handler: write(1, 5), requests: methods},
		{name: "as much as has a length", handler: write(1, 2048), requests: methods},
		{name: "a byte more", handler: write(2049, 1), requests: methods},
		{name: "long", handler: write(3, 100_000), requests: methods},
		{name: "longer than what may be pending", handler: write(40, 100_000), requests: methods},
		{name: "status without a body", handler: set(204, ""), requests: methods},
		{name: "not modified", handler: set(304, "", "Etag", `"x"`, "Content-Type", "text/plain"), requests: methods},
		{name: "status of others", handler: set(599, "odd"), requests: methods},
		{name: "types", handler: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.Header()["Content-Type"] = nil
			}
			io.WriteString(w, "<html>")
		}, requests: []string{plainGET, post("Content-Length: 0\r\n", "")}},
		{name: "fields", handler: set(201, "x", "X-Two", "1", "X-Two", "2", "Set-Cookie", "a=1", "Set-Cookie", "b=2", "X-Bad", "a\r\nb: c"), requests: methods},
		{name: "date", handler: set(201, "x", "Date", "now"), requests: methods, notFast: true},
		{name: "closing", handler: set(200, "bye", "Connection", "close"), requests: []string{plainGET}},
		{name: "stated length", handler: set(200, "12345", "Content-Length", "5"), requests: methods},
		{name: "stated length that is wrong", handler: set(200, "12345", "Content-Length", "x"), requests: methods, notFast: true},
		{name: "too short", handler: set(200, "12345", "Content-Length", "9"), requests: []string{plainGET}},
		{name: "too long", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3")
			n, err := io.WriteString(w, "1234")
			w.Write([]byte("123"))
			fmt.Fprint(w, n, err)
		}, requests: []string{plainGET}},
		{name: "stated chunks", handler: set(200, "chunk", "Transfer-Encoding", "chunked"), requests: []string{plainGET, head}},
		{name: "identity", handler: set(200, "until the end", "Transfer-Encoding", "identity"), requests: []string{plainGET}},
		{name: "flushed", handler: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "one ")
			w.(http.Flusher).Flush()
			io.WriteString(w, "two ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				panic(err)
			}
		}, requests: methods},
		{name: "flushed first", handler: func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, requests: methods},
		{name: "copied", handler: func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(w, strings.NewReader(strings.Repeat("c", 200_000)))
			fmt.Fprint(w, n, err)
		}, requests: methods},
		{name: "superfluous status", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			w.WriteHeader(500)
			io.WriteString(w, "x")
		}, requests: methods},
		{name: "fields after the status", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-A", "before")
			w.WriteHeader(200)
			w.Header().Set("X-A", "after")
			w.Header().Set("X-B", "after")
		}, requests: methods},
		{name: "body that is not allowed", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			if n, err := io.WriteString(w, "x"); n != 0 || err != http.ErrBodyNotAllowed {
				panic(err)
			}
		}, requests: methods},
		{name: "trailers", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
			w.Header().Set("X-Other", "not announced")
		}, requests: methods[:2]},
		{name: "trailer without a value", handler: set(200, "x", "Trailer", "X-None"), requests: methods[:1], notFast: true},
		{name: "trailers that are not allowed", handler: set(200, "x", "Trailer", "Content-Length"), requests: methods[:1], notFast: true},
		{name: "trailers that were not announced", handler: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat("body", 1000))
			w.Header().Set(http.TrailerPrefix+"X-Late", "43")
		}, requests: methods[:1]},
		{name: "body left unread", handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") },
			requests: []string{post("Content-Length: 9\r\n", "123456789"), plainGET}},
		{name: "body closed", handler: func(w http.ResponseWriter, r *http.Request) {
			r.Body.Close()
			_, err := r.Body.Read(make([]byte, 1))
			fmt.Fprint(w, err)
		}, requests: []string{post("Content-Length: 9\r\n", "123456789")}},
		{name: "bounded body", handler: func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 5))
			fmt.Fprint(w, err)
		}, requests: []string{post("Content-Length: 9\r\n", "123456789")}},
		{name: "form", handler: func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.FormValue("a"), r.PostFormValue("b"), r.ParseForm())
		}, requests: []string{post("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n", "a=1&b=2")}},
		{name: "timeout", handler: http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), time.Millisecond, "too late").ServeHTTP, requests: methods},
		{name: "full duplex", handler: func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, http.NewResponseController(w).EnableFullDuplex())
			io.Copy(w, r.Body)
		}, requests: []string{post("Content-Length: 9\r\n", "123456789")}},
		{name: "deadlines", handler: func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			far := time.Now().Add(time.Hour)
			fmt.Fprint(w, rc.SetReadDeadline(far), rc.SetWriteDeadline(far), rc.SetReadDeadline(time.Time{}))
		}, requests: methods},
	}
}

// exchange sends each request to addr and returns what comes back, in a form that can be
// compared.
func (hc *handlerCase) exchange(t *testing.T, addr net.Addr, framing bool) (all []string) {
	c := dialRaw(t, addr)
	for _, request := range hc.requests {
		method, _, _ := strings.Cut(request, " ")
		c.send("%s", request)
		resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
		if err != nil {
			all = append(all, "no response: "+err.Error())
			c = dialRaw(t, addr)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if resp.Header.Get("Date") != "now" {
			if _, bad := http.ParseTime(resp.Header.Get("Date")); bad != nil && framing {
				t.Errorf("Date: %q", resp.Header.Get("Date"))
			}
			resp.Header.Del("Date")
		}
		if resp.Header.Get("Server") == "fasthttp" {
			resp.Header.Del("Server")
		}
		s := fmt.Sprintf("%s %d, body of %d, sum %x, %.300q %v\n%q trailer %q", method, resp.StatusCode, len(body), crc32.ChecksumIEEE(body), body, err, resp.Header, resp.Trailer)
		if framing {
			s += fmt.Sprintf("\nlength %d %q close %v %s", resp.ContentLength, resp.TransferEncoding, resp.Close, resp.Status)
		}
		all = append(all, s)
		if resp.Close {
			c.mustClose()
			c = dialRaw(t, addr)
		}
	}
	return all
}

// A handler of net/http gives the same response whether a server of net/http calls it or
// ServeHTTP.
func TestServeHTTPGivesTheResponseOfNetHTTP(t *testing.T) {
	servers := maps.Clone(allServers)
	servers["own, streamed bodies"] = mountOwn
	for _, hc := range handlerCases(t) {
		reference := httptest.NewUnstartedServer(hc.handler)
		reference.Config.ErrorLog = log.New(io.Discard, "", 0)
		reference.Start()
		want := hc.exchange(t, reference.Listener.Addr(), true)
		loose := hc.exchange(t, reference.Listener.Addr(), false)
		reference.Close()
		for name, mount := range servers {
			t.Run(hc.name+", "+name, func(t *testing.T) {
				if hc.notFast && name == "fasthttp" {
					return
				}
				l, _ := startLoop(t, quiet())
				var cfg eventloop.HTTPServerConfig
				if name == "own, streamed bodies" {
					cfg.MaxInlineBody = 1
				}
				addr := mount(t, l, &cfg, func(r *eventloop.HTTPRequest) {
					if err := r.ServeHTTP(hc.handler); err != nil {
						t.Error(err)
					}
					if err := r.Respond(200, nil, nil); err != eventloop.ErrHTTPResponded {
						t.Errorf("Respond after ServeHTTP: %v, want ErrHTTPResponded", err)
					}
				})
				want := want
				if name == "fasthttp" {
					want = loose
				}
				got := hc.exchange(t, addr, name != "fasthttp")
				wantEqual(t, "AbortsTotal", l.Stats().HTTPServer.AbortsTotal, 0)
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("response to %q:\n%s\nwant\n%s", hc.requests[i], got[i], want[i])
					}
				}
			})
		}
	}
}

// quiet is a configuration whose loop logs nothing.
func quiet() *eventloop.Config {
	return &eventloop.Config{Logger: slog.New(slog.DiscardHandler)}
}

// allServers are the ways for a request to come to a loop.
var allServers = func() map[string]mounter {
	all := maps.Clone(mounted)
	all["own"] = mountOwn
	return all
}()

// mountOwn is a mounter that mounts nothing.
func mountOwn(t *testing.T, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) net.Addr {
	return serveHTTP(t, l, cfg, h).Addr()
}

// serveEach runs test with each kind of server, of which each request goes to what
// handler returns.
func serveEach(t *testing.T, cfg *eventloop.HTTPServerConfig, test func(t *testing.T, name string, l *eventloop.Loop, serve func(h http.HandlerFunc) net.Addr)) {
	for name, mount := range allServers {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, quiet())
			test(t, name, l, func(h http.HandlerFunc) net.Addr {
				return mount(t, l, cfg, func(r *eventloop.HTTPRequest) {
					if err := r.ServeHTTP(h); err != nil {
						t.Error(err)
					}
				})
			})
		})
	}
}

func TestServeHTTPIsNotHeldBackByHandlersThatWait(t *testing.T) {
	serveEach(t, nil, func(t *testing.T, _ string, l *eventloop.Loop, serve func(h http.HandlerFunc) net.Addr) {
		const waiting = 100 // more than Config.MaxWork
		var began sync.WaitGroup
		began.Add(waiting)
		release := make(chan struct{})
		addr := serve(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				began.Done()
				<-release
			}
			io.WriteString(w, r.URL.Path)
		})
		var clients []*rawClient
		for range waiting {
			c := dialRaw(t, addr)
			c.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
			clients = append(clients, c)
		}
		began.Wait()
		if _, body := dialRaw(t, addr).get("/now"); body != "/now" {
			t.Errorf("body %q", body)
		}
		onLoop(t, l, func() {}) // which is not held up either
		close(release)
		for _, c := range clients {
			if _, body := c.response("GET"); body != "/wait" {
				t.Errorf("body %q", body)
			}
		}
	})
}

func TestServeHTTPEndsTheContextWhenTheClientLeaves(t *testing.T) {
	serveEach(t, nil, func(t *testing.T, name string, l *eventloop.Loop, serve func(h http.HandlerFunc) net.Addr) {
		if name == "fasthttp" {
			return // which does not tell
		}
		ended := make(chan error, 1)
		began := make(chan struct{}, 1)
		addr := serve(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				io.ReadAll(r.Body)
			}
			began <- struct{}{}
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		})
		for _, request := range []string{plainGET, post("Content-Length: 3\r\n", "abc")} {
			for _, reset := range []bool{false, true} {
				c := dialRaw(t, addr)
				c.send("%s", request)
				wait(t, began, "request")
				if reset {
					c.Conn.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
				err := wait(t, ended, "end of the context")
				if name == "own" && reset && !errors.Is(err, eventloop.ErrReset) || name == "own" && !reset && err != io.EOF {
					t.Errorf("reset %v: the cause is %v", reset, err)
				}
			}
		}
	})
}

func TestServeHTTPHasBackPressureInBothDirections(t *testing.T) {
	const total, most = 4 << 20, 1 << 20
	for _, name := range []string{"own", "fasthttp", "net/http"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				var read, wrote atomic.Int64
				cfg := &eventloop.HTTPServerConfig{MaxInlineBody: 1000, MaxBodyBytes: -1, HighWater: 100_000}
				proceed := make(chan struct{})
				nc, stop := serveOverPipe(t, name, l, cfg, func(r *eventloop.HTTPRequest) {
					r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
						<-proceed
						n, err := io.Copy(io.Discard, req.Body)
						read.Store(n)
						if err != nil {
							t.Error(err)
						}
						for wrote.Load() < total {
							n, err := w.Write(make([]byte, 1<<15))
							wrote.Add(int64(n))
							if err != nil {
								t.Error(err)
								return
							}
						}
					}))
				})
				c := newRawClient(t, nc)
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", total)
				var sent atomic.Int64
				go func() {
					for sent.Load() < total {
						n, _ := c.Write(make([]byte, 1<<15))
						sent.Add(int64(n))
					}
				}()
				synctest.Wait() // until nothing moves any more: a pipe has no buffer
				if n := sent.Load(); n > most {
					t.Errorf("%d bytes were taken although the handler has read none", n)
				}
				close(proceed)
				synctest.Wait()
				wantEqual(t, "bytes that the handler has read", read.Load(), total)
				if n := wrote.Load(); n > most {
					t.Errorf("the handler has written %d bytes although the client has read none", n)
				}
				resp, err := http.ReadResponse(c.br, nil)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, resp.Body); n != total || err != nil {
					t.Errorf("%d bytes and %v came back", n, err)
				}
				c.Close()
				stop()
			})
		})
	}
}

// serveOverPipe serves one connection of net.Pipe by the named server, until stop is called.
func serveOverPipe(t *testing.T, name string, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) (client net.Conn, stop func()) {
	t.Helper()
	ln := pipelistener.New()
	switch name {
	case "own":
		s, err := l.ServeHTTP(ln, h, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return ln.Dial(), func() { s.Close() }
	case "fasthttp":
		client, server := net.Pipe()
		s := &fasthttp.Server{Handler: cfg.FastHTTPHandler(l, h), StreamRequestBody: true, NoDefaultDate: true, Logger: quietLogger{}}
		go s.ServeConn(server)
		return client, func() {}
	default:
		s := &http.Server{Handler: cfg.HTTPHandler(l, h)}
		go s.Serve(ln)
		return ln.Dial(), func() { s.Close() }
	}
}

func TestServeHTTPInformsBeforeTheResponse(t *testing.T) {
	l, _ := startLoop(t, quiet())
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 4}, func(r *eventloop.HTTPRequest) {
		r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
			body, err := io.ReadAll(req.Body)
			fmt.Fprintf(w, "%s %v", body, err)
		}))
	})
	c := dialRaw(t, s.Addr())
	for _, body := range []string{"abc", "long body"} { // whole, and a stream
		c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
		var got []int
		for sent := false; ; {
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, resp.StatusCode)
			if resp.StatusCode == 100 && !sent {
				c.send("%s", body)
				sent = true
			}
			if resp.StatusCode >= 200 {
				text, _ := io.ReadAll(resp.Body)
				wantEqual(t, "response", string(text), body+" <nil>")
				break
			}
		}
		slices.Sort(got)
		wantSlice(t, "statuses", got, []int{100, 103, 200})
	}
	wantEqual(t, "counted responses", l.Stats().HTTPServer.Status2xxTotal, 2)
}

func TestServeHTTPTellsAPanicOnceAndEndsTheConnection(t *testing.T) {
	for _, catch := range []bool{false, true} {
		for _, partly := range []bool{false, true} {
			t.Run(fmt.Sprintf("CatchPanics %v, after a part %v", catch, partly), func(t *testing.T) {
				cfg := quiet()
				cfg.CatchPanics = catch
				l, _ := startLoop(t, cfg)
				events := make(chan error, 10)
				s := serveHTTP(t, l, &eventloop.HTTPServerConfig{OnEvent: func(_ *eventloop.HTTPServer, err error) { events <- err }},
					func(r *eventloop.HTTPRequest) {
						r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
							if partly {
								io.WriteString(w, "part")
								w.(http.Flusher).Flush()
							}
							switch req.URL.Path {
							case "/panic":
								panic("oops")
							case "/abort":
								panic(http.ErrAbortHandler)
							case "/goexit":
								runtime.Goexit()
							}
						}))
					})
				for _, path := range []string{"/abort", "/panic", "/goexit"} {
					c := dialRaw(t, s.Addr())
					c.send("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
					got, _ := c.rest()
					if strings.Contains(got, "part") != partly || strings.HasSuffix(got, "0\r\n\r\n") {
						t.Errorf("%s: %q came", path, got)
					}
				}
				err := wait(t, events, "event")
				var pe *eventloop.PanicError
				var oe *eventloop.OpError
				if !errors.As(err, &pe) || pe.Value != "oops" || !errors.As(err, &oe) || oe.Op != eventloop.OpRequest {
					t.Errorf("event %v", err)
				}
				if err := wait(t, events, "event"); !errors.Is(err, eventloop.ErrHTTP) {
					t.Errorf("event %v", err)
				}
				s.Shutdown(-1).Wait(t.Context())
				if len(events) > 0 {
					t.Errorf("another event: %v", <-events)
				}
			})
		}
	}
}

func TestServeHTTPAbortIsSeenByAClientOfHTTP10(t *testing.T) {
	l, _ := startLoop(t, quiet())
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}))
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.0\r\n\r\n")
	if got, err := c.rest(); err == nil {
		t.Errorf("%q came, and the connection ended as if it were complete", got)
	}
}

func TestServeHTTPCanHijackTheConnection(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			l, end := startLoop(t, quiet())
			cfg := &eventloop.HTTPServerConfig{MaxConns: 1}
			serverTLS, clientTLS := testTLS()
			if secure {
				cfg.TLS = serverTLS
			}
			hijacked := make(chan net.Conn, 1)
			s := serveHTTP(t, l, cfg, func(r *eventloop.HTTPRequest) {
				r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					nc, rw, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					if req.Context().Err() != nil {
						t.Error("the context has ended")
					}
					rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
					rw.Flush()
					line, err := rw.ReadString('\n')
					nc.SetReadDeadline(time.Now().Add(-time.Second))
					if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("Read after the deadline: %v", err)
					}
					nc.SetReadDeadline(time.Time{})
					fmt.Fprintf(nc, "%s%v\n", line, err)
					hijacked <- nc
				}))
			})
			nc, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if secure {
				nc = tls.Client(nc, clientTLS)
			}
			c := newRawClient(t, nc)
			c.send("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello\n") // one write: some is read ahead
			if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != 101 {
				t.Fatal(resp, err)
			}
			if line, _ := c.br.ReadString('\n'); line != "hello\n" {
				t.Errorf("line %q", line)
			}
			c.br.ReadString('\n')
			server := wait(t, hijacked, "hijacked connection")
			eventually(func() bool { return l.Stats().HTTPServer.Conns == 0 })
			second := dialRaw(t, s.Addr()) // waits for the place of the first
			s.Close()
			onLoop(t, l, func() {})
			second.Close()
			if err := end(); err != nil { // the hijacked connection outlives the loop
				t.Error(err)
			}
			io.WriteString(server, "still there\n")
			if line, _ := c.br.ReadString('\n'); line != "still there\n" {
				t.Errorf("line %q", line)
			}
			server.Close()
			if rest, err := c.rest(); rest != "" || err != nil {
				t.Errorf("%q and %v came after Close", rest, err)
			}
		})
	}
}

// The client sends the request up to each point before the handler hijacks the
// connection, and the rest afterwards. What the handler did not read of the body comes
// from the connection, as it does in net/http.
func TestAHijackedConnectionGivesTheBodyThatWasNotRead(t *testing.T) {
	t.Run("short", func(t *testing.T) { testHijackWithBody(t, "abcdefghijklm", 1) })
	t.Run("long", func(t *testing.T) { testHijackWithBody(t, strings.Repeat("abcdefghijklm", 1000), 3000) })
}

// testHijackWithBody cuts the request after each step bytes.
func testHijackWithBody(t *testing.T, body string, step int) {
	const behind = "behind"
	half := len(body) * 8 / 13
	bodies := map[bool]string{
		false: fmt.Sprintf("Content-Length: %d\r\n\r\n%s%s", len(body), body, behind),
		true: fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\nA: b\r\n\r\n%s",
			half, body[:half], len(body)-half, body[half:], behind),
	}
	type outcome struct {
		body, behind string
		err          error
	}
	for _, inline := range []int{1, 5, 1 << 20} {
		for chunked, text := range bodies {
			for _, skip := range []int{0, 3} {
				t.Run(fmt.Sprintf("inline=%d,chunked=%t,read=%d", inline, chunked, skip), func(t *testing.T) {
					hijacked, outcomes := make(chan bool), make(chan outcome)
					l, _ := startLoop(t, quiet())
					s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: int64(inline)}, func(r *eventloop.HTTPRequest) {
						r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
							var o outcome
							begin := make([]byte, skip)
							if _, err := io.ReadFull(req.Body, begin); err != nil {
								t.Error(err)
							}
							nc, rw, err := http.NewResponseController(w).Hijack()
							if err != nil {
								t.Error(err)
								return
							}
							defer nc.Close()
							hijacked <- true
							rest, err := readHijacked(rw.Reader, chunked, skip, len(body))
							o.body, o.err = string(begin)+rest, err
							tail, err := io.ReadAll(rw)
							o.behind, o.err = string(tail), errors.Join(o.err, err)
							outcomes <- o
						}))
					})
					head := "POST / HTTP/1.1\r\nHost: x\r\n"
					first := strings.Index(text, "\r\n\r\n") + 4
					switch begin := strings.Index(text, body[:8]); { // what the handler is called with, and reads
					case inline > len(body):
						first = len(text) - len(behind)
					case chunked:
						first = begin + max(inline+1, skip)
					default:
						first = max(first, begin+skip)
					}
					for cut := first; cut <= len(text); cut += step {
						c := dialRaw(t, s.Addr())
						c.send("%s", head+text[:cut])
						wait(t, hijacked, "handler")
						c.send("%s", text[cut:])
						c.Conn.(*net.TCPConn).CloseWrite()
						if o := wait(t, outcomes, "outcome"); o.err != nil || o.body != body || o.behind != behind {
							t.Errorf("cut at %q: body %.50q, behind it %.50q, %v", text[max(0, cut-20):cut], o.body, o.behind, o.err)
						}
						c.Close()
					}
				})
			}
		}
	}
}

// readHijacked reads a body of n bytes, of which skip have been read, from a connection
// that was hijacked. In a body in chunks those were of the first chunk.
func readHijacked(br *bufio.Reader, chunked bool, skip, n int) (string, error) {
	if !chunked {
		rest := make([]byte, n-skip)
		_, err := io.ReadFull(br, rest)
		return string(rest), err
	}
	chunk := ""
	if skip > 0 {
		var err error
		if chunk, err = br.ReadString('\n'); err != nil {
			return chunk, err
		}
		chunk = strings.TrimSuffix(chunk, "\r\n")
	}
	rest, err := io.ReadAll(httputil.NewChunkedReader(br))
	for err == nil { // the trailer section
		var line string
		if line, err = br.ReadString('\n'); line == "\r\n" {
			break
		}
	}
	return chunk + string(rest), err
}

func TestServeHTTPCannotHijackTheConnectionOfFastHTTP(t *testing.T) {
	l, _ := startLoop(t, quiet())
	addr := mounted["fasthttp"](t, l, nil, func(r *eventloop.HTTPRequest) {
		r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _, err := http.NewResponseController(w).Hijack()
			fmt.Fprint(w, errors.Is(err, http.ErrNotSupported))
		}))
	})
	if _, body := dialRaw(t, addr).get("/"); body != "true" {
		t.Errorf("body %q", body)
	}
}

func TestServeHTTPObeysDeadlines(t *testing.T) {
	l, _ := startLoop(t, quiet())
	errs := make(chan error, 2)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1, HighWater: 1000}, func(r *eventloop.HTTPRequest) {
		r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			rc, soon := http.NewResponseController(w), time.Now().Add(10*time.Millisecond)
			rc.SetReadDeadline(soon)
			_, err := io.ReadAll(req.Body)
			errs <- err
			rc.SetWriteDeadline(soon)
			for err = nil; err == nil; {
				_, err = w.Write(make([]byte, 100_000))
			}
			errs <- err
		}))
	})
	c := dialRaw(t, s.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
	for _, what := range []string{"Read", "Write"} {
		if err := wait(t, errs, what); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want os.ErrDeadlineExceeded", what, err)
		}
	}
}

// ReadTimeout bounds each wait of the handler for more of the body, and not the time
// between them.
func TestServeHTTPReadTimeoutBoundsTheWaitsOfTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := pipelistener.New()
		got := make(chan string, 3)
		err := eventloop.Run(t.Context(), quiet(), func(l *eventloop.Loop) error {
			s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) {
				r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					buf := make([]byte, 10)
					for {
						began := time.Now()
						n, err := req.Body.Read(buf)
						got <- fmt.Sprint(string(buf[:n]), errors.Is(err, eventloop.ErrTimeout) || errors.Is(err, os.ErrDeadlineExceeded), time.Since(began))
						if err != nil {
							return
						}
						time.Sleep(time.Hour)
					}
				}))
			}, &eventloop.HTTPServerConfig{MaxInlineBody: 1, ReadTimeout: time.Minute})
			go func() {
				c := newRawClient(t, ln.Dial())
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
				time.Sleep(30 * time.Minute)
				c.send("def")
				io.Copy(io.Discard, c)
				s.Close()
			}()
			return err
		})
		wantEqual(t, "error of Run", err, nil)
		for _, want := range []string{"abcfalse 0s", "deffalse 0s", "true 1m0s"} {
			wantEqual(t, "Read", <-got, want)
		}
	})
}

func TestServeHTTPEndsWithTheLoop(t *testing.T) {
	for name, mount := range allServers {
		for _, deaf := range []bool{false, true} {
			if deaf && name == "net/http" {
				continue // Run does not wait for its goroutines
			}
			t.Run(fmt.Sprintf("%s, ignores its context %v", name, deaf), func(t *testing.T) {
				cfg := quiet()
				cfg.WorkGrace = watchdogTime // a handler that ends has time for it
				if deaf {
					cfg.WorkGrace = 10 * time.Millisecond
				}
				began, release := make(chan struct{}), make(chan struct{})
				l, end := startLoop(t, cfg)
				addr := mount(t, l, nil, func(r *eventloop.HTTPRequest) {
					r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
						close(began)
						<-req.Context().Done()
						if deaf {
							<-release
						}
					}))
				})
				c := dialRaw(t, addr)
				c.send(plainGET)
				wait(t, began, "request")
				l.Stop()
				err := end()
				if deaf != errors.Is(err, eventloop.ErrWorkLeft) || deaf && !strings.Contains(err.Error(), "http.Handler of GET /") {
					t.Errorf("Run: %v", err)
				}
				close(release)
			})
		}
	}
}

func TestServeHTTPAnnouncesTheLastResponse(t *testing.T) {
	l, _ := startLoop(t, quiet())
	began, release := make(chan struct{}, 1), make(chan struct{})
	h := func(r *eventloop.HTTPRequest) {
		r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			began <- struct{}{}
			<-release
		}))
	}
	s := serveHTTP(t, l, nil, h)
	c := dialRaw(t, s.Addr())
	c.send(plainGET)
	wait(t, began, "request")
	s.Close()
	close(release)
	if resp, _ := c.response("GET"); !resp.Close {
		t.Error("the response does not say that the server closes")
	}
	c.mustClose()
	s = serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxRequestsPerConn: 2}, h)
	c = dialRaw(t, s.Addr())
	for _, last := range []bool{false, true} {
		c.send(plainGET)
		wait(t, began, "request")
		if resp, _ := c.response("GET"); resp.Close != last {
			t.Errorf("the response says close: %v, want %v", resp.Close, last)
		}
	}
	c.mustClose()
}

func TestServeHTTPInATask(t *testing.T) {
	l, _ := startLoop(t, quiet())
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{OnEvent: func(_ *eventloop.HTTPServer, err error) { t.Error(err) }},
		eventloop.TaskHandler(func(task *eventloop.Task, r *eventloop.HTTPRequest) error {
			return r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				onLoop(t, l, func() {}) // the task has ended by then
				fmt.Fprint(w, req.Context().Err())
			}))
		}))
	if _, body := dialRaw(t, s.Addr()).get("/"); body != "<nil>" {
		t.Errorf("body %q", body)
	}
}

func TestServeHTTPRefusesABodyThatIsTaken(t *testing.T) {
	l, _ := startLoop(t, quiet())
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1}, func(r *eventloop.HTTPRequest) {
		if r.Path() == "/after" {
			r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) }))
			if err := r.OnBody(nil, nil); err == nil {
				t.Error("OnBody after ServeHTTP succeeds")
			}
			return
		}
		r.OnBody(nil, nil)
		if err := r.ServeHTTP(http.NotFoundHandler()); err == nil {
			t.Error("ServeHTTP after OnBody succeeds")
		}
		hai(r)
	})
	for path, want := range map[string]string{"/after": "hello", "/before": "hai"} {
		c := dialRaw(t, s.Addr())
		c.send("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", path)
		if _, body := c.response("POST"); body != want {
			t.Errorf("%s: body %q, want %q", path, body, want)
		}
	}
	if v, _ := outcome(func() { (&eventloop.HTTPRequest{}).ServeHTTP(nil) }); v == nil {
		t.Error("a nil handler is accepted")
	}
}
