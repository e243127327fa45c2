package tasksync_test

import (
	"context"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/tasksync"
)

// run runs start on a loop, and waits for the loop to end.
func run(start func(l *eventloop.Loop)) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		start(l)
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
}

// Two tasks share one connection. Their exchanges must not interleave.
func ExampleMutex() {
	run(func(l *eventloop.Loop) {
		var m tasksync.Mutex
		for _, name := range []string{"a", "b"} {
			l.Go(context.Background(), func(t *eventloop.Task) error {
				if err := m.Lock(t); err != nil {
					return err
				}
				defer m.Unlock()
				fmt.Println(name, "asks")
				if err := t.Sleep(time.Millisecond); err != nil {
					return err
				}
				fmt.Println(name, "is answered")
				return nil
			})
		}
	})
	// Output:
	// a asks
	// a is answered
	// b asks
	// b is answered
}

// At most two of the tasks fetch at the same time.
func ExampleSemaphore() {
	run(func(l *eventloop.Loop) {
		fetching := tasksync.NewSemaphore(2)
		now, most := 0, 0
		for range 5 {
			l.Go(context.Background(), func(t *eventloop.Task) error {
				if err := fetching.Acquire(t, 1); err != nil {
					return err
				}
				defer fetching.Release(1)
				now++
				most = max(most, now)
				defer func() { now-- }()
				return t.Sleep(time.Millisecond)
			})
		}
		l.OnExit(func() { fmt.Println(most, "at a time") })
	})
	// Output: 2 at a time
}

// A consumer waits for work. No lock guards the list: it belongs to the loop.
func ExampleCond() {
	run(func(l *eventloop.Loop) {
		var list []string
		var changed tasksync.Cond
		l.Go(context.Background(), func(t *eventloop.Task) error {
			for range 2 {
				for len(list) == 0 {
					if err := changed.Wait(t); err != nil {
						return err
					}
				}
				fmt.Println("got", list[0])
				list = list[1:]
			}
			return nil
		})
		for i, word := range []string{"one", "two"} {
			l.AfterFunc(time.Duration(i)*time.Millisecond, func() {
				list = append(list, word)
				changed.Signal()
			})
		}
	})
	// Output:
	// got one
	// got two
}
