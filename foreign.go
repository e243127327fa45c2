package eventloop

import (
	"crypto/tls"
	"net"
	"reflect"
)

// Foreign code is that of a net.Conn or a net.Listener that is not of package net.
// Any of its methods may wait, so none is called on the dispatcher but the setters
// of deadlines, which have to take effect at once.

// isForeign reports whether nc, or what is below TLS, is foreign.
func isForeign(nc net.Conn) bool {
	switch c := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return false
	case *tls.Conn:
		return isForeign(c.NetConn())
	case *prefixConn:
		return isForeign(c.Conn)
	}
	return reflect.TypeOf(nc) != pipeType
}

// addrName returns an address with its network; nothing if a foreign listener or
// connection has none.
func addrName(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.Network() + " " + a.String()
}
