//go:build unix

package main

import (
	"os"
	"syscall"
	"testing"

	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

// A Read of the standard input of a program is not interrupted by Close.
func TestAMemberQuitsAlthoughItsInputDoesNotEnd(t *testing.T) {
	server := redistest.Start(t)
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	in, keys := os.NewFile(uintptr(p[0]), "input"), os.NewFile(uintptr(p[1]), "keys")
	defer keys.Close()
	ada := startReading(t, &redis.Options{Addr: server.Path}, "Ada", in, keys)
	ada.types("/quit")
	if err := <-ada.end; err != nil {
		t.Error(err)
	}
}
