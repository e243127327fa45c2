package redis_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// The faults of a server. In each, every future settles, with an error that says the
// truth; the client carries on when the server is back; and nothing is left.

// A load keeps commands outstanding and checks how they end: a reply has to be that of
// its command.
type load struct {
	t    *testing.T
	c    *redis.Client
	sent int
	ok   int
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
	for ld.ok+ld.failures() < ld.sent {
		task.Sleep(time.Millisecond)
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
		c, err := redis.New(task.Loop(), &o)
		if err != nil {
			t.Fatal(err)
		}
		ld = newLoad(t, c, 100)
		waitFor(t, task, "the first replies", func() bool { return ld.ok > 1000 })
		f(task, s, ld)
		before := ld.ok
		waitFor(t, task, "replies after the fault", func() bool { return ld.ok > before+1000 })
		ld.settle(task)
		want(t, task, c.Ping(task.Context()), "PONG")
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
		waitFor(t, task, "timeouts of commands that were not sent", func() bool { return ld.bad["not sent"] >= 300 })
		if ld.bad["overdue"] > 0 || ld.bad["certain"] > 0 || ld.bad["uncertain"] > 100 {
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
		admin, err := redis.New(task.Loop(), &redis.Options{Addr: s.Path})
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

// The servers do something else than answer. They run on real sockets.
func TestFaultServerThatIsNone(t *testing.T) {
	hello := "%1\r\n+proto\r\n:3\r\n"
	for name, tt := range map[string]struct {
		serve   func(c net.Conn)
		timeout time.Duration
		want    []error
	}{
		"garbage at once":      {answer("SSH-2.0-OpenSSH_9.2p1\r\n"), 300 * time.Millisecond, []error{eventloop.ErrTimeout, redis.ErrMalformed}},
		"garbage for a reply":  {answer(hello, "<html>\r\n"), time.Second, []error{redis.ErrUncertain, redis.ErrMalformed}},
		"half a gigabyte":      {answer(hello, "$536870912\r\n"), time.Second, []error{redis.ErrUncertain, redis.ErrTooLarge}},
		"echo":                 {func(c net.Conn) { io.Copy(c, c) }, 100 * time.Millisecond, []error{eventloop.ErrTimeout, redis.ErrMalformed}},
		"two replies":          {answer(hello, "$1\r\n1\r\n$1\r\n1\r\n"), time.Second, nil},
		"no answer":            {answer(hello), 100 * time.Millisecond, []error{redis.ErrUncertain, eventloop.ErrTimeout}},
		"no handshake":         {answer(), 100 * time.Millisecond, []error{eventloop.ErrTimeout}},
		"closes at once":       {func(net.Conn) {}, 100 * time.Millisecond, []error{eventloop.ErrTimeout}},
		"closes for a reply":   {func(c net.Conn) { c.Read(make([]byte, 4096)); io.WriteString(c, hello); c.Read(make([]byte, 4096)) }, time.Second, []error{redis.ErrUncertain, io.EOF}},
		"refuses the password": {answer("-WRONGPASS invalid\r\n"), time.Second, nil},
		"too many clients":     {answer("-ERR max number of clients reached\r\n"), 100 * time.Millisecond, []error{eventloop.ErrTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			checkDescriptors(t)
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
						tt.serve(c)
					})
				}
			})
			runTask(t, func(task *eventloop.Task) {
				c, err := redis.New(task.Loop(), &redis.Options{Addr: ln.Addr().String(), Timeout: tt.timeout, MinBackoff: 5 * time.Millisecond, MaxBackoff: 20 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				_, err = redis.Do[string](task.Context(), c, "ECHO", 1).Await(task)
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
			})
			ln.Close()
			conns.Wait()
		})
	}
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
