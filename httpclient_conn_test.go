package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// hiddenConn hides what kind of connection it is.
type hiddenConn struct{ net.Conn }

func dialHidden(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return hiddenConn{c}, nil
}

// A server that speaks, or ends the connection, after its response has the connection
// removed at once, and what it said is never the response to a later request.
func TestHTTPConnectionOnWhichTheServerSpeaksUnaskedIsNotUsedAgain(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
	for _, how := range []struct {
		name, scheme string
		cfg          eventloop.HTTPClientConfig
		serve        func(script func(net.Conn)) func(net.Conn)
	}{
		{"plaintext", "http", eventloop.HTTPClientConfig{}, func(s func(net.Conn)) func(net.Conn) { return s }},
		{"TLS", "https", eventloop.HTTPClientConfig{TLS: httpClientTLS()},
			func(s func(net.Conn)) func(net.Conn) { return withTLS(httpServerTLS(), s) }},
		{"wrapped", "http", eventloop.HTTPClientConfig{Dial: dialHidden}, func(s func(net.Conn)) func(net.Conn) { return s }},
		{"TLS, wrapped", "https", eventloop.HTTPClientConfig{TLS: httpClientTLS(), Dial: dialHidden},
			func(s func(net.Conn)) func(net.Conn) { return withTLS(httpServerTLS(), s) }},
	} {
		for _, unsolicited := range []string{evil, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", ""} {
			for _, together := range []bool{true, false} {
				t.Run(how.name, func(t *testing.T) {
					checkLeaks(t)
					gone := make(chan struct{}, 2)
					p := newHTTPPeer(t, how.serve(func(c net.Conn) {
						readHTTPHead(bufio.NewReader(c))
						if together {
							io.WriteString(c, httpOK+unsolicited)
						} else {
							io.WriteString(c, httpOK)
							io.WriteString(c, unsolicited)
						}
						switch {
						case unsolicited != "":
						case how.cfg.Dial == nil:
							c.Close()
						default: // the client knows when its goroutine has read it
							c.(interface{ CloseWrite() error }).CloseWrite()
						}
						io.Copy(io.Discard, c) // until the client closes it
						gone <- struct{}{}
					}))
					how.cfg.Proxy = eventloop.NoProxy
					runHTTPLoop(t, &eventloop.Config{HTTPClient: &how.cfg}, func(l *eventloop.Loop) {
						l.Go(bg, func(k *eventloop.Task) error {
							for range 2 {
								res, err := l.HTTP().Do(bg, "POST", how.scheme+"://"+p.addr, nil).Await(k)
								if err != nil || string(res.Body) != "ok" || res.Reused {
									t.Errorf("result %+v, %v", res, err)
									return err
								}
								<-gone // without a second request
							}
							return nil
						})
					})
				})
			}
		}
	}
}

// silentTLS is a TLS server that answers once, if it is to, and then reads no more.
func silentTLS(response string) func(c net.Conn) {
	return func(c net.Conn) {
		conf := httpServerTLS()
		conf.SessionTicketsDisabled = true
		tc := tls.Server(c, conf)
		readHTTPHead(bufio.NewReader(tc))
		io.WriteString(tc, response)
		time.Sleep(time.Hour)
	}
}

// close_notify, for which crypto/tls would wait 5 s, holds nothing up.
func TestHTTPSConnectionToAServerThatDoesNotReadEndsAtOnce(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop, c *eventloop.HTTPClient){
		"idle for too long": func(*eventloop.Loop, *eventloop.HTTPClient) {},
		"CloseIdle":         func(_ *eventloop.Loop, c *eventloop.HTTPClient) { c.CloseIdle() },
		"end of the loop":   func(l *eventloop.Loop, _ *eventloop.HTTPClient) { l.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(silentTLS(httpOK))
				defer p.stop()
				began := time.Now()
				runHTTPLoop(t, nil, func(l *eventloop.Loop) {
					c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{TLS: httpClientTLS(), Dial: dial, IdleTimeout: time.Second})
					c.Get(bg, "https://example.com").Then(func(_ *eventloop.HTTPResponse, err error) {
						if err != nil {
							t.Error(err)
						}
						end(l, c)
						began := time.Now()
						l.AfterFunc(2*time.Second, func() { wantEqual(t, "the timer fired after", time.Since(began), 2*time.Second) })
					})
				})
				if d := time.Since(began); d > 2100*time.Millisecond {
					t.Errorf("the loop ended after %v", d)
				}
			})
		})
	}
}

