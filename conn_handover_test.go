package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/sockio"
)

// proxy returns the address of a proxy to addr, with a small high-water mark.
func proxy(t testing.TB, l *eventloop.Loop, addr string) (ln *eventloop.Listener, piped chan error) {
	t.Helper()
	piped = make(chan error, 100)
	note := func(n int64, err error) { piped <- err }
	ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		AllowHalfOpen: true,
		HighWater:     32 << 10,
		OnConnect: func(c *eventloop.Conn) {
			// Data of c may be here before the other side is up.
			dst, err := l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
				AllowHalfOpen: true, HighWater: 32 << 10,
				OnEvent: func(*eventloop.Conn, error) {},
			})
			if err != nil {
				t.Error(err)
				return
			}
			c.Pipe(dst).Then(note)
			dst.Pipe(c).Then(note)
		},
		OnData: func(*eventloop.Conn, []byte) { t.Error("OnData of a connection that is piped") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return ln, piped
}

func TestPipeMakesAProxyThatKeepsEveryByteAndBothEnds(t *testing.T) {
	l, _ := startLoop(t, nil)
	server, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, piped := proxy(t, l, server.Addr().String())
	for _, size := range []int{0, 1, 5 << 20} {
		peer := dialPeer(t, ln.Addr())
		want := bytesOf(size)
		background(t, func() {
			peer.Write(want)
			peer.(*net.TCPConn).CloseWrite()
		})
		if got := readAll(t, peer); got != string(want) {
			t.Errorf("got %d bytes back, want %d, equal", len(got), size)
		}
		wantEqual(t, "one way", wait(t, piped, "end of a pipe"), nil)
		wantEqual(t, "other way", wait(t, piped, "end of a pipe"), nil)
		peer.Close()
	}
	server.Close()
	ln.Close()
	idle(t, l)
}

func TestPipeDirectionsDoNotWaitForEachOther(t *testing.T) {
	// A peer that writes all before it reads, while the other side writes as well:
	// a proxy that stops reading from a peer that does not read would wait forever.
	l, _ := startLoop(t, nil)
	peers := servePeers(t)
	ln, piped := proxy(t, l, peers.addr())
	client := dialPeer(t, ln.Addr())
	const size = 16 << 20
	io.WriteString(client, "x")
	server := peers.next(t)
	readString(t, server, 1)
	answer := background(t, func() {
		server.Write(bytesOf(size))
		server.CloseWrite()
	})
	got := make(chan int, 1)
	background(t, func() { b, _ := io.ReadAll(server); got <- len(b) })
	client.Write(bytesOf(size)) // reads nothing meanwhile
	client.(*net.TCPConn).CloseWrite()
	wantEqual(t, "bytes at the server", wait(t, got, "end at the server"), size)
	wantEqual(t, "bytes at the client", len(readAll(t, client)), size)
	<-answer
	wait(t, piped, "end of a pipe")
	wait(t, piped, "end of a pipe")
	client.Close()
	ln.Close()
}

func TestPipeHoldsBackASourceWhoseTargetDoesNotRead(t *testing.T) {
	for _, chunk := range []int{1, 32 << 10} {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			src, in := adoptPipe(t, l, nil)
			dst, out := adoptPipe(t, l, &eventloop.ConnConfig{HighWater: 10000})
			f := src.Pipe(dst)
			total := 0
			in.SetWriteDeadline(time.Now().Add(time.Second))
			for {
				n, err := in.Write(bytesOf(chunk))
				if total += n; err != nil {
					break
				}
			}
			if most := 10000 + 2*64<<10; total > most {
				t.Errorf("a source sent %d bytes, want at most %d", total, most)
			}
			in.SetWriteDeadline(time.Time{})
			go in.Close()
			b, err := io.ReadAll(out)
			wantEqual(t, "bytes", len(b), total)
			wantEqual(t, "error", err, nil)
			n, err := f.Wait(context.Background())
			wantEqual(t, "bytes of the future", n, int64(total))
			wantEqual(t, "error of the future", err, nil)
			synctest.Wait()
			wantEqual(t, "the target, which knows no CloseWrite, is closed", dst.Closed(), true)
			out.Close()
		})
	}
}

