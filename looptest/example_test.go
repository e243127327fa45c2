package looptest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// test runs f as go test runs func TestExample(t *testing.T), and reports whether it
// passes. What it logs is dropped.
func test(f func(t *testing.T)) (passed bool) {
	for name, value := range map[string]string{"test.v": "false", "test.count": "1", "test.skip": ""} {
		fl := flag.Lookup(name)
		before := fl.Value.String()
		fl.Value.Set(value)
		defer fl.Value.Set(before)
	}
	all := func(string, string) (bool, error) { return true, nil }
	return testing.RunTests(all, []testing.InternalTest{{Name: "TestExample", F: f}})
}

// Two clients increment a counter on a server: each reads it, and writes it back a
// little higher. Whether that works depends on the order of events. In the examples,
// test stands for what go test does with a function TestExample.
func Example() {
	results := map[string]bool{}
	test(func(t *testing.T) {
		looptest.Seeds(t, 20, func(t *testing.T, l *eventloop.Loop) error {
			n := looptest.NewNet(t)
			n.Latency(time.Millisecond, 5*time.Millisecond)
			ln, err := n.Listen("server:7")
			if err != nil {
				return err
			}
			counter := "0"
			s, err := l.Serve(ln, &eventloop.ConnConfig{
				OnData: eventloop.Split(bufio.ScanLines, 100, func(c *eventloop.Conn, line []byte) {
					if value, ok := bytes.CutPrefix(line, []byte("set ")); ok {
						counter = string(value)
						c.Close()
						return
					}
					fmt.Fprintln(c, counter)
				}),
			})
			if err != nil {
				return err
			}
			for _, host := range []string{"ann", "bob"} {
				c, err := l.Dial(t.Context(), "tcp", "server:7", &eventloop.ConnConfig{
					Dial: n.Dialer(host),
					OnData: eventloop.Split(bufio.ScanLines, 100, func(c *eventloop.Conn, line []byte) {
						fmt.Fprintf(c, "set %d\n", line[0]-'0'+1)
					}),
				})
				if err != nil {
					return err
				}
				fmt.Fprintln(c, "get")
			}
			l.AfterFunc(time.Second, func() {
				results[counter] = true
				s.Close()
			})
			return nil
		})
	})
	fmt.Println("the counter was 2 after some seeds:", results["2"])
	fmt.Println("and 1 after others:", results["1"])
	// Output:
	// the counter was 2 after some seeds: true
	// and 1 after others: true
}

// An hour of virtual time takes no time.
func ExampleRun() {
	var order string
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			order = ""
			l.AfterFunc(time.Hour, func() { order += "an hour later" })
			l.Post(func() { order += "at once, " })
			return nil
		})
	})
	fmt.Println(order)
	// Output: at once, an hour later
}

// Messages of different connections come in any order. A seed has one of them, every
// time.
func ExampleSeeds() {
	orders := map[string]int{}
	test(func(t *testing.T) {
		clear(orders)
		looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
			var order string
			for _, name := range []string{"ann", "bob", "cid"} {
				client, _, err := looptest.Pipe(t, l, &eventloop.ConnConfig{OnData: eventloop.Discard}, &eventloop.ConnConfig{
					OnData: func(c *eventloop.Conn, p []byte) {
						order += string(p) + " "
						c.Close()
					},
				})
				if err != nil {
					return err
				}
				client.WriteString(name)
			}
			l.OnExit(func() { orders[order]++ })
			return nil
		})
	})
	fmt.Println(len(orders), "orders")
	// Output: 6 orders
}

// Two loops, of which one serves the other.
func ExampleLoops() {
	var answer string
	test(func(t *testing.T) {
		looptest.Loops(t, 2, func(t *testing.T, ls []*eventloop.Loop) error {
			n := looptest.NewNet(t)
			ln, err := n.Listen("server:7")
			if err != nil {
				return err
			}
			ls[0].Post(func() {
				var s *eventloop.Listener
				s, err := ls[0].Serve(ln, &eventloop.ConnConfig{
					OnConnect: func(c *eventloop.Conn) {
						c.WriteString("welcome")
						c.Close()
						s.Close()
					},
				})
				if err != nil {
					t.Error(err)
				}
			})
			ls[1].Post(func() {
				_, err := ls[1].Dial(t.Context(), "tcp", "server:7", &eventloop.ConnConfig{
					Dial:   n.Dialer("client"),
					OnData: func(c *eventloop.Conn, p []byte) { answer = string(p) },
				})
				if err != nil {
					t.Error(err)
				}
			})
			return nil
		})
	})
	fmt.Println(answer)
	// Output: welcome
}

// The trace of a run, which a failure logs, makes another one that has the same order
// whatever becomes of the seeds.
func ExampleReplay() {
	var orders []string
	var trace string
	talk := func(t *testing.T, l *eventloop.Loop) error {
		var order string
		for _, name := range []string{"ann", "bob", "cid"} {
			l.Go(t.Context(), func(task *eventloop.Task) error {
				err := task.Sleep(time.Second)
				order += name + " "
				return err
			})
			looptest.Pipe(t, l, nil, nil)
		}
		l.AfterFunc(time.Minute, l.Stop)
		l.OnExit(func() {
			orders, trace = append(orders, order), ""
			for _, e := range looptest.Trace(t) {
				trace += e.String() + "\n"
			}
		})
		return nil
	}
	passed := test(func(t *testing.T) {
		orders = nil
		looptest.Run(t, talk, looptest.Seed(17))
		looptest.Replay(t, trace, talk)
	})
	fmt.Println(passed, orders[0] == orders[1])
	// Output: true true
}

