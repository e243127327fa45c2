package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop"
)

// A trap is triggered in the method of a foreign type that has its name.
type trap struct {
	method string
	spring func()             // nil: nothing
	count  func(size int) int // the count that Read or Write returns for a buffer; nil: the real one
}

func (p trap) at(method string) {
	if p.method == method && p.spring != nil {
		p.spring()
	}
}

// counted returns the result of Read or Write.
func (p trap) counted(method string, size, n int, err error) (int, error) {
	if p.method == method && p.count != nil && err == nil {
		n = p.count(size)
	}
	return n, err
}

// A trapConn is a TCP connection of an unknown type, with a trap. Close first closes the
// connection and then triggers the trap, so that the peer sees the end.
type trapConn struct {
	*net.TCPConn
	trap
}

func (c trapConn) Read(p []byte) (int, error) {
	c.at("Read")
	n, err := c.TCPConn.Read(p)
	return c.counted("Read", len(p), n, err)
}

func (c trapConn) Write(p []byte) (int, error) {
	c.at("Write")
	n, err := c.TCPConn.Write(p)
	return c.counted("Write", len(p), n, err)
}

func (c trapConn) Close() error         { defer c.at("Close"); return c.TCPConn.Close() }
func (c trapConn) CloseWrite() error    { defer c.at("CloseWrite"); return c.TCPConn.CloseWrite() }
func (c trapConn) LocalAddr() net.Addr  { c.at("LocalAddr"); return c.TCPConn.LocalAddr() }
func (c trapConn) RemoteAddr() net.Addr { c.at("RemoteAddr"); return c.TCPConn.RemoteAddr() }

func (c trapConn) SetDeadline(t time.Time) error {
	c.at("SetDeadline")
	return c.TCPConn.SetDeadline(t)
}

func (c trapConn) SetReadDeadline(t time.Time) error {
	c.at("SetReadDeadline")
	return c.TCPConn.SetReadDeadline(t)
}

func (c trapConn) SetWriteDeadline(t time.Time) error {
	c.at("SetWriteDeadline")
	return c.TCPConn.SetWriteDeadline(t)
}

// A trapListener is a TCP listener of an unknown type. The trap in Accept is triggered
// only once; after that Accept works.
type trapListener struct {
	*net.TCPListener
	trap
	once sync.Once
}

func (ln *trapListener) Accept() (net.Conn, error) {
	ln.once.Do(func() { ln.at("Accept") })
	nc, err := ln.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return trapConn{nc.(*net.TCPConn), ln.trap}, nil
}

func (ln *trapListener) Close() error   { defer ln.at("ListenerClose"); return ln.TCPListener.Close() }
func (ln *trapListener) Addr() net.Addr { ln.at("Addr"); return ln.TCPListener.Addr() }

func newTrapListener(t testing.TB, p trap) *trapListener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &trapListener{TCPListener: ln.(*net.TCPListener), trap: p}
}

// greet is a peer that sends hello, and ends when the other side does.
func greet(t testing.TB, addr string) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer nc.Close()
		io.WriteString(nc, "hello")
		io.Copy(io.Discard, nc)
	}()
	t.Cleanup(func() { <-done })
}

