// Package httpclient carries HTTP/1.1 requests over connections: the client's side of
// a connection, and a pool of idle connections. It does not depend on the loop.
//
// A connection has one goroutine, from dialing to its end, which reads each response
// and waits for the next request in between. Requests that wait for a connection have
// no goroutine. If a request gets an idle connection, the connection's writers write it,
// and the goroutine, which waits for input anyway, wakes when the response arrives.
package httpclient

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/onloop/eventloop/internal/writers"
)

var (
	// ErrMalformed is matched by the error of a response that is not HTTP.
	ErrMalformed = errors.New("eventloop: malformed HTTP response")

	// ErrTooLarge is matched by the error of a response over its bounds.
	ErrTooLarge = errors.New("eventloop: HTTP response too large")

	// ErrStale is the error of a request of which nothing was sent: the server had
	// ended the connection, or had sent something unasked, before.
	ErrStale = errors.New("eventloop: connection is stale")
)

// A Request is a request as the pool sees it. The methods are called with the pool
// locked.
type Request interface {
	// Attach says which connection carries the request.
	Attach(c *Conn)

	// Queued says that the request waits for a connection, and Unqueued that it does
	// not wait any more.
	Queued()
	Unqueued()

	// Place returns where the pool keeps the request while it waits.
	Place() *Place
}

// A connState says what a connection is used for.
type connState uint8

const (
	connBusy   connState = iota // carries a request, or is about to
	connIdle                    // in the pool
	connRetire                  // out of the pool, to be closed by its goroutine
)

// A Conn is the client's side of a connection. Its methods are for its goroutine,
// unless they say otherwise.
type Conn struct {
	core  netcore.Conn
	host  netcore.Host
	key   *Key
	serve func()    // see SetServe
	idle  idleLinks // guarded by the mutex of the pool

	hint   time.Duration // how long the server keeps it, zero if not known, negative: not at all
	remote net.Addr

	// Input of the goroutine.
	window  []byte         // read, and not taken yet
	buf     *sockio.Buffer // that window is in; nil: a slice of its own
	failed  error          // why reading has ended
	in      int64          // bytes of the response, after TLS
	firstAt time.Time      // when the first of them came
	resp    *Response      // to the present request; nil: it was not asked for yet
	size    int32          // of the next read
	slack   int32          // bytes read since the body grew last
	uses    uint8          // requests begun; maxUses stands for more

	released bool // see Release

	// Guarded by the lock of core.
	state    connState
	queued   bool      // req was queued for the writers when it was assigned
	cut      bool      // interrupted
	writing  bool      // the body of the request is not all queued
	stopped  bool      // no more of it is wanted
	settling bool      // the goroutine waits for the writers
	held     bool      // the silence does not count
	fired    bool      // the read deadline that is set has passed
	armed    time.Time // that deadline
	req      Request   // assigned, and not begun by the goroutine
	werr     error     // why writing failed
	out      int64     // bytes written for the request, before TLS
	deadline time.Time // of the request; of an idle connection, when it is to be closed
	silence  time.Duration
	since    time.Time  // when the silence began
	room     *sync.Cond // there is room for more output; nil: nothing has waited for it yet
}

const maxUses = 2

// NewConn returns a Conn that is to be attached to a connection.
func NewConn(host netcore.Host, key *Key) *Conn {
	c := &Conn{host: host, key: key}
	c.core.Init((*user)(c))
	return c
}

// Attach gives the Conn its connection. ours says that no other code can close nc.
func (c *Conn) Attach(nc net.Conn, ours bool) {
	c.remote = nc.RemoteAddr()
	c.core.Attach(nc, ours)
}

// SetServe says what is to be called, on another goroutine, when Next has returned
// ErrParked and there is something to do. Without it the connection is not parked.
func (c *Conn) SetServe(serve func()) { c.serve = serve }

// Core returns the connection itself.
func (c *Conn) Core() *netcore.Conn { return &c.core }

