package eventloop_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"pgregory.net/rapid"
)

// A script is a connection, its peer, and what is done to them, with all that
// has to hold whatever that is.
type script struct {
	t    testing.TB
	l    *eventloop.Loop
	c    *eventloop.Conn
	peer net.Conn
	r    *tape

	// Only on the loop.
	dead   bool // Close or Abort has returned on the loop
	paused bool // PauseReading has
	onLoop []func()

	resumed atomic.Bool // ResumeReading was called off the loop: paused says nothing

	mu      sync.Mutex
	written []byte // what Write took
	aborted bool
	futures []*eventloop.Future[struct{}]

	sent      []byte // by the peer
	peerReset bool   // or closed with input unread, which is the same
	peerEnded bool
	got       bytes.Buffer // by the peer's reader
	gotErr    error
	reader    <-chan struct{}
}

// Operations of a script. Those up to opLast may be done on the loop or not.
const (
	opWrite = iota
	opWritev
	opClose
	opAbort
	opCloseWrite
	opPauseReading
	opResumeReading
	opPauseWriting
	opResumeWriting
	opFlushed
	opSetTimeouts
	opSetCallbacks
	opLook
	opLast
	opPeerWrite
	opPeerCloseWrite
	opPeerClose
	opPeerReset
	opYield
	opInCallback // the next one in a callback
	opCount
)

// play does what ops say: two bytes an operation.
func (s *script) play(ops []byte) {
	nested := false
	for ; len(ops) >= 2; ops = ops[2:] {
		op, arg := int(ops[0])%opCount, int(ops[1])
		do := func() { s.do(op, arg) }
		switch {
		case op == opInCallback:
			nested = true
			continue
		case op > opLast:
			s.doPeer(op, arg)
		case nested:
			s.l.Post(func() { s.onLoop = append(s.onLoop, func() { s.doOnLoop(op, do) }) })
		case ops[0] >= 128:
			if op == opResumeReading {
				s.resumed.Store(true)
			}
			do()
		default:
			s.l.Post(func() { s.doOnLoop(op, do) })
		}
		nested = false
	}
}

// doOnLoop does an operation on the loop and notes what is to hold after it.
func (s *script) doOnLoop(op int, do func()) {
	do()
	switch op {
	case opClose, opAbort:
		s.dead = true
	case opPauseReading:
		s.paused = true
	case opResumeReading:
		s.paused = false
	}
}

func (s *script) do(op, arg int) {
	c := s.c
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case opWrite, opWritev:
		p := bytesOf(arg * arg)
		var n int
		var err error
		if op == opWrite {
			n, err = c.Write(p)
		} else {
			n, err = c.Writev(p[:len(p)/2], p[len(p)/2:])
		}
		if err == nil && n != len(p) || err != nil && (n != 0 || err != net.ErrClosed) {
			s.t.Errorf("Write = %d, %v", n, err)
		}
		s.written = append(s.written, p[:n]...)
	case opClose:
		c.Close()
	case opAbort:
		if c.Abort() == nil {
			s.aborted = true
		}
	case opCloseWrite:
		c.CloseWrite()
	case opPauseReading:
		c.PauseReading()
	case opResumeReading:
		c.ResumeReading()
	case opPauseWriting:
		c.PauseWriting()
	case opResumeWriting:
		c.ResumeWriting()
	case opFlushed:
		s.futures = append(s.futures, c.Flushed())
	case opSetTimeouts:
		c.SetTimeouts(time.Hour, time.Hour)
	case opSetCallbacks:
		c.SetCallbacks(&eventloop.ConnConfig{})
	case opLook:
		c.Buffered()
		c.NeedDrain()
		c.Closed()
		c.Err()
		c.LocalAddr()
		c.RemoteAddr()
		c.SyscallConn()
		c.TLS()
		s.l.Stats()
		for range s.l.Handles() {
		}
	}
}

func (s *script) doPeer(op, arg int) {
	switch op {
	case opPeerWrite:
		if p := bytesOf(arg * arg); !s.peerEnded && !s.peerReset && len(s.sent) < 1<<20 { // what the kernel buffers
			n, _ := s.peer.Write(p)
			s.sent = append(s.sent, p[:n]...)
		}
	case opPeerCloseWrite:
		s.peer.(interface{ CloseWrite() error }).CloseWrite()
		s.peerEnded = true
	case opPeerClose, opPeerReset:
		if op == opPeerReset {
			s.peer.(interface{ SetLinger(int) error }).SetLinger(0)
		}
		s.peerReset = true
		s.peer.Close()
	case opYield:
		time.Sleep(time.Duration(arg) * time.Microsecond)
	}
}

// called is called in every callback.
func (s *script) called(what string) {
	if s.dead {
		s.t.Errorf("%s after Close had returned on the loop", what)
	}
	if s.paused && !s.resumed.Load() && what == "OnData" {
		s.t.Error("OnData in a pause")
	}
	if len(s.onLoop) > 0 {
		do := s.onLoop[0]
		s.onLoop = s.onLoop[1:]
		do()
	}
}

