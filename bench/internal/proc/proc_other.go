//go:build !linux

package proc

// Of knows nothing on this system.
func Of(int) Usage { return Usage{} }

// Limit returns what every system grants.
func Limit() uint64 { return 1024 }

// Processors returns none: processes cannot be bound to them here.
func Processors() []int { return nil }

// On calls start.
func On(_ int, start func() error) error { return start() }
