package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A timerOwner arms one timer, and returns a function that stops it. Both run on the
// loop, the second one in a later turn, a millisecond after the last timer was armed.
type timerOwner func(t *testing.T, l *eventloop.Loop) (stop func())

func timerOwners() map[string]timerOwner {
	nothing := func() {}
	return map[string]timerOwner{
		"timer": func(t *testing.T, l *eventloop.Loop) func() {
			timer := l.AfterFunc(time.Hour, nothing)
			return func() { wantEqual(t, "Stop", timer.Stop(), true) }
		},
		"timer that is reset": func(t *testing.T, l *eventloop.Loop) func() {
			timer := l.AfterFunc(time.Hour, nothing)
			return func() { wantEqual(t, "Reset", timer.Reset(time.Millisecond), true) }
		},
		"interval": func(t *testing.T, l *eventloop.Loop) func() {
			interval := l.Every(time.Hour, nothing)
			return func() { wantEqual(t, "Stop", interval.Stop(), true) }
		},
		"task that sleeps": func(t *testing.T, l *eventloop.Loop) func() {
			ctx, cancel := context.WithCancel(context.Background())
			l.Go(ctx, func(task *eventloop.Task) error {
				if err := task.Sleep(time.Hour); err != context.Canceled {
					t.Errorf("Sleep returned %v, want context.Canceled", err)
				}
				return nil
			})
			return cancel
		},
		"failed future": func(t *testing.T, l *eventloop.Loop) func() {
			f, resolve := eventloop.NewFuture[int](l)
			resolve(0, errors.New("failed"))
			return func() { f.Then(nil) }
		},
		"read timeout": func(t *testing.T, l *eventloop.Loop) func() {
			conn := adoptSilent(t, l, time.Hour)
			return func() { conn.Abort() }
		},
		"deadline of a stream": func(t *testing.T, l *eventloop.Loop) func() {
			conn := adoptSilent(t, l, 0)
			l.Go(context.Background(), func(task *eventloop.Task) error {
				s := conn.NetConn(task)
				s.SetReadDeadline(time.Now().Add(time.Hour))
				if _, err := s.Read(make([]byte, 1)); err == nil {
					t.Error("Read returned nil without data")
				}
				return nil
			})
			return func() { conn.Abort() }
		},
	}
}

// adoptSilent adopts one end of a pipe. The other end sends nothing, and is closed
// together with the first.
func adoptSilent(t *testing.T, l *eventloop.Loop, timeout time.Duration) *eventloop.Conn {
	near, far := net.Pipe()
	c, err := l.Adopt(near, &eventloop.ConnConfig{ReadTimeout: timeout, OnClose: func(*eventloop.Conn) { far.Close() }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The heap drops stopped timers when there are more than 32 of them, so the numbers
// lie on both sides of 32.
func TestTimersOfEveryOwnerCanBeStoppedInAnyNumberAndOrder(t *testing.T) {
	orders := map[string]func(i, n int) int{
		"oldest first": func(i, n int) int { return i },
		"newest first": func(i, n int) int { return n - 1 - i },
		"both ends first": func(i, n int) int {
			if i%2 == 0 {
				return i / 2
			}
			return n - 1 - i/2
		},
	}
	for name, owner := range timerOwners() {
		for order, nth := range orders {
			for _, n := range []int{1, 31, 32, 33, 34, 65, 131} {
				t.Run(name+", "+order, func(t *testing.T) {
					runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
						stopInOrder(t, l, owner, n, func(i int) int { return nth(i, n) })
					})
				})
			}
		}
	}
}

// stopInOrder arms n timers and stops each of them in a separate turn.
func stopInOrder(t *testing.T, l *eventloop.Loop, owner timerOwner, n int, nth func(i int) int) {
	stops := make([]func(), n)
	for i := range stops {
		stops[i] = owner(t, l)
	}
	i := 0
	var next func()
	next = func() {
		stops[nth(i)]()
		if i++; i < n {
			l.AfterFunc(time.Microsecond, next)
		}
	}
	l.AfterFunc(time.Millisecond, next)
}

func TestALoopWorksAfterAllItsTimersWereStopped(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		for n := range 100 {
			timers := make([]*eventloop.Timer, n)
			for i := range timers {
				timers[i] = l.AfterFunc(time.Hour, func() { t.Error("a stopped timer fired") })
			}
			for i := range timers {
				timers[n-1-i].Stop()
			}
			wantEqual(t, "timers", l.Stats().Loop.Timers, 0)
		}
		l.AfterFunc(time.Second, stopwatch(&times))
	})
	wantSlice(t, "times", times, []int{1000})
}

// The peers control the order in which connections end.
func TestLaw11PeersThatLeaveInAnyOrderDoNotEndTheLoop(t *testing.T) {
	for _, newestFirst := range []bool{false, true} {
		for _, n := range []int{32, 33, 34, 70} {
			l, end := startLoop(t, nil)
			left := make(chan struct{}, n)
			ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
				ReadTimeout: time.Hour,
				OnData:      func(c *eventloop.Conn, data []byte) { c.Write(data) },
				OnClose:     func(*eventloop.Conn) { left <- struct{}{} },
			})
			if err != nil {
				t.Fatal(err)
			}
			peers := make([]net.Conn, n)
			for i := range peers {
				peers[i] = dialPeer(t, ln.Addr())
				io.WriteString(peers[i], "x")
				readString(t, peers[i], 1)
			}
			for i := range peers {
				if newestFirst {
					i = n - 1 - i
				}
				peers[i].Close()
				wait(t, left, "end of a connection")
			}
			ln.Close()
			if err := end(); err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		}
	}
}

func TestHTTPRequestsWithATimeoutCanGetResponsesInAnyOrder(t *testing.T) {
	for _, newestFirst := range []bool{false, true} {
		for _, n := range []int{32, 33, 34} {
			l, end := startLoop(t, nil)
			requests := make(chan *eventloop.HTTPRequest, n)
			cfg := &eventloop.HTTPServerConfig{ResponseTimeout: time.Hour}
			s := serveHTTP(t, l, cfg, func(r *eventloop.HTTPRequest) { requests <- r })
			clients := make([]*rawClient, n)
			waiting := make([]*eventloop.HTTPRequest, n)
			for i := range clients {
				clients[i] = dialRaw(t, s.Addr())
				clients[i].send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				waiting[i] = wait(t, requests, "request")
			}
			onLoop(t, l, func() {}) // the handlers have returned, and the timers are armed
			for i := range clients {
				if newestFirst {
					i = n - 1 - i
				}
				waiting[i].Respond(200, nil, []byte("answer"))
				res, body := clients[i].response("GET")
				wantEqual(t, "status", res.StatusCode, 200)
				wantEqual(t, "body", body, "answer")
			}
			s.Close()
			if err := end(); err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		}
	}
}
