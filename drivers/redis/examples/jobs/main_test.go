package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

func TestEachJobIsDoneAndNoneIsLost(t *testing.T) {
	server := redistest.Start(t)
	o := &redis.Options{Addr: server.Path, Timeout: time.Minute}
	const jobs = 50
	var names []string
	for i := range jobs {
		names = append(names, fmt.Sprintf("job %d", i))
	}
	var out bytes.Buffer
	run(o, func(l *eventloop.Loop, c *redis.Client) { add(c, names, &out) })
	if n := strings.Count(out.String(), "in the queue"); n != jobs {
		t.Errorf("%d jobs were added: %s", n, out.String())
	}

	// A worker fails at each tenth job. The next run does these, too.
	var done []string
	for round := 0; len(done) < jobs && round < 20; round++ {
		out.Reset()
		err := run(o, func(l *eventloop.Loop, c *redis.Client) {
			busy := l.AfterFunc(2*time.Minute, func() {
				t.Error("it hangs")
				l.LogHandles()
				l.Stop()
			})
			busy.Unref()
			work(l, c, 3, func(task *eventloop.Task, job string) error {
				if len(done)%10 == 9 && round%2 == 0 {
					l.Shutdown(time.Minute)
					return fmt.Errorf("cannot do it")
				}
				if done = append(done, job); len(done) == jobs || round%2 == 1 {
					l.Shutdown(time.Minute)
				}
				return nil
			}, &out)
		})
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, out.String())
		}
	}
	slices.Sort(done)
	slices.Sort(names)
	if !slices.Equal(done, names) {
		t.Errorf("done: %q\n%s", done, out.String())
	}
}
