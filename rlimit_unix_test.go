//go:build unix

package eventloop_test

import "golang.org/x/sys/unix"

// limitDescriptors lets the process have n descriptors.
func limitDescriptors(n uint64) error {
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n})
}
