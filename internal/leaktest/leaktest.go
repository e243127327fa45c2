// Package leaktest checks that the tests of a package leave no goroutine. The examples and
// the drivers, which are modules of their own below this one, share it.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end after the tests. It is no measure of
// anything: what is left for that long is a leak. goleak.Find alone waits for less than half
// a second, which the end of a connection may take on a busy machine.
const patience = 30 * time.Second

// Main runs the tests, and then after, which may be nil, and exits. If the tests succeed and
// leave goroutines, they fail.
func Main(m *testing.M, after func()) {
	code := m.Run()
	if code == 0 {
		if err := Find(); err != nil {
			fmt.Fprintln(os.Stderr, "the tests leave goroutines:", err)
			code = 1
		}
	}
	if after != nil {
		after()
	}
	os.Exit(code)
}

// Find returns an error if goroutines are left, except those that the options leave out.
func Find(options ...goleak.Option) error { return find(patience, options...) }

// find looks for goroutines until there are none, or for the given time.
func find(patience time.Duration, options ...goleak.Option) (err error) {
	for end := time.Now().Add(patience); ; {
		if err = goleak.Find(options...); err == nil || time.Now().After(end) {
			return err
		}
	}
}
