package looptest_test

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// bugs are small programs with the mistakes that people make about the order of
// events. Each is right with planted == false.
var bugs = []struct {
	name string
	run  func(t *testing.T, l *eventloop.Loop, planted bool) error
}{
	{"use after close", useAfterClose},
	{"lost wake-up", lostWakeUp},
	{"double response", doubleResponse},
	{"stale map entry", staleMapEntry},
	{"swapped replies", swappedReplies},
	{"lost update", lostUpdate},
	{"data before setup", dataBeforeSetup},
	{"a message cut off by quit", messageCutOffByQuit},
	{"timeout of a finished request", timeoutOfAFinishedRequest},
	{"a frame split in two", frameSplitInTwo},
}

// useAfterClose broadcasts to members of a chat, one of which may have left.
func useAfterClose(t *testing.T, l *eventloop.Loop, planted bool) error {
	members := map[*eventloop.Conn]bool{}
	leaver, server, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
		OnData:  discard,
		OnClose: func(c *eventloop.Conn) { delete(members, c) },
	})
	if err != nil {
		return err
	}
	members[server] = true
	l.AfterFunc(time.Second, func() { leaver.Close() })
	l.AfterFunc(time.Second, func() {
		var all []*eventloop.Conn
		for c := range members {
			all = append(all, c)
		}
		l.Post(func() { // the broadcast, a turn later
			for _, c := range all {
				if !planted && !members[c] {
					continue
				}
				_, err := c.Write([]byte("hello"))
				if !planted && errors.Is(err, net.ErrClosed) {
					continue // it has left, and OnClose follows
				}
				if err != nil {
					t.Errorf("broadcast: %v", err)
				}
			}
		})
	})
	return nil
}

// lostWakeUp waits for a message, and may begin to wait when it has come already.
func lostWakeUp(t *testing.T, l *eventloop.Loop, planted bool) error {
	var arrived bool
	wake := func() {}
	x, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, _ []byte) {
			arrived = true
			wake()
			c.Close()
		},
	})
	if err != nil {
		return err
	}
	l.AfterFunc(time.Second, func() { x.Write([]byte("hello")) })
	l.AfterFunc(time.Second, func() {
		if !planted && arrived {
			return
		}
		f, resolve := eventloop.NewFuture[bool](l)
		wake = func() { resolve(true, nil) }
		give := l.AfterFunc(time.Minute, func() { resolve(false, errors.New("nothing came")) })
		f.Then(func(_ bool, err error) {
			give.Stop()
			if err != nil {
				t.Error(err)
			}
		})
	})
	return nil
}

// doubleResponse answers a request when its result is there or when its time is
// over.
func doubleResponse(t *testing.T, l *eventloop.Loop, planted bool) error {
	answers := 0
	var timeout *eventloop.Timer
	answered := false
	answer := func() {
		if answered && !planted {
			return
		}
		answered = true
		answers++
	}
	x, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, _ []byte) {
			timeout.Stop()
			answer()
			c.Close()
		},
	})
	if err != nil {
		return err
	}
	l.AfterFunc(time.Second, func() { x.Write([]byte("result")) })
	timeout = l.AfterFunc(time.Second, answer)
	l.OnExit(func() {
		if answers != 1 {
			t.Errorf("%d responses", answers)
		}
	})
	return nil
}

// staleMapEntry registers members by name. One that comes back replaces itself, and
// the end of the first connection must not remove the second.
func staleMapEntry(t *testing.T, l *eventloop.Loop, planted bool) error {
	members := map[string]*eventloop.Conn{}
	cfg := &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { members["ann"] = c },
		OnData:    discard,
		OnClose: func(c *eventloop.Conn) {
			if planted || members["ann"] == c {
				delete(members, "ann")
			}
		},
	}
	old, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, cfg)
	if err != nil {
		return err
	}
	l.AfterFunc(time.Second, func() { old.Close() })
	l.AfterFunc(time.Second, func() {
		_, again, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		l.AfterFunc(time.Second, func() {
			if members["ann"] != again {
				t.Error("the member that came back is not registered")
			}
			again.Close()
		})
	})
	return nil
}

// swappedReplies answers pipelined requests, each when its lookup is over.
func swappedReplies(t *testing.T, l *eventloop.Loop, planted bool) error {
	var got string
	x, y, err := looptest.Pipe(t, l,
		&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
			if got += string(p); len(got) == 3 {
				c.Close()
			}
		}},
		&eventloop.ConnConfig{OnData: discard})
	if err != nil {
		return err
	}
	_ = x
	var queue [3]string
	next := 0
	for i := range queue {
		a, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, p []byte) {
				c.Close()
				if planted {
					y.Write(p)
					return
				}
				for queue[i] = string(p); next < len(queue) && queue[next] != ""; next++ {
					y.WriteString(queue[next])
				}
			},
		})
		if err != nil {
			return err
		}
		fmt.Fprint(a, i)
	}
	l.OnExit(func() {
		if got != "012" {
			t.Errorf("replies %q", got)
		}
	})
	return nil
}

// lostUpdate has two tasks that read, suspend, and write back.
func lostUpdate(t *testing.T, l *eventloop.Loop, planted bool) error {
	balance := 0
	for i := range 2 {
		l.AfterFunc(time.Duration(i)*time.Second, func() {
			l.Go(t.Context(), func(task *eventloop.Task) error {
				read := balance
				if err := task.Sleep(time.Second); err != nil {
					return err
				}
				if !planted {
					read = balance
				}
				balance = read + 1
				return nil
			})
		})
	}
	l.OnExit(func() {
		if balance != 2 {
			t.Errorf("the balance is %d", balance)
		}
	})
	return nil
}

