//go:build !windows

package eventloop

import "syscall"

// portable returns the number of the error errno in package syscall.
func portable(errno syscall.Errno) syscall.Errno { return errno }
