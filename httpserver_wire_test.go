package eventloop_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// dialSecure is dialRaw over TLS if conf is not nil.
func dialSecure(t testing.TB, addr net.Addr, conf *tls.Config) *rawClient {
	t.Helper()
	if conf == nil {
		return dialRaw(t, addr)
	}
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return newRawClient(t, tls.Client(nc, conf))
}

// inBothWays runs a test in the clear and over TLS.
func inBothWays(t *testing.T, test func(t *testing.T, server, client *tls.Config)) {
	t.Run("in the clear", func(t *testing.T) { test(t, nil, nil) })
	t.Run("TLS", func(t *testing.T) { test(t, serverConf, clientConf) })
}

// A client that sends all of a refused body first, and reads then, still reads the
// response: the server keeps reading until the client has sent all.
func TestHTTPServerRefusedUploadOfAnySizeGetsItsResponse(t *testing.T) {
	endure(t) // the client may pause while it sends
	const size = 20 << 20
	chunked := "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n", size)
	fixed := fmt.Sprintf("Content-Length: %d\r\n\r\n", size)
	refuse := func(r *eventloop.HTTPRequest) { r.Respond(401, nil, nil) }
	for _, v := range []struct {
		name, head string
		cfg        eventloop.HTTPServerConfig
		status     int
	}{
		{"over the limit", fixed, eventloop.HTTPServerConfig{}, 413},
		{"over the limit, in chunks", chunked, eventloop.HTTPServerConfig{}, 413},
		{"refused by the handler", fixed, eventloop.HTTPServerConfig{MaxBodyBytes: -1, MaxInlineBody: 1}, 401},
		{"refused by the handler, in chunks", chunked, eventloop.HTTPServerConfig{MaxBodyBytes: -1, MaxInlineBody: 1}, 401},
		{"not answered", fixed, eventloop.HTTPServerConfig{MaxBodyBytes: -1, MaxInlineBody: 1, ResponseTimeout: time.Millisecond}, 503},
	} {
		t.Run(v.name, func(t *testing.T) {
			inBothWays(t, func(t *testing.T, server, client *tls.Config) {
				l, _ := startLoop(t, &eventloop.Config{EventHandler: func(error) {}})
				v.cfg.TLS = server
				h := refuse
				if v.status == 503 {
					h = func(*eventloop.HTTPRequest) {}
				}
				s := serveHTTP(t, l, &v.cfg, h)
				c := dialSecure(t, s.Addr(), client)
				c.send("POST / HTTP/1.1\r\nHost: x\r\n%s", v.head)
				if _, err := c.Write(make([]byte, size)); err != nil {
					t.Fatalf("sending the body: %v", err)
				}
				if resp, _ := c.response("POST"); resp.StatusCode != v.status || !resp.Close {
					t.Errorf("status %d, close %v; want %d and close", resp.StatusCode, resp.Close, v.status)
				}
			})
		})
	}
}

// The reading after the last response ends when the client pauses for a second, and
// after half a minute in any case.
func TestHTTPServerReadsForABoundedTimeAfterTheLastResponse(t *testing.T) {
	for _, v := range []struct {
		name  string
		pause time.Duration
		until time.Duration
	}{
		{"a client that says no more", 0, time.Second},
		{"a client that pauses", 2 * time.Second, time.Second},
		{"a client that never ends", 700 * time.Millisecond, 30*time.Second + 100*time.Millisecond},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serveInBubble(t, &eventloop.HTTPServerConfig{TLS: serverConf}, hai, func(raw *rawClient) {
					c := newRawClient(t, tlsClient(raw.Conn))
					c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
					if resp, _ := c.response("POST"); resp.StatusCode != 413 {
						t.Errorf("status %d", resp.StatusCode)
					}
					start := time.Now()
					if v.pause == 0 {
						io.Copy(io.Discard, raw.Conn)
					} else {
						go io.Copy(io.Discard, raw.Conn) // or the pipe blocks close_notify
					}
					for v.pause > 0 && time.Since(start) < time.Minute {
						time.Sleep(v.pause)
						if _, err := c.Write([]byte("b")); err != nil {
							break
						}
					}
					if took := time.Since(start); took < v.until || took > v.until+max(v.pause, time.Millisecond) {
						t.Errorf("closed after %v, want %v", took, v.until)
					}
				})
			})
		})
	}
}

