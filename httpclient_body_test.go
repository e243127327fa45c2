package eventloop_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestHTTPOnBodyGetsAllInOrderBeforeTheResult(t *testing.T) {
	const size = 3 << 20
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, framing := range []string{"length", "chunks", "end"} {
		p := newHTTPPeer(t, func(c net.Conn) {
			readHTTPHead(bufio.NewReader(c))
			switch framing {
			case "length":
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, want)
			case "chunks":
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for rest := want; len(rest) > 0; {
					n := min(len(rest), 70000)
					fmt.Fprintf(c, "%x\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				io.WriteString(c, "0\r\nT: 1\r\n\r\n")
			default:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n%s", want)
			}
		})
		var got bytes.Buffer
		var first *eventloop.HTTPResponse
		over := false
		opts := &eventloop.HTTPOptions{OnBody: func(res *eventloop.HTTPResponse, data []byte) {
			if over || len(data) == 0 || res.Status != 200 || first != nil && first != res {
				t.Errorf("%s: OnBody(%+v, %d bytes), over %v", framing, res, len(data), over)
			}
			first = res
			got.Write(data)
		}}
		// Streams are not bounded by MaxBodyBytes.
		res, err := doHTTP(t, eventloop.HTTPClientConfig{MaxBodyBytes: 1000}, "GET", "http://"+p.addr, opts)
		over = true
		if err != nil || res != first || res.Body != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %+v, %v, %d bytes", framing, res, err, got.Len())
		}
		if framing == "chunks" && (len(res.Trailers) != 1 || res.Trailers.Get("T") != "1") {
			t.Errorf("trailers = %v", res.Trailers)
		}
	}
}

// While reading is paused, the server has to wait.
func TestHTTPPauseReadingStopsTheServer(t *testing.T) {
	const piece, pieces = 64 << 10, 64
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		p, dial := newHTTPPipe(func(c net.Conn) {
			readHTTPHead(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for range pieces {
				n, err := c.Write(make([]byte, piece))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
			got, paused, pauses := 0, false, 0
			l.HTTP().Do(context.Background(), "GET", "http://h", &eventloop.HTTPOptions{OnBody: func(res *eventloop.HTTPResponse, data []byte) {
				if paused {
					t.Error("OnBody while reading is paused")
				}
				if got += len(data); pauses == 0 {
					pauses++
					paused = true
					res.PauseReading()
					l.AfterFunc(time.Second, func() { // time passes only when nothing moves any more
						if n := sent.Load(); n > int64(got+4*piece) {
							t.Errorf("the server sent %d bytes in a pause after %d", n, got)
						}
						paused = false
						res.ResumeReading()
						res.ResumeReading() // does nothing
					})
				}
			}}).Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil || got != pieces*piece {
					t.Errorf("%d bytes, %v", got, err)
				}
			})
		})
		p.stop()
	})
}

func TestHTTPPauseAndResumeEveryPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(func(c net.Conn) {
			readHTTPHead(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			for i := range 100 {
				c.Write([]byte{byte(i)})
			}
		})
		var got []byte
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
			l.HTTP().Do(context.Background(), "GET", "http://h", &eventloop.HTTPOptions{OnBody: func(res *eventloop.HTTPResponse, data []byte) {
				got = append(got, data...)
				res.PauseReading()
				switch len(got) % 3 {
				case 0:
					res.ResumeReading()
				case 1:
					l.AfterFunc(time.Second, res.ResumeReading)
				default:
					go res.ResumeReading()
				}
			}}).Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		})
		p.stop()
		for i, b := range got {
			if b != byte(i) {
				t.Fatalf("got %v", got)
			}
		}
		if len(got) != 100 {
			t.Errorf("bytes = %d, want 100", len(got))
		}
	})
}

