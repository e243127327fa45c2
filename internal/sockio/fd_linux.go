package sockio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Raw reports whether ReadFD and WriteFD exist on this platform.
const Raw = true

// The calls below bypass the scheduler: a call that does not block returns within
// microseconds, and notifying the scheduler before and after it costs a tenth of an echo
// (measured). They must never block, because no garbage collection can run meanwhile.
// Therefore they use MSG_DONTWAIT and do not rely on O_NONBLOCK, which all processes that
// inherited the socket share, and which any of them may clear. They cost as much as read
// and write. (On 386 they need Linux 4.3.)

// ReadFD reads from the socket fd and never waits. n == 0 without an error is the end of
// the stream. EAGAIN means that there is no input.
func ReadFD(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	for {
		r, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		if e == 0 {
			received()
			return int(r), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

// sendFlags makes a write to a connection that the peer has reset fail with EPIPE, without
// SIGPIPE.
const sendFlags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL

// WriteFD writes the views to the socket fd in one system call, without waiting. It
// returns the number of bytes that the kernel accepted. EAGAIN means that it accepted none.
func WriteFD(fd uintptr, views [][]byte) (n int, errno syscall.Errno) {
	sending()
	if len(views) == 1 {
		return write(fd, views[0])
	}
	var vec [MaxViews]unix.Iovec
	for i, v := range views {
		vec[i].Base = unsafe.SliceData(v)
		vec[i].SetLen(len(v))
	}
	msg := unix.Msghdr{Iov: &vec[0]}
	msg.SetIovlen(len(views))
	for {
		r, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&msg)), sendFlags)
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
		r, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), sendFlags, 0, 0)
		if e == 0 {
			return int(r), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

// Quiet reports whether there is nothing to read from the socket fd: no byte, no end
// of the stream, no error.
func Quiet(fd uintptr) bool {
	var b [1]byte
	_, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return e == syscall.EAGAIN || e == syscall.EINTR || e == syscall.ENOSYS // 386 before Linux 4.3
}

// tcpClose is the state of a TCP socket whose connection has ended (TCP_CLOSE of the
// kernel).
const tcpClose = 7

// WasReset reports whether the end of the stream that ReadFD returned for fd is due to a
// reset. The socket's own side must not have been shut down. The kernel reports a reset
// only once: if a write has already returned it, a read returns the end of the stream,
// although the peer sent none. After a real end of the stream, the socket is not in the
// state tcpClose.
func WasReset(fd uintptr) bool {
	info, err := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_INFO)
	return err == nil && info&0xff == tcpClose // the state is the first byte
}
