// Package child runs the servers of the tests: programs that are installed, or that are built
// from a module of this directory.
package child

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// startTime bounds the start of a server.
const startTime = 30 * time.Second

// Command is [exec.Command]. On Linux, the process ends with this one, however this one
// ends: by a signal, a panic, or the timeout of a test.
func Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = endWithParent()
	return cmd
}

// A Server is a child process of [Command] that listens.
type Server struct {
	Addr string
	cmd  *exec.Cmd
	log  *os.File // what it prints; a buffer would take a goroutine of this process
}

// Start starts a program with arguments, and waits until it listens at addr.
func Start(addr, program string, args ...string) (*Server, error) {
	log, err := os.CreateTemp("", "e2e-log")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, cmd: Command(program, args...), log: log}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		log.Close()
		os.Remove(log.Name())
		return nil, err
	}
	for end := time.Now().Add(startTime); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return s, c.Close()
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s does not listen: %w\n%s", filepath.Base(program), err, s.Stop())
		}
	}
}

// Stop ends the server as a crash would, and returns what it has printed. Further calls do
// nothing.
func (s *Server) Stop() string {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	text, _ := os.ReadFile(s.log.Name())
	s.log.Close()
	os.Remove(s.log.Name())
	return string(text)
}

// FreeAddr returns an address of 127.0.0.1 that was free a moment ago.
func FreeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
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
	_, file, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(file), "..", "..", name)
	program = filepath.Join(cache, "eventloop-e2e", name)
	if out, err := exec.Command("go", "build", "-C", source, "-o", program, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	built[name] = program
	return program, nil
}
