package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/sockio"
)

// sip reads n bytes in portions, with a pause after each.
func sip(r io.Reader, n, portion int, pause time.Duration) (got int, err error) {
	p := make([]byte, portion)
	for got < n && err == nil {
		var m int
		m, err = io.ReadFull(r, p[:min(portion, n-got)])
		got += m
		time.Sleep(pause)
	}
	return got, err
}

// slowReceiver keeps the kernel of a peer from taking much at a time.
func slowReceiver(t testing.TB, peer net.Conn) {
	t.Helper()
	if p, ok := peer.(interface{ NetConn() net.Conn }); ok {
		peer = p.NetConn()
	}
	if err := peer.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
}

func TestCloseDeliversEverythingToAPeerThatReadsSteadily(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		const size, portion = 4 << 20, 64 << 10
		l, _ := startLoop(t, nil)
		var lost uint64
		patiently(t, 800*time.Millisecond, func(timeout time.Duration) error {
			r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: timeout})
			c, peer := join(t, l, cfg)
			slowReceiver(t, peer)
			c.Write(make([]byte, size))
			c.Close()
			// All portions together take longer than the timeout, each much less.
			n, err := sip(peer, size, portion, timeout/40)
			peer.Close()
			r.wait(t)
			lostBefore := lost
			lost = l.Stats().Conns.BytesLostTotal
			idle(t, l)
			if n != size || r.why != nil || lost != lostBefore {
				return fmt.Errorf("the peer read %d of %d bytes, then %v; Err = %v, %d bytes are lost", n, size, err, r.why, lost-lostBefore)
			}
			return nil
		})
	})
}

func TestOutputThatCloseCannotDeliverIsInErrAndInStats(t *testing.T) {
	const size = 16 << 20
	lost := func(t *testing.T, l *eventloop.Loop, r *tape, cause error) {
		t.Helper()
		r.wait(t)
		var le *eventloop.LostError
		if !errors.Is(r.why, eventloop.ErrLost) || !errors.Is(r.why, eventloop.ErrConn) || !errors.As(r.why, &le) {
			t.Fatalf("Err = %v, want ErrLost", r.why)
		}
		if le.Bytes <= 0 || le.Bytes > size+size/8 {
			t.Errorf("%d bytes of %d are said to be lost", le.Bytes, size)
		}
		if cause != nil && !errors.Is(r.why, cause) {
			t.Errorf("Err = %v, want it to match %v", r.why, cause)
		}
		wantEqual(t, "BytesLostTotal", l.Stats().Conns.BytesLostTotal, uint64(le.Bytes))
		wantEqual(t, "events", len(r.events), 0)
		idle(t, l)
	}
	forEachTransport(t, func(t *testing.T, join maker) {
		t.Run("the peer reads nothing", func(t *testing.T) {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: 50 * time.Millisecond})
			c, _ := join(t, l, cfg)
			c.Write(make([]byte, size))
			c.Close()
			lost(t, l, r, eventloop.ErrTimeout)
		})
		t.Run("the peer leaves", func(t *testing.T) {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(nil)
			c, peer := join(t, l, cfg)
			c.Write(make([]byte, size))
			c.Close()
			io.ReadFull(peer, make([]byte, 100<<10))
			peer.Close() // with input unread
			lost(t, l, r, nil)
		})
		t.Run("the loop is stopped", func(t *testing.T) {
			l, end := startLoop(t, nil)
			r, cfg := newTape(nil)
			c, _ := join(t, l, cfg)
			c.Write(make([]byte, size))
			c.Close()
			eventually(func() bool { return c.Buffered() < size }) // it is being sent
			l.Stop()
			end()
			lost(t, l, r, eventloop.ErrLoopClosed)
		})
		t.Run("Abort discards it", func(t *testing.T) {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(nil)
			c, _ := join(t, l, cfg)
			c.Write(make([]byte, size))
			c.Close()
			c.Abort()
			wantEqual(t, "Buffered", c.Buffered(), 0)
			wantEqual(t, "Stats.Buffered", l.Stats().Conns.Buffered, 0)
			r.wait(t)
			wantEqual(t, "Err", r.why, nil)
			wantEqual(t, "BytesLostTotal", l.Stats().Conns.BytesLostTotal, 0)
		})
	})
}

// tellsAcknowledged reports whether the system, as Linux and macOS do, says what the
// peer's kernel has acknowledged.
func tellsAcknowledged(nc net.Conn) bool {
	_, ok := sockio.Probe(nc)
	return ok
}