// What a test cannot reach otherwise: a peer that takes too long, and is heard later.
func ExampleNet() {
	var events []string
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			events = nil
			start := time.Now()
			note := func(what any) { events = append(events, fmt.Sprint(time.Since(start), ": ", what)) }
			n := looptest.NewNet(t)
			n.Latency(10*time.Millisecond, 10*time.Millisecond)
			if err := n.Script("server:7", looptest.Expect("hello"), looptest.Reply("welcome\r\n")); err != nil {
				return err
			}
			c, err := l.Dial(t.Context(), "tcp", "server:7", &eventloop.ConnConfig{
				Dial: n.Dialer("client"),
				OnConnect: func(c *eventloop.Conn) {
					note("connected")
					n.Hold("client", "server")
					l.AfterFunc(time.Minute, func() { n.Release("client", "server") })
				},
				OnData: func(c *eventloop.Conn, p []byte) { note(strings.TrimSpace(string(p))) },
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(c, "hello")
			return nil
		})
	})
	fmt.Println(strings.Join(events, "\n"))
	// Output:
	// 20ms: connected
	// 1m0.03s: welcome
}

// A client of a mail server, and a server that follows a script.
func ExampleNet_Script() {
	var replies []string
	passed := test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			replies = nil
			n := looptest.NewNet(t)
			err := n.Script("mail:25",
				looptest.Reply("220 mail.example\r\n"),
				looptest.Expect("EHLO *"),
				looptest.Delay(time.Second),
				looptest.Reply("250 ok\r\n"),
				looptest.Expect("QUIT"),
			)
			if err != nil {
				return err
			}
			l.Go(t.Context(), func(task *eventloop.Task) error {
				c, err := l.Dial(task.Context(), "tcp", "mail:25", &eventloop.ConnConfig{Dial: n.Dialer("client")})
				if err != nil {
					return err
				}
				defer c.Close()
				nc := c.NetConn(task)
				lines := bufio.NewScanner(nc)
				for _, command := range []string{"EHLO client.example", "QUIT"} {
					if !lines.Scan() {
						return lines.Err()
					}
					replies = append(replies, lines.Text())
					fmt.Fprintf(nc, "%s\r\n", command)
				}
				return nil
			})
			return nil
		})
	})
	fmt.Println(strings.Join(replies, "\n"))
	fmt.Println("passed:", passed)
	// Output:
	// 220 mail.example
	// 250 ok
	// passed: true
}

// An HTTP server, and a client that follows a script.
func ExampleNet_ScriptClient() {
	passed := test(func(t *testing.T) {
		looptest.Seeds(t, 10, func(t *testing.T, l *eventloop.Loop) error {
			n := looptest.NewNet(t)
			ln, err := n.Listen("web:80")
			if err != nil {
				return err
			}
			s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) { r.RespondText(200, "hello "+r.Query()) }, nil)
			if err != nil {
				return err
			}
			for _, who := range []string{"ann", "bob"} {
				n.ScriptClient(who, "web:80",
					looptest.Request("GET", "/?"+who, ""),
					looptest.ExpectResponse(200, "hello "+who),
				)
			}
			l.AfterFunc(time.Second, func() { s.Close() })
			return nil
		})
	})
	fmt.Println("passed:", passed)
	// Output: passed: true
}

// Two ends on one loop.
func ExamplePipe() {
	var got string
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			a, _, err := looptest.Pipe(t, l,
				&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { got = string(p); c.Close() }},
				&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(bytes.ToUpper(p)) }})
			if err != nil {
				return err
			}
			a.WriteString("hello")
			return nil
		})
	})
	fmt.Println(got)
	// Output: HELLO
}

// The peer sends ten bytes, and the connection breaks after four.
func ExampleFaulty() {
	var got string
	var failure error
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			got = ""
			n := looptest.NewNet(t)
			if err := n.Script("server:7", looptest.Reply("0123456789")); err != nil {
				return err
			}
			dial := n.Dialer("client")
			_, err := l.Dial(t.Context(), "tcp", "server:7", &eventloop.ConnConfig{
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					nc, err := dial(ctx, network, address)
					if err != nil {
						return nil, err
					}
					return looptest.Faulty(nc, looptest.Faults{ReadErrAt: looptest.At(4), MaxRead: 3}), nil
				},
				OnData:  func(c *eventloop.Conn, p []byte) { got += string(p) + "|" },
				OnEvent: func(c *eventloop.Conn, err error) { failure = err },
			})
			return err
		})
	})
	fmt.Println(got)
	fmt.Println(errors.Is(failure, eventloop.ErrReset))
	// Output:
	// 012|3|
	// true
}

// A policy decides what runs first: here what has become ready last.
func ExampleOrder() {
	var order string
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			order = ""
			l.AfterFunc(0, func() { order += "timer " })
			l.Post(func() { order += "post " })
			return nil
		}, looptest.Order(looptest.Unfair()))
	})
	fmt.Println(order)
	// Output: timer post
}

func ExampleRand() {
	var a, b []int
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			a, b = looptest.Rand(t).Perm(5), looptest.Rand(t).Perm(5)
			return nil
		}, looptest.Seed(17))
	})
	fmt.Println(slices.Equal(a, b))
	// Output: true
}

// What ran, and when.
func ExampleTrace() {
	test(func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			l.AfterFunc(time.Second, func() {
				e := looptest.Trace(t)[1]
				name, _, _ := strings.Cut(e.Name, " ") // without where the function is
				fmt.Println(e.At, e.Party, name)
			})
			return nil
		})
	})
	// Output: 1s loop timer#1
}
