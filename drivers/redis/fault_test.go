package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
	"github.com/onloop/eventloop/looptest"
)

// The faults of a server. After each of them, every future settles, with an error that
// describes the fault. The client continues when the server is back, and nothing is left.

// A load keeps commands outstanding and checks how they end: a reply has to be that of
// its command.
type load struct {
	t    *testing.T
	c    *redis.Client
	sent int
	ok   int
	ends int            // results of both kinds
	bad  map[string]int // failures, by kind
	over bool
	lost bool // a connection, or an attempt to connect
}

func newLoad(t *testing.T, c *redis.Client, outstanding int) *load {
	ld := &load{t: t, c: c, bad: make(map[string]int)}
	for range outstanding {
		ld.next()
	}
	return ld
}

func (ld *load) next() {
	if ld.over {
		return
	}
	ld.sent++
	want := fmt.Sprint(ld.sent)
	redis.Do[string](context.Background(), ld.c, "ECHO", want).Then(func(got string, err error) {
		ld.ends++
		switch {
		case err == nil && got != want:
			ld.t.Errorf("got the reply %q to %q", got, want)
		case err == nil:
			ld.ok++
		default:
			ld.bad[kindOf(ld.t, err)]++
		}
		ld.next()
	})
}

// kindOf says what an error of a fault is.
func kindOf(t *testing.T, err error) string {
	t.Helper()
	uncertain, timeout := errors.Is(err, redis.ErrUncertain), errors.Is(err, eventloop.ErrTimeout)
	switch {
	case !errors.Is(err, eventloop.ErrConn):
		t.Errorf("not an error of a connection: %v", err)
	case uncertain && timeout:
		return "overdue"
	case uncertain:
		return "uncertain"
	case timeout:
		return "not sent"
	}
	return "certain"
}

func (ld *load) failures() (n int) {
	for _, m := range ld.bad {
		n += m
	}
	return n
}

// settle waits until all that was sent has a result.
func (ld *load) settle(task *eventloop.Task) {
	ld.over = true
	for ld.ends < ld.sent {
		if task.Sleep(time.Millisecond) != nil {
			return // the loop was stopped
		}
	}
}

// waitFor waits until ok is true.
func waitFor(t *testing.T, task *eventloop.Task, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(watchdogTime); !ok(); task.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it takes too long: %s", what)
		}
	}
}

// underFault runs f with a load on a server of its own.
func underFault(t *testing.T, o redis.Options, f func(task *eventloop.Task, s *redistest.Server, ld *load)) {
	t.Helper()
	s := redistest.Start(t)
	checkDescriptors(t)
	runTask(t, func(task *eventloop.Task) {
		o.Addr = s.Addr
		o.MinBackoff, o.MaxBackoff = time.Millisecond, 20*time.Millisecond
		var ld *load
		o.OnState = func(up bool, err error) { ld.lost = ld.lost || !up }
		c, err := redis.New(task.Loop(), patiently(o))
		if err != nil {
			t.Fatal(err)
		}
		ld = newLoad(t, c, 100)
		waitFor(t, task, "the first replies", func() bool { return ld.ok > 1000 })
		f(task, s, ld)
		before := ld.ok
		waitFor(t, task, "replies after the fault", func() bool { return ld.ok > before+1000 })
		ld.settle(task)
		for { // the timeout of the test may be too short for a busy machine
			v, err := c.Ping(task.Context()).Await(task)
			if err != nil && errors.Is(err, eventloop.ErrTimeout) {
				continue
			}
			if v != "PONG" || err != nil {
				t.Errorf("Ping = %q, %v", v, err)
			}
			break
		}
	})
}

func TestFaultServerIsKilledUnderLoad(t *testing.T) {
	underFault(t, redis.Options{}, func(task *eventloop.Task, s *redistest.Server, ld *load) {
		for range 3 {
			before := ld.failures()
			s.Kill()
			// The commands were in flight, or on their way to be sent: these wait.
			waitFor(t, task, "the end of the connection", func() bool { return ld.lost || ld.failures() > before })
			ld.lost = false
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			ok := ld.ok
			waitFor(t, task, "replies", func() bool { return ld.ok > ok+100 })
			if n := ld.failures() - before; n > 100 || ld.bad["uncertain"] != ld.failures() {
				t.Errorf("failures: %v", ld.bad)
			}
		}
		if n := ld.failures(); n > 300 {
			t.Errorf("%d failures of 100 outstanding commands in 3 faults", n)
		}
	})
}

