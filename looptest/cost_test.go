package looptest_test

import (
	"context"
	"flag"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

var measure = flag.Int("measure", 0, "rounds of TestCostOfACallback, which are logged; 0: only that it works")

// talk has 50 pairs of connections, each with two goroutines, that echo messages until
// n of them have arrived.
func talk(l *eventloop.Loop, n int) error {
	left := n
	var conns []*eventloop.Conn
	for range 50 {
		for _, nc := range pipe() {
			c, err := l.Adopt(nc, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
				if left--; left > 0 {
					c.Write(p)
				} else if left == 0 {
					for _, c := range conns {
						c.Abort()
					}
				}
			}})
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
	}
	l.AfterFunc(time.Second, func() {
		for i := 0; i < len(conns); i += 2 {
			conns[i].WriteString("hello")
		}
	})
	return nil
}

func pipe() [2]net.Conn {
	a, b := net.Pipe()
	return [2]net.Conn{a, b}
}

// spin has 100 goroutines that wait, and a callback that posts itself n times.
func spin(l *eventloop.Loop, n int) error {
	quit := make(chan struct{})
	for range 100 {
		go func() { <-quit }()
	}
	var again func()
	again = func() {
		if n--; n == 0 {
			close(quit)
			return
		}
		l.AfterFunc(time.Microsecond, again)
	}
	return l.Post(again)
}

// What a callback costs with and without looptest, in processor time, with 100
// goroutines in the bubble.
func TestCostOfACallback(t *testing.T) {
	n := 1000
	if *measure > 0 {
		n = 50_000
	}
	for name, f := range map[string]func(l *eventloop.Loop, n int) error{"messages": talk, "timers": spin} {
		t.Run(name, func(t *testing.T) {
			for range max(*measure, 1) {
				began := cpuTime()
				synctest.Test(t, func(t *testing.T) {
					if err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error { return f(l, n) }); err != nil {
						t.Error(err)
					}
				})
				without := (cpuTime() - began) / time.Duration(n)
				began = cpuTime()
				looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { return f(l, n) })
				with := (cpuTime() - began) / time.Duration(n)
				if *measure > 0 {
					t.Logf("without %s, with looptest %s, %.2f times", without, with, float64(with)/float64(without))
				}
			}
		})
	}
}

// What a thousand seeds of a chat with ten members cost: the chat of TestASeedHasOneOrder.
func TestCostOfSeeds(t *testing.T) {
	n := 10
	if *measure > 0 {
		n = 1000
	}
	for range max(*measure, 1) {
		began := cpuTime()
		for seed := range uint64(n) {
			var order strings.Builder
			looptest.Run(t, chat(10, &order), looptest.Seed(seed))
		}
		if *measure > 0 {
			t.Logf("%d seeds in %s", n, cpuTime()-began)
		}
	}
}
