package netcore

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// An order is something that others than the connection's goroutine ask for.
type order struct {
	name string
	do   func(c *testConn)
}

// orders are those that may meet. Each may come at any moment, and twice.
var orders = []order{
	{"wake", func(c *testConn) { c.Wake() }},
	{"write", func(c *testConn) { c.write("some output") }},
	{"pause", func(c *testConn) { c.Lock(); c.PauseOutput(true); c.Unlock() }},
	{"end", func(c *testConn) { c.Lock(); c.EndOutput(); c.Unlock() }},
	{"start TLS", func(c *testConn) {
		c.Lock()
		defer c.Unlock()
		if !c.Secured() && !c.closing {
			c.Secure()
			c.upgrade.Store(true)
		}
		c.Wake()
	}},
	{"close", func(c *testConn) { c.Lock(); c.quit.Store(true); c.Closing(); c.Unlock() }},
	{"abort", func(c *testConn) { c.Lock(); c.quit.Store(true); c.Cut(true); c.Closing(); c.Unlock() }},
	{"detach", func(c *testConn) {
		c.Lock()
		defer c.Unlock()
		if c.Shaking() {
			return // as Detach says
		}
		c.detach.Store(true)
		c.quit.Store(true)
		c.Closing()
	}},
	{"close quietly", func(c *testConn) { c.Lock(); c.quit.Store(true); c.ClosingQuietly(); c.Unlock() }},
}

// serveOrders is a connection's goroutine that obeys them. It returns what was
// detached.
func (c *testConn) serveOrders(watch bool) net.Conn {
	over := false
	for !c.quit.Load() {
		var err error
		switch {
		case c.upgrade.Load():
			c.upgrade.Store(false)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			if c.Handshake(ctx, serverTLS(), false, nil) == nil {
				c.Open()
			} else {
				over = true
			}
			cancel()
			continue
		case over:
			c.Wait()
			continue
		case watch:
			err = c.Watch(false)
		default:
			b, e := c.Read(4 << 10)
			if b != nil {
				b.Release()
			}
			err = e
		}
		over = over || err != nil && err != ErrWoken
	}
	if c.detach.Load() {
		return c.Release()
	}
	c.Finish(over)
	return nil
}

// Every pair of orders, the second after the first was given, after the goroutine
// has had time to obey it, and at the same time from another goroutine; while the
// goroutine reads and while it watches; with peers that speak, are silent, and
// leave. Whatever it is, the connection ends when it is told to.
func TestEveryPairOfOrdersEnds(t *testing.T) {
	peers := map[string]func(nc net.Conn){
		"silent": func(net.Conn) {},
		"speaks": func(nc net.Conn) { io.WriteString(nc, text(100_000)) },
		"leaves": func(nc net.Conn) { nc.Close() },
		"TLS":    func(nc net.Conn) { io.WriteString(tls.Client(nc, clientTLS()), "hello") },
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			for _, first := range orders {
				for _, second := range orders {
					for name, peer := range peers {
						for when := range 3 {
							pairOfOrders(t, k, first, second, name, peer, when)
						}
					}
				}
			}
		})
	}
}

func pairOfOrders(t *testing.T, k kind, first, second order, name string, peer func(net.Conn), when int) {
	nc, far := k.pair(t)
	c := newConn(t, nc, k.ours)
	c.Lock()
	c.SetStall(20 * time.Millisecond)
	c.Unlock()
	c.Open()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		peer(far)
	}()
	ended := make(chan net.Conn, 1)
	go func() { ended <- c.serveOrders(when == 1) }()
	switch when {
	case 0:
		first.do(c)
		second.do(c)
	case 1:
		first.do(c)
		time.Sleep(100 * time.Microsecond)
		second.do(c)
	case 2:
		both := make(chan struct{})
		go func() { defer close(both); first.do(c) }()
		second.do(c)
		<-both
	}
	if !c.quit.Load() {
		orders[6].do(c) // abort
	}
	far.Close() // which ends lingering
	select {
	case out := <-ended:
		if out != nil {
			out.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(-time.Second))
			lowest(out).Close()
			nc.Close()
		}
	case <-time.After(watchdog):
		t.Fatalf("%s, then %s (%d), with a peer that is or %s: the connection does not end", first.name, second.name, when, name)
	}
	<-gone
	c.Lock()
	defer c.Unlock()
	if c.output != outputIdle {
		t.Errorf("%s, then %s: a writer still has the connection", first.name, second.name)
	}
}
