//go:build netcorefaults && linux

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

func init() { ofFaults = 1 }

// inject puts functions in place of the system calls until the end of the test.
func inject(t *testing.T, f *faults) {
	injected.Store(f)
	t.Cleanup(func() { injected.Store(nil) })
}

// descriptor returns that of a connection.
func descriptor(c *testConn) (fd uintptr) {
	c.control(func(n uintptr) { fd = n })
	return fd
}

// Short reads and writes change nothing but the number of calls.
func TestShortReadsAndWritesLoseNothing(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, k := range kinds[:3] {
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			fd := descriptor(c)
			inject(t, &faults{
				read: func(n uintptr, p []byte) (int, syscall.Errno) {
					if n == fd {
						p = p[:1+rand.IntN(len(p))]
					}
					return sockio.ReadFD(n, p)
				},
				write: func(n uintptr, views [][]byte) (int, syscall.Errno) {
					if n != fd {
						return sockio.WriteFD(n, views)
					}
					return sockio.WriteFD(n, [][]byte{views[0][:1+rand.IntN(len(views[0]))]})
				},
			})
			want := text(200_000)
			var far io.ReadWriter = peer
			if secure {
				far = tls.Client(peer, clientTLS())
			}
			done := beside(t, func() {
				io.WriteString(far, want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
					t.Errorf("%s, TLS %v: the peer read other bytes, %v", k.name, secure, err)
				}
			})
			if secure {
				if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
					t.Fatal(err)
				}
			} else {
				c.Open()
			}
			if got := c.readString(t, len(want)); got != want {
				t.Errorf("%s, TLS %v: other bytes were read", k.name, secure)
			}
			c.write(want)
			wait(t, done, "end of the peer")
			c.abort()
			injected.Store(nil)
		}
	}
}

// Every errno that a call may return ends the connection with that error, once.
func TestErrorsOfCallsEndTheConnection(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, syscall.ENOBUFS, syscall.EIO, syscall.EBADF, syscall.ENOTCONN} {
		nc, peer := tcpPair(t)
		c := newConn(t, nc, true)
		c.Open()
		fd := descriptor(c)
		inject(t, &faults{read: func(n uintptr, p []byte) (int, syscall.Errno) {
			if n == fd {
				return 0, errno
			}
			return sockio.ReadFD(n, p)
		}})
		if _, err := c.Read(100); err != errno {
			t.Errorf("Read = %v, want %v", err, errno)
		}
		c.finish(true)

		nc, peer = tcpPair(t)
		c = newConn(t, nc, true)
		c.Open()
		fd = descriptor(c)
		var calls atomic.Int32
		inject(t, &faults{write: func(n uintptr, views [][]byte) (int, syscall.Errno) {
			if n != fd {
				return sockio.WriteFD(n, views)
			}
			calls.Add(1)
			return 0, errno
		}})
		c.write("lost")
		if err := wait(t, c.failed, "failure"); err != errno {
			t.Errorf("WriteFailed got %v, want %v", err, errno)
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d writes after the first failed", n-1)
		}
		if lost := c.finish(false); lost < 4 {
			t.Errorf("lost %d bytes, want 4", lost)
		}
		peer.Close()
		injected.Store(nil)
	}
}

// A kernel that takes nothing, and a poller that reports it wrongly, must not keep a
// timeout or the end of a connection waiting.
func TestAWriterThatNeverGetsAnywhereStalls(t *testing.T) {
	nc, _ := tcpPair(t)
	c := newConn(t, nc, true)
	c.Open()
	fd := descriptor(c)
	inject(t, &faults{write: func(n uintptr, views [][]byte) (int, syscall.Errno) {
		if n == fd {
			return 0, syscall.EAGAIN
		}
		return sockio.WriteFD(n, views)
	}})
	c.order(func() { c.SetStall(50 * time.Millisecond) })
	c.write("stuck")
	if err := wait(t, c.failed, "failure"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("WriteFailed got %v, want a timeout", err)
	}
	if lost := c.finish(false); lost < 5 {
		t.Errorf("lost %d bytes, want 5", lost)
	}
}

