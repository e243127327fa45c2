package child

import "syscall"

// endWithParent ends a process with the one that starts it. Linux sends the signal when the
// thread that started the process ends. Threads of the Go runtime end with the process,
// except those that LockOSThread has given to a goroutine for good.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
