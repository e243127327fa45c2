package httpconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// A keeper is a goroutine that stays with a connection between two requests and
// waits for its input. So the next request needs no goroutine and no switch to
// one: it is written by whoever has it, and the keeper wakes up when the answer is
// there. (One at a time, a request takes 0.7 of the time that one with a goroutine
// of its own takes; measured.)
//
// A connection that has a keeper is given a request with Assign, or is taken away
// from its keeper with Retire. The keeper finds out in Await.
type keeper struct {
	raw      syscall.RawConn
	assigned chan any  // what the connection was taken for: one slot, closed by drop
	left     chan bool // the answer to Retire
	readable func(fd uintptr) bool
	fd       uintptr // inside readable
	waiting  bool    // reading must not park
	woken    bool    // by the present wait, once

	mu       sync.Mutex // held while writing, and guards the following
	unsent   *sockio.Buffer
	begun    bool // some of it may have been sent; false without a request
	early    bool // something was read before
	sending  bool // a goroutine writes what TryFlush could not
	failed   error
	writable func(fd uintptr)
	sent     int
	errno    syscall.Errno
}

// ErrStale is the error of a request of which nothing was sent: the server had
// ended the connection, or had spoken unasked, before.
var ErrStale = errors.New("eventloop: connection is stale")

// retire is assigned by Retire.
type retire struct{}

// Keepable reports whether the connection can have a keeper: it is a socket that
// nothing, TLS above all, stands before.
func (c *Conn) Keepable() bool {
	if c.keeper != nil {
		return true
	}
	raw, ok := sockio.Descriptor(c.nc)
	if !ok {
		return false
	}
	c.keeper = &keeper{raw: raw, assigned: make(chan any, 1), left: make(chan bool, 1)}
	c.keeper.readable, c.keeper.writable = c.readable, c.writable
	return true
}

// Await is called by the keeper after PutKept. It returns the request that the
// connection is assigned to, once there is input, an error, or its deadline has
// come, all of which Response will find; or nil, when the connection belongs to
// somebody else, or to nobody any more.
func (c *Conn) Await(p *Pool) (request any) {
	k := c.keeper
	c.in, c.slack = 0, 0
	for {
		late := c.awaitInput()
		if request == nil {
			select {
			case request = <-k.assigned:
			default:
				if late && c.disarm() {
					continue
				}
				if !late && p.leave(c) { // the server has ended it, or speaks unasked
					c.releaseReader()
					c.Close()
					return nil
				}
				request = <-k.assigned
			}
			switch request.(type) {
			case nil: // dropped by the pool
				c.releaseReader()
				return nil
			case retire:
				clean := c.br == nil && c.failed == nil
				c.releaseReader()
				k.left <- clean
				return nil
			}
		}
		if c.arrived(late) {
			return request
		}
	}
}

// arrived prepares the reading of what there is for the present request: input, an
// error, or its deadline if one has come. It returns false if that was none of the
// request's.
func (c *Conn) arrived(late bool) bool {
	stale := late && c.foundStale() // said by a deadline
	if late && !stale && !c.due() {
		return false
	}
	switch unsent := c.withdraw(); {
	case late && !stale:
		c.failed = os.ErrDeadlineExceeded
	case unsent:
		c.releaseReader() // no answer, whatever it says
		c.failed = ErrStale
	}
	c.uses++
	c.takeReader()
	return true
}

// awaitInput waits, without a buffer, until there is input or an error, which
// reading will find. It returns true if a deadline has come, perhaps of before.
func (c *Conn) awaitInput() (late bool) {
	c.keeper.woken = false
	err := c.keeper.raw.Read(c.keeper.readable)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	if err != nil && c.failed == nil {
		c.failed = err // closed
	}
	return false
}

// readable reads what is there. It tries before it lets the goroutine park, since
// what came before the wait began wakes nobody. But if nothing was asked yet, an
// answer will come later, and what else is there — the end of the connection —
// is also found by who takes it for a request: then a read is saved.
func (c *Conn) readable(fd uintptr) (done bool) {
	k := c.keeper
	woken := k.woken
	k.woken = true
	if !woken && !c.asked() {
		return false
	}
	c.takeReader()
	k.fd, k.waiting = fd, true
	_, err := c.br.Peek(1)
	k.waiting = false
	if err == syscall.EAGAIN {
		c.releaseReader()
		return false
	}
	return true
}

func (c *Conn) asked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// readNow is what the reader reads while the keeper waits. Before anything is sent it
// keeps the writer out: what it takes from the socket then the writer would not see,
// and it would pass for the answer.
func (c *Conn) readNow(p []byte) (n int, err error) {
	k := c.keeper
	k.mu.Lock()
	if k.begun {
		k.mu.Unlock()
		return c.readFD(p)
	}
	defer k.mu.Unlock()
	n, err = c.readFD(p)
	k.early = k.early || err != syscall.EAGAIN
	return n, err
}

func (c *Conn) readFD(p []byte) (int, error) {
	n, errno := sockio.ReadFD(c.keeper.fd, p)
	switch {
	case errno == syscall.EAGAIN:
		return 0, errno
	case errno != 0:
		c.failed = &net.OpError{
			Op: "read", Net: c.nc.RemoteAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(),
			Err: os.NewSyscallError("read", errno),
		}
		return 0, c.failed
	case n == 0:
		c.failed = io.EOF
		return 0, io.EOF
	}
	c.received(n)
	return n, nil
}

func (c *Conn) takeReader() {
	if c.br == nil {
		c.br = readers.Get().(*bufio.Reader)
		c.br.Reset((*reader)(c))
	}
}

