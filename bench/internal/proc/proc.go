// Package proc reads what a process costs: CPU time and resident memory; and
// how many descriptors a process may open.
package proc

import "time"

// A Usage is what a process has used up to a moment.
type Usage struct {
	CPU time.Duration
	RSS int64 // bytes resident now; 0 if not known
}

// Sum returns the usage of several processes together.
func Sum(pids []int) Usage {
	var sum Usage
	for _, pid := range pids {
		u := Of(pid)
		sum.CPU += u.CPU
		sum.RSS += u.RSS
	}
	return sum
}

// reserve is how many descriptors a server or client needs beside connections:
// standard streams, the listener, the poller, a profile, and those that runtimes
// such as Node's keep.
const reserve = 500

// Room returns how many connections one process may hold under a limit of
// descriptors: all but a reserve, rounded down to a thousand.
func Room(limit uint64) int {
	if limit <= reserve {
		return 0
	}
	room := int(min(limit-reserve, 1<<20))
	if room < 1000 {
		return room
	}
	return room / 1000 * 1000
}

// Processes returns how many processes are needed to hold n connections with a
// limit of descriptors each.
func Processes(n int, limit uint64) int {
	room := Room(limit)
	if room == 0 {
		return 0
	}
	return (n + room - 1) / room
}
