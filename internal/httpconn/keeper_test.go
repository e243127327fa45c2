//go:build linux

package httpconn_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/httpconn"
)

// kept is a connection that has carried one request and now waits in its pool for
// the next. Its keeper does not run before await.
type kept struct {
	t      *testing.T
	pool   *httpconn.Pool
	conn   *httpconn.Conn
	server *net.TCPConn
	read   *bufio.Reader // of server

}

var keptKey = httpconn.Key{Scheme: "http", Addr: "server:80"}

const keptAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// newKept returns one whose first request had that deadline and silence.
func newKept(t *testing.T, deadline time.Time, silence time.Duration) *kept {
	t.Helper()
	// Of a long request the kernel takes a part only.
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	}}
	ln, err := small.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	k := &kept{t: t, pool: httpconn.NewPool(1, 1, 1, time.Hour), server: server.(*net.TCPConn), read: bufio.NewReader(server)}
	if c, _, w := k.pool.Get(keptKey); c != nil || w != nil {
		t.Fatal("no slot in an empty pool")
	}
	k.conn = httpconn.New(client, keptKey)
	k.conn.Begin(deadline, silence)
	head := httpconn.GetHead("GET", "/first")
	defer head.Release()
	if err := head.Send(k.conn, nil); err != nil {
		t.Fatal(err)
	}
	k.serve("/first", keptAnswer)
	if got, err := k.response(); got != "ok" || err != nil {
		t.Fatalf("first answer = %q, %v", got, err)
	}
	k.put()
	return k
}

// put makes it a connection that is kept for the next request.
func (k *kept) put() {
	k.t.Helper()
	if !k.conn.End() || !k.conn.Keepable() || k.pool.PutKept(k.conn, time.Now()).IsZero() {
		k.t.Fatal("the connection is not kept")
	}
}

// take takes it out of the pool and queues a request.
func (k *kept) take(body []byte) {
	k.t.Helper()
	if c := k.pool.TakeKept(keptKey); c != k.conn {
		k.t.Fatal("the connection was not kept")
	}
	head := httpconn.GetHead("POST", "/next")
	defer head.Release()
	if !head.Queue(k.conn, body) {
		k.t.Fatal("too much to be queued")
	}
}

// await runs the keeper, and returns what it comes back with.
func (k *kept) await() <-chan any {
	got := make(chan any, 1)
	go func() { got <- k.conn.Await(k.pool) }()
	return got
}

// serve reads a request without a body and answers it.
func (k *kept) serve(path, answer string) {
	k.t.Helper()
	line, _ := k.read.ReadString('\n')
	if !strings.Contains(line, path) {
		k.t.Fatalf("the server got %q, want a request for %s", line, path)
	}
	for line != "\r\n" {
		var err error
		if line, err = k.read.ReadString('\n'); err != nil {
			k.t.Fatal(err)
		}
	}
	io.WriteString(k.server, answer)
}

// response reads an answer.
func (k *kept) response() (string, error) {
	var r httpconn.Response
	if err := r.ReadHead(k.conn, "GET", 1<<16, nil); err != nil {
		return "", err
	}
	body, err := r.ReadAll(1 << 16)
	return string(body), err
}

