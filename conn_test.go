package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

func TestDialWritesBeforeTheConnectionIsUpArriveInOrderAndTogether(t *testing.T) {
	l, _ := startLoop(t, nil)
	peers := servePeers(t)
	r, cfg := newTape(nil)
	onLoop(t, l, func() {
		c, err := l.Dial(context.Background(), "tcp", peers.addr(), cfg)
		if err != nil {
			t.Error(err)
			return
		}
		c.WriteString("ha")
		c.Write([]byte("i "))
		c.Writev([]byte("the"), nil, []byte("re"))
		wantEqual(t, "Buffered", c.Buffered(), 9)
		c.Close()
	})
	wantEqual(t, "received", readAll(t, peers.next(t)), "hai there")
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "close")
	wantEqual(t, "Err", r.why, nil)
	idle(t, l)
}

func TestConnCallbacksComeInOrder(t *testing.T) {
	l, _ := startLoop(t, nil)
	peers := servePeers(t)
	r, cfg := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.WriteString("hello") },
	})
	if _, err := l.Dial(context.Background(), "tcp", peers.addr(), cfg); err != nil {
		t.Fatal(err)
	}
	peer := peers.next(t)
	wantEqual(t, "greeting", readString(t, peer, 5), "hello")
	eventually(func() bool { return r.count("drain") == 1 })
	io.WriteString(peer, "answer")
	peer.Close()
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "connect drain data event close")
	wantEqual(t, "data", r.received(), "answer")
	wantEqual(t, "event", r.event(t), io.EOF)
	wantEqual(t, "Err", r.why, io.EOF)
	idle(t, l)
}

func TestDataAndEndThatArriveTogetherAreBothDelivered(t *testing.T) {
	const rounds = 3000
	var got, eofs atomic.Int64
	l, _ := startLoop(t, nil)
	ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnData:  func(c *eventloop.Conn, data []byte) { got.Add(int64(len(data))) },
		OnEvent: func(c *eventloop.Conn, err error) { eofs.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		peer, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		peer.Write([]byte("data"))
		if i%2 == 0 {
			peer.(*net.TCPConn).CloseWrite() // FIN with, or right behind, the data
			if s := readAll(t, peer); s != "" {
				t.Fatalf("read %q", s)
			}
		}
		peer.Close()
	}
	if !eventually(func() bool { return eofs.Load() == rounds }) {
		t.Errorf("ends = %d, want %d", eofs.Load(), rounds)
	}
	wantEqual(t, "bytes", got.Load(), 4*rounds)
	ln.Close()
}

func TestConnMethodsOnceItIsClosed(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(nil)
	c, peer := accept(t, l, cfg)
	local, remote := c.LocalAddr().String(), c.RemoteAddr().String()
	wantEqual(t, "Closed before", c.Closed(), false)
	wantEqual(t, "Close", c.Close(), nil)
	wantEqual(t, "Closed", c.Closed(), true)
	peer.Close()
	r.wait(t)

	wantEqual(t, "second Close", c.Close(), net.ErrClosed)
	wantEqual(t, "Abort", c.Abort(), net.ErrClosed)
	wantEqual(t, "CloseWrite", c.CloseWrite(), net.ErrClosed)
	wantEqual(t, "SetTimeouts", c.SetTimeouts(time.Second, time.Second), net.ErrClosed)
	for what, write := range map[string]func() (int, error){
		"Write":       func() (int, error) { return c.Write([]byte("x")) },
		"empty Write": func() (int, error) { return c.Write(nil) },
		"WriteString": func() (int, error) { return c.WriteString("x") },
		"Writev":      func() (int, error) { return c.Writev([]byte("x")) },
	} {
		n, err := write()
		wantEqual(t, what+" bytes", n, 0)
		wantEqual(t, what+" error", err, net.ErrClosed)
	}
	if _, err := c.SyscallConn(); err != net.ErrClosed {
		t.Errorf("SyscallConn = %v, want net.ErrClosed", err)
	}
	if _, err := await(t, c.Flushed()); err != nil {
		t.Errorf("Flushed = %v, though nothing was lost", err)
	}
	if _, err := await(t, c.Connected()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Connected = %v, want net.ErrClosed", err)
	}
	if _, err := await(t, c.Detach()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Detach = %v, want net.ErrClosed", err)
	}
	if _, err := await(t, c.StartTLS(clientConf)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("StartTLS = %v, want net.ErrClosed", err)
	}
	other, _ := accept(t, l, nil)
	if _, err := await(t, c.Pipe(other)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Pipe = %v, want net.ErrClosed", err)
	}
	if _, err := await(t, other.Pipe(c)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Pipe to it = %v, want net.ErrClosed", err)
	}
	other.Abort()
	c.PauseReading()
	c.ResumeReading()
	c.PauseWriting()
	c.ResumeWriting()
	c.SetCallbacks(echo())
	c.SetCallbacks(nil)
	c.Ref()
	c.Unref()
	c.Ref()
	c.SetData(7)
	wantEqual(t, "Data", c.Data(), any(7))
	wantEqual(t, "Loop", c.Loop(), l)
	wantEqual(t, "Buffered", c.Buffered(), 0)
	wantEqual(t, "NeedDrain", c.NeedDrain(), false)
	wantEqual(t, "LocalAddr", c.LocalAddr().String(), local)
	wantEqual(t, "RemoteAddr", c.RemoteAddr().String(), remote)
	wantEqual(t, "Err", c.Err(), nil)
	if _, ok := c.TLS(); ok {
		t.Error("TLS says that there was TLS")
	}
	eventually(func() bool { return l.Stats().Conns.Incoming == 0 })
	r.check(t)
	idle(t, l)
}

