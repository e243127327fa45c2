package eventloop_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"golang.org/x/sys/unix"
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

// queueOf returns how many connections the queue of a listener has, and its backlog.
func queueOf(fd uintptr) (queued, backlog uint32, err error) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, err
	}
	return info.Unacked, info.Sacked, nil
}

// A count of dials that succeed would be less exact: the kernel adds one to the backlog,
// the loop may have accepted some, and a dial of a busy machine may be late.
func TestListenerBacklog(t *testing.T) {
	for _, want := range []uint32{1, 3, 100} {
		mustRun(t, nil, func(l *eventloop.Loop) {
			var socket syscall.RawConn
			cfg := &eventloop.ListenConfig{Backlog: int(want), Control: func(_, _ string, c syscall.RawConn) error {
				socket = c
				return nil
			}}
			ln, err := cfg.Listen(l, "tcp", "127.0.0.1:0", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			var backlog uint32
			if cerr := socket.Control(func(fd uintptr) { _, backlog, err = queueOf(fd) }); cerr != nil || err != nil {
				t.Fatal(cerr, err)
			}
			wantEqual(t, "backlog", backlog, want)
		})
	}
}

// fillQueue fills the queue of a listener with the least backlog, so that the kernel
// drops what else comes, and returns how many connections are queued. That a dial
// times out would not tell: the machine may be slow.
func fillQueue(t testing.TB, ln net.Listener) (queued uint32) {
	t.Helper()
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	for err == nil {
		var backlog uint32
		rc.Control(func(fd uintptr) { queued, backlog, err = queueOf(fd) })
		if err == nil && queued > backlog {
			return queued
		}
		if nc, err := net.DialTimeout("tcp", ln.Addr().String(), 100*time.Millisecond); err == nil {
			t.Cleanup(func() { nc.Close() })
		}
	}
	t.Fatal(err)
	return 0
}

// blackHole returns an address that does not answer, until open is called.
func blackHole(t testing.TB) (addr string, open func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	queued := fillQueue(t, ln)
	return ln.Addr().String(), func() {
		for range queued {
			if nc, err := ln.Accept(); err == nil {
				nc.Close()
			}
		}
		background(t, func() {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			// Not by splicing, whose pipes package net keeps.
			io.Copy(struct{ io.Writer }{nc}, struct{ io.Reader }{nc})
			nc.Close()
		})
	}
}
