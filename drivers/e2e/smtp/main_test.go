package main

import (
	"os"
	"testing"

	"github.com/onloop/eventloop/internal/leaktest"
)

// The test binary is also the server that the tests of faults kill: see child_test.go.
func TestMain(m *testing.M) {
	if addr := os.Getenv(childAddr); addr != "" {
		serveAsChild(addr, os.Getenv(childFile))
		return
	}
	leaktest.Main(m, nil)
}
