package resolver

import (
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// pipeConn is the client's end of a connection in memory, which works with virtual time.
// As a net.PacketConn it preserves message boundaries, as net.Pipe does if the buffer of
// the reader is large enough.
type pipeConn struct{ net.Conn }

func (pipeConn) ReadFrom([]byte) (int, net.Addr, error) { panic("not used") }
func (pipeConn) WriteTo([]byte, net.Addr) (int, error)  { panic("not used") }

var _ net.PacketConn = pipeConn{}

// packetPipe returns a connection to a server that sends packets to it.
func packetPipe(t testing.TB, h handler) net.Conn {
	client, srv := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer srv.Close()
		buf := make([]byte, 4096)
		for {
			n, err := srv.Read(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) == nil {
				h(peer{network: "udp", query: q, write: func(p []byte) { srv.Write(p) }})
			}
		}
	})
	if t != nil {
		t.Cleanup(func() { srv.Close(); wg.Wait() })
	}
	return pipeConn{client}
}

// streamPipe returns a connection to a server that serve implements.
func streamPipe(t testing.TB, serve func(c net.Conn)) net.Conn {
	client, srv := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer srv.Close()
		serve(srv)
	})
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	return client
}
