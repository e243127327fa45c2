//go:build !unix

package eventloop

import "syscall"

// sigStop is no signal of this system; Signal(-1) is none either.
const sigStop = syscall.Signal(-1)
