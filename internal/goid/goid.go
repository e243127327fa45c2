// Package goid identifies goroutines.
package goid

// An ID identifies a goroutine while it lives. The IDs of goroutines that have
// ended may be reused, so an ID is meaningful only while its goroutine is known to
// live.
type ID uintptr
