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

// blackHole returns an address that does not answer, until open is called.
func blackHole(t testing.TB) (addr string, open func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	var fill []net.Conn
	for {
		nc, err := net.DialTimeout("tcp", ln.Addr().String(), 100*time.Millisecond)
		if err != nil {
			break // the queue is full: the kernel drops what comes
		}
		fill = append(fill, nc)
	}
	t.Cleanup(func() {
		ln.Close()
		for _, nc := range fill {
			nc.Close()
		}
	})
	return ln.Addr().String(), func() {
		for range fill {
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