// Interim responses come before the final one (RFC 9110 section 15.2).
func TestHTTPServerSendsNo100ContinueWithinAResponse(t *testing.T) {
	inBothWays(t, func(t *testing.T, server, client *tls.Config) {
		l, _ := startLoop(t, nil)
		begun := make(chan struct{}, 10)
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1000, TLS: server}, func(r *eventloop.HTTPRequest) {
			if r.Path() == "/first" {
				r.OnBody(nil, func(error) { r.Respond(200, nil, []byte("read")) })
				return
			}
			w, err := r.RespondStream(200, nil)
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(w, "begin ")
			r.OnBody(func(p []byte) { w.Write(p) }, func(error) { w.Close() })
			begun <- struct{}{}
		})
		body := strings.Repeat("b", 5000)
		const head = "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
		c := dialSecure(t, s.Addr(), client)
		for range 3 {
			c.send(head, "/", len(body))
			wait(t, begun, "response")
			c.send("%s", body)
			if resp, got := c.response("POST"); resp.StatusCode != 200 || got != "begin "+body {
				t.Errorf("%d, %d bytes %.40q, want no interim response", resp.StatusCode, len(got), got)
			}
			c.send(head, "/first", len(body))
			if resp, _ := c.response("POST"); resp.StatusCode != 100 {
				t.Errorf("status %d before there is a response, want 100", resp.StatusCode)
			}
			c.send("%s", body)
			if _, got := c.response("POST"); got != "read" {
				t.Errorf("response %q", got)
			}
		}
	})
}

// Dropped bytes count as sent: a stream that goes on in OnDrain ends however the
// client asks for it.
func TestHTTPStreamThatGoesOnInOnDrainEndsWithoutABodyToo(t *testing.T) {
	inBothWays(t, func(t *testing.T, server, client *tls.Config) {
		l, _ := startLoop(t, nil)
		drained := make(chan int, 100)
		stream := func(r *eventloop.HTTPRequest) {
			status := 200
			fmt.Sscan(r.Path()[1:], &status)
			w, err := r.RespondStream(status, nil)
			if err != nil {
				t.Error(err)
				return
			}
			n := 0
			w.OnDrain(func() {
				if n++; n == 3 {
					w.Close()
					drained <- n
					return
				}
				fmt.Fprintf(w, "%d ", n)
			})
			if r.Query() == "" { // otherwise OnDrain writes the first piece, too
				io.WriteString(w, "0 ")
				w.Flush()
			}
		}
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{TLS: server}, stream)
		for _, method := range []string{"GET", "HEAD"} {
			for _, status := range []int{200, 204, 304, 205} {
				c := dialSecure(t, s.Addr(), client)
				for _, query := range []string{"", "?late"} {
					request := fmt.Sprintf("%s /%d%s HTTP/1.1\r\nHost: x\r\n\r\n", method, status, query)
					c.send("%s", request+request)
					for range 2 {
						resp, body := c.response(method)
						want := ""
						if method == "GET" && status == 200 {
							want = "0 1 2 "
							if query != "" {
								want = "1 2 "
							}
						}
						if resp.StatusCode != status || body != want {
							t.Errorf("%s: %d %q, want %d %q", method, resp.StatusCode, body, status, want)
						}
						wait(t, drained, "end of the stream")
					}
				}
			}
		}
		if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 }) {
			t.Error("requests stay open")
		}
	})
}

// OnDrain is called once for what was sent before it was set, however long before.
func TestHTTPOnDrainThatIsSetAfterTheOutputHasLeftIsCalledOnce(t *testing.T) {
	inBothWays(t, func(t *testing.T, server, client *tls.Config) {
		l, _ := startLoop(t, nil)
		calls := make(chan int, 10)
		var count int // on the loop
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{TLS: server}, func(r *eventloop.HTTPRequest) {
			w, err := r.RespondStream(200, nil)
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(w, "some")
			var look func()
			look = func() {
				if w.Buffered() > 0 {
					l.Post(look)
					return
				}
				w.OnDrain(func() { count++; calls <- count })
				w.OnDrain(func() { count++; calls <- count; io.WriteString(w, "more"); w.Close() })
			}
			l.Post(look)
		})
		for range 3 {
			c := dialSecure(t, s.Addr(), client)
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, body := c.response("GET"); body != "somemore" {
				t.Errorf("body %q", body)
			}
			wait(t, calls, "call of OnDrain")
		}
		onLoop(t, l, func() { wantEqual(t, "calls of OnDrain", count, 3) })
	})
}

