package check

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Echo checks a server that sends back what it gets.
func Echo(t *testing.T) {
	s := serve(t)
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	var all sync.WaitGroup
	for range 5 {
		c := s.dial()
		all.Go(func() {
			c.Write(data)
			c.CloseWrite() // the rest still comes
		})
		all.Go(func() {
			if got, err := io.ReadAll(c); !bytes.Equal(got, data) || err != nil {
				t.Errorf("received %d bytes (%v), want the %d that were sent", len(got), err, len(data))
			}
			c.Close()
		})
	}
	all.Wait()
	s.dial().reset()
	c := s.dial()
	c.send("one\n")
	c.want("one")
	c.Close()
	s.end()

	s = serve(t)
	c = s.dial()
	c.send("two\n")
	c.want("two")
	s.endByForce(c)
}

// Chat checks a server that passes lines on between clients.
func Chat(t *testing.T) {
	s := serve(t)
	join := func(name string, others ...*conn) *conn {
		t.Helper()
		c := s.dial()
		c.send(name + "\n")
		c.want("welcome")
		for _, other := range others {
			other.want("* " + name + " joined")
		}
		return c
	}
	ann := join("ann")
	bob := join("bob", ann)
	ann.send("hello\nwor")
	bob.want("ann: hello")
	ann.send("ld\n") // the line in two pieces
	bob.want("ann: world")
	bob.send("hi\n")
	ann.want("bob: hi")

	other := s.dial()
	other.send("ann\n")
	if got := other.ended(); got != "taken\n" {
		t.Errorf("a second ann is told %q, want %q", got, "taken\n")
	}
	long := join("long", ann, bob)
	go io.WriteString(long, strings.Repeat("x", 100_000))
	long.ended()
	ann.want("* long left")
	bob.want("* long left")
	part := join("part", ann, bob)
	part.send("no end of a line")
	part.Close()
	ann.want("* part left")
	bob.want("* part left")

	join("slow", ann, bob) // and never reads
	chatUntilGone(ann, bob, "* slow left\n")
	ann.want("* slow left")
	ann.reset()
	bob.want("* ann left")
	bob.Close()
	s.end()

	s = serve(t)
	s.endByForce(join("ann"))
}

// chatUntilGone has ann talk to bob, no faster than bob hears it, until bob hears the
// line gone.
func chatUntilGone(ann, bob *conn, gone string) {
	text := strings.Repeat("y", 1000)
	seen := false
	for sent := 0; !seen; sent++ {
		if sent == 200_000 {
			ann.t.Fatal("200 MB have not cut off a client that does not read")
		}
		ann.send(text + "\n")
		for {
			line, err := bob.br.ReadString('\n')
			if err != nil {
				ann.t.Fatalf("bob: %v", err)
			}
			if line != gone {
				break
			}
			seen = true
		}
	}
}

// Proxy checks a server that passes connections on.
func Proxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := serve(t, ln.Addr().String())
	connect := func() (client, target *conn) {
		client = s.dial()
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return client, newConn(t, nc)
	}
	for _, clientFirst := range []bool{true, false} {
		a, b := connect()
		if !clientFirst {
			a, b = b, a
		}
		a.send("request\n")
		b.want("request")
		a.CloseWrite() // one direction ends, the other goes on
		if rest := b.ended(); rest != "" {
			t.Errorf("after the request comes %q", rest)
		}
		b.send("answer\n")
		a.want("answer")
		b.Close()
		if rest := a.ended(); rest != "" {
			t.Errorf("after the answer comes %q", rest)
		}
		a.Close()
	}
	// What the target does not read, the client cannot send without end.
	client, target := connect()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() { client.Write(data); client.CloseWrite() }()
	if got, err := io.ReadAll(target); !bytes.Equal(got, data) || err != nil {
		t.Errorf("16 MB arrive as %d bytes (%v)", len(got), err)
	}
	target.Close()
	client.ended()
	// A reset is passed on as the end.
	client, target = connect()
	target.send("part\n")
	client.want("part")
	target.reset()
	client.ended()
	client, target = connect()
	client.send("part\n")
	target.want("part")
	client.reset()
	target.ended()
	// Without a target there is no answer.
	ln.Close()
	if nc, err := net.Dial("tcp", s.addr); err == nil { // else the reset was faster
		if got := newConn(t, nc).ended(); got != "" {
			t.Errorf("without a target comes %q", got)
		}
	}
	s.end()
	if !strings.Contains(s.stderr.String(), ln.Addr().String()) {
		t.Errorf("the program does not say that the target refused: %s", &s.stderr)
	}
}

