package netcore

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// The end of a connection waits for the peer to take what the user has sent, and not for
// it to read what TLS says itself. Unread bytes of a unix socket are those that are not
// acknowledged.
func TestFinishWaitsForTheOutputOfTheUserOnly(t *testing.T) {
	if _, ok := probeOf(t); !ok {
		t.Skip("this system does not tell what was acknowledged")
	}
	for _, k := range parkable() {
		for _, secured := range []bool{false, true} {
			for _, output := range []string{"", "read", "unread"} {
				for _, ends := range []bool{false, true} { // the peer ends its side first
					name := fmt.Sprintf("%s, TLS %t, output %q, peer ends %t", k.name, secured, output, ends)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						finishOfTLS(t, k, secured, output, ends)
					})
				}
			}
		}
	}
}

func probeOf(t *testing.T) (int, bool) {
	nc, _ := tcpPair(t)
	c := newConn(t, nc, true)
	return c.probe()
}

func finishOfTLS(t *testing.T, k kind, secured bool, output string, ends bool) {
	nc, peer := k.pair(t)
	c := newConn(t, nc, k.ours)
	if !secured {
		c.Open()
	} else {
		tc := tls.Client(peer, clientTLS())
		shaken := make(chan error, 1)
		go func() { shaken <- tc.Handshake() }()
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		peer = tc
	}
	c.order(func() { c.SetStall(10 * watchdog) })
	if output != "" {
		c.write("the last words")
	}
	if output == "read" {
		if _, err := io.ReadFull(peer, make([]byte, 14)); err != nil {
			t.Fatal(err)
		}
	}
	if ends {
		peer.(closeWriter).CloseWrite()
	}
	finished := make(chan int64, 1)
	beside(t, func() { finished <- c.finish(false) })
	if k.name == "unix" && output == "unread" {
		until(t, "it waits", func() bool { c.Lock(); defer c.Unlock(); return c.stream == streamEnded || c.shut })
		select {
		case <-finished:
			t.Error("it does not wait for the peer to read")
		case <-time.After(2 * Linger):
		}
		if got, err := io.ReadAll(peer); string(got) != "the last words" || err != nil {
			t.Errorf("the peer read %q, %v", got, err)
		}
	}
	select {
	case lost := <-finished:
		if lost != 0 {
			t.Errorf("lost %d bytes", lost)
		}
	case <-time.After(watchdog):
		t.Errorf("it waits for more than the user's output; the kernel has %d bytes", c.Unacked())
		peer.Close()
		<-finished
	}
}

// The alert of a failed handshake need not be read.
func TestFinishAfterAFailedHandshakeWaitsForNoReader(t *testing.T) {
	for _, k := range parkable() {
		for _, before := range []bool{false, true} { // output in the clear, which is read
			t.Run(fmt.Sprintf("%s, output before %t", k.name, before), func(t *testing.T) {
				t.Parallel()
				nc, peer := k.pair(t)
				c := newConn(t, nc, k.ours)
				if before {
					c.Open()
					c.write("STARTTLS")
					io.ReadFull(peer, make([]byte, 8))
				}
				c.order(func() { c.SetStall(10 * watchdog) })
				io.WriteString(peer, "this is not TLS")
				if err := c.secure(context.Background(), serverTLS(), false, ""); err == nil {
					t.Error("the handshake succeeds")
				}
				finished := make(chan int64, 1)
				beside(t, func() { finished <- c.finish(false) })
				select {
				case lost := <-finished:
					if lost != 0 {
						t.Errorf("lost %d bytes", lost)
					}
				case <-time.After(watchdog):
					t.Error("it waits for the peer to read an alert")
					peer.Close()
				}
			})
		}
	}
}

// What Unacked reports of unread writes is what Cost predicts.
func TestCostIsWhatUnreadWritesAre(t *testing.T) {
	for _, k := range parkable() {
		for _, size := range []int{1, 24, 31, 32, 100, 600, 5000} {
			for writes := range 4 {
				nc, _ := k.pair(t)
				c := newConn(t, nc, k.ours)
				for range writes {
					nc.Write(make([]byte, size))
				}
				if writes == 0 || k.name != "unix" || !sockio.Raw {
					continue // the peer's kernel has them
				}
				c.control(func(fd uintptr) {
					if got, want := sockio.Cost(fd, size*writes, writes), c.Unacked(); got != want {
						t.Errorf("%d writes of %d bytes: Cost = %d, Unacked = %d", writes, size, got, want)
					}
				})
			}
		}
	}
}
