package main

import (
	"errors"
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
	s, err := child.Start(path, func(addr string) []string {
		_, port, _ := net.SplitHostPort(addr)
		return []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir(),
			"--client-output-buffer-limit", "pubsub 0 0 0"}
	})
	if err != nil {
		return "", nil, err
	}
	stop = func() { s.Stop() }
	if err := fill(s.Addr); err != nil {
		stop()
		return "", nil, err
	}
	return s.Addr, stop, nil
}

func pause() { time.Sleep(50 * time.Microsecond) }
