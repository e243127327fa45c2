package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// inBubble runs f beside a loop in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, l *eventloop.Loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := eventloop.New(nil)
		release := l.Hold()
		result := make(chan error, 1)
		go func() { result <- l.Run(context.Background()) }()
		synctest.Wait()
		f(t, l)
		release()
		if err := <-result; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// adoptPipe returns a connection of l over net.Pipe, which is up and reads, and its
// peer.
func adoptPipe(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
	t.Helper()
	ours, peer := net.Pipe()
	c, err := l.Adopt(ours, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg == nil || cfg.TLS == nil {
		<-c.Connected().Done()
		// The connection does not read before what waits for the future has run. In the
		// turn after the one that resolved it, it does.
		onLoop(t, l, func() {})
	}
	return c, peer
}

func TestConnWritesOfOneCallbackLeaveTogether(t *testing.T) {
	t.Run("net.Conn", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			r, cfg := newTape(nil)
			c, peer := adoptPipe(t, l, cfg)
			l.Post(func() {
				for _, s := range []string{"four ", "small ", "writes ", "leave"} {
					c.WriteString(s)
				}
			})
			b := make([]byte, 100)
			n, err := peer.Read(b) // of a pipe: what one Write wrote
			wantEqual(t, "error", err, nil)
			wantEqual(t, "first Write", string(b[:n]), "four small writes leave")
			peer.Close()
			<-r.closed
		})
	})
	t.Run("socket", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		c, peer := accept(t, l, nil)
		before := segments(t, c)
		onLoop(t, l, func() {
			for range 4 {
				c.WriteString("small")
			}
		})
		readString(t, peer, 20)
		wantEqual(t, "segments", segments(t, c)-before, 1)
		c.Abort()
	})
}

// A broadcast uses the other processors while its callback runs. Only the connection
// whose data the callback has got waits for its end.
func TestConnWritesToManyConnectionsBeginWhileTheCallbackRuns(t *testing.T) {
	l, _ := startLoop(t, nil)
	const others = 200
	var conns []*eventloop.Conn
	var peers []*net.TCPConn
	for range others {
		c, peer := adopt(t, l, nil)
		conns, peers = append(conns, c), append(peers, peer)
	}
	got := make(chan string)
	c, peer := adopt(t, l, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, _ []byte) {
		c.WriteString("own, ")
		for _, other := range conns {
			other.WriteString("to all")
		}
		wantEqual(t, "received", wait(t, got, "message to others while the callback runs"), "to all")
		c.WriteString("twice")
	}})
	before := segments(t, c)
	io.WriteString(peer, "go")
	background(t, func() { got <- readString(t, peers[0], 6) })
	for _, p := range peers[1:] {
		wantEqual(t, "received", readString(t, p, 6), "to all")
	}
	wantEqual(t, "answer", readString(t, peer, 10), "own, twice")
	wantEqual(t, "segments of the answer", segments(t, c)-before, 1)
	for _, c := range append(conns, c) {
		c.Abort()
	}
}

func TestConnReadTimeoutFiresWhenNothingArrived(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{ReadTimeout: 300 * time.Millisecond})
		began := time.Now()
		c, peer := adoptPipe(t, l, cfg)
		for range 5 {
			time.Sleep(250 * time.Millisecond)
			io.WriteString(peer, "x") // starts it anew
		}
		<-r.closed
		wantEqual(t, "time", time.Since(began), 5*250*time.Millisecond+300*time.Millisecond)
		err := r.event(t)
		if !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v, want ErrTimeout", err)
		}
		var oe *eventloop.OpError
		if !errors.As(err, &oe) || oe.Op != "read" || oe.Conn != c || !oe.Timeout() {
			t.Errorf("event = %#v", err)
		}
		r.check(t)
		wantEqual(t, "bytes", len(r.received()), 5)
	})
}

func TestConnReadTimeoutDoesNotRunInAPause(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{ReadTimeout: time.Second})
		began := time.Now()
		c, _ := adoptPipe(t, l, cfg)
		c.PauseReading()
		time.Sleep(time.Hour)
		wantEqual(t, "Closed in the pause", c.Closed(), false)
		c.ResumeReading()
		<-r.closed
		wantEqual(t, "time", time.Since(began), time.Hour+time.Second)
	})
}

func TestConnReadTimeoutForgivesABusyLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{ReadTimeout: time.Second})
		_, peer := adoptPipe(t, l, cfg)
		// Of a turn, tasks come last and timers first: what arrives meanwhile waits
		// behind the timer.
		_, other := adoptPipe(t, l, &eventloop.ConnConfig{
			OnData: func(*eventloop.Conn, []byte) { time.Sleep(5 * time.Second) },
		})
		io.WriteString(other, "keep the loop busy")
		time.Sleep(500 * time.Millisecond)
		io.WriteString(peer, "in time")
		time.Sleep(4600 * time.Millisecond)
		other.Close()
		synctest.Wait()
		wantEqual(t, "data", r.received(), "in time")
		wantEqual(t, "events", r.count("event"), 0)
		peer.Close()
		<-r.closed
	})
}

func TestConnSetTimeouts(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		t.Log("off")
		r, cfg := newTape(&eventloop.ConnConfig{ReadTimeout: time.Second, WriteTimeout: time.Second})
		c, peer := adoptPipe(t, l, cfg)
		wantEqual(t, "SetTimeouts", c.SetTimeouts(0, -1), nil)
		c.WriteString("this stays unread")
		time.Sleep(time.Hour)
		wantEqual(t, "Closed", c.Closed(), false)

		t.Log("read anew")
		began := time.Now()
		c.SetTimeouts(2*time.Second, 0)
		<-r.closed
		wantEqual(t, "time", time.Since(began), 2*time.Second)
		peer.Close()

		t.Log("write, for output that is stuck already")
		r, cfg = newTape(nil)
		c, peer = adoptPipe(t, l, cfg)
		c.WriteString("this stays unread")
		time.Sleep(time.Hour)
		began = time.Now()
		c.SetTimeouts(0, 3*time.Second)
		<-r.closed
		wantEqual(t, "time", time.Since(began), 3*time.Second)
		if err := r.event(t); !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v", err)
		}
		peer.Close()
	})
}

func TestConnWriteTimeoutFiresWhenThePeerTakesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: 300 * time.Millisecond})
		c, peer := adoptPipe(t, l, cfg)
		time.Sleep(time.Hour) // without output it does not run
		wantEqual(t, "Closed", c.Closed(), false)
		began := time.Now()
		c.Write(bytesOf(100))
		for range 9 {
			time.Sleep(200 * time.Millisecond)
			io.ReadFull(peer, make([]byte, 10)) // a slow peer is no dead one
		}
		<-r.closed
		// The deadline that a slow read let pass was at 300 ms, 600 ms, and so on.
		if d := time.Since(began); d < 2*time.Second || d > 2400*time.Millisecond {
			t.Errorf("time = %v, want some 300 ms after the last read", d)
		}
		err := r.event(t)
		var oe *eventloop.OpError
		if !errors.Is(err, eventloop.ErrTimeout) || !errors.As(err, &oe) || oe.Op != "write" {
			t.Errorf("event = %v", err)
		}
		wantEqual(t, "Buffered", l.Stats().Conns.Buffered, 0)
		peer.Close()
	})
}

func TestConnWriteTimeoutDoesNotRunInAPause(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: time.Second})
		c, peer := adoptPipe(t, l, cfg)
		c.Write(bytesOf(10))
		synctest.Wait() // the writer is blocked, and has its deadline
		c.PauseWriting()
		time.Sleep(time.Hour)
		wantEqual(t, "Closed in the pause", c.Closed(), false)
		began := time.Now()
		c.ResumeWriting()
		<-r.closed
		wantEqual(t, "time", time.Since(began), time.Second)
		peer.Close()
	})
}

func TestConnCloseGetsItsOwnTimeToFlush(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: time.Second})
		c, peer := adoptPipe(t, l, cfg)
		c.Write(bytesOf(32 << 10))
		time.Sleep(900 * time.Millisecond)
		c.Close()
		time.Sleep(800 * time.Millisecond) // the old deadline has passed
		b, err := io.ReadAll(peer)
		wantEqual(t, "error", err, nil)
		wantEqual(t, "bytes", len(b), 32<<10)
		<-r.closed
	})
}

