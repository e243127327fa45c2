package eventloop_test

import (
	"net"
	"syscall"
	"testing"

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

// deafPort returns the port of address, or of a free one if that is 0, to which connecting
// neither succeeds nor fails: the queue of its listener is full, and Linux drops further
// connections.
func deafPort(t testing.TB, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	fillQueue(t, ln)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}
