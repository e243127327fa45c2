//go:build !linux

package sockio

import "syscall"

// Raw is false: on this platform, connections are read and written through net.Conn.
const Raw = false

// ReadFD is not called on this platform.
func ReadFD(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// WriteFD is not called on this platform.
func WriteFD(uintptr, [][]byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// WasReset is not called on this platform.
func WasReset(uintptr) bool { return false }

// Quiet is not called on this platform.
func Quiet(fd uintptr) bool { return true }
