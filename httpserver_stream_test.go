package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
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
)

func TestHTTPStreamInChunks(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, err := r.RespondStream(200, eventloop.HTTPHeaders{{"Content-Type", "text/event-stream"}})
		if err != nil {
			t.Error(err)
		}
		w.Write([]byte("one "))
		n := 0
		var tick *eventloop.Timer
		tick = l.Every(time.Millisecond, func() {
			if n++; n == 3 {
				tick.Stop()
				w.Close()
				if err := w.Close(); err != net.ErrClosed {
					t.Errorf("second Close: %v, want net.ErrClosed", err)
				}
				if _, err := w.Write([]byte("x")); err != net.ErrClosed {
					t.Errorf("Write after Close: %v, want net.ErrClosed", err)
				}
				return
			}
			fmt.Fprintf(w, "%d ", n)
		})
	})
	c := dialRaw(t, s.Addr())
	for range 2 { // the connection is kept
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, body := c.response("GET")
		if body != "one 1 2 " || resp.TransferEncoding[0] != "chunked" || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%v %q", resp, body)
		}
	}
}

func TestHTTPStreamToHTTP10EndsWithTheConnection(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, _ := r.RespondStream(200, nil)
		w.Write([]byte("one "))
		l.Post(func() {
			w.Write([]byte("two"))
			if r.Path() == "/abort" {
				wantEqual(t, "error of Abort", w.Abort(), nil)
				wantEqual(t, "error of a second Abort", w.Abort(), net.ErrClosed)
				wantEqual(t, "error of Close after Abort", w.Close(), net.ErrClosed)
			} else {
				w.Close()
			}
		})
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	got, err := c.rest()
	if head, body, _ := strings.Cut(got, "\r\n\r\n"); body != "one two" || err != nil || strings.Contains(head, "chunked") {
		t.Errorf("response %q, %v", got, err)
	}
	c = dialRaw(t, s.Addr())
	c.send("GET /abort HTTP/1.0\r\n\r\n")
	if _, err := c.rest(); err == nil {
		t.Error("an aborted stream ends as if it were complete")
	}
}

func TestHTTPStreamOfAKnownLength(t *testing.T) {
	l, _ := startLoop(t, nil)
	errs := make(chan error, 3)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, err := r.RespondStream(200, eventloop.HTTPHeaders{{"Content-Length", r.Query()}})
		if err != nil {
			errs <- err
			hai(r)
			return
		}
		w.Write([]byte("12345"))
		_, err = w.Write([]byte("6"))
		errs <- err
		errs <- w.Close()
	})
	c := dialRaw(t, s.Addr())
	if _, body := c.get("/?5"); body != "12345" {
		t.Errorf("body %q", body)
	}
	if err := <-errs; err == nil {
		t.Error("a byte too many was accepted")
	}
	if err := <-errs; err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, body := c.get("/?x"); body != "hai" || !errors.Is(<-errs, eventloop.ErrHTTPHeader) {
		t.Errorf("a bad length: body %q", body)
	}
	c.send("GET /?9 HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, _ := c.rest(); !strings.HasSuffix(got, "\r\n\r\n123456") {
		t.Errorf("response %q, want a short one and the end", got)
	}
	if err := <-errs; err != nil {
		t.Errorf("Write: %v", err)
	}
	if err := <-errs; err == nil {
		t.Error("Close of a short response succeeded")
	}
}

func TestHTTPStreamToHEADHasNoBody(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, _ := r.RespondStream(200, nil)
		w.Write([]byte("body"))
		w.Close()
	})
	c := dialRaw(t, s.Addr())
	for range 2 {
		c.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.response("HEAD") // what follows must be the next response
	}
}

