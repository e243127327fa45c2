// Package check has the checks that both versions of each program must pass: that with
// eventloop and that in plain Go. It runs them as processes and looks from outside.
package check

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// watchdog is when something that should have happened is taken never to happen.
const watchdog = 20 * time.Second

// runEnv is set in the processes that are to run the program instead of its tests.
const runEnv = "EVENTLOOP_EXAMPLE_RUN"

// Main is TestMain of a program whose main function is run: the test binary is the
// program, too.
func Main(m *testing.M, run func()) {
	if os.Getenv(runEnv) != "" {
		run()
		return
	}
	os.Exit(m.Run())
}

// command returns the program with arguments, not yet started.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows cannot send SIGTERM to a process")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), runEnv+"=1")
	return cmd
}

// run runs the program to its end and returns its output and whether it succeeded.
func run(t *testing.T, input string, args ...string) (output string, ok bool) {
	t.Helper()
	cmd := command(t, args...)
	cmd.Stdin = strings.NewReader(input)
	dog := time.AfterFunc(watchdog, func() { cmd.Process.Kill() })
	defer dog.Stop()
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("the program ended with %v", err)
	}
	return string(out), err == nil
}

// A server is a program that listens.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	addr   string
	stderr bytes.Buffer // to be read when the program has ended
}

// serve starts the program with a free address and further arguments. It is killed at
// the end of the test.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, cmd: command(t, append([]string{"127.0.0.1:0"}, args...)...)}
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("the program says %q (%v), want an address", line, err)
	}
	s.addr = addr
	return s
}

// signal asks the program to end.
func (s *server) signal() { s.cmd.Process.Signal(syscall.SIGTERM) }

// wait waits for the end of the program, which must have the exit code.
func (s *server) wait(code int) {
	s.t.Helper()
	dog := time.AfterFunc(watchdog, func() { s.cmd.Process.Kill() })
	defer dog.Stop()
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d; the program says: %s", got, code, &s.stderr)
	}
}

// end ends the program, of which no client is left.
func (s *server) end() {
	s.t.Helper()
	s.signal()
	s.wait(0)
}

// endByForce ends the program while c does nothing, which is cut off.
func (s *server) endByForce(c *conn) {
	s.t.Helper()
	s.signal()
	c.ended()
	s.wait(1)
	if s.stderr.Len() == 0 {
		s.t.Error("the program says nothing of the client that it cut off")
	}
}

// A conn is a client.
type conn struct {
	*net.TCPConn
	t  *testing.T
	br *bufio.Reader
}

func (s *server) dial() *conn {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return newConn(s.t, nc)
}

func newConn(t *testing.T, nc net.Conn) *conn {
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(watchdog))
	return &conn{nc.(*net.TCPConn), t, bufio.NewReader(nc)}
}

func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Errorf("send: %v", err)
	}
}

// want reads a line, which must be the given one.
func (c *conn) want(line string) {
	c.t.Helper()
	got, err := c.br.ReadString('\n')
	if got != line+"\n" {
		c.t.Fatalf("received %q (%v), want %q", got, err, line)
	}
}

// ended waits until the program closes the connection, and returns what came before.
func (c *conn) ended() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the connection stays open; received %q", rest)
	}
	return string(rest)
}

// reset leaves without a goodbye.
func (c *conn) reset() {
	c.SetLinger(0)
	c.Close()
}
