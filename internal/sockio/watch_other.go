//go:build !linux

package sockio

import "syscall"

// Unacked cannot tell on this platform.
func Unacked(uintptr) (int, bool) { return 0, false }

// Broken is not called on this platform.
func Broken(uintptr) (syscall.Errno, bool) { return 0, false }
