// Command aws measures drivers/aws beside the SDK alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
	"github.com/onloop/eventloop/drivers/e2e/internal/bench"
)

const (
	small = "small" // 1 KB
	big   = "big"   // bigSize
)

var bigSize int64 = 1 << 30

func main() { bench.Main(workloads(), startServer) }

func workloads() []bench.Workload {
	all := []bench.Workload{{Name: "download", Unit: "MB", Rivals: []bench.Rival{
		{Name: "s3loop", Run: download},
		{Name: "sdk", Run: sdkDownload(false)},
		{Name: "sdk-on-loop", Run: sdkDownload(true)},
	}}, {Name: "upload", Unit: "MB", Rivals: []bench.Rival{
		{Name: "s3loop", Run: upload},
		{Name: "sdk", Run: sdkUpload},
	}}}
	for _, n := range []int{1, 32} {
		all = append(all, bench.Workload{Name: fmt.Sprintf("get1K-%d", n), Rivals: []bench.Rival{
			{Name: "awsloop", Run: calls(n)},
			{Name: "sdk-on-loop", Run: sdkCalls(n, true)},
			{Name: "sdk", Run: sdkCalls(n, false)},
		}})
	}
	for _, n := range []int{1, 32} {
		all = append(all, bench.Workload{Name: fmt.Sprintf("nothing-%d", n), Rivals: []bench.Rival{
			{Name: "awsloop", Run: nothing(n)},
			{Name: "goroutines", Run: nothingAlone(n)},
		}})
	}
	return all
}

// startServer starts a server with the objects that are read.
func startServer() (string, func(), error) {
	s, err := newServer()
	if err != nil {
		return "", nil, err
	}
	ctx := context.Background()
	c := s3.NewFromConfig(config(s.Addr), pathStyle)
	_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(small), Body: strings.NewReader(strings.Repeat("x", 1024))})
	if err == nil {
		err = onLoop(s.Addr, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, stop func(error)) {
			in := &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String(big), Body: io.LimitReader(zeros{}, bigSize)}
			s3loop.UploadFrom(ctx, w, c, in).Then(func(_ *s3loop.UploadOutput, err error) { stop(err) })
		})
	}
	if err != nil {
		s.stop()
		return "", nil, err
	}
	return s.Addr, s.stop, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// onLoop runs f on a loop with 32 workers, until it calls stop.
func onLoop(addr string, f func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, stop func(error))) error {
	var failure error
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c := s3.NewFromConfig(awsloop.Config(l, config(addr)), pathStyle)
		f(l, eventloop.NewWorkers(l, 32, "s3"), c, func(err error) {
			failure = err
			l.Stop()
		})
		return nil
	})
	return errors.Join(failure, err)
}

func input(key string) *s3.GetObjectInput {
	return &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)}
}

const megabyte = 1 << 20

// A meter counts bytes as megabytes.
type meter struct {
	c    *bench.Counter
	rest int
}

func (m *meter) Write(p []byte) (int, error) {
	for m.rest += len(p); m.rest >= megabyte; m.rest -= megabyte {
		m.c.Done(0)
	}
	return len(p), nil
}

// download downloads the big object again and again, in callbacks.
func download(addr string, c *bench.Counter) error {
	m := &meter{c: c}
	return onLoop(addr, func(l *eventloop.Loop, w *eventloop.Workers, client *s3.Client, stop func(error)) {
		var next func()
		next = func() {
			s3loop.Download(context.Background(), l, client, input(big), func(p []byte) { m.Write(p) }, func(err error) {
				if err != nil {
					stop(err)
					return
				}
				next()
			}, nil)
		}
		next()
	})
}

// sdkDownload does the same on a goroutine, by the SDK alone.
func sdkDownload(onTheLoop bool) func(addr string, c *bench.Counter) error {
	return func(addr string, c *bench.Counter) error {
		m := &meter{c: c}
		return withSDK(addr, onTheLoop, 1, func(client *s3.Client, _ int) error {
			out, err := client.GetObject(context.Background(), input(big))
			if err != nil {
				return err
			}
			defer out.Body.Close()
			_, err = io.CopyBuffer(m, out.Body, make([]byte, 64<<10))
			return err
		})
	}
}

// bigContent returns the content of a big object, whose bytes m counts as they are read.
func bigContent(m *meter) io.Reader { return io.TeeReader(io.LimitReader(zeros{}, bigSize), m) }