func TestConnCloseInEveryCallbackLeavesOnlyOnClose(t *testing.T) {
	closeIt := map[string]func(c *eventloop.Conn){
		"Close": func(c *eventloop.Conn) { c.Close() },
		"Abort": func(c *eventloop.Conn) { c.Abort() },
	}
	for how, do := range closeIt {
		for _, where := range []string{"connect", "data", "drain", "event", "close"} {
			t.Run(how+" in "+where, func(t *testing.T) {
				l, _ := startLoop(t, nil)
				in := func(call string) func(c *eventloop.Conn) {
					return func(c *eventloop.Conn) {
						if call == where {
							do(c)
						}
					}
				}
				r, cfg := newTape(&eventloop.ConnConfig{
					OnConnect: in("connect"),
					OnData: func(c *eventloop.Conn, data []byte) {
						in("data")(c)
						c.Write(data)
					},
					OnDrain: in("drain"),
					OnEvent: func(c *eventloop.Conn, err error) { in("event")(c) },
					OnClose: in("close"),
				})
				ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
				if err != nil {
					t.Fatal(err)
				}
				if peer, err := net.Dial("tcp", ln.Addr().String()); err == nil { // or Abort was faster
					deadline(t, peer)
					io.WriteString(peer, "data")
					if where == "event" || where == "close" {
						readString(t, peer, 4)
						peer.(*net.TCPConn).CloseWrite()
					}
					io.ReadAll(peer)
					peer.Close()
				}
				r.wait(t)
				ln.Close()
				calls := strings.Fields(r.order())
				if i := slices.Index(calls, where); where != "close" && (i < 0 || len(calls) != i+2) {
					t.Errorf("callbacks = %v, want only close after %s", calls, where)
				}
			})
		}
	}
}

func TestConnCloseFlushesWhatWasWritten(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, peer := join(t, l, cfg)
		want := bytesOf(3 << 20) // more than the kernel takes at once
		onLoop(t, l, func() {
			if n, err := c.Write(want); n != len(want) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			c.Close()
		})
		if got := readAll(t, peer); got != string(want) {
			t.Errorf("received %d bytes, want %d, equal", len(got), len(want))
		}
		peer.Close()
		r.wait(t)
		wantEqual(t, "Err", r.why, nil)
		idle(t, l)
	})
}

// A maker returns a connection of the loop, that is up, and its blocking peer.
type maker func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn)

