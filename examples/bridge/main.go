// Bridge makes a blocking API asynchronous with one call of Work: it hashes files and
// runs a command on other goroutines, while the loop continues to tick.
//
//	go run ./examples/bridge [-work n] [-timeout d] file ...
//
// Results are printed as soon as they are ready. SIGINT cancels the remaining work.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	work := flag.Int("work", 4, "`functions` that run at a time")
	timeout := flag.Duration("timeout", time.Minute, "time for all of it")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	err := eventloop.Run(context.Background(), &eventloop.Config{MaxWork: *work}, func(l *eventloop.Loop) error {
		h, err := l.OnSignal(func(os.Signal) { cancel() }, os.Interrupt)
		if err != nil {
			return err
		}
		h.Unref()
		began := time.Now()
		l.Every(100*time.Millisecond, func() {
			log.Printf("the loop is alive, %d at work after %v", l.Stats().Loop.Work, time.Since(began).Round(time.Millisecond))
		}).Unref()
		report(ctx, l, os.Stdout, flag.Args())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

// report writes the results of the blocking functions, on the loop.
func report(ctx context.Context, l *eventloop.Loop, w io.Writer, files []string) {
	output(ctx, l, "go", "version").Then(func(out string, err error) {
		if err != nil {
			fmt.Fprintln(w, "go version:", err)
			return
		}
		fmt.Fprintf(w, "go version: %s\n", out)
	})
	for _, name := range files {
		hash(ctx, l, name).Then(func(sum string, err error) {
			if err != nil {
				fmt.Fprintln(w, err)
				return
			}
			fmt.Fprintf(w, "%s  %s\n", sum, name)
		})
	}
}

// output is exec.Cmd.Output for an event loop. The context kills the command.
func output(ctx context.Context, l *eventloop.Loop, name string, args ...string) *eventloop.Future[string] {
	return eventloop.Work(ctx, l, func(ctx context.Context) (string, error) {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		return strings.TrimSpace(string(out)), err
	})
}

// hash returns a future of the SHA-256 of a file. Reading a file cannot be interrupted,
// but the function can check the context between two reads.
func hash(ctx context.Context, l *eventloop.Loop, name string) *eventloop.Future[string] {
	return eventloop.Work(ctx, l, func(ctx context.Context) (string, error) {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, &reader{ctx, f}); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		return fmt.Sprintf("%x", h.Sum(nil)), nil
	})
}

// A reader returns an error when its context has ended.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
