package netcore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

func TestInputIsReadInOrderUpToItsEnd(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		want := text(300_000)
		beside(t, func() { io.WriteString(peer, want); peer.Close() })
		if got, err := c.readEnd(); got != want || err != io.EOF {
			t.Errorf("read %d bytes, %v, want %d and io.EOF", len(got), err, len(want))
		}
		c.finish(true)
	})
}

func TestOutputIsSentInOrderAndReported(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		want := text(700_000)
		c.write(want[:100]) // waits for Open
		if c.pending() != 100 {
			t.Errorf("pending before Open = %d, want 100", c.pending())
		}
		got := make([]byte, len(want))
		done := beside(t, func() { io.ReadFull(peer, got) })
		c.Open()
		c.write(want[100:])
		wait(t, done, "output")
		until(t, "all is reported", func() bool {
			c.Lock()
			defer c.Unlock()
			return c.sent == len(want) && c.sentAll && !c.Writing()
		})
		if string(got) != want {
			t.Error("the peer got other bytes than were written")
		}
		c.abort()
	})
}

func TestWakeEndsEveryWaitAndIsNotLostBefore(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		waits := map[string]func() error{
			"Read":      func() error { _, err := c.Read(100); return err },
			"Watch":     func() error { return c.Watch(false) },
			"Wait":      func() error { c.Wait(); return ErrWoken },
			"WaitUntil": func() error { c.WaitUntil(time.Now().Add(time.Hour)); return ErrWoken },
		}
		for name, f := range waits {
			c.Wake() // before
			if err := f(); err != ErrWoken {
				t.Errorf("%s after Wake = %v, want ErrWoken", name, err)
			}
			for range 200 { // meanwhile, wherever it is by then
				var seen atomic.Bool
				done := make(chan struct{})
				var order atomic.Bool
				go func() {
					defer close(done)
					for !order.Load() {
						if err := f(); err != ErrWoken {
							t.Errorf("%s = %v, want ErrWoken", name, err)
							return
						}
					}
					seen.Store(true)
				}()
				order.Store(true)
				c.Wake()
				wait(t, done, "end of "+name)
			}
		}
		c.abort()
	})
}

func TestAWakeBehindInputLosesNeither(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		const size = 200_000
		stop := make(chan struct{})
		beside(t, func() { io.WriteString(peer, text(size)) })
		beside(t, func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Wake()
				}
			}
		})
		if got := c.readString(t, size); got != text(size) {
			t.Error("other bytes were read than were sent")
		}
		close(stop)
		c.abort()
	})
}

func TestReadDeadlineOfTheUserIsAnErrorAndStaysBehindAWake(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		c.Wake()
		if _, err := c.Read(10); err != ErrWoken {
			t.Errorf("Read = %v, want ErrWoken", err)
		}
		for {
			_, err := c.Read(10)
			if err == ErrWoken {
				continue
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read = %v, want a timeout", err)
			}
			break
		}
		c.abort()
	})
}

func TestAResetIsSeenBehindBytesThatAreNotRead(t *testing.T) {
	for _, k := range kinds[:2] {
		if !k.raw {
			continue
		}
		for _, half := range []bool{false, true} {
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			c.Open()
			if half {
				peer.(*net.TCPConn).CloseWrite()
				if _, err := c.Read(10); err != io.EOF {
					t.Fatal(err)
				}
			} else {
				io.WriteString(peer, "unread")
			}
			beside(t, func() {
				if !half {
					io.WriteString(peer, "more") // wakes Watch, which waits on
				}
				resetBy(peer)
			})
			if err := c.Watch(false); err != syscall.ECONNRESET {
				t.Errorf("%s, after the end: %v: Watch = %v, want a reset", k.name, half, err)
			}
			c.abort()
		}
	}
}