// What the kernels buffer has been written, and is lost all the same.
func TestCloseTellsWhatWasNotAcknowledged(t *testing.T) {
	if nc, _ := tcpPair(t); !tellsAcknowledged(nc) {
		t.Skip("this system does not tell what was acknowledged")
	}
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: 50 * time.Millisecond})
	nc, peer := tcpPair(t)
	peer.SetReadBuffer(64 << 10)
	nc.SetWriteBuffer(4 << 20)
	c, err := l.Adopt(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := c.Flushed()
	c.Write(make([]byte, 256<<10)) // fits where systems allow buffers of 208 KB
	c.Close()
	if _, err := await(t, f); err != nil {
		t.Errorf("Flushed = %v", err)
	}
	r.wait(t)
	if !errors.Is(r.why, eventloop.ErrLost) {
		t.Errorf("Err = %v, want ErrLost", r.why)
	}
}

func TestTwoPeersThatWriteMuchAndCloseBothDeliver(t *testing.T) {
	l, _ := startLoop(t, nil)
	const size = 16 << 20
	var tapes []*tape
	a, b := tcpPair(t)
	b.SetDeadline(time.Time{})
	for _, nc := range []net.Conn{a, b} {
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: watchdogTime / 2, OnConnect: func(c *eventloop.Conn) {
			c.Write(make([]byte, size))
			c.Close()
		}})
		if _, err := l.Adopt(nc, cfg); err != nil {
			t.Fatal(err)
		}
		tapes = append(tapes, r)
	}
	for _, r := range tapes {
		r.wait(t)
		wantEqual(t, "Err", r.why, nil)
	}
}

// A wrapper has no half-close. The reset that unread input causes would take the
// response away.
func TestCloseOfAWrapperWithoutAHalfCloseKeepsTheResponse(t *testing.T) {
	l, _ := startLoop(t, nil)
	for range 5 {
		nc, peer := tcpPair(t)
		r, cfg := newTape(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, _ []byte) {
			c.WriteString("response")
			c.Close()
		}})
		background(t, func() { peer.Write(make([]byte, 512<<10)) })
		if _, err := l.Adopt(struct{ net.Conn }{nc}, cfg); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "response", readAll(t, peer), "response")
		r.wait(t)
	}
}

func TestWriteTimeoutMeasuresWhatThePeerTakes(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		const size, portion = 3 << 20, 32 << 10
		l, _ := startLoop(t, nil)
		var r *tape
		var c *eventloop.Conn
		patiently(t, 800*time.Millisecond, func(timeout time.Duration) error {
			var cfg *eventloop.ConnConfig
			r, cfg = newTape(&eventloop.ConnConfig{WriteTimeout: timeout})
			var peer net.Conn
			c, peer = join(t, l, cfg)
			slowReceiver(t, peer)
			c.Write(make([]byte, size))
			// All portions together take longer than the timeout, each much less.
			if n, err := sip(peer, size, portion, timeout/53); n != size {
				return fmt.Errorf("cut after %d of %d bytes: %v", n, size, err)
			}
			if n := r.count("event"); n != 0 {
				return fmt.Errorf("%d events", n)
			}
			return nil
		})
		// And it does end a connection whose peer takes nothing.
		c.Write(make([]byte, 16<<20))
		r.wait(t)
		if err := r.event(t); !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v, want a timeout", err)
		}
		idle(t, l)
	})
}

// A dripper sends a record in pieces.
type dripper struct {
	net.Conn
	pause time.Duration // after each piece; 0: in one piece
}

func (d *dripper) Write(p []byte) (int, error) {
	if d.pause == 0 {
		return d.Conn.Write(p)
	}
	for i := 0; i < len(p); i += 1000 {
		if _, err := d.Conn.Write(p[i:min(i+1000, len(p))]); err != nil {
			return i, err
		}
		time.Sleep(d.pause)
	}
	return len(p), nil
}

func TestReadTimeoutOfTLSCountsTheBytesOfAnIncompleteRecord(t *testing.T) {
	l, _ := startLoop(t, nil)
	const size = 16 << 10
	patiently(t, time.Second, func(timeout time.Duration) error {
		r, cfg := newTape(&eventloop.ConnConfig{TLS: serverConf, TLSServer: true, ReadTimeout: timeout, ConnectTimeout: watchdogTime})
		nc, peer := tcpPair(t)
		if _, err := l.Adopt(nc, cfg); err != nil {
			t.Fatal(err)
		}
		d := &dripper{Conn: peer}
		conf := clientConf.Clone()
		conf.DynamicRecordSizingDisabled = true
		tc := tls.Client(d, conf)
		if err := tc.Handshake(); err != nil {
			return err
		}
		d.pause = timeout / 12
		tc.Write(make([]byte, size)) // takes longer than ReadTimeout
		d.pause = 0
		tc.Close()
		r.wait(t)
		if err := r.event(t); len(r.received()) != size || err != io.EOF {
			return fmt.Errorf("%d bytes of %d and the event %v, want io.EOF", len(r.received()), size, err)
		}
		return nil
	})
}

