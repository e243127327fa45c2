package looptest_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// chat has n members whose messages arrive at the same instants.
func chat(n int, order *strings.Builder) func(t *testing.T, l *eventloop.Loop) error {
	return func(t *testing.T, l *eventloop.Loop) error {
		for i := range n {
			a, b := net.Pipe()
			if _, err := l.Adopt(a, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, p []byte) { fmt.Fprintf(order, "%s ", p) },
			}); err != nil {
				return err
			}
			sent := 0
			c, err := l.Adopt(b, &eventloop.ConnConfig{OnData: func(*eventloop.Conn, []byte) {}})
			if err != nil {
				return err
			}
			var tick *eventloop.Timer
			tick = l.Every(time.Millisecond, func() {
				fmt.Fprintf(c, "%d.%d", i, sent)
				if sent++; sent == 5 {
					tick.Stop()
					l.AfterFunc(time.Millisecond, func() { c.Close() })
				}
			})
		}
		return nil
	}
}

func TestASeedHasOneOrder(t *testing.T) {
	for seed := range uint64(3) {
		var first string
		for range 100 {
			var order strings.Builder
			looptest.Run(t, chat(5, &order), looptest.Seed(seed+1))
			if first == "" {
				first = order.String()
			}
			if order.String() != first {
				t.Fatalf("seed %d:\n%s\n%s", seed+1, first, order.String())
			}
		}
		t.Log(first)
	}
}

// testdata/chat.trace was written on linux/amd64. Any other platform, with and
// without the race detector, must agree with it.
func TestTheTraceIsTheSameOnEveryPlatform(t *testing.T) {
	var trace strings.Builder
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 20*time.Millisecond)
		n.Split(3)
		ln, err := n.Listen("server:1")
		if err != nil {
			return err
		}
		var s *eventloop.Listener
		left := 3
		s, err = l.Serve(ln, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) },
			OnClose: func(*eventloop.Conn) {
				if left--; left == 0 {
					s.Close()
				}
			},
		})
		if err != nil {
			return err
		}
		for i := range left {
			l.Go(t.Context(), func(task *eventloop.Task) error {
				got := 0
				c, err := l.Dial(t.Context(), "tcp", "server:1", &eventloop.ConnConfig{
					Dial: n.Dialer(fmt.Sprintf("client%d", i)),
					OnData: func(c *eventloop.Conn, p []byte) {
						if got += len(p); got == 10 {
							c.Close()
						}
					},
				})
				if err != nil {
					return err
				}
				c.WriteString("hello")
				if err := task.Sleep(10 * time.Millisecond); err != nil {
					return err
				}
				_, err = c.WriteString("world")
				return err
			})
		}
		l.OnExit(func() {
			for _, e := range looptest.Trace(t) {
				fmt.Fprintln(&trace, sourceLine.ReplaceAllString(e.String(), "source"))
			}
		})
		return nil
	}, looptest.Seed(7))
	const golden = "testdata/chat.trace"
	if *update {
		if err := os.WriteFile(golden, []byte(trace.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if trace.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", trace.String(), want)
	}
}

// sourceLine matches names that change when the library is edited.
var sourceLine = regexp.MustCompile(`\S+\.go:\d+|eventloop\.\S+-fm`)

var update = flag.Bool("update", false, "write the golden traces")