func TestLaw10AStreamedHTTPResponseHasBackPressure(t *testing.T) {
	l, _ := startLoop(t, nil)
	const total = 64 << 20
	most := make(chan int, 1)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{HighWater: 100_000, MaxBuffered: 1 << 20}, func(r *eventloop.HTTPRequest) {
		w, _ := r.RespondStream(200, nil)
		if _, err := w.Write(make([]byte, 2<<20)); err != eventloop.ErrBufferFull {
			t.Errorf("Write over MaxBuffered: %v, want ErrBufferFull", err)
		}
		piece, sent, peak := make([]byte, 10_000), 0, 0
		more := func() {
			for sent < total && !w.NeedDrain() {
				n, err := w.Write(piece[:min(len(piece), total-sent)])
				if err != nil {
					t.Error(err)
					return
				}
				sent += n
				peak = max(peak, w.Buffered())
			}
			if sent == total {
				sent++
				w.Close()
				most <- peak
			}
		}
		w.OnDrain(more)
		more()
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != total || err != nil {
		t.Errorf("%d bytes and %v, want %d", n, err, total)
	}
	if got := <-most; got > 111_000 {
		t.Errorf("%d bytes were pending, want no more than the mark and a piece", got)
	}
}

// TestHTTPOnAbort makes clients go away in all ways while the response is pending.
func TestHTTPOnAbort(t *testing.T) {
	for _, halfOpen := range []bool{false, true} {
		t.Run(fmt.Sprint("AllowHalfOpen=", halfOpen), func(t *testing.T) { testOnAbort(t, halfOpen) })
	}
}

func testOnAbort(t *testing.T, halfOpen bool) {
	for _, v := range []struct {
		name   string
		leave  func(c *net.TCPConn)
		reset  bool
		stream bool
	}{
		{"reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true, false},
		{"close", func(c *net.TCPConn) { c.Close() }, false, false},
		{"half-close", func(c *net.TCPConn) { c.CloseWrite() }, false, false},
		{"reset of a stream", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true, true},
		{"half-close of a stream", func(c *net.TCPConn) { c.CloseWrite() }, false, true},
		{"reset behind a pipelined request", func(c *net.TCPConn) {
			c.Write([]byte("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"))
			time.Sleep(time.Millisecond) // most often a reset overtakes; either way it is told
			c.SetLinger(0)
			c.Close()
		}, true, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			told := make(chan error, 2)
			requests := make(chan *eventloop.HTTPRequest, 1)
			s := serveHTTP(t, l, &eventloop.HTTPServerConfig{AllowHalfOpen: halfOpen}, func(r *eventloop.HTTPRequest) {
				r.OnAbort(func(err error) { told <- err })
				r.Context()
				if v.stream {
					r.RespondStream(200, nil)
				}
				l.Post(func() { requests <- r }) // by then it waits
			})
			c := dialRaw(t, s.Addr())
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			r := <-requests
			v.leave(c.Conn.(*net.TCPConn))
			err := <-told
			if v.reset {
				if !errors.Is(err, eventloop.ErrReset) || !errors.Is(err, eventloop.ErrHTTP) || !eventloop.IsInfo(err) {
					t.Errorf("told %v, want ErrReset", err)
				}
				<-r.Context().Done()
				if got := r.Respond(200, nil, nil); got != err && got != eventloop.ErrHTTPResponded {
					t.Errorf("Respond: %v, want what OnAbort was told", got)
				}
				if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 && l.Stats().HTTPServer.Conns == 0 }) {
					t.Errorf("the connection stays: %+v", l.Stats())
				}
			} else {
				if err != io.EOF {
					t.Errorf("told %v, want io.EOF", err)
				}
				if !halfOpen {
					<-r.Context().Done()
					wantEqual(t, "cause", context.Cause(r.Context()), io.EOF)
				} else if r.Context().Err() != nil {
					t.Error("the context ended at a half-close")
				}
			}
			// A response is sent to a client that only ended its own side.
			if v.name == "half-close" {
				r.Respond(200, nil, []byte("still there"))
				if _, body := c.response("GET"); body != "still there" {
					t.Errorf("response %q", body)
				}
				c.mustClose()
			}
			if got := l.Stats().HTTPServer.AbortsTotal; got != 1 {
				t.Errorf("AbortsTotal = %d, want 1", got)
			}
			s.Shutdown(0)
			if len(told) > 0 {
				t.Errorf("told twice: %v", <-told)
			}
		})
	}
}