func TestHTTPOnBodyAfterCancelIsNotCalled(t *testing.T) {
	p := newHTTPPeer(t, func(c net.Conn) {
		readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		l.HTTP().Do(ctx, "GET", "http://"+p.addr, &eventloop.HTTPOptions{OnBody: func(*eventloop.HTTPResponse, []byte) {
			n++
			cancel()
		}}).Then(func(_ *eventloop.HTTPResponse, err error) {
			if n != 1 || !errors.Is(err, context.Canceled) {
				t.Errorf("OnBody %d times, then %v", n, err)
			}
		})
	})
}

func TestHTTPPanicInOnBody(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	opts := &eventloop.HTTPOptions{OnBody: func(*eventloop.HTTPResponse, []byte) { panic("body") }}
	runHTTPLoop(t, &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) {
		l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, opts).Then(func(res *eventloop.HTTPResponse, err error) {
			if pe := new(eventloop.PanicError); !errors.As(err, &pe) || pe.Value != "body" {
				t.Errorf("caught: %v, %v", res, err)
			}
		})
	})
	defer func() {
		if pe, ok := recover().(*eventloop.PanicError); !ok || pe.Value != "body" {
			t.Errorf("Run panicked with %v", pe)
		}
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, opts)
		return nil
	})
}

func gzipped(s string) string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	io.WriteString(zw, s)
	zw.Close()
	return b.String()
}

func TestHTTPDecompress(t *testing.T) {
	plain := strings.Repeat("compress me ", 10000)
	codings := map[string]string{
		"gzip":   gzipped(plain),
		"x-gzip": gzipped(plain),
		"br":     "[\xbf\xd4\x01@<\xc6\u05b5\xbfL\x11q`,\xba1\a0\xee\xf4\xc3\x02",
		"zstd":   "(\xb5/\xfd\xa4\xc0\xd4\x01\x00\xad\x00\x00`compress me \x01T\f\x034\xb1\xd4\x0fMP~\xe2",
	}
	for name, coded := range codings {
		p := newHTTPPeer(t, answerAll(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nX: y\r\nContent-Length: %d\r\n\r\n%s", name, len(coded), coded)))
		for _, ask := range []bool{false, true} {
			res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{Decompress: ask})
			want, fields := coded, 3
			if ask {
				want, fields = plain, 1
			}
			if err != nil || string(res.Body) != want || len(res.Headers) != fields {
				t.Errorf("%s, asked %v: %v, %d bytes, %v", name, ask, err, len(res.Body), res.Headers)
			}
		}
		_, err := doHTTP(t, eventloop.HTTPClientConfig{MaxBodyBytes: len(plain) - 1}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{Decompress: true})
		if !errors.Is(err, eventloop.ErrHTTPTooLarge) {
			t.Errorf("%s: over the limit: %v", name, err)
		}
		if _, err := doHTTP(t, eventloop.HTTPClientConfig{MaxBodyBytes: -1}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{Decompress: true}); err != nil {
			t.Errorf("%s: without a limit: %v", name, err)
		}
		broken := newHTTPPeer(t, answerAll(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s", name, len(coded)/2, coded[:len(coded)/2])))
		_, err = doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+broken.addr, &eventloop.HTTPOptions{Decompress: true})
		if !errors.Is(err, eventloop.ErrHTTPMalformed) {
			t.Errorf("%s: cut: %v", name, err)
		}
	}
	unknown := newHTTPPeer(t, answerAll("HTTP/1.1 200 OK\r\nContent-Encoding: rot13\r\nContent-Length: 1\r\n\r\nx"))
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+unknown.addr, &eventloop.HTTPOptions{Decompress: true})
	if err != nil || string(res.Body) != "x" || res.Header("content-encoding") != "rot13" {
		t.Errorf("unknown: %+v, %v", res, err)
	}
}

func TestHTTPDecompressForOnBody(t *testing.T) {
	plain := strings.Repeat("compress me ", 100000)
	for _, test := range []struct {
		name, coded string
		is          error
		body        string
	}{
		{"whole", gzipped(plain), nil, plain},
		{"two members", gzipped("a") + gzipped("b"), nil, "ab"},
		{"empty", "", nil, ""},
		{"no gzip", "abcdefghijklmnop", eventloop.ErrHTTPMalformed, ""},
		{"cut", gzipped("abc")[:20], eventloop.ErrHTTPMalformed, ""},
		{"damaged", gzipped("abc")[:10] + "\xff\xff\xff\xff\xff\xff", eventloop.ErrHTTPMalformed, ""},
	} {
		p := newHTTPPeer(t, answerAll(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(test.coded), test.coded)))
		var got strings.Builder
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
			Decompress: true,
			OnBody:     func(_ *eventloop.HTTPResponse, data []byte) { got.Write(data) },
		})
		if test.is != nil && !errors.Is(err, test.is) || test.is == nil && (err != nil || got.String() != test.body || len(res.Headers) != 0) {
			t.Errorf("%s: %+v, %v, %d bytes", test.name, res, err, got.Len())
		}
	}
}

