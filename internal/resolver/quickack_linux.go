package resolver

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck makes the kernel acknowledge the next segment at once. Servers that
// leave Nagle's algorithm on, such as dnsmasq, hold back the second of two replies
// until the first is acknowledged, which otherwise takes 40 ms. The kernel drops
// this setting when it sends, so quickAck is called after each query.
func quickAck(raw syscall.RawConn) {
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}