func TestWatchDoesNotTakeAnEndForAFailure(t *testing.T) {
	for _, k := range kinds[:3] {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		io.WriteString(peer, "bytes")
		if k.name == "unix" {
			peer.Close()
		} else {
			peer.(*net.TCPConn).CloseWrite()
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if err := c.Watch(false); !errors.Is(err, os.ErrDeadlineExceeded) && k.raw {
			t.Errorf("%s: Watch = %v, want a timeout", k.name, err)
		}
		c.SetReadDeadline(time.Time{})
		if got, err := c.readEnd(); got != "bytes" || err != io.EOF {
			t.Errorf("%s: afterwards %q, %v were read", k.name, got, err)
		}
		c.finish(true)
	}
}

func TestEndOutputComesBehindTheOutputAndLeavesTheInput(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		c.write("last words")
		c.order(c.EndOutput)
		if got := readAll(t, peer); got != "last words" {
			t.Errorf("the peer read %q", got)
		}
		io.WriteString(peer, "answer")
		peer.Close()
		if got, err := c.readEnd(); got != "answer" || err != io.EOF {
			t.Errorf("read %q, %v", got, err)
		}
		if lost := c.finish(true); lost != 0 {
			t.Errorf("lost %d bytes", lost)
		}
	})
}

func TestEndOutputWithoutAHalfCloseFails(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	c := newConn(t, a, false)
	c.Lock()
	if c.CanEndOutput() {
		t.Error("CanEndOutput of a pipe = true")
	}
	c.Unlock()
	c.order(c.EndOutput)
	c.Open()
	if err := wait(t, c.failed, "failure"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("WriteFailed got %v", err)
	}
	c.abort()
}

func TestFinishDeliversEverythingAndReadsMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		const size = 3 << 20
		c.write(text(size))
		sent := make(chan struct{})
		beside(t, func() { // a peer that writes before it reads
			defer close(sent)
			io.WriteString(peer, text(size))
		})
		got := make(chan int, 1)
		beside(t, func() {
			<-sent
			n, _ := io.Copy(io.Discard, peer)
			got <- int(n)
			peer.Close()
		})
		lost := c.finish(false)
		if n := wait(t, got, "end of the peer"); n != size || lost != 0 {
			t.Errorf("the peer read %d of %d bytes, %d are lost", n, size, lost)
		}
	})
}

func TestFinishTellsWhatAPeerThatReadsNothingDidNotGet(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		c.order(func() { c.SetStall(50 * time.Millisecond) })
		const size = 16 << 20
		c.write(text(size))
		lost := c.finish(false)
		if err := wait(t, c.failed, "failure"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("WriteFailed got %v", err)
		}
		if lost < size/4 {
			t.Errorf("lost %d of %d bytes", lost, size)
		}
	})
}

// inKernel is a size that a kernel buffers for sending, also where the maximum is the usual
// one of Linux, 208 KB of 2 bytes each, and more than one of 64 KB takes in receiving.
const inKernel = 256 << 10

// What fits in the buffers of the kernels is written, but not delivered.
func TestFinishWaitsForAcknowledgements(t *testing.T) {
	eachProbed(t, func(t *testing.T, open func(nc net.Conn) *testConn) {
		nc, peer := tcpPair(t)
		peer.(*net.TCPConn).SetReadBuffer(64 << 10)
		nc.(*net.TCPConn).SetWriteBuffer(4 << 20)
		c := open(nc)
		c.order(func() { c.SetStall(100 * time.Millisecond) })
		c.write(text(inKernel))
		until(t, "all is with the kernel", func() bool { return c.pending() == 0 })
		if lost := c.finish(false); lost == 0 {
			t.Error("nothing is lost although the peer has read nothing")
		}

		nc, peer = tcpPair(t)
		peer.(*net.TCPConn).SetReadBuffer(64 << 10)
		nc.(*net.TCPConn).SetWriteBuffer(4 << 20)
		c = open(nc)
		c.order(func() { c.SetStall(watchdog / 2) })
		c.write(text(inKernel))
		beside(t, func() {
			time.Sleep(50 * time.Millisecond) // a peer that takes its time
			io.Copy(io.Discard, peer)
			peer.Close()
		})
		if lost := c.finish(false); lost != 0 {
			t.Errorf("%d bytes are lost although the peer read all", lost)
		}
	})
}

