//go:build unix && !linux

package eventloop_test

import (
	"os"
	"syscall"
	"testing"
)

// kill sends sig to this process. If nothing watches the signal, its default action
// ends the process.
func kill(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Error(err) // not Fatal: other goroutines call this, too
	}
}