func TestHTTPSRequestEndsAtOnceThoughTheServerDoesNotRead(t *testing.T) {
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"a request": {},
		"an upload": {Body: make([]byte, 1<<20)},
		"a timeout": {Timeout: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(silentTLS(""))
				defer p.stop()
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				began := time.Now()
				time.AfterFunc(time.Second, cancel)
				_, err := doHTTPContext(t, ctx, eventloop.HTTPClientConfig{TLS: httpClientTLS(), Dial: dial}, "POST", "https://example.com", opts)
				if d := time.Since(began); err == nil || d != time.Second {
					t.Errorf("%v after %v, want an error after 1s", err, d)
				}
			})
		})
	}
}

// doHTTPContext sends one request and returns when its future has the result.
func doHTTPContext(t *testing.T, ctx context.Context, cfg eventloop.HTTPClientConfig, method, url string, opts *eventloop.HTTPOptions) (res *eventloop.HTTPResponse, err error) {
	cfg.Proxy = eventloop.NoProxy
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.HTTP().Do(ctx, method, url, opts).Then(func(r *eventloop.HTTPResponse, e error) {
			res, err = r, e
			l.Stop()
		})
	})
	return res, err
}

// The response of a server that does not read the body is reported at once.
func TestHTTPEarlyResponseDoesNotWaitForTheUpload(t *testing.T) {
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"Body":       {Body: make([]byte, 1<<20)},
		"BodyReader": {BodyReader: io.MultiReader(bytes.NewReader(make([]byte, 1<<20)))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(func(c net.Conn) {
					readHTTPHead(bufio.NewReader(c))
					io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
					time.Sleep(time.Hour)
				})
				defer p.stop()
				began := time.Now()
				res, err := doHTTPContext(t, bg, eventloop.HTTPClientConfig{Dial: dial}, "POST", "http://h", opts)
				if d := time.Since(began); err != nil || res.Status != 413 || d != 0 {
					t.Errorf("%+v, %v after %v, want 413 at once", res, err, d)
				}
			})
		})
	}
}

// A client without connections is not registered with the loop.
func TestHTTPClientWithoutConnectionsHasNoHandle(t *testing.T) {
	p := newHTTPPeer(t, answerAll("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			handles := func() (n int) {
				for range l.Handles() {
					n++
				}
				return n
			}
			before := handles()
			for range 20 {
				c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy})
				if _, err := c.Get(bg, "http://"+p.addr).Await(k); err != nil {
					return err
				}
			}
			for handles() != before { // the last goroutines are about to end
				k.Sleep(time.Millisecond)
			}
			return nil
		})
	})
}

// Requests that wait for a connection have no goroutine, and those that are canceled
// do not get in the way of the others.
func TestHTTPRequestsThatWaitForAConnectionAreCanceledEachByItself(t *testing.T) {
	const n = 1000
	let := make(chan struct{})
	p := newHTTPPeer(t, func(c net.Conn) { <-let; answerAll(httpOK)(c) })
	canceled, answered := 0, 0
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{MaxConnsPerHost: 1, Proxy: eventloop.NoProxy}}, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(bg)
		for i := range 2 * n {
			c := bg
			if i%2 == 1 {
				c = ctx
			}
			l.HTTP().Get(c, "http://"+p.addr).Then(func(_ *eventloop.HTTPResponse, err error) {
				switch {
				case err == nil:
					answered++
				case errors.Is(err, context.Canceled):
					if canceled++; canceled == n {
						close(let)
					}
				default:
					t.Error(err)
				}
			})
		}
		cancel()
	})
	wantEqual(t, "canceled", canceled, n)
	wantEqual(t, "answered", answered, n)
	wantEqual(t, "connections", p.conns.Load(), 1)
}

// readBodies reads each request with its body, and answers.
func readBodies(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, httpOK)
	}
}

