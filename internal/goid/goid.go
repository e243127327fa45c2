// Package goid tells goroutines apart.
package goid

// An ID identifies a goroutine while it lives. IDs of goroutines that have ended
// may come again, so whoever keeps one must know that its goroutine is alive.
type ID uintptr
