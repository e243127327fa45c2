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

var errNoServer = errors.New("beanstalkd is not installed (apt-get install beanstalkd, or set BEANSTALKD)")

func findServer() (string, error) {
	if path := os.Getenv("BEANSTALKD"); path != "" {
		return path, nil
	}
	path, err := exec.LookPath("beanstalkd")
	if err != nil {
		return "", errNoServer
	}
	return path, nil
}

// startServer starts beanstalkd on a free port of 127.0.0.1.
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
	cmd := child.Command(path, "-l", "127.0.0.1", "-p", port)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
			return addr, stop, nil
		}
		if time.Now().After(end) {
			stop()
			return "", nil, fmt.Errorf("beanstalkd does not answer: %w", err)
		}
	}
}
