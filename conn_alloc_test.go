//go:build !race

package eventloop_test

import (
	"io"
	"math/bits"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// An object takes as much memory as the next size that the runtime has. Idle connections
// are many: a field that needs the next size had better be where only few have it.
func TestConnectionsFitTheirSizeClasses(t *testing.T) {
	if bits.UintSize == 64 && (eventloop.ConnSize > 320 || eventloop.HTTPConnSize > 480) {
		t.Errorf("a Conn has %d bytes, one of an HTTP server %d; want at most 320 and 480", eventloop.ConnSize, eventloop.HTTPConnSize)
	}
}

func TestEchoOfEveryKindOfConnectionAllocatesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t testing.TB, l *eventloop.Loop, cfg *eventloop.ConnConfig) (*eventloop.Conn, *net.TCPConn)
		conf eventloop.ConnConfig
	}{
		{"accepted", accept, eventloop.ConnConfig{}},
		{"adopted", adopt, eventloop.ConnConfig{}},
		{"with OnDrain and timeouts", accept, eventloop.ConnConfig{
			OnDrain:     func(*eventloop.Conn) {},
			ReadTimeout: time.Hour, WriteTimeout: time.Hour,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			conf := tt.conf
			conf.OnData = func(c *eventloop.Conn, data []byte) { c.Write(data) }
			_, peer := tt.make(t, l, &conf)
			buf := make([]byte, 64)
			echoes := func(n int) {
				for range n {
					peer.Write(buf)
					io.ReadFull(peer, buf)
				}
			}
			echoes(1000)
			// The pools are emptied now and then by the garbage collector, and other
			// goroutines of the process allocate: a few are no echo's.
			const n = 5000
			best := uint64(n)
			for range 3 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				echoes(n)
				runtime.ReadMemStats(&after)
				best = min(best, after.Mallocs-before.Mallocs)
			}
			if best > n/50 {
				t.Errorf("%d allocations in %d echoes, want none", best, n)
			}
			peer.Close()
		})
	}
}
