package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

var errNoServer = errors.New("redis-server is not installed (apt-get install redis-server, or set REDIS_SERVER)")

func findServer() (string, error) {
	if path := os.Getenv("REDIS_SERVER"); path != "" {
		return path, nil
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errNoServer
	}
	return path, nil
}

// startServer starts redis-server on a free port of 127.0.0.1.
func startServer() (addr string, stop func(), err error) {
	path, err := findServer()
	if err != nil {
		return "", nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := child.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir(),
		"--client-output-buffer-limit", "pubsub 0 0 0")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = fill(addr); err == nil {
			return addr, stop, nil
		}
		if time.Now().After(end) {
			stop()
			return "", nil, fmt.Errorf("redis-server does not answer: %w", err)
		}
	}
}

func pause() { time.Sleep(50 * time.Microsecond) }
