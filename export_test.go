package eventloop

import "unsafe"

// AddStats is Stats.add.
var AddStats = (*Stats).add

// LoopName returns the name in the configuration of l.
func LoopName(l *Loop) string { return l.cfg.Name }

// MaxIdleCoroutines is how many coroutines without a task a loop keeps.
const MaxIdleCoroutines = maxIdleCoroutines

// MaxPerTurn is how many timers, and how many posts, run in one turn.
const MaxPerTurn = maxPerTurn

// ConnSize and HTTPConnSize are the sizes of what a connection of a loop, and of an HTTP
// server, has of its own.
const (
	ConnSize     = unsafe.Sizeof(Conn{})
	HTTPConnSize = unsafe.Sizeof(httpConn{})
)

// InBorrowedRead reports whether the dispatcher of l waits in a connection.
func InBorrowedRead(l *Loop) bool { return l.borrowed.in.Load() != nil }

// Blocked reports whether the output of c waits because the kernel takes no more of it.
func Blocked(c *Conn) bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.core.Blocked()
}

// BorrowAgain is how many turns in a row must have been input of one connection after
// the dispatcher waited there without input.
const BorrowAgain = borrowAgain

// IsSpare reports whether an end by force would cut nothing of s off.
func IsSpare(s *HTTPServer) bool { return s.isSpare() }

// IdleTime is how long a goroutine of Work stays without a function.
const IdleTime = idleTime