func TestPipeTakesWhatArrivesFromTheCallOn(t *testing.T) {
	for range 200 {
		l, end := startLoop(t, nil)
		var dst *eventloop.Conn
		r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.Pipe(dst) }})
		dst, out := accept(t, l, nil)
		ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
		if err != nil {
			t.Fatal(err)
		}
		in := dialPeer(t, ln.Addr())
		io.WriteString(in, "data")
		in.Close()
		wantEqual(t, "piped", readAll(t, out), "data")
		out.Close()
		r.wait(t)
		wantEqual(t, "OnData", r.received(), "")
		wantEqual(t, "event", r.event(t), io.EOF)
		ln.Close()
		end()
	}
}

func TestPipeErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		result := func(f *eventloop.Future[int64]) error {
			_, err := f.Wait(context.Background())
			return err
		}
		c, peer := adoptPipe(t, l, nil)
		d, other := adoptPipe(t, l, nil)
		for _, dst := range []*eventloop.Conn{nil, c} {
			if err := result(c.Pipe(dst)); err == nil {
				t.Errorf("Pipe(%v) succeeded", dst)
			}
		}
		second := eventloop.New(nil)
		release := second.Hold()
		ended := make(chan struct{})
		go func() { second.Run(context.Background()); close(ended) }()
		synctest.Wait()
		foreign, far := adoptPipe(t, second, nil)
		if err := result(c.Pipe(foreign)); err == nil {
			t.Error("Pipe to a connection of another loop succeeded")
		}
		foreign.Abort()
		far.Close()
		release()
		<-ended

		f := c.Pipe(d)
		if err := result(c.Pipe(d)); err == nil {
			t.Error("a second Pipe succeeded")
		}

		t.Log("a target that closes, with nothing on its way")
		d.Close()
		wantEqual(t, "Pipe", result(f), net.ErrClosed)
		r, cfg := newTape(nil)
		c.SetCallbacks(cfg)
		io.WriteString(peer, "for OnData again")
		synctest.Wait()
		wantEqual(t, "OnData", r.received(), "for OnData again")
		other.Close()

		t.Log("a target that closes while its source is held back")
		d, other = adoptPipe(t, l, &eventloop.ConnConfig{HighWater: 1})
		f = c.Pipe(d)
		io.WriteString(peer, "two chunks")
		go io.WriteString(peer, "for the next reader")
		synctest.Wait()
		d.Abort()
		wantEqual(t, "Pipe", result(f), net.ErrClosed)
		synctest.Wait()
		wantEqual(t, "OnData", r.received(), "for OnData againfor the next reader")
		other.Close()

		t.Log("a source that fails")
		rd, cd := newTape(nil)
		d, other = adoptPipe(t, l, cd)
		f = c.Pipe(d)
		c.SetTimeouts(time.Second, 0)
		if err := result(f); !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("Pipe = %v", err)
		}
		<-r.closed
		<-rd.closed
		wantEqual(t, "callbacks of the target", rd.order(), "connect close")
		if err := r.event(t); !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v", err)
		}
		peer.Close()
		other.Close()

		t.Log("a source that is closed")
		rd, cd = newTape(nil)
		d, other = adoptPipe(t, l, cd)
		c, peer = adoptPipe(t, l, nil)
		f = c.Pipe(d)
		synctest.Wait()
		c.Close()
		wantEqual(t, "Pipe", result(f), net.ErrClosed)
		<-rd.closed
		peer.Close()
		other.Close()
	})
}

func TestPipeOfSeveralSourcesIntoOneTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		dst, out := adoptPipe(t, l, &eventloop.ConnConfig{HighWater: 1000, AllowHalfOpen: true})
		const sources, size = 5, 100 << 10
		for range sources {
			src, in := adoptPipe(t, l, nil)
			src.Pipe(dst).Then(nil)
			go in.Write(bytesOf(size)) // and stays open
		}
		if _, err := io.ReadFull(out, make([]byte, sources*size)); err != nil {
			t.Error(err)
		}
		l.Stop()
		<-l.Done()
		out.Close()
	})
}

func TestPipeIsEndedByTheEndOfTheLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		src, in := adoptPipe(t, l, nil)
		dst, out := adoptPipe(t, l, nil)
		f := src.Pipe(dst)
		synctest.Wait()
		l.Stop()
		if _, err := f.Wait(context.Background()); err != eventloop.ErrLoopClosed {
			t.Errorf("Pipe = %v, want ErrLoopClosed", err)
		}
		<-l.Done()
		in.Close()
		out.Close()
	})
}

func TestDetachGivesUndeliveredBytesFirstAndLosesNone(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		for range 40 {
			l, end := startLoop(t, nil)
			detached := make(chan *eventloop.Future[net.Conn], 1)
			n := 0
			r, cfg := newTape(&eventloop.ConnConfig{
				ReadBufferSize: 100,
				OnData: func(c *eventloop.Conn, data []byte) {
					if n++; n == 3 {
						c.WriteString("still from the loop; ")
						detached <- c.Detach()
					}
				},
			})
			_, peer := join(t, l, cfg)
			want := bytesOf(100 << 10)
			background(t, func() {
				peer.Write(want)
				peer.(interface{ CloseWrite() error }).CloseWrite()
			})
			nc, err := await(t, wait(t, detached, "Detach"))
			if err != nil {
				t.Fatal(err)
			}
			r.wait(t)
			wantEqual(t, "callbacks", r.count("close"), 1)
			rest, err := io.ReadAll(nc)
			wantEqual(t, "error", err, nil)
			if got := r.received() + string(rest); got != string(want) {
				t.Errorf("%d bytes by OnData and %d by Read are not the %d that were sent", len(r.received()), len(rest), len(want))
			}
			io.WriteString(nc, "now without it")
			nc.(interface{ CloseWrite() error }).CloseWrite()
			wantEqual(t, "received", readAll(t, peer), "still from the loop; now without it")
			nc.Close()
			peer.Close()
			end()
		}
	})
}

func TestDetachFromAnotherGoroutineLosesNothing(t *testing.T) {
	for i := range 200 {
		l, end := startLoop(t, nil)
		r, cfg := newTape(&eventloop.ConnConfig{ReadBufferSize: 100})
		c, peer := accept(t, l, cfg)
		want := bytesOf(16 << 10)
		writer := background(t, func() { peer.Write(want); peer.CloseWrite() })
		switch i % 3 {
		case 0: // a chunk is held back
			c.PauseReading()
			<-writer
		case 1: // and is about to be delivered
			c.PauseReading()
			<-writer
			onLoop(t, l, c.ResumeReading)
		}
		// At the peer's end the connection closes itself: a Detach after that fails.
		nc, err := await(t, c.Detach())
		if err == nil {
			b, err := io.ReadAll(nc)
			wantEqual(t, "error", err, nil)
			if got := r.received() + string(b); got != string(want) {
				t.Errorf("%d bytes by OnData and %d by Read are not the %d that were sent", r.data.Len(), len(b), len(want))
			}
			nc.Close()
		}
		peer.Close()
		r.wait(t)
		end()
	}
}

func TestDetachGivesTheChunkThatWasOnItsWay(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(nil)
		c, peer := adoptPipe(t, l, cfg)
		var f *eventloop.Future[net.Conn]
		l.Post(func() {
			io.WriteString(peer, "read, but not delivered")
			time.Sleep(time.Second) // the chunk waits in the task channel
			f = c.Detach()
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		nc, err := f.Result()
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "callbacks", r.order(), "connect close")
		wantEqual(t, "read", readString(t, nc, 23), "read, but not delivered")
		nc.Close()
		peer.Close()
	})
}

func TestAbortCutsADetachShort(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		c, peer := adoptPipe(t, l, nil)
		c.WriteString("this stays unread")
		f := c.Detach()
		synctest.Wait()
		wantEqual(t, "Close", c.Close(), net.ErrClosed)
		wantEqual(t, "Abort", c.Abort(), nil)
		if _, err := f.Wait(context.Background()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Detach = %v", err)
		}
		peer.Close()
	})
}

