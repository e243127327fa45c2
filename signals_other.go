//go:build !unix

package eventloop

import "syscall"

// This system has no SIGSTOP, and Signal(-1) is not a signal either.
const sigStop = syscall.Signal(-1)
