//go:build !windows

package eventloop

import "syscall"

// portable returns the number that package syscall has for the error errno.
func portable(errno syscall.Errno) syscall.Errno { return errno }
