package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// A stubbornListener is a listener whose Close waits. It counts other calls.
type stubbornListener struct {
	*fakeListener
	release   chan struct{}
	addrs     atomic.Int64
	deadlines atomic.Int64
	closes    atomic.Int64
}

func newStubbornListener() *stubbornListener {
	return &stubbornListener{fakeListener: newFakeListener(), release: make(chan struct{})}
}

func (s *stubbornListener) Close() error {
	s.closes.Add(1)
	<-s.release
	return s.fakeListener.Close()
}

func (s *stubbornListener) Addr() net.Addr {
	s.addrs.Add(1)
	return s.fakeListener.Addr()
}

func (s *stubbornListener) SetDeadline(time.Time) error {
	s.deadlines.Add(1)
	return nil
}

func TestAForeignListenerIsClosedWithoutBlockingTheLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		inner, httpInner := newStubbornListener(), newStubbornListener()
		ln, err := l.Serve(inner, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.ServeHTTP(httpInner, func(*eventloop.HTTPRequest) {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.Post(func() {
			ln.Pause()
			ln.Resume()
			wantEqual(t, "address", ln.Addr().String(), "fake")
			wantEqual(t, "address of the server", s.Addr().String(), "fake")
			for range l.Handles() {
			}
			ln.Close()
			ln.Close()
			s.Close()
		})
		synctest.Wait() // the loop is idle, so nothing waits on it
		wantEqual(t, "Stats.Listeners while Close runs", l.Stats().Conns.Listeners, 2)
		ran := false
		l.Post(func() { ran = true })
		synctest.Wait()
		wantEqual(t, "the loop continues", ran, true)
		close(inner.release)
		close(httpInner.release)
		synctest.Wait()
		wantEqual(t, "Stats.Listeners", l.Stats().Conns.Listeners, 0)
		for _, in := range []*stubbornListener{inner, httpInner} {
			wantEqual(t, "calls of Close", in.closes.Load(), 1)
			wantEqual(t, "calls of Addr", in.addrs.Load(), 1)
			wantEqual(t, "calls of SetDeadline", in.deadlines.Load(), 0)
		}
	})
}

func TestAPausedForeignListenerHoldsAnAcceptedConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fake := newFakeListener()
		connects := 0
		ln, err := l.Serve(fake, &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { connects++; c.Close() }})
		if err != nil {
			t.Fatal(err)
		}
		give := func() net.Conn {
			ours, peer := net.Pipe()
			fake.results <- ours
			synctest.Wait()
			return peer
		}
		ln.Pause()
		first := give()
		wantEqual(t, "connections in the pause", connects, 0)
		ln.Resume()
		synctest.Wait()
		wantEqual(t, "connections after it", connects, 1)
		readAll(t, first)

		synctest.Wait()
		ln.Pause()
		second := give()
		ln.Close()
		readAll(t, second)
		wantEqual(t, "connections in total", connects, 1)
		s := l.Stats()
		wantEqual(t, "Stats.AcceptedTotal", s.Conns.AcceptedTotal, 2)
		wantEqual(t, "Stats.DroppedTotal", s.Conns.DroppedTotal, 1)
	})
}

func TestAfterListenerCloseOnConnectIsNotCalledForAcceptedConnections(t *testing.T) {
	serve := func(t *testing.T, l *eventloop.Loop, conf *tls.Config, end func(ln *eventloop.Listener)) (*tape, net.Conn) {
		fake := newFakeListener()
		r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.Close() }, TLS: conf})
		ln, err := l.Serve(fake, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ours, peer := net.Pipe()
		ended := make(chan struct{})
		l.Post(func() {
			fake.results <- ours
			time.Sleep(time.Second) // the connection is accepted, and waits for the end of this turn
			end(ln)
			close(ended)
		})
		<-ended
		return r, peer
	}
	t.Run("by Close", func(t *testing.T) {
		for _, conf := range []*tls.Config{nil, serverConf} {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				r, peer := serve(t, l, conf, func(ln *eventloop.Listener) { ln.Close() })
				readAll(t, peer)
				synctest.Wait()
				wantEqual(t, "callbacks", r.order(), "")
				wantEqual(t, "Stats.DroppedTotal", l.Stats().Conns.DroppedTotal, 1)
				wantEqual(t, "Stats.Handles", l.Stats().Loop.Handles, 1) // the handle of inBubble
			})
		}
	})
	t.Run("Shutdown serves it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			r, peer := serve(t, l, nil, func(*eventloop.Listener) { l.Shutdown(-1) })
			readAll(t, peer)
			synctest.Wait()
			wantEqual(t, "callbacks", r.order(), "connect close")
		})
	})
	t.Run("Close in OnConnect keeps the connection", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			fake := newFakeListener()
			var ln *eventloop.Listener
			r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { ln.Close() }})
			ln, _ = l.Serve(fake, cfg)
			ours, peer := net.Pipe()
			fake.results <- ours
			synctest.Wait()
			wantEqual(t, "callbacks", r.order(), "connect")
			peer.Close()
			synctest.Wait()
			wantEqual(t, "callbacks", r.order(), "connect event close")
		})
	})
}

