//go:build !linux && !darwin

package sockio

const acknowledges = false

// Unacked returns no number on this platform.
func Unacked(uintptr) (int, bool) { return 0, false }

// Cost returns the result of Unacked if exactly n bytes are left.
func Cost(_ uintptr, n, _ int) int { return n }
