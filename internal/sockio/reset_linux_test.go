package sockio

import (
	"net"
	"syscall"
	"testing"
)

// ended returns a connection whose peer did what leave does.
func ended(t *testing.T, leave func(c *net.TCPConn)) syscall.RawConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	leave(peer.(*net.TCPConn))
	rc, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

// readEnd waits for the end of the stream and reports whether it was a reset.
func readEnd(t *testing.T, rc syscall.RawConn) (reset bool) {
	t.Helper()
	err := rc.Read(func(fd uintptr) bool {
		n, errno := ReadFD(fd, make([]byte, 1))
		if errno == syscall.EAGAIN {
			return false
		}
		if n != 0 || errno != 0 {
			t.Errorf("read %d bytes, %v; want the end of the stream", n, errno)
		}
		reset = WasReset(fd)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return reset
}

func TestAnEndByThePeerIsNoReset(t *testing.T) {
	rc := ended(t, func(c *net.TCPConn) { c.Close() })
	if readEnd(t, rc) {
		t.Error("WasReset after a FIN = true")
	}
}

func TestAResetThatAWriteHasMetIsStillSeen(t *testing.T) {
	rc := ended(t, func(c *net.TCPConn) { c.SetLinger(0); c.Close() })
	met := false
	for !met {
		err := rc.Write(func(fd uintptr) bool {
			_, errno := WriteFD(fd, [][]byte{[]byte("x")})
			met = errno != 0 && errno != syscall.EAGAIN
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !readEnd(t, rc) {
		t.Error("WasReset after a reset = false")
	}
}