// echoHTTP answers each request with its body.
func echoHTTP(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

func TestHTTPBodiesOfEverySizeAndKind(t *testing.T) {
	p := newHTTPPeer(t, echoHTTP)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		var all []func(next func())
		for _, n := range []int{0, 1, 2000, 2049, 4096, 48 << 10, 48<<10 + 1, 64 << 10, 1 << 20} {
			for _, kind := range []string{"bytes", "known", "length", "chunks"} {
				all = append(all, func(next func()) {
					body := &closeCounter{Reader: bytes.NewReader(want[:n])}
					opts := &eventloop.HTTPOptions{BodyReader: body}
					switch kind {
					case "bytes":
						opts = &eventloop.HTTPOptions{Body: want[:n]}
					case "known":
						opts.BodyReader = bytes.NewReader(want[:n])
					case "length":
						opts.ContentLength = int64(n)
					}
					l.HTTP().Do(context.Background(), "POST", "http://"+p.addr, opts).Then(func(res *eventloop.HTTPResponse, err error) {
						if err != nil || !bytes.Equal(res.Body, want[:n]) {
							t.Errorf("%d bytes, %s: %v", n, kind, err)
						}
						if closed := body.closed.Load(); kind == "length" && n > 0 && closed != 1 || kind == "chunks" && closed != 1 {
							t.Errorf("%d bytes, %s: closed %d times, want 1", n, kind, closed)
						}
						next()
					})
				})
			}
		}
		var run func(i int)
		run = func(i int) {
			if i < len(all) {
				all[i](func() { run(i + 1) })
			}
		}
		run(0)
	})
	if n := p.conns.Load(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

func TestHTTPBodyReaderThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		body io.Reader
		n    int64
		is   error
	}{
		{"error", io.MultiReader(strings.NewReader("abc"), &errReader{broken}), 0, broken},
		{"error with a length", io.MultiReader(strings.NewReader("abc"), &errReader{broken}), 5, broken},
		{"short", strings.NewReader("abc"), 5, eventloop.ErrHTTPBodyLength},
		{"long", strings.NewReader("abc"), 2, eventloop.ErrHTTPBodyLength},
		{"panic", &errReader{}, 0, nil},
		{"nothing forever", &errReader{io.ErrNoProgress}, 0, io.ErrNoProgress},
	} {
		p := newHTTPPeer(t, echoHTTP)
		body := &closeCounter{Reader: test.body}
		_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, &eventloop.HTTPOptions{BodyReader: body, ContentLength: test.n})
		if pe := new(eventloop.PanicError); test.is == nil && !errors.As(err, &pe) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v, want %v", test.name, err, test.is)
		}
		if oe := new(eventloop.OpError); !errors.Is(err, eventloop.ErrHTTP) || !errors.As(err, &oe) || oe.Addr != "http://"+p.addr {
			t.Errorf("%s: %v does not match ErrHTTP with the URL", test.name, err)
		}
		if n := body.closed.Load(); n != 1 {
			t.Errorf("%s: closed %d times, want 1", test.name, n)
		}
	}
}

