package looptest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strings"
	"time"
)

// A Step is one thing that a scripted peer does.
type Step func(c *scripted) error

type scripted struct {
	net.Conn
	in *bufio.Reader
}

// errEnd ends a script early, without fault.
var errEnd = errors.New("end of the script")

// A Script is a peer that follows a list of steps.
type Script struct {
	n     *Net
	ln    net.Listener
	steps []Step
}

// Script listens on address, "host:port", and takes each connection through steps,
// from the first on. After the last it closes the connection. The test fails if a
// peer does something else than a step expects. Script ends with the test.
func (n *Net) Script(address string, steps ...Step) error {
	ln, err := n.Listen(address)
	if err != nil {
		return err
	}
	s := &Script{n: n, ln: ln, steps: steps}
	go s.serve()
	return nil
}

func (s *Script) serve() {
	for connection := 1; ; connection++ {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		go s.follow(connection, c)
	}
}

func (s *Script) follow(connection int, c net.Conn) {
	defer c.Close()
	sc := &scripted{Conn: c, in: bufio.NewReader(c)}
	for i, step := range s.steps {
		switch err := step(sc); {
		case errors.Is(err, errEnd), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.n.fail(fmt.Errorf("script of %s: connection %d: step %d: %w", s.ln.Addr(), connection, i+1, err))
			return
		}
	}
}

// Expect reads a line and fails if it does not match pattern, in which "*" stands
// for any text without a slash and "?" for any character, as in path.Match. The end
// of the line, LF or CRLF, does not count.
func Expect(pattern string) Step {
	return func(c *scripted) error {
		line, err := c.in.ReadString('\n')
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

// escape lets "*" match slashes too.
func escape(s string) string { return strings.ReplaceAll(s, "/", "\x00") }

// ExpectBytes reads len(p) bytes and fails if they are not p.
func ExpectBytes(p string) Step {
	return func(c *scripted) error {
		got := make([]byte, len(p))
		n, err := io.ReadFull(c.in, got)
		if err != nil {
			return fmt.Errorf("expected %q, got %q and %w", p, got[:n], err)
		}
		if string(got) != p {
			return fmt.Errorf("expected %q, got %q", p, got)
		}
		return nil
	}
}

// ExpectEnd fails if anything but the end of the stream comes.
func ExpectEnd() Step {
	return func(c *scripted) error {
		b, err := c.in.ReadByte()
		switch {
		case err == nil:
			return fmt.Errorf("expected the end of the stream, got %q", b)
		case err != io.EOF:
			return fmt.Errorf("expected the end of the stream, got %w", err)
		}
		return nil
	}
}

// Reply sends s as it is.
func Reply(s string) Step {
	return func(c *scripted) error {
		_, err := io.WriteString(c.Conn, s)
		return err
	}
}

// Delay waits for d of virtual time.
func Delay(d time.Duration) Step {
	return func(*scripted) error {
		time.Sleep(d)
		return nil
	}
}

// Reset ends the connection with a reset.
func Reset() Step {
	return func(c *scripted) error {
		c.Conn.(*netConn).SetLinger(0)
		c.Close()
		return errEnd
	}
}

// Repeat takes the connection through steps again and again, until the peer ends
// its side between two rounds.
func Repeat(steps ...Step) Step {
	return func(c *scripted) error {
		for {
			if _, err := c.in.Peek(1); err != nil {
				return errEnd
			}
			for _, step := range steps {
				if err := step(c); err != nil {
					return err
				}
			}
		}
	}
}

// Handle reads an HTTP request with its body, fails if it is not one of method for
// target, and answers it with status and body.
func Handle(method, target string, status int, body string) Step {
	return func(c *scripted) error {
		if err := c.expectRequest(method, target); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c.Conn, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), len(body), body)
		return err
	}
}

// Broken reads an HTTP request as Handle does and answers it with raw, whatever that
// is.
func Broken(method, target, raw string) Step {
	return func(c *scripted) error {
		if err := c.expectRequest(method, target); err != nil {
			return err
		}
		_, err := io.WriteString(c.Conn, raw)
		return err
	}
}

func (c *scripted) expectRequest(method, target string) error {
	r, err := http.ReadRequest(c.in)
	if err != nil {
		return fmt.Errorf("expected a request %s %s, got %w", method, target, err)
	}
	if r.Method != method || r.RequestURI != target {
		return fmt.Errorf("expected a request %s %s, got %s %s", method, target, r.Method, r.RequestURI)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}