// Where acknowledgements cannot be told, what the kernel accepts is all there is.
func TestWithoutAcknowledgementsAcceptedBytesCount(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newConn(t, nc, true)
	c.Open()
	inject(t, &faults{unacked: func(uintptr) (int, bool) { return 0, false }})
	c.write(text(100_000))
	beside(t, func() { io.Copy(io.Discard, peer); peer.Close() })
	if lost := c.finish(false); lost != 0 {
		t.Errorf("lost %d bytes", lost)
	}
}

// Acknowledgements that never come end the wait for them.
func TestAcknowledgementsThatNeverComeEndTheWait(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newConn(t, nc, true)
	c.Open()
	inject(t, &faults{unacked: func(uintptr) (int, bool) { return 1000, true }})
	c.order(func() { c.SetStall(50 * time.Millisecond) })
	c.write("some")
	beside(t, func() { io.Copy(io.Discard, peer) })
	if lost := c.finish(false); lost != 1000 {
		t.Errorf("lost %d bytes, want 1000", lost)
	}
}

// If the kernel watches no more descriptors, because of a lack of memory or because of
// fs.epoll.max_user_watches, or if there is no descriptor left for the epoll instance,
// connections keep their goroutines.
func TestAConnectionThatCannotBeWatchedKeepsItsGoroutine(t *testing.T) {
	for name, f := range map[string]*faults{
		"ENOSPC": {epollSet: func(*epoll, uintptr, bool, uint32, event) syscall.Errno { return syscall.ENOSPC }},
		"ENOMEM": {epollSet: func(*epoll, uintptr, bool, uint32, event) syscall.Errno { return syscall.ENOMEM }},
		"EMFILE": {epollOpen: func(*epoll) error { return syscall.EMFILE }},
	} {
		t.Log(name)
		inject(t, f)
		nc, peer := tcpPair(t)
		c := newIdler(t, nc, true)
		c.Start()
		for range 10 {
			exchange(t, peer, "hello")
		}
		if n := c.runs.Load(); n != 1 {
			t.Errorf("Serve was called %d times, want once", n)
		}
		if p := &c.poller; p.Failed() != 1 || p.Parked() != 0 || len(p.free) != len(p.slots) {
			t.Errorf("%d failures, %d are parked, %d of %d slots are free; want 1, 0, all", p.Failed(), p.Parked(), len(p.free), len(p.slots))
		}
		// The kernel has room again.
		injected.Store(nil)
		c.poller.mu.Lock()
		c.poller.retry = 0
		c.poller.mu.Unlock()
		undo := Hasten(time.Millisecond, 0)
		c.order(func() {}) // sweeps may have slowed down
		c.awaitPark(t)
		undo()
		exchange(t, peer, "hello")
		c.end(t)
	}
}

// A reset that a writer has received before the reader looks like an end of the stream. It
// is told apart by the state of the socket, unless the socket's own side was shut down.
func TestAnEndOfTheStreamIsAResetIfTheSocketSaysSo(t *testing.T) {
	for _, shut := range []bool{false, true} {
		nc, peer := tcpPair(t)
		c := newConn(t, nc, true)
		c.Open()
		fd, want := descriptor(c), error(syscall.ECONNRESET)
		if shut {
			want = io.EOF
			c.order(c.EndOutput)
			if _, err := io.ReadAll(peer); err != nil {
				t.Error(err)
			}
		}
		peer.Close()
		inject(t, &faults{wasReset: func(n uintptr) bool { return n == fd || sockio.WasReset(n) }})
		if _, err := c.readEnd(); err != want {
			t.Errorf("shut %t: Read = %v, want %v", shut, err, want)
		}
		c.finish(true)
	}
}

// While nothing is read, the end of the peer's side is found if the kernel reports it. If
// it is never reported, the goroutine can still be woken.
func TestWatchForTheEndReturnsWhatTheKernelReports(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newConn(t, nc, true)
	c.Open()
	fd := descriptor(c)
	var ended atomic.Bool
	asked := make(chan struct{}, 100)
	inject(t, &faults{hasEnded: func(n uintptr) bool {
		if n != fd {
			return sockio.HasEnded(n)
		}
		asked <- struct{}{}
		return ended.Load()
	}})
	io.WriteString(peer, "unread")
	peer.(closeWriter).CloseWrite()
	beside(t, func() {
		<-asked
		c.Wake()
	})
	if err := c.Watch(true); err != ErrWoken {
		t.Errorf("Watch = %v, want ErrWoken", err)
	}
	ended.Store(true)
	if err := c.Watch(true); err != io.EOF {
		t.Errorf("Watch = %v, want %v", err, io.EOF)
	}
	c.finish(false)
}

