package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/netcore"
)

// parks says that quiet connections wait without a goroutine here.
const parks = runtime.GOOS == "linux"

// loopFDs is the number of descriptors of a loop on Linux: those of the poller, while
// connections are parked, and of pollpass, which a busy dispatcher opens.
const loopFDs = 2

// pollerGoroutines is the number of goroutines of the poller while connections are parked.
func pollerGoroutines(procs int) int { return 1 + 4*procs }

// awaitParked waits until n connections of l are parked, where they are.
func awaitParked(t testing.TB, l *eventloop.Loop, n int) {
	t.Helper()
	if parks && !eventually(func() bool { return l.Stats().Conns.Parked == n }) {
		t.Errorf("Parked = %d, want %d", l.Stats().Conns.Parked, n)
	}
}

// hasten has connections parked as soon as they have nothing to do.
func hasten(t testing.TB) { t.Cleanup(netcore.Hasten(time.Millisecond, 0)) }

func TestQuietConnectionsHaveNoGoroutines(t *testing.T) {
	l, _ := startLoop(t, nil)
	hasten(t)
	const n = 100
	before := runtime.NumGoroutine()
	var peers []*net.TCPConn
	var conns []*eventloop.Conn
	for range n {
		c, peer := accept(t, l, echo())
		conns, peers = append(conns, c), append(peers, peer)
	}
	for range 3 {
		for _, peer := range peers {
			io.WriteString(peer, "hello")
		}
		for _, peer := range peers {
			wantEqual(t, "echo", readString(t, peer, 5), "hello")
		}
		awaitParked(t, l, n)
	}
	// The workers of the poller and of the loop, its writers, and what ends just now.
	if !eventually(func() bool { return runtime.NumGoroutine()-before < n/2 }) && parks {
		t.Errorf("there are %d goroutines more for %d connections", runtime.NumGoroutine()-before, n)
	}
	wantEqual(t, "ParkFailuresTotal", l.Stats().Conns.ParkFailuresTotal, 0)
	for _, c := range conns {
		c.Abort()
	}
	idle(t, l)
	wantEqual(t, "Parked at the end", l.Stats().Conns.Parked, 0)
}

// Whatever is done to a parked connection, and whatever its peer does, has its effect.
func TestWhateverIsDoneToAParkedConnectionHasItsEffect(t *testing.T) {
	l, _ := startLoop(t, nil)
	hasten(t)
	for _, test := range []struct {
		name string
		cfg  eventloop.ConnConfig
		do   func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn)
		want error // that OnEvent is told
	}{
		{"Close", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.WriteString("bye")
			c.Close()
			wantEqual(t, "the peer reads", readAll(t, peer), "bye")
			peer.Close()
		}, nil},
		{"Abort", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.Abort()
			if _, err := peer.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("the peer reads %v, want a reset", err)
			}
		}, nil},
		{"CloseWrite", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.CloseWrite()
			wantEqual(t, "the peer reads", readAll(t, peer), "")
			peer.Close()
		}, io.EOF},
		{"Detach", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			nc, err := await(t, c.Detach())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(peer, "hello")
			wantEqual(t, "the detached connection reads", readString(t, nc, 5), "hello")
			nc.Close()
		}, nil},
		{"StartTLS", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			f := c.StartTLS(serverConf)
			tc := tls.Client(peer, clientConf)
			io.WriteString(tc, "hello")
			wantEqual(t, "the peer reads", readString(t, tc, 5), "hello")
			if _, err := await(t, f); err != nil {
				t.Error(err)
			}
			awaitParked(t, l, 1)
			io.WriteString(tc, "again")
			wantEqual(t, "the peer reads", readString(t, tc, 5), "again")
			tc.Close()
			peer.Close()
		}, io.EOF},
		{"SetTimeouts", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.SetTimeouts(10*time.Millisecond, 0)
		}, eventloop.ErrTimeout},
		{"ReadTimeout", eventloop.ConnConfig{ReadTimeout: 3 * time.Second}, func(*testing.T, *eventloop.Conn, *net.TCPConn) {
		}, eventloop.ErrTimeout},
		{"end of the peer", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			peer.Close()
		}, io.EOF},
		{"reset", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			reset(t, peer)
		}, eventloop.ErrReset},
		{"reset while reading is paused", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.PauseReading()
			awaitParked(t, l, 1)
			io.WriteString(peer, "unread")
			reset(t, peer)
		}, eventloop.ErrReset},
		{"reset after the end of its side", eventloop.ConnConfig{AllowHalfOpen: true, OnEvent: func(c *eventloop.Conn, err error) {}}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			peer.CloseWrite()
			io.WriteString(peer, "")
			awaitParked(t, l, 1)
			reset(t, peer)
		}, eventloop.ErrReset},
		{"PauseReading and ResumeReading", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			c.PauseReading()
			awaitParked(t, l, 1)
			io.WriteString(peer, "hello")
			awaitParked(t, l, 1)
			c.ResumeReading()
			wantEqual(t, "the peer reads", readString(t, peer, 5), "hello")
			peer.Close()
		}, io.EOF},
		{"a task that reads", eventloop.ConnConfig{}, func(t *testing.T, c *eventloop.Conn, peer *net.TCPConn) {
			f := l.Go(context.Background(), func(k *eventloop.Task) error {
				nc := c.NetConn(k)
				_, err := io.CopyN(nc, nc, 5)
				nc.Close()
				return err
			})
			io.WriteString(peer, "hello")
			wantEqual(t, "the peer reads", readAll(t, peer), "hello")
			peer.Close()
			if _, err := await(t, f); err != nil {
				t.Error(err)
			}
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := test.cfg
			cfg.OnData = func(c *eventloop.Conn, p []byte) { c.Write(p) }
			r, conf := newTape(&cfg)
			c, peer := accept(t, l, conf)
			awaitParked(t, l, 1)
			test.do(t, c, peer)
			r.wait(t)
			r.mu.Lock()
			defer r.mu.Unlock()
			if test.want == nil {
				wantEqual(t, "events", len(r.events), 0)
			} else if n := len(r.events); n == 0 || !errors.Is(r.events[n-1], test.want) {
				t.Errorf("events = %v, the last one is to be %v", r.events, test.want)
			}
		})
	}
	idle(t, l)
}