// trapped are uses of foreign code, each with the methods that trigger a trap. The loop
// ends by itself, whatever the trap does. told receives the errors of operations.
var trapped = map[string]struct {
	methods []string
	use     func(t testing.TB, l *eventloop.Loop, p trap, told func(error))
}{
	"Adopt": {
		[]string{"Read", "Write", "Close", "CloseWrite", "LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			ln := newTrapListener(t, trap{})
			greet(t, ln.TCPListener.Addr().String())
			nc, err := ln.TCPListener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			adoptTrapped(t, l, trapConn{nc.(*net.TCPConn), p}, nil, told)
		},
	},
	"Adopt with TLS": {
		[]string{"Read", "Write", "Close", "LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			ln := newTrapListener(t, trap{})
			done := make(chan struct{})
			t.Cleanup(func() { <-done })
			go func() {
				defer close(done)
				nc, err := tls.Dial("tcp", ln.TCPListener.Addr().String(), clientConf)
				if err != nil {
					return
				}
				defer nc.Close()
				io.WriteString(nc, "hello")
				io.Copy(io.Discard, nc)
			}()
			nc, err := ln.TCPListener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			adoptTrapped(t, l, trapConn{nc.(*net.TCPConn), p}, serverConf, told)
		},
	},
	"Serve": {
		[]string{"Accept", "Addr", "ListenerClose", "Read", "Write", "Close", "RemoteAddr", "SetDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			tl := newTrapListener(t, p)
			var ln *eventloop.Listener
			lc := &eventloop.ListenConfig{OnAcceptError: func(_ *eventloop.Listener, err error) { told(err) }}
			ln, err := lc.Serve(l, tl, &eventloop.ConnConfig{
				WriteTimeout: time.Minute,
				OnData:       func(c *eventloop.Conn, _ []byte) { c.Write([]byte("bye")); c.Close() },
				OnEvent:      func(_ *eventloop.Conn, err error) { told(err) },
				OnClose:      func(c *eventloop.Conn) { ln.Close() },
			})
			if err != nil {
				t.Fatal(err)
			}
			greet(t, tl.TCPListener.Addr().String())
		},
	},
	"ServeHTTP": {
		[]string{"Accept", "Addr", "ListenerClose", "Read", "Write", "Close", "RemoteAddr", "SetDeadline", "SetReadDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			tl := newTrapListener(t, p)
			s, err := l.ServeHTTP(tl, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, nil) }, &eventloop.HTTPServerConfig{
				OnAcceptError: func(_ *eventloop.HTTPServer, err error) { told(err) },
				OnEvent:       func(_ *eventloop.HTTPServer, err error) { told(err) },
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			t.Cleanup(func() { <-done })
			go func() {
				defer close(done)
				nc, err := net.Dial("tcp", tl.TCPListener.Addr().String())
				if err != nil {
					return
				}
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				io.Copy(io.Discard, nc)
				nc.Close()
				s.Close()
			}()
		},
	},
	"ConnConfig.Dial": {
		[]string{"Dial", "Read", "Write", "Close", "CloseWrite", "LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			ln := newTrapListener(t, trap{})
			done := make(chan struct{})
			t.Cleanup(func() { <-done })
			go func() {
				defer close(done)
				converse(ln.TCPListener)
			}()
			dialTrapped(t, l, ln, p, nil, told)
		},
	},
	"ConnConfig.Dial with TLS": {
		[]string{"Dial", "Read", "Write", "Close", "LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			ln := newTrapListener(t, trap{})
			done := make(chan struct{})
			t.Cleanup(func() { <-done })
			go func() {
				defer close(done)
				converse(tls.NewListener(ln.TCPListener, serverConf))
			}()
			dialTrapped(t, l, ln, p, clientConf, told)
		},
	},
	"HTTPClientConfig.Dial": {
		[]string{"Dial", "Read", "Write", "Close", "RemoteAddr", "SetReadDeadline"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			peer := newHTTPPeer(t, answerAll(httpOK))
			client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				p.at("Dial")
				var d net.Dialer
				nc, err := d.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return trapConn{nc.(*net.TCPConn), p}, nil
			}})
			client.Do(context.Background(), "GET", "http://"+peer.addr, nil).Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil {
					told(err)
				}
				client.CloseIdle()
			})
		},
	},
	"HTTPClientConfig.Proxy": {
		[]string{"Proxy"},
		func(t testing.TB, l *eventloop.Loop, p trap, told func(error)) {
			client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { p.spring(); return nil, nil }})
			client.Do(context.Background(), "GET", "http://127.0.0.1:1", nil).Then(func(_ *eventloop.HTTPResponse, err error) { told(err) })
		},
	},
}

// converse sends hello to the next connection, and ends when the other side does, or when
// ln is closed.
func converse(ln net.Listener) {
	nc, err := ln.Accept()
	if err != nil {
		return
	}
	defer nc.Close()
	io.WriteString(nc, "hello")
	io.Copy(io.Discard, nc)
}

