//go:build unix

package eventloop_test

import "syscall"

// descriptorLimit returns how many descriptors the process may have.
func descriptorLimit() int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 256
	}
	return int(min(r.Cur, 1<<20))
}