// The loop ends with connections that are parked, in every way.
func TestTheEndOfALoopEndsParkedConnections(t *testing.T) {
	hasten(t)
	for name, end := range map[string]func(l *eventloop.Loop){
		"Stop":     func(l *eventloop.Loop) { l.Stop() },
		"Shutdown": func(l *eventloop.Loop) { l.Shutdown(watchdogTime) },
	} {
		t.Run(name, func(t *testing.T) {
			var closed atomic.Int32
			var peers []*net.TCPConn
			mustRun(t, nil, func(l *eventloop.Loop) {
				const n = 20
				for range n {
					cfg := echo()
					cfg.OnClose = func(*eventloop.Conn) { closed.Add(1) }
					_, peer := adopt(t, l, cfg)
					peers = append(peers, peer)
				}
				background(t, func() {
					awaitParked(t, l, n)
					end(l)
					for _, peer := range peers {
						peer.Close()
					}
				})
			})
			wantEqual(t, "OnClose", closed.Load(), 20)
		})
	}
}

// Connections of all kinds go idle and are woken at random, by messages and by all
// that may be done to them; those that end make room for new ones. Each byte that was
// written to a connection that was not aborted comes to the other side, and back what
// that has sent. For a minute, with as many as there are descriptors for:
//
//	EVENTLOOP_CHAOS=1m go test -race -run TestParkedConnectionsSurviveChaos .
func TestParkedConnectionsSurviveChaos(t *testing.T) {
	t.Cleanup(netcore.Hasten(2*time.Millisecond, 0))
	pairs := 100
	if os.Getenv("EVENTLOOP_CHAOS") != "" {
		pairs = min(10_000, (descriptorLimit()-1000)/2)
	}
	long := chaosTime(t)
	until := time.Now().Add(long)
	var st idleStats
	// To open and to end so many connections takes time, too.
	err := runLoopFor(t, long+time.Duration(pairs)*10*time.Millisecond, &eventloop.Config{EventHandler: func(error) {}}, func(l *eventloop.Loop) {
		l.Listen("tcp", "127.0.0.1:0", nil)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		release := l.Hold()
		go func() {
			defer l.Stop()
			defer release()
			defer ln.Close()
			st.run(t, l, ln, pairs, until)
		}()
	})
	if err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	t.Logf("%d connections, %d messages, %d bytes, %d upgrades; %d were parked at a time", 2*st.pairs.Load(), st.messages.Load(), st.bytes.Load(), st.upgrades.Load(), st.parked.Load())
}

type idleStats struct{ pairs, messages, bytes, upgrades, parked atomic.Int64 }

func (st *idleStats) run(t *testing.T, l *eventloop.Loop, ln net.Listener, pairs int, until time.Time) {
	var wg sync.WaitGroup
	var dial sync.Mutex // dialing and accepting together
	const drivers = 4
	for d := range drivers {
		rnd := rand.New(rand.NewPCG(uint64(d), 3))
		wg.Go(func() {
			mine := make([]*idlePair, pairs/drivers)
			for i := range mine {
				mine[i] = st.newPair(t, l, ln, &dial, rnd)
			}
			for time.Now().Before(until) {
				i := rnd.IntN(len(mine))
				if p := mine[i]; !p.step(rnd, st) {
					p.end(t)
					mine[i] = st.newPair(t, l, ln, &dial, rnd)
				}
				if d == 0 && rnd.IntN(10) == 0 {
					st.parked.Store(max(st.parked.Load(), int64(l.Stats().Conns.Parked)))
				}
				if rnd.IntN(4) == 0 {
					time.Sleep(time.Duration(rnd.IntN(500)) * time.Microsecond)
				}
			}
			for _, p := range mine {
				p.a.Close()
				p.end(t)
			}
		})
	}
	wg.Wait()
}

