package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/onloop/eventloop"
)

func init() {
	kernels[ours]["conn-1"] = loopConversation
	kernels[ours]["conn-1-task"] = taskConversation
	addKernel(goroutines, "conn-1", netConversation)
	addKernel(goroutines, "conn-1-task", netConversation)
}

// message is what the sequential client sends, and gets back.
var message = make([]byte, 64)

// loopConversation sends the next message when the last one is back, n times.
func loopConversation(n int) {
	addr := echoAddr()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		got, left := 0, n
		_, err := l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.Write(message) },
			OnData: func(c *eventloop.Conn, data []byte) {
				if got += len(data); got < len(message) {
					return
				}
				got = 0
				if left--; left == 0 {
					c.Close()
				} else {
					c.Write(message)
				}
			},
			OnEvent: func(_ *eventloop.Conn, err error) { panic(err) },
		})
		return err
	})
	if err != nil {
		panic(err)
	}
}

// taskConversation is the same in a task.
func taskConversation(n int) {
	addr := echoAddr()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			c, err := l.Dial(context.Background(), "tcp", addr, nil)
			if err != nil {
				return err
			}
			s := c.NetConn(t)
			defer s.Close()
			return converse(s, n)
		}).Then(func(_ struct{}, err error) {
			if err != nil {
				panic(err)
			}
		})
		return nil
	})
	if err != nil {
		panic(err)
	}
}

// netConversation is the same with a goroutine that blocks.
func netConversation(n int) {
	c, err := net.Dial("tcp", echoAddr())
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if err := converse(c, n); err != nil {
		panic(err)
	}
}

func converse(c io.ReadWriter, n int) error {
	answer := make([]byte, len(message))
	for i := range n {
		if _, err := c.Write(message); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return fmt.Errorf("message %d: %w", i+1, err)
		}
	}
	return nil
}
