package netcore

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// An epoll is an epoll instance on which a goroutine waits as on a socket.
type epoll struct {
	fd     int
	file   *os.File
	raw    syscall.RawConn
	events []epollEvent
	n      int
	poll   func(fd uintptr) bool
}

type epollEvent = unix.EpollEvent

// The events to watch for. A failure is always reported.
const (
	wantInput uint32 = unix.EPOLLIN
	wantEnd   uint32 = unix.EPOLLRDHUP
)

// realEpollOpen creates the epoll instance.
func realEpollOpen(ep *epoll) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	// Package os adds only nonblocking descriptors to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	ep.fd, ep.file = fd, os.NewFile(uintptr(fd), "epoll")
	if ep.raw, err = ep.file.SyscallConn(); err != nil {
		ep.file.Close()
		return err
	}
	ep.poll = func(uintptr) bool {
		ep.n = epollWait(ep, ep.events)
		return ep.n > 0
	}
	return nil
}

func (ep *epoll) close() { ep.file.Close() }

// wait waits for events; ok is false after close.
func (ep *epoll) wait(into []event) (n int, ok bool) {
	if len(ep.events) != len(into) {
		ep.events = make([]epollEvent, len(into))
	}
	if ep.raw.Read(ep.poll) != nil {
		return 0, false
	}
	for i, e := range ep.events[:ep.n] {
		into[i] = event{uint32(e.Fd), uint32(e.Pad)}
	}
	return ep.n, true
}

// realEpollWait returns the available events, without waiting. It may return none although
// there are some, while the runtime polls the epoll instance on another processor. No
// event is missed, because the runtime then reports that the instance is ready.
func realEpollWait(ep *epoll, events []epollEvent) int {
	for {
		n, err := unix.EpollWait(ep.fd, events, 0)
		if err == nil {
			return n
		}
		if err != unix.EINTR {
			return 0
		}
	}
}

// realEpollSet watches fd for one event, which is reported as e.
func realEpollSet(ep *epoll, fd uintptr, first bool, want uint32, e event) syscall.Errno {
	// After its event, the connection is not watched until it is parked again. So late
	// events cost nothing, and events cannot repeat.
	ev := unix.EpollEvent{Events: want | unix.EPOLLONESHOT, Fd: int32(e.slot), Pad: int32(e.gen)}
	op := unix.EPOLL_CTL_MOD
	if first {
		op = unix.EPOLL_CTL_ADD
	}
	err := unix.EpollCtl(ep.fd, op, int(fd), &ev)
	errno, _ := err.(syscall.Errno)
	return errno
}

func realEpollDel(ep *epoll, fd uintptr) {
	unix.EpollCtl(ep.fd, unix.EPOLL_CTL_DEL, int(fd), nil)
}
