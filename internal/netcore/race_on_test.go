//go:build race

package netcore

// raceEnabled says that sync.Pool drops some items, on purpose.
const raceEnabled = true
