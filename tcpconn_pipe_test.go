package eventloop_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// What arrives in the very turn in which Pipe is called must already be piped.
func TestPipeInOnConnectMissesNothing(t *testing.T) {
	in, source := net.Pipe()
	out, sink := net.Pipe()
	go func() {
		fmt.Fprint(source, "first words")
		source.Close()
	}()
	got := make(chan string, 1)
	go func() {
		sink.SetDeadline(time.Now().Add(watchdogTime)) // a hang is a failure
		text, _ := io.ReadAll(sink)
		sink.Close()
		got <- string(text)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), watchdogTime)
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		_, err := l.Adopt(out, &eventloop.ConnConfig{OnConnect: func(dst *eventloop.Conn) {
			l.Adopt(in, &eventloop.ConnConfig{
				OnConnect: func(c *eventloop.Conn) { c.Pipe(dst) },
				OnData:    func(_ *eventloop.Conn, data []byte) { t.Errorf("OnData got %q", data) },
				OnClose:   func(*eventloop.Conn) { dst.Close() }, // net.Pipe has no CloseWrite
			})
			// That the connection is up and that it has data are to come in one turn.
			for l.Stats().Loop.Queued < 2 && ctx.Err() == nil {
				runtime.Gosched()
			}
		}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := <-got, "first words"; got != want {
		t.Errorf("piped %q, want %q", got, want)
	}
}

// The second Pipe of a connection fails, and leaves the first one working.
func TestPipeOfAPipedConnectionFailsAndLeavesTheFirst(t *testing.T) {
	in, source := net.Pipe()
	out, sink := net.Pipe()
	defer sink.Close()
	ctx, cancel := context.WithTimeout(t.Context(), watchdogTime)
	defer cancel()
	var second error
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		dst, err := l.Adopt(out, nil)
		if err != nil {
			return err
		}
		_, err = l.Adopt(in, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				c.Pipe(dst)
				c.Pipe(dst).Then(func(_ int64, err error) {
					second = err
					go func() {
						fmt.Fprint(source, "still there")
						buf := make([]byte, 64)
						n, _ := sink.Read(buf)
						if got, want := string(buf[:n]), "still there"; got != want {
							t.Errorf("piped %q, want %q", got, want)
						}
						source.Close()
					}()
				})
			},
			OnClose: func(*eventloop.Conn) { dst.Abort() },
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if second == nil {
		t.Error("the second Pipe succeeded")
	}
}
