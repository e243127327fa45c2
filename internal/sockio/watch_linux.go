package sockio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Unacked returns how many bytes of output the peer's kernel has not acknowledged.
// On a TCP socket whose own side was shut down, the FIN counts as one more byte
// until it is acknowledged. On a unix socket it is the memory of what the peer has
// not read, which is more than its bytes. ok is false if it cannot be told.
func Unacked(fd uintptr) (n int, ok bool) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n, err == nil
}

// Broken reports whether the connection of the socket fd has failed, by a reset
// for example, and why. It takes no byte and, unlike a read, sees past bytes that
// were not read yet. The end of the peer's side alone is no failure.
func Broken(fd uintptr) (why syscall.Errno, broken bool) {
	p := [1]unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are reported unasked
	for {
		_, err := unix.Poll(p[:], 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, false
		}
		break
	}
	switch {
	case p[0].Revents&unix.POLLERR != 0:
	case p[0].Revents&unix.POLLHUP != 0 && WasReset(fd):
	default:
		return 0, false
	}
	code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	why = syscall.Errno(code)
	if err != nil || code == 0 || why == syscall.EPIPE { // EPIPE: a reset after the FIN
		why = syscall.ECONNRESET
	}
	return why, true
}