// If the socket cannot be checked for input, as after an error, it counts as input: the
// output is not written.
func TestUnsolicitedInputThatCannotBeCheckedKeepsOutputFromBeingWritten(t *testing.T) {
	for _, k := range parkable() {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		fd := descriptor(c)
		inject(t, &faults{hasInput: func(n uintptr) bool { return n == fd || !sockio.Quiet(n) }})
		c.order(c.ExpectNoInput)
		c.write("output")
		until(t, "the connection is cut", func() bool { c.Lock(); defer c.Unlock(); return c.cut })
		c.Lock()
		if !c.NothingWritten() {
			t.Errorf("%s: output counts as written", k.name)
		}
		c.Unlock()
		c.finish(true)
		if got := readAll(t, peer); got != "" {
			t.Errorf("%s: the peer got %q", k.name, got)
		}
	}
}

// The cost of unread bytes on a unix socket is measured with new sockets. If there are no
// descriptors for them, the wait for acknowledgements ends with the time of SetStall.
func TestOutputOfTLSWhoseCostIsUnknownEndsTheWait(t *testing.T) {
	nc, peer := unixPair(t)
	c := newConn(t, nc, true)
	tc := tls.Client(peer, clientTLS())
	beside(t, func() { tc.Handshake() })
	if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
		t.Fatal(err)
	}
	inject(t, &faults{cost: func(uintptr, int, int) int { return 0 }})
	c.write("read")
	if _, err := io.ReadFull(tc, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	c.order(func() { c.SetStall(50 * time.Millisecond) })
	c.finish(false)
	if got, err := io.ReadAll(tc); string(got) != "" || err != nil {
		t.Errorf("the peer got %q, %v", got, err)
	}
}

// Whatever the poller says, when and how often, each message is answered.
func TestEventsThatAreLateTwiceOrWrongDoNoHarm(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	var last []epollEvent // given before; of the goroutine of the poller
	inject(t, &faults{epollWait: func(ep *epoll, events []epollEvent) int {
		n := realEpollWait(ep, events[:2])
		for _, e := range events[:n] {
			last = append(last, e)
		}
		if n == 0 || rand.IntN(2) == 0 {
			return n
		}
		events[n] = last[rand.IntN(len(last))] // again, of any connection
		events[n+1] = epollEvent{Fd: rand.Int32(), Pad: rand.Int32()}
		events[n+2] = epollEvent{Fd: rand.Int32N(3), Pad: rand.Int32()}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		return n + 3
	}})
	h := newHost(t)
	for range 30 {
		var conns [3]*idler
		var dones []<-chan struct{}
		for i := range conns {
			nc, peer := tcpPair(t)
			conns[i] = newIdlerOf(h, nc, true)
			conns[i].Start()
			dones = append(dones, beside(t, func() {
				for n := range 10 {
					exchange(t, peer, fmt.Sprintf("%d %d", i, n))
				}
			}))
		}
		for i, c := range conns {
			wait(t, dones[i], "answers")
			c.end(t)
		}
	}
}

// A connection can be ended, and can be made to look for itself, although its poller
// never reports anything. A deadline ends it as well.
func TestAPollerThatIsSilentLeavesOrdersAndDeadlines(t *testing.T) {
	defer Hasten(5*time.Millisecond, 0)()
	inject(t, &faults{epollWait: func(*epoll, []epollEvent) int { return 0 }})
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.Start()
	c.awaitPark(t)
	io.WriteString(peer, "hello")
	c.Wake() // as a timeout that finds input does
	got := make([]byte, 5)
	if _, err := io.ReadFull(peer, got); err != nil {
		t.Error(err)
	}
	c.awaitPark(t)
	c.end(t)

	patiently(t, 300*time.Millisecond, func(d time.Duration) error {
		nc, _ = tcpPair(t)
		c = newIdler(t, nc, true)
		c.SetReadDeadline(time.Now().Add(d))
		c.Start()
		return c.parks(t)
	})
	if err := wait(t, c.ended, "end"); !os.IsTimeout(err) {
		t.Errorf("it ends with %v, want a timeout", err)
	}
	c.abort()
}

