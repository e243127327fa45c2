package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/e2e/internal/bench"
	"github.com/onloop/eventloop/drivers/redis"
)

var background = context.Background()

func onLoop(addr string, f func(l *eventloop.Loop, c *redis.Client)) error {
	return eventloop.Run(background, nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, &redis.Options{Addr: addr, Timeout: patience, ConnectTimeout: patience})
		if err != nil {
			return err
		}
		f(l, c)
		return nil
	})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// loopGet keeps n commands outstanding, with callbacks.
func loopGet(key string, n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		return onLoop(addr, func(l *eventloop.Loop, c *redis.Client) {
			var got func(v string, err error)
			got = func(v string, err error) {
				check(err)
				count.Done(0)
				c.Get(background, key).Then(got)
			}
			for range n {
				c.Get(background, key).Then(got)
			}
		})
	}
}

// loopGetTasks does the same with a task for each.
func loopGetTasks(key string, n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		return onLoop(addr, func(l *eventloop.Loop, c *redis.Client) {
			for range n {
				l.Go(background, func(t *eventloop.Task) error {
					for {
						_, err := c.Get(background, key).Await(t)
						check(err)
						count.Done(0)
					}
				})
			}
		})
	}
}

func loopSubscribe(addr string, count *bench.Counter) error {
	var received atomic.Int64
	return onLoop(addr, func(l *eventloop.Loop, c *redis.Client) {
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{channel}, OnMessage: func(m redis.Message) {
			received.Add(1)
			count.Done(0)
		}})
		s.Ready().Then(func(_ struct{}, err error) {
			check(err)
			go func() { check(publish(addr, received.Load)) }()
		})
	})
}
