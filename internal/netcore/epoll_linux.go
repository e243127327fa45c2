package netcore

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// An epoll is an epoll instance that a goroutine waits for as for a socket.
type epoll struct {
	fd     int
	file   *os.File
	raw    syscall.RawConn
	events []epollEvent
	n      int
	look   func(fd uintptr) bool
}

type epollEvent = unix.EpollEvent

// What may be waited for; a failure is reported in any case.
const (
	wantInput uint32 = unix.EPOLLIN
	wantEnd   uint32 = unix.EPOLLRDHUP
)

func (ep *epoll) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	// Package os has its descriptors watched by the runtime if they do not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	ep.fd, ep.file = fd, os.NewFile(uintptr(fd), "epoll")
	if ep.raw, err = ep.file.SyscallConn(); err != nil {
		ep.file.Close()
		return err
	}
	ep.look = func(uintptr) bool {
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
	if ep.raw.Read(ep.look) != nil {
		return 0, false
	}
	for i, e := range ep.events[:ep.n] {
		into[i] = event{uint32(e.Fd), uint32(e.Pad)}
	}
	return ep.n, true
}

// realEpollWait takes what there is, without waiting. It may find nothing although there
// is something: while the runtime looks at the epoll instance, from another processor.
// That is no event missed, because the runtime reports then what it has found.
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

// realEpollSet has fd watched for one event, which is then known as e.
func realEpollSet(ep *epoll, fd uintptr, first bool, want uint32, e event) syscall.Errno {
	// A parked connection that has had its event is watched no longer until it is
	// parked again, so a late event costs nothing, and events cannot repeat.
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
