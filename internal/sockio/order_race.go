//go:build race && linux

package sockio

import "syscall"

// The race detector knows that what was written to a connection happened before it is
// read, because package syscall says so in Read and Write. The calls of this package
// bypass those, so they say it with a read and a write of no bytes.

var null, _ = syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)

// received says that something was read.
func received() {
	syscall.Read(null, nil)
}

// sending says that something is about to be written.
func sending() {
	syscall.Write(null, nil)
}
