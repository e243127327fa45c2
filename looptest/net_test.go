package looptest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

func discard(*eventloop.Conn, []byte) {}

// cluster has a server on loop 0 and a client on each other loop, which send three
// messages each over a network with latency, and get them back.
func cluster(log *strings.Builder) func(t *testing.T, ls []*eventloop.Loop) error {
	return func(t *testing.T, ls []*eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 3*time.Millisecond)
		n.Split(4)
		ln, err := n.Listen("server:7")
		if err != nil {
			return err
		}
		left := len(ls) - 1
		ls[0].Post(func() {
			var s *eventloop.Listener
			s, err := ls[0].Serve(ln, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, p []byte) {
					fmt.Fprintf(log, "%s:%q ", c.RemoteAddr(), p)
					c.Write(p)
				},
				OnClose: func(*eventloop.Conn) {
					if left--; left == 0 {
						s.Close()
					}
				},
			})
			if err != nil {
				t.Error(err)
			}
		})
		for i, l := range ls[1:] {
			l.Post(func() {
				got := 0
				c, err := l.Dial(context.Background(), "tcp", "server:7", &eventloop.ConnConfig{
					Dial: n.Dialer("clients"), // the same host: connections have the same names
					OnData: func(c *eventloop.Conn, p []byte) {
						if got += len(p); got == 9 {
							c.Close()
						}
					},
				})
				if err != nil {
					t.Error(err)
					return
				}
				for m := range 3 {
					fmt.Fprintf(c, "%d.%d", i, m)
				}
			})
		}
		return nil
	}
}

func TestASeedHasOneOrderOverANetwork(t *testing.T) {
	for seed := range uint64(3) {
		var first string
		for range 50 {
			var log strings.Builder
			looptest.Loops(t, 4, cluster(&log), looptest.Seed(seed+1))
			if first == "" {
				first = log.String()
			}
			if log.String() != first {
				t.Fatalf("seed %d:\n%s\n%s", seed+1, first, log.String())
			}
		}
		t.Log(first)
	}
}

func TestADialWithoutAListenerIsRefused(t *testing.T) {
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		_, err := l.Dial(t.Context(), "tcp", "b:1", &eventloop.ConnConfig{
			Dial: n.Dialer("a"),
			OnEvent: func(c *eventloop.Conn, err error) {
				if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, eventloop.ErrRefused) {
					t.Errorf("got %v", err)
				}
			},
		})
		return err
	})
}

// inNet runs client and server on goroutines of their own, over a network.
func inNet(t *testing.T, setUp func(n *looptest.Net), server, client func(t *testing.T, c net.Conn)) {
	t.Helper()
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		if setUp != nil {
			setUp(n)
		}
		ln, err := n.Listen("b:1")
		if err != nil {
			return err
		}
		eventloop.Work(t.Context(), l, func(context.Context) (any, error) {
			c, err := ln.Accept()
			if err != nil {
				return nil, err
			}
			defer c.Close()
			server(t, c)
			return nil, ln.Close()
		})
		eventloop.Work(t.Context(), l, func(ctx context.Context) (any, error) {
			c, err := n.Dialer("a")(ctx, "tcp", "b:1")
			if err != nil {
				return nil, err
			}
			defer c.Close()
			client(t, c)
			return nil, nil
		})
		return nil
	})
}

func TestBytesArriveInOrderAndThenTheEnd(t *testing.T) {
	want := strings.Repeat("0123456789", 50_000)
	inNet(t, func(n *looptest.Net) {
		n.Split(3000)
		n.Latency(0, time.Second)
		n.Bandwidth(1 << 20)
	}, func(t *testing.T, c net.Conn) {
		got, err := io.ReadAll(c)
		if err != nil || string(got) != want {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}, func(t *testing.T, c net.Conn) {
		if n, err := io.WriteString(c, want); n != len(want) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
}

func TestWriteWaitsWhenTheWindowIsFull(t *testing.T) {
	inNet(t, func(n *looptest.Net) { n.Window(1000) }, func(t *testing.T, c net.Conn) {
		time.Sleep(time.Minute)
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Error(err)
		}
	}, func(t *testing.T, c net.Conn) {
		c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(make([]byte, 5000))
		if n != 1000 || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "timeout") {
			t.Errorf("wrote %d, %v", n, err)
		}
		c.SetWriteDeadline(time.Time{})
		before := time.Now()
		if n, err := c.Write(make([]byte, 5000)); n != 5000 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		if waited := time.Since(before); waited != 59*time.Second {
			t.Errorf("waited for %s", waited)
		}
	})
}

func TestACloseWithUnreadInputIsAReset(t *testing.T) {
	inNet(t, nil, func(t *testing.T, c net.Conn) {
		c.Read(make([]byte, 1))
	}, func(t *testing.T, c net.Conn) {
		io.WriteString(c, "two bytes at least")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAfterHealEverythingGoesOn(t *testing.T) {
	var n *looptest.Net
	inNet(t, func(net *looptest.Net) { n = net }, func(t *testing.T, c net.Conn) {
		before := time.Now()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil || time.Since(before) != time.Minute {
			t.Errorf("got %q, %v after %s", got, err, time.Since(before))
		}
	}, func(t *testing.T, c net.Conn) {
		n.Cut("a", "b")
		io.WriteString(c, "hello")
		time.Sleep(time.Minute)
		n.Heal("b", "a")
	})
}

func TestALongCutEndsAConnectionThatWaitsForAcknowledgements(t *testing.T) {
	var n *looptest.Net
	inNet(t, func(net *looptest.Net) { n = net }, func(t *testing.T, c net.Conn) {
		c.SetReadDeadline(time.Now().Add(time.Hour))
		c.Read(make([]byte, 1))
	}, func(t *testing.T, c net.Conn) {
		n.Cut("a", "b")
		io.WriteString(c, "hello")
		before := time.Now()
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ETIMEDOUT) || time.Since(before) != 15*time.Minute {
			t.Errorf("got %v after %s", err, time.Since(before))
		}
	})
}

func TestAPeerOfACrashedHostHearsOfItWhenItIsUpAgain(t *testing.T) {
	var n *looptest.Net
	inNet(t, func(net *looptest.Net) { n = net }, func(t *testing.T, c net.Conn) {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("on the crashed host: %v", err)
		}
	}, func(t *testing.T, c net.Conn) {
		n.Crash("b")
		io.WriteString(c, "hello")
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); !strings.Contains(fmt.Sprint(err), "timeout") {
			t.Errorf("while the host is down: %v", err)
		}
		c.SetReadDeadline(time.Time{})
		n.Restart("b")
		io.WriteString(c, "hello")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("when the host is up: %v", err)
		}
	})
}

func TestAbortResetsTheConnectionOfThePeer(t *testing.T) {
	var got error
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		got = nil
		n := looptest.NewNet(t)
		ln, err := n.Listen("server:7")
		if err != nil {
			return err
		}
		var s *eventloop.Listener
		s, err = l.Serve(ln, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { s.Close() },
			OnData:    func(c *eventloop.Conn, p []byte) { c.Abort() },
		})
		if err != nil {
			return err
		}
		c, err := l.Dial(t.Context(), "tcp", "server:7", &eventloop.ConnConfig{
			Dial:    n.Dialer("client"),
			OnData:  discard,
			OnEvent: func(_ *eventloop.Conn, err error) { got = errors.Join(got, err) },
		})
		if err == nil {
			c.WriteString("hello")
		}
		return err
	})
	if !errors.Is(got, eventloop.ErrReset) {
		t.Errorf("the peer got %v, want %v", got, eventloop.ErrReset)
	}
}
