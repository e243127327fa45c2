//go:build !race

package eventloop

const poisons = false

// poison is for tests with the race detector.
func poison([]byte) {}
