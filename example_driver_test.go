package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/onloop/eventloop"
)

// A clock is a driver in its smallest form: its requests are answered a little later, in
// order. A driver for a server would write each request to a Conn, and resolve the first
// promise of the queue when OnData gets the reply.
type clock struct {
	owner *eventloop.Owner
	queue []*clockRequest // without a reply, in order
}

// A clockRequest is the record of a request: one allocation, future included.
type clockRequest struct {
	eventloop.Promise[string]
	question string
}

func newClock(l *eventloop.Loop, addr string) (*clock, error) {
	c := &clock{}
	owner, err := eventloop.NewOwner(l, "clock", addr, c.ended)
	c.owner = owner
	return c, err
}

// Ask sends a question to the clock.
func (c *clock) Ask(question string) *eventloop.Future[string] {
	r := &clockRequest{question: question}
	if r.Init(c.owner) == nil {
		c.queue = append(c.queue, r)
		c.owner.Loop().AfterFunc(time.Millisecond, c.reply)
	}
	return &r.Future
}

// reply is called when a reply has arrived.
func (c *clock) reply() {
	if len(c.queue) == 0 {
		return // the clock is closed
	}
	r := c.queue[0]
	c.queue = c.queue[1:]
	r.Resolve(r.question+"? twelve", nil)
}

// ended is called when the loop ends. The promises have failed already.
func (c *clock) ended(err error) {
	c.queue = nil
	fmt.Println("the clock ends:", err)
}

// A driver in its smallest form. While a request is pending it keeps the loop alive; the
// idle driver does not.
func ExampleNewOwner() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := newClock(l, "tower:12")
		if err != nil {
			return err
		}
		c.Ask("what time").Then(func(answer string, err error) { fmt.Println(answer, err) })
		c.Ask("sure").Then(func(answer string, err error) { fmt.Println(answer, err) })
		for h := range l.Handles() {
			if h.Kind == "clock" {
				fmt.Println(h.Name)
			}
		}
		return nil
	})
	// Output:
	// tower:12, 2 pending
	// what time? twelve <nil>
	// sure? twelve <nil>
	// the clock ends: eventloop: loop closed
}

// Close fails the promises that are pending, and those of later requests.
func ExampleOwner_Close() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := newClock(l, "tower:12")
		if err != nil {
			return err
		}
		show := func(_ string, err error) { fmt.Println(err) }
		c.Ask("what time").Then(show)
		fmt.Println(c.owner.Pending(), "pending")
		c.owner.Close()
		c.queue = nil
		c.Ask("sure").Then(show)
		return nil
	})
	// Output:
	// 1 pending
	// use of closed network connection
	// use of closed network connection
}

// The errors of a driver have an operation and an address.
func ExampleOwner_CloseWithError() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := newClock(l, "tower:12")
		if err != nil {
			return err
		}
		c.owner.CloseWithError(&eventloop.OpError{Op: "clock", Addr: "tower:12", Err: net.ErrClosed})
		c.Ask("what time").Then(func(_ string, err error) {
			fmt.Println(err)
			fmt.Println(errors.Is(err, net.ErrClosed))
		})
		return nil
	})
	// Output:
	// clock tower:12: use of closed network connection
	// true
}

// A subscription goes on until it is closed, so it ends when a Shutdown begins. The
// promise of its end keeps the loop alive.
func ExampleOwner_OnShutdown() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		owner, err := eventloop.NewOwner(l, "subscription", "news", nil)
		if err != nil {
			return err
		}
		var end eventloop.Promise[struct{}]
		end.Init(owner)
		end.Then(func(struct{}, error) {
			fmt.Println("closed")
			owner.Close()
		})
		owner.OnShutdown(func() {
			owner.SetName("news, closing")
			l.AfterFunc(time.Millisecond, func() { end.Resolve(struct{}{}, nil) })
		})
		l.AfterFunc(time.Millisecond, func() { l.Shutdown(time.Minute) })
		return nil
	})
	// Output:
	// closed
}
