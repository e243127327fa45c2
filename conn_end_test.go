package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/netcore"
)

// spoiled returns callbacks of which the named one calls f, the first time. The
// others make sure that there is something to call it for.
func spoiled(where string, f func()) *eventloop.ConnConfig {
	once := false
	in := func(call string) {
		if call == where && !once {
			once = true
			f()
		}
	}
	return &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) {
			if where == "drain" { // else the peer's end may close the connection before
				c.PauseReading()
			}
			c.WriteString("greeting")
			in("connect")
		},
		OnData:  func(c *eventloop.Conn, data []byte) { in("data") },
		OnDrain: func(c *eventloop.Conn) { in("drain") },
		OnEvent: func(c *eventloop.Conn, err error) { in("event") },
		OnClose: func(c *eventloop.Conn) { in("close") },
	}
}

var callbackNames = []string{"connect", "data", "drain", "event", "close"}

// visit plays the peer of a spoiled connection.
func visit(t testing.TB, ln *eventloop.Listener) {
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return // the loop has ended already
	}
	defer nc.Close()
	deadline(t, nc)
	io.ReadFull(nc, make([]byte, 8))
	io.WriteString(nc, "data")
	nc.(*net.TCPConn).CloseWrite()
	io.ReadAll(nc)
}

func TestConnPanicLeavesRun(t *testing.T) {
	for _, where := range callbackNames {
		t.Run(where, func(t *testing.T) {
			checkLeaks(t)
			r, cfg := newTape(spoiled(where, func() { panic("boom") }))
			v, _ := outcome(func() {
				eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
					ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
					background(t, func() { visit(t, ln) })
					return err
				})
			})
			pe, ok := v.(*eventloop.PanicError)
			if !ok || pe.Value != "boom" || !strings.Contains(string(pe.Stack), "spoiled") {
				t.Errorf("Run panicked with %v", v)
			}
			r.check(t)
		})
	}
}

func TestConnPanicCaughtIsAnEventOfTheConnection(t *testing.T) {
	for _, where := range callbackNames {
		t.Run(where, func(t *testing.T) {
			var events []error
			var ln *eventloop.Listener
			cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
			var r *tape
			v, _ := outcome(func() {
				mustRun(t, cfg, func(l *eventloop.Loop) {
					conf := spoiled(where, func() { panic("boom") })
					onClose := conf.OnClose
					conf.OnClose = func(c *eventloop.Conn) { ln.Close(); onClose(c) }
					r, conf = newTape(conf)
					ln, _ = l.Listen("tcp", "127.0.0.1:0", conf)
					background(t, func() { visit(t, ln) })
				})
			})
			r.check(t)
			var pe *eventloop.PanicError
			switch where {
			case "event": // not caught again
				if got, ok := v.(*eventloop.PanicError); !ok || got.Value != "boom" {
					t.Errorf("Run panicked with %v", v)
				}
			case "close": // no OnEvent after OnClose
				if len(events) != 1 || !errors.As(events[0], &pe) {
					t.Errorf("events of the loop = %v", events)
				}
			default:
				if len(events) != 0 {
					t.Errorf("events of the loop = %v", events)
				}
				if err := r.event(t); !errors.As(err, &pe) || pe.Value != "boom" {
					t.Errorf("event = %v", err)
				}
				wantEqual(t, "Err", r.why, error(pe))
			}
		})
	}
}

func TestConnPanicAfterCloseIsNotLost(t *testing.T) {
	var events []error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
	a, b := net.Pipe()
	defer b.Close()
	r, conf := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
		c.Close()
		panic("boom")
	}})
	mustRun(t, cfg, func(l *eventloop.Loop) { l.Adopt(a, conf) })
	r.wait(t)
	var pe *eventloop.PanicError
	if len(events) != 1 || !errors.As(events[0], &pe) || pe.Value != "boom" {
		t.Errorf("events of the loop = %v, want the panic", events)
	}
	wantEqual(t, "callbacks", r.order(), "connect close")
}

func TestConnGoexitInACallbackClosesEverything(t *testing.T) {
	for _, where := range append(callbackNames, "failed dial") {
		t.Run(where, func(t *testing.T) {
			checkLeaks(t)
			dead := deadAddr(t)
			exits := 0
			name := where
			if where == "failed dial" {
				name = "event"
			}
			r, cfg := newTape(spoiled(name, runtime.Goexit))
			other, conf := newTape(nil)
			_, exited := outcome(func() {
				eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
					l.OnExit(func() { exits++ })
					a, b := net.Pipe()
					t.Cleanup(func() { b.Close() })
					l.Adopt(a, conf)
					if where == "failed dial" {
						_, err := l.Dial(context.Background(), "tcp", dead, cfg)
						return err
					}
					ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
					background(t, func() { visit(t, ln) })
					return err
				})
			})
			wantEqual(t, "Goexit", exited, true)
			r.check(t)
			other.check(t)
			wantEqual(t, "exit callbacks", exits, 1)
		})
	}
}

// A stuckState brings a connection into a state in which something waits. make
// returns it, or nil if only the loop has it yet.
type stuckState struct {
	name string
	make func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn
}