// An upload whose end was sent leaves its connection fit for the next request.
func TestHTTPConnectionIsUsedAgainAfterAnUpload(t *testing.T) {
	for name, opts := range map[string]func() *eventloop.HTTPOptions{
		"Body":              func() *eventloop.HTTPOptions { return &eventloop.HTTPOptions{Body: make([]byte, 300_000)} },
		"BodyReader":        func() *eventloop.HTTPOptions { return &eventloop.HTTPOptions{BodyReader: strings.NewReader("abc")} },
		"BodyReader, empty": func() *eventloop.HTTPOptions { return &eventloop.HTTPOptions{BodyReader: strings.NewReader("")} },
		"chunks": func() *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: io.MultiReader(strings.NewReader("abc"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPeer(t, readBodies)
			runHTTPLoop(t, nil, func(l *eventloop.Loop) {
				c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy})
				l.Go(bg, func(k *eventloop.Task) error {
					for i := range 50 {
						res, err := c.Do(bg, "POST", "http://"+p.addr, opts()).Await(k)
						if err != nil || res.Reused != (i > 0) {
							t.Fatalf("request %d: %+v, %v", i, res, err)
						}
					}
					return nil
				})
			})
		})
	}
}

// readTrap is a connection whose Read calls runtime.Goexit when it has given one
// response.
type readTrap struct {
	net.Conn
	reads int
}

func (c *readTrap) Read(p []byte) (int, error) {
	if c.reads++; c.reads > 1 {
		runtime.Goexit()
	}
	return c.Conn.Read(p)
}

// exitingBody calls runtime.Goexit when it is closed.
type exitingBody struct{ io.Reader }

func (exitingBody) Close() error { runtime.Goexit(); return nil }

// Foreign code that ends the goroutine of a connection loses at most that connection and its
// request. The next requests are served, through the only slot there is.
func TestHTTPGoexitBetweenRequestsLeavesTheSlotOfTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		dial func(ctx context.Context, network, address string) (net.Conn, error)
		body func() io.Reader
	}{
		"Read of an idle connection": {
			func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, address)
				return &readTrap{Conn: nc}, err
			},
			func() io.Reader { return nil },
		},
		"Close of a body": {nil, func() io.Reader { return exitingBody{strings.NewReader("body")} }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPeer(t, readBodies)
			cfg := &eventloop.HTTPClientConfig{Dial: c.dial, MaxConnsPerHost: 1, Proxy: eventloop.NoProxy}
			loop := &eventloop.Config{HTTPClient: cfg, EventHandler: func(error) {}}
			runHTTPLoop(t, loop, func(l *eventloop.Loop) {
				l.Go(bg, func(k *eventloop.Task) error {
					for range 20 {
						res, err := l.HTTP().Do(bg, "POST", "http://"+p.addr, &eventloop.HTTPOptions{BodyReader: c.body()}).Await(k)
						if err == nil && string(res.Body) != "ok" || err != nil && !strings.Contains(err.Error(), "Goexit") {
							t.Errorf("%+v, %v", res, err)
						}
					}
					return nil
				})
			})
		})
	}
}

// A response that ends where a read ends, in the middle of a record of TLS, hides what
// comes after it in the record from everything that looks at the socket.
func TestHTTPSResponseToNoRequestInTheRecordOfTheLastOneIsNotUsed(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\nX-Fill: "
	response := head + strings.Repeat("x", 4096-4000-len(head)-4) + "\r\n\r\n" + strings.Repeat("b", 4000)
	for name, cfg := range map[string]eventloop.HTTPClientConfig{"TLS": {}, "TLS, wrapped": {Dial: dialHidden}} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPeer(t, withTLS(httpServerTLS(), func(c net.Conn) {
				for br := bufio.NewReader(c); readHTTPHead(br) != ""; {
					io.WriteString(c, response+evil)
				}
			}))
			cfg.Proxy, cfg.TLS = eventloop.NoProxy, httpClientTLS()
			runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
				for range 16 { // there is a moment for it, after the end of the response
					l.Go(bg, func(k *eventloop.Task) error {
						for range 10 {
							res, err := l.HTTP().Get(bg, "https://"+p.addr).Await(k)
							if err != nil || len(res.Body) != 4000 || res.Reused {
								t.Errorf("result %+v, %v", res, err)
								return err
							}
						}
						return nil
					})
				}
			})
		})
	}
}
