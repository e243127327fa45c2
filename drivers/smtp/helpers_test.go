package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// seeds is in how many orders of events the tests of the protocol run.
const seeds = 100

// server is the address of the scripted servers.
const server = "mail.example:587"

// protocolTest runs f in many orders of events.
func protocolTest(t *testing.T, f func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error) {
	t.Helper()
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 5*time.Millisecond)
		return f(t, l, n)
	})
}

// newClient returns a client for the scripted server. It speaks in the clear unless
// change says something else.
func newClient(t *testing.T, l *eventloop.Loop, n *looptest.Net, change func(o *Options)) *Client {
	t.Helper()
	o := Options{Addr: server, Security: NoTLS, LocalName: "client.example", Dial: n.Dialer("client")}
	if change != nil {
		change(&o)
	}
	c, err := New(l, &o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mail returns a mail to the recipients, or to b@y if there are none.
func mail(to ...string) Mail {
	if len(to) == 0 {
		to = []string{"b@y"}
	}
	return Mail{From: "a@x", To: to, Body: []byte("Subject: hi\r\n\r\nhello\r\n")}
}

// Steps of scripts.

func steps(lists ...[]looptest.Step) (all []looptest.Step) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// say expects each line and answers it with the one that follows.
func say(lines ...string) (list []looptest.Step) {
	for i := 0; i < len(lines); i += 2 {
		list = append(list, looptest.Expect(lines[i]), looptest.Reply(lines[i+1]+"\r\n"))
	}
	return list
}

// greet greets and offers extensions.
func greet(extensions ...string) []looptest.Step {
	return append([]looptest.Step{looptest.Reply("220 mail.example ESMTP\r\n")}, hello(extensions...)...)
}

// hello answers EHLO.
func hello(extensions ...string) []looptest.Step {
	reply := "mail.example"
	for _, x := range extensions {
		reply += "\r\n" + x
	}
	lines := strings.Split(reply, "\r\n")
	for i := range lines {
		if sep := "-"; i < len(lines)-1 {
			lines[i] = "250" + sep + lines[i]
		} else {
			lines[i] = "250 " + lines[i]
		}
	}
	return say("EHLO client.example", strings.Join(lines, "\r\n"))
}

// expect expects lines without answering.
func expect(lines ...string) (list []looptest.Step) {
	for _, line := range lines {
		list = append(list, looptest.Expect(line))
	}
	return list
}

func reply(lines ...string) []looptest.Step {
	return []looptest.Step{looptest.Reply(strings.Join(lines, "\r\n") + "\r\n")}
}

// hi is the mail of the function mail as the server gets it.
var hi = expect("Subject: hi", "", "hello", ".")

// envelope expects the commands of a mail of the function mail to one recipient.
var envelope = expect("MAIL FROM:<a@x>*", "RCPT TO:<b@y>", "DATA")

// accept takes such a mail from a client that pipelines.
func accept() []looptest.Step {
	return steps(envelope, reply("250 ok", "250 ok", "354 go"), hi, reply("250 2.0.0 queued"))
}

// bye answers QUIT.
var bye = steps(say("QUIT", "221 bye"), []looptest.Step{looptest.ExpectEnd()})

// aborted expects that the client aborts the connection.
var aborted = []looptest.Step{func(_ net.Conn, in *bufio.Reader) error {
	if b, err := in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("got %q, %v, want a reset", b, err)
	}
	return nil
}}

// sent fails the test unless the mail was accepted, and then calls next.
func sent(t *testing.T, f *eventloop.Future[Receipt], next func(r Receipt)) {
	f.Then(func(r Receipt, err error) {
		if err != nil {
			t.Errorf("the mail failed: %v", err)
		}
		if next != nil {
			next(r)
		}
	})
}

// fails fails the test unless the mail fails with an error that matches all of want.
func fails(t *testing.T, f *eventloop.Future[Receipt], want ...error) *eventloop.Future[Receipt] {
	f.Then(func(r Receipt, err error) {
		for _, w := range want {
			if !errors.Is(err, w) {
				t.Errorf("got %v, %+v, want an error that matches %q", err, r, w)
			}
		}
		checkOpError(t, err)
	})
	return f
}

// checkOpError checks that err says what failed.
func checkOpError(t *testing.T, err error) {
	var op *eventloop.OpError
	if !errors.As(err, &op) || op.Op != OpSend || op.Addr != server || op.Net != "tcp" {
		t.Errorf("%v (%T) does not have the operation and the address", err, err)
	}
}

// failsWith fails the test unless the server refuses the mail with want, but for
// want.Rejected.
func failsWith(t *testing.T, f *eventloop.Future[Receipt], want Error) {
	f.Then(func(r Receipt, err error) {
		var got *Error
		if !errors.As(err, &got) {
			t.Errorf("got %v, want an *Error", err)
			return
		}
		if g := *got; g.Command != want.Command || g.Code != want.Code || g.Enhanced != want.Enhanced || g.Text != want.Text {
			t.Errorf("got %+v, want %+v", g, want)
		}
		if errors.Is(err, ErrUncertain) {
			t.Errorf("a refused mail is uncertain: %v", err)
		}
		checkOpError(t, err)
	})
}

// A counter counts what a client dials, and its round trips.
type counter struct {
	mu    sync.Mutex
	dials int
	trips int // writes that came after a read, or first
	wrote int // writes
}

// dialer returns dial, counted.
func (k *counter) dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		k.mu.Lock()
		k.dials++
		k.mu.Unlock()
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: c, k: k, read: true}, nil
	}
}

func (k *counter) get() (dials, trips int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dials, k.trips
}

func (k *counter) writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wrote
}

// A countedConn is a connection whose round trips are counted.
type countedConn struct {
	net.Conn
	k    *counter
	read bool // something was read since the last write. Guarded by k.mu
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.k.mu.Lock()
	c.read = c.read || n > 0
	c.k.mu.Unlock()
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.k.mu.Lock()
	c.k.wrote++
	if c.read {
		c.read = false
		c.k.trips++
	}
	c.k.mu.Unlock()
	return c.Conn.Write(p)
}

// step is a step of a script with a name for its failures.
func step(name string, f func(c net.Conn, in *bufio.Reader) error) []looptest.Step {
	return []looptest.Step{func(c net.Conn, in *bufio.Reader) error {
		if err := f(c, in); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}}
}
