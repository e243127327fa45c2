package sockio

import (
	"net"
	"syscall"
)

// Descriptor returns access to the descriptor of nc for ReadFD and WriteFD, if the
// platform has these and nc is a stream socket of package net itself. Anything else,
// a wrapper above all, may have a meaning of its own for Read and Write and has to be
// asked.
func Descriptor(nc net.Conn) (syscall.RawConn, bool) {
	if !Raw {
		return nil, false
	}
	return socket(nc)
}

// Probe is Descriptor for Unacked alone, which macOS has, too.
func Probe(nc net.Conn) (syscall.RawConn, bool) {
	if !acknowledges {
		return nil, false
	}
	return socket(nc)
}

func socket(nc net.Conn) (syscall.RawConn, bool) {
	switch c := nc.(type) {
	case *net.TCPConn:
		rc, err := c.SyscallConn()
		return rc, err == nil
	case *net.UnixConn:
		if a := c.LocalAddr(); a == nil || a.Network() != "unix" {
			return nil, false // datagrams have boundaries, and empty ones are no EOF
		}
		rc, err := c.SyscallConn()
		return rc, err == nil
	}
	return nil, false
}
