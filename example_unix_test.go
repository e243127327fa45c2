//go:build unix

package eventloop_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

// A signal handler keeps the loop alive until it is stopped.
func ExampleLoop_OnSignal() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var h *eventloop.SignalHandler
		h, err := l.OnSignal(func(sig os.Signal) {
			fmt.Println("got:", sig)
			h.Stop()
		}, syscall.SIGUSR1)
		if err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	})
	// Output: got: user defined signal 1
}

// SIGTERM ends the loop gracefully: the interval is stopped, and what is idle closed.
func ExampleLoop_ShutdownOn() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Every(time.Hour, func() {})
		l.OnShutdown(func() { fmt.Println("the loop is about to end") })
		if err := l.ShutdownOn(10*time.Second, os.Interrupt, syscall.SIGTERM); err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGTERM)
	})
	fmt.Println("the loop ended:", err)
	// Output:
	// the loop is about to end
	// the loop ended: <nil>
}

func ExampleGroup_ShutdownOn() {
	g := eventloop.NewGroup(2, nil)
	if err := g.ShutdownOn(10*time.Second, syscall.SIGTERM); err != nil {
		fmt.Println(err)
	}
	err := g.Run(context.Background(), func(l *eventloop.Loop) error {
		l.Every(time.Hour, func() {})
		if l == g.Loops()[0] {
			l.AfterFunc(time.Millisecond, func() { syscall.Kill(os.Getpid(), syscall.SIGTERM) })
		}
		return nil
	})
	fmt.Println("the loops ended:", err)
	// Output: the loops ended: <nil>
}

// Handlers that are installed keep a loop alive.
func ExampleLoop_ClearSignals() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		if _, err := l.OnSignal(func(os.Signal) { fmt.Println("reload") }, syscall.SIGHUP); err != nil {
			return err
		}
		l.AfterFunc(time.Millisecond, l.ClearSignals)
		return nil
	})
	fmt.Println("the loop ended")
	// Output: the loop ended
}