func TestConnCloseWithoutWriteTimeoutFlushesForFiveSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(nil)
		c, peer := adoptPipe(t, l, cfg)
		c.WriteString("this stays unread")
		began := time.Now()
		c.Close()
		f := c.Flushed()
		<-r.closed
		wantEqual(t, "time", time.Since(began), 5*time.Second)
		if _, err := f.Wait(context.Background()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Flushed = %v", err)
		}
		wantEqual(t, "callbacks", r.order(), "connect close")
		peer.Close()
	})
}

func TestConnHandshakeTimeout(t *testing.T) {
	for _, tt := range []struct {
		cfg  eventloop.ConnConfig
		want time.Duration
	}{
		{eventloop.ConnConfig{}, 10 * time.Second},
		{eventloop.ConnConfig{ReadTimeout: 3 * time.Second}, 3 * time.Second},
		{eventloop.ConnConfig{ConnectTimeout: 70 * time.Millisecond, ReadTimeout: time.Second}, 70 * time.Millisecond},
	} {
		for _, server := range []bool{true, false} {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				conf := tt.cfg
				conf.TLS, conf.TLSServer = clientConf, server
				if server {
					conf.TLS = serverConf
				}
				r, cfg := newTape(&conf)
				began := time.Now()
				_, peer := adoptPipe(t, l, cfg)
				go io.Copy(io.Discard, peer) // and never says a word
				<-r.closed
				wantEqual(t, "time", time.Since(began), tt.want)
				wantEqual(t, "callbacks", r.order(), "event close")
				err := r.event(t)
				var oe *eventloop.OpError
				if !errors.Is(err, eventloop.ErrTimeout) || !errors.As(err, &oe) || oe.Op != "handshake" {
					t.Errorf("event = %v", err)
				}
				peer.Close()
			})
		}
	}
}

func TestDialConnectTimeout(t *testing.T) {
	for _, conf := range []eventloop.ConnConfig{
		{ConnectTimeout: 30 * time.Millisecond, ReadTimeout: time.Hour},
		{ReadTimeout: 30 * time.Millisecond},
	} {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(&conf)
		addr, _ := blackHole(t)
		var c *eventloop.Conn
		onLoop(t, l, func() { // where it cannot end before the next turn
			var err error
			if c, err = l.Dial(context.Background(), "tcp", addr, cfg); err != nil {
				t.Error(err)
			}
			wantEqual(t, "Stats.OutgoingTCP", l.Stats().Conns.Outgoing, 1)
		})
		wantEqual(t, "LocalAddr before it is up", c.LocalAddr(), nil)
		wantEqual(t, "RemoteAddr before it is up", c.RemoteAddr(), nil)
		if _, err := c.SyscallConn(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SyscallConn before it is up = %v", err)
		}
		r.wait(t)
		wantEqual(t, "callbacks", r.order(), "event close")
		got := r.event(t)
		var oe *eventloop.OpError
		if !errors.Is(got, eventloop.ErrTimeout) || !errors.Is(got, eventloop.ErrTCP) || !errors.As(got, &oe) || oe.Op != "dial" || oe.Conn != c {
			t.Errorf("event = %v", got)
		}
	}
}

func TestConnCloseWhileConnecting(t *testing.T) {
	t.Run("without output gives up", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, _ := dialBlackHole(t, l, cfg)
		f := c.Connected()
		wantEqual(t, "Close", c.Close(), nil)
		r.wait(t)
		wantEqual(t, "callbacks", r.order(), "close")
		wantEqual(t, "Err", r.why, nil)
		if _, err := await(t, f); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Connected = %v", err)
		}
		idle(t, l)
	})
	t.Run("with output connects and flushes", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: watchdogTime}) // the kernel may try again after seconds
		c, open := dialBlackHole(t, l, cfg)
		c.WriteString("important")
		f := c.Flushed()
		c.Close()
		open()
		if _, err := await(t, f); err != nil {
			t.Errorf("Flushed = %v", err)
		}
		r.wait(t)
		wantEqual(t, "callbacks", r.order(), "close")
		idle(t, l)
	})
	t.Run("with output is bounded", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: 50 * time.Millisecond})
		c, _ := dialBlackHole(t, l, cfg)
		c.WriteString("important")
		c.Close()
		r.wait(t)
		idle(t, l)
	})
	t.Run("Abort drops the output", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, _ := dialBlackHole(t, l, cfg)
		c.WriteString("important")
		c.Close()
		wantEqual(t, "Abort", c.Abort(), nil)
		r.wait(t)
		idle(t, l)
	})
}