// forEachTransport runs a test over each way to the bytes that the package has:
// the descriptor by its number, through RawConn, through net.Conn, and TLS.
func forEachTransport(t *testing.T, f func(t *testing.T, join maker)) {
	t.Run("direct", func(t *testing.T) {
		f(t, func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			c, peer := accept(t, l, cfg)
			return c, peer
		})
	})
	t.Run("raw", func(t *testing.T) {
		f(t, func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			c, peer := adopt(t, l, cfg)
			if _, err := await(t, c.Connected()); err != nil {
				t.Fatal(err)
			}
			return c, peer
		})
	})
	t.Run("net.Conn", func(t *testing.T) {
		f(t, func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			nc, peer := tcpPair(t)
			c, err := l.Adopt(plainConn{nc}, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := await(t, c.Connected()); err != nil {
				t.Fatal(err)
			}
			return c, peer
		})
	})
	t.Run("tls", func(t *testing.T) {
		f(t, func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			nc, peer := tcpPair(t)
			conf := *cfg
			conf.TLS, conf.TLSServer = serverConf, true
			c, err := l.Adopt(nc, &conf)
			if err != nil {
				t.Fatal(err)
			}
			tc := tlsClient(peer)
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			if _, err := await(t, c.Connected()); err != nil {
				t.Fatal(err)
			}
			return c, tc
		})
	})
}

func TestConnEchoesEveryByteInOrder(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(echo())
		_, peer := join(t, l, cfg)
		want := bytesOf(4 << 20)
		background(t, func() { peer.Write(want) })
		if got := readString(t, peer, len(want)); got != string(want) {
			t.Error("the echo differs from what was sent")
		}
		peer.Close()
		r.wait(t)
		wantEqual(t, "event", r.event(t), io.EOF)
		idle(t, l)
	})
}

func TestConnAllThatWasSentArrivesBeforeTheEnd(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		_, peer := join(t, l, cfg)
		want := bytesOf(2<<20 + 1)
		peer.Write(want)
		peer.(interface{ CloseWrite() error }).CloseWrite()
		wantEqual(t, "answer", readAll(t, peer), "")
		peer.Close()
		r.wait(t)
		wantEqual(t, "all received", r.received() == string(want), true)
		wantEqual(t, "callbacks", r.order(), "connect data event close")
		wantEqual(t, "event", r.event(t), io.EOF)
	})
}

func TestConnAbortDiscardsAndResets(t *testing.T) {
	for _, after := range []string{"nothing", "Close"} {
		t.Run("after "+after, func(t *testing.T) {
			forEachTransport(t, func(t *testing.T, join maker) {
				l, _ := startLoop(t, nil)
				r, cfg := newTape(nil)
				c, peer := join(t, l, cfg)
				onLoop(t, l, func() {
					c.Write(bytesOf(32 << 20)) // more than the kernel takes
					if after == "Close" {
						wantEqual(t, "Close", c.Close(), nil)
					}
				})
				wantEqual(t, "Abort", c.Abort(), nil)
				wantEqual(t, "second Abort", c.Abort(), net.ErrClosed)
				r.wait(t)
				_, err := io.Copy(io.Discard, peer)
				if !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(t.Name(), "net.Conn") {
					t.Errorf("the peer reads %v, want ECONNRESET", err)
				}
				idle(t, l)
			})
		})
	}
}

func TestConnCloseIsBoundedByWriteTimeout(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(&eventloop.ConnConfig{WriteTimeout: 50 * time.Millisecond, MaxBuffered: -1})
		c, peer := join(t, l, cfg)
		onLoop(t, l, func() {
			c.Write(bytesOf(64 << 20))
			c.Close()
		})
		r.wait(t) // the peer never reads
		if !errors.Is(r.why, eventloop.ErrTimeout) {
			t.Errorf("Err = %v, want the timeout", r.why)
		}
		peer.Close()
		idle(t, l)
	})
}

func TestConnPeerResetIsInformation(t *testing.T) {
	for _, paused := range []bool{false, true} {
		l, _ := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, peer := accept(t, l, cfg)
		if paused {
			c.PauseReading()
		}
		reset(t, peer)
		for paused && !c.Closed() {
			onLoop(t, l, func() { c.WriteString("are you there?") }) // a paused connection learns of it so
		}
		r.wait(t)
		err := r.event(t)
		for _, want := range []error{eventloop.ErrReset, eventloop.ErrTCP, eventloop.ErrConn} {
			if !errors.Is(err, want) {
				t.Errorf("event %v does not match %v", err, want)
			}
		}
		wantEqual(t, "event matches io.EOF", errors.Is(err, io.EOF), false)
		wantEqual(t, "IsInfo", eventloop.IsInfo(err), true)
		wantEqual(t, "Err", r.why, err)
		var oe *eventloop.OpError
		if !errors.As(err, &oe) || oe.Conn != c || oe.Net != "tcp" || oe.Addr != peer.LocalAddr().String() {
			t.Errorf("event = %#v", err)
		}
	}
}

