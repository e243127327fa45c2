package beanstalk

import (
	"math/rand/v2"
	"time"
)

// A backoff says how long to wait before the next attempt to connect.
type backoff struct {
	min, max time.Duration
	next     time.Duration // before it is shortened at random; 0: min
}

// delay returns the time to wait after a failure.
func (b *backoff) delay() time.Duration {
	d := max(b.next, b.min)
	b.next = min(2*d, b.max)
	if d < 2 {
		return d
	}
	return d - rand.N(d/2)
}

// reset starts again after a success.
func (b *backoff) reset() { b.next = 0 }
