// Package child runs the servers of the tests: programs that are installed, or that are built
// from a module of this directory.
package child

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/onloop/eventloop/internal/childserver"
)

// Command is [exec.Command]. On Linux, the process ends with this one, however this one
// ends: by a signal, a panic, or the timeout of a test.
func Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = endWithParent()
	return cmd
}

// A Server is a child process of [Command] that listens at an address, which it keeps until
// Stop.
type Server struct {
	Addr string

	program string
	args    []string
	cmd     *exec.Cmd
	log     *os.File // what it prints; a buffer would take a goroutine of this process
	release func()   // gives the address back
}

// Start starts a program at a free address, and waits until it listens. args returns the
// arguments of the program.
func Start(program string, args func(addr string) []string) (*Server, error) {
	addr, release, err := childserver.Reserve()
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp("", "e2e-log")
	if err != nil {
		release()
		return nil, err
	}
	s := &Server{Addr: addr, program: program, args: args(addr), log: log, release: release}
	if err := s.Restart(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, s.Stop())
	}
	return s, nil
}

// Restart starts the program again, after Kill, and waits until it listens.
func (s *Server) Restart() error {
	s.cmd = Command(s.program, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return childserver.Await(s.cmd, childserver.Listens("tcp", s.Addr))
}

// Kill ends the server as a crash would. Further calls do nothing until Restart.
func (s *Server) Kill() {
	if s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Stop ends the server for good, as Kill does, and returns what it has printed. Further calls
// do nothing.
func (s *Server) Stop() string {
	s.Kill()
	text, _ := os.ReadFile(s.log.Name())
	s.log.Close()
	os.Remove(s.log.Name())
	s.release()
	return string(text)
}

var (
	buildMu sync.Mutex
	built   = make(map[string]string)
)

// Build builds a package of the module in directory name, once, and returns the program. Go
// keeps what was built.
func Build(name, pkg string) (program string, err error) {
	buildMu.Lock()
	defer buildMu.Unlock()
	if program = built[name]; program != "" {
		return program, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "eventloop-e2e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	_, file, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(file), "..", "..", name)
	program = filepath.Join(dir, name)
	// Tests of other packages build the same program, and run it, at the same time. So it is
	// written aside, and takes its name when it is complete.
	aside := fmt.Sprintf("%s.%d", program, os.Getpid())
	defer os.Remove(aside)
	if out, err := exec.Command("go", "build", "-C", source, "-o", aside, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	if err := os.Rename(aside, program); err != nil {
		return "", err
	}
	built[name] = program
	return program, nil
}