// panicCloser is a body whose Close panics when it has closed the reader.
type panicCloser struct{ io.Reader }

func (b panicCloser) Close() error {
	if c, ok := b.Reader.(io.Closer); ok {
		c.Close()
	}
	panic("Close")
}

// The response is lost, but not the panic; nor is the reason of a failure.
func TestHTTPPanicInCloseOfABodyReaderIsTheFuturesError(t *testing.T) {
	broken := errors.New("broken")
	waiting, _ := io.Pipe()
	for name, test := range map[string]struct {
		body     io.Reader
		response func(net.Conn)
		url      string
		is       error
	}{
		"after the body":    {strings.NewReader("body"), echoHTTP, "", nil},
		"before the body":   {waiting, answerOnce(httpOK), "", nil},
		"of a broken body":  {&errReader{broken}, echoHTTP, "", broken},
		"of a bad request":  {strings.NewReader("body"), echoHTTP, "http://h:port/", nil},
		"of both that fail": {&errReader{}, echoHTTP, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPeer(t, test.response)
			url := cmp.Or(test.url, "http://"+p.addr)
			res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", url, &eventloop.HTTPOptions{BodyReader: panicCloser{test.body}})
			if pe := new(eventloop.PanicError); !errors.As(err, &pe) || !strings.Contains(err.Error(), "callback: Close") || !errors.Is(err, eventloop.ErrHTTP) {
				t.Errorf("%+v, %v", res, err)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v does not match %v", err, test.is)
			}
		})
	}
}

// errReader fails; without an error, it panics; with io.ErrNoProgress it returns
// nothing forever.
type errReader struct{ err error }

func (r *errReader) Read([]byte) (int, error) {
	switch r.err {
	case nil:
		panic("Read")
	case io.ErrNoProgress:
		return 0, nil
	}
	return 0, r.err
}

// A server that answers before it has read the request, and reads no more of it.
func TestHTTPEarlyResponseToALongBody(t *testing.T) {
	for _, kind := range []string{"bytes", "reader"} {
		p := newHTTPPeer(t, func(c net.Conn) {
			readHTTPHead(bufio.NewReaderSize(c, 16))
			io.WriteString(c, "HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
			time.Sleep(time.Millisecond) // let it go out before the reset
		})
		body := &closeCounter{Reader: io.LimitReader(zeros{}, 1<<30)}
		opts := &eventloop.HTTPOptions{Body: make([]byte, 32<<20)}
		if kind == "reader" {
			opts = &eventloop.HTTPOptions{BodyReader: body}
		}
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, opts)
		if err != nil || res.Status != 413 || string(res.Body) != "no" {
			t.Errorf("%s: %+v, %v", kind, res, err)
		}
		if n := body.closed.Load(); kind == "reader" && n != 1 {
			t.Errorf("closed %d times, want 1", n)
		}
	}
}