func TestLaw10APeerThatNeverReadsCannotFillTheMemory(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		const high = 64 << 10
		l, _ := startLoop(t, nil)
		conf := echo()
		conf.HighWater = high
		r, cfg := newTape(conf)
		c, peer := join(t, l, cfg)
		want := bytesOf(24 << 20)
		var sent atomic.Int64
		done := background(t, func() {
			for i := 0; i < len(want); {
				n, err := peer.Write(want[i:min(i+32<<10, len(want))])
				sent.Add(int64(n))
				if i += n; err != nil {
					return
				}
			}
		})
		// It reads ever more slowly when its output is full: a peer that takes nothing
		// may wait for us to read first.
		if !eventually(c.NeedDrain) {
			t.Error("NeedDrain does not become true")
		}
		peak := 0
		for last := int64(-1); last != sent.Load(); time.Sleep(50 * time.Millisecond) {
			last = sent.Load()
			peak = max(peak, c.Buffered())
		}
		if sent.Load() == int64(len(want)) {
			t.Error("everything was accepted, though the peer did not read the response")
		}
		if limit := 16 * high; peak > limit {
			t.Errorf("Buffered = %d, want at most %d", peak, limit)
		}
		if got := readString(t, peer, len(want)); got != string(want) {
			t.Error("the echo differs")
		}
		<-done
		peer.Close()
		r.wait(t)
		idle(t, l)
	})
}

func TestLaw10APausedConnectionReadsNothingAndDoesNotSpin(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, peer := join(t, l, cfg)
		onLoop(t, l, c.PauseReading)
		want := bytesOf(16 << 20)
		var sent atomic.Int64
		done := background(t, func() {
			for i := 0; i < len(want); {
				n, err := peer.Write(want[i:min(i+32<<10, len(want))])
				sent.Add(int64(n))
				if i += n; err != nil {
					return
				}
			}
			peer.(interface{ CloseWrite() error }).CloseWrite()
		})
		for last := int64(-1); last != sent.Load(); time.Sleep(50 * time.Millisecond) {
			last = sent.Load()
		}
		if sent.Load() == int64(len(want)) {
			t.Error("a paused connection took everything")
		}
		before := l.Stats().Loop.IterationsTotal
		time.Sleep(50 * time.Millisecond)
		if n := l.Stats().Loop.IterationsTotal - before; n > 20 {
			t.Errorf("%d turns of the loop, of which none has anything to do", n)
		}
		wantEqual(t, "OnData in the pause", r.count("data"), 0)
		c.ResumeReading()
		<-done
		r.wait(t)
		wantEqual(t, "all received", r.received() == string(want), true)
		wantEqual(t, "event", r.event(t), io.EOF)
		peer.Close()
	})
}

func TestConnPauseAndResumeFromAnywhereLosesNothing(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		n := 0
		r, cfg := newTape(&eventloop.ConnConfig{ReadBufferSize: 1000, OnData: func(c *eventloop.Conn, data []byte) {
			if len(data) > 1000 {
				t.Errorf("%d bytes, with a ReadBufferSize of 1000", len(data))
			}
			if n++; n%3 == 0 {
				c.PauseReading()
				l.Post(c.ResumeReading)
			}
		}})
		c, peer := join(t, l, cfg)
		stop := make(chan struct{})
		toggling := background(t, func() {
			for {
				select {
				case <-stop:
					c.ResumeReading()
					return
				default:
					c.PauseReading()
					c.PauseWriting()
					runtime.Gosched()
					c.ResumeReading()
					c.ResumeWriting()
					runtime.Gosched() // with one processor, the loop would only run during pauses
				}
			}
		})
		want := bytesOf(1 << 20)
		peer.Write(want)
		peer.(interface{ CloseWrite() error }).CloseWrite()
		eventually(func() bool { return len(r.received()) == len(want) })
		close(stop)
		<-toggling
		r.wait(t)
		wantEqual(t, "all received", r.received() == string(want), true)
		wantEqual(t, "event", r.event(t), io.EOF)
		peer.Close()
	})
}