func TestHTTPOnAbortIsToldOfWhatWasBefore(t *testing.T) {
	l, _ := startLoop(t, nil)
	told := make(chan error, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		var wait *eventloop.Timer
		wait = l.Every(time.Millisecond, func() {
			if l.Stats().HTTPServer.AbortsTotal == 1 {
				wait.Stop()
				r.OnAbort(func(err error) {
					told <- err
					hai(r)
				})
			}
		})
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.Conn.(*net.TCPConn).CloseWrite()
	if err := <-told; err != io.EOF {
		t.Errorf("told %v, want io.EOF", err)
	}
	if _, body := c.response("GET"); body != "hai" {
		t.Errorf("response %q", body)
	}
}

func TestHTTPPipelinedRequestIsNoAbort(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		r.OnAbort(func(err error) { t.Errorf("told %v", err) })
		l.AfterFunc(20*time.Millisecond, func() { r.Respond(200, nil, []byte(r.Path())) })
	})
	c := dialRaw(t, s.Addr())
	c.send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(5 * time.Millisecond) // so that it is watched; the test holds without, too
	c.send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, want := range []string{"/1", "/2"} {
		if _, body := c.response("GET"); body != want {
			t.Errorf("response %q, want %q", body, want)
		}
	}
}

// The rest of a body that the application did not take is not read as a request, also if
// the response is complete while the connection waits for the end of a pause.
func TestHTTPRestOfABodyIsNeverARequest(t *testing.T) {
	for _, resume := range []bool{false, true} {
		t.Run(fmt.Sprint("resumed before: ", resume), func(t *testing.T) {
			l, _ := startLoop(t, nil)
			requests := make(chan *eventloop.HTTPRequest, 2)
			paused := make(chan *eventloop.HTTPResponseWriter, 1)
			s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 10}, func(r *eventloop.HTTPRequest) {
				requests <- r
				w, _ := r.RespondStream(200, nil)
				r.OnBody(func([]byte) {
					r.PauseReading()
					paused <- w
				}, nil)
			})
			c := dialRaw(t, s.Addr())
			const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nbegin", len("begin"+smuggled))
			r, w := <-requests, wait(t, paused, "the first piece of the body")
			awaitParked(t, l, 1)
			onLoop(t, l, func() {
				if resume {
					r.ResumeReading()
				}
				w.Close()
			})
			c.send(smuggled)
			c.response("POST")
			c.mustClose()
			select {
			case r := <-requests:
				t.Errorf("the body is read as the request %s", r.URI())
			default:
			}
		})
	}
}

func TestHTTPBodyAsAStream(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1000, MaxBodyBytes: -1}, func(r *eventloop.HTTPRequest) {
		n, pieces := 0, 0
		streamed := r.HasBodyStream()
		if streamed && r.Body() != nil {
			t.Errorf("HasBodyStream is %v, with a body of %d bytes", streamed, len(r.Body()))
		}
		err := r.OnBody(func(p []byte) {
			n += len(p)
			pieces++
			if pieces%100 == 1 { // and a pause now and then
				r.PauseReading()
				l.AfterFunc(time.Millisecond, r.ResumeReading)
			}
		}, func(err error) {
			r.Respond(200, nil, fmt.Appendf(nil, "%v %d %v", streamed, n, err))
		})
		if err != nil {
			t.Error(err)
		}
		if r.OnBody(nil, nil) == nil {
			t.Error("the body was taken twice")
		}
	})
	c := dialRaw(t, s.Addr())
	big := strings.Repeat("0123456789abcdef", 1<<20)
	for _, v := range []struct{ request, want string }{
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 16777216\r\n\r\n" + big, "true 16777216 <nil>"},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "false 3 <nil>"},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000000\r\n" + big + "\r\n0\r\n\r\n", "true 16777216 <nil>"},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "false 3 <nil>"},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "false 0 <nil>"},
	} {
		go c.Write([]byte(v.request))
		if _, body := c.response("POST"); body != v.want {
			t.Errorf("%.60q: %q, want %q", v.request, body, v.want)
		}
	}
}

func TestHTTPBodyStreamIsReadNoFasterThanTaken(t *testing.T) {
	l, _ := startLoop(t, nil)
	requests := make(chan *eventloop.HTTPRequest, 1)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1, MaxBodyBytes: -1}, func(r *eventloop.HTTPRequest) {
		requests <- r
	})
	c := dialRaw(t, s.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	r := <-requests
	c.SetWriteDeadline(time.Now().Add(time.Second))
	sent, piece := 0, make([]byte, 1<<20)
	for {
		n, err := c.Write(piece)
		sent += n
		if err != nil {
			break // the kernel's buffers are full
		}
	}
	if in := l.Stats().HTTPServer.BytesInTotal; in > 100_000 {
		t.Errorf("%d bytes were read of a body that is not taken", in)
	}
	taken := make(chan int, 1)
	n := 0
	r.OnBody(func(p []byte) {
		if n += len(p); n == sent {
			taken <- n
		}
	}, nil)
	<-taken
	r.Respond(200, nil, nil) // the rest is not read
	if resp, _ := c.response("POST"); !resp.Close {
		t.Error("the connection is to be kept although the body was not taken")
	}
	c.mustClose()
}

