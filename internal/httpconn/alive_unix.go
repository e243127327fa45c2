//go:build unix

package httpconn

import "syscall"

// aliveCheck is where the function that looks at the descriptor leaves what it
// saw. It is kept with the connection, and so is the function: looking allocates
// nothing.
type aliveCheck struct {
	look  func(fd uintptr)
	quiet bool
}

// Alive reports whether an idle connection still looks usable: the peer neither
// ended it nor sent anything, which nobody has asked for.
func (c *Conn) Alive() bool {
	if c.raw == nil {
		return true
	}
	if c.alive.look == nil {
		c.alive.look = func(fd uintptr) {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			c.alive.quiet = err == syscall.EAGAIN || err == syscall.EINTR
		}
	}
	return c.raw.Control(c.alive.look) == nil && c.alive.quiet
}