func (c *Conn) releaseReader() {
	if c.br != nil && c.br.Size() == readerSize {
		c.br.Reset(nil)
		readers.Put(c.br)
	}
	c.br = nil
}

// disarm takes a deadline away that is no request's. It returns false if somebody
// has taken the connection, and the deadline may be his.
func (c *Conn) disarm() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken || c.cut {
		return false
	}
	c.readBy = time.Time{}
	c.nc.SetReadDeadline(c.readBy)
	return true
}

// due reports whether the deadline that has come is that of the request.
func (c *Conn) due() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut || !c.readBy.IsZero() && !time.Now().Before(c.readBy)
}

// Assign takes a connection that TakeKept has returned into use for a request that
// begins now, and that Await returns. Deadlines are those of Begin. What was queued
// with Head.Queue is to be written next.
func (c *Conn) Assign(request any, now, deadline time.Time, silence time.Duration) {
	c.mu.Lock()
	c.taken = true
	c.deadline, c.silence = deadline, silence
	c.writing, c.shut = false, false
	if t := c.byAt(now, c.readBy, silence); !c.cut && !t.Equal(c.readBy) {
		c.readBy = t
		c.nc.SetReadDeadline(t)
	}
	c.mu.Unlock()
	c.keeper.assigned <- request
}

// Retire makes the keeper of a connection that Get has returned end, and returns
// when it has. It reports whether the connection still looked usable to it.
func (c *Conn) Retire() (clean bool) {
	c.mu.Lock()
	c.taken = true
	c.mu.Unlock()
	c.keeper.assigned <- retire{}
	c.mu.Lock()
	c.nc.SetReadDeadline(past)
	c.mu.Unlock()
	clean = <-c.keeper.left
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cut {
		c.readBy = time.Time{}
		c.nc.SetReadDeadline(c.readBy)
	}
	return clean
}

// queue makes b what TryFlush writes. The connection owns it then.
func (c *Conn) queue(b *sockio.Buffer) {
	k := c.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsent, k.begun, k.failed = b, false, nil
	c.out.Store(int64(b.Len()))
}

// withdraw takes back what was queued, and reports whether nothing of it was sent.
func (c *Conn) withdraw() bool {
	k := c.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsent != nil && !k.begun {
		c.unsendable(ErrStale)
	}
	return k.failed == ErrStale
}

// TryFlush writes what the kernel takes of what was queued. If that is not all it
// returns false, and FlushRest is to be called.
//
// It writes nothing if there is input already. The keeper, which runs when it gets
// to, could not tell it from an answer, and a server that has ended the connection
// cannot be sent what must not be sent twice.
func (c *Conn) TryFlush() (done bool) {
	k := c.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sending {
		return false
	}
	if k.unsent != nil && c.Interrupted() {
		c.giveUp(os.ErrDeadlineExceeded)
	}
	for k.unsent != nil {
		// Not raw.Write, which fails for the deadline of an earlier write.
		if err := k.raw.Control(k.writable); err != nil {
			c.giveUp(err)
			return true
		}
		switch {
		case !k.begun:
			c.giveUp(ErrStale)
			return true
		case k.errno == syscall.EAGAIN:
			k.sending = true
			c.waitToSend()
			return false
		case k.errno != 0:
			c.giveUp(os.NewSyscallError("write", k.errno))
			return true
		}
		if k.unsent.Consume(k.sent); k.unsent.Len() == 0 {
			k.unsent.Release()
			k.unsent = nil
		}
	}
	return true
}

func (c *Conn) writable(fd uintptr) {
	k := c.keeper
	if !k.begun && (k.early || !sockio.Quiet(fd)) {
		return
	}
	k.begun = true
	views := [1][]byte{k.unsent.Bytes()}
	k.sent, k.errno = sockio.WriteFD(fd, views[:])
}

// foundStale reports whether it is known that the connection is stale.
func (c *Conn) foundStale() bool {
	k := c.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed == ErrStale
}

// giveUp is unsendable for who writes. What made it so need not wake the keeper: it
// may have been there when the wait began. The caller holds keeper.mu.
func (c *Conn) giveUp(err error) {
	c.unsendable(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = past
	c.nc.SetReadDeadline(past)
}

// unsendable gives up sending. The caller holds keeper.mu.
func (c *Conn) unsendable(err error) {
	k := c.keeper
	k.failed = err
	c.out.Add(-int64(k.unsent.Len()))
	k.unsent.Release()
	k.unsent = nil
}

// waitToSend is BeginWriting while the keeper reads already.
func (c *Conn) waitToSend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = true
	if !c.cut {
		c.readBy = c.deadline
		c.nc.SetReadDeadline(c.readBy)
	}
}

// FlushRest writes the rest of what was queued. It may wait.
func (c *Conn) FlushRest() {
	k := c.keeper
	k.mu.Lock()
	b := k.unsent
	k.mu.Unlock()
	c.out.Add(-int64(b.Len())) // Write counts it
	_, err := c.Write(b.Bytes())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		defer c.Interrupt() // the keeper need not wait for an answer
	} else {
		c.FinishWriting() // before the connection can be somebody else's
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsent, k.sending, k.failed = nil, false, err
	b.Release()
}

// Sent reports whether what was queued has been written, and what went wrong. It
// waits for a write that goes on, not for one that is blocked.
func (c *Conn) Sent() (all bool, err error) {
	k := c.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unsent == nil && !k.sending && k.failed == nil, k.failed
}