func TestFaultServerStaysAway(t *testing.T) {
	underFault(t, redis.Options{Timeout: 200 * time.Millisecond}, func(task *eventloop.Task, s *redistest.Server, ld *load) {
		s.Kill()
		clear(ld.bad) // on a busy machine replies may have been overdue before
		waitFor(t, task, "timeouts of commands that were not sent", func() bool { return ld.bad["not sent"] >= 300 })
		if ld.bad["certain"] > 0 || ld.bad["uncertain"]+ld.bad["overdue"] > 100 {
			t.Errorf("failures: %v", ld.bad)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFaultServerShutsDownInOrder(t *testing.T) {
	underFault(t, redis.Options{}, func(task *eventloop.Task, s *redistest.Server, ld *load) {
		s.Cmd.Process.Signal(syscall.SIGTERM)
		s.Cmd.Wait()
		waitFor(t, task, "the end of the connection", func() bool { return ld.lost })
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFaultServerClosesConnections(t *testing.T) {
	underFault(t, redis.Options{}, func(task *eventloop.Task, s *redistest.Server, ld *load) {
		admin, err := redis.New(task.Loop(), patiently(redis.Options{Addr: s.Path}))
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			admin.Do(task.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Await(task)
			ok := ld.ok
			waitFor(t, task, "replies", func() bool { return ld.ok > ok+10 })
		}
		if ld.bad["uncertain"] != ld.failures() {
			t.Errorf("failures: %v", ld.bad)
		}
	})
}

// replies are what a server sends after the handshake, in the order of commands.
var replies = []string{"$5\r\nhello\r\n", "*3\r\n:1\r\n+two\r\n_\r\n", "%1\r\n+k\r\n,1.5\r\n", "-ERR no\r\n", "$0\r\n\r\n"}

func TestFaultConnectionIsCutAtEveryByteOfAReply(t *testing.T) {
	stream := strings.Join(replies, "")
	for at := range len(stream) + 1 {
		for _, reset := range []bool{false, true} {
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				conns := 0
				whole := complete(at)
				s := &fake{command: func(p *peer, args []string) (string, bool) {
					switch {
					case p.number > 1:
						return "", false
					case args[0] != "LAST":
						return silence, true
					}
					io.WriteString(p.conn, stream[:at])
					if reset {
						p.conn.(interface{ SetLinger(int) error }).SetLinger(0)
					}
					return hangUp, true
				}}
				serveFake(t, n, s)
				c := newClient(t, l, n, redis.Options{})
				settledCount, good := 0, 0
				for i := range len(replies) {
					name := "FIRST"
					if i == len(replies)-1 {
						name = "LAST"
					}
					c.Do(background(), name, i).Then(func(_ redis.Reply, err error) {
						settledCount++
						if _, isReply := errors.AsType[*redis.Error](err); err == nil || isReply {
							good++
						} else if !errors.Is(err, redis.ErrUncertain) {
							t.Errorf("cut at %d: %v", at, err)
						}
					})
				}
				l.AfterFunc(time.Minute, func() {
					c.Do(background(), "ECHO", "x").Then(func(_ redis.Reply, err error) {
						if conns++; err != nil {
							t.Error(err)
						}
					})
				})
				l.OnExit(func() {
					// A reset may overtake replies.
					if settledCount != len(replies) || good > whole || !reset && good != whole || conns != 1 {
						t.Errorf("cut at %d, reset %v: %d settled, %d replies, want %d", at, reset, settledCount, good, whole)
					}
				})
				return nil
			}, looptest.Seed(uint64(at)))
		}
	}
}

// complete returns how many of the replies the first n bytes have the whole of.
func complete(n int) (whole int) {
	for _, r := range replies {
		if n -= len(r); n >= 0 {
			whole++
		}
	}
	return whole
}

// The servers do something else than answer, in virtual time, and on real sockets if no
// timeout has to pass.
func TestFaultServerThatIsNone(t *testing.T) {
	hello := "%1\r\n+proto\r\n:3\r\n"
	for name, tt := range map[string]struct {
		serve func(c net.Conn)
		want  []error
	}{
		"garbage at once":     {answer("SSH-2.0-OpenSSH_9.2p1\r\n"), []error{eventloop.ErrTimeout, redis.ErrMalformed}},
		"garbage for a reply": {answer(hello, "<html>\r\n"), []error{redis.ErrUncertain, redis.ErrMalformed}},
		"half a gigabyte":     {answer(hello, "$536870912\r\n"), []error{redis.ErrUncertain, redis.ErrTooLarge}},
		"echo":                {func(c net.Conn) { io.Copy(c, c) }, []error{eventloop.ErrTimeout, redis.ErrMalformed}},
		"two replies":         {answer(hello, "$1\r\n1\r\n$1\r\n1\r\n"), nil},
		"no answer":           {answer(hello), []error{redis.ErrUncertain, eventloop.ErrTimeout}},
		"no handshake":        {answer(), []error{eventloop.ErrTimeout}},
		"closes at once":      {func(net.Conn) {}, []error{eventloop.ErrTimeout}},
		"closes for a reply": {func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, hello)
			c.Read(make([]byte, 4096))
		}, []error{redis.ErrUncertain, io.EOF}},
		"refuses the password": {answer("-WRONGPASS invalid\r\n"), nil},
		"too many clients":     {answer("-ERR max number of clients reached\r\n"), []error{eventloop.ErrTimeout}},
	} {
		check := func(t *testing.T, err error) {
			t.Helper()
			switch name {
			case "two replies":
				if err != nil {
					t.Error(err)
				}
			case "refuses the password":
				if e, ok := errors.AsType[*redis.Error](err); !ok || e.Code() != "WRONGPASS" {
					t.Error(err)
				}
			}
			for _, target := range tt.want {
				if !errors.Is(err, target) {
					t.Errorf("got %v, want %v", err, target)
				}
			}
		}
		o := redis.Options{Timeout: time.Second, MinBackoff: 5 * time.Millisecond, MaxBackoff: 20 * time.Millisecond}
		t.Run(name, func(t *testing.T) {
			looptest.Seeds(t, 20, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				n.Latency(0, time.Millisecond)
				c := newClient(t, l, n, o)
				results := settled(redis.Do[string](background(), c, "ECHO", 1), func(_ string, err error) { check(t, err) })
				l.OnExit(func() {
					if *results != 1 {
						t.Errorf("%d results, want 1", *results)
					}
				})
				return n.Script(addr, func(c net.Conn, _ *bufio.Reader) error {
					tt.serve(c)
					return nil
				})
			})
		})
		if slices.Contains(tt.want, eventloop.ErrTimeout) {
			continue
		}
		t.Run(name+", on a real socket", func(t *testing.T) {
			checkDescriptors(t)
			addr := serveTCP(t, tt.serve)
			runTask(t, func(task *eventloop.Task) {
				o.Addr, o.Timeout = addr, watchdogTime
				c, err := redis.New(task.Loop(), &o)
				if err != nil {
					t.Fatal(err)
				}
				_, err = redis.Do[string](task.Context(), c, "ECHO", 1).Await(task)
				check(t, err)
			})
		})
	}
}

// serveTCP runs serve on each connection until the end of the test, and returns the address.
func serveTCP(t *testing.T, serve func(c net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}

// answer returns a server that answers each write with the next of the replies, and then
// nothing.
func answer(replies ...string) func(c net.Conn) {
	return func(c net.Conn) {
		buf := make([]byte, 4096)
		for _, r := range replies {
			if _, err := c.Read(buf); err != nil {
				return
			}
			io.WriteString(c, r)
		}
		io.Copy(io.Discard, c)
	}
}
