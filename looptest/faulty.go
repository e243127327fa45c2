package looptest

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Faults describes the faults of a connection. Offsets count bytes from the first byte that
// was read or written through [Faulty]. A nil offset means that the fault never happens.
type Faults struct {
	// ReadErr is returned by Read instead of the bytes from ReadErrAt on. A nil ReadErr
	// means ECONNRESET.
	ReadErrAt *int64
	ReadErr   error

	// WriteErr is returned by Write for the bytes from WriteErrAt on. Earlier bytes of the
	// same Write are written: a short write. A nil WriteErr means EPIPE.
	WriteErrAt *int64
	WriteErr   error

	// ResetAt closes the connection with a reset when ResetAt bytes have been written.
	ResetAt *int64

	// MaxRead is the maximum number of bytes that one Read returns. Zero means no limit.
	MaxRead int

	// StallReadAt makes Read wait for StallRead before it returns the byte at StallReadAt,
	// once. StallWriteAt does the same for Write. Deadlines end the wait.
	StallReadAt  *int64
	StallRead    time.Duration
	StallWriteAt *int64
	StallWrite   time.Duration

	// Garbage is returned by Read before the byte at GarbageAt.
	GarbageAt *int64
	Garbage   []byte
}

// At returns a pointer to n, for the offsets of Faults.
func At(n int64) *int64 { return &n }

// Faulty wraps c in a connection with faults. In addition to the methods of net.Conn, it has
// CloseWrite and SetLinger, but no other methods of c.
func Faulty(c net.Conn, f Faults) net.Conn {
	fc := &faulty{Conn: c, f: f, closed: make(chan struct{})}
	fc.readBy.init()
	fc.writeBy.init()
	return fc
}

type faulty struct {
	net.Conn
	f               Faults
	once            sync.Once
	closed          chan struct{}
	readBy, writeBy alarm

	reading        sync.Mutex // guards the following; held during Read
	read           int64
	stalledReading bool
	garbage        int // number of bytes of Garbage that Read has returned

	writing        sync.Mutex // guards the following; held during Write
	written        int64
	stalledWriting bool
}

// before returns how many of the n bytes at pos are before the offset at.
func before(at *int64, pos int64, n int) int {
	if at == nil {
		return n
	}
	return int(min(int64(n), max(*at-pos, 0)))
}

func reached(at *int64, pos int64) bool { return at != nil && pos >= *at }

func (c *faulty) fault(op string, err error, or syscall.Errno) error {
	if err == nil {
		err = os.NewSyscallError(op, or)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *faulty) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	if c.f.MaxRead > 0 {
		p = p[:min(len(p), c.f.MaxRead)]
	}
	if reached(c.f.StallReadAt, c.read) && !c.stalledReading {
		if err := c.stall("read", c.f.StallRead, &c.readBy); err != nil {
			return 0, err
		}
		c.stalledReading = true
	}
	if reached(c.f.GarbageAt, c.read) && c.garbage < len(c.f.Garbage) {
		n := copy(p, c.f.Garbage[c.garbage:])
		c.garbage += n
		return n, nil
	}
	if reached(c.f.ReadErrAt, c.read) {
		return 0, c.fault("read", c.f.ReadErr, syscall.ECONNRESET)
	}
	n := before(c.f.ReadErrAt, c.read, len(p))
	if !c.stalledReading {
		n = before(c.f.StallReadAt, c.read, n)
	}
	if c.garbage < len(c.f.Garbage) {
		n = before(c.f.GarbageAt, c.read, n)
	}
	n, err := c.Conn.Read(p[:n])
	c.read += int64(n)
	return n, err
}

func (c *faulty) Write(p []byte) (written int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for {
		if reached(c.f.StallWriteAt, c.written) && !c.stalledWriting {
			if err := c.stall("write", c.f.StallWrite, &c.writeBy); err != nil {
				return written, err
			}
			c.stalledWriting = true
		}
		switch {
		case reached(c.f.ResetAt, c.written):
			c.resetNow()
			return written, c.fault("write", nil, syscall.ECONNRESET)
		case reached(c.f.WriteErrAt, c.written):
			return written, c.fault("write", c.f.WriteErr, syscall.EPIPE)
		}
		n := before(c.f.ResetAt, c.written, len(p))
		n = before(c.f.WriteErrAt, c.written, n)
		if !c.stalledWriting {
			n = before(c.f.StallWriteAt, c.written, n)
		}
		n, err = c.Conn.Write(p[:n])
		written += n
		c.written += int64(n)
		p = p[n:]
		if err != nil || len(p) == 0 {
			if reached(c.f.ResetAt, c.written) {
				c.resetNow()
			}
			return written, err
		}
	}
}

// resetNow closes the connection with a reset, if the connection supports that.
func (c *faulty) resetNow() {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

// stall waits for d, for the deadline or for Close, whichever is first.
func (c *faulty) stall(op string, d time.Duration, by *alarm) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		over, changed := by.wait()
		select {
		case <-timer.C:
			return nil
		case <-over:
			return c.fault(op, os.ErrDeadlineExceeded, 0)
		case <-changed:
		case <-c.closed:
			return c.fault(op, net.ErrClosed, 0)
		}
	}
}

func (c *faulty) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *faulty) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.fault("shutdown", nil, syscall.ENOTSUP)
}

func (c *faulty) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return c.fault("set linger", nil, syscall.ENOTSUP)
}

func (c *faulty) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return c.Conn.SetDeadline(t)
}

func (c *faulty) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *faulty) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// An alarm is a deadline that may change while a goroutine waits for it.
type alarm struct {
	mu      sync.Mutex // guards the following
	over    chan struct{}
	changed chan struct{}
	timer   *time.Timer
}

func (a *alarm) init() { a.over, a.changed = make(chan struct{}), make(chan struct{}) }

func (a *alarm) wait() (over, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over, a.changed
}

func (a *alarm) set(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	close(a.changed)
	a.init()
	over := a.over
	switch d := time.Until(t); {
	case t.IsZero():
	case d <= 0:
		close(over)
	default:
		a.timer = time.AfterFunc(d, func() { close(over) })
	}
}