func TestConnWriteToAPeerThatIsGoneEndsInOneEvent(t *testing.T) {
	for range 50 {
		l, end := startLoop(t, nil)
		r, cfg := newTape(nil)
		c, peer := accept(t, l, cfg)
		stop := make(chan struct{})
		writer := background(t, func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := c.WriteString("more"); err == net.ErrClosed {
						return
					}
				}
			}
		})
		io.ReadFull(peer, make([]byte, 64))
		peer.Close() // with input unread: a reset
		r.wait(t)
		close(stop)
		<-writer
		if err := r.event(t); !eventloop.IsInfo(err) {
			t.Errorf("event = %v", err)
		}
		idle(t, l)
		end()
	}
}

func TestConnAbortInOnEventAndAfterwardsIsHarmless(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{
		OnEvent: func(c *eventloop.Conn, err error) {
			if err == io.EOF {
				c.WriteString("too late?")
			}
		},
	})
	c, peer := accept(t, l, cfg)
	peer.CloseWrite()
	wantEqual(t, "written in OnEvent", readAll(t, peer), "too late?")
	peer.Close()
	r.wait(t)
	wantEqual(t, "Abort after OnClose", c.Abort(), net.ErrClosed)
}

func TestConnWriteInOnEventOfAnErrorReturnsErrClosed(t *testing.T) {
	l, _ := startLoop(t, nil)
	var werr, cerr error
	r, cfg := newTape(&eventloop.ConnConfig{
		OnEvent: func(c *eventloop.Conn, err error) {
			_, werr = c.WriteString("x")
			cerr = c.CloseWrite()
		},
	})
	c, _ := accept(t, l, cfg)
	c.SetTimeouts(time.Millisecond, 0) // only now, or the reset may overtake the dial
	r.wait(t)
	wantEqual(t, "Write", werr, net.ErrClosed)
	wantEqual(t, "CloseWrite", cerr, net.ErrClosed)
	idle(t, l)
}

func TestConnHalfOpenBothWays(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		for _, first := range []string{"peer", "loop"} {
			t.Run(first+" first", func(t *testing.T) {
				l, _ := startLoop(t, nil)
				ended := make(chan struct{}, 1)
				r, cfg := newTape(&eventloop.ConnConfig{
					AllowHalfOpen: true,
					OnEvent:       func(c *eventloop.Conn, err error) { ended <- struct{}{} },
				})
				c, peer := join(t, l, cfg)
				half := peer.(interface{ CloseWrite() error })
				if first == "peer" {
					io.WriteString(peer, "question")
					half.CloseWrite()
					wait(t, ended, "io.EOF")
					wantEqual(t, "Closed at the peer's end", c.Closed(), false)
					c.WriteString("answer")
					wantEqual(t, "CloseWrite", c.CloseWrite(), nil)
					wantEqual(t, "second CloseWrite", c.CloseWrite(), net.ErrClosed)
					wantEqual(t, "answer", readAll(t, peer), "answer")
				} else {
					c.WriteString("answer")
					wantEqual(t, "CloseWrite", c.CloseWrite(), nil)
					if _, err := c.WriteString("more"); err != net.ErrClosed {
						t.Errorf("Write after CloseWrite = %v", err)
					}
					wantEqual(t, "answer", readAll(t, peer), "answer")
					io.WriteString(peer, "question")
					half.CloseWrite()
				}
				r.wait(t) // by itself, when both directions are over
				wantEqual(t, "data", r.received(), "question")
				wantEqual(t, "event", r.event(t), io.EOF)
				peer.Close()
			})
		}
	})
}