// An idlePair is two connections of the loop to each other: a speaks, b echoes.
// A speaker says 0 to 99 again and again; 255 calls for TLS.
type idlePair struct {
	a, b    *eventloop.Conn
	said    int  // bytes
	secured bool // TLS was called for
	lossy   bool // bytes may be missing

	shaken atomic.Bool   // the handshake is over
	back   atomic.Int64  // bytes that a has heard
	wrong  atomic.Int32  // bytes
	heard  int           // by b. Only on the loop
	open   int           // connections. Only on the loop
	over   chan struct{} // closed when there is none
}

func (st *idleStats) newPair(t *testing.T, l *eventloop.Loop, ln net.Listener, dial *sync.Mutex, rnd *rand.Rand) *idlePair {
	st.pairs.Add(1)
	p := &idlePair{over: make(chan struct{}), open: 2}
	dial.Lock()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		panic(err)
	}
	b, err := ln.Accept()
	dial.Unlock()
	if err != nil {
		panic(err)
	}
	closed := func(*eventloop.Conn) {
		if p.open--; p.open == 0 {
			close(p.over)
		}
	}
	p.b, err = l.Adopt(b, &eventloop.ConnConfig{
		TLSServer: true, ReadTimeout: time.Hour, ReadBufferSize: 1 << (8 + rnd.IntN(8)),
		OnClose: closed,
		OnData: func(c *eventloop.Conn, data []byte) {
			for i, x := range data {
				if x == 255 {
					c.Unread(data[i+1:])
					c.Write(data[:i])
					c.StartTLS(serverConf).Ignore()
					return
				}
				if x != byte(p.heard%100) {
					p.wrong.Add(1)
				}
				p.heard++
			}
			c.Write(data)
		},
	})
	if err != nil {
		panic(err)
	}
	p.a, err = l.Adopt(a, &eventloop.ConnConfig{
		OnClose: closed,
		OnData: func(c *eventloop.Conn, data []byte) {
			for _, x := range data {
				if x != byte(p.back.Load()%100) {
					p.wrong.Add(1)
				}
				p.back.Add(1)
			}
		},
	})
	if err != nil {
		panic(err)
	}
	return p
}

func (p *idlePair) say(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(p.said % 100)
		p.said++
	}
	return b
}

// step does one thing, and reports whether the pair goes on.
func (p *idlePair) step(rnd *rand.Rand, st *idleStats) bool {
	switch rnd.IntN(100) {
	case 0:
		p.a.Close()
		return false
	case 1:
		p.lossy = true
		[]*eventloop.Conn{p.a, p.b}[rnd.IntN(2)].Abort()
		return false
	case 2:
		if p.secured && !p.shaken.Load() {
			break // it cannot be detached
		}
		rest := p.say(rnd.IntN(2000))
		p.b.ResumeReading()
		p.a.Connected().Wait(context.Background()) // before that it lives on
		p.a.Detach().Then(func(nc net.Conn, err error) {
			if err != nil {
				p.wrong.Add(1)
				return
			}
			go func() {
				nc.Write(rest)
				if cw, ok := nc.(interface{ CloseWrite() error }); ok {
					cw.CloseWrite()
				}
				io.Copy(io.Discard, nc)
				nc.Close()
			}()
		})
		return false
	case 3:
		p.lossy = true
		p.a.SetTimeouts(time.Duration(1+rnd.IntN(20))*time.Millisecond, 0)
		p.a.ResumeReading()
		return false
	case 4, 5:
		// What b sends in the clear must be there before.
		if !p.secured && p.said > 0 && int(p.back.Load()) == p.said {
			p.secured = true
			p.a.Write([]byte{255})
			p.a.StartTLS(clientConf).Then(func(tls.ConnectionState, error) { p.shaken.Store(true) })
			p.a.ResumeReading()
			p.b.ResumeReading()
			st.upgrades.Add(1)
		}
	case 6, 7, 8:
		p.a.PauseReading()
	case 9, 10, 11:
		p.b.PauseReading()
	case 12, 13, 14, 15, 16, 17:
		p.a.ResumeReading()
		p.b.ResumeReading()
	case 18, 19:
		p.b.SetTimeouts(time.Hour, time.Hour)
	default:
		n := 1 + rnd.IntN(1000)
		st.messages.Add(1)
		st.bytes.Add(int64(n))
		p.a.Write(p.say(n))
	}
	return true
}

// end waits for the end of the pair and does the accounts.
func (p *idlePair) end(t *testing.T) {
	p.a.ResumeReading()
	p.b.ResumeReading()
	select {
	case <-p.over:
	case <-time.After(watchdogTime):
		t.Errorf("a pair does not end")
		return
	}
	if n := p.wrong.Load(); n > 0 {
		t.Errorf("%d bytes are wrong", n)
	}
	back := int(p.back.Load())
	if !p.lossy && p.heard != p.said || p.heard > p.said || back > p.heard {
		t.Errorf("%d bytes were said, %d heard, and %d came back; TLS: %v, lossy: %v, errors %v, %v", p.said, p.heard, back, p.secured, p.lossy, p.a.Err(), p.b.Err())
	}
}