func TestDetachedConnectionIsOutOfReachOfItsOldHandle(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		c, peer := adoptPipe(t, l, nil)
		nc, err := c.Detach().Wait(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantEqual(t, "Abort", c.Abort(), net.ErrClosed)
		wantEqual(t, "Close", c.Close(), net.ErrClosed)
		c.PauseWriting()
		l.Stop()
		<-l.Done()
		go io.WriteString(nc, "lives on")
		wantEqual(t, "received", readString(t, peer, 8), "lives on")
		nc.Close()
		peer.Close()
	})
}

func TestDetachFailsWhenTheOutputCannotBeSent(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: time.Second})
		c, peer := adoptPipe(t, l, cfg)
		c.WriteString("this stays unread")
		f := c.Detach()
		if _, err := f.Wait(context.Background()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Detach = %v", err)
		}
		<-r.closed
		r.check(t)
		wantEqual(t, "the peer reads the end", readAll(t, peer), "")

		t.Log("and when the loop is stopped")
		c, peer = adoptPipe(t, l, nil)
		c.WriteString("this stays unread")
		f = c.Detach()
		synctest.Wait()
		l.Stop()
		if _, err := f.Wait(context.Background()); err != eventloop.ErrLoopClosed {
			t.Errorf("Detach = %v, want ErrLoopClosed", err)
		}
		<-l.Done()
		wantEqual(t, "the peer reads the end", readAll(t, peer), "")
	})
}

func TestDetachBeforeTheConnectionIsUp(t *testing.T) {
	l, _ := startLoop(t, nil)
	addr, _ := blackHole(t)
	r, cfg := newTape(nil)
	c, err := l.Dial(context.Background(), "tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var oe *eventloop.OpError
	if _, err := await(t, c.Detach()); !errors.As(err, &oe) || oe.Op != "detach" {
		t.Errorf("Detach = %v", err)
	}
	wantEqual(t, "Closed", c.Closed(), false)
	c.Close()
	r.wait(t)
}

func TestDetachedConnectionThatIsNotTakenIsClosedWhenTheLoopIsStopped(t *testing.T) {
	const stopped, exited = "stopped", "left by Goexit"
	for _, how := range []string{stopped, exited} {
		for _, taker := range []string{"Then", "Await", "none"} {
			t.Run(how+", "+taker, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					detachAndStop(t, how == exited, taker)
				})
			})
		}
	}
}

// detachAndStop ends the loop by force in the callback before the one that would
// take the connection.
func detachAndStop(t *testing.T, exit bool, taker string) {
	l := eventloop.New(nil)
	nc, peer := net.Pipe()
	var f *eventloop.Future[net.Conn]
	taken := false
	l.Post(func() {
		l.Hold()
		c, err := l.Adopt(nc, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetCallbacks(&eventloop.ConnConfig{OnClose: func(*eventloop.Conn) {
			l.Post(func() { // runs when the future has its result, and before Then
				if exit {
					runtime.Goexit()
				}
				l.Stop()
			})
		}})
		c.Connected().Then(func(*eventloop.Conn, error) {
			switch taker {
			case "none":
				f = c.Detach()
			case "Then":
				f = c.Detach()
				f.Then(func(net.Conn, error) { taken = true })
			case "Await":
				l.Go(t.Context(), func(t *eventloop.Task) error {
					f = c.Detach() // here, so that it waits before there is a result
					_, err := f.Await(t)
					taken = err == nil
					return nil
				})
			}
		})
	})
	outcome(func() { l.Run(context.Background()) })
	wantEqual(t, "taken", taken, false)
	if nc, err := f.Result(); nc != nil || err != eventloop.ErrLoopClosed {
		t.Errorf("Result = %v, %v, want ErrLoopClosed", nc, err)
	}
	peer.SetReadDeadline(time.Now().Add(watchdogTime))
	_, err := peer.Read(make([]byte, 1))
	wantEqual(t, "the peer reads", err, io.EOF)
	peer.Close()
}

func TestDetachedConnectionOutlivesTheLoopOnceItIsTakenOrTheEndIsNatural(t *testing.T) {
	for _, natural := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := eventloop.New(nil)
			end, peer := net.Pipe()
			var f *eventloop.Future[net.Conn]
			l.Post(func() {
				l.Adopt(end, &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
					if f = c.Detach(); !natural {
						f.Then(func(net.Conn, error) { l.Stop() })
					}
				}})
			})
			wantEqual(t, "Run", l.Run(context.Background()), nil)
			wantEqual(t, "handles", l.Stats().Loop.Handles, 0)
			nc, err := f.Result()
			if err != nil {
				t.Fatal(err)
			}
			go io.WriteString(nc, "lives on")
			wantEqual(t, "received", readString(t, peer, 8), "lives on")
			nc.Close()
			peer.Close()
		})
	}
}

