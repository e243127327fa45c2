package sockio

import (
	"net"
	"syscall"
)

// Descriptor returns access to the descriptor of nc for ReadFD and WriteFD, if the platform
// has these functions and nc is a stream socket of package net. Any other net.Conn, such
// as a wrapper, may change the meaning of Read and Write, so its methods must be called.
func Descriptor(nc net.Conn) (syscall.RawConn, bool) {
	if !Raw {
		return nil, false
	}
	return socket(nc)
}

// Probe is Descriptor for Unacked only, which also exists on macOS.
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
			return nil, false // datagrams have boundaries, and an empty one is not EOF
		}
		rc, err := c.SyscallConn()
		return rc, err == nil
	}
	return nil, false
}