func TestHTTPEchoOfAStreamAsItArrives(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1}, func(r *eventloop.HTTPRequest) {
		w, _ := r.RespondStream(200, nil)
		r.OnBody(func(p []byte) { w.Write(p) }, func(err error) { w.Close() })
	})
	c := dialRaw(t, s.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
	for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
		if line, _ := c.br.ReadString('\n'); line != want {
			t.Fatalf("line %q, want %q", line, want)
		}
	}
	c.send("5\r\nfirst\r\n")
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"first", "second", "third!"} {
		b := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != word {
			t.Fatalf("%q and %v, want %q", b, err, word)
		}
		c.send("6\r\n%s\r\n", map[string]string{"first": "second", "second": "third!", "third!": "fourth"}[word])
	}
	c.send("0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); string(rest) != "fourth" || err != nil {
		t.Errorf("rest %q and %v", rest, err)
	}
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nkept")
	if _, body := c.response("POST"); body != "kept" {
		t.Errorf("response %q on the same connection", body)
	}
}

func TestHTTPBodyStreamThatFails(t *testing.T) {
	for _, v := range []struct {
		name, sent string
		leave      func(c *net.TCPConn)
		check      func(err error) bool
		answered   bool
	}{
		{"bad chunk", "5\r\nhelloX", nil, func(err error) bool { return errors.Is(err, eventloop.ErrHTTP) }, true},
		{"too long", "5\r\nhello\r\n10000000\r\n", nil, func(err error) bool { return errors.Is(err, eventloop.ErrHTTPTooLarge) }, true},
		{"too slow", "5\r\nhello\r\n5", nil, func(err error) bool { return errors.Is(err, eventloop.ErrTimeout) }, true},
		{"truncated", "5\r\nhel", func(c *net.TCPConn) { c.CloseWrite() }, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }, false},
		{"reset", "5\r\nhel", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, func(err error) bool { return errors.Is(err, eventloop.ErrReset) }, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			ends := make(chan error, 2)
			cfg := &eventloop.HTTPServerConfig{MaxInlineBody: 2}
			if v.name == "too slow" {
				cfg.ReadTimeout = 50 * time.Millisecond
			}
			s := serveHTTP(t, l, cfg, func(r *eventloop.HTTPRequest) {
				r.OnBody(nil, func(err error) {
					ends <- err
					r.Respond(400, nil, []byte("sorry"))
				})
			})
			c := dialRaw(t, s.Addr())
			c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n%s", v.sent)
			if v.leave != nil {
				if !eventually(func() bool { return l.Stats().HTTPServer.RequestsTotal == 1 }) {
					t.Fatal("no request")
				}
				v.leave(c.Conn.(*net.TCPConn))
			}
			if err := <-ends; !v.check(err) {
				t.Errorf("the body ended with %v", err)
			}
			if v.answered {
				if resp, body := c.response("POST"); body != "sorry" || !resp.Close {
					t.Errorf("response %q, close %v", body, resp.Close)
				}
				c.mustClose()
			}
			if !eventually(func() bool { return l.Stats().HTTPServer.Conns == 0 }) {
				t.Error("the connection stays")
			}
			if len(ends) > 0 {
				t.Errorf("the body ended again, with %v", <-ends)
			}
		})
	}
}

