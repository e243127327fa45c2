package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
	"github.com/valyala/fasthttp"
)

func TestHTTPServerCloseIsGraceful(t *testing.T) {
	l, end := startLoop(t, nil)
	requests := make(chan *eventloop.HTTPRequest, 2)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		if r.Path() == "/wait" {
			requests <- r
			return
		}
		hai(r)
	})
	silent, idle, waiting, streaming := dialRaw(t, s.Addr()), dialRaw(t, s.Addr()), dialRaw(t, s.Addr()), dialRaw(t, s.Addr())
	idle.get("/")
	waiting.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	r := <-requests
	streaming.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	w, err := (<-requests).RespondStream(200, nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr().String()
	if !eventually(func() bool { return l.Stats().HTTPServer.Conns == 4 }) {
		t.Fatal("not all connections are there")
	}
	s.Close()
	s.Close() // does nothing
	silent.mustClose()
	idle.mustClose()
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the address still answers")
	}
	gone := s.Shutdown(-1)
	if _, err := gone.Result(); err != eventloop.ErrPending {
		t.Errorf("Shutdown with two requests open: %v, want ErrPending", err)
	}
	r.Respond(200, nil, []byte("answered"))
	if resp, body := waiting.response("GET"); body != "answered" || !resp.Close {
		t.Errorf("response %q, close %v", body, resp.Close)
	}
	waiting.mustClose()
	w.Write([]byte("streamed"))
	w.Close()
	if _, body := streaming.response("GET"); body != "streamed" {
		t.Errorf("response %q", body)
	}
	streaming.mustClose()
	if _, err := gone.Wait(context.Background()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := end(); err != nil { // nothing keeps the loop alive any more
		t.Errorf("Run returned %v", err)
	}
	if _, err := s.Shutdown(-1).Result(); err != eventloop.ErrLoopClosed {
		t.Errorf("Shutdown after the end: %v", err)
	}
}

// TestHTTPServerCloseLosesNoResponse closes servers under load. Every request that
// the handler got must be answered whole; a client whose request was not even
// read sees the end of the connection.
func TestHTTPServerCloseLosesNoResponse(t *testing.T) {
	l, _ := startLoop(t, nil)
	var handled, answered atomic.Int64
	for handled.Load() < 5000 {
		s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
			if handled.Add(1)%3 == 0 {
				l.AfterFunc(time.Millisecond, func() { hai(r) })
				return
			}
			hai(r)
		})
		var wg sync.WaitGroup
		for range 20 {
			c := dialRaw(t, s.Addr())
			wg.Go(func() {
				defer c.Close()
				for {
					if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
						return
					}
					resp, err := http.ReadResponse(c.br, nil)
					if err != nil {
						return
					}
					if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hai" {
						t.Errorf("response %q and %v", body, err)
						return
					}
					answered.Add(1)
					if resp.Close {
						return
					}
				}
			})
		}
		eventually(func() bool { return answered.Load()%500 > 400 })
		if _, err := s.Shutdown(-1).Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	if handled, answered := handled.Load(), answered.Load(); handled != answered {
		t.Errorf("%d of %d answers were lost", handled-answered, handled)
	}
}

func TestHTTPServerShutdownByForce(t *testing.T) {
	l, end := startLoop(t, nil)
	requests := make(chan *eventloop.HTTPRequest, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { requests <- r })
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	r := <-requests
	f := s.Shutdown(time.Hour)
	s.Shutdown(time.Millisecond)
	_, err := f.Wait(context.Background())
	wantErr(t, "Shutdown", err, eventloop.ErrForced)
	if !strings.Contains(err.Error(), c.LocalAddr().String()) {
		t.Errorf("the error does not name the client: %v", err)
	}
	if got, _ := c.rest(); got != "" {
		t.Errorf("a response: %q", got)
	}
	if err := r.Respond(200, nil, nil); err == nil {
		t.Error("Respond after the server was closed by force succeeded")
	}
	<-r.Context().Done()
	if err := end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestLoopShutdownClosesHTTPServersGracefully(t *testing.T) {
	l, end := startLoop(t, nil)
	requests := make(chan *eventloop.HTTPRequest, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { requests <- r })
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	r := <-requests
	l.Shutdown(-1)
	if !eventually(func() bool {
		nc, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			nc.Close()
		}
		return err != nil
	}) {
		t.Error("the address still answers")
	}
	hai(r)
	if _, body := c.response("GET"); body != "hai" {
		t.Errorf("response %q", body)
	}
	if err := end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestHTTPServerThatIsUnrefdLetsTheLoopEnd(t *testing.T) {
	var c *rawClient
	mustRun(t, nil, func(l *eventloop.Loop) {
		s, err := l.ListenHTTP("127.0.0.1:0", hai, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Unref()
		c = dialRaw(t, s.Addr())
		release := l.Hold()
		go func() {
			c.get("/")
			release()
		}()
	})
	c.mustClose()
}

func TestHTTPServerClosedBeforeAnythingComes(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		s, err := l.ListenHTTP("127.0.0.1:0", hai, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		ln, err := net.Listen("tcp", s.Addr().String())
		if err != nil {
			t.Errorf("the address is not free after Close: %v", err)
		} else {
			ln.Close()
		}
	})
}

// A failingListener fails as often as it is told to.
type failingListener struct {
	net.Listener
	failures atomic.Int64
	err      error
}

func (ln *failingListener) Accept() (net.Conn, error) {
	if ln.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: ln.err}
	}
	return ln.Listener.Accept()
}

