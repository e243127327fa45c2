package sockio

import "golang.org/x/sys/unix"

const acknowledges = true

// Unacked returns the number of bytes in the socket's output buffer. On a TCP socket these
// are the bytes that the peer's kernel has not acknowledged, without the FIN. On a unix
// socket these are the bytes that the peer has not read. ok is false if the number is
// unknown.
func Unacked(fd uintptr) (n int, ok bool) {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NWRITE)
	return n, err == nil
}

// Cost returns the result of Unacked if exactly n bytes are left.
func Cost(_ uintptr, n, _ int) int { return n }