// A redirect may come before the body is sent. The reader is closed then, and what
// it says to that does not harm the request that follows.
func TestHTTPRedirectBeforeTheBodyIsSent(t *testing.T) {
	p := newHTTPPeer(t, func(c net.Conn) {
		if head := readHTTPHead(bufio.NewReader(c)); strings.HasPrefix(head, "POST") {
			io.WriteString(c, "HTTP/1.1 303 X\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, c)
			return
		}
		time.Sleep(20 * time.Millisecond) // in which the reader speaks up
		io.WriteString(c, httpOK)
	})
	for _, expect := range []bool{false, true} {
		r, w := io.Pipe()
		opts := &eventloop.HTTPOptions{BodyReader: &closeCounter{Reader: r}, MaxRedirects: 1}
		if expect {
			opts.Headers = eventloop.HTTPHeaders{{"Expect", "100-continue"}}
		}
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, opts)
		if err != nil || res.Status != 200 || res.Redirects != 1 {
			t.Errorf("expect %v: %+v, %v", expect, res, err)
		}
		if _, err := w.Write([]byte("x")); err != io.ErrClosedPipe {
			t.Errorf("expect %v: the reader was not closed: %v", expect, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The response may come while the request is still being sent, as long as it takes:
// a server that echoes as it reads would be stuck otherwise.
func TestHTTPBothDirectionsAtOnce(t *testing.T) {
	const size = 8 << 20
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		readHTTPHead(br)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		io.CopyN(c, br, size)
	})
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, &eventloop.HTTPOptions{Body: make([]byte, size)})
	if err != nil || len(res.Body) != size {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestHTTPClientExpectContinue(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  string
		status int
		body   string // that the server got
	}{
		{"continue", "HTTP/1.1 100 Continue\r\n\r\n", 200, "body"},
		{"silence", "", 200, "body"},
		{"refusal", "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", 417, ""},
		{"other interim answers", "HTTP/1.1 102 Processing\r\n\r\n", 200, "body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got string
				p, dial := newHTTPPipe(func(c net.Conn) {
					br := bufio.NewReader(c)
					if head := readHTTPHead(br); !strings.Contains(head, "Expect: 100-continue\r\n") {
						t.Errorf("head = %q", head)
					}
					time.Sleep(500 * time.Millisecond)
					if br.Buffered() > 0 {
						t.Error("the body came at once")
					}
					io.WriteString(c, test.first)
					b := make([]byte, 4)
					n, _ := io.ReadFull(br, b)
					if got = string(b[:n]); n == 4 {
						io.WriteString(c, httpOK)
					}
				})
				began := time.Now()
				body := &closeCounter{Reader: strings.NewReader("body")}
				res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "PUT", "http://h", &eventloop.HTTPOptions{
					BodyReader: body, ContentLength: 4, Headers: eventloop.HTTPHeaders{{"Expect", "100-continue"}},
				})
				if err != nil || res.Status != test.status {
					t.Errorf("%+v, %v", res, err)
				}
				want := 500 * time.Millisecond
				if test.status == 200 && test.name != "continue" {
					want = time.Second
				}
				if d := time.Since(began); d != want {
					t.Errorf("took %v, want %v", d, want)
				}
				p.stop()
				if got != test.body || body.closed.Load() != 1 {
					t.Errorf("server got %q, want %q; closed %d times", got, test.body, body.closed.Load())
				}
			})
		})
	}
}

// newHTTPProxy starts a proxy that forwards everything to one server and records the heads.
func newHTTPProxy(t *testing.T, server string, connect string) (p *httpPeer, heads func() []string) {
	var mu sync.Mutex
	var all []string
	p = newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			head := readHTTPHead(br)
			if head == "" {
				return
			}
			mu.Lock()
			all = append(all, head)
			mu.Unlock()
			if !strings.HasPrefix(head, "CONNECT ") {
				io.WriteString(c, httpOK)
				continue
			}
			io.WriteString(c, connect)
			if !strings.HasPrefix(connect, "HTTP/1.1 200") {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				return
			}
			go func() { io.Copy(up, br); up.Close() }()
			io.Copy(c, up)
			return
		}
	})
	return p, func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

