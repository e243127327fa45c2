//go:build unix

package main

import (
	"io"
	"os"
	"syscall"
	"testing"
)

// A Read of the standard input of a program is not interrupted by Close.
func TestAMemberEndsWithItsConnectionAlthoughItsInputDoesNotEnd(t *testing.T) {
	s := serveTCP(t)
	bob := enter(t, s, "bob")
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	in, keys := os.NewFile(uintptr(p[0]), "input"), os.NewFile(uintptr(p[1]), "keys")
	defer keys.Close()
	ended := make(chan error, 1)
	go func() { ended <- member("ws://"+s.ln.Addr().String()+"/chat?name=ann", in, io.Discard) }()
	bob.hears("* ann is here")
	io.WriteString(keys, "hello\n")
	bob.hears("ann: hello")
	s.loop.Post(s.room.close)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
