package redis

import (
	"math/rand/v2"
	"time"
)

// A backoff computes the delay before the next attempt to connect.
type backoff struct {
	min, max time.Duration
	next     time.Duration // the next delay, before it is shortened at random; 0: min
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

// reset returns to the minimum delay after a success.
func (b *backoff) reset() { b.next = 0 }
