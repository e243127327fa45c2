package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
	"github.com/onloop/eventloop/internal/pipelistener"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// watchdogTime turns a hang into a failure.
const watchdogTime = 2 * time.Minute

// A server is a room on a loop of its own.
type server struct {
	*room
	ln    net.Listener
	ended chan error
}

// serve runs a room until the end of the test, when it has to end by itself after
// an interrupt.
func serve(t *testing.T, ln net.Listener) *server {
	t.Helper()
	s := &server{ln: ln, ended: make(chan error, 1)}
	running := make(chan struct{})
	go func() {
		s.ended <- eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			s.room = newRoom(l)
			_, err := l.ServeHTTP(ln, s.handle, nil)
			close(running)
			return err
		})
	}()
	<-running
	return s
}

// end interrupts the room, and fails the test unless it ends by itself.
func (s *server) end(t *testing.T) {
	t.Helper()
	s.loop.Post(func() { s.loop.Shutdown(2 * closeTimeout) })
	if err := <-s.ended; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if len(s.members) > 0 {
		t.Errorf("%d members are left", len(s.members))
	}
}

func serveTCP(t *testing.T) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln)
	t.Cleanup(func() { s.end(t) })
	return s
}

// A client speaks the other side of the protocol, by the library's own handshake.
type client struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

// enter makes a member called name.
func enter(t *testing.T, s *server, name string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", s.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(watchdogTime))
	return enterBy(t, nc, name)
}

func enterBy(t *testing.T, nc net.Conn, name string) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	u := &url.URL{Scheme: "ws", Host: "room", Path: "/chat", RawQuery: url.Values{"name": {name}}.Encode()}
	br, _, err := ws.Dialer{}.Upgrade(nc, u)
	if err != nil {
		t.Fatal("handshake:", err)
	}
	if br == nil {
		br = bufio.NewReader(nc)
	}
	c := &client{nc, t, br}
	c.hears("* " + name + " is here")
	return c
}

// sends sends frames, masked, as one piece.
func (c *client) sends(frames ...ws.Frame) {
	c.t.Helper()
	var b []byte
	for _, f := range frames {
		b = append(b, ws.MustCompileFrame(ws.MaskFrame(f))...)
	}
	c.sendsBytes(b)
}

func (c *client) sendsBytes(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) says(text string) { c.t.Helper(); c.sends(ws.NewTextFrame([]byte(text))) }

// next reads a frame, which may be as big as the room ever sends them.
func (c *client) next() (f ws.Frame, err error) {
	f.Header, err = ws.ReadHeader(c.br)
	if err == nil && f.Header.Length > 2*maxMessage {
		err = errTooBig
	}
	if err == nil {
		f.Payload = make([]byte, f.Header.Length)
		_, err = io.ReadFull(c.br, f.Payload)
	}
	return f, err
}

// frame returns the next frame but for pings, which come if a test takes long. It answers
// these.
func (c *client) frame() ws.Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatal("no frame:", err)
	}
	if f.Header.OpCode == ws.OpPing {
		c.sends(ws.NewPongFrame(f.Payload))
		return c.frame()
	}
	if f.Header.Masked || !f.Header.Fin {
		c.t.Errorf("header %+v, want a whole message without a mask", f.Header)
	}
	return f
}

func (c *client) hears(want string) {
	c.t.Helper()
	if f := c.frame(); f.Header.OpCode != ws.OpText || string(f.Payload) != want {
		c.t.Fatalf("heard %v %.100q, want %q", f.Header.OpCode, f.Payload, want)
	}
}

// isClosed fails unless a close frame with that code comes, and then the end of
// the connection.
func (c *client) isClosed(want ws.StatusCode) {
	c.t.Helper()
	f := c.frame()
	code, reason := ws.ParseCloseFrameData(f.Payload)
	if f.Header.OpCode != ws.OpClose || code != want {
		c.t.Errorf("got %v %d %q, want a close frame with %d", f.Header.OpCode, code, reason, want)
	}
	c.isGone()
}

func (c *client) isGone() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.br); len(rest) > 0 || err != nil {
		c.t.Errorf("after the close frame came %q and %v, want the end", rest, err)
	}
}

func TestWhatOneSaysAllHear(t *testing.T) {
	s := serveTCP(t)
	ann, bob := enter(t, s, "ann"), enter(t, s, "bob")
	ann.hears("* bob is here")
	ann.says("hello")
	bob.says("hi, ann")
	for _, c := range []*client{ann, bob} { // in an order that is the same for both
		if f := string(c.frame().Payload); f == "ann: hello" {
			c.hears("bob: hi, ann")
		} else if c.hears("ann: hello"); f != "bob: hi, ann" {
			t.Errorf("heard %q", f)
		}
	}
	bob.Close() // without a word
	ann.hears("* bob has left")
}