// RemoteAddr returns the address of the server, or of the proxy.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Reused reports whether the present request is not the first.
func (c *Conn) Reused() bool { return c.uses > 1 }

// Answered reports whether any byte of a response to the present request came.
func (c *Conn) Answered() bool { return c.in > 0 }

// FirstByte returns when the first byte of a response came.
func (c *Conn) FirstByte() time.Time { return c.firstAt }

// Bytes returns how many bytes the present request has read and written.
func (c *Conn) Bytes() (in, out int64) {
	c.core.Lock()
	defer c.core.Unlock()
	return c.in, c.out
}

// WriteError returns why the request could not be written, or nil.
func (c *Conn) WriteError() error {
	c.core.Lock()
	defer c.core.Unlock()
	return c.werr
}

// SetKeepAlive says how long the server will keep c by its own account, zero if it
// did not say, negative if it will not keep it.
func (c *Conn) SetKeepAlive(d time.Duration) { c.hint = d }

// Begin begins a request. It ends at deadline, and when no byte came, or was
// acknowledged by the server, for as long as silence; zero means never. It reports
// whether the request was queued already, when the connection was assigned to it.
func (c *Conn) Begin(deadline time.Time, silence time.Duration) (queued bool) {
	c.uses = min(c.uses+1, maxUses)
	c.slack = 0
	c.core.Lock()
	defer c.core.Unlock()
	queued = c.queued
	c.req, c.queued = nil, false
	if !queued {
		if len(c.window) == 0 {
			c.in = 0
		}
		c.bound(deadline, silence)
	}
	return queued
}

// bound sets the times of a request that begins now. The caller holds the lock.
func (c *Conn) bound(deadline time.Time, silence time.Duration) {
	c.state = connBusy
	c.deadline, c.since, c.out = deadline, time.Now(), 0
	c.writing, c.stopped, c.held = false, false, false
	if c.silence != silence {
		c.silence = silence
		if c.core.Raw() { // else due sees to it
			c.core.SetStall(silence)
		}
	}
	c.arm(c.since)
}

// assign gives an idle connection a request. What is queued of it, if anything, is
// written without the goroutine. The pool is locked.
func (c *Conn) assign(r Request, m *Message, deadline time.Time, silence time.Duration) {
	c.core.Lock()
	defer c.core.Unlock()
	c.req = r
	c.bound(deadline, silence)
	if m == nil {
		c.core.Wake()
		return
	}
	c.core.WakeForDeadline()
	c.queued = true
	c.core.Unasked()
	c.queue(m)
}

// queue queues m. The caller holds the lock.
func (c *Conn) queue(m *Message) {
	m.moveTo(c.core.Queue())
	c.core.Send()
}

// Send queues what is sent of a request at once. more says that Write follows.
func (c *Conn) Send(m *Message, more bool) {
	c.core.Lock()
	defer c.core.Unlock()
	if c.cut {
		m.Release()
		return
	}
	c.writing = more
	if c.uses > 1 {
		c.core.Unasked()
	}
	c.queue(m)
}

// AwaitRoom waits until more of a body is to be read and queued: when the kernel has
// taken all that was queued before. A body is read no earlier, since the response may
// come instead. Any goroutine may call it.
func (c *Conn) AwaitRoom() error {
	c.core.Lock()
	defer c.core.Unlock()
	for c.writeEnd() == nil && c.core.Pending() > 0 {
		c.awaitRoom()
	}
	return c.writeEnd()
}

// Write queues a copy of p; last says that it is the last of the request. Any goroutine
// may call it, one at a time, after AwaitRoom.
func (c *Conn) Write(p []byte, last bool) error {
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.writeEnd(); err != nil {
		return err
	}
	if c.core.Pending() == 0 {
		c.since = time.Now()
	}
	c.core.Queue().Append(p)
	c.writing = !last
	c.core.Send()
	return nil
}

// awaitRoom waits for madeRoom. The caller holds the lock, which is released meanwhile.
func (c *Conn) awaitRoom() {
	if c.room == nil {
		c.room = sync.NewCond(&c.core)
	}
	c.room.Wait()
}

