package eventloop_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/valyala/fasthttp"
)

// MaxBodyBytes bounds what a mounted handler is given, to the byte.
func TestHTTPMountedMaxBodyBytesBoundsAllBodies(t *testing.T) {
	const most = 100_000
	for name, mount := range mounted {
		for _, over := range []int64{0, 1000} {
			for _, chunked := range []bool{false, true} {
				for size, want := range map[int]int{0: 200, 1000: 200, most: 200, most + 1: 413, 1 << 20: 413} {
					t.Run(fmt.Sprintf("%s, MaxInlineBody %d, chunked %v, %d bytes", name, over, chunked, size), func(t *testing.T) {
						l, _ := startLoop(t, nil)
						var calls, got int // on the loop
						addr := mount(t, l, &eventloop.HTTPServerConfig{MaxBodyBytes: most, MaxInlineBody: over}, func(r *eventloop.HTTPRequest) {
							calls++
							r.OnBody(func(p []byte) { got += len(p) }, func(err error) {
								if err == nil {
									r.Respond(200, nil, nil)
								}
							})
						})
						c := dialRaw(t, addr)
						body := strings.Repeat("b", size)
						if chunked {
							go fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s", chunks(body))
						} else {
							go fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, body)
						}
						if resp, _ := c.response("POST"); resp.StatusCode != want {
							t.Errorf("status %d, want %d", resp.StatusCode, want)
						}
						onLoop(t, l, func() {
							streamed := over > 0 && chunked // then OnBody reports it
							if want == 200 && (calls != 1 || got != size) || want == 413 && (calls != 0 && !streamed || got > most) {
								t.Errorf("%d calls of the handler, which got %d bytes", calls, got)
							}
						})
					})
				}
			}
		}
	}
}

// chunks returns a body in chunks of some KB.
func chunks(body string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(len(body), 5000)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// A body that is malformed or ends too early is an error: a handler that would get
// the body whole is not called, and one that takes it piece by piece is told.
func TestHTTPMountedHandlerIsNotGivenABrokenBody(t *testing.T) {
	for name, mount := range mounted {
		for _, over := range []int64{0, 2} {
			for _, v := range []struct{ name, head, body string }{
				{"malformed chunk", "Transfer-Encoding: chunked", "5\r\nhello\r\nzz\r\n"},
				{"chunk longer than its size", "Transfer-Encoding: chunked", "5\r\nhellooo\r\n0\r\n\r\n"},
				{"truncated chunk", "Transfer-Encoding: chunked", "5\r\nhel"},
				{"no last chunk", "Transfer-Encoding: chunked", "5\r\nhello\r\n"},
				{"truncated body", "Content-Length: 10", "hello"},
			} {
				t.Run(fmt.Sprintf("%s, MaxInlineBody %d, %s", name, over, v.name), func(t *testing.T) {
					l, _ := startLoop(t, nil)
					bodies, ends := make(chan string, 10), make(chan error, 10)
					addr := mount(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: over}, func(r *eventloop.HTTPRequest) {
						if over == 0 {
							bodies <- string(r.Body())
						}
						r.OnBody(nil, func(err error) { ends <- err; r.Respond(200, nil, nil) })
					})
					c := dialRaw(t, addr)
					c.send("POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s", v.head, v.body)
					c.Conn.(*net.TCPConn).CloseWrite()
					resp, _ := c.response("POST")
					if over > 0 && resp.StatusCode == 200 {
						if err := wait(t, ends, "end of the body"); err == nil {
							t.Error("the body ends without an error")
						}
						return
					}
					if resp.StatusCode != 400 {
						t.Errorf("status %d, want 400", resp.StatusCode)
					}
					select {
					case b := <-bodies:
						t.Errorf("the handler is called with the body %q", b)
					default:
					}
				})
			}
		}
	}
}

