package netcore

import (
	"crypto/tls"
	"net"
	"os"
	"testing"
	"time"
)

// tlsOfOthers returns a connection whose net.Conn is a tls.Conn that was made elsewhere, as
// one that is adopted, and its peer. Write of the former waits until the peer reads.
func tlsOfOthers(t *testing.T) (c *testConn, peer *tls.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	b.SetDeadline(time.Now().Add(watchdog))
	nc, peer := tls.Server(a, serverTLS()), tls.Client(b, clientTLS())
	shaken := beside(t, func() {
		if err := peer.Handshake(); err != nil {
			t.Error(err)
		}
		peer.Read(nil) // session tickets are read with the first bytes
	})
	if err := nc.Handshake(); err != nil {
		t.Fatal(err)
	}
	wait(t, shaken, "the handshake")
	c = newConn(t, nc, false)
	c.Open()
	return c, peer
}

// After a Write of a tls.Conn has timed out, every later one fails, and the peer has half
// a record.
func TestNoOrderDisturbsAWriteOfTLSOfOthers(t *testing.T) {
	for name, order := range map[string]func(c *testConn){
		"a bound":          func(c *testConn) { c.SetStall(time.Minute) },
		"no bound":         func(c *testConn) { c.SetStall(0) },
		"a pause":          func(c *testConn) { c.PauseOutput(true); c.PauseOutput(false) },
		"the end":          func(c *testConn) { c.SetStall(watchdog); c.Closing() },
		"all of them":      func(c *testConn) { c.SetStall(time.Minute); c.PauseOutput(true); c.Closing() },
		"nothing whatever": func(c *testConn) {},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := tlsOfOthers(t)
			want := text(1 << 20)
			c.write(want)
			until(t, "the writer waits", func() bool { c.Lock(); defer c.Unlock(); return c.Blocked() })
			var got string
			c.order(func() { order(c) })
			read := beside(t, func() { got = readAll(t, peer); peer.Close() })
			if lost := c.finish(false); lost != 0 {
				t.Errorf("%d bytes are lost", lost)
			}
			wait(t, read, "the peer")
			if got != want {
				t.Errorf("the peer has %d bytes of %d", len(got), len(want))
			}
			if err := c.WriteError(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The bound ends a Write that waits, also if it was set while it waited, but not during a
// pause.
func TestABoundEndsAWriteOfTLSOfOthers(t *testing.T) {
	c, _ := tlsOfOthers(t)
	c.order(func() { c.SetStall(10 * time.Minute) })
	c.write(text(1 << 20))
	until(t, "the writer waits", func() bool { c.Lock(); defer c.Unlock(); return c.Blocked() })
	c.order(func() { c.PauseOutput(true); c.SetStall(20 * time.Millisecond) })
	select {
	case err := <-c.failed:
		t.Fatalf("it failed in a pause: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	c.order(func() { c.PauseOutput(false) })
	if err := wait(t, c.failed, "the failure"); err != os.ErrDeadlineExceeded {
		t.Errorf("it failed with %v", err)
	}
	c.abort()
}

// A net.Conn whose Write always times out at once must not keep a processor busy.
func TestAWriteThatTimesOutBeforeItsTimeFails(t *testing.T) {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	c := newConn(t, timesOut{a}, false)
	c.Open()
	c.order(func() { c.SetStall(10 * time.Minute) })
	c.write("x")
	if err := wait(t, c.failed, "the failure"); err != os.ErrDeadlineExceeded {
		t.Errorf("it failed with %v", err)
	}
	c.abort()
}

type timesOut struct{ net.Conn }

func (timesOut) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
