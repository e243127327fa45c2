// Process runs a command as a child of the loop: its input, its two outputs and its
// exit are handles. Each line that it writes is printed with the time since the start,
// and a child that runs for longer than -limit is killed.
//
//	go run ./examples/process -limit 5s -- sh -c 'read name; echo hello $name; sleep 1; echo done >&2; exit 3'
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	limit := flag.Duration("limit", time.Minute, "time for the child")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("process: no command")
	}
	p := &process{began: time.Now(), outputs: make(map[*eventloop.Reader]bool)}
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		return p.start(l, *limit, flag.Args(), os.Stdin)
	})
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(p.code)
}

// A process is a child process and its state. It is used only on the loop.
type process struct {
	began   time.Time
	outputs map[*eventloop.Reader]bool // that have not ended
	code    int
}

func (p *process) start(l *eventloop.Loop, limit time.Duration, args []string, input io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return err
	}
	// Not the pipe of cmd.StdoutPipe: Wait closes it, and its unread output is lost.
	out, outEnd, err1 := os.Pipe()
	errs, errsEnd, err2 := os.Pipe()
	cmd.Stdout, cmd.Stderr = outEnd, errsEnd
	if err = errors.Join(err1, err2); err == nil {
		err = cmd.Start()
	}
	outEnd.Close() // the child has them
	errsEnd.Close()
	if err != nil {
		cancel()
		return err
	}
	in, inEnd := eventloop.NewPipe(l, 0)
	go func() { // ends with the child, at the latest
		io.Copy(stdin, inEnd)
		inEnd.Close()
		stdin.Close()
	}()
	feeder := p.feed(l, input, in)
	p.show(l, "out", out)
	p.show(l, "err", errs)
	eventloop.Work(context.Background(), l, func(context.Context) (struct{}, error) {
		defer cancel()
		return struct{}{}, cmd.Wait()
	}).Then(func(struct{}, error) { // an exit status other than 0 is an error of Wait
		p.code = cmd.ProcessState.ExitCode()
		fmt.Printf("%s %v\n", p.time(), cmd.ProcessState)
		feeder.Stop()
		in.Close()
		inEnd.Close()
		l.AfterFunc(time.Second, func() { // a grandchild may keep an output open
			for r := range p.outputs {
				r.Stop()
			}
		}).Unref()
	})
	return nil
}

// feed sends input to the child, no faster than the child reads it.
func (p *process) feed(l *eventloop.Loop, input io.Reader, in *eventloop.PipeWriter) *eventloop.Reader {
	var r *eventloop.Reader
	r = eventloop.ReadFrom(l, input, func(data []byte) {
		if _, err := in.Write(data); err != nil {
			r.Stop() // the child no longer reads
			return
		}
		if in.NeedDrain() {
			r.Pause()
		}
	}, func(error) { in.Close() })
	in.OnDrain(r.Resume)
	r.Unref() // the child may end before its input
	return r
}

// show prints the lines of an output.
func (p *process) show(l *eventloop.Loop, name string, output io.Reader) {
	var rest []byte
	line := func(text []byte) { fmt.Printf("%s %s: %s\n", p.time(), name, text) }
	var r *eventloop.Reader
	r = eventloop.ReadFrom(l, output, func(data []byte) {
		rest = append(rest, data...)
		for {
			n, text, _ := bufio.ScanLines(rest, false)
			if n == 0 {
				break
			}
			line(text)
			rest = rest[n:]
		}
		rest = bytes.Clone(rest)
	}, func(error) { // the child and all of its children have closed the output
		if len(rest) > 0 {
			line(rest)
		}
		delete(p.outputs, r)
	})
	p.outputs[r] = true
}

func (p *process) time() string {
	return fmt.Sprintf("%6.3f", time.Since(p.began).Seconds())
}