// A lateConn is a connection whose RemoteAddr waits for the peer, for example because it
// comes from the header of the PROXY protocol.
type lateConn struct {
	net.Conn
	asked atomic.Int64 // number of calls of RemoteAddr
}

func newLateConn() (c *lateConn, peer net.Conn) {
	ours, peer := net.Pipe()
	return &lateConn{Conn: ours}, peer
}

func (c *lateConn) RemoteAddr() net.Addr {
	c.asked.Add(1)
	if _, err := io.ReadFull(c.Conn, make([]byte, 1)); err != nil {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}
}

func TestTheAddressOfAForeignConnectionIsReadOnceBeforeOnConnect(t *testing.T) {
	for _, how := range []string{"Serve", "Adopt"} {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			late, peer := newLateConn()
			r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
				for range 3 {
					wantEqual(t, "address", c.RemoteAddr().String(), "192.0.2.1:80")
				}
				wantEqual(t, "local address", c.LocalAddr().Network(), "pipe")
				for range l.Handles() {
				}
			}})
			fake := newFakeListener()
			var ln *eventloop.Listener
			if how == "Adopt" {
				c, err := l.Adopt(late, cfg)
				if err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "address before OnConnect", c.RemoteAddr(), nil)
			} else {
				ln, _ = l.Serve(fake, cfg)
				fake.results <- late
				defer ln.Close()
			}
			synctest.Wait()
			wantEqual(t, "callbacks before the peer has sent its address", r.order(), "")
			io.WriteString(peer, "x")
			synctest.Wait()
			peer.Close()
			synctest.Wait()
			wantEqual(t, "callbacks", r.order(), "connect event close")
			wantEqual(t, "calls of RemoteAddr", late.asked.Load(), 1)
		})
	}
}

func TestASilentPeerOfAForeignListenerDoesNotBlockOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fake, httpFake := newFakeListener(), newFakeListener()
		ln, _ := l.Serve(fake, echo())
		s, _ := l.ServeHTTP(httpFake, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, nil) }, nil)
		var silent []net.Conn
		for _, f := range []*fakeListener{fake, httpFake} {
			late, peer := newLateConn()
			silent = append(silent, peer)
			f.results <- late
		}
		ours, peer := net.Pipe()
		fake.results <- ours
		io.WriteString(peer, "hello")
		wantEqual(t, "echo", readString(t, peer, 5), "hello")
		peer.Close()
		ours, peer = net.Pipe()
		httpFake.results <- ours
		go io.WriteString(peer, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		wantEqual(t, "answer", readString(t, peer, 15), "HTTP/1.1 200 OK")
		io.Copy(io.Discard, peer)

		// The timeouts of the handshake and of the request end the silent connections.
		for _, p := range silent {
			readAll(t, p)
		}
		synctest.Wait()
		wantEqual(t, "Stats.IncomingTCP", l.Stats().Conns.Incoming, 0)
		wantEqual(t, "Stats.HTTPConns", l.Stats().HTTPServer.Conns, 0)
		ln.Close()
		s.Close()
	})
}

func TestASilentPeerDoesNotKeepAConnectionFromBeingClosed(t *testing.T) {
	for _, how := range []string{"Abort", "Close", "Stop"} {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			late, peer := newLateConn()
			r, cfg := newTape(nil)
			c, err := l.Adopt(late, cfg)
			if err != nil {
				t.Fatal(err)
			}
			httpFake := newFakeListener()
			l.ServeHTTP(httpFake, func(*eventloop.HTTPRequest) {}, nil)
			lateHTTP, httpPeer := newLateConn()
			httpFake.results <- lateHTTP
			synctest.Wait()
			began := time.Now()
			switch how {
			case "Abort":
				c.Abort()
			case "Close":
				c.Close()
			}
			if how != "Stop" {
				synctest.Wait()
				wantEqual(t, "callbacks", r.order(), "close")
			}
			l.Stop()
			<-l.Done()
			wantEqual(t, "time", time.Since(began), 0)
			wantEqual(t, "callbacks", r.order(), "close")
			readAll(t, peer)
			readAll(t, httpPeer)
		})
	}
}