// plenty fills every buffer on the way to a peer that does not read.
var plenty = bytesOf(24 << 20)

// awaitBlocked waits until the kernel takes no more output of c.
func awaitBlocked(t testing.TB, c *eventloop.Conn) {
	t.Helper()
	if !eventually(func() bool { return eventloop.Blocked(c) }) {
		t.Errorf("the output is not blocked; %d bytes are left", c.Buffered())
	}
}

func stuckStates() []stuckState {
	must := func(t testing.TB, c *eventloop.Conn, err error) *eventloop.Conn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	states := []stuckState{
		{"connecting", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			c, _ := dialBlackHole(t, l, cfg)
			return c
		}},
		{"connecting with output, closed", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			c, _ := dialBlackHole(t, l, cfg)
			c.WriteString("important")
			c.Close()
			return c
		}},
		{"shaking hands as a client", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			cfg.TLS = clientConf
			c, err := l.Dial(context.Background(), "tcp", servePeers(t).addr(), cfg)
			return must(t, c, err)
		}},
		{"shaking hands as a server", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			cfg.TLS = serverConf
			ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
			must(t, nil, err)
			dialPeer(t, ln.Addr())
			if !eventually(func() bool { return l.Stats().Conns.Incoming == 1 }) {
				t.Error("nothing is accepted")
			}
			return nil
		}},
		{"shaking hands in StartTLS", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			c, _ := accept(t, l, cfg)
			c.StartTLS(serverConf)
			c.WriteString("waits for it")
			return c
		}},
		{"half-open", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			cfg.AllowHalfOpen = true
			c, peer := accept(t, l, cfg)
			peer.CloseWrite()
			return c
		}},
		{"lingering", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			c, peer := accept(t, l, cfg)
			c.Close()
			readAll(t, peer)
			return c
		}},
		{"piped to one that does not read", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
			dst, _ := accept(t, l, nil)
			src, peer := accept(t, l, cfg)
			src.Pipe(dst)
			background(t, func() { peer.Write(plenty) })
			return src
		}},
	}
	pausedOrBlocked := func(name string, join maker) {
		states = append(states,
			stuckState{name + ", idle", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, _ := join(t, l, cfg)
				return c
			}},
			stuckState{name + ", paused with data", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, peer := join(t, l, cfg)
				c.PauseReading()
				c.PauseWriting()
				c.WriteString("held back")
				io.WriteString(peer, "unread")
				return c
			}},
			stuckState{name + ", writing blocked", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, _ := join(t, l, cfg)
				c.Write(plenty)
				awaitBlocked(t, c)
				return c
			}},
			stuckState{name + ", closing blocked", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, _ := join(t, l, cfg)
				c.Write(plenty)
				c.Close()
				return c
			}},
			stuckState{name + ", detaching blocked", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, _ := join(t, l, cfg)
				c.Write(plenty)
				c.Detach()
				return c
			}},
			stuckState{name + ", flooded", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) *eventloop.Conn {
				c, peer := join(t, l, cfg)
				background(t, func() {
					for {
						if _, err := peer.Write(plenty); err != nil {
							return
						}
					}
				})
				return c
			}},
		)
	}
	pausedOrBlocked("direct", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
		c, peer := accept(t, l, cfg)
		return c, peer
	})
	pausedOrBlocked("raw", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
		c, peer := adopt(t, l, cfg)
		await(t, c.Connected())
		return c, peer
	})
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"net.Conn": func(nc net.Conn) net.Conn { return plainConn{nc} },
		"deaf":     func(nc net.Conn) net.Conn { return deafConn{nc} },
		"mumbling": func(nc net.Conn) net.Conn { return mumblingConn{nc} },
	} {
		pausedOrBlocked(name, func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
			nc, peer := tcpPair(t)
			c, err := l.Adopt(wrap(nc), cfg)
			must(t, c, err)
			await(t, c.Connected())
			return c, peer
		})
	}
	pausedOrBlocked("tls", func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, net.Conn) {
		nc, peer := tcpPair(t)
		cfg.TLS, cfg.TLSServer = serverConf, true
		c, err := l.Adopt(nc, cfg)
		must(t, c, err)
		tc := tls.Client(peer, clientConf)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		await(t, c.Connected())
		return c, tc
	})
	return states
}

// endure has connections that end wait for their peers beyond the watchdog, so that an
// end that waits for a peer fails.
func endure(t testing.TB) { t.Cleanup(netcore.Prolong(time.Hour)) }

