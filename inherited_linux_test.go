package eventloop_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// makeBlocking does what exec.Cmd does to a file that a child process inherits:
// it makes the description blocking, which all processes share that have it.
func makeBlocking(t testing.TB, c syscall.Conn) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := rc.Control(func(fd uintptr) { err = syscall.SetNonblock(int(fd), false) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// inChild runs the rest of the calling test in a process of its own, and returns
// true there. It is for faults that freeze the process. In the parent it fails
// the test if the child fails or hangs, and returns false.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv("EVENTLOOP_CHILD") == t.Name() {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchdogTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "EVENTLOOP_CHILD="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("the child process: %v\n%s", err, out)
	}
	return false
}

// While a thread is in a system call that blocks and that the scheduler does not
// know of, runtime.GC never returns.

func TestAConnectionThatBecomesBlockingDoesNotFreezeTheProcess(t *testing.T) {
	if !inChild(t) {
		return
	}
	l, _ := startLoop(t, nil)
	for _, how := range []string{"accepted", "adopted"} {
		r, cfg := newTape(nil)
		var c *eventloop.Conn
		var peer *net.TCPConn
		if how == "accepted" {
			c, peer = accept(t, l, cfg)
		} else {
			c, peer = adopt(t, l, cfg)
			await(t, c.Connected())
		}
		makeBlocking(t, c)
		io.WriteString(peer, "x") // the reader takes it, and tries for more
		eventually(func() bool { return r.received() == "x" })
		runtime.GC()
		done := background(t, func() { // more than the kernel takes
			wantEqual(t, "bytes received by the peer", len(readString(t, peer, 32<<20)), 32<<20)
		})
		onLoop(t, l, func() { c.Write(bytesOf(32 << 20)) })
		runtime.GC()
		wait(t, done, "end of the output")
		io.WriteString(peer, "y")
		c.Close() // and it waits for the peer without a bound but its own
		r.wait(t)
	}
}

func TestAnHTTPConnectionThatBecomesBlockingDoesNotFreezeTheProcess(t *testing.T) {
	if !inChild(t) {
		return
	}
	l, _ := startLoop(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kept := &keptListener{inner, make(chan net.Conn, 2)}
	_, err = l.ServeHTTP(kept, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, bytesOf(8<<20)) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	var dialed net.Conn
	client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return dialed, err
		},
	})
	for range 2 {
		res, err := await(t, client.Get(context.Background(), "http://"+inner.Addr().String()+"/"))
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "bytes of the answer", len(res.Body), 8<<20)
		if len(kept.kept) > 0 {
			makeBlocking(t, (<-kept.kept).(syscall.Conn))
			makeBlocking(t, dialed.(syscall.Conn))
		}
		runtime.GC()
	}
	time.AfterFunc(0, l.Stop)
	wait(t, l.Done(), "end of the loop")
}

// fileListener hides everything of a listener but File.
type fileListener struct{ net.Listener }

func (f fileListener) File() (*os.File, error) { return f.Listener.(*net.TCPListener).File() }

func TestSharedNeverMakesTheListenerBlocking(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	for _, base := range []net.Listener{tcp, unix, fileListener{tcp}} {
		var over atomic.Bool
		var blocking atomic.Int64
		socket := base
		if f, ok := base.(fileListener); ok {
			socket = f.Listener
		}
		rc, err := socket.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		looked := background(t, func() {
			for !over.Load() {
				rc.Control(func(fd uintptr) {
					if flags, _, e := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0); e == 0 && flags&syscall.O_NONBLOCK == 0 {
						blocking.Add(1)
					}
				})
			}
		})
		mustRun(t, nil, func(l *eventloop.Loop) {
			for range 2000 {
				ln, err := (&eventloop.ListenConfig{Shared: true}).Serve(l, base, nil)
				if err != nil {
					t.Error(err)
					return
				}
				ln.Close()
			}
		})
		over.Store(true)
		wait(t, looked, "end of the look-out")
		wantEqual(t, "times that the listener was blocking", blocking.Load(), 0)
	}
}

// inherit opens a listener and returns the file that a child would inherit.
func inherit(t testing.TB, network string) (net.Listener, *os.File) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return ln, f
}

func TestAListenerThatBecomesBlockingCanBeClosed(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, how := range []string{"Close", "Stop", "Shutdown"} {
			for _, serves := range []string{"Serve", "ServeHTTP"} {
				t.Run(network+" "+how+" "+serves, func(t *testing.T) {
					base, file := inherit(t, network)
					l, end := startLoop(t, nil)
					var closer io.Closer
					var err error
					if serves == "Serve" {
						closer, err = l.Serve(base, nil)
					} else {
						closer, err = l.ServeHTTP(base, func(*eventloop.HTTPRequest) {}, nil)
					}
					if err != nil {
						t.Fatal(err)
					}
					file.Fd() // makes it blocking, as exec.Cmd does
					peer := dialPeer(t, base.Addr())
					eventually(func() bool { return l.Stats().Conns.AcceptedTotal == 1 })
					onLoop(t, l, func() {
						switch how {
						case "Close":
							closer.Close()
						case "Stop":
							l.Stop()
						case "Shutdown":
							l.Shutdown(-1)
						}
					})
					peer.Close()
					end()
				})
			}
		}
	}
}

// Of several loops that wait for a connection one gets it, and the others wait in
// the kernel for the next, if the listener has become blocking meanwhile.
func TestASharedListenerThatBecomesBlockingCanBeClosed(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for range 20 {
			t.Run(network, func(t *testing.T) { closeSharedBlocking(t, network) })
		}
	}
}

func closeSharedBlocking(t *testing.T, network string) {
	base, file := inherit(t, network)
	loops := startLoops(t, 4)
	var lns []*eventloop.Listener
	for _, l := range loops {
		ln, err := (&eventloop.ListenConfig{Shared: true}).Serve(l, base, nil)
		if err != nil {
			t.Fatal(err)
		}
		lns = append(lns, ln)
	}
	for range 8 { // so that all of them wait
		dialPeer(t, base.Addr()).Close()
	}
	file.Fd()
	dialPeer(t, base.Addr()).Close()
	for i, l := range loops {
		onLoop(t, l, func() { lns[i].Close() })
	}
	for _, l := range loops {
		if !eventually(func() bool { return l.Stats().Conns.Listeners == 0 }) {
			t.Fatal("a listener is still open")
		}
	}
	file.Close()
	base.Close()
}
