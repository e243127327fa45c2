package beanstalk_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
)

// A producer and a consumer in one program.
func ExampleNew() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := beanstalk.New(l, &beanstalk.Options{Addr: addr})
		if err != nil {
			return err
		}
		for _, to := range []string{"ann", "ben"} {
			c.Put(ctx, "mails", []byte("to "+to), beanstalk.PutOptions{TTR: time.Minute}).Ignore()
		}
		left := 2
		_, err = c.Consume(beanstalk.ConsumeOptions{
			Tubes: []string{"mails"},
			OnJob: func(j *beanstalk.Job) {
				fmt.Printf("%s\n", j.Body)
				j.Delete().Then(func(_ struct{}, err error) {
					if left--; left == 0 {
						c.Close()
					}
				})
			},
		})
		return err
	})
	// Output:
	// to ann
	// to ben
}

// inTask runs f as a task of a loop.
func inTask(f func(t *eventloop.Task, c *beanstalk.Client) error) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := beanstalk.New(l, &beanstalk.Options{Addr: addr})
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error { return f(t, c) }).Then(func(_ struct{}, err error) {
			if err != nil {
				fmt.Println(err)
			}
		})
		return nil
	})
}

// A consumer with four jobs at a time, which ends with the program.
func ExampleClient_Consume() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := beanstalk.New(l, &beanstalk.Options{Addr: addr})
		if err != nil {
			return err
		}
		for range 3 {
			c.Put(ctx, "resize", []byte("photo"), beanstalk.PutOptions{}).Ignore()
		}
		left := 3
		consumer, err := c.Consume(beanstalk.ConsumeOptions{
			Tubes:    []string{"resize"},
			Parallel: 4,
			OnJob: func(j *beanstalk.Job) {
				eventloop.Work(ctx, l, func(context.Context) (int, error) { // off the loop
					return len(j.Body), nil
				}).Then(func(n int, err error) {
					if err != nil {
						j.Bury(0)
						return
					}
					fmt.Println("resized", n)
					j.Delete()
					if left--; left == 0 {
						c.Loop().Shutdown(time.Minute) // waits for the jobs
					}
				})
			},
			OnLost:  func(j *beanstalk.Job, err error) { fmt.Println("job", j.ID, "will run again:", err) },
			OnError: func(err error) { fmt.Println("reconnecting:", err) },
		})
		if err != nil {
			return err
		}
		consumer.Pause() // and get no jobs for now
		consumer.Resume()
		return nil
	})
	// Output:
	// resized 5
	// resized 5
	// resized 5
}

// Jobs that are looked at, moved and deleted without a consumer.
func ExampleClient_Put() {
	inTask(func(t *eventloop.Task, c *beanstalk.Client) error {
		ctx := t.Context()
		later := beanstalk.PutOptions{Priority: 10, Delay: time.Hour}
		id, err := c.Put(ctx, "reports", []byte("monthly"), later).Await(t)
		if err != nil {
			return err
		}
		_, err = c.PeekReady(ctx, "reports").Await(t)
		fmt.Println("ready:", errors.Is(err, beanstalk.ErrNotFound))
		job, err := c.PeekDelayed(ctx, "reports").Await(t)
		fmt.Printf("delayed: %s %v\n", job.Body, err)
		n, err := c.Kick(ctx, "reports", 10).Await(t)
		fmt.Println("kicked:", n, err)
		job, err = c.Peek(ctx, id).Await(t)
		fmt.Printf("now: %s %v\n", job.Body, err)
		stats, err := c.StatsJob(ctx, id).Await(t)
		fmt.Println(stats["state"], stats.Int("pri"), stats.Seconds("ttr"), err)
		_, err = c.Delete(ctx, id).Await(t)
		fmt.Println("deleted:", err)
		return nil
	})
	// Output:
	// ready: true
	// delayed: monthly <nil>
	// kicked: 1 <nil>
	// now: monthly <nil>
	// ready 10 1m0s <nil>
	// deleted: <nil>
}

// One job by its number.
func ExampleClient_ReserveJob() {
	inTask(func(t *eventloop.Task, c *beanstalk.Client) error {
		ctx := t.Context()
		id, err := c.Put(ctx, "odd", []byte("job"), beanstalk.PutOptions{}).Await(t)
		if err != nil {
			return err
		}
		job, err := c.ReserveJob(ctx, id).Await(t)
		if err != nil {
			return err
		}
		fmt.Println(job.ID == id, string(job.Body))
		job.Touch() // more time
		job.Bury(5)
		buried, err := c.PeekBuried(ctx, "odd").Await(t)
		fmt.Println(string(buried.Body), "is buried", err)
		c.KickJob(ctx, id)
		job, err = c.ReserveJob(ctx, id).Await(t)
		if err != nil {
			return err
		}
		_, err = job.Release(0, 0).Await(t)
		fmt.Println("released", err)
		_, err = c.Delete(ctx, id).Await(t)
		return err
	})
	// Output:
	// true job
	// job is buried <nil>
	// released <nil>
}

// What the server is doing.
func ExampleClient_Stats() {
	inTask(func(t *eventloop.Task, c *beanstalk.Client) error {
		ctx := t.Context()
		stats, err := c.Stats(ctx).Await(t)
		fmt.Println(stats.Int("max-job-size"), stats["draining"], err)
		tubes, err := c.ListTubes(ctx).Await(t)
		fmt.Println(tubes[0], err)
		_, err = c.PauseTube(ctx, "default", time.Minute).Await(t)
		fmt.Println("paused", err)
		tube, err := c.StatsTube(ctx, "default").Await(t)
		fmt.Println(tube.Seconds("pause"), err)
		_, err = c.PauseTube(ctx, "default", 0).Await(t)
		return err
	})
	// Output:
	// 65535 false <nil>
	// default <nil>
	// paused <nil>
	// 1m0s <nil>
}

// Abort fails what is pending. A command that was sent may have been executed.
func ExampleClient_Abort() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := beanstalk.New(l, &beanstalk.Options{Addr: addr})
		if err != nil {
			return err
		}
		fmt.Println(c.Addr() == addr)
		c.Stats(context.Background()).Then(func(_ beanstalk.Stats, err error) {
			fmt.Println(strings.TrimPrefix(err.Error(), "beanstalk tcp "+addr+": "))
		})
		c.Abort()
		return nil
	})
	// Output:
	// true
	// the client is closed
}
