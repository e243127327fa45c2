package eventloop

import (
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// This file has how the dispatcher waits for input in place of the connection's
// goroutine: see parking. The goroutine is in core.Wait meanwhile, and stays there.

func (c *Conn) borrow() bool { return !c.quit.Load() && c.core.Borrow() }

// park reads a chunk. Whatever else there is to do is for the goroutine.
func (c *Conn) park(until time.Time) task {
	if c.quit.Load() || c.bits.Load() != 0 || c.readErr != nil || c.next != nil {
		return nil
	}
	c.bound(until)
	b, err := c.core.Read(c.nextRead())
	switch {
	case b != nil:
		c.took(b)
		return (*chunkTask)(c)
	case err != netcore.ErrWoken && !isTimeout(err):
		c.readErr = err
	}
	return nil
}

func (c *Conn) interrupt() { c.core.Wake() }

func (c *Conn) resume() {
	c.bound(time.Time{})
	c.core.Return()
}

// bound sets the read deadline. The first deadline of a loop is often the same as the
// last time.
func (c *Conn) bound(t time.Time) {
	if !t.Equal(c.core.ReadDeadline()) {
		c.core.SetReadDeadline(t)
	}
}