// dataBeforeSetup loads its configuration while the first client connects.
func dataBeforeSetup(t *testing.T, l *eventloop.Loop, planted bool) error {
	var routes map[string]string
	var server *eventloop.Conn
	client, server, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, p []byte) {
			if routes[string(p)] == "" {
				t.Errorf("no route for %q", p)
			}
			c.Close()
		},
	})
	if err != nil {
		return err
	}
	config, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, p []byte) {
			routes = map[string]string{string(p): "there"}
			server.ResumeReading()
			c.Close()
		},
	})
	if err != nil {
		return err
	}
	if !planted {
		server.PauseReading()
	}
	config.WriteString("/")
	client.WriteString("/")
	return nil
}

// messageCutOffByQuit ends a chat when one member says so.
func messageCutOffByQuit(t *testing.T, l *eventloop.Loop, planted bool) error {
	var got []string
	var servers []*eventloop.Conn
	quit := false
	for _, m := range []string{"hello", "quit"} {
		c, s, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: discard}, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, p []byte) {
				got = append(got, string(p))
				if quit = quit || string(p) == "quit"; !quit {
					return
				}
				if !planted && len(got) < 2 {
					return
				}
				for _, s := range servers {
					s.Abort()
				}
			},
		})
		if err != nil {
			return err
		}
		servers = append(servers, s)
		c.WriteString(m)
	}
	l.OnExit(func() {
		if len(got) != 2 {
			t.Errorf("only %q arrived", got)
		}
	})
	return nil
}

// timeoutOfAFinishedRequest counts a request as failed when its timer fires.
func timeoutOfAFinishedRequest(t *testing.T, l *eventloop.Loop, planted bool) error {
	n := looptest.NewNet(t)
	n.Latency(500*time.Millisecond, 500*time.Millisecond)
	ln, err := n.Listen("db:1")
	if err != nil {
		return err
	}
	var listener *eventloop.Listener
	listener, err = l.Serve(ln, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) }})
	if err != nil {
		return err
	}
	l.Go(t.Context(), func(task *eventloop.Task) error {
		defer listener.Close()
		state := "pending"
		done, resolve := eventloop.NewFuture[string](l)
		c, err := l.Dial(task.Context(), "tcp", "db:1", &eventloop.ConnConfig{
			Dial: n.Dialer("app"),
			OnData: func(c *eventloop.Conn, p []byte) {
				if planted || state == "pending" {
					state = "done"
				}
				resolve(state, nil)
				c.Close()
			},
		})
		if err != nil {
			return err
		}
		if _, err := c.Connected().Await(task); err != nil {
			return err
		}
		c.WriteString("request")
		l.AfterFunc(time.Second, func() {
			if state == "done" && !planted {
				return
			}
			if state == "done" {
				t.Error("a finished request has timed out")
			}
			state = "timed out"
		})
		_, err = done.Await(task)
		return err
	})
	return nil
}

// frameSplitInTwo takes each chunk for a message.
func frameSplitInTwo(t *testing.T, l *eventloop.Loop, planted bool) error {
	n := looptest.NewNet(t)
	n.Split(8)
	n.Latency(time.Millisecond, 2*time.Millisecond)
	ln, err := n.Listen("db:1")
	if err != nil {
		return err
	}
	var rest string
	var listener *eventloop.Listener
	listener, err = l.Serve(ln, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
		rest += string(p)
		line, after, whole := strings.Cut(rest, "\n")
		if !whole && !planted {
			return
		}
		if rest = after; line != "hello" {
			t.Errorf("line %q", line)
		}
		c.Close()
		listener.Close()
	}})
	if err != nil {
		return err
	}
	c, err := l.Dial(t.Context(), "tcp", "db:1", &eventloop.ConnConfig{Dial: n.Dialer("app"), OnData: discard})
	if err != nil {
		return err
	}
	_, err = c.WriteString("hello\n")
	return err
}

func init() {
	for i, bug := range bugs {
		failing["bug "+strconv.Itoa(i)] = func(t *testing.T) {
			looptest.Seeds(t, 200, func(t *testing.T, l *eventloop.Loop) error { return bug.run(t, l, true) })
		}
	}
}

var failedSubtest = regexp.MustCompile(`--- FAIL: TestFailing/seed=(\d+)`)

func TestSeedsFindPlantedBugsAndRepeatThem(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	found := 0
	var wg sync.WaitGroup
	for i, bug := range bugs {
		wg.Go(func() {
			name := "bug " + strconv.Itoa(i)
			all := output(t, name)
			seeds := failedSubtest.FindAllStringSubmatch(all, -1)
			if len(seeds) == 0 {
				t.Logf("%s: not found", bug.name)
				return
			}
			mu.Lock()
			found++
			mu.Unlock()
			seed := seeds[0][1]
			again := output(t, name, "LOOPTEST_SEED="+seed, "COUNT=100")
			if n := len(failedSubtest.FindAllString(again, -1)); n != 100 {
				t.Errorf("%s: seed %s fails in %d of 100 runs", bug.name, seed, n)
			}
			t.Logf("%s: %d of 200 seeds find it", bug.name, len(seeds))
		})
	}
	wg.Wait()
	if found < 9 {
		t.Errorf("%d of %d planted bugs were found", found, len(bugs))
	}
}

func TestTheProgramsWithoutTheirBugsPass(t *testing.T) {
	for _, bug := range bugs {
		t.Run(bug.name, func(t *testing.T) {
			looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error { return bug.run(t, l, false) })
		})
	}
}
