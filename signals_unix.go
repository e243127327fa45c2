//go:build unix

package eventloop

import "syscall"

const sigStop = syscall.SIGSTOP