// A connection is not closed under the wait for acknowledgements, however long it
// takes.
func TestFinishWaitsForAcknowledgementsAsLongAsTheyCome(t *testing.T) {
	eachProbed(t, func(t *testing.T, open func(nc net.Conn) *testConn) {
		patiently(t, 2*time.Second, func(stall time.Duration) error {
			nc, peer := tcpPair(t)
			peer.(*net.TCPConn).SetReadBuffer(64 << 10)
			nc.(*net.TCPConn).SetWriteBuffer(4 << 20)
			c := open(nc)
			c.order(func() { c.SetStall(stall) })
			c.write(text(inKernel))
			until(t, "all is with the kernel", func() bool { return c.pending() == 0 })
			cut := make(chan error, 1)
			beside(t, func() {
				defer peer.Close()
				p := make([]byte, 16<<10)
				for n := 0; n < inKernel; n += len(p) {
					if _, err := io.ReadFull(peer, p); err != nil {
						cut <- fmt.Errorf("cut after %d bytes: %w", n, err)
						return
					}
					time.Sleep(max(4*stuckAfter, 2*stall) * time.Duration(len(p)) / inKernel)
				}
				cut <- nil
			})
			if lost := c.finish(false); lost != 0 {
				return fmt.Errorf("%d bytes are lost, and the peer says: %w", lost, <-cut)
			}
			return wait(t, cut, "end of the peer")
		})
	})
}

// A goroutine that reads is not woken by a quiet close, but the peer gets everything
// and the end.
func TestAQuietCloseLeavesTheGoroutineInReadUntilThePeerEnds(t *testing.T) {
	for _, k := range kinds[:3] {
		t.Run(k.name, func(t *testing.T) {
			if !k.raw {
				t.Skip("sockets are not read raw on this system")
			}
			t.Cleanup(Prolong(watchdog)) // the peer may take long to end
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			c.Open()
			read := make(chan error, 1)
			beside(t, func() {
				_, err := c.Read(4 << 10)
				read <- err
			})
			until(t, "the goroutine reads", func() bool { return c.place.Load() == placeRead })
			c.write("the last words")
			c.Lock()
			c.ClosingQuietly()
			c.Unlock()
			if got := readAll(t, peer); got != "the last words" {
				t.Errorf("the peer read %q", got)
			}
			peer.Close()
			if err := wait(t, read, "end of Read"); err != io.EOF {
				t.Errorf("Read = %v, want io.EOF", err)
			}
			if lost := c.Finish(true); lost != 0 {
				t.Errorf("lost %d bytes", lost)
			}
		})
	}
}

// The peer has Linger to end its side, and is not given it again by Finish.
func TestAQuietCloseOfAPeerThatStaysEndsAfterTheLinger(t *testing.T) {
	nc, peer := tcpPair(t)
	if _, ok := sockio.Descriptor(nc); !ok {
		t.Skip("sockets are not read raw on this system")
	}
	c := newConn(t, nc, true)
	c.Open()
	read := make(chan error, 1)
	beside(t, func() {
		_, err := c.Read(4 << 10)
		read <- err
	})
	until(t, "the goroutine reads", func() bool { return c.place.Load() == placeRead })
	before := time.Now()
	c.write("the last words")
	c.Lock()
	c.ClosingQuietly()
	c.Unlock()
	if err := wait(t, read, "end of Read"); err != ErrWoken {
		t.Errorf("Read = %v, want ErrWoken", err)
	}
	now := time.Now()
	if from := c.lingerStart(now); now.Sub(before) < Linger || now.Sub(from) < Linger {
		t.Errorf("the goroutine was woken after %v, and lingers since %v; want %v", now.Sub(before), now.Sub(from), Linger)
	}
	if lost := c.Finish(false); lost != 0 {
		t.Errorf("lost %d bytes", lost)
	}
	peer.Close()
}

