//go:build !race

package eventloop_test

// The race detector makes sync.Pool forget things on purpose, so these tests
// count without it.

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// startEcho runs an echo server and returns a connection to it. What the server
// answers is up to write.
func startEcho(t *testing.T, write func(c *eventloop.Conn, data []byte)) net.Conn {
	t.Helper()
	addr, ended := make(chan string, 1), make(chan error, 1)
	l := eventloop.New(nil)
	l.Post(func() {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnData: write})
		if err != nil {
			t.Error(err)
			close(addr)
			return
		}
		addr <- ln.Addr().String()
	})
	go func() { ended <- l.Run(context.Background()) }()
	t.Cleanup(func() {
		l.Stop()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	nc, err := net.Dial("tcp", <-addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc
}

// testEchoAllocs counts the allocations of a message of size bytes and its
// answer, of all goroutines together.
func testEchoAllocs(t *testing.T, size int, write func(c *eventloop.Conn, data []byte)) {
	t.Helper()
	nc := startEcho(t, write)
	message, answer := make([]byte, size), make([]byte, size)
	echo := func() {
		if _, err := nc.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, answer); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 { // fill the pools
		echo()
	}
	if got := testing.AllocsPerRun(1000, echo); got != 0 {
		t.Errorf("an echo of %d bytes allocates %v times, want 0", size, got)
	}
}

func TestEchoAllocatesNothing(t *testing.T) {
	testEchoAllocs(t, 64, func(c *eventloop.Conn, data []byte) { c.Write(data) })
}

func TestEchoOfALargeMessageAllocatesNothing(t *testing.T) {
	testEchoAllocs(t, 32<<10, func(c *eventloop.Conn, data []byte) { c.Write(data) })
}

func TestReplyOfSmallWritesAllocatesNothing(t *testing.T) {
	testEchoAllocs(t, 64, func(c *eventloop.Conn, data []byte) {
		for len(data) > 0 {
			n := min(len(data), 16)
			c.Write(data[:n])
			data = data[n:]
		}
	})
}
