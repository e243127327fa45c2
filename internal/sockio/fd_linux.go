package sockio

import (
	"net"
	"syscall"
	"unsafe"
)

// Raw reports whether connections have a descriptor that ReadFD and WriteFD can
// use on this platform.
const Raw = true

// Descriptor returns access to the descriptor of nc if nc is a stream socket of
// package net itself. Anything else, a wrapper above all, may have a meaning of
// its own for Read and Write and has to be asked.
func Descriptor(nc net.Conn) (syscall.RawConn, bool) {
	switch c := nc.(type) {
	case *net.TCPConn:
		rc, err := c.SyscallConn()
		return rc, err == nil
	case *net.UnixConn:
		if a := c.LocalAddr(); a == nil || a.Network() != "unix" {
			return nil, false // datagrams have boundaries, and empty ones are no EOF
		}
		rc, err := c.SyscallConn()
		return rc, err == nil
	}
	return nil, false
}

// The calls below go past the scheduler: on a socket that does not block they
// return within microseconds, and telling the scheduler before and after costs a
// tenth of an echo (measured).

// ReadFD reads from the socket fd, which must not block. n == 0 without an error
// is the end of the stream; EAGAIN says that nothing is there.
func ReadFD(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	for {
		r, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if e == 0 {
			return int(r), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

// WriteFD writes the views to the socket fd, which must not block, in one system
// call and returns how much the kernel took; EAGAIN says that it took nothing.
func WriteFD(fd uintptr, views [][]byte) (n int, errno syscall.Errno) {
	if len(views) == 1 {
		return write(fd, views[0])
	}
	var vec [MaxViews]syscall.Iovec
	for i, v := range views {
		vec[i].Base = unsafe.SliceData(v)
		vec[i].SetLen(len(v))
	}
	for {
		r, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vec)), uintptr(len(views)))
		if e == 0 {
			return int(r), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

func write(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	for {
		r, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if e == 0 {
			return int(r), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}
