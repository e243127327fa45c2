package looptest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop/internal/ordering"
)

// A Step is one action of a scripted peer on its connection. It reads from in, which buffers
// c, and writes to c. If it returns an error, the test fails.
type Step func(c net.Conn, in *bufio.Reader) error

// errEnd ends a script early and does not fail the test.
var errEnd = errors.New("end of the script")

// A script is a peer that follows a list of steps.
type script struct {
	n     *Net
	name  string
	steps []Step
}

// Script listens on address, "host:port", and runs steps, in order, on each connection that
// it accepts. After the last step it closes the connection.
//
// The test fails if a peer does not do what a step expects, or if a script has steps left a
// minute after the loops have ended.
func (n *Net) Script(address string, steps ...Step) error {
	ln, err := n.Listen(address)
	if err != nil {
		return err
	}
	s := &script{n: n, name: address, steps: steps}
	go func() {
		for connection := 1; ; connection++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.scripts.Go(func() { s.follow(connection, c) })
		}
	}()
	return nil
}

// ScriptClient connects from host to address, "host:port", and runs steps on the connection,
// as Script does. It dials at once. The test fails if it cannot connect.
func (n *Net) ScriptClient(host, address string, steps ...Step) {
	s := &script{n: n, name: host + " to " + address, steps: steps}
	ctx := ordering.WithName(n.ctx, n.clientName(host))
	n.scripts.Go(func() {
		c, err := n.Dialer(host)(ctx, "tcp", address)
		if err != nil {
			s.fail("dial", err)
			return
		}
		s.follow(1, c)
	})
}

// clientName numbers the scripted clients of a host. The calls of ScriptClient have a fixed
// order; the goroutines of the clients do not.
func (n *Net) clientName(host string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.scripted[host]++
	return "script#" + strconv.Itoa(n.scripted[host])
}

func (s *script) follow(connection int, c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for i, step := range s.steps {
		switch err := step(c, in); {
		case err == errEnd:
			return
		case err != nil:
			s.fail(fmt.Sprintf("connection %d: step %d", connection, i+1), err)
			return
		}
	}
}

// fail fails the test with an error that occurred at a place of the script.
func (s *script) fail(place string, err error) {
	if s.n.ctx.Err() != nil {
		place += ": the loops have already ended"
	}
	s.n.fail(fmt.Errorf("script of %s: %s: %w", s.name, place, err))
}

// scriptsGrace is how long scripts may continue after the loops have ended.
const scriptsGrace = time.Minute

// awaitScripts waits for the running scripts, for at most scriptsGrace.
func (n *Net) awaitScripts() {
	done := make(chan struct{})
	go func() {
		n.scripts.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(scriptsGrace):
	}
}

// Expect reads a line and fails if the line does not match pattern, in which "*" stands for
// any text without a slash and "?" for any character, as in path.Match. The line ending, LF
// or CRLF, does not count.
func Expect(pattern string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("expected %q, got %q and %w", pattern, line, err)
		}
		line = strings.TrimRight(line, "\r\n")
		if ok, err := path.Match(escape(pattern), escape(line)); err != nil || !ok {
			return errors.Join(fmt.Errorf("expected %q, got %q", pattern, line), err)
		}
		return nil
	}
}

// escape makes "*" match slashes, too.
func escape(s string) string { return strings.ReplaceAll(s, "/", "\x00") }

// ExpectBytes reads len(p) bytes and fails if they are not p.
func ExpectBytes(p string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		got := make([]byte, len(p))
		n, err := io.ReadFull(in, got)
		if err != nil {
			return fmt.Errorf("expected %q, got %q and %w", p, got[:n], err)
		}
		if string(got) != p {
			return fmt.Errorf("expected %q, got %q", p, got)
		}
		return nil
	}
}

// ExpectEnd fails unless the next event is the end of the stream. A connection that the other
// side aborts ends with syscall.ECONNRESET instead.
func ExpectEnd() Step {
	return func(c net.Conn, in *bufio.Reader) error {
		b, err := in.ReadByte()
		switch {
		case err == nil:
			return fmt.Errorf("expected the end of the stream, got %q", b)
		case err != io.EOF:
			return fmt.Errorf("expected the end of the stream, got %w", err)
		}
		return nil
	}
}

// Reply sends s unchanged.
func Reply(s string) Step {
	return func(c net.Conn, _ *bufio.Reader) error {
		_, err := io.WriteString(c, s)
		return err
	}
}

// Delay waits for d of virtual time.
func Delay(d time.Duration) Step {
	return func(net.Conn, *bufio.Reader) error {
		time.Sleep(d)
		return nil
	}
}

// Reset ends the connection with a reset.
func Reset() Step {
	return func(c net.Conn, in *bufio.Reader) error {
		c.(*netConn).SetLinger(0)
		c.Close()
		return errEnd
	}
}

// Repeat runs steps repeatedly, until the peer ends its side between two repetitions.
func Repeat(steps ...Step) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		for {
			if _, err := in.Peek(1); err != nil {
				return errEnd
			}
			for _, step := range steps {
				if err := step(c, in); err != nil {
					return err
				}
			}
		}
	}
}

// Handle reads an HTTP request with its body, fails unless it has the method and the target,
// and sends a response with status and body.
func Handle(method, target string, status int, body string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		if err := expectRequest(in, method, target); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), len(body), body)
		return err
	}
}

// Broken reads an HTTP request as Handle does and sends raw, which need not be a valid
// response.
func Broken(method, target, raw string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		if err := expectRequest(in, method, target); err != nil {
			return err
		}
		_, err := io.WriteString(c, raw)
		return err
	}
}

// Request sends an HTTP request with body. The Host header is the address of the server.
func Request(method, target, body string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		_, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s",
			method, target, c.RemoteAddr(), len(body), body)
		return err
	}
}

// ExpectResponse reads an HTTP response with its body, and fails if it has another status or
// body. It cannot read the response to a HEAD request.
func ExpectResponse(status int, body string) Step {
	return func(c net.Conn, in *bufio.Reader) error {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			return fmt.Errorf("expected a response %d %q, got %w", status, body, err)
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != status || string(got) != body {
			return errors.Join(fmt.Errorf("expected a response %d %q, got %d %q", status, body, r.StatusCode, got), err)
		}
		return nil
	}
}

func expectRequest(in *bufio.Reader, method, target string) error {
	r, err := http.ReadRequest(in)
	if err != nil {
		return fmt.Errorf("expected a request %s %s, got %w", method, target, err)
	}
	if r.Method != method || r.RequestURI != target {
		return fmt.Errorf("expected a request %s %s, got %s %s", method, target, r.Method, r.RequestURI)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}
