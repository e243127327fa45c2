// Chat is a chat over channels of Redis. It sends each line of the standard input as a
// message to a room, and prints the messages of all members. Run it in several terminals:
//
//	go run ./examples/chat -name Ada -room go
//
// "/join ROOM" and "/leave ROOM" change the rooms. The program ends with "/quit" or at the
// end of the input.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379", "URL of the server")
	name := flag.String("name", os.Getenv("USER"), "name in the chat")
	room := flag.String("room", "lobby", "the first room")
	flag.Parse()
	o, err := redis.ParseURL(*url)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(o, *name, *room, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(o *redis.Options, name, room string, in io.Reader, out io.Writer) error {
	return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, o)
		if err != nil {
			return err
		}
		join(l, c, name, room, in, out)
		return l.ShutdownOn(time.Second, os.Interrupt)
	})
}

// A member is a user in the chat. Only the loop uses it.
type member struct {
	c    *redis.Client
	s    *redis.Subscription
	in   *eventloop.Reader
	name string
	room string // the room that gets the messages
	out  io.Writer
	line []byte // the incomplete last line
}

const prefix = "chat:"

func join(l *eventloop.Loop, c *redis.Client, name, room string, in io.Reader, out io.Writer) {
	m := &member{c: c, name: name, room: room, out: out}
	m.s = c.Subscribe(redis.SubscribeOptions{
		Channels: []string{prefix + room},
		OnMessage: func(msg redis.Message) {
			fmt.Fprintf(out, "[%s] %s\n", strings.TrimPrefix(msg.Channel, prefix), msg.Payload)
		},
		OnGap: func(err error) { fmt.Fprintln(out, "messages may be missing:", err) },
	})
	m.s.Ready().Then(func(_ struct{}, err error) {
		if err != nil {
			fmt.Fprintln(out, err)
			return
		}
		m.say(name + " is here")
		m.in = eventloop.ReadFrom(l, in, m.read, func(error) { m.quit() })
	})
	m.s.Done().Then(func(_ struct{}, err error) {
		if m.in != nil {
			m.in.Stop()
		}
	})
}

// read handles a chunk of the input.
func (m *member) read(p []byte) {
	m.line = append(m.line, p...)
	for {
		line, rest, ok := bytes.Cut(m.line, []byte("\n"))
		if !ok {
			return
		}
		m.command(strings.TrimSpace(string(line)))
		m.line = append(m.line[:0], rest...)
	}
}

func (m *member) command(line string) {
	word, arg, _ := strings.Cut(line, " ")
	switch {
	case line == "":
	case word == "/quit":
		m.quit()
	case word == "/join" && arg != "":
		m.room = arg
		m.s.Add(prefix + arg).Then(func(_ struct{}, err error) { m.say(m.name + " is here") })
	case word == "/leave" && arg != "":
		m.s.Remove(prefix + arg)
	default:
		m.say(m.name + ": " + line)
	}
}

func (m *member) say(text string) {
	m.c.Publish(context.Background(), prefix+m.room, text).Then(func(_ int64, err error) {
		if err != nil {
			fmt.Fprintln(m.out, "not sent:", err)
		}
	})
}

// quit leaves the chat when the last message is sent.
func (m *member) quit() {
	m.c.Close().Then(func(struct{}, error) {})
}
