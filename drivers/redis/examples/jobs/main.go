// Jobs is a small job queue in Redis. Jobs are lines of text.
//
//	go run ./examples/jobs add 'send mail 1' 'send mail 2'
//	go run ./examples/jobs work -workers 4
//
// A worker moves a job from the list "jobs" to its own list, runs it, and removes it from
// that list. So an unfinished job is not lost: when a worker starts, it puts the jobs of its
// list back into the queue. A job may run twice, but runs at least once. After Ctrl-C, the
// workers finish their current jobs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

const queue = "jobs"

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379", "URL of the server")
	workers := flag.Int("workers", 2, "number of workers")
	flag.Parse()
	o, err := redis.ParseURL(*url)
	if err != nil {
		log.Fatal(err)
	}
	switch flag.Arg(0) {
	case "add":
		err = run(o, func(l *eventloop.Loop, c *redis.Client) { add(c, flag.Args()[1:], os.Stdout) })
	case "work":
		err = run(o, func(l *eventloop.Loop, c *redis.Client) {
			l.ShutdownOn(time.Minute, os.Interrupt)
			work(l, c, *workers, do, os.Stdout)
		})
	default:
		log.Fatal("usage: jobs [-redis URL] add JOB..., or jobs [-redis URL] [-workers N] work")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(o *redis.Options, f func(l *eventloop.Loop, c *redis.Client)) error {
	return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, o)
		if err != nil {
			return err
		}
		f(l, c)
		return nil
	})
}

// add adds jobs to the queue. The client sends all of them in one write.
func add(c *redis.Client, jobs []string, out io.Writer) {
	for _, job := range jobs {
		c.LPush(context.Background(), queue, job).Then(func(n int64, err error) {
			if err != nil {
				fmt.Fprintf(out, "%s: %v\n", job, err)
				return
			}
			fmt.Fprintf(out, "%s: number %d in the queue\n", job, n)
		})
	}
}

// work starts workers. They end when the loop shuts down.
func work(l *eventloop.Loop, c *redis.Client, n int, do func(t *eventloop.Task, job string) error, out io.Writer) {
	ctx, cancel := context.WithCancel(context.Background())
	l.OnShutdown(cancel) // ends the wait for a job, but not a running job
	for i := range n {
		w := &worker{c: c, name: fmt.Sprintf("worker %d", i+1), do: do, out: out}
		w.own = queue + ":" + w.name
		l.Go(context.Background(), func(t *eventloop.Task) error { return w.run(t, ctx) }).Then(func(_ struct{}, err error) {
			if err != nil {
				fmt.Fprintf(out, "%s: %v\n", w.name, err)
			}
		})
	}
}

// A worker runs one job after another.
type worker struct {
	c    *redis.Client
	name string
	own  string // its list
	do   func(t *eventloop.Task, job string) error
	out  io.Writer
}

// run runs jobs until the context waiting ends.
func (w *worker) run(t *eventloop.Task, waiting context.Context) error {
	for { // first, put back the unfinished jobs of an earlier worker of this name
		job, err := w.c.LMove(t.Context(), w.own, queue, redis.Left, redis.Right).Await(t)
		if err == redis.ErrNil {
			break
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(w.out, "%s puts back: %s\n", w.name, job)
	}
	for waiting.Err() == nil {
		job, err := w.c.BLMove(waiting, -1, queue, w.own, redis.Right, redis.Left).Await(t)
		switch {
		case errors.Is(err, context.Canceled):
			return nil // a job that was moved at this moment is put back at the next start
		case err != nil: // the server is down: the client reconnects
			fmt.Fprintf(w.out, "%s: %v\n", w.name, err)
			if err := t.Sleep(time.Second); err != nil {
				return err
			}
			continue
		}
		if err := w.do(t, job); err != nil {
			return fmt.Errorf("%s: %w", job, err) // it stays in the list of the worker
		}
		if _, err := w.c.LRem(t.Context(), w.own, 1, job).Await(t); err != nil {
			return err
		}
		fmt.Fprintf(w.out, "%s has done: %s\n", w.name, job)
	}
	return nil
}

// do runs a job, which takes a second in this example.
func do(t *eventloop.Task, job string) error { return t.Sleep(time.Second) }
