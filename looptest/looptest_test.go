package looptest_test

import (
	"fmt"
	"net"
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