// finish brings the connection to its end and checks what has to hold.
func (s *script) finish() {
	t := s.t
	onLoop(t, s.l, func() { // after all that was posted
		s.onLoop, s.paused = nil, false
		s.c.ResumeReading()
		s.c.ResumeWriting()
	})
	if p, ok := s.peer.(tlsPeer); ok {
		p.Handshake() // without it there is no CloseWrite
	}
	if !s.peerReset {
		s.peer.(interface{ CloseWrite() error }).CloseWrite()
	}
	select {
	case <-s.r.closed:
	case <-time.After(10 * time.Millisecond): // a half-open one
		s.c.Close()
	}
	s.r.wait(t)
	wait(t, s.reader, "end of the peer's reader")
	s.peer.Close()
	idle(t, s.l)

	received := []byte(s.r.received())
	if len(received) > len(s.sent) || !bytes.Equal(received, s.sent[:len(received)]) {
		t.Errorf("received %d bytes that are no beginning of the %d that were sent", len(received), len(s.sent))
	}
	if slices.Contains(s.r.events, io.EOF) && !s.peerReset && len(received) != len(s.sent) {
		t.Errorf("io.EOF after %d bytes of %d", len(received), len(s.sent))
	}
	got := s.got.Bytes()
	if len(got) > len(s.written) || !bytes.Equal(got, s.written[:len(got)]) {
		t.Errorf("the peer received %d bytes that are no beginning of the %d that were written", len(got), len(s.written))
	}
	clean := s.gotErr == nil && !s.aborted && !s.peerReset && (s.r.why == nil || s.r.why == io.EOF)
	if clean && len(got) != len(s.written) {
		t.Errorf("the peer received %d bytes of %d, and a clean end", len(got), len(s.written))
	}
	for _, f := range s.futures {
		if _, err := await(t, f); err != nil && clean {
			t.Errorf("Flushed = %v", err)
		}
	}
	if n := len(s.r.events); n > 2 || n == 2 && s.r.events[0] != io.EOF {
		t.Errorf("events = %v", s.r.events)
	}
}

// runScript plays ops on a connection of the loop. The first byte says of what
// kind.
func runScript(t testing.TB, l *eventloop.Loop, ops []byte) {
	if len(ops) == 0 {
		return
	}
	s := &script{t: t, l: l}
	conf := eventloop.ConnConfig{AllowHalfOpen: ops[0]&4 != 0, HighWater: 10 << 10}
	if ops[0]&8 != 0 {
		conf.ReadBufferSize = 100
	}
	conf.OnConnect = func(*eventloop.Conn) { s.called("OnConnect") }
	conf.OnData = func(*eventloop.Conn, []byte) { s.called("OnData") }
	conf.OnDrain = func(*eventloop.Conn) { s.called("OnDrain") }
	conf.OnEvent = func(*eventloop.Conn, error) { s.called("OnEvent") }
	var cfg *eventloop.ConnConfig
	s.r, cfg = newTape(&conf)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var ours net.Conn
	if ops[0]&3 == 0 {
		s.c, err = l.Dial(context.Background(), "tcp", ln.Addr().String(), cfg)
	} else if ours, err = net.Dial("tcp", ln.Addr().String()); err == nil {
		if ops[0]&3 == 2 {
			ours = plainConn{ours}
		}
		if ops[0]&3 == 3 {
			cfg.TLS = clientConf
		}
		s.c, err = l.Adopt(ours, cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(watchdogTime))
	if s.peer, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	s.peer.SetDeadline(time.Now().Add(watchdogTime))
	if ops[0]&3 == 3 {
		s.peer = tlsPeer{newTLSServer(s.peer)}
	}
	reader := make(chan struct{})
	s.reader = reader
	go func() {
		defer close(reader)
		_, s.gotErr = io.Copy(&s.got, s.peer)
	}()
	s.play(ops[1:])
	s.finish()
}

func TestLaw7ConnectionsKeepTheirOrderWhateverIsDoneToThem(t *testing.T) {
	l, _ := startLoop(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.Byte().Draw(rt, "kind of connection")
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [2]byte {
			op := rapid.IntRange(0, opCount-1).Draw(rt, "op")
			if op == opClose || op == opAbort || op == opPeerClose || op == opPeerReset {
				op = rapid.IntRange(0, opCount-1).Draw(rt, "op again") // they end it: not so often
			}
			if op < opLast && rapid.Bool().Draw(rt, "off the loop") {
				op += (128/opCount + 1) * opCount
			}
			return [2]byte{byte(op), rapid.Byte().Draw(rt, "arg")}
		}), 0, 40).Draw(rt, "ops")
		bytes := []byte{kind}
		for _, op := range ops {
			bytes = append(bytes, op[0], op[1])
		}
		runScript(&scriptT{TB: t, rt: rt}, l, bytes)
	})
}

// scriptT reports the failures of a script to rapid, which then looks for a
// shorter one.
type scriptT struct {
	testing.TB
	rt *rapid.T
}

func (s *scriptT) Errorf(format string, args ...any) { s.rt.Errorf(format, args...) }
func (s *scriptT) Error(args ...any)                 { s.rt.Error(args...) }
func (s *scriptT) Fatalf(format string, args ...any) { s.rt.Fatalf(format, args...) }
func (s *scriptT) Fatal(args ...any)                 { s.rt.Fatal(args...) }

func FuzzConn(f *testing.F) {
	f.Add([]byte{0, opWrite, 200, opPeerWrite, 200, opClose, 0})
	f.Add([]byte{5, opPeerWrite, 255, opPeerCloseWrite, 0, opWrite, 3, opCloseWrite, 0})
	f.Add([]byte{11, opPauseReading, 0, opPeerWrite, 255, opYield, 255, opResumeReading, 0, opPeerReset, 0})
	f.Add([]byte{2, opInCallback, 0, opAbort, 0, opWrite, 255, opFlushed, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 200 {
			t.Skip("long enough")
		}
		l, _ := startLoop(t, nil)
		runScript(t, l, ops)
	})
}