// dialTrapped runs an exchange with converse.
func dialTrapped(t testing.TB, l *eventloop.Loop, ln *trapListener, p trap, conf *tls.Config, told func(error)) {
	_, err := l.Dial(t.Context(), "tcp", ln.TCPListener.Addr().String(), &eventloop.ConnConfig{
		TLS:          conf,
		WriteTimeout: time.Minute,
		OnData:       func(c *eventloop.Conn, _ []byte) { c.Write([]byte("bye")); c.CloseWrite() },
		OnEvent:      func(_ *eventloop.Conn, err error) { told(err) },
		OnClose:      func(*eventloop.Conn) { ln.TCPListener.Close() },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			p.at("Dial")
			var d net.Dialer
			nc, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return trapConn{nc.(*net.TCPConn), p}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// adoptTrapped runs an exchange with greet.
func adoptTrapped(t testing.TB, l *eventloop.Loop, nc net.Conn, conf *tls.Config, told func(error)) {
	_, err := l.Adopt(nc, &eventloop.ConnConfig{
		TLS: conf, TLSServer: true,
		WriteTimeout: time.Minute,
		OnData:       func(c *eventloop.Conn, _ []byte) { c.Write([]byte("bye")); c.CloseWrite() },
		OnEvent:      func(_ *eventloop.Conn, err error) { told(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// abnormal counts the errors that say that foreign code did not return.
func abnormal(errs []error) (n int) {
	for _, err := range errs {
		var pe *eventloop.PanicError
		if errors.As(err, &pe) && pe.Value == "sprung" || strings.Contains(err.Error(), "Goexit") {
			n++
		}
	}
	return n
}

func TestAPanicOrGoexitInForeignCodeIsAnEvent(t *testing.T) {
	springs := map[string]func(){"panic": func() { panic("sprung") }, "Goexit": runtime.Goexit}
	for use, u := range trapped {
		for _, method := range u.methods {
			for how, spring := range springs {
				t.Run(fmt.Sprintf("%s in %s of %s", how, method, use), func(t *testing.T) {
					var events []error
					told := func(err error) { events = append(events, err) }
					cfg := &eventloop.Config{CatchPanics: true, EventHandler: told}
					mustRun(t, cfg, func(l *eventloop.Loop) { u.use(t, l, trap{method: method, spring: spring}, told) })
					if abnormal(events) == 0 {
						t.Errorf("the events are %v, want one that says %s", events, how)
					}
				})
			}
		}
	}
}

func TestAPanicInForeignCodeLeavesRunUnlessItIsCaught(t *testing.T) {
	for use, u := range trapped {
		if use == "HTTPClientConfig.Proxy" {
			continue // it is the error of the request
		}
		for _, method := range u.methods {
			t.Run(method+" of "+use, func(t *testing.T) {
				var events []error
				told := func(err error) { events = append(events, err) }
				panicked, _ := outcome(func() {
					runLoop(t, nil, func(l *eventloop.Loop) {
						u.use(t, l, trap{method: method, spring: func() { panic("sprung") }}, told)
					})
				})
				if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "sprung" {
					t.Errorf("Run panicked with %v", panicked)
				}
				wantEqual(t, "panics that were events", abnormal(events), 0)
			})
		}
	}
}

// impossible are counts that no Read or Write may return.
var impossible = map[string]func(size int) int{
	"more than the buffer": func(size int) int { return size + 5 }, "negative": func(int) int { return -1 },
}

// invalidCounts counts the errors that say that a count is impossible.
func invalidCounts(errs []error) (n int) {
	for _, err := range errs {
		if strings.Contains(err.Error(), "returned an invalid count") {
			n++
		}
	}
	return n
}

func TestAnImpossibleCountOfForeignCodeIsAnErrorOfTheConnection(t *testing.T) {
	silent := map[string]bool{ // like any other error there
		"Write of Serve":                 true, // after Close: only Conn.Err has it
		"Read of ServeHTTP":              true, // there is no request yet
		"Write of HTTPClientConfig.Dial": true, // the response comes: the bytes were written
	}
	for use, u := range trapped {
		for _, method := range []string{"Read", "Write"} {
			for kind, count := range impossible {
				if !slices.Contains(u.methods, method) {
					continue
				}
				t.Run(fmt.Sprintf("%s, of %s of %s", kind, method, use), func(t *testing.T) {
					var events []error
					told := func(err error) { events = append(events, err) }
					mustRun(t, &eventloop.Config{EventHandler: told}, func(l *eventloop.Loop) {
						u.use(t, l, trap{method: method, count: count}, told)
					})
					want := 1
					if silent[method+" of "+use] {
						want = 0
					}
					if n := invalidCounts(events); n != want {
						t.Errorf("%d errors name the count, want %d: %v", n, want, events)
					}
				})
			}
		}
	}
}

func TestAnImpossibleCountOfABodyIsAnErrorOfTheRequest(t *testing.T) {
	for kind, count := range impossible {
		body := func() io.ReadCloser {
			reads := 0
			return io.NopCloser(readerFunc(func(p []byte) (int, error) {
				if reads++; reads == 1 {
					return copy(p, "xx"), nil
				}
				return count(len(p)), nil
			}))
		}
		t.Run(kind+", of a body of a Transport", func(t *testing.T) {
			var errs []error
			mustRun(t, nil, func(l *eventloop.Loop) {
				transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
					return &http.Response{Status: "200 OK", StatusCode: 200, ContentLength: -1, Body: body(), Request: req}, nil
				})
				c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport})
				c.Do(t.Context(), "GET", "http://a", nil).Then(func(_ *eventloop.HTTPResponse, err error) {
					if err != nil {
						errs = append(errs, err)
					}
				})
			})
			wantEqual(t, "errors that name the count", invalidCounts(errs), 1)
		})
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, of a body of a server of net/http, streamed %t", kind, stream), func(t *testing.T) {
				var errs []error
				l, end := startLoop(t, nil)
				cfg := &eventloop.HTTPServerConfig{}
				if stream {
					cfg.MaxInlineBody = 1
				}
				h := cfg.HTTPHandler(l, func(r *eventloop.HTTPRequest) {
					r.OnBody(func([]byte) {}, func(err error) {
						if err != nil {
							errs = append(errs, err)
						}
						r.Respond(200, nil, nil)
					})
				})
				req := httptest.NewRequest("POST", "/", body())
				req.ContentLength = -1
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				end()
				wantStatus, wantErrors := http.StatusBadRequest, 0 // the handler is not called
				if stream {
					wantStatus, wantErrors = http.StatusOK, 1
				}
				if w.Code != wantStatus || invalidCounts(errs) != wantErrors {
					t.Errorf("the status is %d, and the errors are %v", w.Code, errs)
				}
			})
		}
	}
}

// If the Dial, the connections or the TLS of a resolver do not return, lookups fail, and
// the resolver continues.
func TestAPanicOrGoexitInTheResolversDialIsTheErrorOfTheLookup(t *testing.T) {
	for _, method := range []string{"Dial", "Read", "Write", "SetDeadline", "Close", "VerifyConnection"} {
		for how, spring := range map[string]func(){"panic": func() { panic("sprung") }, "Goexit": runtime.Goexit} {
			t.Run(how+" in "+method, func(t *testing.T) {
				p := trap{method: method, spring: spring}
				ln := newTrapListener(t, trap{})
				serveDNS(t, ln.TCPListener, method == "VerifyConnection")
				var events []error
				told := func(err error) { events = append(events, err) }
				cfg := &eventloop.Config{CatchPanics: true, EventHandler: told, Resolver: new(eventloop.ResolverConfig)}
				cfg.Resolver.Servers = []string{ln.TCPListener.Addr().String()}
				cfg.Resolver.Attempts = 1
				cfg.Resolver.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
					p.at("Dial")
					var d net.Dialer
					nc, err := d.DialContext(ctx, "tcp", address)
					if err != nil {
						return nil, err
					}
					return trapConn{nc.(*net.TCPConn), p}, nil
				}
				if method == "VerifyConnection" {
					cfg.Resolver.TLS = clientConf.Clone()
					cfg.Resolver.TLS.VerifyConnection = func(tls.ConnectionState) error { spring(); return nil }
				}
				mustRun(t, cfg, func(l *eventloop.Loop) {
					l.Query(context.Background(), "name.example", dns.TypeA).Then(func(_ *dns.Msg, err error) {
						if err != nil {
							told(err)
						}
					})
				})
				if abnormal(events) == 0 {
					t.Errorf("the events are %v, want one that says %s", events, how)
				}

				cfg.CatchPanics = false
				if how == "panic" {
					panicked, _ := outcome(func() {
						runLoop(t, cfg, func(l *eventloop.Loop) {
							l.Query(context.Background(), "name.example", dns.TypeA).Then(nil)
						})
					})
					if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "sprung" {
						t.Errorf("Run panicked with %v", panicked)
					}
				}
			})
		}
	}
}

