//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package eventloop

import "sync"

var dirMutex sync.Mutex

// lockDir excludes other loops of this process. Directories cannot be locked here.
func lockDir(dir string) (unlock func(), ok bool) {
	dirMutex.Lock()
	return dirMutex.Unlock, true
}
