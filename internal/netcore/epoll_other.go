//go:build !linux

package netcore

import (
	"errors"
	"syscall"
)

// On this system there is no epoll.
type epoll struct{}

type epollEvent struct{}

const wantInput, wantEnd uint32 = 0, 0

func (ep *epoll) close()                        {}
func (ep *epoll) wait([]event) (n int, ok bool) { return 0, false }

// The system calls do not exist on this system.

func realEpollOpen(*epoll) error             { return errors.ErrUnsupported }
func realEpollWait(*epoll, []epollEvent) int { return 0 }
func realEpollDel(*epoll, uintptr)           {}
func realEpollSet(*epoll, uintptr, bool, uint32, event) syscall.Errno {
	return syscall.ENOSYS
}
