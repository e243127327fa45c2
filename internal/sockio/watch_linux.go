package sockio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const acknowledges = true

// Unacked returns the number of bytes of output that the peer's kernel has not
// acknowledged. On a TCP socket whose own side was shut down, the FIN counts as one more
// byte until it is acknowledged. On a unix socket it returns the memory that the unread
// bytes occupy, which is more than their number. ok is false if the number is unknown.
func Unacked(fd uintptr) (n int, ok bool) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n, err == nil
}

// Cost returns the result of Unacked if exactly n bytes are left, which were written to
// the socket fd in the given number of writes of about the same size. For a unix socket it
// measures the cost of such a write on a new pair of sockets.
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

// HasEnded reports whether the peer of the socket fd has ended its side, even if there are
// unread bytes before that end.
func HasEnded(fd uintptr) bool {
	return poll(fd, unix.POLLRDHUP)&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// poll returns the state of fd, without waiting.
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

// Broken reports whether the connection of the socket fd has failed, for example by a
// reset, and why. It reads no bytes and, unlike a read, finds a failure after unread bytes.
// The end of the peer's side alone is not a failure. shut means that the socket's own side
// was shut down; then the end of both sides is not a failure either.
func Broken(fd uintptr, shut bool) (why syscall.Errno, broken bool) {
	switch state := poll(fd, 0); { // poll always reports errors and hang-ups
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