func TestHTTPMountedBodyThatComesTooSlowlyIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cfg eventloop.HTTPServerConfig
		s := &fasthttp.Server{
			StreamRequestBody: true, ReadTimeout: 20 * time.Second, NoDefaultDate: true, Logger: quietLogger{},
			// Without a loop that runs: it is not to come to that.
			Handler: cfg.FastHTTPHandler(eventloop.New(nil), func(r *eventloop.HTTPRequest) { t.Error("the handler is called") }),
		}
		client, server := net.Pipe()
		go s.ServeConn(server)
		defer client.Close()
		c := newRawClient(t, client)
		// More than fasthttp reads before it calls the handler.
		c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("b", 50_000))
		if resp, _ := c.response("POST"); resp.StatusCode != 408 {
			t.Errorf("status %d, want 408", resp.StatusCode)
		}
	})
}

// A stream of unknown length to a client of HTTP/1.0 ends with the connection, and
// waits for the client.
func TestHTTPMountedStreamToHTTP10IsSentAsTheClientTakesIt(t *testing.T) {
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			const all = 64 << 20
			aborted, held := make(chan error, 1), make(chan int, 100_000)
			addr := mount(t, l, nil, func(r *eventloop.HTTPRequest) {
				w, err := r.RespondStream(200, eventloop.HTTPHeaders{{"X-A", "b"}, {"Content-Type", "a/b"}})
				if err != nil {
					t.Error(err)
					return
				}
				r.OnAbort(func(err error) { aborted <- err })
				left := all
				fill := func() {
					for !w.NeedDrain() && left > 0 {
						n, err := w.Write(make([]byte, 64<<10))
						if left -= n; err != nil {
							return
						}
					}
					switch {
					case left > 0:
						held <- left
					case r.Path() == "/abort":
						w.Abort()
					default:
						w.Close()
					}
				}
				w.OnDrain(fill)
				fill()
			})
			c := dialRaw(t, addr)
			c.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n")
			if left := wait(t, held, "pause"); left < all-1<<20 {
				t.Errorf("%d bytes are taken from the handler, none by the client", all-left)
			}
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("X-A") + resp.Header.Get("Content-Type"); got != "ba/b" || resp.ContentLength != -1 || resp.TransferEncoding != nil || !resp.Close {
				t.Errorf("%+v", resp)
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != all || err != nil {
				t.Errorf("%d bytes, %v; want %d", n, err, all)
			}

			c = dialRaw(t, addr)
			c.send("GET /abort HTTP/1.0\r\nHost: x\r\n\r\n")
			if _, err := c.rest(); name == "fasthttp" && err == nil { // net/http knows no reset
				t.Error("an aborted stream looks complete")
			}

			c = dialRaw(t, addr)
			c.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n")
			io.CopyN(io.Discard, c.br, 1000)
			c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
			if err := wait(t, aborted, "call of OnAbort"); err == nil {
				t.Error("OnAbort gets no error")
			}
			if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 }) {
				t.Error("the request stays open")
			}
		})
	}
}

// The body of the request goes on while the response is sent.
func TestHTTPMountedEchoOfAStreamedBody(t *testing.T) {
	for name, mount := range mounted {
		for _, version := range []string{"1.1", "1.0"} {
			t.Run(name+", HTTP/"+version, func(t *testing.T) {
				l, _ := startLoop(t, nil)
				addr := mount(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1000}, func(r *eventloop.HTTPRequest) {
					w, err := r.RespondStream(200, nil)
					if err != nil {
						t.Error(err)
						return
					}
					r.OnBody(func(p []byte) { w.Write(p) }, func(err error) {
						if err != nil {
							t.Errorf("end of the body: %v", err)
						}
						w.Close()
					})
				})
				c := dialRaw(t, addr)
				body := strings.Repeat("body ", 100_000)
				go fmt.Fprintf(c, "POST / HTTP/%s\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", version, len(body), body)
				if _, got := c.response("POST"); got != body {
					t.Errorf("%d bytes, want %d", len(got), len(body))
				}
			})
		}
	}
}

