package main

import (
	"net"
	"sync/atomic"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/onloop/eventloop/drivers/e2e/internal/bench"
)

// workers runs f on n goroutines, and returns the first error.
func workers(n int, f func(i int) error) error {
	failed := make(chan error)
	for i := range n {
		go func() { failed <- f(i) }()
	}
	return <-failed
}

// patience takes the place of the timeouts of the clients. Those are a few seconds, which a
// busy machine exceeds, above all where 512 goroutines wait for 20 connections.
const patience = time.Minute

func newGoRedis(addr string) *goredis.Client {
	return goredis.NewClient(&goredis.Options{Addr: addr, DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience})
}

func newRueidis(addr string, delay int) (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{addr},
		Dialer:            net.Dialer{Timeout: patience},
		ConnWriteTimeout:  patience,
		DisableCache:      true,
		PipelineMultiplex: -1, // one connection
		MaxFlushDelay:     time.Duration(delay) * time.Microsecond,
	})
}

func rueidisGet(key string, n, delay int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		c, err := newRueidis(addr, delay)
		if err != nil {
			return err
		}
		return workers(n, func(i int) error {
			for {
				if _, err := c.Do(background, c.B().Get().Key(key).Build()).ToString(); err != nil {
					return err
				}
				count.Done(i)
			}
		})
	}
}

func rueidisSubscribe(addr string, count *bench.Counter) error {
	c, err := newRueidis(addr, 0)
	if err != nil {
		return err
	}
	var received atomic.Int64
	go func() { check(publish(addr, received.Load)) }()
	return c.Receive(background, c.B().Subscribe().Channel(channel).Build(), func(m rueidis.PubSubMessage) {
		received.Add(1)
		count.Done(0)
	})
}

func goRedisGet(key string, n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		c := newGoRedis(addr)
		return workers(n, func(i int) error {
			for {
				if err := c.Get(background, key).Err(); err != nil {
					return err
				}
				count.Done(i)
			}
		})
	}
}

// goRedisAuto is the blocking face of autopipelining.
func goRedisAuto(n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		c, err := newGoRedis(addr).AutoPipeline()
		if err != nil {
			return err
		}
		return workers(n, func(i int) error {
			for {
				if err := c.Get(background, key).Err(); err != nil {
					return err
				}
				count.Done(i)
			}
		})
	}
}

// goRedisAsync is the deferred face of autopipelining: one goroutine, with a window of n
// commands.
func goRedisAsync(n int, fullDuplex bool) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		client := newGoRedis(addr)
		c, err := client.AsyncAutoPipeline()
		if fullDuplex {
			c, err = client.AsyncAutoPipelineWithOptions(&goredis.AutoPipelineOptions{FullDuplex: true})
		}
		if err != nil {
			return err
		}
		window := make([]*goredis.StringCmd, n)
		for i := range window {
			window[i] = c.Get(background, key)
		}
		for i := 0; ; i = (i + 1) % n {
			if err := window[i].Err(); err != nil {
				return err
			}
			count.Done(0)
			window[i] = c.Get(background, key)
		}
	}
}

func goRedisSubscribe(addr string, count *bench.Counter) error {
	s := newGoRedis(addr).Subscribe(background, channel)
	if _, err := s.Receive(background); err != nil {
		return err
	}
	var received atomic.Int64
	go func() { check(publish(addr, received.Load)) }()
	// The size and the timeout are for the channel to lose nothing.
	for range s.Channel(goredis.WithChannelSize(1<<15), goredis.WithChannelSendTimeout(time.Minute)) {
		received.Add(1)
		count.Done(0)
	}
	return nil
}

// redigoGet is pipelining by hand: n commands are sent, and then n replies received.
func redigoGet(key string, n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		c, err := redigo.Dial("tcp", addr)
		if err != nil {
			return err
		}
		for {
			for range n {
				c.Send("GET", key)
			}
			if err := c.Flush(); err != nil {
				return err
			}
			for range n {
				if _, err := redigo.String(c.Receive()); err != nil {
					return err
				}
				count.Done(0)
			}
		}
	}
}

func redigoSubscribe(addr string, count *bench.Counter) error {
	c, err := redigo.Dial("tcp", addr)
	if err != nil {
		return err
	}
	s := redigo.PubSubConn{Conn: c}
	if err := s.Subscribe(channel); err != nil {
		return err
	}
	s.Receive()
	var received atomic.Int64
	go func() { check(publish(addr, received.Load)) }()
	for {
		switch m := s.Receive().(type) {
		case redigo.Message:
			received.Add(1)
			count.Done(0)
		case error:
			return m
		}
	}
}
