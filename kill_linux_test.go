package eventloop_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"
)

// kill sends sig to this process, and returns when it has been delivered: to a handler,
// if there is one, else the default action of the signal ends the process.
//
// The signal is for the calling thread. One for the process is often for another thread,
// which a busy machine lets run later. The handler may be gone by then.
func kill(t testing.TB, sig syscall.Signal) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Tgkill(os.Getpid(), syscall.Gettid(), sig); err != nil {
		t.Error(err) // not Fatal: other goroutines call this, too
	}
}
