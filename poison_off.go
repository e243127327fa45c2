//go:build !race

package eventloop

// poison is for tests with the race detector.
func poison([]byte) {}