// madeRoom has what waits for output look again. The caller holds the lock.
func (c *Conn) madeRoom() {
	if c.room != nil {
		c.room.Broadcast()
	}
}

// AwaitBegun waits until some of the request was written: until then it may have to
// be sent on another connection. Any goroutine may call it.
func (c *Conn) AwaitBegun() error {
	c.core.Lock()
	defer c.core.Unlock()
	for c.writeEnd() == nil && c.core.Untouched() {
		c.awaitRoom()
	}
	return c.writeEnd()
}

// writeEnd returns why nothing more can be written. The caller holds the lock.
func (c *Conn) writeEnd() error {
	switch {
	case c.cut || c.stopped:
		return os.ErrDeadlineExceeded
	case c.werr != nil:
		return c.werr
	}
	return nil
}

// Stale reports whether nothing of the request was written because something had
// arrived before.
func (c *Conn) Stale() bool {
	if c.uses == 1 || c.in == 0 && c.failed == nil {
		return false
	}
	c.core.Lock()
	defer c.core.Unlock()
	return !c.cut && c.core.Untouched()
}

// Response returns what reads the response to the present request, until End.
func (c *Conn) Response() *Response {
	if c.resp == nil {
		c.resp = responses.Get().(*Response)
	}
	return c.resp
}

// responses are kept apart from connections, since most of these are idle.
var responses = sync.Pool{New: func() any { return new(Response) }}

func (c *Conn) dropResponse() {
	if r := c.resp; r != nil {
		c.resp, *r = nil, Response{}
		responses.Put(r)
	}
}

// End ends the request. Unless more is false, it reports whether the connection can
// carry another one: all of the request was written, nothing failed, and no input is
// left.
func (c *Conn) End(more bool) bool { return c.end(more, settleTime) }

// EndTunnel is End for a request to a proxy, after which the connection is a tunnel. The
// proxy has responded to all that was written, so a writer that has not told yet only
// waits for its turn on a processor, however long that takes. Interrupt ends the wait.
func (c *Conn) EndTunnel(more bool) bool {
	c.uses = 0 // what was a request so far was for the proxy
	return c.end(more, time.Hour)
}

func (c *Conn) end(more bool, patience time.Duration) bool {
	clean := more && len(c.window) == 0 && c.failed == nil && !c.core.Holds()
	c.dropResponse()
	c.release()
	c.core.Lock()
	defer c.core.Unlock()
	if clean && !c.writing {
		c.settle(patience)
	}
	clean = clean && !c.cut && !c.writing && c.werr == nil && c.core.Pending() == 0
	c.stopped = true
	c.madeRoom()
	return clean
}

// limit has the request end at t, if not earlier.
func (c *Conn) limit(t time.Time) {
	c.core.Lock()
	defer c.core.Unlock()
	if c.deadline.IsZero() || t.Before(c.deadline) {
		c.deadline = t
	}
}

// Release ends a request in place of End, and returns what is below the connection,
// with what was read of it and not used. It returns nil if the request was not sent as a
// whole, or something failed; then c is still to be closed.
func (c *Conn) Release() (nc net.Conn, rest []byte) {
	rest = bytes.Clone(c.window)
	c.dropResponse()
	c.release()
	c.core.Lock()
	if !c.writing {
		c.settle(settleTime)
	}
	clean := !c.cut && !c.writing && c.werr == nil && c.core.Pending() == 0
	c.stopped = true
	c.madeRoom()
	c.core.Unlock()
	if !clean {
		return nil, nil
	}
	c.released = true
	return c.core.Release(), rest
}

// Released reports whether the connection is not to be closed, since Release has ended
// its time here.
func (c *Conn) Released() bool { return c.released }

// settleTime is how long the end of a request waits for a writer that waits for the
// server itself: it may have been told just now that it need not.
const settleTime = time.Millisecond