func TestAbortEndsAQuietCloseAtOnce(t *testing.T) {
	nc, _ := tcpPair(t)
	c := newConn(t, nc, true)
	c.Open()
	read := make(chan error, 1)
	beside(t, func() {
		_, err := c.Read(4 << 10)
		read <- err
	})
	until(t, "the goroutine reads", func() bool { return c.place.Load() == placeRead })
	c.Lock()
	c.ClosingQuietly()
	c.Unlock()
	until(t, "its end is sent", func() bool {
		c.Lock()
		defer c.Unlock()
		return c.x != nil && c.x.since > 0 || !c.Raw()
	})
	c.Lock()
	c.Cut(true)
	c.Closing()
	c.Unlock()
	c.deadlineMu.Lock()
	if c.alarm && !c.interrupted {
		t.Error("the goroutine is left to the alarm")
	}
	c.deadlineMu.Unlock()
	if err := wait(t, read, "end of Read"); err != ErrWoken {
		t.Errorf("Read = %v, want ErrWoken", err)
	}
	c.Finish(false)
}

func TestFinishTellsOfAResetByThePeer(t *testing.T) {
	eachProbed(t, func(t *testing.T, open func(nc net.Conn) *testConn) {
		nc, peer := tcpPair(t)
		c := open(nc)
		c.order(func() { c.SetStall(watchdog) })
		c.write(text(8 << 20))
		beside(t, func() {
			io.ReadFull(peer, make([]byte, 1<<20))
			resetBy(peer)
		})
		if lost := c.finish(false); lost == 0 {
			t.Error("nothing is lost although the peer has reset the connection")
		}
		wait(t, c.failed, "failure")
	})
}

func TestFinishTellsOfAResetOfWhatTheKernelHad(t *testing.T) {
	eachProbed(t, func(t *testing.T, open func(nc net.Conn) *testConn) {
		nc, peer := tcpPair(t)
		peer.(*net.TCPConn).SetReadBuffer(64 << 10)
		nc.(*net.TCPConn).SetWriteBuffer(4 << 20)
		c := open(nc)
		c.order(func() { c.SetStall(watchdog) })
		c.write(text(inKernel))
		until(t, "all is with the kernel", func() bool { return c.pending() == 0 })
		beside(t, func() {
			time.Sleep(50 * time.Millisecond)
			resetBy(peer)
		})
		if lost := c.finish(false); lost == 0 {
			t.Error("nothing is lost although the peer has reset the connection")
		}
		c.Lock()
		defer c.Unlock()
		if !errors.Is(c.LossCause(), syscall.ECONNRESET) {
			t.Errorf("LossCause = %v, want the reset", c.LossCause())
		}
	})
}

// A peer that takes less in the time of a stall than the kernels buffer makes no
// write return, but it acknowledges.
func TestAcknowledgementsAreProgress(t *testing.T) {
	eachProbed(t, func(t *testing.T, open func(nc net.Conn) *testConn) {
		patiently(t, 400*time.Millisecond, func(stall time.Duration) error {
			nc, peer := tcpPair(t)
			peer.(*net.TCPConn).SetReadBuffer(16 << 10)
			nc.(*net.TCPConn).SetWriteBuffer(2 << 20)
			c := open(nc)
			c.order(func() { c.SetStall(stall) })
			c.write(text(16 << 20))
			defer c.abort()
			p := make([]byte, 16<<10)
			for end := time.Now().Add(4 * stall); time.Now().Before(end); time.Sleep(stall / 20) {
				if _, err := io.ReadFull(peer, p); err != nil {
					return fmt.Errorf("cut: %w", err)
				}
			}
			return c.failure()
		})
	})
}

