package redistest

import "syscall"

// endWithParent ends a server with this process, also after a panic or a SIGKILL. Linux
// sends the signal when the thread that started the server ends. Threads of the Go runtime
// end with the process, except those that LockOSThread has given to a goroutine for good.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
