//go:build !unix

package looptest_test

import "time"

var start = time.Now()

// cpuTime returns how much time has passed.
func cpuTime() time.Duration { return time.Since(start) }
