package sockio

import "syscall"

// ReadWait reads from the socket of rc once there is something to read, or until
// its read deadline. It waits in the poller and so, unlike Read of package net,
// obeys the deadline and Close even if another process has made the socket
// blocking.
func ReadWait(rc syscall.RawConn, p []byte) (n int, err error) {
	var errno syscall.Errno
	err = rc.Read(func(fd uintptr) bool {
		n, errno = ReadFD(fd, p)
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return n, err
}