// The server responds to a request whose streamed body fails, unless the application does.
func TestHTTPServerRespondsIfABodyStreamFails(t *testing.T) {
	const size = 3000
	errTask := errors.New("of the task")
	for name, mount := range allServers {
		for _, body := range []struct {
			name, sent string
			status     int
			is         error
		}{
			{"too long", "10000\r\n" + strings.Repeat("b", 0x10000), 413, eventloop.ErrHTTPTooLarge},
			{"malformed", "100\r\n" + strings.Repeat("b", 0x100) + "XX\r\n", 400, eventloop.ErrHTTP},
			{"late", "100\r\n" + strings.Repeat("b", 0x100), 408, eventloop.ErrTimeout},
		} {
			if body.name == "late" && name != "own" {
				continue // the foreign server has the timeout
			}
			for _, how := range []string{"no function", "nothing", "respond", "stream", "task", "task that responds", "task that fails", "http.Handler"} {
				t.Run(name+", "+body.name+", "+how, func(t *testing.T) {
					events := make(chan error, 4)
					l, _ := startLoop(t, &eventloop.Config{EventHandler: func(err error) { events <- err }})
					ends := make(chan error, 4)
					want := fmt.Sprint("HTTP/1.1 ", body.status, " ")
					read := func(r *eventloop.HTTPRequest, then func()) {
						if err := r.OnBody(nil, func(err error) { ends <- err; then() }); err != nil {
							t.Error(err)
						}
					}
					h := func(r *eventloop.HTTPRequest) { read(r, func() {}) }
					switch how {
					case "no function":
						h = func(r *eventloop.HTTPRequest) { r.OnBody(nil, nil) }
					case "respond":
						want = "HTTP/1.1 422 "
						h = func(r *eventloop.HTTPRequest) { read(r, func() { r.Respond(422, nil, nil) }) }
					case "stream":
						want = "HTTP/1.1 200 "
						h = func(r *eventloop.HTTPRequest) {
							w, _ := r.RespondStream(200, nil)
							w.Flush()
							read(r, func() { l.Post(func() { w.Close() }) })
						}
					case "task", "task that responds", "task that fails":
						if how == "task that responds" {
							want = "HTTP/1.1 422 "
						}
						h = eventloop.TaskHandler(func(task *eventloop.Task, r *eventloop.HTTPRequest) error {
							ended := make(chan struct{})
							read(r, func() { close(ended) })
							eventloop.Block(task, func(context.Context) (int, error) { <-ended; return 0, nil })
							switch how {
							case "task that responds":
								return r.Respond(422, nil, nil)
							case "task that fails":
								return errTask
							}
							return nil
						})
					case "http.Handler":
						want = "HTTP/1.1 422 "
						h = func(r *eventloop.HTTPRequest) {
							r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
								_, err := io.Copy(io.Discard, req.Body)
								if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); body.status == 413 && (!ok || tooLarge.Limit != size) {
									t.Errorf("the handler got %v, want a MaxBytesError", err)
								}
								ends <- err
								w.WriteHeader(422)
							}))
						}
					}
					cfg := &eventloop.HTTPServerConfig{MaxInlineBody: 100, MaxBodyBytes: size, OnEvent: func(_ *eventloop.HTTPServer, err error) { events <- err }}
					if body.name == "late" {
						cfg.ReadTimeout = 20 * time.Millisecond
					}
					c := dialRaw(t, mount(t, l, cfg, h))
					background(t, func() {
						// In one Write, so that ReadTimeout ends only the wait for the rest. The first chunk
						// is enough for a stream.
						fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n%s\r\n%s",
							strings.Repeat("b", 0x200), body.sent)
					})
					if got, err := c.br.ReadString('\n'); !strings.HasPrefix(got, want) {
						t.Errorf("response %q, %v, want %q", got, err, want)
					}
					if how != "no function" {
						err := wait(t, ends, "end of the body")
						if !errors.Is(err, body.is) && how != "http.Handler" {
							t.Errorf("the body ended with %v, want %v", err, body.is)
						}
					}
					if how == "task that fails" {
						wantEqual(t, "event is the error of the task", errors.Is(wait(t, events, "event"), errTask), true)
					}
					if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 }) {
						t.Error("the request stays open")
					}
					onLoop(t, l, func() {})
					if len(events) > 0 || len(ends) > 0 {
						t.Errorf("%d more events, %d more ends", len(events), len(ends))
					}
					c.Close()
				})
			}
		}
	}
}

