package netcore

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// A child process that has inherited the descriptor keeps the socket in the epoll
// instance unless it is taken out.
func TestADescriptorWithADuplicateIsNotWatchedOnceItIsClosed(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newIdler(t, nc, true)
	f, err := nc.(*net.TCPConn).File() // a duplicate
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c.Start()
	c.awaitPark(t)
	watched := func() int {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", c.poller.ep.fd))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(info), "tfd:")
	}
	if n := watched(); n != 1 {
		t.Errorf("%d descriptors are watched, want 1", n)
	}
	c.end(t)
	io.WriteString(peer, "hello")
	if n := watched(); n != 0 {
		t.Errorf("%d descriptors are watched, want none", n)
	}
}
