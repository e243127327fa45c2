package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/onloop/eventloop"
)

// The examples of this file hold the same conversation in four styles. The
// client says who it is, and when it has been greeted it asks for its balance:
//
//	client: user ann
//	server: hello ann
//	client: balance
//	server: 42

// bank starts the server of the conversation. It closes its listener when it has
// one client.
func bank(l *eventloop.Loop) (addr string, err error) {
	var ln *eventloop.Listener
	answer := func(line string) string {
		if name, ok := strings.CutPrefix(line, "user "); ok {
			return "hello " + name
		}
		return "42"
	}
	ln, err = l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) {
			ln.Close()
			l.Go(context.Background(), func(t *eventloop.Task) error {
				lines := bufio.NewScanner(c.NetConn(t))
				for lines.Scan() {
					c.WriteString(answer(lines.Text()) + "\n")
				}
				return lines.Err()
			})
		},
	})
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), nil
}

// The foundation: each thing that may happen has a function, and what is to be
// known between two of them is in variables.
func Example_callbacks() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		addr, err := bank(l)
		if err != nil {
			return err
		}
		greeted := false
		_, err = l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.WriteString("user ann\n") },
			OnData: eventloop.Split(bufio.ScanLines, 1024, func(c *eventloop.Conn, line []byte) {
				fmt.Printf("%s\n", line)
				if greeted {
					c.Close()
					return
				}
				greeted = true
				c.WriteString("balance\n")
			}),
		})
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello ann
	// 42
}

// A line that is asked, and a future of the line that answers it. This is written
// once for a protocol; then the steps of a conversation can be combined.
func Example_futures() {
	dial := func(l *eventloop.Loop, addr string) (*eventloop.Conn, func(string) *eventloop.Future[string], error) {
		var waiting []func(string, error)
		c, err := l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
			OnData: eventloop.Split(bufio.ScanLines, 1024, func(c *eventloop.Conn, line []byte) {
				if len(waiting) == 0 {
					c.Abort() // it was not asked
					return
				}
				waiting[0](string(line), nil)
				waiting = waiting[1:]
			}),
			OnClose: func(*eventloop.Conn) {
				for _, resolve := range waiting {
					resolve("", io.ErrUnexpectedEOF)
				}
			},
		})
		return c, func(line string) *eventloop.Future[string] {
			f, resolve := eventloop.NewFuture[string](l)
			if _, err := c.WriteString(line + "\n"); err != nil {
				resolve("", err)
				return f
			}
			waiting = append(waiting, resolve)
			return f
		}, err
	}
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		addr, err := bank(l)
		if err != nil {
			return err
		}
		c, ask, err := dial(l, addr)
		if err != nil {
			return err
		}
		hello, balance := ask("user ann"), ask("balance") // without waiting for the first answer
		eventloop.All(l, hello, balance).Then(func(answers []string, err error) {
			c.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(strings.Join(answers, "\n"))
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello ann
	// 42
}

// Another goroutine holds the conversation, over channels, and knows of no loop.
func Example_channels() {
	questions, answers := make(chan string), make(chan string)
	go func() { // any code
		defer close(questions)
		questions <- "user ann"
		fmt.Println(<-answers)
		questions <- "balance"
		fmt.Println(<-answers)
	}()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		addr, err := bank(l)
		if err != nil {
			return err
		}
		out := eventloop.SendTo(l, answers)
		var in []byte
		c, err := l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
			OnData: func(_ *eventloop.Conn, data []byte) {
				in = append(in, data...)
				if line, rest, ok := bytes.Cut(in, []byte("\n")); ok {
					out.Send(string(line))
					in = rest
				}
			},
		})
		if err != nil {
			return err
		}
		eventloop.Receive(l, questions, func(q string, ok bool) {
			if !ok { // the channel is closed
				c.Close()
				return
			}
			c.WriteString(q + "\n")
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello ann
	// 42
}

// A task: from top to bottom, and yet a callback like any other between two lines.
func Example_linear() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		addr, err := bank(l)
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			c, err := l.Dial(t.Context(), "tcp", addr, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			answers := bufio.NewScanner(c.NetConn(t))
			for _, question := range []string{"user ann", "balance"} {
				c.WriteString(question + "\n")
				if !answers.Scan() {
					return answers.Err()
				}
				fmt.Println(answers.Text())
			}
			return nil
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello ann
	// 42
}