// Between the moment at which a goroutine says that it leaves and the one at which it
// has left, others may have reasons to run the connection. They leave that to the
// goroutine: if they ran the connection themselves and parked it again, the goroutine
// could take it back with what it knew of it before, without TLS for example.
func TestWhatComesWhileAGoroutineLeavesIsForThatGoroutine(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	for name, disturb := range map[string]func(c *idler, peer net.Conn){
		"an order":   func(c *idler, _ net.Conn) { c.Wake() },
		"two orders": func(c *idler, _ net.Conn) { c.Wake(); c.Wake() },
		"input": func(c *idler, peer net.Conn) {
			c.woken.Store(false)
			io.WriteString(peer, "x")
			until(t, "the poller has reported it", c.woken.Load)
		},
		"a deadline": func(c *idler, _ net.Conn) {
			p := &c.poller
			p.mu.Lock()
			p.slots[c.slot].deadline = 1
			p.due = 1
			p.mu.Unlock()
			p.sweep()
		},
	} {
		t.Run(name, func(t *testing.T) {
			nc, peer := tcpPair(t)
			c := newIdler(t, nc, true)
			c.Start()
			c.awaitPark(t)
			var left atomic.Int32
			inject(t, &faults{between: func(of *Conn, h handover) {
				if of == &c.Conn && h == inLeave && left.Add(1) == 1 {
					runs := c.runs.Load()
					disturb(c, peer)
					time.Sleep(time.Millisecond) // for a worker that should not run it
					if n := c.runs.Load() - runs; n != 0 {
						t.Errorf("Serve was called %d times meanwhile", n)
					}
					if p := c.place.Load(); p != placeRunning {
						t.Errorf("the place of the goroutine is %d, want %d", p, placeRunning)
					}
				}
			}})
			io.WriteString(peer, "hello")
			got := make([]byte, 5)
			io.ReadFull(peer, got)
			c.awaitPark(t)
			if n := left.Load(); n != 2 {
				t.Errorf("the goroutine left %d times, want twice", n)
			}
			if name == "input" {
				io.ReadFull(peer, got[:1])
			}
			exchange(t, peer, "hello")
			c.awaitPark(t)
			c.end(t)
			if n := c.poller.Parked(); n != 0 {
				t.Errorf("%d connections are parked after the end", n)
			}
		})
	}
}

// A goroutine that is stopped while it leaves does not take the connection back when
// others have run it meanwhile and have started TLS.
func TestAConnectionThatIsTakenBackHasItsTLS(t *testing.T) {
	defer Hasten(time.Millisecond, 0)()
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	c.serve = func() {
		for !c.quit.Load() {
			if c.upgrade.CompareAndSwap(true, false) {
				if err := c.Handshake(context.Background(), serverTLS(), false, nil); err != nil {
					t.Error(err)
				}
				c.Open()
			}
			if !c.step() {
				return
			}
		}
		c.Own()
		c.ended <- c.why
	}
	c.Start()
	c.awaitPark(t)
	var left atomic.Int32
	var again atomic.Bool // it was run by others, and is parked
	looked := make(chan struct{})
	inject(t, &faults{between: func(of *Conn, h handover) {
		switch {
		case of != &c.Conn:
		case h == inWake && again.Load():
			time.Sleep(10 * time.Millisecond) // the poller is slower than the goroutine
		case h == inLeave && left.Add(1) == 1:
			c.order(func() { c.Secure(); c.upgrade.Store(true) })
			for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end) && !again.Load(); time.Sleep(time.Millisecond) {
				c.Lock()
				again.Store(c.TLS() != nil && c.isParked())
				c.Unlock()
			}
			close(looked)
			if again.Load() {
				until(t, "the poller has reported input", c.woken.Load)
			}
		}
	}})
	io.WriteString(peer, "hello")
	io.ReadFull(peer, make([]byte, 5))
	far := tls.Client(peer, clientTLS())
	if err := far.Handshake(); err != nil {
		t.Fatal(err)
	}
	wait(t, looked, "end of the stop")
	exchange(t, far, "secret")
	c.end(t)
}

// The same with goroutines that are stopped for a while where a connection changes
// hands.
func TestEveryPairOfOrdersEndsHoweverHandOversAreDelayed(t *testing.T) {
	inject(t, &faults{between: func(*Conn, handover) {
		switch rand.IntN(8) {
		case 0:
			runtime.Gosched()
		case 1:
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		}
	}})
	everyPairOfOrders(t)
}
