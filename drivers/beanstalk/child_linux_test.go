package beanstalk_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endWithParent ends a child process with this one, also after a panic. Linux sends the
// signal when the thread ends that started the child. Threads of the Go runtime end with
// the process, except those that LockOSThread has given to a goroutine for good.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

const panicEnv = "BEANSTALK_TEST_PANIC"

// panicIfAsked is the process of TestTheServerEndsWithAProcessThatPanics.
func panicIfAsked() {
	if os.Getenv(panicEnv) == "" {
		return
	}
	s, err := startServer("")
	if err == nil {
		fmt.Println(s.addr)
	}
	panic(err)
}

func TestTheServerEndsWithAProcessThatPanics(t *testing.T) {
	real(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), panicEnv+"=1")
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); !ok {
		t.Fatalf("error of the process = %v, want that of a panic", err)
	}
	addr := strings.TrimSpace(string(out))
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(watchdog); ; time.Sleep(time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		nc.Close()
		if time.Now().After(end) {
			t.Fatal("the server goes on")
		}
	}
}
