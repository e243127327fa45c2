//go:build unix

package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"golang.org/x/sys/unix"
)

func TestListenerSurvivesRunningOutOfDescriptors(t *testing.T) {
	if os.Getenv("EVENTLOOP_EMFILE") != "" {
		runOutOfDescriptors()
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchdogTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "EVENTLOOP_EMFILE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "emfile: true, echoed: true") {
		t.Errorf("child: %v\n%s", err, out)
	}
}

// runOutOfDescriptors is the child of the test above. It must not use more
// descriptors than it has to.
func runOutOfDescriptors() {
	const limit = 40
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		panic(err)
	}
	emfile, echoed := false, false
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var ln *eventloop.Listener
		var peers []net.Conn
		lc := &eventloop.ListenConfig{OnAcceptError: func(_ *eventloop.Listener, err error) {
			if errors.Is(err, syscall.EMFILE) && !emfile {
				emfile = true
				for _, nc := range peers[1:] {
					nc.Close() // gives room for what waits
				}
				go func() {
					peers[0].SetDeadline(time.Now().Add(watchdogTime))
					io.WriteString(peers[0], "x")
					_, err := io.ReadFull(peers[0], make([]byte, 1))
					l.Post(func() { echoed = err == nil; peers[0].Close(); ln.Close() })
				}()
			}
		}}
		var err error
		if ln, err = lc.Listen(l, "tcp", "127.0.0.1:0", echo()); err != nil {
			return err
		}
		// The first of these is accepted last: the dispatcher is busy here, and the
		// acceptor is paused.
		ln.Pause()
		for {
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				break
			}
			peers = append(peers, nc)
		}
		peers[0], peers[len(peers)-1] = peers[len(peers)-1], peers[0]
		peers[1].Close() // room for one to be accepted
		peers = append(peers[:1], peers[2:]...)
		ln.Resume()
		return nil
	})
	fmt.Printf("emfile: %v, echoed: %v, Run: %v\n", emfile, echoed, err)
}
