// Package redistest runs redis-server as a child process, for tests.
package redistest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/onloop/eventloop/internal/childserver"
)

// Missing says that there is no redis-server.
const Missing = "redis-server is not installed (apt-get install redis-server, or set REDIS_SERVER)"

// Find returns the path of redis-server, or "".
func Find() string {
	if path := os.Getenv("REDIS_SERVER"); path != "" {
		return path
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return ""
	}
	return path
}

// Need skips the test where there is no redis-server. It fails if CI is set.
func Need(t testing.TB) {
	t.Helper()
	if Find() != "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(Missing)
	}
	t.Skip(Missing)
}

// A Server is a child process with redis-server. On Linux it ends with this process, however
// this one ends.
type Server struct {
	Path string // of its unix socket
	Addr string // of its port, on 127.0.0.1
	Cmd  *exec.Cmd

	args    []string
	log     *os.File
	release func() // gives the port back
}

// Start starts a server for a test, with additional arguments. It ends with the test.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	Need(t)
	s, err := New(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// New starts a server that ends with Stop.
func New(args ...string) (*Server, error) {
	dir, err := os.MkdirTemp("", "redis") // the path of a unix socket has to be short
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	addr, release, err := childserver.Reserve()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &Server{Path: filepath.Join(dir, "sock"), Addr: addr, log: log, release: release}
	s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--unixsocket", s.Path, "--dir", dir, "--save", "", "--appendonly", "no"}, args...)
	if err := s.Restart(); err != nil {
		text, _ := os.ReadFile(log.Name())
		s.Stop()
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return s, nil
}

// Restart starts the process and waits until it listens, at the port and at the unix socket.
func (s *Server) Restart() error {
	s.Cmd = exec.Command(Find(), s.args...)
	s.Cmd.Stdout, s.Cmd.Stderr = s.log, s.log
	s.Cmd.SysProcAttr = endWithParent()
	if err := s.Cmd.Start(); err != nil {
		return err
	}
	if err := childserver.Await(s.Cmd, childserver.Listens("tcp", s.Addr)); err != nil {
		return err
	}
	return childserver.Await(s.Cmd, childserver.Listens("unix", s.Path))
}

// Kill ends the process by SIGKILL.
func (s *Server) Kill() {
	if s.Cmd.Process != nil {
		s.Cmd.Process.Kill()
		s.Cmd.Wait()
	}
}

// Stop ends the server and removes its files.
func (s *Server) Stop() {
	s.Kill()
	s.log.Close()
	os.RemoveAll(filepath.Dir(s.Path))
	s.release()
}
