//go:build !linux

package eventloop

// isBound is known on Linux alone.
func isBound(path string) bool { return false }
