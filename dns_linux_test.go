package eventloop_test

import (
	"errors"
	"net"

	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

func TestSocketOptionsReachADialByName(t *testing.T) {
	ln := acceptAndClose(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, tt := range []struct {
		cfg                eventloop.ConnConfig
		noDelay, keepAlive int
	}{
		{eventloop.ConnConfig{}, 1, 1},
		{eventloop.ConnConfig{Nagle: true, KeepAlive: net.KeepAliveConfig{Idle: -1}}, 0, 0},
	} {
		tt.cfg.OnConnect = func(c *eventloop.Conn) {
			defer c.Close()
			rc, err := c.SyscallConn()
			if err != nil {
				t.Error(err)
				return
			}
			var noDelay, keepAlive int
			rc.Control(func(fd uintptr) {
				noDelay, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
				keepAlive, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			})
			wantEqual(t, "TCP_NODELAY", noDelay, tt.noDelay)
			wantEqual(t, "SO_KEEPALIVE", keepAlive, tt.keepAlive)
		}
		tt.cfg.OnEvent = func(_ *eventloop.Conn, err error) { t.Error(err) }
		mustRun(t, namesConfig(t), func(l *eventloop.Loop) { l.Dial(bg, "tcp", "localhost:"+port, &tt.cfg) })
	}
}

// deafPort returns a port of ip to which connecting neither succeeds nor fails:
// the queue of its listener is full, and Linux drops what comes then.
func deafPort(t testing.TB, ip string) string {
	t.Helper()
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 50*time.Millisecond)
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			return port
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of a listener does not fill")
	return ""
}
