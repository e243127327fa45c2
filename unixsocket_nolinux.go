//go:build !linux

package eventloop

// isBound works only on Linux.
func isBound(path string) bool { return false }