// settle waits until the writers have told what they wrote: the response may be
// faster. The caller holds the lock.
func (c *Conn) settle(patience time.Duration) {
	c.settling = true
	until := time.Now().Add(patience)
	for c.core.Pending() > 0 && c.core.Writing() && !c.cut && c.werr == nil {
		if now := time.Now(); c.core.Blocked() && !now.Before(until) {
			break
		}
		c.core.Unlock()
		c.core.WaitUntil(time.Now().Add(settleTime))
		c.core.Lock()
	}
	c.settling = false
}

// Renew says that the response was not read for some time, which was not the server's
// fault: the silence begins now.
func (c *Conn) Renew() {
	c.core.Lock()
	defer c.core.Unlock()
	c.since = time.Now()
}

// Hold says whether the silence of the server counts. Any goroutine may call it, but only
// while c carries the request.
func (c *Conn) Hold(held bool) {
	c.core.Lock()
	defer c.core.Unlock()
	c.held, c.since = held, time.Now()
	c.core.Wake() // the goroutine has another deadline
}

// Upgrade says that the connection carries another protocol from now on, without bounds
// of time. The request is never all written.
func (c *Conn) Upgrade() {
	c.core.Lock()
	defer c.core.Unlock()
	c.deadline, c.silence, c.writing = time.Time{}, 0, true
	c.core.SetStall(0)
	c.fired = true // so that the read deadline is taken away
}

// CloseWrite ends the stream to the server when all output is sent. Any goroutine may
// call it, but only while c carries the request.
func (c *Conn) CloseWrite() {
	c.core.Lock()
	defer c.core.Unlock()
	c.core.EndOutput()
}

// Interrupt makes all reads and writes fail, now and later. Any goroutine may call it.
func (c *Conn) Interrupt() {
	c.core.Lock()
	defer c.core.Unlock()
	c.cut = true
	c.core.Cut(false)
	c.core.Wake()
	c.madeRoom()
}

// Fail says why reading has ended for a reason that Read did not tell.
func (c *Conn) Fail(err error) {
	if c.failed == nil {
		c.failed = err
	}
	c.core.Lock()
	defer c.core.Unlock()
	c.core.Cut(false)
}

// retire has the goroutine of an idle connection close it. The pool, which has let go
// of it, is locked.
func (c *Conn) retire() {
	c.core.Lock()
	defer c.core.Unlock()
	c.state = connRetire
	c.core.Closing()
}

// setIdle says that the connection is idle until then. The pool is locked.
func (c *Conn) setIdle(until time.Time) {
	c.core.Lock()
	defer c.core.Unlock()
	c.state, c.deadline = connIdle, until
	c.core.Unasked()
}

// Next waits, with a connection that Pool.Put has kept, for the next request. It
// returns nil when the connection is out of the pool, and is to be closed: because it
// was idle for too long, or the server has ended it, or has sent something unasked. If
// parked is true the connection has no goroutine any more, and must not be touched.
func (c *Conn) Next(p *Pool) (r Request, parked bool) {
	c.in, c.size = 0, 0
	if c.uses == 1 && c.serve != nil {
		// The next request may be far off. If it is not, the goroutine that the
		// connection gets for it stays for a while.
		c.core.Disown()
	}
	for {
		c.core.Lock()
		req, state := c.req, c.state
		over := c.failed != nil || len(c.window) > 0
		if state == connIdle {
			now := time.Now()
			over = over || !now.Before(c.deadline)
			c.arm(now)
		}
		c.core.Unlock()
		switch {
		case req != nil:
			return req, false
		case state == connRetire || over && p.leave(c):
			return nil, false
		case !over && !c.look():
			return nil, true
		}
	}
}

// look waits until there is input, or something has changed. It returns false if the
// connection is parked.
func (c *Conn) look() bool {
	b, err := c.core.ReadOrPark(firstRead)
	switch {
	case b != nil:
		c.keep(b)
	case err == netcore.ErrParked:
		return false
	case err != netcore.ErrWoken && !c.timedOut(err):
		c.failed = readError(err)
	}
	return true
}