func TestHTTPServerOutlivesFailuresToAccept(t *testing.T) {
	l, _ := startLoop(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &failingListener{Listener: inner, err: syscall.EMFILE}
	ln.failures.Store(3)
	failures := make(chan error, 3)
	s, err := l.ServeHTTP(ln, hai, &eventloop.HTTPServerConfig{
		OnAcceptError: func(s *eventloop.HTTPServer, err error) { failures <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if status, _ := dialRaw(t, s.Addr()).get("/"); status != 200 {
		t.Errorf("status %d", status)
	}
	for range 3 {
		err := <-failures
		if oe, ok := errors.AsType[*eventloop.OpError](err); !ok || oe.Op != "accept" || !errors.Is(err, syscall.EMFILE) {
			t.Errorf("failure %v", err)
		}
	}
}

func TestHTTPListenerThatEndsClosesTheServer(t *testing.T) {
	failures := make(chan error, 1)
	mustRun(t, nil, func(l *eventloop.Loop) {
		ln := pipelistener.New()
		_, err := l.ServeHTTP(ln, hai, &eventloop.HTTPServerConfig{
			OnAcceptError: func(s *eventloop.HTTPServer, err error) { failures <- err },
		})
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	})
	if err := <-failures; !errors.Is(err, net.ErrClosed) {
		t.Errorf("failure %v, want net.ErrClosed", err)
	}
}

// A mounter mounts a handler into a server of others, with the settings of cfg
// unless it is nil.
type mounter func(t *testing.T, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) net.Addr

// mounted are the ways to do it.
var mounted = map[string]mounter{
	"fasthttp": func(t *testing.T, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) net.Addr {
		handler := eventloop.FastHTTPHandler(l, h)
		if cfg != nil {
			handler = cfg.FastHTTPHandler(l, h)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		// Not Serve, which leaves a goroutine behind for ten seconds.
		s := &fasthttp.Server{
			Handler: handler, StreamRequestBody: cfg != nil, NoDefaultDate: true, Logger: quietLogger{},
			// Not ctx.Error, which forgets NoDefaultDate and leaves a goroutine behind.
			ErrorHandler: func(ctx *fasthttp.RequestCtx, err error) { ctx.SetStatusCode(400) },
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { s.ServeConn(nc) })
			}
		})
		t.Cleanup(wg.Wait)
		t.Cleanup(func() { ln.Close() })
		return ln.Addr()
	},
	"net/http": func(t *testing.T, l *eventloop.Loop, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest)) net.Addr {
		handler := eventloop.HTTPHandler(l, h)
		if cfg != nil {
			handler = cfg.HTTPHandler(l, h)
		}
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s.Listener.Addr()
	},
}

type quietLogger struct{}

func (quietLogger) Printf(string, ...any) {}

func TestHTTPHandlersInServersOfOthers(t *testing.T) {
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			var kept *eventloop.HTTPRequest
			addr := mount(t, l, nil, func(r *eventloop.HTTPRequest) {
				switch r.Path() {
				case "/now":
					kept = r
					r.Respond(201, eventloop.HTTPHeaders{{"X-A", "1"}, {"X-A", "2"}, {"Content-Type", "a/b"}}, r.Body())
				case "/later":
					l.AfterFunc(time.Millisecond, func() {
						r.Respond(200, nil, []byte(r.Header("X-Q")+" "+r.Query()))
						if err := r.Respond(200, nil, nil); err != eventloop.ErrHTTPResponded {
							t.Errorf("second response: %v", err)
						}
					})
				case "/stream":
					w, _ := r.RespondStream(200, nil)
					n := 0
					w.OnDrain(func() {
						if n++; n == 3 {
							w.Close()
							return
						}
						fmt.Fprintf(w, "%d ", n)
					})
					w.Write([]byte("0 "))
				case "/abort":
					w, _ := r.RespondStream(200, nil)
					w.Write([]byte("part"))
					w.Flush()
					l.AfterFunc(time.Millisecond, func() { w.Abort() })
				case "/upgrade":
					if _, err := r.Upgrade(nil, nil); err == nil {
						t.Error("Upgrade succeeded")
					}
					hai(r)
				}
			})
			c := dialRaw(t, addr)
			c.send("POST /now?q HTTP/1.1\r\nHost: example.org\r\nX-Q: q\r\nContent-Length: 4\r\n\r\nbody")
			resp, body := c.response("POST")
			if resp.StatusCode != 201 || body != "body" || len(resp.Header.Values("X-A")) != 2 || resp.Header.Get("Content-Type") != "a/b" {
				t.Errorf("%v %q", resp, body)
			}
			c.send("GET /later?q=1 HTTP/1.1\r\nHost: x\r\nX-Q: value\r\n\r\n")
			if _, body := c.response("GET"); body != "value q=1" {
				t.Errorf("later: %q", body)
			}
			c.send("HEAD /now HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, _ := c.response("HEAD"); resp.StatusCode != 201 {
				t.Errorf("HEAD: %v", resp)
			}
			if _, body := c.get("/stream"); body != "0 1 2 " {
				t.Errorf("stream: %q", body)
			}
			old := dialRaw(t, addr)
			old.send("GET /stream HTTP/1.0\r\n\r\n")
			if resp, body := old.response("GET"); body != "0 1 2 " || len(resp.TransferEncoding) > 0 {
				t.Errorf("stream to HTTP/1.0: %v %q", resp, body)
			}
			c.send("GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			c.response("GET")
			if kept.Method() != "HEAD" || kept.Header("Host") != "x" || kept.RemoteAddr().String() != c.LocalAddr().String() {
				t.Errorf("a kept request: %v", kept)
			}
			c.send("GET /abort HTTP/1.1\r\nHost: x\r\n\r\n")
			if got, _ := c.rest(); strings.HasSuffix(got, "0\r\n\r\n") || !strings.Contains(got, "part") {
				t.Errorf("an aborted stream: %q", got)
			}
			c.Close()
			old.Close()
		})
	}
}

