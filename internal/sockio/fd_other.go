//go:build !linux

package sockio

import (
	"net"
	"syscall"
)

// Raw is false: connections are read and written through net.Conn here.
const Raw = false

// Descriptor finds nothing on this platform.
func Descriptor(net.Conn) (syscall.RawConn, bool) { return nil, false }

// ReadFD is not called on this platform.
func ReadFD(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// WriteFD is not called on this platform.
func WriteFD(uintptr, [][]byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// WasReset is not called on this platform.
func WasReset(uintptr) bool { return false }

// Quiet is not called on this platform.
func Quiet(fd uintptr) bool { return true }
