package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// A client is one end of a connection, in lines.
type client struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

func connect(t *testing.T, addr net.Addr) *client {
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { nc.Close() })
	return &client{t, nc, bufio.NewReader(nc)}
}

func (c *client) say(line string) { fmt.Fprintln(c.nc, line) }

func (c *client) hears(want string) {
	c.t.Helper()
	got, err := c.r.ReadString('\n')
	if got = strings.TrimSuffix(got, "\n"); got != want || err != nil {
		c.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// serve runs a handler on a loop of its own until the end of the test.
func serve(t *testing.T, with func(l *eventloop.Loop) handler) net.Addr {
	ctx, cancel := context.WithCancel(context.Background())
	addr, ended := newAnswer[net.Addr](), newAnswer[error]()
	go func() {
		ended <- eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
			a, err := listen(l, "127.0.0.1:0", with(l))
			addr <- a
			return err
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	a := <-addr
	if a == nil {
		t.Fatal("no address to listen on")
	}
	return a
}

func newAnswer[T any]() chan T { return make(chan T, 1) }

func TestChat(t *testing.T) {
	addr := serve(t, func(*eventloop.Loop) handler { return newChat().serve })
	ada := connect(t, addr)
	ada.say("ada")
	ada.say("/who")
	ada.hears("name? ada")
	grace := connect(t, addr)
	grace.say("ada")
	grace.say("grace")
	ada.hears("* grace is here")
	ada.say("hello")
	grace.hears("name? name? ada: hello")
	grace.say("/quit")
	ada.hears("* grace has left")
}

func TestStore(t *testing.T) {
	addr := serve(t, func(l *eventloop.Loop) handler { return newStore(l).serve })
	a, b := connect(t, addr), connect(t, addr)
	a.say(`{"op":"get","key":"x"}`)
	a.hears(`{"error":"no such key"}`)
	a.say(`{"op":"wait","key":"x","ms":1}`)
	a.hears(`{"error":"it was not set"}`)
	a.say(`{"op":"wait","key":"x","ms":60000}`)
	b.say(`{"op":"set","key":"x","value":[1,2]}`)
	b.hears(`{"value":[1,2]}`)
	a.hears(`{"value":[1,2]}`)
	b.say(`{"op":"get","key":"x"}`)
	b.hears(`{"value":[1,2]}`)
	b.say(`what?`)
	b.hears(`{"error":"invalid character 'w' looking for beginning of value"}`)
}
