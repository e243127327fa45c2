package redis_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

var shared struct {
	once sync.Once
	s    *redistest.Server
	err  error
}

// sharedServer returns the server that tests share which do it no harm.
func sharedServer() (*redistest.Server, error) {
	shared.once.Do(func() { shared.s, shared.err = redistest.New() })
	return shared.s, shared.err
}

func stopShared() {
	if shared.s != nil {
		shared.s.Stop()
	}
}

// patiently sets the timeouts of a client of a real server, unless a test has set them: the
// defaults are short for a busy machine.
func patiently(o redis.Options) *redis.Options {
	if o.Timeout == 0 {
		o.Timeout = watchdogTime
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = watchdogTime
	}
	return &o
}

// onServer runs f in a task, with a client of the shared server whose database is empty.
// The loop has to end by itself.
func onServer(t *testing.T, o redis.Options, f func(task *eventloop.Task, c *redis.Client)) {
	t.Helper()
	redistest.Need(t)
	s, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	if o.Addr == "" {
		o.Addr = s.Path
	}
	checkDescriptors(t)
	runTask(t, func(task *eventloop.Task) {
		c, err := redis.New(task.Loop(), patiently(o))
		if err != nil {
			t.Fatal(err)
		}
		must(t, c.FlushDB(task.Context())).Await(task)
		f(task, c)
	})
}

// runTask runs f in a task of a loop, which has to end by itself.
func runTask(t *testing.T, f func(task *eventloop.Task)) {
	t.Helper()
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		dog := time.AfterFunc(watchdogTime, func() {
			t.Error("the loop hangs")
			l.LogHandles()
			l.Stop()
		})
		l.OnExit(func() { dog.Stop() })
		l.Go(t.Context(), func(task *eventloop.Task) error {
			f(task)
			return nil
		}).Ignore()
		return nil
	})
	if err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// must has the test fail if a future does.
func must[T any](t *testing.T, f *eventloop.Future[T]) *eventloop.Future[T] {
	t.Helper()
	f.Then(func(_ T, err error) {
		if err != nil {
			t.Helper()
			t.Errorf("failed: %v", err)
		}
	})
	return f
}

// checkDescriptors compares, at the end of the test, the sockets of the process with
// those that are there now.
func checkDescriptors(t testing.TB) {
	t.Helper()
	before := len(sockets(t))
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(watchdogTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if left = sockets(t); len(left) <= before {
				return
			}
		}
		t.Errorf("the test leaves descriptors: %v", left)
	})
}

func sockets(t testing.TB) (open []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // not on this system
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(target) > 7 && target[:7] == "socket:" {
			open = append(open, target)
		}
	}
	return open
}
