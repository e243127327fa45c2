//go:build unix

package redis_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

func TestFaultServerStopsForLongerThanTheTimeouts(t *testing.T) {
	underFault(t, redis.Options{Timeout: 150 * time.Millisecond, ConnectTimeout: 150 * time.Millisecond}, func(task *eventloop.Task, s *redistest.Server, ld *load) {
		s.Cmd.Process.Signal(syscall.SIGSTOP)
		// First those that were sent, then those that wait for a connection.
		waitFor(t, task, "overdue replies", func() bool { return ld.bad["overdue"] > 0 })
		waitFor(t, task, "timeouts", func() bool { return ld.bad["not sent"] >= 200 })
		s.Cmd.Process.Signal(syscall.SIGCONT)
		if ld.bad["certain"] > 0 {
			t.Errorf("failures: %v", ld.bad)
		}
	})
}
