// Package pipelistener is a listener whose connections are pipes, for servers in tests
// with virtual time. The root package shares it with modules below it.
package pipelistener

import (
	"net"
	"sync"
)

// A Listener gives a server the connections that Dial makes. Create one with New.
type Listener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// New returns a listener with no connections.
func New() *Listener {
	return &Listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial returns the client's end of a new connection when the server has accepted it.
func (ln *Listener) Dial() net.Conn {
	client, server := net.Pipe()
	ln.conns <- server
	return client
}

// Accept is that of [net.Listener].
func (ln *Listener) Accept() (net.Conn, error) {
	select {
	case nc := <-ln.conns:
		return nc, nil
	case <-ln.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and may be called again.
func (ln *Listener) Close() error {
	ln.once.Do(func() { close(ln.done) })
	return nil
}

func (ln *Listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "pipe" }