func TestPipesOfSeveralSourcesWaitAtMaxBufferedOfTheirTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		dst, out := adoptPipe(t, l, &eventloop.ConnConfig{HighWater: -1, MaxBuffered: 64 << 10, AllowHalfOpen: true})
		const sources, size = 3, 1 << 20
		failed := 0
		for range sources {
			src, in := adoptPipe(t, l, nil)
			src.Pipe(dst).Then(func(_ int64, err error) {
				if !errors.Is(err, eventloop.ErrLoopClosed) {
					failed++
				}
			})
			go in.Write(bytesOf(size)) // and stays open
		}
		if _, err := io.ReadFull(out, make([]byte, sources*size)); err != nil {
			t.Error(err)
		}
		wantEqual(t, "pipes that failed", failed, 0)
		l.Stop()
		<-l.Done()
		out.Close()
	})
}

func TestPipeIsBoundedByMaxBufferedWithoutAHighWaterMark(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		src, in := adoptPipe(t, l, nil)
		r, cfg := newTape(&eventloop.ConnConfig{HighWater: -1, MaxBuffered: 100_000})
		dst, out := adoptPipe(t, l, cfg)
		f := src.Pipe(dst)
		total := 0
		in.SetWriteDeadline(time.Now().Add(time.Second))
		for total < 10<<20 {
			n, err := in.Write(bytesOf(32 << 10))
			if total += n; err != nil {
				break
			}
		}
		// Beside what dst has pending, src may have read one chunk.
		if least, most := 100_000, 100_000+2*64<<10; total < least || total > most {
			t.Errorf("a source sent %d bytes, want from %d to %d", total, least, most)
		}
		wantEqual(t, "NeedDrain", dst.NeedDrain(), true)
		go io.WriteString(out, "without a mark it reads on")
		synctest.Wait()
		wantEqual(t, "received by the target", r.received(), "without a mark it reads on")
		in.SetWriteDeadline(time.Time{})
		go in.Close()
		b, _ := io.ReadAll(out)
		wantEqual(t, "bytes", len(b), total)
		n, err := f.Wait(context.Background())
		wantEqual(t, "bytes of the future", n, int64(total))
		wantEqual(t, "error of the future", err, nil)
		out.Close()
	})
}

// The loop reads the error of the socket when it notices a reset. The connection that
// Detach returns must not look as if the peer had ended its side properly.
func TestDetachKeepsAResetThatWasNoticedWhileReadingWasPaused(t *testing.T) {
	if !sockio.Raw {
		t.Skip("only Linux reports a reset while reading is paused")
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		nc, peer := tcpPair(t)
		r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
			c.PauseReading()
			io.WriteString(peer, "last words")
			reset(t, peer)
			if !eventually(func() bool { return l.Stats().Loop.Queued > 0 }) {
				t.Error("the reset was not noticed")
			}
			c.Detach().Then(func(nc net.Conn, err error) {
				if err != nil {
					t.Error(err)
					return
				}
				defer nc.Close()
				if got, err := io.ReadAll(nc); string(got) != "last words" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the connection returned %q, %v; want %q, %v", got, err, "last words", syscall.ECONNRESET)
				}
			})
		}})
		l.OnExit(func() { wantEqual(t, "callbacks", r.order(), "connect close") })
		if _, err := l.Adopt(nc, cfg); err != nil {
			t.Error(err)
		}
	})
}

// slowAddrConn is a connection whose RemoteAddr waits for up, so that it is not up before.
type slowAddrConn struct {
	net.Conn
	up chan struct{}
}

func (c slowAddrConn) RemoteAddr() net.Addr { <-c.up; return c.Conn.RemoteAddr() }

