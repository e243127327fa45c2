package eventloop_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// echoServers are the loop's echo server and what it is compared with. Both
// return the address and a function that ends the server.
var echoServers = []struct {
	name  string
	start func(b testing.TB, size int) (addr string, stop func())
}{
	{"eventloop", loopEcho},
	{"goroutines", goroutineEcho},
}

func loopEcho(b testing.TB, size int) (addr string, stop func()) {
	b.Helper()
	l := eventloop.New(nil)
	listening := make(chan *eventloop.Listener, 1)
	ended := make(chan error, 1)
	l.Post(func() {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnData:  func(c *eventloop.Conn, data []byte) { c.Write(data) },
			OnEvent: func(*eventloop.Conn, error) {},
		})
		if err != nil {
			b.Error(err)
		}
		listening <- ln
	})
	go func() { ended <- l.Run(context.Background()) }()
	ln := <-listening
	return ln.Addr().String(), func() {
		l.Stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

// goroutineEcho is the usual server over package net: a goroutine and a buffer a
// connection.
func goroutineEcho(b testing.TB, size int) (addr string, stop func()) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				buf := make([]byte, max(4<<10, min(2*size, 64<<10)))
				for {
					n, err := nc.Read(buf)
					if err != nil {
						return
					}
					if _, err := nc.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return ln.Addr().String(), func() { ln.Close(); wg.Wait() }
}

// BenchmarkEcho measures round trips, with the clients in the same process. Only
// the ratio of the two servers means anything:
//
//	go test -run '^$' -bench 'Echo' -count 6 . | benchstat -col /server -
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{64, 32 << 10} {
		for _, conns := range []int{1, 50, 500} {
			for _, s := range echoServers {
				b.Run(fmt.Sprintf("size=%d/conns=%d/server=%s", size, conns, s.name), func(b *testing.B) {
					benchmarkEcho(b, s.start, size, conns)
				})
			}
		}
	}
}

func benchmarkEcho(b *testing.B, start func(testing.TB, int) (string, func()), size, conns int) {
	addr, stop := start(b, size)
	defer stop()
	clients := make([]net.Conn, conns)
	for i := range clients {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer nc.Close()
		clients[i] = nc
	}
	bufs := make([][]byte, conns)
	for i := range bufs {
		bufs[i] = make([]byte, size)
		roundTrip(b, clients[i], bufs[i])
	}
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, nc := range clients {
		n := b.N / conns
		if i < b.N%conns {
			n++
		}
		wg.Go(func() {
			for range n {
				if !roundTrip(b, nc, bufs[i]) {
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

func roundTrip(b testing.TB, nc net.Conn, buf []byte) bool {
	if _, err := nc.Write(buf); err != nil {
		b.Error(err)
		return false
	}
	if _, err := io.ReadFull(nc, buf); err != nil {
		b.Error(err)
		return false
	}
	return true
}

// BenchmarkIdleConn reports the memory of a connection that has echoed once and
// is silent since: heap and stacks of the server's side, without the client's.
func BenchmarkIdleConn(b *testing.B) {
	for _, s := range echoServers {
		b.Run("server="+s.name, func(b *testing.B) {
			const conns = 2000
			for range b.N {
				addr, stop := s.start(b, 64)
				clients := make([]net.Conn, 0, conns)
				buf := make([]byte, 64)
				before := inUse()
				for range conns {
					nc, err := net.Dial("tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					clients = append(clients, nc)
					roundTrip(b, nc, buf)
				}
				with := inUse()
				b.ReportMetric(float64(with-before)/conns-clientBytes(b), "B/conn")
				for _, nc := range clients {
					nc.Close()
				}
				stop()
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// inUse returns the bytes of heap and stacks in use.
func inUse() int64 {
	debug.FreeOSMemory()
	time.Sleep(10 * time.Millisecond)
	debug.FreeOSMemory() // the second one empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// clientBytes measures what a connection of package net costs by itself.
func clientBytes(b *testing.B) float64 {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	const n = 500
	both := make([]net.Conn, 0, 2*n)
	before := inUse()
	for range n {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		other, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		both = append(both, nc, other)
	}
	with := inUse()
	for _, nc := range both {
		nc.Close()
	}
	return float64(with-before) / (2 * n)
}
