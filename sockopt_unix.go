//go:build unix

package eventloop

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setBacklog listens a second time on the socket, which changes nothing but the
// backlog: package net has no other way to it.
func setBacklog(ln net.Listener, n int) error {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return errUnsupported
	}
	return control(sc, func(fd int) error { return unix.Listen(fd, n) })
}

func reusePort(rc syscall.RawConn) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// control calls f with the descriptor of sc.
func control(sc syscall.Conn, f func(fd int) error) error {
	rc, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