func TestMaxConnsPerIPUsesTheAddressOfAForeignConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fake := newFakeListener()
		s, _ := l.ServeHTTP(fake, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, nil) },
			&eventloop.HTTPServerConfig{MaxConnsPerIP: 2})
		var peers []net.Conn
		for range 3 {
			late, peer := newLateConn()
			fake.results <- late
			io.WriteString(peer, "x")
			peers = append(peers, peer)
		}
		synctest.Wait()
		wantEqual(t, "Stats.HTTPConns", l.Stats().HTTPServer.Conns, 2)
		wantEqual(t, "Stats.HTTPDroppedTotal", l.Stats().HTTPServer.DroppedTotal, 1)
		for _, p := range peers {
			p.Close()
		}
		synctest.Wait()
		late, peer := newLateConn()
		fake.results <- late
		io.WriteString(peer, "x")
		synctest.Wait()
		wantEqual(t, "Stats.HTTPConns after they left", l.Stats().HTTPServer.Conns, 1)
		peer.Close()
		s.Close()
	})
}

func TestAnAdoptedSocketHasItsAddressesAtOnce(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		nc, peer := tcpPair(t)
		for _, adopted := range []net.Conn{nc, tls.Server(nc, serverConf)} {
			c, err := l.Adopt(adopted, nil)
			if err != nil {
				t.Error(err)
				return
			}
			wantEqual(t, "remote address", c.RemoteAddr().String(), peer.LocalAddr().String())
			wantEqual(t, "local address", c.LocalAddr().String(), peer.RemoteAddr().String())
			c.Abort()
		}
		one, _ := net.Pipe()
		c, err := l.Adopt(one, nil)
		if err != nil {
			t.Error(err)
			return
		}
		wantEqual(t, "address of a pipe", c.RemoteAddr().Network(), "pipe")
		c.Abort()
	})
}

// A muxConn returns timeouts that are a net.Error but not os.ErrDeadlineExceeded, like
// the connections of several multiplexers.
type muxConn struct{ net.Conn }

type muxTimeout struct{}

func (muxTimeout) Error() string   { return "deadline reached" }
func (muxTimeout) Timeout() bool   { return true }
func (muxTimeout) Temporary() bool { return true }

func muxed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return muxTimeout{}
	}
	return err
}

func (m muxConn) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	return n, muxed(err)
}

func (m muxConn) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	return n, muxed(err)
}

func TestTimeoutsThatTheLibraryCausedAreNotReported(t *testing.T) {
	t.Run("Detach", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			ours, peer := net.Pipe()
			c, _ := l.Adopt(muxConn{ours}, nil)
			<-c.Connected().Done()
			synctest.Wait() // it reads
			nc, err := await(t, c.Detach())
			if err != nil {
				t.Fatal(err)
			}
			go io.WriteString(peer, "hello")
			wantEqual(t, "received", readString(t, nc, 5), "hello")
			nc.Close()
			peer.Close()
		})
	})
	t.Run("StartTLS", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			ours, peer := net.Pipe()
			c, _ := l.Adopt(muxConn{ours}, &eventloop.ConnConfig{TLSServer: true, OnData: echo().OnData})
			<-c.Connected().Done()
			synctest.Wait()
			f := c.StartTLS(serverConf)
			tc := tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
			go tc.Write([]byte("hello"))
			wantEqual(t, "echo", readString(t, tc, 5), "hello")
			if _, err := await(t, f); err != nil {
				t.Error(err)
			}
			c.Abort()
			peer.Close()
		})
	})
	t.Run("HTTP server", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			fake := newFakeListener()
			var events []error
			s, _ := l.ServeHTTP(fake, func(r *eventloop.HTTPRequest) {
				l.AfterFunc(time.Second, func() { r.Respond(200, nil, []byte("hello")) }) // wakes the reader
			}, &eventloop.HTTPServerConfig{OnEvent: func(_ *eventloop.HTTPServer, err error) { events = append(events, err) }})
			ours, peer := net.Pipe()
			fake.results <- muxConn{ours}
			for range 3 {
				go io.WriteString(peer, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				b := make([]byte, 1000)
				n, err := peer.Read(b)
				if err != nil || n == 0 {
					t.Fatalf("response = %q, %v", b[:n], err)
				}
			}
			s.Close()
			io.Copy(io.Discard, peer)
			synctest.Wait()
			wantEqual(t, "events", len(events), 0)
		})
	})
}

// A stubbornConn is a connection whose Close waits.
type stubbornConn struct {
	net.Conn
	release chan struct{}
}

func (s stubbornConn) Close() error {
	<-s.release
	return s.Conn.Close()
}

func TestADetachedConnectionThatIsNotTakenIsClosedWithoutBlockingTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, peer := net.Pipe()
		stubborn := stubbornConn{ours, make(chan struct{})}
		exits := 0
		go func() {
			time.Sleep(time.Minute)
			close(stubborn.release)
		}()
		err := eventloop.Run(context.Background(), &eventloop.Config{WorkGrace: time.Hour}, func(l *eventloop.Loop) error {
			c, err := l.Adopt(stubborn, nil)
			if err != nil {
				return err
			}
			c.Connected().Then(func(c *eventloop.Conn, err error) { c.Detach() })
			other, otherPeer := net.Pipe()
			began := time.Now()
			l.Adopt(other, &eventloop.ConnConfig{OnClose: func(*eventloop.Conn) {
				exits++
				wantEqual(t, "time until the others are closed", time.Since(began), time.Second)
				otherPeer.Close()
			}})
			l.AfterFunc(time.Second, l.Stop)
			return nil
		})
		wantEqual(t, "Run", err, nil)
		wantEqual(t, "OnClose of another connection", exits, 1)
		readAll(t, peer)
	})
}

// A deafenedConn waits in one of its methods until it is released, even if it is closed.
type deafenedConn struct {
	net.Conn
	method  string
	release chan struct{}
}

func (d deafenedConn) at(method string) {
	if d.method == method {
		<-d.release
	}
}

func (d deafenedConn) Read(p []byte) (int, error)  { d.at("Read"); return d.Conn.Read(p) }
func (d deafenedConn) Write(p []byte) (int, error) { d.at("Write"); return d.Conn.Write(p) }
func (d deafenedConn) Close() error                { d.at("Close"); return d.Conn.Close() }
func (d deafenedConn) RemoteAddr() net.Addr        { d.at("RemoteAddr"); return d.Conn.RemoteAddr() }

// A deafenedListener is the same for a listener.
type deafenedListener struct {
	net.Listener
	method  string
	release chan struct{}
}

func (d deafenedListener) Accept() (net.Conn, error) {
	if d.method == "Accept" {
		<-d.release
	}
	return d.Listener.Accept()
}

func (d deafenedListener) Close() error {
	if d.method == "Close" {
		<-d.release
	}
	return d.Listener.Close()
}

func TestForeignCodeThatNeverReturnsIsNamedInTheErrorOfRun(t *testing.T) {
	runNaming := func(t *testing.T, grace, want time.Duration, name string, start func(l *eventloop.Loop, release chan struct{})) {
		if name == "" {
			name = "eventloop_test.deaf"
		}
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			var began time.Time
			err := eventloop.Run(context.Background(), &eventloop.Config{WorkGrace: grace, Logger: slog.New(slog.DiscardHandler)}, func(l *eventloop.Loop) error {
				start(l, release)
				l.AfterFunc(time.Second, func() { began = time.Now(); l.Stop() })
				return nil
			})
			if !errors.Is(err, eventloop.ErrWorkLeft) || !strings.Contains(err.Error(), name) {
				t.Errorf("Run = %v, want an error that names %s", err, name)
			}
			if d := time.Since(began); d < want || d > want+time.Second {
				t.Errorf("Run returned %v after Stop, want %v", d, want)
			}
			close(release)
			synctest.Wait()
		})
	}
	run := func(t *testing.T, grace, want time.Duration, start func(l *eventloop.Loop, release chan struct{})) {
		runNaming(t, grace, want, "", start)
	}
	for grace, want := range map[time.Duration]time.Duration{0: 5 * time.Second, time.Minute: time.Minute, -1: 0} {
		for _, method := range []string{"Read", "Write", "Close", "RemoteAddr"} {
			closes := 0
			run(t, grace, want, func(l *eventloop.Loop, release chan struct{}) {
				ours, peer := net.Pipe()
				c, err := l.Adopt(deafenedConn{ours, method, release}, &eventloop.ConnConfig{
					OnClose: func(*eventloop.Conn) { closes++ },
				})
				if err != nil {
					t.Error(err)
				}
				c.WriteString("hello")
				go func() { <-release; peer.Close() }()
			})
			wantEqual(t, "OnClose of a connection that waits in "+method, closes, 1)
		}
		for _, method := range []string{"Dial", "Read", "Close", "RemoteAddr"} {
			closes, peerSaw := 0, errors.New("nothing")
			runNaming(t, grace, want, map[string]string{"Dial": "ConnConfig.Dial of conn tcp peer:1"}[method], func(l *eventloop.Loop, release chan struct{}) {
				ours, peer := net.Pipe()
				_, err := l.Dial(context.Background(), "tcp", "peer:1", &eventloop.ConnConfig{
					OnClose: func(*eventloop.Conn) { closes++ },
					Dial: func(context.Context, string, string) (net.Conn, error) {
						if method == "Dial" {
							<-release
						}
						return deafenedConn{ours, method, release}, nil
					},
				})
				if err != nil {
					t.Error(err)
				}
				go func() {
					_, peerSaw = io.Copy(io.Discard, peer)
				}()
			})
			wantEqual(t, "OnClose of a dialed connection that waits in "+method, closes, 1)
			wantEqual(t, "the error that the peer saw at the end", peerSaw, nil)
		}
		for _, method := range []string{"Accept", "Close"} {
			run(t, grace, want, func(l *eventloop.Loop, release chan struct{}) {
				l.Serve(deafenedListener{newFakeListener(), method, release}, nil)
			})
			run(t, grace, want, func(l *eventloop.Loop, release chan struct{}) {
				l.ServeHTTP(deafenedListener{newFakeListener(), method, release}, func(*eventloop.HTTPRequest) {}, nil)
			})
		}
		run(t, grace, want, func(l *eventloop.Loop, release chan struct{}) {
			ours, _ := net.Pipe()
			c, _ := l.Adopt(deafenedConn{ours, "Close", release}, nil)
			c.Connected().Then(func(c *eventloop.Conn, err error) { c.Detach() }) // no caller takes it
		})
	}
}

func TestForeignCodeOfAnHTTPClientThatNeverReturnsIsNamedInTheErrorOfRun(t *testing.T) {
	for _, method := range []string{"Dial", "Read", "Close"} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			ran := false
			err := eventloop.Run(context.Background(), &eventloop.Config{Logger: slog.New(slog.DiscardHandler)}, func(l *eventloop.Loop) error {
				client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
					Dial: func(context.Context, string, string) (net.Conn, error) {
						if method == "Dial" {
							<-release
						}
						ours, peer := net.Pipe()
						go func() {
							peer.Read(make([]byte, 1000))
							io.WriteString(peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
							<-release
							peer.Close()
						}()
						return deafenedConn{ours, method, release}, nil
					},
				})
				client.Get(context.Background(), "http://192.0.2.1/").Then(func(_ *eventloop.HTTPResponse, err error) {
					client.CloseIdle()
					l.Post(func() { ran = true })
				})
				l.AfterFunc(time.Second, l.Stop)
				return nil
			})
			if !errors.Is(err, eventloop.ErrWorkLeft) {
				t.Errorf("Run = %v with a %s that does not return", err, method)
			}
			wantEqual(t, "the loop continued while "+method+" ran", ran, method == "Close")
			close(release)
			synctest.Wait()
		})
	}
}

func TestForeignCodeThatReturnsInTimeIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		err := eventloop.Run(context.Background(), &eventloop.Config{WorkGrace: time.Minute}, func(l *eventloop.Loop) error {
			ours, peer := net.Pipe()
			l.Adopt(deafenedConn{ours, "Close", release}, nil)
			l.Serve(deafenedListener{newFakeListener(), "Close", release}, nil)
			time.AfterFunc(30*time.Second, func() { close(release); peer.Close() })
			l.AfterFunc(time.Second, l.Stop)
			return nil
		})
		wantEqual(t, "Run", err, nil)
	})
}

func TestGoexitInOnCloseOfAnAbandonedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, done := make(chan struct{}), make(chan struct{})
		closes, exits := 0, 0
		l := eventloop.New(&eventloop.Config{Logger: slog.New(slog.DiscardHandler)})
		l.OnExit(func() { exits++ })
		l.Hold()
		go func() {
			defer close(done)
			l.Run(context.Background())
		}()
		synctest.Wait()
		l.Post(func() {
			for range 2 {
				ours, peer := net.Pipe()
				l.Adopt(deafenedConn{ours, "Read", release}, &eventloop.ConnConfig{
					OnClose: func(*eventloop.Conn) { closes++; runtime.Goexit() },
				})
				go func() { <-release; peer.Close() }()
			}
			l.AfterFunc(time.Second, l.Stop)
		})
		<-done
		wantEqual(t, "calls of OnClose", closes, 2)
		wantEqual(t, "calls of OnExit", exits, 1)
		close(release)
		synctest.Wait()
	})
}

// A hookJar is a cookie jar that calls a hook.
type hookJar struct{ cookies, set func() }

