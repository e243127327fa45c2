//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package eventloop

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// lockDirWait is how long lockDir waits. The library holds the lock for less than a
// millisecond, except while it dials a socket that does not respond. But any user with
// read access to the directory may take the lock and keep it.
const lockDirWait = time.Second

// lockDir locks a directory against other calls of lockDir, in this process and in
// others, and reports whether it succeeded.
func lockDir(dir string) (unlock func(), ok bool) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}, false
	}
	for until := time.Now().Add(lockDirWait); ; time.Sleep(time.Millisecond) {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		again := errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR)
		if !again || time.Now().After(until) {
			break
		}
	}
	return func() {
		unix.Flock(fd, unix.LOCK_UN) // a child process that is being started may also have the descriptor
		unix.Close(fd)
	}, err == nil
}
