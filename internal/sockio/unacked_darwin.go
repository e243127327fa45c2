package sockio

import "golang.org/x/sys/unix"

const acknowledges = true

// Unacked returns how many bytes are in the socket's buffer for output: on a TCP
// socket those that the peer's kernel has not acknowledged, without the FIN, and on a
// unix socket those that the peer has not read. ok is false if it cannot be told.
func Unacked(fd uintptr) (n int, ok bool) {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NWRITE)
	return n, err == nil
}

// Cost returns what Unacked reports of n bytes that are all that is left.
func Cost(_ uintptr, n, _ int) int { return n }