func TestHTTPASecondOnDrainIsCalledAlthoughAllHasLeftBefore(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, err := r.RespondStream(200, nil)
		if err != nil {
			t.Error(err)
			return
		}
		w.OnDrain(func() {
			w.OnDrain(func() { io.WriteString(w, "body"); w.Close() })
		})
	})
	c := dialSecure(t, s.Addr(), nil)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, body := c.response("GET"); body != "body" {
		t.Errorf("body %q", body)
	}
}

// What the client has does not count, even while the rest waits for it.
func TestHTTPStreamBufferedDoesNotCountWhatHasLeft(t *testing.T) {
	inBothWays(t, func(t *testing.T, server, client *tls.Config) {
		l, _ := startLoop(t, nil)
		const all = 40 << 20
		writers := make(chan *eventloop.HTTPResponseWriter, 1)
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{TLS: server, HighWater: 20 << 20}, func(r *eventloop.HTTPRequest) {
			w, err := r.RespondStream(200, nil)
			if err != nil {
				t.Error(err)
				return
			}
			for range all >> 20 {
				w.Write(make([]byte, 1<<20))
			}
			writers <- w
		})
		c := dialSecure(t, s.Addr(), client)
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		w := wait(t, writers, "response")
		defer w.Abort()
		if !w.NeedDrain() {
			t.Error("NeedDrain is false with everything pending")
		}
		for got := 0; got < 36<<20; got += 4 << 20 {
			if _, err := io.CopyN(io.Discard, c.br, 4<<20); err != nil {
				t.Fatal(err)
			}
			if n := all - got - 4<<20 + 1<<20; !eventually(func() bool { return w.Buffered() <= n }) {
				t.Fatalf("%d MB are with the client, Buffered is %d, want at most %d", got>>20+4, w.Buffered(), n)
			}
		}
		if w.NeedDrain() {
			t.Error("NeedDrain is true with less than half of HighWater pending")
		}
	})
}

// autocert's tls.Config offers h2, too.
func TestHTTPServerNegotiatesOnlyWhatItSpeaks(t *testing.T) {
	with := func(protos ...string) *tls.Config {
		conf := serverConf.Clone()
		conf.NextProtos = protos
		return conf
	}
	forClient := with()
	forClient.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return with("h2", "http/1.1"), nil }
	same := with("h2", "http/1.1")
	same.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
	autocert := with("h2", "http/1.1", "acme-tls/1")
	for name, v := range map[string]struct {
		conf  *tls.Config
		offer []string
		want  string
	}{
		"nothing":                   {with(), []string{"h2", "http/1.1"}, "http/1.1"},
		"autocert":                  {autocert, []string{"h2", "http/1.1"}, "http/1.1"},
		"autocert's challenge":      {autocert, []string{"acme-tls/1"}, "acme-tls/1"},
		"only h2":                   {with("h2"), []string{"h2", "http/1.1"}, "http/1.1"},
		"only the challenge":        {with("acme-tls/1"), []string{"h2", "http/1.1"}, "http/1.1"},
		"by GetConfigForClient":     {forClient, []string{"h2", "http/1.1"}, "http/1.1"},
		"GetConfigForClient is nil": {same, []string{"h2", "http/1.1"}, "http/1.1"},
		"a client of HTTP/1.0":      {autocert, []string{"http/1.0"}, "http/1.0"},
		"a client that offers none": {autocert, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			s := serveHTTP(t, l, &eventloop.HTTPServerConfig{TLS: v.conf}, hai)
			conf := clientConf.Clone()
			conf.NextProtos = v.offer
			c := dialSecure(t, s.Addr(), conf)
			if _, body := c.get("/"); body != "hai" {
				t.Errorf("body %q", body)
			}
			wantEqual(t, "protocol", c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol, v.want)
		})
	}
	wantSlice(t, "protocols of the application's tls.Config", autocert.NextProtos, []string{"h2", "http/1.1", "acme-tls/1"})
}

