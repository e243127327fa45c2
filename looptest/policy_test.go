package looptest_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

func TestEveryPolicyRepeatsTheOrderOfItsSeed(t *testing.T) {
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			var order strings.Builder
			repeats(t, chat(5, &order), looptest.Order(policy))
		})
	}
}

var policies = map[string]looptest.Policy{
	"random":         looptest.Random(),
	"pct, depth 1":   looptest.PCT(1),
	"pct, depth 3":   looptest.PCT(3),
	"pct, depth < 1": looptest.PCT(0),
	"fifo":           looptest.FIFO(),
	"unfair":         looptest.Unfair(),
}

// ordersOf returns the orders in which the members of a chat were served with 50 seeds.
func ordersOf(t *testing.T, policy looptest.Policy) map[string]bool {
	seen := make(map[string]bool)
	for seed := range uint64(50) {
		var order strings.Builder
		f := chat(5, &order)
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { return f(t, l) },
			looptest.Seed(seed), looptest.Order(policy))
		seen[order.String()] = true
	}
	return seen
}

func TestPoliciesWithoutChanceHaveOneOrderForAllSeeds(t *testing.T) {
	fifo, unfair := ordersOf(t, looptest.FIFO()), ordersOf(t, looptest.Unfair())
	if len(fifo) != 1 || len(unfair) != 1 {
		t.Fatalf("%d orders by FIFO and %d by Unfair, want 1 each", len(fifo), len(unfair))
	}
	for order := range fifo {
		if unfair[order] {
			t.Errorf("FIFO and Unfair have the same order: %s", order)
		}
	}
}

func TestPoliciesWithChanceHaveManyOrders(t *testing.T) {
	for _, name := range []string{"random", "pct, depth 1", "pct, depth 3"} {
		if n := len(ordersOf(t, policies[name])); n < 10 {
			t.Errorf("%s: %d orders in 50 seeds, want at least 10", name, n)
		}
	}
}

// With a depth of 1 priorities never change, so of two handles that are ready together
// again and again the same one always goes first; with a higher depth it changes.
func TestPCTChangesPrioritiesDepthMinusOneTimes(t *testing.T) {
	changes := func(depth int) (most int) {
		for seed := uint64(1); seed <= 200; seed++ {
			var first []string // of each instant
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
				return race(l, 30, &first)
			}, looptest.Seed(seed), looptest.Order(looptest.PCT(depth)))
			n := 0
			for i := 1; i < len(first); i++ {
				if first[i] != first[i-1] {
					n++
				}
			}
			most = max(most, n)
		}
		return most
	}
	for depth, want := range map[int]int{0: 0, 1: 0, 2: 1, 3: 2} {
		if got := changes(depth); got != want {
			t.Errorf("depth %d: the priorities changed %d times at most, want %d", depth, got, want)
		}
	}
}

// race has two connections with something to read at each of n instants, and takes
// note which of them is served first.
func race(l *eventloop.Loop, n int, first *[]string) error {
	served := 0
	for _, name := range []string{"a", "b"} {
		near, far := net.Pipe()
		_, err := l.Adopt(near, &eventloop.ConnConfig{OnData: func(*eventloop.Conn, []byte) {
			if served++; served%2 == 1 {
				*first = append(*first, name)
			}
		}})
		if err != nil {
			return err
		}
		go func() {
			defer far.Close()
			for range n {
				time.Sleep(time.Millisecond)
				far.Write([]byte("x"))
			}
		}()
	}
	return nil
}
