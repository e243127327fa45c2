package eventloop

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// listenUnix listens on a unix socket. It replaces a socket file that is no longer
// served.
//
// The kernel cannot do that in one step. If two servers find the same file stale, the
// second might remove the new file of the first. Therefore listenUnix does all of it
// with a lock on the directory. The lock excludes other processes and other loops of
// this process, and leaves no file behind. If the directory cannot be locked, a stale
// file stays.
func listenUnix(nlc *net.ListenConfig, path string) (net.Listener, error) {
	listen := func() (net.Listener, error) { return nlc.Listen(context.Background(), "unix", path) }
	if isAbstract(path) {
		return listen()
	}
	unlock, locked := lockDir(filepath.Dir(path))
	defer unlock()
	ln, err := listen()
	if locked && errors.Is(err, syscall.EADDRINUSE) && removeStale(path) {
		ln, err = listen()
	}
	return ln, err
}

// isAbstract reports whether a unix address has no file.
func isAbstract(path string) bool { return path == "" || path[0] == '@' || path[0] == 0 }

// removeStale removes a socket file that has no listener and is not about to get one.
func removeStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	// The order matters: a socket that is bound now either listens by the time of the
	// dial, or isBound finds it.
	if isBound(path) {
		return false
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		nc.Close()
		return false
	}
	return isRefused(err) && os.Remove(path) == nil
}

// socketFile returns the identity of the file of a unix listener, or nil.
func socketFile(ln net.Listener) os.FileInfo {
	u, ok := ln.(*net.UnixListener)
	if !ok {
		return nil
	}
	a, ok := u.Addr().(*net.UnixAddr)
	if !ok || isAbstract(a.Name) {
		return nil
	}
	info, err := os.Lstat(a.Name)
	if err != nil {
		return nil
	}
	return info
}

// sameSocket reports whether a and b are the same file. The system may reuse an inode
// number immediately, so sameSocket also compares the modification times, which do not
// change when a socket is used.
func sameSocket(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}
