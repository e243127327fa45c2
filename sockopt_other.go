//go:build !unix

package eventloop

import (
	"net"
	"syscall"
)

func setBacklog(net.Listener, int) error { return nil }

func reusePort(syscall.RawConn) error { return errUnsupported }
