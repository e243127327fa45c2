//go:build !unix

package eventloop

import (
	"net"
	"syscall"
)

func setBacklog(net.Listener, int) error { return nil }

func reusePort(syscall.RawConn) error { return errUnsupported }

func setNonblock(net.Listener) {}

// duplicate returns a listener on a duplicate of the descriptor of ln.
func duplicate(ln net.Listener) (net.Listener, error) {
	f, ok := ln.(filer)
	if !ok {
		return nil, errUnsupported
	}
	file, err := f.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileListener(file)
}
