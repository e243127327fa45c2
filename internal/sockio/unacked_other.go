//go:build !linux && !darwin

package sockio

const acknowledges = false

// Unacked cannot tell on this platform.
func Unacked(uintptr) (int, bool) { return 0, false }

// Cost returns what Unacked reports of n bytes that are all that is left.
func Cost(_ uintptr, n, _ int) int { return n }
