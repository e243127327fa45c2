// Package backoff computes pauses between attempts: each is twice as long as the
// previous one, between two bounds.
package backoff

import "time"

// A Backoff is created by New.
type Backoff struct{ first, most, next time.Duration }

// New returns a Backoff whose pauses grow from first to most.
func New(first, most time.Duration) *Backoff { return &Backoff{first, most, first} }

// Next returns the next pause.
func (b *Backoff) Next() time.Duration {
	d := b.next
	b.next = min(2*b.next, b.most)
	return d
}

// Reset starts again with the first pause. Call it after a success.
func (b *Backoff) Reset() { b.next = b.first }
