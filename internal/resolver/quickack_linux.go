package resolver

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck has the kernel acknowledge at once what comes next. Servers that leave
// Nagle's algorithm on, dnsmasq for one, hold back the second of two replies until
// the first is acknowledged, which otherwise takes 40 ms. The kernel forgets it
// when it sends, so it is asked for after each query.
func quickAck(raw syscall.RawConn) {
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}
