//go:build unix

package eventloop_test

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/onloop/eventloop"
)

// A signal handler keeps the loop alive until it is stopped.
func ExampleLoop_OnSignal() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var h *eventloop.SignalHandler
		h, err := l.OnSignal(func(sig os.Signal) {
			fmt.Println("got:", sig)
			h.Stop()
		}, syscall.SIGUSR1)
		if err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	})
	// Output: got: user defined signal 1
}
