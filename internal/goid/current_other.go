//go:build !386 && !amd64 && !arm && !arm64

package goid

// Current returns the ID of the calling goroutine: its number.
func Current() ID { return number() }