// timedOut reports whether err says that the read deadline has passed. A net.Conn of
// another kind may have timeouts of its own.
func (c *Conn) timedOut(err error) bool {
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		return false
	}
	c.core.Lock()
	defer c.core.Unlock()
	c.fired = !c.armed.IsZero() && !time.Now().Before(c.armed)
	return c.fired
}

// arm sets the read deadline, if it would come too late. One that comes too early
// does no harm, and so it serves for many requests. The caller holds the lock.
func (c *Conn) arm(now time.Time) {
	due := c.due(now)
	if !c.fired && (due.IsZero() || !c.armed.IsZero() && !due.Before(c.armed)) {
		return
	}
	c.armed, c.fired = due, false
	if c.core.NetConn() != nil {
		c.core.SetReadDeadline(due)
	}
}

// due returns when the connection must be looked at, the zero time for never. The
// caller holds the lock.
func (c *Conn) due(now time.Time) time.Time {
	if c.state == connIdle || c.silence <= 0 || c.held {
		return c.deadline
	}
	silent := c.since.Add(c.silence)
	if c.sending() {
		silent = now.Add(c.silence) // the server may wait for the rest of the request
	}
	if !c.deadline.IsZero() && c.deadline.Before(silent) {
		return c.deadline
	}
	return silent
}

// sending reports whether the server may still wait for the rest of the request. That
// it takes what is pending is for the core to watch, except where nothing can be known
// but how many bytes were accepted. The caller holds the lock.
func (c *Conn) sending() bool {
	if c.core.Pending() > 0 {
		return c.core.Raw() && c.werr == nil
	}
	return c.writing && c.werr == nil
}

// mayWait returns an error if the time of the request is over.
func (c *Conn) mayWait() error {
	c.core.Lock()
	defer c.core.Unlock()
	if c.cut || errors.Is(c.werr, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	now := time.Now()
	if due := c.due(now); !due.IsZero() && !now.Before(due) {
		return os.ErrDeadlineExceeded
	}
	c.arm(now)
	return nil
}

// The first read of a response has a small buffer. If it is full, the others are as
// large as they can be.
const firstRead = 4 << 10

// more adds input to the window. It returns why there is none.
func (c *Conn) more() error {
	for n := len(c.window); len(c.window) == n; {
		switch {
		case c.failed != nil:
			return c.failed
		case c.slack > maxSlack:
			c.failed = errSlack
			return c.failed
		}
		if c.failed = c.mayWait(); c.failed != nil {
			return c.failed
		}
		c.readOnce()
	}
	return nil
}

// readOnce reads what there is, or waits once.
func (c *Conn) readOnce() {
	b, err := c.core.Read(max(int(c.size), firstRead))
	switch {
	case b != nil:
		if c.size = firstRead; len(b.Room()) == 0 {
			c.size = sockio.MaxBuffer
		}
		c.slack += int32(b.Len())
		c.keep(b)
	case err != netcore.ErrWoken && !c.timedOut(err):
		c.failed = readError(err)
	}
}

// keep adds the bytes of b to the window.
func (c *Conn) keep(b *sockio.Buffer) {
	now := time.Now()
	if c.in == 0 {
		c.firstAt = now
	}
	c.in += int64(b.Len())
	c.core.Lock()
	c.since = now
	c.core.Unlock()
	if len(c.window) == 0 {
		c.release()
		c.buf, c.window = b, b.Bytes()
		return
	}
	if c.buf != nil {
		own := make([]byte, 0, 2*(len(c.window)+b.Len()))
		own = append(own, c.window...)
		c.release()
		c.window = own
	}
	c.window = append(c.window, b.Bytes()...)
	b.Release()
}

// take takes n bytes out of the window.
func (c *Conn) take(n int) {
	if c.window = c.window[n:]; len(c.window) == 0 {
		c.release()
	}
}

// takeBuffer takes up to n bytes out of the window, in a buffer of their own. If they are all
// that the window has, that is the buffer they were read into.
func (c *Conn) takeBuffer(n int) *sockio.Buffer {
	if b := c.buf; b != nil && n == len(c.window) {
		b.Consume(b.Len() - n)
		c.buf, c.window = nil, nil
		return b
	}
	b := sockio.GetBuffer(n)
	n = copy(b.Room(), c.window[:n])
	b.Fill(n)
	c.take(n)
	return b
}

// release drops the window.
func (c *Conn) release() {
	if c.buf != nil {
		c.buf.Release()
	}
	c.buf, c.window = nil, nil
}

func readError(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return os.NewSyscallError("read", errno)
	}
	return err
}

