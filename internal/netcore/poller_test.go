package netcore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// An idler is a connection that echoes, and may be parked.
type idler struct {
	*testConn
	watch  atomic.Bool  // instead of reading
	forEnd bool         // and for the peer's end, too
	runs   atomic.Int32 // calls of Serve
	why    error        // it ended by itself. Of its goroutine
	ended  chan error   // the same, or nil; it is to be finished then
}

// newIdler returns a connection that has not been started.
func newIdler(t testing.TB, nc net.Conn, ours bool) *idler {
	return newIdlerOf(newHost(t), nc, ours)
}

func newIdlerOf(h *testHost, nc net.Conn, ours bool) *idler {
	c := &idler{testConn: newConnOf(h, nc, ours), ended: make(chan error, 1)}
	c.serve = func() {
		c.runs.Add(1)
		for !c.quit.Load() {
			if !c.step() {
				return
			}
		}
		c.Own()
		c.ended <- c.why
	}
	c.Open()
	return c
}

// step returns false if the connection has another goroutine now, or none.
func (c *idler) step() bool {
	var b *sockio.Buffer
	var err error
	if c.watch.Load() {
		err = c.WatchOrPark(c.forEnd)
	} else {
		b, err = c.ReadOrPark(4 << 10)
	}
	switch {
	case b != nil:
		c.write(string(b.Bytes()))
		b.Release()
	case err == ErrParked:
		return false
	case err != ErrWoken:
		c.why = err
		c.quit.Store(true)
	}
	return true
}

// end finishes a connection that goes on.
func (c *idler) end(t testing.TB) {
	t.Helper()
	c.order(func() { c.quit.Store(true) })
	wait(t, c.ended, "end")
	c.abort()
}

func (c *idler) isParked() bool { return c.place.Load() == placeParked }

// awaitPark waits until c is parked. Elsewhere than on Linux it never is.
func (c *idler) awaitPark(t testing.TB) {
	t.Helper()
	if sockio.Raw {
		until(t, "the connection is parked", c.isParked)
	}
}

// parks waits until the connection is parked, and returns an error if it ends before.
func (c *idler) parks(t testing.TB) error {
	t.Helper()
	if !sockio.Raw {
		return nil
	}
	until(t, "the connection is parked, or has ended", func() bool { return c.isParked() || len(c.ended) > 0 })
	if c.isParked() {
		return nil
	}
	wait(t, c.ended, "end")
	c.abort()
	return errors.New("it ends before it is parked")
}

// parkable are the kinds of connections that are parked where there is a poller.
func parkable() []kind { return kinds[:3] }

func exchange(t testing.TB, rw io.ReadWriter, s string) {
	t.Helper()
	io.WriteString(rw, s)
	got := make([]byte, len(s))
	if _, err := io.ReadFull(rw, got); err != nil || string(got) != s {
		t.Errorf("the answer to %q is %q, %v", s, got, err)
	}
}

func TestAParkedConnectionIsResumedByWhateverComes(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	for _, k := range parkable() {
		for _, test := range []struct {
			what  string
			watch bool
			end   bool
			do    func(peer net.Conn)
			want  error
		}{
			{"its end", false, false, func(peer net.Conn) { peer.Close() }, io.EOF},
			{"a reset", false, false, resetBy, syscall.ECONNRESET},
			{"a reset while nothing is read", true, false, resetBy, syscall.ECONNRESET},
			{"a reset behind unread bytes", true, false, func(peer net.Conn) { io.WriteString(peer, "x"); resetBy(peer) }, syscall.ECONNRESET},
			{"its end behind unread bytes", true, true, func(peer net.Conn) { io.WriteString(peer, "x"); peer.Close() }, io.EOF},
		} {
			if k.name == "unix" && test.want == syscall.ECONNRESET {
				continue // there are no resets
			}
			t.Run(k.name+", "+test.what, func(t *testing.T) {
				nc, peer := k.pair(t)
				c := newIdler(t, nc, k.ours)
				c.forEnd = test.end
				c.Start()
				c.awaitPark(t)
				for range 5 {
					exchange(t, peer, "hello")
					c.awaitPark(t)
				}
				c.order(func() { c.watch.Store(test.watch) })
				c.awaitPark(t)
				test.do(peer)
				if err := wait(t, c.ended, "end"); err != test.want {
					t.Errorf("it ends with %v, want %v", err, test.want)
				}
				c.finish(true)
			})
		}
	}
}

