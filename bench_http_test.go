package eventloop_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/valyala/fasthttp"
)

// BenchmarkHTTPHai compares the smallest answer with those of fasthttp and of
// net/http over keep-alive connections; an operation is a request and its
// answer, client included.
func BenchmarkHTTPHai(b *testing.B) {
	conns := []int{1, 50, 500}
	headers := eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/plain"}}
	body := []byte("hai")
	b.Run("eventloop", func(b *testing.B) {
		l, _ := startLoop(b, nil)
		s := serveHTTP(b, l, nil, func(r *eventloop.HTTPRequest) { r.Respond(200, headers, body) })
		benchHTTP(b, s.Addr(), conns...)
	})
	b.Run("fasthttp", func(b *testing.B) {
		benchHTTP(b, serveFast(b, func(ctx *fasthttp.RequestCtx) {
			ctx.SetContentType("text/plain")
			ctx.SetBody(body)
		}), conns...)
	})
	b.Run("nethttp", func(b *testing.B) {
		benchHTTP(b, serveNet(b, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Write(body)
		}), conns...)
	})
}

// BenchmarkHTTPLater compares responses after 10 ms with those of servers whose
// goroutines sleep, over 1000 connections.
func BenchmarkHTTPLater(b *testing.B) {
	const delay = 10 * time.Millisecond
	b.Run("eventloop", func(b *testing.B) {
		l, _ := startLoop(b, nil)
		s := serveHTTP(b, l, nil, func(r *eventloop.HTTPRequest) { l.AfterFunc(delay, func() { hai(r) }) })
		benchHTTP(b, s.Addr(), 1000)
	})
	b.Run("fasthttp", func(b *testing.B) {
		benchHTTP(b, serveFast(b, func(ctx *fasthttp.RequestCtx) {
			time.Sleep(delay)
			ctx.SetBodyString("hai")
		}), 1000)
	})
	b.Run("nethttp", func(b *testing.B) {
		benchHTTP(b, serveNet(b, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(delay)
			io.WriteString(w, "hai")
		}), 1000)
	})
}

// benchHTTP sends b.N requests over each number of connections.
func benchHTTP(b *testing.B, addr net.Addr, counts ...int) {
	for _, n := range counts {
		b.Run(fmt.Sprintf("conns=%d", n), func(b *testing.B) {
			conns := make([]net.Conn, n)
			for i := range conns {
				nc, err := net.Dial("tcp", addr.String())
				if err != nil {
					b.Fatal(err)
				}
				defer nc.Close()
				conns[i] = nc
			}
			work := make(chan struct{}, b.N)
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, nc := range conns {
				wg.Go(func() { benchClient(b, nc, work) })
			}
			wg.Wait()
		})
	}
}

func benchClient(b *testing.B, nc net.Conn, work <-chan struct{}) {
	br := bufio.NewReaderSize(nc, 1024)
	request := []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	for range work {
		if _, err := nc.Write(request); err != nil {
			b.Error(err)
			return
		}
		for { // the head; the body has three bytes
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Error(err)
				return
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := br.Discard(3); err != nil {
			b.Error(err)
			return
		}
	}
}

func serveFast(b *testing.B, h fasthttp.RequestHandler) net.Addr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &fasthttp.Server{Handler: h, NoDefaultDate: true}
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
	b.Cleanup(wg.Wait)
	b.Cleanup(func() { ln.Close() })
	return ln.Addr()
}

func serveNet(b *testing.B, h http.HandlerFunc) net.Addr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	b.Cleanup(wg.Wait)
	b.Cleanup(func() { s.Close() })
	return ln.Addr()
}

// BenchmarkHTTPConnMemory reports what a connection costs on the server when it
// is idle after a request, and when its request waits for an answer: heap and
// stacks, with the client's descriptor, which is in the same process.
func BenchmarkHTTPConnMemory(b *testing.B) {
	for _, kind := range []string{"idle", "waiting"} {
		b.Run(kind, func(b *testing.B) {
			l, _ := startLoop(b, nil)
			const n = 2000
			waiting := make(chan *eventloop.HTTPRequest, n)
			s := serveHTTP(b, l, nil, func(r *eventloop.HTTPRequest) {
				if kind == "idle" {
					hai(r)
				} else {
					waiting <- r
				}
			})
			for range b.N {
				before := memoryInUse()
				conns := make([]net.Conn, n)
				for i := range conns {
					nc, err := net.Dial("tcp", s.Addr().String())
					if err != nil {
						b.Fatal(err)
					}
					conns[i] = nc
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n")
				}
				for _, nc := range conns {
					if kind == "idle" {
						nc.Read(make([]byte, 1024))
					}
				}
				kept := make([]*eventloop.HTTPRequest, 0, n)
				for len(kept) < n && kind == "waiting" {
					kept = append(kept, <-waiting)
				}
				b.ReportMetric(float64(memoryInUse()-before)/n, "B/conn")
				for _, r := range kept {
					hai(r)
				}
				for _, nc := range conns {
					nc.Close()
				}
				for l.Stats().HTTPServer.Conns > 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