// upload uploads a big object again and again, from a reader.
func upload(addr string, c *bench.Counter) error {
	m := &meter{c: c}
	return onLoop(addr, func(l *eventloop.Loop, w *eventloop.Workers, client *s3.Client, stop func(error)) {
		var next func()
		next = func() {
			in := &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String("upload"), Body: bigContent(m)}
			s3loop.UploadFrom(context.Background(), w, client, in).Then(func(_ *s3loop.UploadOutput, err error) {
				if err != nil {
					stop(err)
					return
				}
				next()
			})
		}
		next()
	})
}

// sdkUpload does the same on a goroutine, by the SDK alone, with parts of the same size.
func sdkUpload(addr string, c *bench.Counter) error {
	m := &meter{c: c}
	return withSDK(addr, false, 1, func(client *s3.Client, _ int) error {
		u := transfermanager.New(client, func(o *transfermanager.Options) {
			o.PartSizeBytes, o.MultipartUploadThreshold, o.Concurrency = 8<<20, 8<<20, 3
		})
		_, err := u.UploadObject(context.Background(), &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String("upload"), Body: bigContent(m)})
		return err
	})
}

// withSDK calls f again and again on n goroutines, with a client that uses the HTTP client
// of a loop or its own.
func withSDK(addr string, onTheLoop bool, n int, f func(c *s3.Client, i int) error) error {
	failed := make(chan error, n)
	start := func(c *s3.Client) {
		for i := range n {
			go func() {
				for {
					if err := f(c, i); err != nil {
						failed <- err
						return
					}
				}
			}()
		}
	}
	if !onTheLoop {
		start(s3.NewFromConfig(config(addr), pathStyle))
		return <-failed
	}
	return onLoop(addr, func(l *eventloop.Loop, _ *eventloop.Workers, c *s3.Client, stop func(error)) {
		l.Hold()
		start(c)
		eventloop.Receive(l, failed, func(err error, _ bool) { stop(err) })
	})
}

// get reads a small object to its end.
func get(ctx context.Context, c *s3.Client) (int, error) {
	out, err := c.GetObject(ctx, input(small))
	if err != nil {
		return 0, err
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	return len(b), err
}

// calls keeps n calls in flight, by callbacks.
func calls(n int) func(addr string, c *bench.Counter) error {
	return func(addr string, counter *bench.Counter) error {
		return onLoop(addr, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, stop func(error)) {
			// The body is read on the worker, too, as the rivals do it.
			op := func(ctx context.Context, _ *struct{}, _ ...func(*s3.Options)) (*int, error) {
				n, err := get(ctx, c)
				return &n, err
			}
			var next func(_ *int, err error)
			next = func(_ *int, err error) {
				if err != nil {
					stop(err)
					return
				}
				counter.Done(0)
				awsloop.Call(context.Background(), w, op, nil).Then(next)
			}
			for range n {
				awsloop.Call(context.Background(), w, op, nil).Then(next)
			}
		})
	}
}

func sdkCalls(n int, onTheLoop bool) func(addr string, c *bench.Counter) error {
	return func(addr string, counter *bench.Counter) error {
		return withSDK(addr, onTheLoop, n, func(c *s3.Client, i int) error {
			_, err := get(context.Background(), c)
			counter.Done(i)
			return err
		})
	}
}

// nothing calls an operation that does nothing: what remains is the bridge.
func nothing(n int) func(addr string, c *bench.Counter) error {
	return func(addr string, counter *bench.Counter) error {
		return onLoop(addr, func(l *eventloop.Loop, w *eventloop.Workers, _ *s3.Client, stop func(error)) {
			var next func(_ *int, err error)
			next = func(_ *int, err error) {
				counter.Done(0)
				awsloop.Call(context.Background(), w, noOperation, nil).Then(next)
			}
			for range n {
				next(nil, nil)
			}
		})
	}
}

func noOperation(context.Context, *struct{}, ...func(*s3.Options)) (*int, error) {
	return new(int), nil
}

// nothingAlone does it as a program without a loop: n goroutines that call and go on.
func nothingAlone(n int) func(addr string, c *bench.Counter) error {
	return func(addr string, counter *bench.Counter) error {
		for i := range n {
			go func() {
				for {
					done := make(chan *int)
					go func() {
						v, _ := noOperation(context.Background(), nil)
						done <- v
					}()
					<-done
					counter.Done(i)
				}
			}()
		}
		select {}
	}
}
