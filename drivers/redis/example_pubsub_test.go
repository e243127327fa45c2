package redis_test

import (
	"context"
	"fmt"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

func ExampleClient_Subscribe() {
	onRedis(func(l *eventloop.Loop, c *redis.Client) {
		ctx := context.Background()
		var s *redis.Subscription
		s = c.Subscribe(redis.SubscribeOptions{
			Channels: []string{"news"},
			Patterns: []string{"room.*"},
			OnMessage: func(m redis.Message) {
				fmt.Println(m.Channel, m.Pattern, m.Payload)
				if m.Payload == "bye" {
					s.Close()
				}
			},
			OnGap: func(err error) { fmt.Println("messages may be missing:", err) },
		})
		s.Ready().Then(func(_ struct{}, err error) {
			c.Publish(ctx, "news", "hello").Ignore()
			c.Publish(ctx, "room.1", "bye").Ignore()
		})
		s.Done().Then(func(_ struct{}, err error) { fmt.Println("closed", err) })
	})
	// Output:
	// news  hello
	// room.1 room.* bye
	// closed <nil>
}

func ExampleSubscription_All() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		s := c.Subscribe(redis.SubscribeOptions{Channels: []string{"news"}})
		defer s.Close()
		if _, err := s.Ready().Await(t); err != nil {
			return err
		}
		for i := range 3 {
			c.Publish(t.Context(), "news", i).Ignore()
		}
		n := 0
		for m, err := range s.All(t) {
			if err != nil {
				return err
			}
			fmt.Println(m.Channel, m.Payload)
			if n++; n == 3 {
				break
			}
		}
		return nil
	})
	// Output:
	// news 0
	// news 1
	// news 2
}

func ExampleSubscription_Add() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		s := c.Subscribe(redis.SubscribeOptions{OnMessage: func(m redis.Message) {}})
		defer s.Close()
		s.Add("a", "b").Ignore()
		s.AddPatterns("x.*").Ignore()
		s.AddShards("shard").Await(t)
		show(t, c.Publish(ctx, "a", "one listens"))
		show(t, c.SPublish(ctx, "shard", "one listens"))
		s.RemovePatterns("x.*").Ignore()
		s.RemoveShards("shard").Ignore()
		s.Remove("a").Await(t)
		show(t, c.Publish(ctx, "a", "nothing listens"))
		return nil
	})
	// Output:
	// 1
	// 1
	// 0
}

func ExampleSubscription_Pause() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		var s *redis.Subscription
		s = c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(m redis.Message) {
			fmt.Println(m.Payload)
			s.Pause() // no other message, until the work is done
			c.Loop().AfterFunc(0, func() {
				fmt.Println("done with", m.Payload)
				s.Resume()
				if m.Payload == "2" {
					s.Close()
				}
			})
		}})
		s.Ready().Await(t)
		c.Publish(context.Background(), "c", 1).Ignore() // the context of the task ends with it
		c.Publish(context.Background(), "c", 2).Ignore()
		return nil
	})
	// Output:
	// 1
	// done with 1
	// 2
	// done with 2
}

func ExampleClient_Consume() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		if _, err := c.XGroupCreate(ctx, "orders", "billing", "0").Await(t); err != nil {
			return err
		}
		c.XAdd(ctx, "orders", "id", 1).Ignore()
		c.XAdd(ctx, "orders", "id", 2).Ignore()
		var consumer *redis.Consumer
		consumer, err := c.Consume(redis.ConsumeOptions{
			Stream: "orders", Group: "billing", Consumer: "worker-1",
			OnEntry: func(d *redis.Delivery) {
				fmt.Println("order", d.Get("id"))
				if d.Get("id") == "1" {
					d.Release() // it stays pending
					return
				}
				d.Ack().Then(func(_ struct{}, err error) { consumer.Close() })
			},
		})
		if err != nil {
			return err
		}
		_, err = consumer.Done().Await(t)
		return err
	})
	// Output:
	// order 1
	// order 2
}
