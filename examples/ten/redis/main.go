// Redis sends the commands that it reads, a line each, to a Redis server, all at once on
// one connection, and prints the replies in order. A reply has a second to come.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

const maxBulk = 1 << 20

// A client sends the commands of any number of tasks on one connection.
type client struct {
	conn    *eventloop.Conn
	waiting []func(reply string, err error) // of the commands that were sent, in order
}

// do sends a command and returns a future of its reply.
func (k *client) do(words ...string) *eventloop.Future[string] {
	reply, resolve := eventloop.NewFuture[string](k.conn.Loop())
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, word := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := k.conn.Write(b); err != nil {
		resolve("", err)
		return reply
	}
	k.waiting = append(k.waiting, resolve)
	return reply
}

// receive is a task that hands replies to those who wait for them.
func (k *client) receive(t *eventloop.Task, c *eventloop.Conn) error {
	in := bufio.NewReader(c.NetConn(t))
	for {
		reply, err := read(in)
		if err != nil {
			for _, resolve := range k.waiting {
				resolve("", err)
			}
			return nil
		}
		if len(k.waiting) == 0 {
			return errors.New("a reply to nothing")
		}
		k.waiting[0](reply, nil)
		k.waiting = k.waiting[1:]
	}
}

// read reads a reply, as redis-cli prints it.
func read(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	line = strings.TrimSuffix(line, "\r\n")
	if err != nil || line == "" {
		return "", errors.Join(err, errors.New("no reply"))
	}
	n, numErr := strconv.Atoi(line[1:])
	switch kind := line[0]; {
	case kind == '+', kind == '-', kind == ':':
		return line[1:], nil
	case numErr != nil || n > maxBulk || kind != '$' && kind != '*':
		return "", fmt.Errorf("malformed reply %q", line)
	case n < 0:
		return "(nil)", nil
	case kind == '$':
		b := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(in, b)
		return string(b[:n]), err
	}
	var elements []string
	for range n {
		element, err := read(in)
		if err != nil {
			return "", err
		}
		elements = append(elements, element)
	}
	return strings.Join(elements, "\n"), nil
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	var failure error
	err = eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) (err error) {
		k := &client{}
		cfg := &eventloop.ConnConfig{Task: k.receive, ConnectTimeout: time.Second}
		if k.conn, err = l.Dial(context.Background(), "tcp", os.Args[1], cfg); err != nil {
			return err
		}
		var replies []*eventloop.Future[string]
		for line := range strings.Lines(string(input)) {
			replies = append(replies, k.do(strings.Fields(line)...))
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			defer k.conn.Close()
			for _, reply := range replies {
				text, err := reply.AwaitTimeout(t, time.Second)
				if err != nil {
					failure = err
					return nil
				}
				fmt.Println(text)
			}
			return nil
		})
		return nil
	})
	if err := cmp.Or(err, failure); err != nil {
		log.Fatal(err)
	}
}
