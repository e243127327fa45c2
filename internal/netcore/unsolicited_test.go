package netcore

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// What the peer has sent before output is appended keeps that output from being
// written, wherever the goroutine and the writers are: it reads in a loop meanwhile.
func TestUnsolicitedInputKeepsOutputFromBeingWritten(t *testing.T) {
	for _, secure := range []bool{false, true} {
		eachSocket(t, func(t *testing.T, k kind) {
			if !k.raw {
				return // what a net.Conn has received is not known
			}
			for range 100 {
				nc, peer := k.pair(t)
				c := newConn(t, nc, k.ours)
				if secure {
					peer = secured(t, c, peer)
				}
				c.Open()
				c.order(c.ExpectNoInput)
				reader := beside(t, func() { c.readEnd() })
				io.WriteString(peer, "unsolicited") // in the kernel when it returns
				c.write("output")
				c.Lock()
				nothingWritten := c.NothingWritten()
				c.Unlock()
				c.order(func() { c.Cut(false) })
				c.Wake()
				peer.(interface{ CloseWrite() error }).CloseWrite()
				<-reader
				c.finish(true)
				if got := readAll(t, peer); got != "" || !nothingWritten {
					t.Fatalf("the peer got %q, nothingWritten %v", got, nothingWritten)
				}
			}
		})
	}
}

// Output goes out, and counts as begun, if nothing came that was unsolicited.
func TestOutputWithoutUnsolicitedInputIsWritten(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		for range 200 {
			c.order(c.ExpectNoInput)
			reply := make(chan string, 1)
			beside(t, func() { reply <- c.readString(t, len("reply")) })
			c.write("output")
			got := make([]byte, len("output"))
			if _, err := io.ReadFull(peer, got); err != nil || string(got) != "output" {
				t.Fatalf("the peer got %q, %v", got, err)
			}
			c.Lock()
			nothingWritten := c.NothingWritten()
			c.Unlock()
			if nothingWritten {
				t.Fatal("nothing counts as written")
			}
			io.WriteString(peer, "reply")
			if s := wait(t, reply, "the reply"); s != "reply" {
				t.Fatalf("reply %q", s)
			}
		}
		c.abort()
	})
}

func TestWhatTLSHoldsOfARecordIsKnown(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		peer = secured(t, c, peer)
		for _, more := range []string{"", "more"} {
			io.WriteString(peer, "asked"+more)
			if s := c.readString(t, len("asked")); s != "asked" {
				t.Fatalf("read %q", s)
			}
			if c.HoldsInput() != (more != "") {
				t.Errorf("Holds = %v after %q", more == "", more)
			}
		}
		if s := c.readString(t, len("ore")); s != "ore" {
			t.Errorf("read %q behind what Holds took", s)
		}
		c.abort()
	})
}

// secured begins TLS on c, and returns the peer's side of it.
func secured(t *testing.T, c *testConn, peer net.Conn) net.Conn {
	t.Helper()
	tc := tls.Server(peer, serverTLS())
	done := beside(t, func() { tc.Handshake() })
	if err := c.secure(context.Background(), clientTLS(), true, ""); err != nil {
		t.Fatal(err)
	}
	<-done
	return tc
}
