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

// A keptListener keeps what it has accepted.
type keptListener struct {
	net.Listener
	kept chan net.Conn
}

func (k *keptListener) Accept() (net.Conn, error) {
	nc, err := k.Listener.Accept()
	if err == nil {
		k.kept <- nc
	}
	return nc, err
}

func TestServeForeignListenerMayCloseItsConnections(t *testing.T) {
	// Then the number of the descriptor may be that of another file at any time:
	// nothing may be written to it by its number.
	l, _ := startLoop(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kept := &keptListener{inner, make(chan net.Conn, 1)}
	conns := make(chan *eventloop.Conn, 1)
	r, cfg := newTape(&eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { conns <- c }})
	ln, err := l.Serve(kept, cfg)
	if err != nil {
		t.Fatal(err)
	}
	peer := dialPeer(t, inner.Addr())
	c := wait(t, conns, "connection")
	c.PauseReading() // so that it does not notice
	(<-kept.kept).Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) // takes the number
	if err != nil {
		t.Fatal(err)
	}
	c.WriteString("not for you")
	r.wait(t)
	b := make([]byte, 100)
	if n, _, _ := unix.Recvfrom(pair[1], b, unix.MSG_DONTWAIT); n > 0 {
		t.Errorf("another connection received %q", b[:n])
	}
	unix.Close(pair[0])
	unix.Close(pair[1])
	peer.Close()
	ln.Close()
}

func TestListenerSurvivesRunningOutOfDescriptors(t *testing.T) {
	if os.Getenv("EVENTLOOP_EMFILE") != "" {
		runOutOfDescriptors()
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
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
