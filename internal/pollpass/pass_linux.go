package pollpass

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Passer is for one goroutine. The zero Passer is ready for use.
type Passer struct {
	file   *os.File // an eventfd; nil before the first pass
	raw    syscall.RawConn
	step   func(fd uintptr) bool
	armed  bool // the current pass waits for the poller
	failed bool // creating the descriptor has failed
}

// Pass lets all runnable goroutines run, and the goroutines whose connections are ready. If
// there are none, it takes 1.5 microseconds.
//
// The caller waits for a descriptor that it has just made readable, so it continues when
// the scheduler has polled the network. With more than one processor, another processor
// polls meanwhile, and waiting would only cost time (6 to 10 % of the echoes with 50 and
// 500 connections on two processors). Pass is runtime.Gosched then.
func (p *Passer) Pass() {
	if runtime.GOMAXPROCS(0) > 1 || p.file == nil && !p.open() {
		runtime.Gosched()
		return
	}
	p.armed = false
	if p.raw.Read(p.step) != nil {
		runtime.Gosched()
	}
}

// open creates the descriptor. If that fails, Pass is runtime.Gosched from then on.
func (p *Passer) open() bool {
	if p.failed {
		return false
	}
	p.failed = true
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	p.file = os.NewFile(uintptr(fd), "eventfd")
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.Close()
		return false
	}
	p.failed = false
	p.step = p.ready
	return true
}

// ready makes the descriptor readable and returns false, so that the caller waits for it.
// The second call clears the descriptor and returns true.
func (p *Passer) ready(fd uintptr) (done bool) {
	if !p.armed {
		one := [8]byte{0: 1, 7: 1} // not zero in any byte order
		_, err := unix.Write(int(fd), one[:])
		p.armed = err == nil
		return !p.armed
	}
	var count [8]byte
	unix.Read(int(fd), count[:])
	return true
}

// Close closes the descriptor.
func (p *Passer) Close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}