func TestAnImpossibleCountOfTheResolversConnectionIsTheErrorOfTheLookup(t *testing.T) {
	for kind, count := range impossible {
		for _, method := range []string{"Read", "Write"} {
			t.Run(kind+", of "+method, func(t *testing.T) {
				ln := newTrapListener(t, trap{})
				serveDNS(t, ln.TCPListener, false)
				cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{
					Servers: []string{ln.TCPListener.Addr().String()}, Attempts: 1,
					Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
						var d net.Dialer
						nc, err := d.DialContext(ctx, "tcp", address)
						if err != nil {
							return nil, err
						}
						return trapConn{nc.(*net.TCPConn), trap{method: method, count: count}}, nil
					},
				}}
				mustRun(t, cfg, func(l *eventloop.Loop) {
					l.Query(t.Context(), "name.example", dns.TypeA).Then(func(_ *dns.Msg, err error) {
						if err == nil || invalidCounts([]error{err}) != 1 {
							t.Errorf("the error is %v", err)
						}
					})
				})
			})
		}
	}
}

// serveDNS replies to queries on connections of ln that the name does not exist.
func serveDNS(t testing.TB, ln net.Listener, overTLS bool) {
	if overTLS {
		ln = tls.NewListener(ln, serverConf)
	}
	s := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		w.WriteMsg(m.SetRcode(q, dns.RcodeNameError))
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.ActivateAndServe() }()
	t.Cleanup(func() { ln.Close(); s.Shutdown(); <-done })
}