func TestASlowPeerIsNoStall(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		patiently(t, 600*time.Millisecond, func(stall time.Duration) error {
			nc, peer := k.pair(t)
			if tc, ok := peer.(*net.TCPConn); ok {
				tc.SetReadBuffer(64 << 10)
			}
			c := newConn(t, nc, k.ours)
			c.Open()
			c.order(func() { c.SetStall(stall) })
			const size = 4 << 20
			c.write(text(size))
			defer c.abort()
			p := make([]byte, 128<<10)
			for n := 0; n < size; time.Sleep(stall / 20) { // 32 times
				m, err := io.ReadFull(peer, p)
				if n += m; err != nil {
					return fmt.Errorf("cut after %d bytes: %w", n, err)
				}
			}
			return c.failure()
		})
	})
}

func TestCutEndsAWriterThatWaits(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		c.write(text(16 << 20))
		until(t, "the writer waits", func() bool {
			c.Lock()
			defer c.Unlock()
			return c.Blocked()
		})
		c.abort()
		if n := c.pending(); n != 0 {
			t.Errorf("%d bytes are pending after the end", n)
		}
		select {
		case err := <-c.failed:
			t.Error("WriteFailed got", err)
		default:
		}
	})
}

func TestPausedOutputIsHeldAlsoWhereTheWriterWaits(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		patiently(t, 300*time.Millisecond, func(stall time.Duration) error {
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			c.Open()
			c.order(func() { c.SetStall(stall) })
			const size = 16 << 20
			c.write(text(size))
			c.Lock()
			c.PauseOutput(true)
			c.Unlock()
			if k.raw { // others cannot be interrupted: a writer may wait within Write
				until(t, "no writer has it", func() bool {
					c.Lock()
					defer c.Unlock()
					return !c.Writing()
				})
			}
			time.Sleep(stall + 100*time.Millisecond)
			c.order(func() { c.SetStall(watchdog) })
			got := make(chan int, 1)
			beside(t, func() { n, _ := io.Copy(io.Discard, peer); got <- int(n); peer.Close() })
			c.order(func() { c.PauseOutput(false) })
			c.finish(false)
			if n := wait(t, got, "end of the peer"); n != size {
				return fmt.Errorf("the peer read %d of %d bytes", n, size)
			}
			return nil
		})
	})
}

// noDeadlineConn has deadlines without effect.
type noDeadlineConn struct {
	net.Conn
	err error
}

func (d noDeadlineConn) SetDeadline(time.Time) error      { return d.err }
func (d noDeadlineConn) SetReadDeadline(time.Time) error  { return d.err }
func (d noDeadlineConn) SetWriteDeadline(time.Time) error { return d.err }

func TestAConnectionWithoutDeadlinesEnds(t *testing.T) {
	for name, err := range map[string]error{"an error": errDeaf, "nothing": nil} {
		for _, output := range []int{0, 100_000} {
			a, b := net.Pipe()
			defer b.Close()
			c := newConn(t, noDeadlineConn{a, err}, false)
			c.Open()
			c.order(func() { c.SetStall(100 * time.Millisecond) })
			done := make(chan struct{})
			go func() {
				defer close(done)
				over := false
				for { // as a user does
					_, err := c.Read(100)
					if c.Lock(); c.closing != notClosing {
						over = err != ErrWoken
						c.Unlock()
						break
					}
					c.Unlock()
				}
				c.Finish(over)
			}()
			if output > 0 {
				c.write(text(output))
			}
			until(t, "the goroutine reads", func() bool { return c.place.Load() == placeRead })
			c.Lock()
			c.Closing()
			c.Unlock()
			wait(t, done, "end of a connection whose deadlines return "+name)
		}
	}
}

func TestReleaseFlushesAndReadsNothing(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		c.write(text(100_000))
		beside(t, func() {
			if got := make([]byte, 100_000); true {
				io.ReadFull(peer, got)
			}
			io.WriteString(peer, "for the next owner")
			peer.Close()
		})
		out := c.Release()
		if got := readAll(t, out); got != "for the next owner" {
			t.Errorf("the next owner read %q", got)
		}
		out.Close()
	})
}

