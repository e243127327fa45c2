//go:build !linux

package child

import "syscall"

// endWithParent does nothing: only Linux ends a process with the one that started it.
func endWithParent() *syscall.SysProcAttr { return nil }