// notUpYet lists the ways to get a connection that is up after up is closed.
var notUpYet = map[string]func(l *eventloop.Loop, nc net.Conn, up chan struct{}, cfg *eventloop.ConnConfig) (*eventloop.Conn, error){
	"dialed": func(l *eventloop.Loop, nc net.Conn, up chan struct{}, cfg *eventloop.ConnConfig) (*eventloop.Conn, error) {
		conf := *cfg
		conf.Dial = func(context.Context, string, string) (net.Conn, error) { <-up; return nc, nil }
		return l.Dial(context.Background(), "tcp", "target:7", &conf)
	},
	"adopted": func(l *eventloop.Loop, nc net.Conn, up chan struct{}, cfg *eventloop.ConnConfig) (*eventloop.Conn, error) {
		return l.Adopt(slowAddrConn{nc, up}, cfg)
	},
}

func TestPipeEndsATargetThatIsNotUpYet(t *testing.T) {
	for name, join := range notUpYet {
		for _, halfOpen := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, half-open %v", name, halfOpen), func(t *testing.T) {
				inBubble(t, func(t *testing.T, l *eventloop.Loop) {
					src, in := adoptPipe(t, l, nil)
					r, cfg := newTape(&eventloop.ConnConfig{AllowHalfOpen: halfOpen})
					ours, out := net.Pipe()
					up := make(chan struct{})
					dst, err := join(l, ours, up, cfg)
					if err != nil {
						t.Fatal(err)
					}
					f := src.Pipe(dst)
					io.WriteString(in, "all of it")
					in.Close()
					n, err := f.Wait(t.Context())
					wantEqual(t, "bytes of the future", n, 9)
					wantEqual(t, "error of the future", err, nil)
					_, err = dst.WriteString("too late")
					wantEqual(t, "Write after the end", err, net.ErrClosed)
					wantEqual(t, "CloseWrite after the end", dst.CloseWrite(), net.ErrClosed)
					close(up)
					b, err := io.ReadAll(out)
					wantEqual(t, "received", string(b), "all of it")
					wantEqual(t, "error of the peer", err, nil)
					<-r.closed
					wantEqual(t, "callbacks", strings.Replace(r.order(), "drain ", "", 1), "connect close")
					wantEqual(t, "Err", dst.Err(), nil)
				})
			})
		}
	}
}

func TestPipeEndsTheOutputOfATargetThatIsNotUpYet(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{AllowHalfOpen: true})
	a, out := tcpPair(t)
	up := make(chan struct{})
	dst, err := notUpYet["dialed"](l, a, up, cfg)
	if err != nil {
		t.Fatal(err)
	}
	src, in := accept(t, l, nil)
	f := src.Pipe(dst)
	io.WriteString(in, "all of it")
	in.Close()
	n, err := await(t, f)
	wantEqual(t, "bytes of the future", n, 9)
	wantEqual(t, "error of the future", err, nil)
	close(up)
	wantEqual(t, "received", readAll(t, out), "all of it")
	io.WriteString(out, "answer")
	out.Close()
	r.wait(t)
	wantEqual(t, "the other direction", r.received(), "answer")
	wantEqual(t, "event", r.event(t), io.EOF)
}

func TestCloseAfterAnEarlyCloseWriteIsRegular(t *testing.T) {
	for name, join := range notUpYet {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				var flushed *eventloop.Future[struct{}]
				r, cfg := newTape(&eventloop.ConnConfig{OnClose: func(c *eventloop.Conn) { flushed = c.Flushed() }})
				ours, peer := net.Pipe()
				up := make(chan struct{})
				c, err := join(l, ours, up, cfg)
				if err != nil {
					t.Fatal(err)
				}
				c.WriteString("last words")
				wantEqual(t, "CloseWrite", c.CloseWrite(), nil)
				wantEqual(t, "Close", c.Close(), nil)
				close(up)
				b, err := io.ReadAll(peer)
				wantEqual(t, "received", string(b), "last words")
				wantEqual(t, "error of the peer", err, nil)
				<-r.closed
				_, err = flushed.Wait(t.Context())
				wantEqual(t, "Flushed in OnClose", err, nil)
				wantEqual(t, "Err", c.Err(), nil)
			})
		})
	}
}