func TestHTTPHandlersInServersOfOthersWhenTheLoopEnds(t *testing.T) {
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			l, end := startLoop(t, nil)
			handled := make(chan struct{})
			addr := mount(t, l, nil, func(r *eventloop.HTTPRequest) { close(handled) })
			c := dialRaw(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-handled
			l.Stop()
			end()
			if resp, _ := c.response("GET"); resp.StatusCode != 503 {
				t.Errorf("status %d, want 503", resp.StatusCode)
			}
			if status, _ := c.get("/"); status != 503 {
				t.Errorf("status %d after the end, want 503", status)
			}
			c.Close()
		})
	}
}

func TestMountedHTTPHandlersRespondWith503BeforeRun(t *testing.T) {
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			l := eventloop.New(logged(t, nil))
			addr := mount(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1000}, func(r *eventloop.HTTPRequest) {
				hai(r)
				l.Stop()
			})
			for _, size := range []int{0, 10, 5000} { // no body, one that is read, and a stream
				c := dialRaw(t, addr)
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("b", size))
				if resp, _ := c.response("POST"); resp.StatusCode != 503 || resp.Close != (size > 1000) {
					t.Errorf("a body of %d bytes: status %d before Run and close %v, want 503 and %v", size, resp.StatusCode, resp.Close, size > 1000)
				}
				c.Close()
			}
			running := make(chan struct{})
			l.Hold()
			l.Post(func() { close(running) })
			watch(t, l)
			done := background(t, func() { l.Run(context.Background()) })
			wait(t, running, "Run")
			c := dialRaw(t, addr)
			if status, _ := c.get("/"); status != 200 {
				t.Errorf("status %d after Run, want 200", status)
			}
			c.Close()
			wait(t, done, "end of Run")
		})
	}
}

