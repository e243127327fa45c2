//go:build !linux

package sockio

import "syscall"

// HasEnded is not called on this platform.
func HasEnded(uintptr) bool { return false }

// Broken is not called on this platform.
func Broken(uintptr, bool) (syscall.Errno, bool) { return 0, false }
