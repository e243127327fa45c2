//go:build !unix

package eventloop_test

// descriptorLimit returns how many descriptors the process may have, more or less.
func descriptorLimit() int { return 2000 }