func TestConnNoDataAfterPauseReadingOnTheLoop(t *testing.T) {
	l, _ := startLoop(t, nil)
	paused := false
	r, cfg := newTape(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
		if paused {
			t.Error("OnData in a pause")
		}
	}})
	c, peer := accept(t, l, cfg)
	background(t, func() {
		for b := bytesOf(100); ; {
			if _, err := peer.Write(b); err != nil {
				return
			}
		}
	})
	for range 200 {
		onLoop(t, l, func() { paused = true; c.PauseReading() })
		onLoop(t, l, func() {})
		onLoop(t, l, func() { paused = false; c.ResumeReading() })
		runtime.Gosched()
	}
	c.Abort()
	r.wait(t)
}

func TestConnEndIsToldAfterTheResume(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) { c.PauseReading() }})
		c, peer := join(t, l, cfg)
		io.WriteString(peer, "last words")
		peer.Close()
		eventually(func() bool { return r.count("data") == 1 })
		for range 10 {
			onLoop(t, l, func() {})
		}
		wantEqual(t, "events in the pause", r.count("event"), 0)
		c.ResumeReading()
		r.wait(t)
		wantEqual(t, "callbacks", r.order(), "connect data event close")
	})
}

func TestConnPauseWritingHoldsOutputUntilResumeOrClose(t *testing.T) {
	for _, how := range []string{"ResumeWriting", "Close"} {
		forEachTransport(t, func(t *testing.T, join maker) {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(nil)
			c, peer := join(t, l, cfg)
			c.PauseWriting()
			onLoop(t, l, func() { c.WriteString("held back") })
			for range 10 {
				onLoop(t, l, func() {})
			}
			wantEqual(t, "Buffered", c.Buffered(), 9)
			wantEqual(t, "OnDrain", r.count("drain"), 0)
			if how == "Close" {
				c.Close()
			} else {
				c.ResumeWriting()
			}
			wantEqual(t, "received", readString(t, peer, 9), "held back")
			peer.Close()
			r.wait(t)
			idle(t, l)
		})
	}
}

func TestConnOnDrainIsOncePerDrainAndSticky(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(nil)
		c, peer := adoptPipe(t, l, cfg)
		buf := make([]byte, 100)
		for round := 1; round <= 3; round++ {
			for range 5 {
				c.WriteString("abc")
			}
			wantEqual(t, "Buffered", c.Buffered(), 15)
			synctest.Wait()
			wantEqual(t, "OnDrain before it is read", r.count("drain"), round-1)
			io.ReadFull(peer, buf[:15])
			synctest.Wait()
			wantEqual(t, "OnDrain", r.count("drain"), round)
			wantEqual(t, "Buffered", c.Buffered(), 0)
		}
		c.Write(nil)
		c.WriteString("")
		c.Writev()
		synctest.Wait()
		wantEqual(t, "OnDrain after empty writes", r.count("drain"), 3)
		peer.Close()
		<-r.closed
	})
}

func TestConnFlushedIsAboutWhatWasWrittenBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		c, peer := adoptPipe(t, l, nil)
		if _, err := c.Flushed().Result(); err != nil {
			t.Errorf("Flushed with nothing written = %v", err)
		}
		c.Write(bytesOf(16 << 10))
		first := c.Flushed()
		c.Write(bytesOf(100 << 10))
		second := c.Flushed()
		synctest.Wait()
		for _, f := range []*eventloop.Future[struct{}]{first, second} {
			if _, err := f.Result(); err != eventloop.ErrPending {
				t.Errorf("Flushed before anything is read = %v", err)
			}
		}
		io.ReadFull(peer, make([]byte, 20<<10))
		synctest.Wait()
		if _, err := first.Result(); err != nil {
			t.Errorf("first Flushed = %v, want success though more is pending", err)
		}
		if _, err := second.Result(); err != eventloop.ErrPending {
			t.Errorf("second Flushed = %v", err)
		}
		c.Abort()
		synctest.Wait()
		if _, err := second.Result(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Flushed after Abort = %v", err)
		}
		peer.Close()
	})
}

