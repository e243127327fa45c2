package httpconn_test

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/onloop/eventloop/internal/httpconn"
)

// BenchmarkExchange is a request of 100 bytes on a kept connection, and its
// answer, without a loop.
func BenchmarkExchange(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	answer := []byte(fmt.Sprintf("%0100d", 7))
	s := &fasthttp.Server{
		NoDefaultDate: true,
		Handler:       func(ctx *fasthttp.RequestCtx) { ctx.Response.SetBodyRaw(answer) },
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := ln.Accept()
		if err == nil {
			s.ServeConn(c)
			c.Close()
		}
	})
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c := httpconn.New(nc, httpconn.Key{})
	b.ReportAllocs()
	for b.Loop() {
		if !c.Alive() {
			b.Fatal("not alive")
		}
		c.Begin(time.Time{}, time.Minute)
		h := httpconn.GetHead("GET", "/")
		h.Add("Host", "127.0.0.1")
		h.Add("User-Agent", "bench")
		if err := h.Send(c, nil); err != nil {
			b.Fatal(err)
		}
		h.Release()
		var r httpconn.Response
		if err := r.ReadHead(c, "GET", 64<<10, nil); err != nil {
			b.Fatal(err)
		}
		body, err := r.ReadAll(1 << 20)
		if err != nil || len(body) != len(answer) {
			b.Fatal(body, err)
		}
		if !c.End() {
			b.Fatal("not reusable")
		}
	}
	c.Close()
	ln.Close()
	wg.Wait()
}