func TestHTTPUpgradeMakesAConnectionOfTheLoop(t *testing.T) {
	l, _ := startLoop(t, nil)
	closed := make(chan error, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		_, err := r.Upgrade(eventloop.HTTPHeaders{{"X-Accept", "yes"}}, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.WriteString("welcome ") },
			OnData:    func(c *eventloop.Conn, data []byte) { c.Write(data) },
			OnClose:   func(c *eventloop.Conn) { closed <- c.Err() },
		})
		if err != nil {
			r.Respond(426, eventloop.HTTPHeaders{{"Upgrade", "echo"}, {"Connection", "Upgrade"}}, nil)
		}
	})
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 426 || resp.Header.Get("Connection") != "Upgrade" {
		t.Errorf("without an upgrade: %d %v", resp.StatusCode, resp.Header)
	}
	for _, early := range []string{"", "early "} {
		c := dialRaw(t, s.Addr())
		c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n%s", early)
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "echo" || resp.Header.Get("X-Accept") != "yes" {
			t.Fatalf("%v %v", resp, err)
		}
		s.Close() // the connection is the application's
		c.send("late")
		c.Conn.(*net.TCPConn).CloseWrite()
		if got, err := c.rest(); got != "welcome "+early+"late" || err != nil {
			t.Errorf("echo %q and %v", got, err)
		}
		if err := <-closed; err != io.EOF {
			t.Errorf("closed with %v, want io.EOF", err)
		}
		s = serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
			r.Upgrade(eventloop.HTTPHeaders{{"X-Accept", "yes"}}, &eventloop.ConnConfig{
				OnConnect: func(c *eventloop.Conn) { c.WriteString("welcome ") },
				OnData:    func(c *eventloop.Conn, data []byte) { c.Write(data) },
				OnClose:   func(c *eventloop.Conn) { closed <- c.Err() },
			})
		})
	}
}

// What the server has read behind the request is delivered whatever the limits of the
// connection are: they bound what the application gives, and these bytes it never had.
func TestAnUpgradeLosesNothingThatTheServerHasReadAhead(t *testing.T) {
	early := strings.Repeat("early", 5_000)
	for name, cfg := range map[string]*eventloop.ConnConfig{
		"defaults":         {},
		"a small buffer":   {MaxBuffered: 10},
		"a small read":     {ReadBufferSize: 1},
		"a small mark":     {HighWater: 1, MaxBuffered: 100},
		"no buffer at all": {MaxBuffered: -1, HighWater: -1},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", name, secure), func(t *testing.T) {
				l, _ := startLoop(t, nil)
				conf := &eventloop.HTTPServerConfig{}
				if secure {
					conf.TLS = serverConf
				}
				var got strings.Builder
				closed := make(chan error, 1)
				own := *cfg
				own.OnData = func(c *eventloop.Conn, data []byte) { got.Write(data) }
				own.OnClose = func(c *eventloop.Conn) { closed <- c.Err() }
				s := serveHTTP(t, l, conf, func(r *eventloop.HTTPRequest) {
					l.AfterFunc(time.Millisecond, func() { // the server may read ahead meanwhile
						if _, err := r.Upgrade(nil, &own); err != nil {
							t.Error(err)
						}
					})
				})
				nc, err := net.Dial("tcp", s.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				if secure {
					nc = tls.Client(nc, clientConf)
				}
				c := newRawClient(t, nc)
				c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n%s", early)
				if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != 101 {
					t.Fatalf("%v %v", resp, err)
				}
				c.send("late")
				nc.(interface{ CloseWrite() error }).CloseWrite()
				if err := wait(t, closed, "OnClose"); err != io.EOF {
					t.Errorf("closed with %v, want io.EOF", err)
				}
				if got.String() != early+"late" {
					t.Errorf("%d bytes came, want %d", got.Len(), len(early)+4)
				}
			})
		}
	}
}

func TestHTTPServerWithTLS(t *testing.T) {
	l, _ := startLoop(t, nil)
	events := make(chan error, 1)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{
		TLS:     serverConf,
		OnEvent: func(s *eventloop.HTTPServer, err error) { events <- err },
	}, func(r *eventloop.HTTPRequest) {
		if r.TLS() == nil || r.TLS().Version != tls.VersionTLS13 {
			t.Errorf("TLS: %v", r.TLS())
		}
		body := bytes.Clone(r.Body())
		l.AfterFunc(time.Millisecond, func() { r.Respond(200, nil, body) })
	})
	nc, err := tls.Dial("tcp", s.Addr().String(), clientConf)
	if err != nil {
		t.Fatal(err)
	}
	c := newRawClient(t, nc)
	body := strings.Repeat("x", 1_000_000)
	for range 2 {
		go fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if _, got := c.response("POST"); got != body {
			t.Errorf("%d bytes came back", len(got))
		}
	}
	plain := dialRaw(t, s.Addr())
	plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if oe, ok := errors.AsType[*eventloop.OpError](<-events); !ok || oe.Op != "handshake" {
		t.Errorf("event %v, want a failed handshake", oe)
	}
}

