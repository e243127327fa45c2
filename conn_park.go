package eventloop

import (
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// This file has how the dispatcher waits for input in place of the connection's
// goroutine: see parking. The goroutine is in core.Wait meanwhile, and stays there.

func (cr *connReader) borrow() bool { return !cr.quit.Load() && cr.core.Borrow() }

// park reads a chunk. Whatever else there is to do is for the goroutine.
func (cr *connReader) park(until time.Time) task {
	c := (*Conn)(cr)
	if c.quit.Load() || c.bits.Load() != 0 || c.readErr != nil || c.hasNext() {
		return nil
	}
	cr.bound(until)
	b, err := c.core.Read(cr.nextRead())
	switch {
	case b != nil:
		cr.took(b)
		return (*chunkTask)(c)
	case err != netcore.ErrWoken && !deadlinePassed(err): // ETIMEDOUT is no deadline
		c.readErr = err
	}
	return nil
}

func (cr *connReader) interrupt() { cr.core.Wake() }

func (cr *connReader) resume() {
	cr.bound(time.Time{})
	cr.core.Return()
}

// bound sets the read deadline. The first deadline of a loop is often the same as the
// last time.
func (cr *connReader) bound(t time.Time) {
	if !t.Equal(cr.core.ReadDeadline()) {
		cr.core.SetReadDeadline(t)
	}
}