// Delayed checks a server that answers 300 ms later.
func Delayed(t *testing.T) {
	s := serve(t)
	c := s.dial()
	start := time.Now()
	c.send("one\ntwo\nth")
	c.send("ree\n")
	c.want("late: one")
	c.want("late: two")
	c.want("late: three")
	if d := time.Since(start); d < 300*time.Millisecond {
		t.Errorf("the answers came after %v", d)
	}
	c.send("last\n")
	c.CloseWrite()
	if got := c.ended(); got != "late: last\n" {
		t.Errorf("after the client's end comes %q", got)
	}
	s.dial().reset()
	gone := s.dial()
	gone.send("this gets no reader\n")
	gone.Close()
	waiting := s.dial()
	waiting.send("hello\n")
	waiting.CloseWrite()
	other := s.dial() // until the server has seen the others
	other.send("x\n")
	other.want("late: x")
	other.Close()
	if got := waiting.ended(); got != "late: hello\n" {
		t.Errorf("received %q", got)
	}
	s.end()

	s = serve(t)
	c = s.dial()
	c.send("x\n")
	c.want("late: x")
	s.endByForce(c)
}

// Graceful checks a server that lets those finish who wait for an answer.
func Graceful(t *testing.T) {
	s := serve(t)
	c := s.dial()
	c.send("one\n")
	c.want("done one")
	c.send("two\nthree\n")
	c.want("done two")
	c.want("done three")
	c.Close()

	// A client that has had an answer, one that never said a word, and those that wait.
	idle, silent := s.dial(), s.dial()
	idle.send("x\n")
	idle.want("done x")
	var busy []*conn
	for i := range 3 {
		c := s.dial()
		fmt.Fprintf(c, "busy %d\n", i)
		busy = append(busy, c)
	}
	last := s.dial() // it is served after the others have begun
	last.send("y\n")
	last.want("done y")
	for i, c := range busy {
		c.want(fmt.Sprint("done busy ", i))
		fmt.Fprintf(c, "again %d\n", i)
	}
	time.Sleep(200 * time.Millisecond) // the program has no way to say that it has begun
	s.signal()
	if got := idle.ended() + silent.ended() + last.ended(); got != "" {
		t.Errorf("idle clients are told %q", got)
	}
	for i, c := range busy {
		if got := c.ended(); got != fmt.Sprintf("done again %d\n", i) {
			t.Errorf("client %d receives %q", i, got)
		}
	}
	s.wait(0)
	if nc, err := net.Dial("tcp", s.addr); err == nil {
		nc.Close()
		t.Error("the address is still listened on")
	}
}

// Lines checks a store with a line protocol.
func Lines(t *testing.T) {
	s := serve(t)
	a, b := s.dial(), s.dial()
	for _, v := range []struct{ line, answer string }{
		{"SET color blue", "ok"},
		{"GET color", "value blue"},
		{"get color", "value blue"},
		{"  GET   color \r", "value blue"},
		{"GET size", "none"},
		{"SET color", "error: what?"},
		{"", "error: what?"},
		{"FLY", "error: what?"},
	} {
		a.send(v.line + "\n")
		a.want(v.answer)
	}
	b.send("GET color\nSET color red\nDEL size\n") // three at once
	b.want("value blue")
	b.want("ok")
	b.want("ok")
	a.send("GET co")
	a.send("lor\n")
	a.want("value red")
	a.send("DEL color\nGET color\nQUIT\nGET color\n")
	a.want("ok")
	a.want("none")
	if got := a.ended(); got != "bye\n" {
		t.Errorf("QUIT: %q", got)
	}
	b.CloseWrite()
	if got := b.ended(); got != "" {
		t.Errorf("at its end the client is told %q", got)
	}
	s.dial().reset()

	long := s.dial()
	go io.WriteString(long, strings.Repeat("x", 5000))
	if got := long.ended(); got != "error: line too long\n" {
		t.Errorf("a long line: %q", got)
	}
	idle := s.dial()
	if got := idle.ended(); got != "error: timeout\n" {
		t.Errorf("an idle client: %q", got)
	}
	drip := s.dial()
	go func() {
		for range 100 { // each byte comes in time, the line does not
			if _, err := io.WriteString(drip, "G"); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	if got := drip.ended(); got != "error: timeout\n" {
		t.Errorf("a client that drips: %q", got)
	}
	s.end()
}