func TestReadTimeoutDoesNotCountTheTimeOfACallback(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		n := 0
		r, cfg := newTape(&eventloop.ConnConfig{
			ReadTimeout: time.Second,
			OnData: func(c *eventloop.Conn, _ []byte) {
				time.Sleep(2 * time.Second)
				if n++; n == 5 {
					c.Close()
				}
			},
		})
		_, peer := adoptPipe(t, l, cfg)
		go func() {
			for {
				if _, err := peer.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		}()
		r.wait(t)
		wantEqual(t, "calls of OnData", n, 5)
		wantEqual(t, "events", r.count("event"), 0)
		peer.Close()
	})
}

// Two peers that both have much to send must not wait for each other, whichever of
// them writes, and when.
func TestPeersThatWriteMuchBeforeTheyReadBothGetItAll(t *testing.T) {
	const size = 6 << 20
	pairs := map[string]func(t testing.TB) (a, b net.Conn){
		"tcp": func(t testing.TB) (net.Conn, net.Conn) {
			a, b := tcpPair(t)
			b.SetDeadline(time.Time{})
			return a, b
		},
		"unix": unixConns,
	}
	for name, pair := range pairs {
		for _, answers := range []bool{false, true} {
			for _, secure := range []bool{false, true} {
				t.Run(name, func(t *testing.T) {
					var got [2]int
					mustRun(t, nil, func(l *eventloop.Loop) {
						a, b := pair(t)
						var conns []*eventloop.Conn
						for i, nc := range []net.Conn{a, b} {
							cfg := &eventloop.ConnConfig{OnEvent: func(*eventloop.Conn, error) {}}
							if secure {
								cfg.TLS, cfg.TLSServer = serverConf, i == 1
								if i == 0 {
									cfg.TLS = clientConf
								}
							}
							greeted := false
							cfg.OnConnect = func(c *eventloop.Conn) {
								if answers {
									c.WriteString("!")
								} else {
									c.Write(make([]byte, size))
								}
							}
							cfg.OnData = func(c *eventloop.Conn, p []byte) {
								if answers && !greeted {
									greeted = true
									p = p[1:]
									c.Write(make([]byte, size))
								}
								if got[i] += len(p); got[0] == size && got[1] == size {
									for _, c := range conns {
										c.Close()
									}
								}
							}
							c, err := l.Adopt(nc, cfg)
							if err != nil {
								t.Fatal(err)
							}
							conns = append(conns, c)
						}
					})
					wantEqual(t, "bytes", got, [2]int{size, size})
				})
			}
		}
	}
}

func TestAPacedProducerGetsAllBackFromAnEchoServer(t *testing.T) {
	const size = 8 << 20
	for _, high := range []int{0, 16 << 10} {
		got := 0
		mustRun(t, nil, func(l *eventloop.Loop) {
			conf := echo()
			conf.HighWater = high
			var ln *eventloop.Listener
			conf.OnConnect = func(*eventloop.Conn) { ln.Close() }
			ln, err := l.Listen("tcp", "127.0.0.1:0", conf)
			if err != nil {
				t.Fatal(err)
			}
			left, p := size, make([]byte, 64<<10)
			fill := func(c *eventloop.Conn) {
				for left > 0 && !c.NeedDrain() {
					n, _ := c.Write(p[:min(len(p), left)])
					left -= n
				}
			}
			l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
				HighWater: high, OnConnect: fill, OnDrain: fill,
				OnData: func(c *eventloop.Conn, p []byte) {
					if got += len(p); got == size {
						c.Close()
					}
				},
			})
		})
		wantEqual(t, "bytes", got, size)
	}
}

func TestLaw10TheOutputOfAllConnectionsTogetherIsBounded(t *testing.T) {
	l, _ := startLoop(t, &eventloop.Config{MaxBuffered: 20 << 20})
	var conns []*eventloop.Conn
	for range 4 {
		c, _ := adopt(t, l, nil) // whose peer reads nothing
		conns = append(conns, c)
	}
	full := false
	for range 100 {
		for _, c := range conns {
			_, err := c.Write(make([]byte, 1<<20))
			full = full || errors.Is(err, eventloop.ErrBufferFull)
			if err != nil && !errors.Is(err, eventloop.ErrBufferFull) {
				t.Fatal(err)
			}
		}
	}
	if n := l.Stats().Conns.Buffered; !full || n > 20<<20 {
		t.Errorf("Stats.Buffered = %d, ErrBufferFull: %v; want at most 20 MB, and true", n, full)
	}
	conns[0].Abort()
	if _, err := conns[1].Write(make([]byte, 100<<10)); err != nil {
		t.Errorf("Write after another connection was aborted = %v", err)
	}
	for _, c := range conns {
		c.Abort()
	}
}

// unixConns returns the two ends of a unix connection.
func unixConns(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("unix", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
