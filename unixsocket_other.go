//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package eventloop

import "sync"

var dirMutex sync.Mutex

// lockDir excludes other loops of this process. On this system directories cannot be
// locked.
func lockDir(dir string) (unlock func(), ok bool) {
	dirMutex.Lock()
	return dirMutex.Unlock, true
}
