package eventloop_test

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/netcore"
)

// chaosTime is for how long TestConnectionsSurviveChaos goes on. For an hour:
//
//	EVENTLOOP_CHAOS=1h go test -race -timeout 2h -run TestConnectionsSurviveChaos .
func chaosTime(t *testing.T) time.Duration {
	if s := os.Getenv("EVENTLOOP_CHAOS"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return time.Second
}

// Pairs of connections of one loop send to each other, while several goroutines do
// everything that may be done to a connection. Whatever that is, each connection
// ends with one OnClose, last, and nothing is left. Every other time they are parked
// whenever they have nothing to do.
func TestConnectionsSurviveChaos(t *testing.T) {
	until := time.Now().Add(chaosTime(t))
	for round := 0; time.Now().Before(until); round++ {
		t.Run("", func(t *testing.T) {
			if round%2 == 1 {
				t.Cleanup(netcore.Hasten(100*time.Microsecond, 0))
			}
			chaos(t, uint64(round))
		})
	}
}

func chaos(t *testing.T, seed uint64) {
	mustRun(t, &eventloop.Config{EventHandler: func(error) {}}, func(l *eventloop.Loop) {
		var closed, callsAfter atomic.Int32
		const pairs = 8
		for i := range pairs {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			var a, b net.Conn
			switch rnd.IntN(4) {
			case 0:
				a, b = net.Pipe()
			case 1:
				a, b = unixConns(t)
			default:
				one, two := tcpPair(t)
				two.SetDeadline(time.Time{})
				a, b = one, two
			}
			var conns [2]*eventloop.Conn
			for j, nc := range []net.Conn{a, b} {
				ended := false // only on the loop
				called := func() {
					if ended {
						callsAfter.Add(1)
					}
				}
				cfg := &eventloop.ConnConfig{
					AllowHalfOpen: rnd.IntN(2) == 0,
					TLSServer:     j == 1,
					HighWater:     1 << rnd.IntN(20),
					WriteTimeout:  200 * time.Millisecond, ConnectTimeout: 200 * time.Millisecond,
					OnConnect: func(*eventloop.Conn) { called() },
					OnDrain:   func(*eventloop.Conn) { called() },
					OnEvent:   func(*eventloop.Conn, error) { called() },
					OnClose:   func(*eventloop.Conn) { called(); ended = true; closed.Add(1) },
				}
				switch rnd.IntN(3) {
				case 0:
					cfg.OnData = func(c *eventloop.Conn, p []byte) { called(); c.Write(p) }
				case 1:
					cfg.OnData = func(c *eventloop.Conn, p []byte) { called(); c.Unread(p[len(p)/2:]) }
				}
				c, err := l.Adopt(nc, cfg)
				if err != nil {
					t.Error(err)
					return
				}
				conns[j] = c
			}
			var wg sync.WaitGroup
			for range 3 {
				r := rand.New(rand.NewPCG(rnd.Uint64(), 0))
				wg.Go(func() {
					for range 30 {
						chaosStep(l, r, conns[r.IntN(2)], conns[r.IntN(2)])
						if r.IntN(3) == 0 {
							time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
						}
					}
				})
			}
			release := l.Hold()
			last := rand.New(rand.NewPCG(rnd.Uint64(), 1))
			go func() {
				wg.Wait()
				for _, c := range conns {
					switch last.IntN(3) {
					case 0:
						c.Close()
					case 1:
						c.SetTimeouts(50*time.Millisecond, 50*time.Millisecond)
						c.ResumeReading()
					}
				}
				time.Sleep(2 * time.Millisecond)
				for _, c := range conns {
					c.Abort()
				}
				release()
			}()
		}
		l.OnExit(func() {
			wantEqual(t, "OnClose", closed.Load(), 2*pairs)
			wantEqual(t, "callbacks after OnClose", callsAfter.Load(), 0)
			wantEqual(t, "Buffered", l.Stats().Conns.Buffered, 0)
		})
	})
}

// chaosStep does one thing to c.
func chaosStep(l *eventloop.Loop, r *rand.Rand, c, other *eventloop.Conn) {
	switch r.IntN(40) {
	case 0:
		c.Close()
	case 1:
		c.Abort()
	case 2:
		c.CloseWrite()
	case 3, 4:
		conf := serverConf
		if r.IntN(2) == 0 {
			conf = clientConf
		}
		c.StartTLS(conf).Ignore()
	case 5:
		f := c.Detach()
		f.Then(func(nc net.Conn, err error) {
			if err == nil {
				nc.Close()
			}
		})
	case 6:
		c.Pipe(other).Ignore()
	case 7, 8:
		c.PauseReading()
	case 9, 10, 11:
		c.ResumeReading()
	case 12:
		c.PauseWriting()
	case 13, 14:
		c.ResumeWriting()
	case 15:
		c.SetTimeouts(time.Duration(r.IntN(100))*time.Millisecond, time.Duration(r.IntN(100))*time.Millisecond)
	case 16:
		c.SetCallbacks(&eventloop.ConnConfig{OnData: eventloop.Discard})
	case 17:
		c.Unread(make([]byte, r.IntN(1000)))
	case 18, 19:
		c.Flushed().Ignore()
	case 20:
		c.Connected().Ignore()
	case 21:
		d := time.Duration(r.IntN(1000)) * time.Microsecond
		l.Go(context.Background(), func(k *eventloop.Task) error {
			nc := c.NetConn(k)
			nc.SetDeadline(time.Now().Add(d))
			nc.Read(make([]byte, 100))
			_, err := nc.Write(make([]byte, 1000))
			return err
		}).Ignore()
	default:
		c.Write(make([]byte, 1<<r.IntN(18)))
	}
}
