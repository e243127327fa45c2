package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/onloop/eventloop"
)

// A loop that is made before it runs takes posts and timers at once.
func ExampleLoop_Run() {
	l := eventloop.New(nil)
	l.Post(func() { fmt.Println("first") })
	l.AfterFunc(time.Millisecond, func() { fmt.Println("second") })
	fmt.Println(l.Run(context.Background()))
	// Output:
	// first
	// second
	// <nil>
}

func ExampleLoop_Stop() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.AfterFunc(time.Hour, func() { fmt.Println("never") })
		l.AfterFunc(time.Millisecond, l.Stop)
		return nil
	})
	fmt.Println("the loop ended:", err)
	// Output: the loop ended: <nil>
}

// Another goroutine waits for the end of a loop.
func ExampleLoop_Done() {
	l := eventloop.New(nil)
	release := l.Hold()
	go l.Run(context.Background())
	l.Post(release)
	<-l.Done()
	fmt.Println(l.Post(func() {}) == eventloop.ErrLoopClosed)
	// Output: true
}

// Two loops, each on a goroutine of its own, that live and end together.
func ExampleNewGroup() {
	g := eventloop.NewGroup(2, &eventloop.Config{Logger: slog.New(slog.DiscardHandler)})
	fmt.Println(len(g.Loops()), "loops")
	err := g.Run(context.Background(), func(l *eventloop.Loop) error {
		l.AfterFunc(time.Hour, func() { fmt.Println("never") })
		l.AfterFunc(time.Millisecond, func() { g.Shutdown(0) }) // by force
		return nil
	})
	fmt.Println(errors.Is(err, eventloop.ErrForced))
	// Output:
	// 2 loops
	// true
}