func TestHandshakeIsRefused(t *testing.T) {
	s := serveTCP(t)
	const good = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://room\r\n"
	for _, v := range []struct {
		what, old, new string
		status         int
	}{
		{"nothing", "", "", 101},
		{"no upgrade", "keep-alive, Upgrade", "keep-alive", 400},
		{"another protocol", "WebSocket\r\n", "h2c\r\n", 400},
		{"another version", "Version: 13", "Version: 8", 426},
		{"no version", "Sec-WebSocket-Version: 13\r\n", "", 426},
		{"a short key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400},
		{"a key that is none", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=", 400},
		{"the page of another server", "http://room", "http://elsewhere", 403},
		{"a page from nowhere", "http://room", "null", 403},
	} {
		t.Run(v.what, func(t *testing.T) {
			nc, err := net.Dial("tcp", s.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(watchdogTime))
			fmt.Fprintf(nc, "GET /chat HTTP/1.1\r\nHost: room\r\n%s\r\n", strings.Replace(good, v.old, v.new, 1))
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil || resp.StatusCode != v.status {
				t.Fatalf("%v, %v; want %d", resp, err, v.status)
			}
			// RFC 6455 section 1.3
			if got := resp.Header.Get("Sec-WebSocket-Accept"); v.status == 101 && got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Errorf("Sec-WebSocket-Accept: %q", got)
			}
			if got := resp.Header.Get("Sec-WebSocket-Version"); v.status == 426 && got != "13" {
				t.Errorf("Sec-WebSocket-Version: %q", got)
			}
		})
	}
}

func TestPingGetsAPongInTheMiddleOfAMessage(t *testing.T) {
	c := enter(t, serveTCP(t), "ann")
	c.sends(
		ws.NewFrame(ws.OpText, false, []byte("hel")),
		ws.NewPingFrame([]byte("are you there?")),
		ws.NewFrame(ws.OpContinuation, false, nil),
		ws.NewPongFrame(nil), // unsolicited
		ws.NewFrame(ws.OpContinuation, true, []byte("lo")),
		ws.NewTextFrame(nil),
	)
	if f := c.frame(); f.Header.OpCode != ws.OpPong || string(f.Payload) != "are you there?" {
		t.Errorf("got %v %q", f.Header.OpCode, f.Payload)
	}
	c.hears("ann: hello")
	c.hears("ann: ")
}

func TestFramesArriveInAnyPieces(t *testing.T) {
	// A pipe hands over each Write by itself, so that the pieces are those of the
	// test.
	synctest.Test(t, func(t *testing.T) {
		ln := pipelistener.New()
		s := serve(t, ln)
		c := enterBy(t, ln.Dial(), "ann")
		const text = "a frame of more than 125 bytes, so that its length takes two more, and with " +
			"letters of more than one byte, which are cut, too: ä € 𝄞 — and so on"
		var frames []byte
		for _, f := range []ws.Frame{ws.NewTextFrame([]byte(text)), ws.NewTextFrame([]byte("short"))} {
			frames = append(frames, ws.MustCompileFrame(ws.MaskFrame(f))...)
		}
		for size := 1; size <= len(frames); size++ {
			for piece := range chunks(frames, size) {
				c.sendsBytes(piece)
			}
			c.hears("ann: " + text)
			c.hears("ann: short")
		}
		c.Close()
		s.end(t)
	})
}

func chunks(b []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 && yield(b[:min(size, len(b))]) {
			b = b[min(size, len(b)):]
		}
	}
}

func TestWhoBreaksTheRulesIsToldWhyAndClosed(t *testing.T) {
	s := serveTCP(t)
	witness := enter(t, s, "witness")
	big := bytes.Repeat([]byte("x"), maxMessage+1)
	masked := func(frames ...ws.Frame) (b []byte) {
		for _, f := range frames {
			b = append(b, ws.MustCompileFrame(ws.MaskFrame(f))...)
		}
		return b
	}
	reserved := ws.NewTextFrame(nil)
	reserved.Header.Rsv = ws.Rsv(true, false, false)
	for what, v := range map[string]struct {
		bytes []byte
		code  ws.StatusCode
	}{
		"no mask":                  {ws.MustCompileFrame(ws.NewTextFrame([]byte("hello"))), 1002},
		"oversized, its header":    {masked(ws.NewTextFrame(big))[:8], 1009},
		"oversized in fragments":   {masked(ws.NewFrame(ws.OpText, false, big[1:]), ws.NewFrame(ws.OpContinuation, true, big[:1])), 1009},
		"a length of 2^63":         {[]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		"a length of 2^63-1":       {[]byte{0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4}, 1009},
		"binary":                   {masked(ws.NewBinaryFrame([]byte("hello"))), 1003},
		"not UTF-8":                {masked(ws.NewTextFrame([]byte("\xff"))), 1007},
		"a character cut off":      {masked(ws.NewFrame(ws.OpText, false, []byte("\xe2")), ws.NewFrame(ws.OpContinuation, true, []byte("\x82"))), 1007},
		"continuation of nothing":  {masked(ws.NewFrame(ws.OpContinuation, true, nil)), 1002},
		"a message in another":     {masked(ws.NewFrame(ws.OpText, false, nil), ws.NewTextFrame(nil)), 1002},
		"a reserved bit":           {masked(reserved), 1002},
		"a reserved opcode":        {masked(ws.NewFrame(0x3, true, nil)), 1002},
		"a long ping":              {masked(ws.NewPingFrame(big[:126])), 1002},
		"a ping in fragments":      {masked(ws.NewFrame(ws.OpPing, false, nil)), 1002},
		"half a close code":        {masked(ws.NewCloseFrame([]byte{3})), 1002},
		"a close code for no wire": {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1006, ""))), 1002},
		"more after it":            {append(masked(ws.NewBinaryFrame(nil)), masked(ws.NewTextFrame([]byte("not heard")))...), 1003},
	} {
		t.Run(what, func(t *testing.T) {
			c := enter(t, s, "x")
			witness.hears("* x is here")
			c.sendsBytes(v.bytes)
			c.isClosed(v.code)
			c.Close()
			witness.hears("* x has left")
		})
	}
}