func TestHTTPServerReportsThatAListenerNegotiatedH2(t *testing.T) {
	l, _ := startLoop(t, nil)
	conf := serverConf.Clone()
	conf.NextProtos = []string{"h2"}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan error, 1)
	if _, err := l.ServeHTTP(ln, hai, &eventloop.HTTPServerConfig{OnEvent: func(_ *eventloop.HTTPServer, err error) { events <- err }}); err != nil {
		t.Fatal(err)
	}
	h2 := clientConf.Clone()
	h2.NextProtos = []string{"h2"}
	c := dialSecure(t, ln.Addr(), h2)
	c.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if err := wait(t, events, "event"); !strings.Contains(err.Error(), "h2") {
		t.Errorf("event %v", err)
	}
	l.Stop()
}

// noNotify turns an end of a TLS connection without close_notify into an error.
type noNotify struct{ net.Conn }

func (c noNotify) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// For a client of HTTP/1.0 the end of the connection ends the body, so an
// incomplete response must end otherwise.
func TestHTTPIncompleteResponseDoesNotLookCompleteToHTTP10(t *testing.T) {
	for name, end := range map[string]func(w *eventloop.HTTPResponseWriter, s *eventloop.HTTPServer){
		"Abort":    func(w *eventloop.HTTPResponseWriter, s *eventloop.HTTPServer) { w.Abort() },
		"a panic":  func(w *eventloop.HTTPResponseWriter, s *eventloop.HTTPServer) { panic("oh no") },
		"Shutdown": func(w *eventloop.HTTPResponseWriter, s *eventloop.HTTPServer) { s.Shutdown(0) },
		"Stop":     func(w *eventloop.HTTPResponseWriter, s *eventloop.HTTPServer) { w.Close(); s.Close() }, // complete, for comparison
	} {
		t.Run(name, func(t *testing.T) {
			inBothWays(t, func(t *testing.T, server, client *tls.Config) {
				l, _ := startLoop(t, &eventloop.Config{CatchPanics: true, EventHandler: func(error) {}})
				var s *eventloop.HTTPServer
				ends := make(chan func(), 1)
				s = serveHTTP(t, l, &eventloop.HTTPServerConfig{TLS: server}, func(r *eventloop.HTTPRequest) {
					w, err := r.RespondStream(200, nil)
					if err != nil {
						t.Error(err)
						return
					}
					io.WriteString(w, "half of it")
					if name == "a panic" {
						panic("oh no")
					}
					ends <- func() { end(w, s) }
				})
				nc, err := net.Dial("tcp", s.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				var c *rawClient
				if client != nil {
					c = newRawClient(t, tls.Client(noNotify{nc}, client))
				} else {
					c = newRawClient(t, nc)
				}
				c.send("GET / HTTP/1.0\r\n\r\n")
				if name != "a panic" {
					for line := ""; line != "\r\n"; {
						if line, err = c.br.ReadString('\n'); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := io.ReadFull(c.br, make([]byte, 10)); err != nil {
						t.Fatal(err)
					}
					onLoop(t, l, wait(t, ends, "request"))
				}
				if rest, err := c.rest(); (err == nil) != (name == "Stop") {
					t.Errorf("the connection ends after %q with %v", rest, err)
				}
			})
		})
	}
}

func TestHTTPResponseWithoutABodySaysALengthOnlyIfItIsKnown(t *testing.T) {
	l, _ := startLoop(t, nil)
	respond := func(r *eventloop.HTTPRequest) {
		var status int
		var body, stated string
		fmt.Sscanf(r.Path(), "/%d/%1s/%s", &status, &body, &stated)
		var h eventloop.HTTPHeaders
		if stated != "" {
			h.Set("Content-Length", stated)
		}
		r.Respond(status, h, bytes.Repeat([]byte("b"), map[string]int{"y": 5}[body]))
	}
	s := serveHTTP(t, l, nil, respond)
	for _, v := range []struct{ method, path, want string }{
		{"GET", "/200/n", "0"}, {"GET", "/200/y", "5"}, {"GET", "/200/y/7", "5"},
		{"HEAD", "/200/n", ""}, {"HEAD", "/200/y", "5"}, {"HEAD", "/200/n/7", "7"}, {"HEAD", "/200/y/7", "7"},
		{"GET", "/304/n", ""}, {"GET", "/304/y", ""}, {"GET", "/304/n/7", "7"}, {"GET", "/304/y/7", "7"},
		{"HEAD", "/304/y", ""}, {"HEAD", "/304/y/7", "7"},
		{"GET", "/204/y/7", ""}, {"HEAD", "/204/n/7", ""}, {"GET", "/205/y/7", "0"}, {"HEAD", "/205/y", "0"},
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", v.method, v.path)
		resp, _ := c.response(v.method)
		if got := resp.Header.Get("Content-Length"); got != v.want {
			t.Errorf("%s %s: Content-Length %q, want %q", v.method, v.path, got, v.want)
		}
	}
}

// MaxConns protects the descriptors, which an upgraded connection has, too.
func TestHTTPServerLimitsCountUpgradedConnections(t *testing.T) {
	for name, cfg := range map[string]eventloop.HTTPServerConfig{
		"MaxConns": {MaxConns: 2}, "MaxConnsPerIP": {MaxConnsPerIP: 2},
	} {
		for _, end := range []string{"closed by the client", "Close", "Detach"} {
			t.Run(name+", "+end, func(t *testing.T) {
				l, _ := startLoop(t, nil)
				upgraded := make(chan *eventloop.Conn, 10)
				s := serveHTTP(t, l, &cfg, func(r *eventloop.HTTPRequest) {
					if r.Path() == "/" {
						hai(r)
						return
					}
					c, err := r.Upgrade(nil, &eventloop.ConnConfig{
						OnConnect: func(c *eventloop.Conn) { upgraded <- c },
						OnEvent:   func(*eventloop.Conn, error) {},
					})
					if err != nil || c == nil {
						t.Error(err)
					}
				})
				var clients []*rawClient
				for range 2 {
					c := dialRaw(t, s.Addr())
					c.send("GET /up HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n")
					c.response("GET")
					clients = append(clients, c)
				}
				first := wait(t, upgraded, "upgraded connection")
				wait(t, upgraded, "upgraded connection")
				next := dialRaw(t, s.Addr())
				if cfg.MaxConnsPerIP > 0 {
					if resp, _ := next.response("GET"); resp.StatusCode != 429 {
						t.Errorf("status %d, want 429", resp.StatusCode)
					}
				}
				switch end {
				case "closed by the client":
					clients[0].Close()
				case "Close":
					first.Close()
				case "Detach":
					nc, err := await(t, first.Detach())
					if err != nil {
						t.Fatal(err)
					}
					nc.Close()
				}
				if cfg.MaxConnsPerIP > 0 {
					served := eventually(func() bool {
						next = dialRaw(t, s.Addr())
						next.SetDeadline(time.Now().Add(watchdogTime))
						io.WriteString(next, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
						resp, err := http.ReadResponse(next.br, nil)
						return err == nil && resp.StatusCode == 200
					})
					wantEqual(t, "served when there is room", served, true)
				} else if status, _ := next.get("/"); status != 200 { // which waited in the kernel
					t.Errorf("status %d when there is room", status)
				}
			})
		}
	}
}

// A client that has sent no byte of a request has nothing to wait for.
func TestHTTPServerCloseDoesNotWaitForAHandshakeThatDoesNotEnd(t *testing.T) {
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00"} {
		synctest.Test(t, func(t *testing.T) {
			took := make(chan time.Duration, 1)
			err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				ln := pipelistener.New()
				s, err := l.ServeHTTP(ln, hai, &eventloop.HTTPServerConfig{TLS: serverConf, OnEvent: func(_ *eventloop.HTTPServer, err error) {
					t.Errorf("event %v", err)
				}})
				if err != nil {
					return err
				}
				go func() {
					nc := ln.Dial()
					defer nc.Close()
					if sent != "" {
						io.WriteString(nc, sent)
					}
					synctest.Wait()
					start := time.Now()
					s.Shutdown(-1).Wait(context.Background())
					took <- time.Since(start)
				}()
				return nil
			})
			if d := <-took; err != nil || d != time.Second {
				t.Errorf("after %q Shutdown takes %v, want 1s; Run returned %v", sent, d, err)
			}
		})
	}
}

// One that is about to send its request is served, as in the clear.
func TestHTTPServerCloseLetsAHandshakeThatGoesOnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			ln := pipelistener.New()
			s, err := l.ServeHTTP(ln, hai, &eventloop.HTTPServerConfig{TLS: serverConf})
			if err != nil {
				return err
			}
			go func() {
				c := newRawClient(t, tlsClient(ln.Dial()))
				defer c.Close()
				synctest.Wait()
				s.Close()
				if status, _ := c.get("/"); status != 200 {
					t.Errorf("status %d", status)
				}
			}()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