func TestTLSBothWays(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		want := text(500_000)
		done := beside(t, func() {
			tc := tls.Client(peer, clientTLS())
			go io.WriteString(tc, want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(tc, got); err != nil || string(got) != want {
				t.Errorf("the peer read other bytes, %v", err)
			}
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		c.write(want)
		if got := c.readString(t, len(want)); got != want {
			t.Error("other bytes were read than were sent")
		}
		until(t, "all is sent", func() bool { return c.pending() == 0 })
		c.Lock()
		if c.sent != len(want) {
			t.Errorf("%d bytes were reported, want %d", c.sent, len(want))
		}
		c.Unlock()
		wait(t, done, "end of the peer")
		c.abort()
	})
}

// What is written before Secure goes out in the clear, what is written after it is
// encrypted, and early bytes are the start of the handshake.
func TestTLSBeginsWhereTheClearTextEnds(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		sent := make(chan struct{})
		beside(t, func() {
			tc := tls.Client(peer, clientTLS())
			defer tc.Close()
			got := make([]byte, 6)
			io.ReadFull(&noteFirst{peer, sent}, got)
			if string(got) != "clear\n" {
				t.Errorf("the peer read %q in the clear", got)
			}
			io.WriteString(tc, "secret")
			if got := readAll(t, tc); got != "encrypted" {
				t.Errorf("the peer read %q over TLS", got)
			}
		})
		c.write("clear\n")
		c.Lock()
		c.Secure()
		c.Unlock()
		c.write("encrypted")
		first := c.readString(t, 3) // of the ClientHello
		if err := c.Handshake(context.Background(), serverTLS(), false, []byte(first)); err != nil {
			t.Fatal(err)
		}
		c.Open()
		if got := c.readString(t, 6); got != "secret" {
			t.Errorf("read %q over TLS", got)
		}
		if lost := c.finish(false); lost != 0 {
			t.Errorf("lost %d bytes", lost)
		}
	})
}

type noteFirst struct {
	net.Conn
	read chan struct{}
}

func TestAHandshakeEndsWithItsContext(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := c.secure(ctx, serverTLS(), false, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Handshake = %v, want the end of the context", err)
		}
		c.finish(false)
	})
}

func TestAHandshakeThatFailsSendsItsAlert(t *testing.T) {
	eachSocket(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		done := beside(t, func() {
			defer peer.Close()
			conf := clientTLS()
			conf.MaxVersion = tls.VersionTLS10
			conf.MinVersion = tls.VersionTLS10
			err := tls.Client(peer, conf).Handshake()
			if err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
				t.Errorf("the peer's handshake = %v, want the alert", err)
			}
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err == nil {
			t.Fatal("the handshake succeeded")
		}
		c.finish(false)
		wait(t, done, "end of the peer")
	})
}

func TestGoexitAndPanicInAHandshakeAreErrors(t *testing.T) {
	for name, f := range map[string]func(){"panic": func() { panic("in the callback") }, "Goexit": t.SkipNow} {
		if name == "Goexit" {
			continue // SkipNow would skip this test: see the tests of the loop
		}
		nc, peer := tcpPair(t)
		c := newConn(t, nc, true)
		beside(t, func() { tls.Client(peer, clientTLS()).Handshake() })
		conf := serverTLS()
		conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { f(); return nil, nil }
		if err := c.secure(context.Background(), conf, false, ""); err == nil || !strings.Contains(err.Error(), "in the callback") {
			t.Errorf("%s: Handshake = %v", name, err)
		}
		c.finish(false)
	}
}

