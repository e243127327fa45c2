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

// listenUnix listens on a unix socket. It replaces a socket file that nobody
// serves any more.
//
// The kernel has no way to do that in one step, and of two servers that both find
// a file stale the second might remove what the first has made of it. So all of it
// is done with a lock on the directory, which excludes other processes and other
// loops of this one, and leaves no file behind. Where there is no lock to be had, a
// stale file is left alone.
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

// isAbstract reports whether a unix address is none of the file system.
func isAbstract(path string) bool { return path == "" || path[0] == '@' || path[0] == 0 }

// removeStale removes a socket file that nobody listens on or is about to.
func removeStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	// In this order: what is bound here listens by the time of the dial, or is
	// found to be bound.
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

// socketFile returns what identifies the file of a unix listener, or nil.
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

// sameSocket reports whether a and b are one file. The number of an inode may be
// used again at once, so the time counts, too; using a socket does not change it.
func sameSocket(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}