func TestConnCloseWriteWithoutHalfOpenEndsWithThePeer(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(nil)
	c, peer := accept(t, l, cfg)
	c.WriteString("bye")
	c.CloseWrite()
	wantEqual(t, "received", readAll(t, peer), "bye")
	io.WriteString(peer, "and you")
	peer.Close()
	r.wait(t)
	wantEqual(t, "data", r.received(), "and you")
	wantEqual(t, "event", r.event(t), io.EOF)
}

func TestConnCloseDoesNotResetAPeerThatStillSends(t *testing.T) {
	// Were the descriptor closed with input unread, the kernel would reset, and the
	// answer would be lost with it.
	endure(t) // the peer may take long to send
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) {
			c.Write(bytesOf(200 << 10))
			c.Close()
		},
	})
	_, peer := accept(t, l, cfg)
	for range 100 {
		if _, err := peer.Write(bytesOf(1000)); err != nil {
			break
		}
	}
	peer.CloseWrite()
	wantEqual(t, "bytes received", len(readAll(t, peer)), 200<<10)
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "connect close")
}

func TestConnCloseWithAPeerThatFloodsEndsAfterTheLinger(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.Close() }})
	_, peer := accept(t, l, cfg)
	background(t, func() {
		for b := bytesOf(64 << 10); ; {
			if _, err := peer.Write(b); err != nil {
				return
			}
		}
	})
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "connect close")
}

func TestConnUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, _ := startLoop(t, nil)
	rs, server := newTape(echo())
	ln, err := l.Listen("unix", path, server)
	if err != nil {
		t.Fatal(err)
	}
	rc, client := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.WriteString("hello") },
		OnData:    func(c *eventloop.Conn, data []byte) { c.Close() },
	})
	c, err := l.Dial(context.Background(), "unix", path, client)
	if err != nil {
		t.Fatal(err)
	}
	rc.wait(t)
	rs.wait(t)
	wantEqual(t, "echo", rc.received(), "hello")
	wantEqual(t, "network", c.RemoteAddr().Network(), "unix")
	ln.Close()
	if !eventually(func() bool { _, err := os.Lstat(path); return os.IsNotExist(err) }) {
		t.Error("the socket file is still there")
	}
}

func TestConnIPv6(t *testing.T) {
	l, _ := startLoop(t, nil)
	_, server := newTape(echo())
	ln, err := l.Listen("tcp6", "[::1]:0", server)
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	rc, client := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.WriteString("hello") },
		OnData:    func(c *eventloop.Conn, data []byte) { c.Close() },
	})
	if _, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), client); err != nil {
		t.Fatal(err)
	}
	rc.wait(t)
	wantEqual(t, "echo", rc.received(), "hello")
	ln.Close()
}

func TestDialBadInputIsReturnedAndCallsNothing(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(nil)
	for _, in := range [][2]string{
		{"udp", "127.0.0.1:1"}, {"", "127.0.0.1:1"}, {"tcp5", "127.0.0.1:1"}, {"unixgram", "/x"},
		{"tcp", ""}, {"tcp", "127.0.0.1"}, {"tcp", "127.0.0.1:99999"}, {"tcp", "127.0.0.1:-1"},
		{"tcp", "127.0.0.1:no-such-service"}, {"tcp", "::1:80"}, {"tcp", "[::1"}, {"unix", ""},
	} {
		c, err := l.Dial(context.Background(), in[0], in[1], cfg)
		var oe *eventloop.OpError
		if c != nil || !errors.As(err, &oe) || oe.Op != "dial" || oe.Net != in[0] || oe.Addr != in[1] {
			t.Errorf("Dial(%q, %q) = %v, %v, want an OpError", in[0], in[1], c, err)
		}
		if ln, err := l.Listen(in[0], in[1], nil); ln != nil || !errors.As(err, &oe) || oe.Op != "listen" {
			t.Errorf("Listen(%q, %q) = %v, %v, want an OpError", in[0], in[1], ln, err)
		}
	}
	if c, err := l.Adopt(nil, nil); c != nil || err == nil {
		t.Errorf("Adopt(nil) = %v, %v, want an error", c, err)
	}
	if ln, err := l.Serve(nil, nil); ln != nil || err == nil {
		t.Errorf("Serve(nil) = %v, %v, want an error", ln, err)
	}
	onLoop(t, l, func() {})
	wantEqual(t, "callbacks", r.order(), "")
	idle(t, l)
}