// A trapCache triggers its trap for the tickets of TLS 1.3, which arrive after the
// handshake.
type trapCache struct{ trap }

func (c trapCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c trapCache) Put(string, *tls.ClientSessionState)        { c.spring() }

func TestAPanicOrGoexitInTheSessionCacheIsAnEventOfTheConnection(t *testing.T) {
	for how, spring := range map[string]func(){"panic": func() { panic("sprung") }, "Goexit": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", serverConf)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				nc.(*tls.Conn).Handshake()
				io.Copy(io.Discard, nc)
				nc.Close()
			}()
			t.Cleanup(func() { ln.Close(); <-done })
			conf := clientConf.Clone()
			conf.ClientSessionCache = trapCache{trap{spring: spring}}
			var events []error
			mustRun(t, &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) {
				_, err := l.Dial(t.Context(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
					TLS:     conf,
					OnEvent: func(_ *eventloop.Conn, err error) { events = append(events, err) },
				})
				if err != nil {
					t.Error(err)
				}
			})
			if len(events) != 1 || abnormal(events) != 1 {
				t.Errorf("the events are %v, want one that says %s", events, how)
			}
		})
	}
}

// lastPanics are callbacks that stop the loop and panic, or that panic because the loop
// stops.
var lastPanics = map[string]func(t testing.TB, l *eventloop.Loop){
	"Post":  func(t testing.TB, l *eventloop.Loop) { l.Post(func() { l.Stop(); panic("sprung") }) },
	"timer": func(t testing.TB, l *eventloop.Loop) { l.AfterFunc(0, func() { l.Stop(); panic("sprung") }) },
	"OnConnect": func(t testing.TB, l *eventloop.Loop) {
		adoptPeer(t, l, &eventloop.ConnConfig{OnConnect: func(*eventloop.Conn) { l.Stop(); panic("sprung") }})
	},
	"OnData": func(t testing.TB, l *eventloop.Loop) {
		adoptPeer(t, l, &eventloop.ConnConfig{OnData: func(*eventloop.Conn, []byte) { l.Stop(); panic("sprung") }})
	},
	"OnData after Close": func(t testing.TB, l *eventloop.Loop) {
		adoptPeer(t, l, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, _ []byte) { c.Close(); l.Stop(); panic("sprung") }})
	},
	"OnData with a callback for events": func(t testing.TB, l *eventloop.Loop) {
		adoptPeer(t, l, &eventloop.ConnConfig{
			OnData:  func(*eventloop.Conn, []byte) { l.Stop(); panic("sprung") },
			OnEvent: func(_ *eventloop.Conn, err error) { t.Errorf("OnEvent after Stop: %v", err) },
		})
	},
	"OnClose": func(t testing.TB, l *eventloop.Loop) {
		adoptPeer(t, l, &eventloop.ConnConfig{
			OnData:  func(*eventloop.Conn, []byte) { l.Stop() },
			OnClose: func(*eventloop.Conn) { panic("sprung") },
		})
	},
	"a task": func(t testing.TB, l *eventloop.Loop) {
		l.Go(t.Context(), func(*eventloop.Task) error { l.Stop(); panic("sprung") }).Then(nil)
	},
	"a task with a callback": func(t testing.TB, l *eventloop.Loop) {
		l.Go(t.Context(), func(*eventloop.Task) error { l.Stop(); panic("sprung") }).Then(func(struct{}, error) {})
	},
	"a task being unwound": func(t testing.TB, l *eventloop.Loop) {
		l.Go(t.Context(), func(k *eventloop.Task) error {
			defer func() { panic("sprung") }()
			l.Stop()
			return k.Sleep(time.Hour)
		}).Then(nil)
	},
	"a task of a group being unwound": func(t testing.TB, l *eventloop.Loop) {
		l.Go(t.Context(), func(k *eventloop.Task) error {
			g := k.Group()
			g.Go(func(k *eventloop.Task) error {
				defer func() { panic("sprung") }()
				l.Stop()
				return k.Sleep(time.Hour)
			})
			return g.Wait()
		}).Then(nil)
	},
	"an HTTP handler": func(t testing.TB, l *eventloop.Loop) {
		s, err := l.ListenHTTP("127.0.0.1:0", func(*eventloop.HTTPRequest) { l.Stop(); panic("sprung") }, nil)
		if err != nil {
			t.Fatal(err)
		}
		writeAndClose(t, s.Addr().String(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	},
	"Dial of a connection": func(t testing.TB, l *eventloop.Loop) {
		if _, err := l.Dial(t.Context(), "tcp", "peer:1", &eventloop.ConnConfig{
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				l.Post(l.Stop)
				<-ctx.Done()
				panic("sprung")
			},
		}); err != nil {
			t.Fatal(err)
		}
	},
	"Close of an adopted connection": func(t testing.TB, l *eventloop.Loop) {
		ln := newTrapListener(t, trap{})
		greet(t, ln.TCPListener.Addr().String())
		nc, err := ln.TCPListener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Adopt(trapConn{nc.(*net.TCPConn), trap{method: "Close", spring: func() { panic("sprung") }}}, &eventloop.ConnConfig{
			OnData: func(*eventloop.Conn, []byte) { l.Stop() },
		})
		if err != nil {
			t.Fatal(err)
		}
	},
	"Close of a listener": func(t testing.TB, l *eventloop.Loop) {
		if _, err := l.Serve(newTrapListener(t, trap{method: "ListenerClose", spring: func() { panic("sprung") }}), nil); err != nil {
			t.Fatal(err)
		}
		l.Post(l.Stop)
	},
}

