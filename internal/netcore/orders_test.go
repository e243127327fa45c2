package netcore

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
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
		if !c.Secured() && c.closing == notClosing {
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
		if c.Handshaking() {
			return // as Detach says
		}
		c.detach.Store(true)
		c.quit.Store(true)
		c.Closing()
	}},
	{"close quietly", func(c *testConn) { c.Lock(); c.quit.Store(true); c.ClosingQuietly(); c.Unlock() }},
}

// serveOrders is a connection's goroutine that obeys them. It returns what was
// detached. If it returns with ended false the connection goes on elsewhere.
func (c *testConn) serveOrders(watch bool) (out net.Conn, ended bool) {
	for !c.quit.Load() {
		var err error
		switch {
		case c.upgrade.Load():
			c.upgrade.Store(false)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			if c.Handshake(ctx, serverTLS(), false, nil) == nil {
				c.Open()
			} else {
				c.over = true
			}
			cancel()
			continue
		case c.over:
			if !c.WaitOrPark() {
				return nil, false
			}
			continue
		case watch:
			err = c.WatchOrPark(false)
		default:
			b, e := c.ReadOrPark(4 << 10)
			if b != nil {
				b.Release()
			}
			err = e
		}
		if err == ErrParked {
			return nil, false
		}
		c.over = c.over || err != nil && err != ErrWoken
	}
	if c.detach.Load() {
		return c.Release(), true
	}
	c.Finish(c.over)
	return nil, true
}

// Every pair of orders, the second after the first was given, after the goroutine
// has had time to obey it, and at the same time from another goroutine; while the
// goroutine reads and while it watches; while it has a goroutine, is parked, and is
// just being parked or resumed; with peers that speak, are silent, and leave. Whatever
// it is, the connection ends when it is told to.
func TestEveryPairOfOrdersEnds(t *testing.T) { everyPairOfOrders(t) }

func everyPairOfOrders(t *testing.T) {
	t.Cleanup(Hasten(50*time.Microsecond, 0)) // after the subtests, which are parallel
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
							for parks := range 3 {
								if parks == 0 || k.raw {
									pairOfOrders(t, k, first, second, name, peer, when, parking(parks))
								}
							}
						}
					}
				}
			}
		})
	}
}

// parking says what becomes of a quiet connection.
type parking int

const (
	parksNever  parking = iota
	parksAtOnce         // it has a goroutine only when it needs one
	parksSoon           // when a sweep finds it quiet
)

// receive receives from ch within the watchdog's time. A time for which the process is
// stopped or does not get the processor counts little: a connection that ends late must not
// look like one that does not end.
func receive[T any](ch <-chan T) (v T, ok bool) {
	const ticks = 200
	for range ticks {
		select {
		case v = <-ch:
			return v, true
		case <-time.After(watchdog / ticks):
		}
	}
	return v, false
}

func pairOfOrders(t *testing.T, k kind, first, second order, name string, peer func(net.Conn), when int, parks parking) {
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
	serve := func() {
		if out, is := c.serveOrders(when == 1); is {
			ended <- out
		}
	}
	switch parks {
	case parksNever:
		go serve()
	case parksAtOnce:
		c.serve = serve
		c.Start()
	case parksSoon:
		c.serve = serve
		go serve()
	}
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
	out, ok := receive(ended)
	if !ok {
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s, then %s (%d, parking %d), with a peer that is or %s: the connection does not end; its place is %d, woken %v\n%s",
			first.name, second.name, when, parks, name, c.place.Load(), c.woken.Load(), stacks[:runtime.Stack(stacks, true)])
	}
	if out != nil {
		out.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(-time.Second))
		lowest(out).Close()
		nc.Close()
	}
	<-gone
	c.Lock()
	defer c.Unlock()
	if c.output != outputIdle {
		t.Errorf("%s, then %s: a writer still has the connection", first.name, second.name)
	}
	if n := c.poller.Parked(); n != 0 {
		t.Errorf("%s, then %s: %d connections are parked after the end", first.name, second.name, n)
	}
}
