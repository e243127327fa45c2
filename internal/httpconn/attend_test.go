//go:build linux

package httpconn_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/httpconn"
)

// newBare returns a connection like newKept, that nobody waits with, and that is
// assigned to a request.
func newBare(t *testing.T, deadline time.Time, before func(k *kept)) *kept {
	t.Helper()
	return newBareWith(t, nil, deadline, 0, before)
}

func newBareWith(t *testing.T, body []byte, deadline time.Time, silence time.Duration, before func(k *kept)) *kept {
	t.Helper()
	k := newKept(t, time.Time{}, silence)
	if c, _ := k.pool.TakePlain(keptKey); c != k.conn {
		t.Fatal("the connection was not kept")
	}
	if k.pool.Put(k.conn, time.Now()).IsZero() {
		t.Fatal("the connection is not put back")
	}
	if c, hasKeeper := k.pool.TakePlain(keptKey); c != k.conn || hasKeeper {
		t.Fatalf("TakePlain = %p, %v, want %p, false", c, hasKeeper, k.conn)
	}
	if before != nil {
		before(k)
	}
	head := httpconn.GetHead("POST", "/next")
	defer head.Release()
	if !head.Queue(k.conn, body) {
		t.Fatal("too much to be queued")
	}
	k.conn.AssignBare(time.Now(), deadline, silence)
	return k
}

// attend returns whether Attend finds a whole answer.
func (k *kept) attend() <-chan bool {
	got := make(chan bool, 1)
	go func() {
		whole, nothing := k.conn.Attend("GET")
		if whole && nothing {
			k.t.Error("a whole answer is nothing")
		}
		k.nothing = nothing
		got <- whole
	}()
	return got
}

func TestAttendSendsTheRequestAndReturnsItsWholeAnswer(t *testing.T) {
	k := newBare(t, time.Time{}, nil)
	whole := k.attend()
	k.serve("/next", keptAnswer)
	if !<-whole {
		t.Error("Attend = false, want true")
	}
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
	if all, err := k.conn.Sent(); !all || err != nil {
		t.Errorf("Sent = %v, %v", all, err)
	}
	if in, out := k.conn.Bytes(); in != int64(len(keptAnswer)) || out == 0 {
		t.Errorf("bytes = %d, %d", in, out)
	}
	if !k.conn.Reused() || !k.conn.End() {
		t.Error("the connection is not used again")
	}
}

func TestAttendLeavesAnAnswerThatIsNotWholeToAwaitAnswer(t *testing.T) {
	for _, cut := range []int{1, len(keptAnswer) / 2, len(keptAnswer) - 1} {
		k := newBare(t, time.Time{}, nil)
		whole := k.attend()
		k.serve("/next", keptAnswer[:cut])
		if <-whole {
			t.Fatalf("%d bytes: Attend = true, want false", cut)
		}
		k.conn.AwaitAnswer()
		io.WriteString(k.server, keptAnswer[cut:])
		if got, err := k.response(); got != "ok" || err != nil {
			t.Errorf("%d bytes: answer = %q, %v", cut, got, err)
		}
		if !k.conn.End() {
			t.Errorf("%d bytes: the connection is not used again", cut)
		}
	}
}

func TestNudgeEndsAttendAndCalmUndoesIt(t *testing.T) {
	k := newBare(t, time.Now().Add(10*time.Second), nil)
	k.conn.Nudge() // before: nothing is sent
	if <-k.attend() || !k.nothing {
		t.Fatal("Attend found something")
	}
	k.conn.Calm()
	whole := k.attend()
	k.serve("/next", "")
	k.conn.Nudge() // while it waits
	if <-whole || !k.nothing {
		t.Fatal("Attend found something")
	}
	k.conn.Calm()
	if !k.conn.TryFlush() {
		t.Error("TryFlush has something left to write")
	}
	got := make(chan struct{})
	go func() { k.conn.AwaitAnswer(); close(got) }()
	io.WriteString(k.server, keptAnswer)
	<-got
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
	k.server.CloseWrite()
	k.conn.Close()
	if rest, _ := io.ReadAll(k.read); len(rest) > 0 {
		t.Errorf("the server got %q besides the request", rest)
	}
}

func TestAttendCanBeCalledAgainAfterANudge(t *testing.T) {
	k := newBare(t, time.Time{}, nil)
	whole := k.attend()
	k.serve("/next", "")
	k.conn.Nudge()
	if <-whole || !k.nothing {
		t.Fatal("Attend found something")
	}
	io.WriteString(k.server, keptAnswer) // while nobody waits
	k.inputComes()
	time.Sleep(10 * time.Millisecond) // the poller knows
	k.conn.Calm()
	if !<-k.attend() {
		t.Error("Attend = false, want true")
	}
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
}

func TestAnAnswerThatCameInTimeIsTakenAfterTheDeadline(t *testing.T) {
	deadline := time.Now().Add(50 * time.Millisecond)
	k := newBare(t, deadline, nil)
	k.conn.TryFlush()
	k.serve("/next", keptAnswer)
	time.Sleep(time.Until(deadline) + 10*time.Millisecond)
	if !<-k.attend() {
		t.Error("Attend = false, want true")
	}
	if got, err := k.response(); got != "ok" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
}

func TestAttendEndsAtTheDeadline(t *testing.T) {
	k := newBare(t, time.Now().Add(20*time.Millisecond), nil)
	if <-k.attend() {
		t.Fatal("Attend = true, want false")
	}
	k.conn.AwaitAnswer()
	if _, err := k.response(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error = %v, want that of a deadline", err)
	}
}

func TestAttendSendsNothingIfTheServerHasEndedTheConnectionOrSpoken(t *testing.T) {
	for name, does := range map[string]func(k *kept){
		"an answer": func(k *kept) { io.WriteString(k.server, keptAnswer) },
		"the end":   func(k *kept) { k.server.Close() },
		"a reset":   func(k *kept) { k.server.SetLinger(0); k.server.Close() },
	} {
		k := newBare(t, time.Now().Add(10*time.Second), func(k *kept) { does(k); k.inputComes() })
		if <-k.attend() {
			t.Fatalf("%s: Attend = true, want false", name)
		}
		k.conn.TryFlush()
		k.conn.AwaitAnswer()
		if got, err := k.response(); err != httpconn.ErrStale {
			t.Errorf("%s: answer = %q, %v, want ErrStale", name, got, err)
		}
		if _, out := k.conn.Bytes(); out != 0 {
			t.Errorf("%s: bytes written = %d, want 0", name, out)
		}
	}
}

func TestWhatAttendCannotSendAtOnceIsForFlushRest(t *testing.T) {
	const silence = 200 * time.Millisecond
	body := make([]byte, 48<<10)
	k := newBareWith(t, body, time.Time{}, silence, func(k *kept) { k.conn.NetConn().(*net.TCPConn).SetWriteBuffer(4 << 10) })
	if <-k.attend() || k.nothing {
		t.Fatal("Attend waits with a part of the request unsent")
	}
	got := make(chan error, 1)
	go func() {
		k.serve("/next", "")
		_, err := io.ReadFull(k.read, body)
		got <- err
	}()
	for range 20 {
		time.Sleep(time.Millisecond) // there is room, again and again
		if k.conn.TryFlush() {
			t.Fatal("TryFlush does what FlushRest is for")
		}
	}
	k.conn.FlushRest()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if all, err := k.conn.Sent(); !all || err != nil {
		t.Errorf("Sent = %v, %v, want true", all, err)
	}
	k.conn.AwaitAnswer() // until the silence has been too long
	if _, err := k.response(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error = %v, want that of a deadline", err)
	}
}
