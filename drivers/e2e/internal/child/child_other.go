//go:build !linux

package child

import "syscall"

// endWithParent does nothing: only Linux ends a child process with its parent.
func endWithParent() *syscall.SysProcAttr { return nil }
