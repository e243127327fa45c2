//go:build !linux

package eventloop_test

import (
	"errors"
	"testing"

	"github.com/onloop/eventloop"
)

// segments skips the test: only Linux tells how many segments were sent.
func segments(t testing.TB, _ *eventloop.Conn) uint32 {
	t.Helper()
	t.Skip("counts segments as Linux tells them")
	return 0
}

// noBacklog is not possible: elsewhere a backlog of none is one of some.
func noBacklog(uintptr) error { return errors.ErrUnsupported }