// closeQuietly says the last words of a parked connection.
func (c *idler) closeQuietly() {
	c.Lock()
	defer c.Unlock()
	c.Queue().AppendString("the last words")
	c.Send()
	c.quit.Store(true)
	c.ClosingQuietly()
}

func TestAQuietCloseLeavesAConnectionParkedUntilThePeerEnds(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	for _, k := range parkable() {
		t.Run(k.name, func(t *testing.T) {
			t.Cleanup(Prolong(watchdog)) // the peer may take long to end
			nc, peer := k.pair(t)
			c := newIdler(t, nc, k.ours)
			c.Start()
			c.awaitPark(t)
			runs := c.runs.Load()
			c.closeQuietly()
			if got := readAll(t, peer); got != "the last words" {
				t.Errorf("the peer read %q", got)
			}
			if n := c.runs.Load() - runs; n != 0 && sockio.Raw {
				t.Errorf("Serve was called %d times before the peer's end", n)
			}
			peer.Close()
			wait(t, c.ended, "end")
			if lost := c.Finish(false); lost != 0 {
				t.Errorf("lost %d bytes", lost)
			}
		})
	}
}

func TestAQuietCloseOfAParkedConnectionWhosePeerStaysEnds(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.Start()
	c.awaitPark(t)
	before := time.Now()
	c.closeQuietly()
	wait(t, c.ended, "end")
	if lost := c.Finish(false); lost != 0 {
		t.Errorf("lost %d bytes", lost)
	}
	if d := time.Since(before); d < Linger {
		t.Errorf("the peer had %v to end its side, want %v", d, Linger)
	}
	if got := readAll(t, peer); got != "the last words" {
		t.Errorf("the peer read %q", got)
	}
}

// The poller does not report the end of the peer's side for a connection that only
// waits for failures.
func TestAConnectionThatIsParkedWithoutReadingIsNotLeftParked(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	nc, _ := tcpPair(t)
	c := newIdler(t, nc, true)
	c.watch.Store(true)
	c.Start()
	c.awaitPark(t)
	if c.poller.bound(&c.Conn, time.Since(epoch)+time.Hour) {
		t.Error("the poller has promised to report input")
	}
	c.closeQuietly()
	wait(t, c.ended, "end")
	c.abort()
}

// A peer that has ended its side leaves a connection that may go on writing; a reset
// after that is noticed as well.
func TestAParkedHalfOpenConnectionNoticesAReset(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.watch.Store(true)
	c.Start()
	peer.(*net.TCPConn).CloseWrite()
	c.awaitPark(t)
	resetBy(peer)
	if err := wait(t, c.ended, "end"); err != syscall.ECONNRESET {
		t.Errorf("it ends with %v, want %v", err, syscall.ECONNRESET)
	}
	c.finish(true)
}

// Both sides are shut down, and nothing more can happen: the kernel reports that
// again and again, which must not keep a processor busy.
func TestAConnectionThatIsShutOnBothSidesDoesNotSpin(t *testing.T) {
	if !sockio.Raw {
		t.Skip("nothing is parked here")
	}
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.watch.Store(true)
	c.order(c.EndOutput)
	c.Start()
	io.Copy(io.Discard, peer) // until the end has come
	peer.(*net.TCPConn).CloseWrite()
	time.Sleep(50 * time.Millisecond) // for spinning, if it does
	if n := c.runs.Load(); n > 4 {
		t.Errorf("it was resumed %d times", n)
	}
	c.end(t)
}