// ways are all the servers that a handler can be in.
func ways(t *testing.T, test func(t *testing.T, l *eventloop.Loop, serve func(h func(r *eventloop.HTTPRequest)) net.Addr)) {
	t.Run("own", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		test(t, l, func(h func(r *eventloop.HTTPRequest)) net.Addr { return serveHTTP(t, l, nil, h).Addr() })
	})
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			test(t, l, func(h func(r *eventloop.HTTPRequest)) net.Addr { return mount(t, l, nil, h) })
		})
	}
}

func TestHTTPResponseToHEADIsThatToGETWithoutItsBody(t *testing.T) {
	ways(t, func(t *testing.T, l *eventloop.Loop, serve func(h func(r *eventloop.HTTPRequest)) net.Addr) {
		addr := serve(func(r *eventloop.HTTPRequest) {
			switch r.Path() {
			case "/whole":
				r.Respond(200, nil, []byte("hello"))
			case "/long":
				r.Respond(200, nil, make([]byte, 100_000))
			case "/stated":
				r.Respond(200, eventloop.HTTPHeaders{{"Content-Length", "7"}}, make([]byte, map[string]int{"GET": 7}[r.Method()]))
			case "/stream":
				w, _ := r.RespondStream(200, eventloop.HTTPHeaders{{"Content-Length", "9"}})
				io.WriteString(w, "nine char")
				w.Close()
			}
		})
		for _, version := range []string{"1.1", "1.0"} {
			for path, want := range map[string]int64{"/whole": 5, "/long": 100_000, "/stated": 7, "/stream": 9} {
				for _, method := range []string{"GET", "HEAD"} {
					c := dialRaw(t, addr)
					c.send("%s %s HTTP/%s\r\nHost: x\r\nConnection: close\r\n\r\n", method, path, version)
					resp, body := c.response(method)
					if resp.StatusCode != 200 || resp.ContentLength != want || len(body) != map[string]int{"GET": int(want)}[method] {
						t.Errorf("%s %s HTTP/%s: %d, length %d, body of %d bytes; want length %d", method, path, version, resp.StatusCode, resp.ContentLength, len(body), want)
					}
					c.mustClose()
				}
			}
		}
	})
}

// The application need not know that the client does not read what it writes.
func TestHTTPStreamWithoutABodyGoesOnToItsEndEverywhere(t *testing.T) {
	ways(t, func(t *testing.T, l *eventloop.Loop, serve func(h func(r *eventloop.HTTPRequest)) net.Addr) {
		ended := make(chan error, 10)
		addr := serve(func(r *eventloop.HTTPRequest) {
			status := 200
			fmt.Sscan(r.Path()[1:], &status)
			w, err := r.RespondStream(status, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.OnAbort(func(err error) { t.Errorf("OnAbort: %v", err) })
			n := 0
			more := func() {
				if n++; n < 3 {
					if _, err := io.WriteString(w, "more"); err != nil {
						t.Error(err)
					}
					return
				}
				ended <- w.Close()
			}
			l.AfterFunc(time.Millisecond, func() {
				io.WriteString(w, "some")
				w.OnDrain(more)
			})
		})
		for _, method := range []string{"GET", "HEAD"} {
			for _, status := range []int{200, 204, 304} {
				c := dialRaw(t, addr)
				for range 2 {
					c.send("%s /%d HTTP/1.1\r\nHost: x\r\n\r\n", method, status)
					resp, body := c.response(method)
					if want := map[string]string{"GET200": "somemoremore"}[fmt.Sprint(method, status)]; resp.StatusCode != status || body != want {
						t.Errorf("%s: %d %q, want %d %q", method, resp.StatusCode, body, status, want)
					}
					if err := wait(t, ended, "end of the stream"); err != nil && !errors.Is(err, net.ErrClosed) {
						t.Errorf("Close: %v", err)
					}
				}
			}
		}
	})
}
