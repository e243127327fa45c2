package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
)

// needServer returns the address of a beanstalkd for the test.
func needServer(t *testing.T) string {
	addr, stop, err := startServer()
	if errors.Is(err, errNoServer) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return addr
}

// A writeCounter counts the writes of a connection.
type writeCounter struct {
	net.Conn
	n *atomic.Int64
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(p)
}

// Each write of a consumer with one job at a time waits for the reply to the one before:
// writes are round trips.
func TestAConsumerNeedsOneRoundTripPerJob(t *testing.T) {
	const jobs = 1000
	addr := needServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	got, deleted := 0, 0
	var writes atomic.Int64
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		producer, err := beanstalk.New(l, &beanstalk.Options{Addr: addr, Timeout: time.Minute})
		if err != nil {
			return err
		}
		consumer, err := beanstalk.New(l, &beanstalk.Options{Addr: addr, Timeout: time.Minute, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, address)
			return &writeCounter{nc, &writes}, err
		}})
		if err != nil {
			return err
		}
		l.Go(ctx, func(k *eventloop.Task) error {
			var last *eventloop.Future[uint64]
			for range jobs {
				last = producer.Put(ctx, "mails", body, beanstalk.PutOptions{})
			}
			if _, err := last.Await(k); err != nil {
				return err
			}
			// Without touches, whose writes would count if the process stood still for a moment.
			_, err := consumer.Consume(beanstalk.ConsumeOptions{Tubes: []string{"mails"}, ManualTouch: true, OnJob: func(j *beanstalk.Job) {
				got++
				j.Delete().Then(func(_ struct{}, err error) {
					if err != nil {
						t.Errorf("error of Delete = %v", err)
					}
					if deleted++; deleted == jobs {
						producer.Close()
						consumer.Close()
					}
				})
			}})
			return err
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got != jobs || deleted != jobs {
		t.Errorf("%d jobs came and %d are deleted, want %d", got, deleted, jobs)
	}
	// The first write is the handshake, perhaps without the first reserve. Each job has
	// one more: its delete, with the reserve of the next.
	if n := writes.Load() - jobs; n < 1 || n > 2 {
		t.Errorf("%d writes for %d jobs", writes.Load(), jobs)
	}
	t.Logf("%d jobs took %d writes", jobs, writes.Load())
}