func TestHTTPThroughAProxy(t *testing.T) {
	p, heads := newHTTPProxy(t, "", "")
	cfg := eventloop.HTTPClientConfig{UserAgent: "u", Proxy: func(u *url.URL) (*url.URL, error) {
		if u.Hostname() != "h.example" && u.Hostname() != "i.example" {
			t.Errorf("Proxy(%s)", u)
		}
		return url.Parse("http://user:pw@" + p.addr)
	}}
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.HTTP().Get(context.Background(), "http://h.example/a?b").Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil {
				t.Error(err)
			}
			l.HTTP().Get(context.Background(), "http://i.example:81").Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || !res.Reused {
					t.Errorf("%+v, %v", res, err)
				}
			})
		})
	})
	want := []string{
		"GET http://h.example/a?b HTTP/1.1\r\nHost: h.example\r\nUser-Agent: u\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\n\r\n",
		"GET http://i.example:81/ HTTP/1.1\r\nHost: i.example:81\r\nUser-Agent: u\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\n\r\n",
	}
	if got := heads(); strings.Join(got, "") != strings.Join(want, "") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHTTPSThroughAProxy(t *testing.T) {
	server := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	p, heads := newHTTPProxy(t, server.addr, "HTTP/1.1 200 Connection established\r\n\r\n")
	cfg := eventloop.HTTPClientConfig{UserAgent: "u", TLS: httpClientTLS(), Proxy: func(*url.URL) (*url.URL, error) {
		return url.Parse("http://user:pw@" + p.addr)
	}}
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.HTTP().Get(context.Background(), "https://example.com/a").Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil || res.TLS == nil {
				t.Errorf("%+v, %v", res, err)
			}
			l.HTTP().Get(context.Background(), "https://example.com/b").Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || !res.Reused {
					t.Errorf("%+v, %v", res, err)
				}
			})
		})
	})
	want := "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: u\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\n\r\n"
	if got := strings.Join(heads(), ""); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A slowWriteConn is a connection whose Write returns long after the peer has what it wrote, as
// on a machine that is busy.
type slowWriteConn struct{ net.Conn }

func (c slowWriteConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	time.Sleep(30 * time.Millisecond)
	return n, err
}

func TestAProxyMayRespondBeforeTheWriteReturns(t *testing.T) {
	server := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	p, _ := newHTTPProxy(t, server.addr, "HTTP/1.1 200 Connection established\r\n\r\n")
	cfg := eventloop.HTTPClientConfig{
		TLS:   httpClientTLS(),
		Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://" + p.addr) },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return slowWriteConn{c}, err
		},
	}
	if res, err := doHTTP(t, cfg, "GET", "https://example.com", nil); err != nil || string(res.Body) != "ok" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestHTTPSProxyWithTLSItself(t *testing.T) {
	server := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	p := newHTTPPeer(t, withTLS(httpServerTLS(), func(c net.Conn) {
		br := bufio.NewReader(c)
		readHTTPHead(br)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		up, err := net.Dial("tcp", server.addr)
		if err != nil {
			return
		}
		go func() { io.Copy(up, br); up.Close() }()
		io.Copy(c, up)
	}))
	cfg := eventloop.HTTPClientConfig{TLS: httpClientTLS(), Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("https://" + p.addr) }}
	if res, err := doHTTP(t, cfg, "GET", "https://example.com", nil); err != nil || string(res.Body) != "ok" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestHTTPProxyThatRefuses(t *testing.T) {
	for _, test := range []struct {
		response, text string
		is             error
	}{
		{"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407 Proxy Authentication Required", nil},
		{"garbage", "", eventloop.ErrHTTPMalformed},
		{"", "", io.EOF},
		{"HTTP/1.1 200 OK\r\n\r\nhello", "", eventloop.ErrHTTPMalformed},
	} {
		p := newHTTPPeer(t, answerOnce(test.response))
		cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://" + p.addr) }}
		_, err := doHTTP(t, cfg, "GET", "https://h", nil)
		if !errors.Is(err, eventloop.ErrHTTP) || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), "proxy: ") || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: %v", test.response, err)
		}
	}
	bad := errors.New("bad")
	_, err := doHTTP(t, eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return nil, bad }}, "GET", "http://h", nil)
	if !errors.Is(err, bad) || !errors.Is(err, eventloop.ErrHTTP) {
		t.Errorf("Proxy that fails: %v", err)
	}
	_, err = doHTTP(t, eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("gopher://h") }}, "GET", "http://h", nil)
	if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), `scheme "gopher" is not http, https, socks5 or socks5h`) {
		t.Errorf("unknown proxy: %v", err)
	}
}