// inputComes waits until what the server has done is there.
func (k *kept) inputComes() {
	k.t.Helper()
	for range 1000 {
		if !k.conn.Alive() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	k.t.Fatal("nothing came from the server")
}

func TestKeeperReturnsTheRequestWithItsAnswer(t *testing.T) {
	k := newKept(t, time.Time{}, 0)
	for range 3 {
		back := k.await()
		k.take(nil)
		k.conn.Assign("mine", time.Now(), time.Time{}, 0)
		if !k.conn.TryFlush() {
			t.Fatal("the kernel does not take a short request")
		}
		k.serve("/next", keptAnswer)
		if got := <-back; got != "mine" {
			t.Fatalf("Await = %v, want mine", got)
		}
		if got, err := k.response(); got != "ok" || err != nil {
			t.Errorf("answer = %q, %v", got, err)
		}
		if all, err := k.conn.Sent(); !all || err != nil {
			t.Errorf("Sent = %v, %v", all, err)
		}
		if !k.conn.Reused() {
			t.Error("Reused = false, want true")
		}
		k.put()
	}
}

func TestAssignedRequestIsSentAfterTheDeadlinesOfEarlierOnes(t *testing.T) {
	deadline := time.Now().Add(50 * time.Millisecond)
	k := newKept(t, deadline, 0)
	time.Sleep(time.Until(deadline) + 10*time.Millisecond)
	back := k.await()
	k.take(nil)
	k.conn.Assign("mine", time.Now(), time.Now().Add(10*time.Second), 0)
	k.conn.TryFlush()
	if all, err := k.conn.Sent(); !all || err != nil {
		t.Fatalf("Sent = %v, %v, want true, nil", all, err)
	}
	k.serve("/next", keptAnswer)
	if got := <-back; got != "mine" {
		t.Fatalf("Await = %v, want mine", got)
	}
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
}

func TestKeeperOutlivesTheDeadlineOfAnEarlierRequest(t *testing.T) {
	deadline := time.Now().Add(50 * time.Millisecond)
	k := newKept(t, deadline, 0)
	back := k.await()
	time.Sleep(time.Until(deadline) + 10*time.Millisecond)
	select {
	case got := <-back:
		t.Fatalf("Await = %v while the connection is idle", got)
	default:
	}
	if k.pool.Idle() != 1 {
		t.Fatalf("idle = %d, want 1", k.pool.Idle())
	}
	k.pool.Close()
	if got := <-back; got != nil {
		t.Errorf("Await = %v after the pool was closed, want nil", got)
	}
}

func TestInterruptBeforeAssignIsNotForgotten(t *testing.T) {
	k := newKept(t, time.Time{}, 0)
	k.take(nil)
	k.conn.Interrupt()
	back := k.await()
	time.Sleep(10 * time.Millisecond) // the keeper finds the deadline, and nothing assigned
	k.conn.Assign("mine", time.Now(), time.Time{}, 0)
	select {
	case got := <-back:
		if got != "mine" {
			t.Errorf("Await = %v, want mine", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the keeper waits for a connection that was interrupted")
	}
	if _, err := k.response(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error = %v, want that of a deadline", err)
	}
	k.conn.TryFlush()
	if all, err := k.conn.Sent(); all || err == nil {
		t.Errorf("Sent = %v, %v, want an error", all, err)
	}
	if _, out := k.conn.Bytes(); out != 0 {
		t.Errorf("bytes written = %d, want 0", out)
	}
	if k.conn.End() {
		t.Error("a connection that was interrupted is to be used again")
	}
}

func TestWhatComesBeforeARequestIsSentIsNoAnswerToIt(t *testing.T) {
	for _, test := range []struct {
		name  string
		does  func(k *kept)
		flush bool // before the keeper looks
	}{
		{"an answer, found by the keeper", func(k *kept) { io.WriteString(k.server, keptAnswer) }, false},
		{"an answer, found by who writes", func(k *kept) { io.WriteString(k.server, keptAnswer) }, true},
		{"the end, found by the keeper", func(k *kept) { k.server.Close() }, false},
		{"the end, found by who writes", func(k *kept) { k.server.Close() }, true},
		{"a reset, found by the keeper", func(k *kept) { k.server.SetLinger(0); k.server.Close() }, false},
		{"a reset, found by who writes", func(k *kept) { k.server.SetLinger(0); k.server.Close() }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKept(t, time.Time{}, 0)
			k.take(nil)
			test.does(k)
			k.inputComes()
			k.conn.Assign("mine", time.Now(), time.Now().Add(10*time.Second), 0)
			if test.flush && !k.conn.TryFlush() {
				t.Error("TryFlush has something left to write")
			}
			if got := <-k.await(); got != "mine" {
				t.Fatalf("Await = %v, want mine", got)
			}
			if !test.flush && !k.conn.TryFlush() {
				t.Error("TryFlush has something left to write")
			}
			if got, err := k.response(); err != httpconn.ErrStale {
				t.Errorf("answer = %q, %v, want ErrStale", got, err)
			}
			if _, out := k.conn.Bytes(); out != 0 {
				t.Errorf("bytes written = %d, want 0", out)
			}
			if k.conn.End() {
				t.Error("the connection is to be used again")
			}
		})
	}
}

// What came before the keeper began to wait wakes nobody.
func TestKeeperIsToldWhatWasThereBeforeItWaited(t *testing.T) {
	for name, does := range map[string]func(k *kept){
		"an answer": func(k *kept) { io.WriteString(k.server, keptAnswer) },
		"the end":   func(k *kept) { k.server.Close() },
		"a reset":   func(k *kept) { k.server.SetLinger(0); k.server.Close() },
	} {
		k := newKept(t, time.Time{}, 0)
		does(k)
		k.inputComes()
		time.Sleep(10 * time.Millisecond) // the poller knows
		back := k.await()
		time.Sleep(10 * time.Millisecond) // the keeper waits
		c := k.pool.TakeKept(keptKey)
		if c == nil {
			if got := <-back; got != nil { // a reset is told also to who begins to wait
				t.Errorf("%s: Await = %v, want nil", name, got)
			}
			continue
		}
		head := httpconn.GetHead("POST", "/next")
		head.Queue(c, nil)
		head.Release()
		c.Assign("mine", time.Now(), time.Time{}, 0)
		if !c.TryFlush() {
			t.Errorf("%s: TryFlush has something left to write", name)
		}
		select {
		case got := <-back:
			if got != "mine" {
				t.Fatalf("%s: Await = %v, want mine", name, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the keeper does not know", name)
		}
		if got, err := k.response(); err != httpconn.ErrStale {
			t.Errorf("%s: answer = %q, %v, want ErrStale", name, got, err)
		}
		if _, out := c.Bytes(); out != 0 {
			t.Errorf("%s: bytes written = %d, want 0", name, out)
		}
	}
}

// The keeper may have taken from the socket what it was not to be asked for, when
// somebody else has the connection already and looks whether there is something.
func TestWhatTheKeeperReadBeforeARequestWasSentIsNoAnswerToIt(t *testing.T) {
	k := newKept(t, time.Time{}, 0)
	back := k.await()
	time.Sleep(10 * time.Millisecond) // it waits
	c := k.pool.TakeKept(keptKey)
	io.WriteString(k.server, keptAnswer)
	time.Sleep(20 * time.Millisecond) // it reads
	head := httpconn.GetHead("POST", "/next")
	head.Queue(c, nil)
	head.Release()
	c.Assign("mine", time.Now(), time.Now().Add(10*time.Second), 0)
	if !c.TryFlush() {
		t.Error("TryFlush has something left to write")
	}
	if got := <-back; got != "mine" {
		t.Fatalf("Await = %v, want mine", got)
	}
	if got, err := k.response(); err != httpconn.ErrStale {
		t.Errorf("answer = %q, %v, want ErrStale", got, err)
	}
	if _, out := c.Bytes(); out != 0 {
		t.Errorf("bytes written = %d, want 0", out)
	}
}

func TestRetireTellsOfInputThatNobodyAskedFor(t *testing.T) {
	k := newKept(t, time.Time{}, 0)
	c, hasKeeper, _ := k.pool.Get(keptKey)
	if c != k.conn || !hasKeeper {
		t.Fatal("Get does not return the connection with its keeper")
	}
	io.WriteString(k.server, keptAnswer)
	k.inputComes()
	back := k.await()
	if k.conn.Retire() && k.conn.Alive() {
		t.Error("the connection looks usable")
	}
	if got := <-back; got != nil {
		t.Errorf("Await = %v, want nil", got)
	}
}

func TestSilenceBeginsAnewWhenALongRequestIsWritten(t *testing.T) {
	const silence = 400 * time.Millisecond
	k := newKept(t, time.Time{}, silence)
	k.conn.NetConn().(*net.TCPConn).SetWriteBuffer(4 << 10)
	back := k.await()
	body := make([]byte, 48<<10)
	k.take(body)
	k.conn.Assign("mine", time.Now(), time.Time{}, silence)
	if k.conn.TryFlush() {
		t.Fatal("the kernel takes it all at once")
	}
	written := make(chan struct{})
	go func() { k.conn.FlushRest(); close(written) }()
	time.Sleep(silence * 3 / 4)
	for line := ""; line != "\r\n"; {
		line, _ = k.read.ReadString('\n')
	}
	if _, err := io.ReadFull(k.read, body); err != nil {
		t.Fatal(err)
	}
	<-written
	time.Sleep(silence * 3 / 4)
	io.WriteString(k.server, keptAnswer)
	if got := <-back; got != "mine" {
		t.Fatalf("Await = %v, want mine", got)
	}
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
	if all, err := k.conn.Sent(); !all || err != nil {
		t.Errorf("Sent = %v, %v", all, err)
	}
}

func TestRequestThatTheServerDoesNotTakeEndsAfterTheSilence(t *testing.T) {
	const silence = 50 * time.Millisecond
	k := newKept(t, time.Time{}, silence)
	k.conn.NetConn().(*net.TCPConn).SetWriteBuffer(4 << 10)
	back := k.await()
	k.take(make([]byte, 48<<10))
	k.conn.Assign("mine", time.Now(), time.Time{}, silence)
	if k.conn.TryFlush() {
		t.Fatal("the kernel takes it all at once")
	}
	k.conn.FlushRest()
	if got := <-back; got != "mine" {
		t.Fatalf("Await = %v, want mine", got)
	}
	if _, err := k.response(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error = %v, want that of a deadline", err)
	}
	if _, err := k.conn.Sent(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error of sending = %v, want that of a deadline", err)
	}
}
