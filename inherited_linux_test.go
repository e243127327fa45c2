package eventloop_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
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
	client := eventloop.NewHTTPClient(l, eventloop.HTTPClientConfig{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return dialed, err
		},
	})
	for range 2 {
		res, err := await(t, client.Get(nil, "http://"+inner.Addr().String()+"/"))
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
