// Command beanstalk measures drivers/beanstalk beside go-beanstalk.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	rival "github.com/beanstalkd/go-beanstalk"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"github.com/onloop/eventloop/drivers/e2e/internal/bench"
)

func main() {
	bench.Main(workloads(), startServer)
}

// An operation is a put of 64 B and the delete of that job.
func workloads() []bench.Workload {
	return []bench.Workload{{Name: "put-delete-64", Unit: "jobs", Rivals: []bench.Rival{
		{Name: "eventloop", Run: loopPutDelete(64)},
		{Name: "go-beanstalk", Run: rivalPutDelete(64)},
	}}}
}

var body = []byte(strings.Repeat("x", 64))

// loopPutDelete keeps n jobs on the way, over one connection.
func loopPutDelete(n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		ctx := context.Background()
		return eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
			c, err := beanstalk.New(l, &beanstalk.Options{Addr: addr, Timeout: time.Minute})
			if err != nil {
				return err
			}
			var put func()
			deleted := func(_ struct{}, err error) {
				check(err)
				count.Done(0)
				put()
			}
			inserted := func(id uint64, err error) {
				check(err)
				c.Delete(ctx, id).Then(deleted)
			}
			put = func() { c.Put(ctx, "default", body, beanstalk.PutOptions{}).Then(inserted) }
			for range n {
				put()
			}
			return nil
		})
	}
}

// rivalPutDelete has n goroutines with a connection each: a goroutine of go-beanstalk
// waits for each reply, so that is how it has n jobs on the way.
func rivalPutDelete(n int) func(string, *bench.Counter) error {
	return func(addr string, count *bench.Counter) error {
		failed := make(chan error)
		for i := range n {
			go func() { failed <- putDelete(addr, count, i) }()
		}
		return <-failed
	}
}

func putDelete(addr string, count *bench.Counter, i int) error {
	c, err := rival.Dial("tcp", addr)
	if err != nil {
		return err
	}
	for {
		id, err := c.Put(body, 0, 0, time.Minute)
		if err != nil {
			return err
		}
		if err := c.Delete(id); err != nil {
			return err
		}
		count.Done(i)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