func TestAMessageMayBeAsBigAsTheLimit(t *testing.T) {
	c := enter(t, serveTCP(t), "ann")
	text := strings.Repeat("x", maxMessage)
	c.says(text)
	c.hears("ann: " + text)
}

func TestCloseFrameIsEchoed(t *testing.T) {
	s := serveTCP(t)
	witness := enter(t, s, "witness")
	for _, body := range [][]byte{ws.NewCloseFrameBody(1000, "bye"), ws.NewCloseFrameBody(4000, ""), nil} {
		c := enter(t, s, "ann")
		witness.hears("* ann is here")
		c.sends(ws.NewCloseFrame(body), ws.NewTextFrame([]byte("too late")))
		if f := c.frame(); f.Header.OpCode != ws.OpClose || !bytes.Equal(f.Payload, body) {
			t.Errorf("got %v %q, want a close frame with %q", f.Header.OpCode, f.Payload, body)
		}
		c.isGone()
		c.Close()
		witness.hears("* ann has left")
	}
}

func TestInterruptSendsCloseFramesAndWaitsForTheReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the room waits for closeTimeout only
		ln := pipelistener.New()
		s := serve(t, ln)
		ann := enterBy(t, ln.Dial(), "ann")
		start := time.Now()
		s.loop.Post(func() { s.loop.Shutdown(2 * closeTimeout) })
		if f := ann.frame(); f.Header.OpCode != ws.OpClose {
			t.Fatalf("got %v %q, want a close frame", f.Header.OpCode, f.Payload)
		} else if code, _ := ws.ParseCloseFrameData(f.Payload); code != ws.StatusGoingAway {
			t.Errorf("code %d, want 1001", code)
		}
		time.Sleep(closeTimeout - 1)
		ann.sends( // it does not know yet, and is not answered
			ws.NewTextFrame([]byte("hello?")),
			ws.NewPingFrame(nil),
			ws.NewCloseFrame(ws.NewCloseFrameBody(1001, "")),
		)
		ann.isGone()
		ann.Close()
		s.end(t)
		if took := time.Since(start); took != closeTimeout-1 {
			t.Errorf("the room ended after %v, want %v", took, closeTimeout-1)
		}
	})
}

func TestInterruptDoesNotWaitLongForAReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := pipelistener.New()
		s := serve(t, ln)
		c := enterBy(t, ln.Dial(), "ann")
		go io.Copy(io.Discard, c) // it reads, and says nothing
		start := time.Now()
		s.end(t)
		if took := time.Since(start); took != closeTimeout {
			t.Errorf("the room ended after %v, want %v", took, closeTimeout)
		}
	})
}

func TestWhoIsSilentIsPingedAndThenGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := pipelistener.New()
		s := serve(t, ln)
		c := enterBy(t, ln.Dial(), "ann")
		start := time.Now()
		pings := 0
		for {
			f, err := c.next()
			if err != nil {
				break
			}
			if f.Header.OpCode != ws.OpPing {
				t.Errorf("got %v, want a ping", f.Header.OpCode)
			}
			if pings++; pings == 1 {
				c.sends(ws.NewPongFrame(f.Payload)) // still there
			}
			if pings == 10 {
				t.Fatal("still pinged")
			}
		}
		if took, want := time.Since(start), pingEvery+silence; took != want || pings != 3 {
			t.Errorf("gone after %v and %d pings, want %v and 3", took, pings, want)
		}
		s.end(t)
	})
}

func TestASlowReaderIsCutOffAndDelaysNoOther(t *testing.T) {
	s := serveTCP(t)
	slow, ann := enter(t, s, "slow"), enter(t, s, "ann")
	slow.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	slow.hears("* ann is here") // and then it stops
	text := strings.Repeat("x", maxMessage)
	for {
		ann.says(text)
		f := ann.frame()
		if string(f.Payload) == "* slow has left" {
			break
		}
		if want := "ann: " + text; string(f.Payload) != want {
			t.Fatalf("heard %.100q", f.Payload)
		}
		if n := s.loop.Stats().Conns.Buffered; n > 2*maxPending {
			t.Fatalf("%d bytes wait, want at most %d for each of two", n, maxPending)
		}
	}
}