func TestStopByForceEndsAConnectionInEveryState(t *testing.T) {
	for _, state := range stuckStates() {
		t.Run(state.name, func(t *testing.T) {
			l, end := startLoop(t, nil)
			opened, closed := 0, 0
			var order []string
			state.make(t, l, &eventloop.ConnConfig{
				MaxBuffered: -1,
				OnConnect:   func(*eventloop.Conn) { opened++ },
				OnEvent:     func(c *eventloop.Conn, err error) { order = append(order, err.Error()) },
				OnClose:     func(*eventloop.Conn) { closed++ },
			})
			ended := false
			l.OnExit(func() { ended = true })
			endure(t)
			l.Stop()
			if err := end(); err != nil {
				t.Errorf("Run = %v", err)
			}
			wantEqual(t, "OnClose", closed, 1)
			wantEqual(t, "exit callback", ended, true)
			s := l.Stats()
			wantEqual(t, "Stats.Buffered", s.Conns.Buffered, 0)
			wantEqual(t, "Stats.IncomingTCP", s.Conns.Incoming, 0)
			wantEqual(t, "Stats.OutgoingTCP", s.Conns.Outgoing, 0)
		})
	}
}

func TestAbortEndsAConnectionInEveryState(t *testing.T) {
	for _, state := range stuckStates() {
		t.Run(state.name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			r, cfg := newTape(&eventloop.ConnConfig{MaxBuffered: -1})
			c := state.make(t, l, cfg)
			endure(t)
			if c != nil {
				c.Abort()
			} else {
				l.Stop() // no caller could call Abort
			}
			r.wait(t)
			l.Stop()
		})
	}
}

func TestStopRacesWithConnectionsThatComeAndGo(t *testing.T) {
	for range 12 {
		t.Run("", stopRace) // each with a watchdog of its own
	}
}

func stopRace(t *testing.T) {
	l, end := startLoop(t, nil)
	counts := map[*eventloop.Conn]int{} // only on the loop, also at its end
	conf := echo()
	conf.OnConnect = func(c *eventloop.Conn) { c.WriteString("hi") }
	conf.OnClose = func(c *eventloop.Conn) { counts[c]++ }
	ln, err := l.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var peers []<-chan struct{}
	for i := range 8 {
		peers = append(peers, background(t, func() {
			for {
				c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), conf)
				if err != nil {
					wantEqual(t, "Dial", err, eventloop.ErrLoopClosed)
					return
				}
				c.WriteString("data")
				switch i % 4 {
				case 0:
					c.Close()
				case 1:
					c.Abort()
				case 2:
					<-c.Flushed().Done()
					c.Close()
				case 3:
					if nc, err := c.Detach().Wait(context.Background()); err == nil {
						nc.Close()
					}
				}
			}
		}))
	}
	time.Sleep(3 * time.Millisecond)
	l.Stop()
	end()
	for _, p := range peers {
		wait(t, p, "end of a peer")
	}
	for _, n := range counts {
		wantEqual(t, "OnClose of a connection", n, 1)
	}
}

// readToReset reads from a peer until a reset ends the stream, which an end of
// file does not.
func readToReset(t testing.TB, nc net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(nc)
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.Errno(10054)) { // of Windows
		t.Errorf("the peer reads %d bytes and then %v, want a reset", len(b), err)
	}
	return string(b)
}

// Half an answer with an orderly end would pass for a whole one.
func TestConnThatFailedEndsByAReset(t *testing.T) {
	const readTimeout = "a read timeout"
	fails := map[string]*eventloop.ConnConfig{
		readTimeout: {ReadTimeout: 50 * time.Millisecond, ConnectTimeout: watchdogTime}, // it is not that of the handshake
		"a panic":   {OnData: func(*eventloop.Conn, []byte) { panic("boom") }},
		"a write timeout": {
			WriteTimeout: 50 * time.Millisecond,
			OnData:       func(c *eventloop.Conn, _ []byte) { c.Write(bytesOf(16 << 20)) },
		},
	}
	for name, cfg := range fails {
		for _, conf := range []*tls.Config{nil, serverConf} {
			t.Run(name+map[bool]string{true: " of TLS"}[conf != nil], func(t *testing.T) {
				l, _ := startLoop(t, &eventloop.Config{CatchPanics: true})
				cfg := *cfg
				cfg.TLS = conf
				cfg.OnConnect = func(c *eventloop.Conn) { c.WriteString("half an answer") }
				r, with := newTape(&cfg)
				ln, err := l.Listen("tcp", "127.0.0.1:0", with)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				peer := dialPeer(t, ln.Addr())
				if conf != nil {
					peer = tlsClient(peer)
				}
				wantEqual(t, "received", readString(t, peer, 14), "half an answer")
				if name != readTimeout { // after the reset, a write would report it instead of the read
					io.WriteString(peer, "x")
				}
				r.wait(t)
				r.event(t)
				readToReset(t, peer)
				peer.Close()
			})
		}
	}
}

func TestStopEndsAConnectionWithPendingOutputByAReset(t *testing.T) {
	l, end := startLoop(t, nil)
	c, peer := accept(t, l, nil)
	onLoop(t, l, func() {
		c.Write(bytesOf(16 << 20))
		l.Stop()
	})
	end()
	readToReset(t, peer)
	peer.Close()

	l, end = startLoop(t, nil)
	c, peer = accept(t, l, nil)
	c.WriteString("all of an answer")
	await(t, c.Flushed())
	l.Stop()
	end()
	wantEqual(t, "received", readAll(t, peer), "all of an answer")
	peer.Close()
}
