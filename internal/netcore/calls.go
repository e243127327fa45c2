//go:build !netcorefaults

package netcore

import (
	"syscall"

	"github.com/onloop/eventloop/internal/sockio"
)

// The system calls of a connection. With the build tag netcorefaults, tests can make them
// fail, see calls_faults_test.go.

func epollOpen(ep *epoll) error                    { return realEpollOpen(ep) }
func epollWait(ep *epoll, events []epollEvent) int { return realEpollWait(ep, events) }
func epollDel(ep *epoll, fd uintptr)               { realEpollDel(ep, fd) }
func epollSet(ep *epoll, fd uintptr, first bool, want uint32, e event) syscall.Errno {
	return realEpollSet(ep, fd, first, want, e)
}

// between marks a point between two steps of a handover, where tests stop goroutines.
func between(*Conn, handover) {}

func readFD(fd uintptr, p []byte) (int, syscall.Errno)        { return sockio.ReadFD(fd, p) }
func writeFD(fd uintptr, views [][]byte) (int, syscall.Errno) { return sockio.WriteFD(fd, views) }
func unacked(fd uintptr) (int, bool)                          { return sockio.Unacked(fd) }
func hasEnded(fd uintptr) bool                                { return sockio.HasEnded(fd) }
func wasReset(fd uintptr) bool                                { return sockio.WasReset(fd) }
func hasInput(fd uintptr) bool                                { return !sockio.Quiet(fd) }
func cost(fd uintptr, n, writes int) int                      { return sockio.Cost(fd, n, writes) }
func broken(fd uintptr, shut bool) (syscall.Errno, bool)      { return sockio.Broken(fd, shut) }
