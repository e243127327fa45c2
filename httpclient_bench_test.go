package eventloop_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/valyala/fasthttp"
)

// answer is what the server of the benchmarks sends: 100 bytes.
var answer = []byte(fmt.Sprintf("%0100d", 7))

// benchServer is a fasthttp server on loopback. It leaves no goroutine behind.
func benchServer(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &fasthttp.Server{
		NoDefaultDate: true,
		Handler:       func(ctx *fasthttp.RequestCtx) { ctx.Response.SetBodyRaw(answer) },
	}
	var wg sync.WaitGroup
	var conns sync.Map
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Store(c, nil)
			wg.Go(func() {
				defer c.Close()
				s.ServeConn(c)
			})
		}
	})
	b.Cleanup(func() {
		ln.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return "http://" + ln.Addr().String() + "/"
}

// BenchmarkHTTPClient compares clients by requests on kept connections, with so
// many of them in flight at any time.
func BenchmarkHTTPClient(b *testing.B) {
	for _, inFlight := range []int{1, 100} {
		for _, client := range []struct {
			name string
			run  func(b *testing.B, url string, inFlight int)
		}{
			{"loop", benchLoopClient},
			{"fasthttp", benchHostClient},
			{"nethttp", benchNetHTTP},
		} {
			b.Run(fmt.Sprintf("inflight=%d/client=%s", inFlight, client.name), func(b *testing.B) {
				url := benchServer(b)
				b.ReportAllocs()
				client.run(b, url, inFlight)
			})
		}
	}
}

func benchLoopClient(b *testing.B, url string, inFlight int) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		left := b.N
		var next func()
		done := func(res *eventloop.HTTPResponse, err error) {
			if err != nil || len(res.Body) != len(answer) {
				b.Error(res, err)
				l.Stop()
			}
			next()
		}
		next = func() {
			if left > 0 {
				left--
				l.HTTP().Get(context.Background(), url).Then(done)
			}
		}
		// Connections first, so that they do not count.
		warm := make([]*eventloop.Future[*eventloop.HTTPResponse], inFlight)
		for i := range warm {
			warm[i] = l.HTTP().Get(context.Background(), url)
		}
		eventloop.All(l, warm...).Then(func([]*eventloop.HTTPResponse, error) {
			b.ResetTimer()
			for range inFlight {
				next()
			}
		})
		return nil
	})
	b.StopTimer()
	if err != nil {
		b.Error(err)
	}
}

// benchGoroutines runs do b.N times, spread over goroutines.
func benchGoroutines(b *testing.B, inFlight int, do func() error) {
	var left atomic.Int64
	left.Store(int64(inFlight))
	run := func() {
		var wg sync.WaitGroup
		for range inFlight {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := do(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	run()
	left.Store(int64(b.N))
	b.ResetTimer()
	run()
	b.StopTimer()
}

func benchHostClient(b *testing.B, url string, inFlight int) {
	u := fasthttp.AcquireURI()
	u.Parse(nil, []byte(url))
	const idle = 100 * time.Millisecond
	c := &fasthttp.HostClient{Addr: string(u.Host()), MaxConns: inFlight, MaxIdleConnDuration: idle, Dial: dialTCP}
	defer time.Sleep(3 * idle) // its goroutine ends by itself only
	benchGoroutines(b, inFlight, func() error {
		req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(req)
		defer fasthttp.ReleaseResponse(res)
		req.SetRequestURI(url)
		if err := c.Do(req, res); err != nil {
			return err
		}
		if len(res.Body()) != len(answer) {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	c.CloseIdleConnections()
}

func benchNetHTTP(b *testing.B, url string, inFlight int) {
	tr := &http.Transport{MaxIdleConnsPerHost: inFlight}
	c := &http.Client{Transport: tr}
	benchGoroutines(b, inFlight, func() error {
		res, err := c.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err == nil && len(body) != len(answer) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	tr.CloseIdleConnections()
}

// dialTCP replaces fasthttp's dialer, which leaves a goroutine behind.
func dialTCP(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }
