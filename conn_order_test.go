package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/sockio"
)

// speakTLS sends hello over TLS and returns what it gets, and the error of the
// handshake.
func speakTLS(nc net.Conn, hello string) (string, error) {
	tc := tlsClient(nc)
	if err := tc.Handshake(); err != nil {
		return "", err
	}
	io.WriteString(tc, hello)
	b, _ := io.ReadAll(tc)
	return string(b), nil
}

// StartTLS gets all that was read and not delivered, wherever that is.
func TestStartTLSTakesWhatWasReadBefore(t *testing.T) {
	upgraded := func(c *eventloop.Conn) func(tls.ConnectionState, error) {
		return func(_ tls.ConnectionState, err error) {
			if err != nil {
				t.Errorf("StartTLS = %v", err)
			}
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
				c.WriteString("got " + string(p))
				c.Close()
			}})
		}
	}
	for name, cfg := range map[string]*eventloop.ConnConfig{
		"in OnConnect of a busy loop": {OnConnect: func(c *eventloop.Conn) {
			time.Sleep(5 * time.Millisecond) // the ClientHello is here
			c.StartTLS(serverConf).Then(upgraded(c))
		}},
		"of a chunk on its way": {OnConnect: func(c *eventloop.Conn) {
			c.Loop().Post(func() {
				time.Sleep(5 * time.Millisecond)
				c.StartTLS(serverConf).Then(upgraded(c))
			})
		}},
		"held in a pause": {OnConnect: func(c *eventloop.Conn) {
			c.PauseReading()
			c.Loop().AfterFunc(20*time.Millisecond, func() {
				c.StartTLS(serverConf).Then(upgraded(c))
				c.ResumeReading()
			})
		}},
		"held for a reader": {OnConnect: func(c *eventloop.Conn) {
			c.Loop().AfterFunc(20*time.Millisecond, func() { c.StartTLS(serverConf).Then(upgraded(c)) })
		}},
		"given back in two parts": {OnData: func(c *eventloop.Conn, p []byte) {
			c.Unread(p[2:])
			c.Unread(p[:2])
			c.StartTLS(serverConf).Then(upgraded(c))
		}},
		"not read by a stream": {Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			nc := c.NetConn(k)
			p := make([]byte, 3) // of the ClientHello
			if _, err := io.ReadFull(nc, p); err != nil {
				return err
			}
			c.Unread(p)
			if _, err := c.StartTLS(serverConf).Await(k); err != nil {
				return err
			}
			p = make([]byte, 5)
			if _, err := io.ReadFull(nc, p); err != nil {
				return err
			}
			_, err := io.WriteString(nc, "got "+string(p))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			for range 10 {
				ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
				if err != nil {
					t.Fatal(err)
				}
				got, err := speakTLS(dialPeer(t, ln.Addr()), "hello")
				if got != "got hello" || err != nil {
					t.Errorf("the client got %q, %v", got, err)
				}
				ln.Close()
			}
		})
	}
}

// Bytes in the clear behind the command must not pass for encrypted ones. They
// make the handshake fail.
func TestBytesInTheClearBehindStartTLSFailTheHandshake(t *testing.T) {
	for name, cfg := range map[string]*eventloop.ConnConfig{
		"stream": {Task: func(k *eventloop.Task, c *eventloop.Conn) error {
			nc := c.NetConn(k)
			p := make([]byte, 9)
			if _, err := io.ReadFull(nc, p); err != nil {
				return err
			}
			f := c.StartTLS(serverConf)
			nc.SetReadDeadline(time.Now().Add(-time.Second))
			if n, err := nc.Read(p); n != 0 || err == nil { // before the handshake, too
				t.Errorf("Read during StartTLS = %d, %v", n, err)
			}
			_, err := f.Await(k)
			if err == nil {
				t.Error("StartTLS succeeded")
			}
			return nil
		}},
		"Unread": {OnData: func(c *eventloop.Conn, p []byte) {
			command, rest, _ := strings.Cut(string(p), "\n")
			wantEqual(t, "command", command, "STARTTLS")
			c.Unread([]byte(rest))
			c.StartTLS(serverConf).Then(func(_ tls.ConnectionState, err error) {
				if err == nil {
					t.Error("StartTLS succeeded")
				}
			})
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, p []byte) { t.Errorf("OnData got %q", p) }})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			conf := *cfg
			conf.OnEvent = func(*eventloop.Conn, error) {}
			ln, err := l.Listen("tcp", "127.0.0.1:0", &conf)
			if err != nil {
				t.Fatal(err)
			}
			peer := dialPeer(t, ln.Addr())
			io.WriteString(peer, "STARTTLS\nEVIL\n")
			if _, err := speakTLS(peer, "hello"); err == nil {
				t.Error("the client's handshake succeeded")
			}
			ln.Close()
		})
	}
}

func TestDataComesAfterTheCallbacksOfConnectedAndStartTLS(t *testing.T) {
	// then has done called with a future's result, by a callback or by a task.
	then := func(l *eventloop.Loop, task bool, await func(k *eventloop.Task), callback func()) {
		if !task {
			callback()
			return
		}
		l.Go(context.Background(), func(k *eventloop.Task) error { await(k); return nil })
	}
	for _, task := range []bool{false, true} {
		for range 20 {
			var order []string
			note := func(s string) { order = append(order, s) }
			l, end := startLoop(t, nil)
			peers := servePeers(t)
			r, cfg := newTape(nil)
			cfg.OnData = func(c *eventloop.Conn, p []byte) {
				note(string(p))
				if string(p) != "greeting" {
					c.Close()
					return
				}
				f := c.StartTLS(clientConf)
				then(l, task, func(k *eventloop.Task) { f.Await(k); note("secured") },
					func() { f.Then(func(tls.ConnectionState, error) { note("secured") }) })
			}
			onLoop(t, l, func() {
				c, err := l.Dial(context.Background(), "tcp", peers.addr(), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				f := c.Connected() // here: the task starts in a later turn, and data may be there
				then(l, task, func(k *eventloop.Task) { f.Await(k); note("up") },
					func() { f.Then(func(*eventloop.Conn, error) { note("up") }) })
			})
			l.Post(func() { time.Sleep(2 * time.Millisecond) }) // the loop is busy while it comes up
			peer := peers.next(t)
			io.WriteString(peer, "greeting")
			tc := tls.Server(peer, serverConf)
			io.WriteString(tc, "secret")
			io.Copy(io.Discard, tc)
			peer.Close()
			wait(t, r.closed, "OnClose")
			wantEqual(t, "order", strings.Join(order, " "), "up greeting secured secret")
			end()
		}
	}
}

func TestUnreadBytesComeWithTheNextOnes(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		var got []string
		taken := make(chan struct{}, 10)
		r, cfg := newTape(nil)
		cfg.OnData = func(c *eventloop.Conn, p []byte) { // keeps what is no whole line
			got = append(got, string(p))
			if i := strings.LastIndexByte(string(p), '\n'); i < len(p)-1 {
				wantEqual(t, "Unread", c.Unread(p[i+1:]), nil)
			}
			taken <- struct{}{}
		}
		_, peer := join(t, l, cfg)
		for _, part := range []string{"on", "e\ntw", "o\nthree"} {
			io.WriteString(peer, part)
			wait(t, taken, "OnData")
		}
		peer.Close()
		r.wait(t)
		// At the end they come alone, once.
		wantEqual(t, "data", strings.Join(got, "|"), "on|one\ntw|two\nthree|three")
	})
}

func TestUnreadIsBoundedCopiesAndEndsWithTheConnection(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(&eventloop.ConnConfig{MaxBuffered: 10})
	c, peer := adopt(t, l, cfg)
	await(t, c.Connected())
	// Being connected has the loop look for data to deliver once its callbacks are over. The
	// first function may have been posted before that.
	onLoop(t, l, func() {})
	onLoop(t, l, func() {})
	p := []byte("def")
	wantEqual(t, "Unread", c.Unread(p), nil)
	copy(p, "xyz")
	wantEqual(t, "Unread", c.Unread([]byte("abc")), nil)
	wantEqual(t, "Unread beyond the bound", c.Unread([]byte("12345")), eventloop.ErrBufferFull)
	onLoop(t, l, func() {})
	wantEqual(t, "data before there is a reason", r.received(), "")
	done := make(chan string, 1)
	c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, p []byte) { done <- string(p) }})
	wantEqual(t, "data for a new OnData", wait(t, done, "OnData"), "abcdef")
	c.Unread([]byte("rest"))
	nc, err := await(t, c.Detach())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(peer, " and more")
	wantEqual(t, "what Detach gives", readString(t, nc, 13), "rest and more")
	wantEqual(t, "Unread of a closed connection", c.Unread(p), net.ErrClosed)
}

func TestAPipeBeginsWithUnreadBytes(t *testing.T) {
	l, _ := startLoop(t, nil)
	dst, far := adopt(t, l, nil)
	await(t, dst.Connected())
	_, peer := adopt(t, l, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
		c.Unread(p)
		c.Pipe(dst).Ignore()
	}})
	io.WriteString(peer, "PROXY ")
	wantEqual(t, "the beginning", readString(t, far, 6), "PROXY ")
	io.WriteString(peer, "and the rest")
	peer.CloseWrite()
	wantEqual(t, "the rest", readAll(t, far), "and the rest")
}

func TestAConnectionWithoutAReaderHoldsWhatArrives(t *testing.T) {
	forEachTransport(t, func(t *testing.T, join maker) {
		l, _ := startLoop(t, nil)
		c, peer := join(t, l, &eventloop.ConnConfig{})
		want := string(bytesOf(300_000))
		background(t, func() {
			io.WriteString(peer, want)
			peer.(interface{ CloseWrite() error }).CloseWrite()
		})
		time.Sleep(20 * time.Millisecond)
		if n := l.Stats().Conns.BytesInTotal; n > 64<<10 {
			t.Errorf("%d bytes were read", n)
		}
		r, cfg := newTape(nil)
		c.SetCallbacks(cfg)
		wait(t, r.closed, "OnClose")
		wantEqual(t, "bytes", r.received() == want, true)
	})
}

func TestDiscardDropsWhatArrives(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(nil)
	cfg.OnData = eventloop.Discard
	_, peer := adopt(t, l, cfg)
	peer.Write(make([]byte, 1<<20))
	peer.Close()
	r.wait(t)
	if err := r.event(t); err != io.EOF {
		t.Errorf("event = %v, want io.EOF", err)
	}
}

// A reset is an event in every state.
func TestAResetIsNoticedWhileNothingIsRead(t *testing.T) {
	if !sockio.Raw {
		t.Skip("on this system a reset is noticed only by reading")
	}
	for _, secure := range []bool{false, true} {
		for name, do := range map[string]struct {
			before func(c *eventloop.Conn)
			peer   func(peer net.Conn)
		}{
			"paused":           {func(c *eventloop.Conn) { c.PauseReading() }, func(net.Conn) {}},
			"paused with data": {func(c *eventloop.Conn) { c.PauseReading() }, func(p net.Conn) { p.Write(make([]byte, 100)) }},
			"half-open":        {func(*eventloop.Conn) {}, func(p net.Conn) { p.(interface{ CloseWrite() error }).CloseWrite() }},
		} {
			t.Run(name, func(t *testing.T) {
				l, _ := startLoop(t, nil)
				events := make(chan error, 3)
				cfg := &eventloop.ConnConfig{
					AllowHalfOpen: true, TLSServer: true,
					OnData:  eventloop.Discard,
					OnEvent: func(_ *eventloop.Conn, err error) { events <- err },
				}
				if secure {
					cfg.TLS = serverConf
				}
				nc, near := tcpPair(t)
				c, err := l.Adopt(nc, cfg)
				if err != nil {
					t.Fatal(err)
				}
				var peer net.Conn = near
				if secure {
					tc := tlsClient(near)
					if err := tc.Handshake(); err != nil {
						t.Fatal(err)
					}
					peer = tc
				}
				await(t, c.Connected())
				do.before(c)
				do.peer(peer)
				if name == "half-open" {
					wantEqual(t, "first event", wait(t, events, "io.EOF"), io.EOF)
				}
				time.Sleep(10 * time.Millisecond)
				reset(t, near)
				if err := wait(t, events, "event of the reset"); !errors.Is(err, eventloop.ErrReset) {
					t.Errorf("event = %v, want a reset", err)
				}
			})
		}
	}
}

func TestAStreamOrPipeOpenedAfterTheEndOfTheInputEnds(t *testing.T) {
	halfOpen := func(t *testing.T, f func(l *eventloop.Loop, c *eventloop.Conn)) {
		t.Helper()
		mustRun(t, nil, func(l *eventloop.Loop) {
			_, peer := adopt(t, l, &eventloop.ConnConfig{
				AllowHalfOpen: true,
				OnData:        eventloop.Discard,
				OnEvent:       func(c *eventloop.Conn, err error) { wantEqual(t, "event", err, io.EOF); f(l, c) },
			})
			io.WriteString(peer, "dropped")
			peer.CloseWrite()
		})
	}
	halfOpen(t, func(l *eventloop.Loop, c *eventloop.Conn) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			defer c.Close()
			for range 2 {
				if n, err := c.NetConn(k).Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("Read = %d, %v, want io.EOF", n, err)
				}
			}
			return nil
		})
	})
	halfOpen(t, func(l *eventloop.Loop, c *eventloop.Conn) {
		dst, far := adopt(t, l, &eventloop.ConnConfig{AllowHalfOpen: true})
		c.Pipe(dst).Then(func(n int64, err error) {
			wantEqual(t, "piped", n, 0)
			wantEqual(t, "error", err, nil)
			c.Close()
			dst.Close()
		})
		background(t, func() { readAll(t, far) })
	})
}

func TestATaskGetsTheErrorOfADialThatFailedBeforeItAsked(t *testing.T) {
	addr := deadAddr(t)
	var got error
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			c, err := l.Dial(k.Context(), "tcp", addr, nil)
			if err != nil {
				return err
			}
			k.Sleep(50 * time.Millisecond)
			_, got = c.NetConn(k).Read(make([]byte, 1))
			return nil
		})
	})
	if !errors.Is(got, eventloop.ErrRefused) {
		t.Errorf("Read = %v, want ErrRefused", got)
	}
}

func TestATLSEndWithoutCloseNotifyIsAnError(t *testing.T) {
	for _, start := range []bool{false, true} {
		for _, read := range []bool{true, false} {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(nil)
			if !start {
				cfg.TLS, cfg.TLSServer = serverConf, true
			} else {
				cfg.TLSServer = true
				cfg.OnConnect = func(c *eventloop.Conn) { c.StartTLS(serverConf).Ignore() }
			}
			if !read {
				cfg.OnData = nil
			}
			_, peer := adopt(t, l, cfg)
			tc := tlsClient(peer)
			io.WriteString(tc, "DELETE FROM users")
			time.Sleep(5 * time.Millisecond)
			peer.Close()
			wait(t, r.closed, "OnClose")
			if err := r.event(t); eventloop.IsInfo(err) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("StartTLS %v, read %v: event = %v, want io.ErrUnexpectedEOF", start, read, err)
			}
		}
	}
}

func TestOnDataSetByATaskIsCalledInALaterTurn(t *testing.T) {
	set, called := uint64(0), uint64(0)
	mustRun(t, nil, func(l *eventloop.Loop) {
		_, peer := adopt(t, l, &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				io.ReadFull(c.NetConn(k), make([]byte, 2))
				set = l.Stats().Loop.IterationsTotal
				c.SetCallbacks(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
					wantEqual(t, "data", string(p), "llo")
					called = l.Stats().Loop.IterationsTotal
					c.Abort()
				}})
				return nil
			})
		}})
		io.WriteString(peer, "hello")
	})
	if called <= set {
		t.Errorf("set in turn %d, called in turn %d", set, called)
	}
}
