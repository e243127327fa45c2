package eventloop_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onloop/eventloop"
)

// segments returns how many segments with data a connection has sent: with
// TCP_NODELAY, one for each system call.
func segments(t testing.TB, c *eventloop.Conn) uint32 {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	rc.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		t.Fatal(err)
	}
	return info.Data_segs_out
}

// noBacklog lets no connection wait at the listening socket fd.
func noBacklog(fd uintptr) error { return unix.Listen(int(fd), 0) }