// adoptPeer adopts a connection whose peer sends hello.
func adoptPeer(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) {
	ln := newTrapListener(t, trap{})
	greet(t, ln.TCPListener.Addr().String())
	nc, err := ln.TCPListener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Adopt(nc, cfg); err != nil {
		t.Fatal(err)
	}
}

func TestAPanicWhileTheLoopStopsIsNotLost(t *testing.T) {
	for where, start := range lastPanics {
		t.Run(where, func(t *testing.T) {
			var events []error
			mustRun(t, &eventloop.Config{
				CatchPanics:  true,
				EventHandler: func(err error) { events = append(events, err) },
			}, func(l *eventloop.Loop) { start(t, l) })
			if n := abnormal(events); n == 0 || n > 1 && !strings.HasPrefix(where, "Close") {
				t.Errorf("the events are %v, want the panic once", events)
			}

			book := &logBook{}
			mustRun(t, &eventloop.Config{CatchPanics: true, Logger: book.logger()}, func(l *eventloop.Loop) { start(t, l) })
			if !strings.Contains(book.String(), "sprung") {
				t.Errorf("the log does not contain the panic: %q", book.String())
			}

			panicked, _ := outcome(func() {
				runLoop(t, &eventloop.Config{Logger: slog.New(slog.DiscardHandler)}, func(l *eventloop.Loop) { start(t, l) })
			})
			if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "sprung" {
				t.Errorf("Run panicked with %v", panicked)
			}
		})
	}
}

// Two dials wait for one lookup, whose Dial panics: both fail.
func TestAPanicThatSeveralOperationsShareIsAnEventOfEach(t *testing.T) {
	called := make(chan struct{})
	cfg := &eventloop.Config{CatchPanics: true}
	cfg.Resolver = new(eventloop.ResolverConfig)
	cfg.Resolver.Servers = []string{"127.0.0.1:1"}
	cfg.Resolver.Attempts = 1
	cfg.Resolver.Dial = func(context.Context, string, string) (net.Conn, error) { <-called; panic("sprung") }
	var events []error
	closed := 0
	mustRun(t, cfg, func(l *eventloop.Loop) {
		for range 3 {
			_, err := l.Dial(t.Context(), "tcp4", "name.example:80", &eventloop.ConnConfig{
				OnEvent: func(_ *eventloop.Conn, err error) { events = append(events, err) },
				OnClose: func(*eventloop.Conn) { closed++ },
			})
			if err != nil {
				t.Error(err)
			}
		}
		close(called)
	})
	wantEqual(t, "events", len(events), 3)
	wantEqual(t, "panics among them", abnormal(events), 3)
	wantEqual(t, "calls of OnClose", closed, 3)
}
