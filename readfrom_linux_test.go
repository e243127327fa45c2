package eventloop_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal returns a terminal as a program inherits it, and its keyboard and screen.
func terminal(t *testing.T) (tty, keys *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("the system has no pseudoterminals: %v", err)
	}
	n := 0
	var err1, err2 error
	rc, err := keys.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) {
			err1 = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
			n, err2 = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		})
	}
	if err != nil || err1 != nil || err2 != nil {
		t.Fatal(err, err1, err2)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name), keys
}

func TestALoopEndsAlthoughAReadOfATerminalDoesNot(t *testing.T) { testLeavingRead(t, terminal) }
