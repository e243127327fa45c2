package beanstalk_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/childserver"
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
	s := &server{addr: os.Getenv(panicEnv)}
	if err := s.restart(); err != nil {
		panic(err)
	}
	fmt.Println("started")
	panic("as the test wants it")
}

func TestTheServerEndsWithAProcessThatPanics(t *testing.T) {
	needServer(t)
	addr, release, err := childserver.Reserve() // so that no other server gets it
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), panicEnv+"="+addr)
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); !ok || string(out) != "started\n" {
		t.Fatalf("the process prints %q, %v, want the error of a panic", out, err)
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
