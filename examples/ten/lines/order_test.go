package main

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// serveLines serves a store on "store:1" of n for a minute.
func serveLines(l *eventloop.Loop, n *looptest.Net) error {
	ln, err := n.Listen("store:1")
	if err != nil {
		return err
	}
	s, err := l.Serve(ln, &eventloop.ConnConfig{Task: store{}.serve})
	if err != nil {
		return err
	}
	l.AfterFunc(time.Minute, func() { s.Close() })
	return nil
}

func TestClientsGetWhatTheySet(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 20*time.Millisecond)
		n.Split(4)
		for i := range 5 {
			n.ScriptClient(fmt.Sprintf("client%d", i), "store:1",
				looptest.Reply(fmt.Sprintf("set key%d %d\nget key%d\n", i, i, i)), // a pipeline
				looptest.Expect("ok"),
				looptest.Expect(fmt.Sprintf("value %d", i)),
				looptest.Reply(fmt.Sprintf("del key%d\n", i)),
				looptest.Expect("ok"),
				looptest.Reply(fmt.Sprintf("get key%d\nquit\n", i)),
				looptest.Expect("none"),
				looptest.Expect("bye"),
				looptest.ExpectEnd(),
			)
		}
		return serveLines(l, n)
	})
}

// Sets of one key happen one after the other, whatever the order: each client sees the
// value of one of them.
func TestASetIsSeenByAll(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 20*time.Millisecond)
		seen := make(chan string, 3)
		for i := range 3 {
			n.ScriptClient(fmt.Sprintf("client%d", i), "store:1",
				looptest.Reply(fmt.Sprintf("set key %d\n", i)),
				looptest.Expect("ok"),
				looptest.Delay(500*time.Millisecond),
				looptest.Reply("get key\n"),
				func(_ net.Conn, in *bufio.Reader) error {
					line, err := in.ReadString('\n')
					seen <- line
					return err
				},
			)
		}
		l.OnExit(func() {
			a, b, c := <-seen, <-seen, <-seen
			if a != b || b != c || a == "none\n" {
				t.Errorf("the clients see %q, %q and %q", a, b, c)
			}
		})
		return serveLines(l, n)
	})
}

func TestASlowLineEndsTheConnectionWithAMessage(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, time.Millisecond)
		n.ScriptClient("slow", "store:1",
			looptest.Reply("get"),
			looptest.Expect("error: timeout"),
			looptest.ExpectEnd(),
		)
		// Beside it, one that is in time with every line.
		n.ScriptClient("quick", "store:1",
			looptest.Delay(990*time.Millisecond), looptest.Reply("get key\n"), looptest.Expect("none"),
			looptest.Delay(990*time.Millisecond), looptest.Reply("get key\n"), looptest.Expect("none"),
			looptest.Reply("quit\n"), looptest.Expect("bye"),
		)
		return serveLines(l, n)
	})
}
