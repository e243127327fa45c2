package redis_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 30 * time.Second

// A realServer is a child process with redis-server.
type realServer struct {
	path string // of its unix socket
	addr string // of its port, on 127.0.0.1
	args []string
	cmd  *exec.Cmd
	log  *os.File
}

// findServer returns the path of redis-server, or "".
func findServer() string {
	if path := os.Getenv("REDIS_SERVER"); path != "" {
		return path
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return ""
	}
	return path
}

const noServer = "redis-server is not installed (apt-get install redis-server, or set REDIS_SERVER)"

// needServer skips the test where there is no redis-server. With CI=1 it fails.
func needServer(t testing.TB) {
	t.Helper()
	if findServer() != "" {
		return
	}
	if os.Getenv("CI") == "1" {
		t.Fatal(noServer)
	}
	t.Skip(noServer)
}

// startServer starts a server of its own for a test, with additional arguments.
func startServer(t testing.TB, args ...string) *realServer {
	t.Helper()
	needServer(t)
	s, err := newServer(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

func newServer(args ...string) (*realServer, error) {
	dir, err := os.MkdirTemp("", "redis") // t.TempDir may be too long for a unix socket
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	ln.Close()
	s := &realServer{path: filepath.Join(dir, "sock"), addr: addr}
	s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--unixsocket", s.path, "--dir", dir, "--save", "", "--appendonly", "no"}, args...)
	s.log, err = os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	return s, s.start()
}

// start starts the process and waits until it listens.
func (s *realServer) start() error {
	s.cmd = exec.Command(findServer(), s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(watchdogTime); ; time.Sleep(2 * time.Millisecond) {
		c, err := net.Dial("unix", s.path)
		if err == nil {
			c.Close()
			return nil
		}
		if time.Now().After(end) {
			s.kill()
			log, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("redis-server does not listen: %w\n%s", err, log)
		}
	}
}

func (s *realServer) signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

// kill ends the process by SIGKILL.
func (s *realServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *realServer) stop() {
	s.kill()
	s.log.Close()
	os.RemoveAll(filepath.Dir(s.path))
}

var shared struct {
	once sync.Once
	s    *realServer
	err  error
}

// sharedServer returns the server that tests share which do it no harm.
func sharedServer() (*realServer, error) {
	shared.once.Do(func() { shared.s, shared.err = newServer() })
	return shared.s, shared.err
}

func stopShared() {
	if shared.s != nil {
		shared.s.stop()
	}
}

// onServer runs f in a task, with a client of the shared server whose database is empty.
// The loop has to end by itself.
func onServer(t *testing.T, o redis.Options, f func(task *eventloop.Task, c *redis.Client)) {
	t.Helper()
	needServer(t)
	s, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	if o.Addr == "" {
		o.Addr = s.path
	}
	checkDescriptors(t)
	runTask(t, func(task *eventloop.Task) {
		c, err := redis.New(task.Loop(), &o)
		if err != nil {
			t.Fatal(err)
		}
		must(t, c.FlushDB(task.Context())).Await(task)
		f(task, c)
	})
}

// runTask runs f in a task of a loop, which has to end by itself.
func runTask(t *testing.T, f func(task *eventloop.Task)) {
	t.Helper()
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		dog := time.AfterFunc(watchdogTime, func() {
			t.Error("the loop hangs")
			l.LogHandles()
			l.Stop()
		})
		l.OnExit(func() { dog.Stop() })
		l.Go(t.Context(), func(task *eventloop.Task) error {
			f(task)
			return nil
		}).Ignore()
		return nil
	})
	if err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// must has the test fail if a future does.
func must[T any](t *testing.T, f *eventloop.Future[T]) *eventloop.Future[T] {
	t.Helper()
	f.Then(func(_ T, err error) {
		if err != nil {
			t.Helper()
			t.Errorf("failed: %v", err)
		}
	})
	return f
}

// checkDescriptors compares, at the end of the test, the sockets of the process with
// those that are there now.
func checkDescriptors(t testing.TB) {
	t.Helper()
	before := len(sockets(t))
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(watchdogTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if left = sockets(t); len(left) <= before {
				return
			}
		}
		t.Errorf("the test leaves descriptors: %v", left)
	})
}

func sockets(t testing.TB) (open []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // not on this system
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(target) > 7 && target[:7] == "socket:" {
			open = append(open, target)
		}
	}
	return open
}
