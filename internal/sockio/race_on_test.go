//go:build race

package sockio

// raceEnabled says that sync.Pool drops some items, on purpose.
const raceEnabled = true