func TestHTTPServerOverConnectionsThatAreNoSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serveInBubble(t, nil, func(r *eventloop.HTTPRequest) {
			r.OnAbort(func(err error) { t.Errorf("aborted: %v", err) })
			r.Loop().AfterFunc(time.Hour, func() { hai(r) })
		}, func(c *rawClient) {
			for range 2 {
				start := time.Now()
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(c.Conn), nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%v %v", resp, err)
				}
				if took := time.Since(start); took != time.Hour {
					t.Errorf("answered after %v, want 1h", took)
				}
			}
		})
	})
}

func TestHTTPHandlersInServersOfOthersTakeBodiesAsStreams(t *testing.T) {
	const size = 4 << 20
	for name, mount := range mounted {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			cfg := &eventloop.HTTPServerConfig{MaxInlineBody: 1000, MaxBodyBytes: size}
			paused := make(chan *eventloop.HTTPRequest, 1)
			errs := make(chan error, 1)
			addr := mount(t, l, cfg, func(r *eventloop.HTTPRequest) {
				if r.Path() == "/early" {
					r.Respond(403, nil, []byte("no"))
					return
				}
				if !r.HasBodyStream() {
					r.Respond(200, nil, r.Body())
					return
				}
				var got []byte
				err := r.OnBody(func(p []byte) {
					if got == nil {
						r.PauseReading()
						paused <- r
					}
					got = append(got, p...)
				}, func(err error) {
					if err != nil {
						errs <- err
						r.Respond(413, nil, nil)
						return
					}
					r.Respond(200, nil, got)
				})
				if err != nil {
					t.Error(err)
				}
			})
			want := string(bytesOf(size))
			for _, chunked := range []bool{false, true} {
				c := dialRaw(t, addr)
				sent := background(t, func() {
					if chunked {
						io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
						fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", size, want)
					} else {
						fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, want)
					}
				})
				r := wait(t, paused, "first piece")
				onLoop(t, l, func() {})
				if in := l.Stats().HTTPServer.BytesInTotal; in > 2*size {
					t.Errorf("%d bytes were read in a pause", in)
				}
				r.ResumeReading()
				if resp, body := c.response("POST"); resp.StatusCode != 200 || body != want {
					t.Errorf("chunked %v: status %d and %d bytes, want 200 and %d, equal", chunked, resp.StatusCode, len(body), size)
				}
				<-sent
				if status, _ := c.get("/short"); status != 200 { // the connection is kept
					t.Errorf("status %d", status)
				}
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfour")
				if _, body := c.response("POST"); body != "four" {
					t.Errorf("a short body: %q", body)
				}
				c.Close()
			}

			t.Log("a response before the body")
			c := dialRaw(t, addr)
			c.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", want[:20_000]) // fasthttp reads some before it calls
			if resp, body := c.response("POST"); resp.StatusCode != 403 || body != "no" || !resp.Close {
				t.Errorf("early: %v %q", resp, body)
			}
			c.Close()

			t.Log("a body that is too long, found out on the way")
			c = dialRaw(t, addr)
			background(t, func() {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
				fmt.Fprintf(c, "%x\r\n%sx\r\n0\r\n\r\n", size+1, want)
			})
			wait(t, paused, "first piece").ResumeReading()
			if err := wait(t, errs, "error"); !errors.Is(err, eventloop.ErrHTTP) {
				t.Errorf("error %v", err)
			}
			c.Close()

			t.Log("a client that goes")
			c = dialRaw(t, addr)
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", want[:20_000])
			wait(t, paused, "first piece").ResumeReading()
			c.Close()
			if err := wait(t, errs, "error"); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v, want io.ErrUnexpectedEOF", err)
			}
		})
	}
}