func TestConnBeforeRunAndAfterTheEnd(t *testing.T) {
	checkLeaks(t)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	l := eventloop.New(nil)
	try := func(want error) {
		t.Helper()
		_, err := l.Dial(context.Background(), "tcp", "127.0.0.1:1", nil)
		wantEqual(t, "Dial", err, want)
		_, err = l.Adopt(a, nil)
		wantEqual(t, "Adopt", err, want)
		_, err = l.Listen("tcp", "127.0.0.1:0", nil)
		wantEqual(t, "Listen", err, want)
	}
	try(eventloop.ErrNotRunning)
	if err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	try(eventloop.ErrLoopClosed)
	go b.Write([]byte("still open"))
	wantEqual(t, "what Adopt left alone", readString(t, a, 10), "still open")
}

// deadAddr returns an address that refuses connections until the end of the test. It is
// in use, by a socket that does not listen: the port of a listener that was closed may be
// given to another process.
func deadAddr(t testing.TB) string {
	t.Helper()
	nc, _ := tcpPair(t)
	return nc.LocalAddr().String()
}

func TestDialRefusedIsOneEventThenOnClose(t *testing.T) {
	addr := deadAddr(t)
	l, _ := startLoop(t, nil)
	var r *tape
	var c *eventloop.Conn
	for {
		var cfg *eventloop.ConnConfig
		r, cfg = newTape(&eventloop.ConnConfig{OnEvent: func(c *eventloop.Conn, err error) {
			wantEqual(t, "Closed in OnEvent", c.Closed(), false)
			wantEqual(t, "Err in OnEvent", c.Err(), err)
		}})
		var err error
		if c, err = l.Dial(context.Background(), "tcp", addr, cfg); err != nil {
			t.Fatal(err)
		}
		if _, err = c.WriteString("lost"); err == nil {
			break
		}
		wantEqual(t, "Write", err, net.ErrClosed) // the dial was quicker: once more
		r.wait(t)
	}
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "event close")
	got := r.event(t)
	for _, want := range []error{eventloop.ErrRefused, eventloop.ErrTCP, eventloop.ErrConn} {
		if !errors.Is(got, want) {
			t.Errorf("event %v does not match %v", got, want)
		}
	}
	var oe *eventloop.OpError
	if !errors.As(got, &oe) || oe.Op != "dial" || oe.Net != "tcp" || oe.Addr != addr || oe.Conn != c {
		t.Errorf("event = %#v", got)
	}
	wantEqual(t, "Errno", eventloop.Errno(got), int(syscall.ECONNREFUSED))
	wantEqual(t, "IsInfo", eventloop.IsInfo(got), false)
	wantEqual(t, "Err", r.why, got)
	if _, err := await(t, c.Connected()); err != got {
		t.Errorf("Connected = %v, want the event", err)
	}
	if _, err := await(t, c.Flushed()); err != got {
		t.Errorf("Flushed = %v, want the event", err)
	}
	idle(t, l)
}

func TestDialMissingUnixSocket(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(nil)
	if _, err := l.Dial(context.Background(), "unix", filepath.Join(t.TempDir(), "none"), cfg); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	if err := r.event(t); !errors.Is(err, os.ErrNotExist) || !errors.Is(err, eventloop.ErrTCP) {
		t.Errorf("event = %v", err)
	}
}

