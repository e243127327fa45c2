package main

import (
	"errors"
	"net"
	"os"
	"os/exec"

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
	s, err := child.Start(path, func(addr string) []string {
		_, port, _ := net.SplitHostPort(addr)
		return []string{"-l", "127.0.0.1", "-p", port}
	})
	if err != nil {
		return "", nil, err
	}
	return s.Addr, func() { s.Stop() }, nil
}
