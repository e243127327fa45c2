// Package backoff computes pauses between attempts: each twice as long as the
// one before, between two bounds.
package backoff

import "time"

// A Backoff is made by New.
type Backoff struct{ first, most, next time.Duration }

// New returns a Backoff that begins with first and ends with most.
func New(first, most time.Duration) *Backoff { return &Backoff{first, most, first} }

// Next returns how long to wait now.
func (b *Backoff) Next() time.Duration {
	d := b.next
	b.next = min(2*b.next, b.most)
	return d
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.next = b.first }