func TestATLSEndWithoutCloseNotifyIsNotAnEnd(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		for _, proper := range []bool{true, false} {
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			beside(t, func() {
				tc := tls.Client(peer, clientTLS())
				io.WriteString(tc, "some")
				if proper {
					tc.Close()
				} else {
					peer.Close()
				}
			})
			if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
				t.Fatal(err)
			}
			got, err := c.readEnd()
			if got != "some" || proper != (err == io.EOF) || proper == errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("proper %v: read %q, %v", proper, got, err)
			}
			c.finish(true)
		}
	})
}

// crypto/tls writes an alert under the lock that a Write holds. Neither may wait for
// the peer.
func TestABadRecordFromATLSPeerThatReadsNothingEndsReading(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		ready, blocked := make(chan struct{}), make(chan struct{})
		beside(t, func() {
			tls.Client(peer, clientTLS()).Handshake()
			close(ready)
			<-blocked
			peer.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...))
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		<-ready
		c.order(func() { c.SetStall(100 * time.Millisecond) })
		c.write(text(16 << 20))
		until(t, "the writer waits", func() bool {
			c.Lock()
			defer c.Unlock()
			return c.Blocked()
		})
		close(blocked)
		if _, err := c.readEnd(); err == io.EOF {
			t.Errorf("read %v, want the error of the record", err)
		}
		if lost := c.finish(true); lost == 0 {
			t.Error("nothing is lost although the peer reads nothing")
		}
	})
}

func TestCloseNotifyAndAlertsNeverWait(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newConn(t, nc, true)
	done := beside(t, func() { tls.Client(peer, clientTLS()).Handshake() })
	if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
		t.Fatal(err)
	}
	wait(t, done, "handshake")
	c.order(func() { c.SetStall(50 * time.Millisecond) })
	c.write(text(16 << 20))
	c.order(c.EndOutput)
	if lost := c.finish(false); lost < 1<<20 {
		t.Errorf("lost %d bytes", lost)
	}
}

func TestReleaseOfTLSGivesAWorkingConnection(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		c := newConn(t, nc, k.ours)
		beside(t, func() {
			tc := tls.Client(peer, clientTLS())
			got := make([]byte, 5)
			io.ReadFull(tc, got)
			io.WriteString(tc, "there "+string(got))
			if k.name != "pipe" {
				readAll(t, tc)
			}
			tc.Close()
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		out := c.Release()
		out.SetDeadline(time.Now().Add(watchdog))
		io.WriteString(out, "hello")
		got := make([]byte, 11)
		if _, err := io.ReadFull(out, got); err != nil || string(got) != "there hello" {
			t.Errorf("read %q, %v", got, err)
		}
		out.Close()
	})
}

// ofFaults is how many allocations of a message are due to calls that can be made to
// fail: the views escape to them.
var ofFaults = 0.0

// An idle connection holds no buffer, TLS included, and reading and writing allocate
// nothing.
func TestReadingAndWritingAllocateNothing(t *testing.T) {
	for _, secure := range []bool{false, true} {
		nc, peer := tcpPair(t)
		c := newConn(t, nc, true)
		c.Open()
		var far io.ReadWriter = peer
		if secure {
			tc := tls.Client(peer, clientTLS())
			far = tc
			done := beside(t, func() { tc.Handshake() })
			if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
				t.Fatal(err)
			}
			wait(t, done, "handshake")
		}
		message := []byte("a message of some bytes")
		got := make([]byte, len(message))
		round := func() {
			far.Write(message)
			for {
				b, err := c.Read(4 << 10)
				if err == ErrWoken {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				c.Lock()
				c.Queue().Append(b.Bytes())
				c.Send()
				c.Unlock()
				b.Release()
				break
			}
			io.ReadFull(far, got)
		}
		for range 100 {
			round()
		}
		allowed := ofFaults
		if secure {
			allowed += 4 // of crypto/tls, on both sides
		}
		if n := testing.AllocsPerRun(200, round); n > allowed && !raceEnabled {
			t.Errorf("TLS %v: %v allocations for a message to and fro, want %v", secure, n, allowed)
		}
		c.abort()
	}
}