func TestHTTPHandlerInNetHTTPTellsOfClientsThatGo(t *testing.T) {
	l, _ := startLoop(t, nil)
	told := make(chan error, 1)
	handled := make(chan struct{})
	addr := mounted["net/http"](t, l, nil, func(r *eventloop.HTTPRequest) {
		r.OnAbort(func(err error) {
			told <- err
			hai(r)
		})
		close(handled)
	})
	c := dialRaw(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-handled
	c.Close()
	if err := <-told; err != io.EOF {
		t.Errorf("told %v, want io.EOF", err)
	}
}

// A callback of the tls.Config that does not return must not take the process,
// or leave the server with a connection that is not served.
func TestHTTPServerOutlivesCallbacksOfTLSConfig(t *testing.T) {
	does := map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit}
	for name, f := range does {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, &eventloop.Config{CatchPanics: true})
			events := make(chan error, 1)
			conf := httpServerTLS()
			var called atomic.Bool // each handshake has a goroutine of its own
			conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				if !called.Swap(true) {
					f()
				}
				return nil, nil
			}
			s := serveHTTP(t, l, &eventloop.HTTPServerConfig{
				TLS:     conf,
				OnEvent: func(_ *eventloop.HTTPServer, err error) { events <- err },
			}, hai)
			if _, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
				t.Error("the handshake succeeded")
			}
			err := <-events
			if oe, ok := errors.AsType[*eventloop.OpError](err); !ok || oe.Op != "handshake" {
				t.Errorf("event %v", err)
			}
			if pe, ok := errors.AsType[*eventloop.PanicError](err); ok != (name == "panic") || ok && pe.Value != "boom" {
				t.Errorf("event %v", err)
			}
			c, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if _, err := await(t, s.Shutdown(-1)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHTTPServerPanicInACallbackOfTLSConfigLeavesRun(t *testing.T) {
	checkLeaks(t)
	conf := httpServerTLS()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("boom") }
	v, _ := outcome(func() {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			s, err := l.ListenHTTP("127.0.0.1:0", hai, &eventloop.HTTPServerConfig{TLS: conf})
			if err == nil {
				background(t, func() { tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true}) })
			}
			return err
		})
	})
	if pe, ok := v.(*eventloop.PanicError); !ok || pe.Value != "boom" {
		t.Errorf("Run panicked with %v", v)
	}
}

func TestHTTPMountedHandlersRespondInTime(t *testing.T) {
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			events := make(chan error, 1)
			l, _ := startLoop(t, &eventloop.Config{EventHandler: func(err error) { events <- err }})
			cfg := &eventloop.HTTPServerConfig{ResponseTimeout: 20 * time.Millisecond}
			late := make(chan *eventloop.HTTPRequest, 1)
			addr := mount(t, l, cfg, func(r *eventloop.HTTPRequest) { late <- r })
			c := dialRaw(t, addr)
			if status, _ := c.get("/slow"); status != 503 {
				t.Errorf("status %d, want 503", status)
			}
			if err := <-events; !errors.Is(err, eventloop.ErrTimeout) || !errors.Is(err, eventloop.ErrHTTP) {
				t.Errorf("event %v, want ErrTimeout", err)
			}
			if err := (<-late).Respond(200, nil, nil); err != eventloop.ErrHTTPResponded {
				t.Errorf("Respond = %v, want ErrHTTPResponded", err)
			}
			c.Close()
		})
	}
}

func TestHTTPHandlerInNetHTTPBoundsBodies(t *testing.T) {
	l, _ := startLoop(t, nil)
	cfg := &eventloop.HTTPServerConfig{MaxBodyBytes: 4}
	c := dialRaw(t, mounted["net/http"](t, l, cfg, hai))
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfour")
	if resp, _ := c.response("POST"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfive!")
	if resp, _ := c.response("POST"); resp.StatusCode != 413 {
		t.Errorf("status %d, want 413", resp.StatusCode)
	}
	c.Close()
}

func TestHTTPServerCloseEndsConnectionsThatMayBeIdleForAnyTime(t *testing.T) {
	l, end := startLoop(t, nil)
	const forHead = 3 * time.Second // more than the clients need on a busy machine
	cfg := &eventloop.HTTPServerConfig{ReadHeaderTimeout: forHead, IdleTimeout: -1}
	s := serveHTTP(t, l, cfg, hai)
	var conns []*rawClient
	for range 5 {
		c := dialRaw(t, s.Addr())
		if status, body := c.get("/"); status != 200 || body != "hai" {
			t.Fatalf("response %d %q", status, body)
		}
		conns = append(conns, c)
	}
	time.Sleep(forHead + 200*time.Millisecond) // the time for the head passes, which is over
	if n := l.Stats().HTTPServer.Conns; n != len(conns) {
		t.Fatalf("connections = %d, want %d", n, len(conns))
	}
	s.Close()
	for _, c := range conns {
		c.mustClose()
	}
	if err := end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}