func TestHTTPProxyOfTheEnvironment(t *testing.T) {
	p, heads := newHTTPProxy(t, "", "")
	direct := newHTTPPeer(t, answerAll(httpOK))
	t.Setenv("http_proxy", "")
	t.Setenv("HTTP_PROXY", p.addr)
	t.Setenv("no_proxy", "")
	t.Setenv("NO_PROXY", "direct.example")
	t.Setenv("REQUEST_METHOD", "")
	var addrs []string
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			addrs = append(addrs, address)
			if address != p.addr {
				address = direct.addr
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}})
		c.Get(context.Background(), "http://h.example/").Then(func(_ *eventloop.HTTPResponse, err error) {
			c.Get(context.Background(), "http://direct.example/").Then(func(_ *eventloop.HTTPResponse, err2 error) {
				if err != nil || err2 != nil {
					t.Error(err, err2)
				}
			})
		})
	})
	if want := []string{p.addr, "direct.example:80"}; strings.Join(addrs, " ") != strings.Join(want, " ") || len(heads()) != 1 {
		t.Errorf("dialed %q, want %q", addrs, want)
	}
}

// A server of the standard library, over TLS, with everything that a user does.
func TestHTTPAgainstNetHTTP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: httpServerTLS(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		io.Copy(w, r.Body)
		w.(http.Flusher).Flush()
		for range n {
			fmt.Fprintf(w, "%s %s\n", r.Method, r.Proto)
		}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeTLS(ln, "", "") })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	base := "https://" + ln.Addr().String()
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{TLS: httpClientTLS()}}, func(l *eventloop.Loop) {
		for n := range 100 {
			l.HTTP().Do(context.Background(), "POST", fmt.Sprintf("%s/?n=%d", base, n), &eventloop.HTTPOptions{Body: []byte("in ")}).Then(
				func(res *eventloop.HTTPResponse, err error) {
					if want := "in " + strings.Repeat("POST HTTP/1.1\n", n); err != nil || string(res.Body) != want {
						t.Errorf("%d: %+v, %v", n, res, err)
					}
				})
		}
	})
}

// goexitCloser is a body whose Read waits for Close, which does not return.
type goexitCloser struct{ closed chan struct{} }

func (b goexitCloser) Read([]byte) (int, error) { <-b.closed; return 0, io.EOF }

func (b goexitCloser) Close() error { close(b.closed); runtime.Goexit(); return nil }

func TestHTTPRequestEndsThoughItsBodyCallsGoexitInClose(t *testing.T) {
	p := newHTTPPeer(t, answerOnce(httpOK)) // before the body
	opts := &eventloop.HTTPOptions{BodyReader: goexitCloser{make(chan struct{})}}
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "body", string(res.Body), "ok")
}

// A nil pointer as a body is an error of the request, which ends.
func TestHTTPABodyThatIsANilPointerIsAnError(t *testing.T) {
	err := runLoop(t, nil, func(l *eventloop.Loop) {
		for name, body := range map[string]io.Reader{
			"buffer": (*bytes.Buffer)(nil), "bytes": (*bytes.Reader)(nil), "string": (*strings.Reader)(nil), "file": (*os.File)(nil),
		} {
			l.HTTP().Do(context.Background(), "POST", "http://127.0.0.1:1/", &eventloop.HTTPOptions{BodyReader: body}).Then(
				func(_ *eventloop.HTTPResponse, err error) {
					if err == nil {
						t.Errorf("%s: no error", name)
					}
				})
		}
	})
	if err != nil {
		t.Error(err)
	}
}
