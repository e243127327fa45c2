package main

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// serveRoom serves a chat on "chat:1" of n until d is over.
func serveRoom(l *eventloop.Loop, n *looptest.Net, d time.Duration) error {
	ln, err := n.Listen("chat:1")
	if err != nil {
		return err
	}
	s, err := l.Serve(ln, &eventloop.ConnConfig{Task: room{}.serve, HighWater: -1, MaxBuffered: maxPending})
	if err != nil {
		return err
	}
	l.AfterFunc(d, func() { s.Close() })
	return nil
}

func TestMembersWhoTalkAtOnceHearEachOther(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, 100*time.Millisecond)
		n.Split(5)
		members := []string{"ann", "bob", "cid", "dan"}
		for i, name := range members {
			joined := time.Duration(i) * time.Second
			steps := []looptest.Step{
				looptest.Delay(joined),
				looptest.Reply(name + "\n"),
				looptest.Expect("welcome"),
			}
			for j, other := range members {
				if j > i {
					steps = append(steps, looptest.Expect(`\* `+other+" joined"))
				}
			}
			steps = append(steps,
				looptest.Delay(10*time.Second-joined),
				looptest.Reply("hello\nbye\n"),
				hear(len(members)-1),
			)
			n.ScriptClient(name, "chat:1", steps...)
		}
		return serveRoom(l, n, time.Minute)
	})
}

// hear expects "hello" and then "bye" of each of n other members, in any order of
// members, and stays until all have heard all.
func hear(n int) looptest.Step {
	return func(_ net.Conn, in *bufio.Reader) error {
		said := map[string]string{}
		for range 2 * n {
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			who, what, _ := strings.Cut(strings.TrimSpace(line), ": ")
			said[who] += what + " "
		}
		for who, what := range said {
			if what != "hello bye " {
				return fmt.Errorf("%s says %q", who, what)
			}
		}
		time.Sleep(time.Second)
		return nil
	}
}

func TestOneOfTwoMembersOfTheSameNameIsRefused(t *testing.T) {
	looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, time.Millisecond)
		answers := make(chan string, 2)
		for _, host := range []string{"home", "work"} {
			n.ScriptClient(host, "chat:1", looptest.Reply("ann\n"), func(_ net.Conn, in *bufio.Reader) error {
				line, err := in.ReadString('\n')
				answers <- strings.TrimSpace(line)
				time.Sleep(time.Second) // stays a member
				return err
			})
		}
		l.OnExit(func() {
			got := []string{<-answers, <-answers}
			slices.Sort(got)
			if !slices.Equal(got, []string{"taken", "welcome"}) {
				t.Errorf("the answers are %q", got)
			}
		})
		return serveRoom(l, n, time.Minute)
	})
}
