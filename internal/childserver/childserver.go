// Package childserver helps tests to run servers as child processes. The drivers, which are
// modules of their own below this one, share it.
package childserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Ports for servers. They are below the range from which the systems take the ports of
// outgoing connections and of listeners that ask for any port. So between the choice of a
// port and the start of its server, or while a server is down, no other program gets the
// port by chance, and no client connects to itself.
const firstPort, lastPort = 20_000, 31_999

// Reserve returns an address of 127.0.0.1 that is free and that no other test gets until
// release is called. A server can listen there as often as it likes.
//
// The reservation is a UDP socket at the same port, which the servers do not use.
func Reserve() (addr string, release func(), err error) {
	for range 100 {
		addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort+1)))
		var held net.PacketConn
		if held, err = net.ListenPacket("udp", addr); err != nil {
			continue
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp", addr); err != nil {
			held.Close()
			continue
		}
		return addr, func() { held.Close() }, ln.Close()
	}
	return "", nil, err
}

// patience is how long a server may take to start. It is no measure of anything: it turns a
// hang into a failure.
const patience = 2 * time.Minute

var errEnded = errors.New("the process has ended")

// Await waits until a process that was started is ready, which ready says by returning nil.
// It fails if the process ends, which is noticed on Linux, or takes too long.
func Await(cmd *exec.Cmd, ready func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		over := ended(cmd.Process.Pid) // before the last try
		err := ready()
		switch {
		case err == nil && !over:
			return nil
		case over:
			err = errors.Join(errEnded, err)
		case time.Now().Before(end):
			continue
		}
		return fmt.Errorf("%s does not start: %w", filepath.Base(cmd.Path), err)
	}
}

// Listens returns a ready function for [Await]: a server listens at addr.
func Listens(network, addr string) (ready func() error) {
	return func() error {
		c, err := net.Dial(network, addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// ended reports whether a child process has ended but has not been waited for. It knows that
// on Linux only.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')'):], []byte(" ")) // the name may have anything in it
	return len(state) > 0 && (state[0] == 'Z' || state[0] == 'X')
}