func TestDialFailureWithoutOnEvent(t *testing.T) {
	addr := deadAddr(t)
	t.Run("ends the loop", func(t *testing.T) {
		closed := 0
		err := runLoop(t, nil, func(l *eventloop.Loop) {
			l.Hold()
			l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{OnClose: func(*eventloop.Conn) { closed++ }})
		})
		if !errors.Is(err, eventloop.ErrRefused) {
			t.Errorf("Run = %v, want ErrRefused", err)
		}
		wantEqual(t, "OnClose", closed, 1)
	})
	t.Run("goes to who asked Connected", func(t *testing.T) {
		var got error
		mustRun(t, nil, func(l *eventloop.Loop) {
			c, _ := l.Dial(context.Background(), "tcp", addr, nil)
			c.Connected().Then(func(_ *eventloop.Conn, err error) { got = err })
		})
		if !errors.Is(got, eventloop.ErrRefused) {
			t.Errorf("Connected = %v, want ErrRefused", got)
		}
	})
	t.Run("goes to the EventHandler once", func(t *testing.T) {
		var got []error
		mustRun(t, &eventloop.Config{EventHandler: func(err error) { got = append(got, err) }}, func(l *eventloop.Loop) {
			c, _ := l.Dial(context.Background(), "tcp", addr, nil)
			c.Connected() // and its result is not read
			l.AfterFunc(1200*time.Millisecond, func() {})
		})
		if len(got) != 1 || !errors.Is(got[0], eventloop.ErrRefused) {
			t.Errorf("events = %v, want one ErrRefused", got)
		}
	})
}

func TestDialContextCancelsTheAttemptOnly(t *testing.T) {
	l, _ := startLoop(t, nil)
	peers := servePeers(t)
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("no need")
		cancel(cause)
		r, cfg := newTape(nil)
		if _, err := l.Dial(ctx, "tcp", peers.addr(), cfg); err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		if err := r.event(t); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
			t.Errorf("event = %v, want the cause", err)
		}
	})
	t.Run("after", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r, cfg := newTape(nil)
		c, err := l.Dial(ctx, "tcp", peers.addr(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := await(t, c.Connected()); err != nil {
			t.Fatal(err)
		}
		cancel()
		c.WriteString("still here")
		c.Close()
		peer := peers.next(t)
		for peer != nil {
			b, _ := io.ReadAll(peer)
			if string(b) == "still here" {
				break
			}
			peer = peers.next(t) // that of the canceled attempt
		}
		peer.Close()
		r.wait(t)
	})
}

// readToEnd connects to addr, if it can, and reads until the connection ends.
func readToEnd(addr net.Addr) {
	if nc, err := net.Dial(addr.Network(), addr.String()); err == nil {
		io.Copy(io.Discard, nc)
		nc.Close()
	}
}

func TestConnErrorOfAnAcceptedConnectionWithoutOnEventIsLogged(t *testing.T) {
	var log bytes.Buffer
	mustRun(t, &eventloop.Config{Logger: textLogger(&log)}, func(l *eventloop.Loop) {
		var ln *eventloop.Listener
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			ReadTimeout: time.Millisecond,
			OnClose:     func(*eventloop.Conn) { ln.Close() },
		})
		if err != nil {
			t.Error(err)
			return
		}
		// Not a Dial of the loop, which would fail if the reset came first.
		background(t, func() { readToEnd(ln.Addr()) })
	})
	if !strings.Contains(log.String(), "timeout") {
		t.Errorf("log = %q, want the timeout", log.String())
	}
}

func TestConnResetOfADialedConnectionWithoutOnEventIsIgnored(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		peers := servePeers(t)
		l.Dial(context.Background(), "tcp", peers.addr(), &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { background(t, func() { reset(t, peers.next(t)) }) },
		})
	})
}

func TestConnSetCallbacksHoldFromTheNextEventOn(t *testing.T) {
	l, _ := startLoop(t, nil)
	var log []string
	closed := make(chan struct{})
	c, peer := accept(t, l, &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, data []byte) {
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
				log = append(log, "second "+string(data))
				c.Write(data)
			}})
			c.SetCallbacks(nil)
			log = append(log, "first "+string(data))
			c.Write(data)
		},
		OnClose: func(*eventloop.Conn) { close(closed) },
	})
	for _, s := range []string{"a", "b", "c"} {
		io.WriteString(peer, s)
		readString(t, peer, 1)
	}
	c.Abort()
	wait(t, closed, "OnClose, which the swap has to keep")
	wantSlice(t, "calls", log, []string{"first a", "second b", "second c"})
}

func TestConnUnrefLetsTheLoopEnd(t *testing.T) {
	r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.Unref() }})
	mustRun(t, nil, func(l *eventloop.Loop) { l.Dial(context.Background(), "tcp", servePeers(t).addr(), cfg) })
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "connect close")
}