func (j hookJar) Cookies(*url.URL) []*http.Cookie     { j.cookies(); return nil }
func (j hookJar) SetCookies(*url.URL, []*http.Cookie) { j.set() }

// A hookBody is a request body that calls hooks.
type hookBody struct {
	io.Reader
	read, close func()
}

func (b hookBody) Read(p []byte) (int, error) { b.read(); return b.Reader.Read(p) }
func (b hookBody) Close() error               { b.close(); return nil }

// A hookSeeker is one that can be read again.
type hookSeeker struct {
	hookBody
	seek func()
}

func (b hookSeeker) Seek(offset int64, whence int) (int64, error) {
	b.seek()
	return b.Reader.(io.Seeker).Seek(offset, whence)
}

// A hookListener is a listener of a foreign type.
type hookListener struct {
	net.Listener
	accept, close func()
}

func (ln hookListener) Accept() (net.Conn, error) { ln.accept(); return ln.Listener.Accept() }
func (ln hookListener) Close() error              { ln.close(); return ln.Listener.Close() }

// Every piece of code of the application that runs beside the loop may block for good.
// Run then returns after WorkGrace, and its error names that code, and nothing else.
func TestRunNamesEachHookThatNeverReturns(t *testing.T) {
	srv, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		if r.URL.Path == "/again" {
			http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
		}
	})
	tlsConf, clientConf := testTLS()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	secure.TLS = tlsConf
	secure.StartTLS()
	t.Cleanup(secure.Close)
	pass := func() {}
	var dial atomic.Value // of the resolver
	text := func() io.Reader { return strings.NewReader("text") }
	opaque := func() io.Reader { return io.MultiReader(text()) }
	do := func(l *eventloop.Loop, cfg *eventloop.HTTPClientConfig, url string, opts *eventloop.HTTPOptions) {
		eventloop.NewHTTPClient(l, cfg).Do(context.Background(), "POST", url, opts).Ignore()
	}
	post := func(l *eventloop.Loop, opts *eventloop.HTTPOptions) { do(l, nil, srv.URL+"/again", opts) }
	clientTLS := func(block func()) *tls.Config {
		conf := clientConf.Clone()
		conf.VerifyConnection = func(tls.ConnectionState) error { block(); return nil }
		return conf
	}
	serverTLS := func(block func()) *tls.Config {
		conf := tlsConf.Clone()
		conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { block(); return nil, nil }
		return conf
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	pair := func(l *eventloop.Loop, block func(), method string) net.Conn {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		go func() {
			<-l.Done()
			far.Close()
		}()
		return &hookConn{near, block, method}
	}
	fromPeer := func(l *eventloop.Loop, addr net.Addr, f func(nc net.Conn)) {
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Error(err)
			return
		}
		go f(nc)
		go func() {
			<-l.Done()
			nc.Close()
		}()
	}
	handshake := func(nc net.Conn) { tls.Client(nc, clientConf).Handshake() }
	// Those whose name ends with "at the end" are called when the loop ends.
	for _, test := range []struct {
		name, named string
		start       func(l *eventloop.Loop, block func())
	}{
		{"Jar.Cookies", "Cookies of eventloop_test.hookJar of the request " + srv.URL, func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{Jar: hookJar{block, pass}})
		}},
		{"Jar.SetCookies", "SetCookies of eventloop_test.hookJar", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{Jar: hookJar{pass, block}})
		}},
		{"Jar.Cookies over a Transport", "Cookies of eventloop_test.hookJar", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Transport: &http.Transport{DisableKeepAlives: true}}, srv.URL, &eventloop.HTTPOptions{Jar: hookJar{block, pass}})
		}},
		{"Jar.SetCookies over a Transport", "SetCookies of eventloop_test.hookJar", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Transport: &http.Transport{DisableKeepAlives: true}}, srv.URL, &eventloop.HTTPOptions{Jar: hookJar{pass, block}})
		}},
		{"Proxy", "HTTPClientConfig.Proxy", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { block(); return nil, nil }}, srv.URL, nil)
		}},
		{"Transport", "RoundTrip of eventloop_test.tripFunc", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Transport: tripFunc(func(*http.Request) (*http.Response, error) { block(); return nil, nil })}, srv.URL, nil)
		}},
		{"HTTPClientConfig.Dial", "HTTPClientConfig.Dial", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) { block(); return nil, nil }}, srv.URL, nil)
		}},
		{"HTTPClientConfig.TLS", "TLS handshake of an HTTP client", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{TLS: clientTLS(block)}, secure.URL, nil)
		}},
		{"HTTPClientConfig.TLS of a proxy", "TLS handshake of an HTTP client", func(l *eventloop.Loop, block func()) {
			proxy, _ := url.Parse(secure.URL)
			do(l, &eventloop.HTTPClientConfig{TLS: clientTLS(block), Proxy: func(*url.URL) (*url.URL, error) { return proxy, nil }}, srv.URL, nil)
		}},
		{"BodyReader.Read", "Read of a request body", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{BodyReader: hookBody{text(), block, pass}})
		}},
		{"BodyReader.Close", "Close of the body", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{BodyReader: hookBody{text(), pass, block}})
		}},
		{"BodyReader.Close after a refusal", "Close of the body", func(l *eventloop.Loop, block func()) {
			do(l, nil, "no url", &eventloop.HTTPOptions{BodyReader: hookBody{text(), pass, block}})
		}},
		{"BodyReader.Seek", "Seek of eventloop_test.hookSeeker", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{BodyReader: hookSeeker{hookBody{text(), pass, pass}, block}})
		}},
		{"GetBody", "GetBody of the request", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{MaxRedirects: 1, BodyReader: opaque(), GetBody: func() (io.ReadCloser, error) { block(); return nil, nil }})
		}},
		{"Read of what GetBody returns", "Read of a request body", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{MaxRedirects: 1, BodyReader: opaque(), GetBody: func() (io.ReadCloser, error) { return hookBody{text(), block, pass}, nil }})
		}},
		{"Close of what GetBody returns", "Close of the body", func(l *eventloop.Loop, block func()) {
			post(l, &eventloop.HTTPOptions{MaxRedirects: 1, BodyReader: opaque(), GetBody: func() (io.ReadCloser, error) { return hookBody{text(), pass, block}, nil }})
		}},
		{"Read of http.Request.Body", "Read of a request body", func(l *eventloop.Loop, block func()) {
			tripBeside(t, l, srv.URL, hookBody{text(), block, pass})
		}},
		{"Close of http.Request.Body", "Close of the body", func(l *eventloop.Loop, block func()) {
			tripBeside(t, l, srv.URL, hookBody{text(), pass, block})
		}},
		{"http.Handler", "http.Handler of", func(l *eventloop.Loop, block func()) {
			s, _ := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
				r.ServeHTTP(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { block() }))
			}, nil)
			fromPeer(l, s.Addr(), func(nc net.Conn) { io.WriteString(nc, plainGET) })
		}},
		{"HTTPServerConfig.TLS", "TLS handshake of http server", func(l *eventloop.Loop, block func()) {
			s, _ := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {}, &eventloop.HTTPServerConfig{TLS: serverTLS(block)})
			fromPeer(l, s.Addr(), handshake)
		}},
		{"Accept for an HTTP server", "eventloop_test.hookListener of http server", func(l *eventloop.Loop, block func()) {
			l.ServeHTTP(hookListener{listen(), block, pass}, func(r *eventloop.HTTPRequest) {}, nil)
		}},
		{"Accept", "eventloop_test.hookListener of listener", func(l *eventloop.Loop, block func()) {
			l.Serve(hookListener{listen(), block, pass}, nil)
		}},
		{"Close of a listener at the end", "eventloop_test.hookListener of listener", func(l *eventloop.Loop, block func()) {
			l.Serve(hookListener{listen(), pass, block}, nil)
		}},
		{"ConnConfig.Dial", "ConnConfig.Dial", func(l *eventloop.Loop, block func()) {
			l.Dial(context.Background(), "tcp", "h:1", &eventloop.ConnConfig{Dial: func(context.Context, string, string) (net.Conn, error) { block(); return nil, nil }})
		}},
		{"ConnConfig.TLS of Dial", "TLS handshake of conn", func(l *eventloop.Loop, block func()) {
			l.Dial(context.Background(), "tcp", secure.Listener.Addr().String(), &eventloop.ConnConfig{TLS: clientTLS(block)})
		}},
		{"ConnConfig.TLS of a listener", "TLS handshake of conn", func(l *eventloop.Loop, block func()) {
			ln, _ := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{TLS: serverTLS(block)})
			fromPeer(l, ln.Addr(), handshake)
		}},
		{"StartTLS", "TLS handshake of conn", func(l *eventloop.Loop, block func()) {
			l.Dial(context.Background(), "tcp", secure.Listener.Addr().String(), &eventloop.ConnConfig{
				OnConnect: func(c *eventloop.Conn) { c.StartTLS(clientTLS(block)).Ignore() },
			})
		}},
		{"Read of a connection", "eventloop_test.hookConn of conn", func(l *eventloop.Loop, block func()) {
			l.Adopt(pair(l, block, "Read"), nil)
		}},
		{"Close of a connection at the end", "eventloop_test.hookConn", func(l *eventloop.Loop, block func()) {
			l.Adopt(pair(l, block, "Close"), nil)
		}},
		{"RemoteAddr of a connection", "eventloop_test.hookConn of conn", func(l *eventloop.Loop, block func()) {
			l.Adopt(pair(l, block, "RemoteAddr"), nil)
		}},
		{"Read of ReadFrom", "reader eventloop_test.hookBody", func(l *eventloop.Loop, block func()) {
			eventloop.ReadFrom(l, hookBody{text(), block, pass}, func([]byte) {}, nil)
		}},
		{"Close of ReadFrom", "reader eventloop_test.hookBody", func(l *eventloop.Loop, block func()) {
			eventloop.ReadFrom(l, hookBody{text(), pass, block}, func([]byte) {}, nil)
		}},
		{"ResolverConfig.Dial", "ResolverConfig.Dial", func(l *eventloop.Loop, block func()) {
			dial.Store(func() (net.Conn, error) { block(); return nil, io.EOF })
			l.LookupNetIP(context.Background(), "ip", "name.test").Ignore()
		}},
		{"Read of a connection to a server of names", "a connection of ResolverConfig", func(l *eventloop.Loop, block func()) {
			dial.Store(func() (net.Conn, error) { return pair(l, block, "Read"), nil })
			l.LookupNetIP(context.Background(), "ip", "name.test").Ignore()
		}},
		{"Close of a connection to a server of names", "Close of .*hookConn|a connection of ResolverConfig", func(l *eventloop.Loop, block func()) {
			dial.Store(func() (net.Conn, error) { l.Stop(); return pair(l, block, "Close"), nil })
			l.LookupNetIP(context.Background(), "ip", "name.test").Ignore()
		}},
		{"Read of a connection of HTTPClientConfig.Dial", "a connection of HTTPClientConfig.Dial", func(l *eventloop.Loop, block func()) {
			do(l, &eventloop.HTTPClientConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return pair(l, block, "Read"), nil }}, srv.URL, nil)
		}},
		{"Work", "TestRunNamesEachHookThatNeverReturns", func(l *eventloop.Loop, block func()) {
			eventloop.Work(context.Background(), l, func(context.Context) (int, error) { block(); return 0, nil }).Ignore()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			release, blocked := make(chan struct{}), make(chan struct{}, 100)
			l := eventloop.New(&eventloop.Config{WorkGrace: -1, Logger: slog.New(slog.DiscardHandler), Resolver: &eventloop.ResolverConfig{
				Servers: []string{"127.0.0.1"},
				Dial: func(context.Context, string, string) (net.Conn, error) {
					return dial.Load().(func() (net.Conn, error))()
				},
			}})
			l.Post(func() {
				test.start(l, func() {
					blocked <- struct{}{}
					<-release
				})
				if strings.HasSuffix(test.name, "at the end") {
					l.Stop()
				}
			})
			go func() {
				select {
				case <-blocked:
					l.Stop()
				case <-l.Done():
				}
			}()
			watch(t, l)
			err := l.Run(context.Background())
			if !errors.Is(err, eventloop.ErrWorkLeft) {
				t.Errorf("Run = %v, want %v", err, eventloop.ErrWorkLeft)
			} else {
				for line := range strings.Lines(err.Error()) {
					if !regexp.MustCompile(test.named).MatchString(line) {
						t.Errorf("Run = %v, want only what has to do with %s", err, test.named)
					}
				}
			}
			close(release)
		})
	}
}

// A hookConn calls a hook in one of its methods.
type hookConn struct {
	net.Conn
	hook   func()
	method string
}

func (c *hookConn) at(method string) {
	if c.method == method {
		c.hook()
	}
}

func (c *hookConn) Read(p []byte) (int, error) { c.at("Read"); return c.Conn.Read(p) }
func (c *hookConn) Close() error               { c.at("Close"); return c.Conn.Close() }
func (c *hookConn) RemoteAddr() net.Addr       { c.at("RemoteAddr"); return c.Conn.RemoteAddr() }

// tripBeside sends a request by the RoundTripper of the loop's client, on a goroutine.
func tripBeside(t *testing.T, l *eventloop.Loop, url string, body io.ReadCloser) {
	req := newRequest(t, "POST", url, nil)
	req.Body, req.ContentLength = body, 4
	rt := l.HTTP().RoundTripper()
	l.Hold()
	go func() {
		if res, err := rt.RoundTrip(req); err == nil {
			res.Body.Close()
		}
	}()
}