func TestLaw10AWriteOverMaxBufferedIsRefusedAsAWhole(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{MaxBuffered: 100})
		c, peer := adoptPipe(t, l, cfg)
		c.Write(bytesOf(60))
		for _, write := range []func() (int, error){
			func() (int, error) { return c.Write(bytesOf(41)) },
			func() (int, error) { return c.WriteString(string(bytesOf(41))) },
			func() (int, error) { return c.Writev(bytesOf(40), bytesOf(1)) },
		} {
			if n, err := write(); n != 0 || err != eventloop.ErrBufferFull {
				t.Errorf("Write = %d, %v, want ErrBufferFull", n, err)
			}
		}
		wantEqual(t, "Buffered", c.Buffered(), 60)
		if n, err := c.Writev(bytesOf(40)); n != 40 || err != nil {
			t.Errorf("Writev that just fits = %d, %v", n, err)
		}
		go c.Close()
		b, _ := io.ReadAll(peer)
		wantEqual(t, "received", len(b), 100)
		<-r.closed
	})
}

func TestConnNeedDrainFromHighWaterToHalfOfIt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		c, peer := adoptPipe(t, l, &eventloop.ConnConfig{HighWater: 100})
		c.PauseWriting() // so that the peer gets the pieces that are meant
		for _, step := range []struct {
			write, read int
			want        bool
		}{{100, 0, false}, {1, 0, true}, {0, 101, false}, {100, 0, false}, {16 << 10, 0, true}, {0, 100 + 16<<10, false}} {
			c.Write(bytesOf(step.write))
			if step.read > 0 {
				c.ResumeWriting()
				io.ReadFull(peer, make([]byte, step.read))
				synctest.Wait()
			}
			wantEqual(t, fmt.Sprint("NeedDrain after ", step), c.NeedDrain(), step.want)
		}
		off, other := adoptPipe(t, l, &eventloop.ConnConfig{HighWater: -1, MaxBuffered: -1})
		off.Write(bytesOf(1 << 20))
		wantEqual(t, "NeedDrain without HighWater", off.NeedDrain(), false)
		c.Abort()
		off.Abort()
		synctest.Wait()
		peer.Close()
		other.Close()
	})
}

func TestConnCloseWriteOfAPipeIsUnsupported(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		c, peer := adoptPipe(t, l, nil)
		err := c.CloseWrite()
		var oe *eventloop.OpError
		if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &oe) || oe.Op != "close" {
			t.Errorf("CloseWrite = %v", err)
		}
		if _, err := c.WriteString("lives on"); err != nil {
			t.Errorf("Write = %v", err)
		}
		wantEqual(t, "received", readString(t, peer, 8), "lives on")
		peer.Close()

		// The error is known only when the connection is up. Then it is an event.
		r, cfg := newTape(nil)
		ours, peer := net.Pipe()
		l.Post(func() {
			c, _ := l.Adopt(ours, cfg)
			if err := c.CloseWrite(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("CloseWrite = %v", err)
			} else if err != nil {
				c.Abort() // it was up already
			}
		})
		<-r.closed
		r.check(t)
		peer.Close()
	})
}

// A deafConn knows no deadlines, as the connections of SSH do.
type deafConn struct{ net.Conn }

func (deafConn) SetDeadline(time.Time) error      { return errors.New("no deadlines here") }
func (deafConn) SetReadDeadline(time.Time) error  { return errors.New("no deadlines here") }
func (deafConn) SetWriteDeadline(time.Time) error { return errors.New("no deadlines here") }

// A mumblingConn says that it sets deadlines, and does not.
type mumblingConn struct{ net.Conn }

func (mumblingConn) SetDeadline(time.Time) error      { return nil }
func (mumblingConn) SetReadDeadline(time.Time) error  { return nil }
func (mumblingConn) SetWriteDeadline(time.Time) error { return nil }

func TestConnWithoutDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		adopt := func(cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			ours, peer := net.Pipe()
			c, err := l.Adopt(deafConn{ours}, cfg)
			if err != nil {
				t.Fatal(err)
			}
			<-c.Connected().Done()
			return c, peer
		}
		t.Log("Close flushes")
		r, cfg := newTape(nil)
		c, peer := adopt(cfg)
		c.WriteString("answer")
		c.Close()
		b, err := io.ReadAll(peer)
		if string(b) != "answer" || err != nil {
			t.Errorf("received %q, %v", b, err)
		}
		<-r.closed

		t.Log("Close with nothing to flush, and Close with output that stays unread")
		for _, s := range []string{"", "this stays unread"} {
			r, cfg = newTape(nil)
			c, peer = adopt(cfg)
			c.WriteString(s)
			synctest.Wait()
			c.Close()
			<-r.closed
			wantEqual(t, "callbacks", r.order(), "connect close")
			peer.Close()
		}

		t.Log("StartTLS and Detach say no, and do no harm")
		r, cfg = newTape(echo())
		c, peer = adopt(cfg)
		if _, err := c.StartTLS(clientConf).Wait(context.Background()); err == nil {
			t.Error("StartTLS succeeded")
		}
		if _, err := c.Detach().Wait(context.Background()); err == nil {
			t.Error("Detach succeeded")
		}
		go io.WriteString(peer, "hello")
		wantEqual(t, "echo", readString(t, peer, 5), "hello")
		c.Abort()
		<-r.closed
		r.check(t)

		t.Log("Abort with a connection that only pretends")
		r, cfg = newTape(nil)
		ours, peer := net.Pipe()
		c, _ = l.Adopt(mumblingConn{ours}, cfg)
		c.WriteString("this stays unread")
		<-c.Connected().Done()
		synctest.Wait()
		c.Abort()
		<-r.closed
		peer.Close()
	})
}

// A shortConn has a deadline of its own, as wrappers for idle connections do.
type shortConn struct{ net.Conn }

func (s shortConn) Read(p []byte) (int, error) {
	s.Conn.SetReadDeadline(time.Now().Add(time.Second))
	return s.Conn.Read(p)
}

func TestConnDeadlineOfAWrapperIsAnError(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(nil)
		ours, peer := net.Pipe()
		began := time.Now()
		if _, err := l.Adopt(shortConn{ours}, cfg); err != nil {
			t.Fatal(err)
		}
		<-r.closed
		wantEqual(t, "time", time.Since(began), time.Second)
		if err := r.event(t); !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v", err)
		}
		peer.Close()
	})
}

func TestAdoptClearsTheDeadlinesOfBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		ours, peer := net.Pipe()
		ours.SetDeadline(time.Now().Add(time.Second))
		r, cfg := newTape(echo())
		l.Adopt(ours, cfg)
		time.Sleep(time.Minute)
		go io.WriteString(peer, "late")
		wantEqual(t, "echo", readString(t, peer, 4), "late")
		peer.Close()
		<-r.closed
		wantEqual(t, "event", r.event(t), io.EOF)
	})
}

func TestConnOneAtATimeOverManyConnections(t *testing.T) {
	const conns, rounds = 40, 50
	l, _ := startLoop(t, nil)
	inside, total := 0, 0 // no lock: the race detector would tell
	enter := func() {
		if inside++; inside != 1 {
			t.Error("callbacks overlap")
		}
		total++
	}
	ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnConnect: func(*eventloop.Conn) { enter(); inside-- },
		OnData:    func(c *eventloop.Conn, data []byte) { enter(); c.Write(data); inside-- },
		OnDrain:   func(*eventloop.Conn) { enter(); inside-- },
		OnEvent:   func(*eventloop.Conn, error) { enter(); inside-- },
		OnClose:   func(*eventloop.Conn) { enter(); inside-- },
	})
	if err != nil {
		t.Fatal(err)
	}
	var peers []<-chan struct{}
	for id := range conns {
		nc := dialPeer(t, ln.Addr())
		peers = append(peers, background(t, func() {
			defer nc.Close()
			// Each peer sends bytes of its own, and must see no others (the
			// no-overlap test of cl-async).
			b := make([]byte, 3000)
			for i := range b {
				b[i] = byte(id)
			}
			got := make([]byte, len(b))
			for range rounds {
				nc.Write(b)
				if _, err := io.ReadFull(nc, got); err != nil {
					t.Error(err)
					return
				}
				if string(got) != string(b) {
					t.Errorf("peer %d got bytes of another", id)
					return
				}
			}
		}))
	}
	for _, p := range peers {
		wait(t, p, "end of a peer")
	}
	idle(t, l)
	onLoop(t, l, func() {
		if total < conns*(3+rounds) {
			t.Errorf("callbacks = %d, want at least %d", total, conns*(3+rounds))
		}
	})
	ln.Close()
}
