package sockio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const acknowledges = true

// Unacked returns how many bytes of output the peer's kernel has not acknowledged.
// On a TCP socket whose own side was shut down, the FIN counts as one more byte
// until it is acknowledged. On a unix socket it is the memory of what the peer has
// not read, which is more than its bytes. ok is false if it cannot be told.
func Unacked(fd uintptr) (n int, ok bool) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n, err == nil
}

// HasEnded reports whether the peer of the socket fd has ended its side, also where
// that is behind bytes that were not read yet.
func HasEnded(fd uintptr) bool {
	return poll(fd, unix.POLLRDHUP)&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// poll asks for the state of fd, without waiting.
func poll(fd uintptr, events int16) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		switch _, err := unix.Poll(p[:], 0); err {
		case nil:
			return p[0].Revents
		case syscall.EINTR:
		default:
			return 0
		}
	}
}

// Broken reports whether the connection of the socket fd has failed, by a reset
// for example, and why. It takes no byte and, unlike a read, sees past bytes that
// were not read yet. The end of the peer's side alone is no failure.
// With shut, that our side was shut down, the end of both is none either.
func Broken(fd uintptr, shut bool) (why syscall.Errno, broken bool) {
	switch state := poll(fd, 0); { // errors and hang-ups are reported unasked
	case state&unix.POLLERR != 0:
	case state&unix.POLLHUP != 0 && !shut && WasReset(fd):
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
