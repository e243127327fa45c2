//go:build unix

package eventloop

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// setBacklog calls listen on the socket a second time, which changes only the backlog.
// Package net offers no other way.
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

// setNonblock makes a listener of package net wait in the poller again, instead of in
// the kernel.
func setNonblock(ln net.Listener) {
	control(ln.(syscall.Conn), func(fd int) error { return unix.SetNonblock(fd, true) })
}

// duplicate returns a listener on a duplicate of the descriptor of ln. It never calls
// Fd of an os.File that File of ln returned: Fd makes the open file description
// blocking, if only briefly, and all duplicates share it.
func duplicate(ln net.Listener) (net.Listener, error) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		f, ok := ln.(filer)
		if !ok {
			return nil, errUnsupported
		}
		file, err := f.File()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		sc = file
	}
	fd := -1
	err := control(sc, func(old int) (err error) {
		if fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		return unix.SetNonblock(fd, true) // otherwise NewFile would set it, and Fd would undo it
	})
	if fd < 0 {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	return net.FileListener(file)
}
