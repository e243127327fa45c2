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
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"golang.org/x/sys/unix"
)

// A keptListener keeps the connections that it has accepted.
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
	// The descriptor number may then belong to another file at any time, so nothing may
	// be written to it by its number.
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
	c.PauseReading() // so that it does not notice the close
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
// descriptors than necessary.
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
					nc.Close() // frees a descriptor for a waiting connection
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
		peers[1].Close() // frees a descriptor for one more connection
		peers = append(peers[:1], peers[2:]...)
		ln.Resume()
		return nil
	})
	fmt.Printf("emfile: %v, echoed: %v, Run: %v\n", emfile, echoed, err)
}

func TestAUnixListenerRemovesItsOwnFileOnly(t *testing.T) {
	serve := func(t *testing.T, l *eventloop.Loop, path, how string) io.Closer {
		t.Helper()
		var c io.Closer
		var err error
		switch how {
		case "Listen":
			c, err = l.Listen("unix", path, nil)
		default:
			var ln net.Listener
			if ln, err = net.Listen("unix", path); err != nil {
				t.Fatal(err)
			}
			if how == "Serve" {
				c, err = l.Serve(ln, nil)
			} else {
				c, err = l.ServeHTTP(ln, func(*eventloop.HTTPRequest) {}, nil)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, how := range []string{"Listen", "Serve", "ServeHTTP"} {
		for _, end := range []string{"Close", "Stop", "Shutdown"} {
			t.Run(how+" "+end, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "s")
				l, _ := startLoop(t, nil)
				other, _ := startLoop(t, nil)
				old := serve(t, l, path, how)
				os.Rename(path, path+".old")
				successor := serve(t, other, path, how)
				switch end {
				case "Close":
					old.Close()
				case "Stop":
					l.Stop()
				case "Shutdown":
					l.Shutdown(-1)
				}
				eventually(func() bool { return l.Stats().Conns.Listeners == 0 })
				dialPeer(t, &net.UnixAddr{Name: path, Net: "unix"}).Close()
				successor.Close()
				if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the successor did not remove its file: %v", err)
				}
			})
		}
	}
	t.Run("a file with the inode of the old one", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l, _ := startLoop(t, nil)
		old := serve(t, l, path, "Listen")
		os.Remove(path)
		successor, err := net.Listen("unix", path) // many file systems reuse the number
		if err != nil {
			t.Fatal(err)
		}
		old.Close()
		dialPeer(t, successor.Addr()).Close()
		successor.Close()
	})
}

// leaveStale creates the socket file of a server that has crashed.
func leaveStale(t testing.TB, path string) {
	t.Helper()
	os.Remove(path)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
}

func TestOneOfSeveralServersGetsAStaleUnixPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) { // each ends its loops before the next
			loops := startLoops(t, n)
			for range 200 {
				leaveStale(t, path)
				lns := make([]*eventloop.Listener, n)
				errs := make([]error, n)
				var tried []<-chan struct{}
				for i, l := range loops {
					tried = append(tried, background(t, func() { lns[i], errs[i] = l.Listen("unix", path, nil) }))
				}
				won := 0
				for i := range loops {
					wait(t, tried[i], "end of Listen")
					switch {
					case errs[i] == nil:
						won++
					case !errors.Is(errs[i], syscall.EADDRINUSE):
						t.Errorf("Listen = %v, want address already in use", errs[i])
					}
				}
				wantEqual(t, "listeners", won, 1)
				dialPeer(t, &net.UnixAddr{Name: path, Net: "unix"}).Close() // the file belongs to the winner
				for _, ln := range lns {
					if ln != nil {
						ln.Close()
					}
				}
			}
		})
	}
}

func TestABoundUnixSocketThatDoesNotListenYetKeepsItsPath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells which paths are bound")
	}
	l, _ := startLoop(t, nil)
	dir := t.TempDir()
	for _, name := range []string{"s", "with a blank"} {
		path := filepath.Join(dir, name)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Listen("unix", path, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen = %v, want address already in use", err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
		dialPeer(t, &net.UnixAddr{Name: path, Net: "unix"}).Close()
		unix.Close(fd) // now it is stale
		ln, err := l.Listen("unix", path, nil)
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
}

func TestListenOnAUnixPathWithoutALock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, _ := startLoop(t, nil)
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ln, err := l.Listen("unix", path, nil) // needs no lock
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	leaveStale(t, path)
	if _, err := l.Listen("unix", path, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen on a stale path without a lock = %v, want address already in use", err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if ln, err = l.Listen("unix", path, nil); err != nil {
		t.Fatal(err)
	}
	ln.Close()
}
