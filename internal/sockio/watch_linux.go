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

// Cost returns what Unacked reports of n bytes that were handed to the socket fd in
// the given number of writes of about the same size, and that are all that is left. On
// a unix socket that is known from another one.
func Cost(fd uintptr, n, writes int) int {
	if domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return n
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	unix.Write(pair[0], make([]byte, (n+writes-1)/writes))
	cost, _ := Unacked(uintptr(pair[0]))
	return cost * writes
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