// maxSlack bounds what a response may consist of in addition to its head and body:
// chunk sizes and their extensions. A server that sends nothing else would keep the
// connection busy without end.
const maxSlack = 64 << 10

var errSlack = errors.New("endless framing")

// cause returns the error of a response that ended too early, or was wrong: what
// happened to the connection comes before what the parser made of it.
func (c *Conn) cause(err error) error {
	switch {
	case c.failed == errSlack:
		return tooLarge(errSlack.Error())
	case c.failed == io.EOF || c.failed == netcore.ErrTruncated:
		return io.ErrUnexpectedEOF
	case c.failed != nil:
		return c.failed
	}
	return malformed(err)
}

// Close closes the connection. It waits neither for the server nor for the code of
// the application that a connection of another kind may be.
func (c *Conn) Close() {
	c.release()
	c.core.Lock()
	attached := c.core.NetConn() != nil
	if attached && (c.core.Pending() > 0 || c.failed != nil) {
		c.cut = true
		c.core.Cut(false)
	}
	c.core.Unlock()
	switch {
	case !attached:
	case c.core.Raw():
		c.finish()
	default:
		c.host.Go(c.finish)
	}
}

// parting is how long the end of a connection that is no socket waits for
// close_notify to be written, which a goroutine does.
const parting = 100 * time.Millisecond

// finish sends close_notify, if the kernel takes it, and closes the connection.
func (c *Conn) finish() {
	c.core.Lock()
	c.settling = true
	if !c.cut && c.core.Secured() && !c.core.Shaking() {
		c.core.EndOutput()
	}
	until := time.Now().Add(parting)
	for !c.cut && c.core.Writing() && (!c.core.Blocked() || !c.core.Raw()) && time.Now().Before(until) {
		c.core.Unlock()
		c.core.WaitUntil(time.Now().Add(settleTime))
		c.core.Lock()
	}
	c.cut = true
	c.core.Cut(false)
	c.madeRoom()
	c.core.Unlock()
	c.core.Finish(true)
}

// user is the Conn as its core sees it.
type user Conn

func (u *user) Go(f func())                        { u.host.Go(f) }
func (u *user) Aside(f func() error) error         { return u.host.Aside(f) }
func (u *user) Enqueue(job writers.Job)            { u.host.Enqueue(job) }
func (u *user) CloseAside(nc net.Conn, reset bool) { u.host.CloseAside(nc, reset) }
func (u *user) Recovered(v any) error              { return u.host.Recovered(v) }
func (u *user) Serve()                             { u.serve() }
func (u *user) Report()                            {}

func (u *user) Poller() *netcore.Poller {
	if u.serve == nil {
		return nil
	}
	return u.host.Poller()
}

// Sent accounts for n bytes that the kernel has taken.
func (u *user) Sent(n int, all bool) (report bool) {
	u.out += int64(n)
	u.since = time.Now()
	if u.settling {
		u.core.Wake()
	}
	(*Conn)(u).madeRoom()
	return false
}

// WriteFailed has the goroutine look at err.
func (u *user) WriteFailed(err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = os.NewSyscallError("write", errno)
	}
	u.core.Lock()
	defer u.core.Unlock()
	u.werr, u.since = err, time.Now()
	u.core.Wake()
	(*Conn)(u).madeRoom()
}
