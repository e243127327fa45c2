//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package eventloop

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// lockDirWait is how long lockDir waits. The lock is held for less than a
// millisecond, unless a socket is asked that does not answer; but any user who may
// read the directory may take it, and keep it.
const lockDirWait = time.Second

// lockDir locks a directory against other calls of lockDir, of this process and
// of others, and reports whether it could.
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
		unix.Flock(fd, unix.LOCK_UN) // a child that is being started may have the descriptor, too
		unix.Close(fd)
	}, err == nil
}
