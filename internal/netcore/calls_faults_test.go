//go:build netcorefaults

package netcore

import (
	"sync/atomic"
	"syscall"

	"github.com/onloop/eventloop/internal/sockio"
)

// faults are functions with which tests replace the system calls.
type faults struct {
	read    func(fd uintptr, p []byte) (int, syscall.Errno)
	write   func(fd uintptr, views [][]byte) (int, syscall.Errno)
	unacked func(fd uintptr) (int, bool)
	broken  func(fd uintptr, shut bool) (syscall.Errno, bool)

	hasEnded func(fd uintptr) bool
	wasReset func(fd uintptr) bool
	hasInput func(fd uintptr) bool
	cost     func(fd uintptr, n, writes int) int

	epollOpen func(ep *epoll) error
	epollWait func(ep *epoll, events []epollEvent) int
	epollSet  func(ep *epoll, fd uintptr, first bool, want uint32, e event) syscall.Errno
	epollDel  func(ep *epoll, fd uintptr)

	between func(c *Conn, h handover) // see calls.go
}

var injected atomic.Pointer[faults]

func between(c *Conn, h handover) {
	if f := injected.Load(); f != nil && f.between != nil {
		f.between(c, h)
	}
}

func readFD(fd uintptr, p []byte) (int, syscall.Errno) {
	if f := injected.Load(); f != nil && f.read != nil {
		return f.read(fd, p)
	}
	return sockio.ReadFD(fd, p)
}

func writeFD(fd uintptr, views [][]byte) (int, syscall.Errno) {
	if f := injected.Load(); f != nil && f.write != nil {
		return f.write(fd, views)
	}
	return sockio.WriteFD(fd, views)
}

func unacked(fd uintptr) (int, bool) {
	if f := injected.Load(); f != nil && f.unacked != nil {
		return f.unacked(fd)
	}
	return sockio.Unacked(fd)
}

func broken(fd uintptr, shut bool) (syscall.Errno, bool) {
	if f := injected.Load(); f != nil && f.broken != nil {
		return f.broken(fd, shut)
	}
	return sockio.Broken(fd, shut)
}

func hasEnded(fd uintptr) bool {
	if f := injected.Load(); f != nil && f.hasEnded != nil {
		return f.hasEnded(fd)
	}
	return sockio.HasEnded(fd)
}

func wasReset(fd uintptr) bool {
	if f := injected.Load(); f != nil && f.wasReset != nil {
		return f.wasReset(fd)
	}
	return sockio.WasReset(fd)
}

func hasInput(fd uintptr) bool {
	if f := injected.Load(); f != nil && f.hasInput != nil {
		return f.hasInput(fd)
	}
	return !sockio.Quiet(fd)
}

func cost(fd uintptr, n, writes int) int {
	if f := injected.Load(); f != nil && f.cost != nil {
		return f.cost(fd, n, writes)
	}
	return sockio.Cost(fd, n, writes)
}

func epollOpen(ep *epoll) error {
	if f := injected.Load(); f != nil && f.epollOpen != nil {
		return f.epollOpen(ep)
	}
	return realEpollOpen(ep)
}

func epollWait(ep *epoll, events []epollEvent) int {
	if f := injected.Load(); f != nil && f.epollWait != nil {
		return f.epollWait(ep, events)
	}
	return realEpollWait(ep, events)
}

func epollSet(ep *epoll, fd uintptr, first bool, want uint32, e event) syscall.Errno {
	if f := injected.Load(); f != nil && f.epollSet != nil {
		return f.epollSet(ep, fd, first, want, e)
	}
	return realEpollSet(ep, fd, first, want, e)
}

func epollDel(ep *epoll, fd uintptr) {
	if f := injected.Load(); f != nil && f.epollDel != nil {
		f.epollDel(ep, fd)
		return
	}
	realEpollDel(ep, fd)
}
