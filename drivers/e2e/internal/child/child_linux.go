package child

import "syscall"

// endWithParent ends a child process with this one, however this one ends.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
