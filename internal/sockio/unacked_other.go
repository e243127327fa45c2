//go:build !linux && !darwin

package sockio

const acknowledges = false

// Unacked cannot tell on this platform.
func Unacked(uintptr) (int, bool) { return 0, false }
