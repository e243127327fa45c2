package load

import (
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const haveEpoll = true

// An engine moves the bytes of all connections on one thread.
type engine struct {
	*tally
	ep     int
	base   time.Time
	addrs  []unix.Sockaddr
	dialed int
	conns  []*conn // by descriptor
	buf    []byte
	driver driver
}

// A conn is one connection.
type conn struct {
	fd         int
	connecting bool
	idle       bool
	unsent     []byte
	got        int           // bytes of the answer so far
	began      time.Duration // when the request was sent, or was to be
}

// A driver decides what happens on connections.
type driver interface {
	opened(c *conn)
	received(c *conn, n int)
	ended(c *conn, err error) // nil: the server ended it

	// step is called after each round of events. It returns how long to wait
	// for the next at most, or done.
	step(now time.Duration) (wait time.Duration, done bool)
}

// events is the most that one wait returns.
const events = 512

func epoll(t *tally) (*Result, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ep)
	e := &engine{tally: t, ep: ep, base: time.Now(), buf: make([]byte, 256<<10)}
	defer e.closeAll()
	for _, a := range t.spec.Addrs {
		addr, err := netip.ParseAddrPort(a)
		if err != nil {
			return nil, err
		}
		e.addrs = append(e.addrs, sockaddr(addr))
	}
	e.driver = newDriver(e)
	if err := e.run(); err != nil {
		return nil, err
	}
	return e.end(), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (e *engine) now() time.Duration { return time.Since(e.base) }

func (e *engine) run() error {
	var ready [events]unix.EpollEvent
	heard := e.now()
	for {
		now := e.now()
		wait, done := e.driver.step(now)
		if done {
			return nil
		}
		if now-heard > e.spec.Delay+answerTimeout {
			return errStall
		}
		n, err := e.wait(ready[:], wait)
		if err != nil {
			return err
		}
		if n > 0 {
			heard = now
		}
		for i := range ready[:n] {
			e.event(e.conns[ready[i].Fd], ready[i].Events)
		}
	}
}

// wait rounds up to milliseconds, but for less than one it polls: who arrives at
// a rate of thousands a second must not oversleep.
func (e *engine) wait(ready []unix.EpollEvent, d time.Duration) (int, error) {
	n, err := unix.EpollWait(e.ep, ready, int(d/time.Millisecond))
	if err == unix.EINTR {
		return 0, nil
	}
	return n, err
}

// dial starts a connection; the driver is notified of its outcome.
func (e *engine) dial(idle bool, began time.Duration) {
	addr := e.addrs[e.dialed%len(e.addrs)]
	e.dialed++
	family := unix.AF_INET
	if _, ok := addr.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	c := &conn{fd: -1, connecting: true, idle: idle, began: began}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		e.driver.ended(c, err)
		return
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	c.fd = fd
	for fd >= len(e.conns) {
		e.conns = append(e.conns, nil)
	}
	e.conns[fd] = c
	if err := unix.Connect(fd, addr); err != nil && err != unix.EINPROGRESS {
		e.lost(c, err)
		return
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(e.ep, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		e.lost(c, err)
	}
}

// lost closes c and tells the driver.
func (e *engine) lost(c *conn, err error) {
	e.close(c)
	e.driver.ended(c, err)
}

func (e *engine) close(c *conn) {
	if c.fd < 0 {
		return
	}
	if !c.connecting {
		e.open--
	}
	unix.Close(c.fd)
	e.conns[c.fd] = nil
	c.fd = -1
}

func (e *engine) closeAll() {
	for _, c := range e.conns {
		if c != nil {
			e.close(c)
		}
	}
}

func (e *engine) event(c *conn, what uint32) {
	if c == nil {
		return
	}
	if c.connecting {
		if what&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			e.lost(c, socketError(c.fd))
			return
		}
		c.connecting = false
		e.opened()
		e.driver.opened(c)
	}
	if len(c.unsent) > 0 && what&unix.EPOLLOUT != 0 {
		e.flush(c)
	}
	if what&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		e.read(c, what&unix.EPOLLIN != what)
	}
}

func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return err
	case n == 0:
		return unix.ECONNABORTED
	}
	return syscall.Errno(n)
}

// send sends p, now or as soon as there is room.
func (e *engine) send(c *conn, p []byte) {
	c.unsent = p
	e.flush(c)
}

func (e *engine) flush(c *conn) {
	for c.fd >= 0 && len(c.unsent) > 0 {
		n, errno := rawIO(unix.SYS_WRITE, c.fd, c.unsent)
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			e.lost(c, errno)
			return
		}
		c.unsent = c.unsent[n:]
	}
}

// read takes what is there. A read that does not fill the buffer has taken it
// all, unless the event said that there is more than data: then the end follows.
func (e *engine) read(c *conn, more bool) {
	for c.fd >= 0 {
		n, errno := rawIO(unix.SYS_READ, c.fd, e.buf)
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			e.lost(c, errno)
			return
		case n == 0:
			e.lost(c, nil)
			return
		}
		e.driver.received(c, n)
		if n < len(e.buf) && !more {
			return
		}
	}
}

// rawIO reads or writes past the scheduler, which has nothing else to run.
func rawIO(trap uintptr, fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
