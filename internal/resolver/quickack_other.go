//go:build !linux

package resolver

import "syscall"

// quickAck exists on Linux only.
func quickAck(syscall.RawConn) {}