func TestAParkedTLSConnectionGoesOnInTheMiddleOfARecord(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		nc, peer := tcpPair(t)
		c := newIdler(t, nc, true)
		conf := clientTLS()
		conf.MaxVersion = version
		slow := &pieces{Conn: peer, c: c}
		far := tls.Client(slow, conf)
		hands := beside(t, func() {
			if err := far.Handshake(); err != nil {
				t.Error(err)
			}
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		wait(t, hands, "handshake")
		c.Start()
		c.awaitPark(t)
		slow.t = t
		want := text(5000)
		done := beside(t, func() {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
				t.Errorf("other bytes come back, %v", err)
			}
		})
		io.WriteString(far, want)
		wait(t, done, "answer")
		c.end(t)
	}
}

// pieces writes in small pieces, each when the other side is parked.
type pieces struct {
	net.Conn
	c *idler
	t testing.TB
}

func (p *pieces) Write(b []byte) (n int, err error) {
	if p.t == nil {
		return p.Conn.Write(b)
	}
	for len(b) > 0 {
		p.c.awaitPark(p.t)
		m, err := p.Conn.Write(b[:min(len(b), 97)])
		if n += m; err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// A connection that is busy has a goroutine, which it loses when it is quiet.
func TestOnlyABusyConnectionHasAGoroutine(t *testing.T) {
	if !sockio.Raw {
		t.Skip("every connection has one here")
	}
	defer Hasten(5*time.Millisecond, time.Hour)()
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.lastEvent = uint32((time.Since(epoch) - 2*time.Hour) / time.Millisecond) // the first event is no sign of being busy
	c.Start()
	c.awaitPark(t)
	exchange(t, peer, "first")
	c.awaitPark(t)
	runs := c.runs.Load()
	sweepEvery.Store(int64(time.Hour)) // or it is quiet when this process stalls
	exchange(t, peer, "second")
	for range 20 {
		exchange(t, peer, "more")
	}
	if n := c.runs.Load() - runs; n != 1 {
		t.Errorf("Serve was called %d times for a busy connection, want once", n)
	}
	until(t, "the connection is parked", func() bool { c.poller.sweep(); return c.isParked() })
	c.end(t)
}

// One message to each of many connections does not need as many goroutines.
func TestManyConnectionsThatWakeAtOnceShareWorkers(t *testing.T) {
	if !sockio.Raw {
		t.Skip("every connection has a goroutine here")
	}
	defer Hasten(time.Millisecond, 0)()
	const n = 200
	h := newHost(t)
	var most, running atomic.Int32
	var conns [n]*idler
	var peers [n]net.Conn
	for i := range n {
		nc, peer := tcpPair(t)
		c := newIdlerOf(h, nc, true)
		serve := c.serve
		c.serve = func() {
			now := running.Add(1)
			for {
				m := most.Load()
				if now <= m || most.CompareAndSwap(m, now) {
					break
				}
			}
			serve()
			running.Add(-1)
		}
		c.Start()
		conns[i], peers[i] = c, peer
	}
	for _, c := range conns {
		c.awaitPark(t)
	}
	most.Store(0)
	for _, peer := range peers {
		io.WriteString(peer, "hello")
	}
	for _, peer := range peers {
		got := make([]byte, 5)
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
	}
	if m := int(most.Load()); m > maxWorkers*runtime.GOMAXPROCS(0) {
		t.Errorf("%d ran at a time, want at most %d", m, maxWorkers*runtime.GOMAXPROCS(0))
	}
	for _, c := range conns {
		c.awaitPark(t)
	}
	if got := h.poller.Parked(); got != n {
		t.Errorf("%d are parked, want %d", got, n)
	}
	for _, c := range conns {
		c.end(t)
	}
}

// A parked connection meets its deadline, and no earlier.
func TestAParkedConnectionMeetsItsDeadline(t *testing.T) {
	defer Hasten(5*time.Millisecond, 0)()
	for _, k := range parkable() {
		var c *idler
		var at time.Time
		patiently(t, 300*time.Millisecond, func(d time.Duration) error {
			nc, _ := k.pair(t)
			c = newIdler(t, nc, k.ours)
			at = time.Now().Add(d)
			c.SetReadDeadline(at)
			c.Start()
			return c.parks(t)
		})
		err := wait(t, c.ended, "end")
		if early := time.Until(at); err != os.ErrDeadlineExceeded && !os.IsTimeout(err) || early > 0 {
			t.Errorf("%s: it ends with %v, %v before its deadline", k.name, err, early)
		}
		if got := c.ReadDeadline(); !got.Equal(at) {
			t.Errorf("%s: the deadline is %v now, want %v", k.name, got, at)
		}
		c.abort()
	}
}

// There is no event if the owner of an adopted connection closes it all the same.
func TestAParkedConnectionThatOthersCloseIsFound(t *testing.T) {
	nc, _ := tcpPair(t)
	c := newIdler(t, nc, false)
	c.Start()
	c.awaitPark(t)
	if sockio.Raw { // a sweep that comes before it is time to look again
		p := &c.poller
		p.mu.Lock()
		p.checked = time.Since(epoch)
		p.mu.Unlock()
		p.sweep()
	}
	nc.Close()
	if err := wait(t, c.ended, "end"); err == nil {
		t.Error("it ends without an error")
	}
	c.finish(true)
}

// TLS that may renegotiate waits in Read for its writes, and code that may wait keeps
// its goroutine.
func TestTLSThatMayRenegotiateIsNotParked(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	beside(t, func() { tls.Server(peer, serverTLS()).Handshake() })
	conf := clientTLS()
	conf.Renegotiation = tls.RenegotiateOnceAsClient
	if err := c.secure(context.Background(), conf, true, ""); err != nil {
		t.Fatal(err)
	}
	if c.parkable() {
		t.Error("it may be parked")
	}
	c.Start()
	c.end(t)
}

// Descriptors are used again at once, while events of their last connections are
// under way, and connections are woken and ended by others: each answer comes back to
// its own connection, and nothing is left.
func TestParkedConnectionsComeAndGoInAnyOrder(t *testing.T) {
	defer Hasten(200*time.Microsecond, 0)()
	end := time.Now().Add(300 * time.Millisecond)
	h := newHost(t)
	var sum atomic.Int64
	var all []<-chan struct{}
	for worker := range 8 {
		all = append(all, beside(t, func() {
			rnd := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := 0; time.Now().Before(end); i++ {
				nc, peer := pairOf(t, "tcp", "127.0.0.1:0")
				if nc == nil {
					return
				}
				c := newIdlerOf(h, nc, true)
				c.Start()
				for n := range rnd.IntN(20) {
					exchange(t, peer, fmt.Sprintf("%d %d %d", worker, i, n))
					sum.Add(1)
					if rnd.IntN(2) == 0 {
						c.Wake()
					}
					if rnd.IntN(8) == 0 {
						c.awaitPark(t)
					}
				}
				if rnd.IntN(2) == 0 {
					peer.Close()
					if err := wait(t, c.ended, "end"); err != io.EOF {
						t.Errorf("it ends with %v, want %v", err, io.EOF)
					}
				} else {
					c.order(func() { c.quit.Store(true) })
					wait(t, c.ended, "end")
				}
				c.abort()
				peer.Close()
			}
		}))
	}
	for _, done := range all {
		wait(t, done, "end")
	}
	if n := h.poller.Parked(); n != 0 {
		t.Errorf("%d connections are parked after the end", n)
	}
	if len(h.poller.free) != len(h.poller.slots) {
		t.Errorf("%d of %d slots are free", len(h.poller.free), len(h.poller.slots))
	}
	t.Logf("%d messages", sum.Load())
}

// pairOf is socketPair for goroutines of a test, which leaves the closing to them.
func pairOf(t testing.TB, network, addr string) (a, b net.Conn) {
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	defer ln.Close()
	if a, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Error(err)
		return nil, nil
	}
	if b, err = ln.Accept(); err != nil {
		t.Error(err)
		a.Close()
		return nil, nil
	}
	b.SetDeadline(time.Now().Add(watchdog))
	return a, b
}
