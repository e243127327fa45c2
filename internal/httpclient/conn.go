// Package httpclient sends HTTP/1.1 requests over connections. It contains the client's
// side of a connection, and a pool of idle connections. It does not depend on the loop.
//
// A connection has one goroutine, from dialing until it is closed. The goroutine reads each
// response, and waits for the next request in between. Requests that wait for a connection
// have no goroutine. If a request gets an idle connection, the connection's writers write
// it. The goroutine, which already waits for input, wakes when the response arrives.
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
	// ErrMalformed matches the error of a response that is not valid HTTP.
	ErrMalformed = errors.New("eventloop: malformed HTTP response")

	// ErrTooLarge matches the error of a message that exceeds its limits.
	ErrTooLarge = errors.New("eventloop: HTTP message too large")

	// ErrStale is the error of a request that was not sent at all, because the server had
	// already ended the connection, or had sent unsolicited data.
	ErrStale = errors.New("eventloop: connection is stale")
)

// A Request is a request from the pool's point of view. Its methods are called with the
// pool locked.
type Request interface {
	// Attach sets the connection that carries the request.
	Attach(c *Conn)

	// Queued is called when the request begins to wait for a connection, and Unqueued
	// when it no longer waits.
	Queued()
	Unqueued()

	// Place returns the position of the request in the queue of the pool.
	Place() *Place
}

// A connState is the state of a connection.
type connState uint8

const (
	connBusy   connState = iota // serves a request, or is about to
	connIdle                    // in the pool
	connRetire                  // removed from the pool; its goroutine must close it
)

// A Conn is the client's side of a connection. Only its goroutine may call its methods,
// unless a method says otherwise.
type Conn struct {
	core  netcore.Conn
	host  netcore.Host
	key   *Key
	serve func()    // see SetServe
	idle  idleLinks // guarded by the mutex of the pool

	hint   time.Duration // see SetKeepAlive
	remote net.Addr

	// Input of the goroutine.
	window  []byte         // the unconsumed input
	buf     *sockio.Buffer // holds window; nil: window is a separate slice
	failed  error          // why reading has ended
	in      int64          // the number of bytes of the response, after TLS
	firstAt time.Time      // when the first byte of the response arrived
	resp    *Response      // the response to the current request; nil: Response was not called yet
	size    int32          // the size of the next read
	slack   int32          // the number of bytes read since the body last grew
	uses    uint8          // the number of requests begun, at most maxUses

	released bool // see Release

	// Guarded by the lock of core.
	state    connState
	queued   bool          // req was queued for the writers when it was assigned
	cut      bool          // the connection was interrupted
	writing  bool          // part of the body of the request is not queued yet
	stopped  bool          // the rest of the body is not needed
	settling bool          // the goroutine waits for the writers
	held     bool          // the silence timeout is suspended
	fired    bool          // the read deadline armed has passed
	armed    time.Time     // the current read deadline
	req      Request       // the assigned request, until the goroutine begins it
	werr     error         // why writing failed
	out      int64         // the number of bytes written for the request, before TLS
	deadline time.Time     // the end of the request, or when an idle connection must be closed
	silence  time.Duration // the silence timeout, see Begin
	since    time.Time     // when the silence began
	room     *sync.Cond    // there is room for more output; nil: no goroutine has waited yet
}

const maxUses = 2

// NewConn returns a Conn. The caller must then call Attach.
func NewConn(host netcore.Host, key *Key) *Conn {
	c := &Conn{host: host, key: key}
	c.core.Init((*user)(c))
	return c
}

// Attach sets the connection that c uses. If ours is true, no other code can close nc.
func (c *Conn) Attach(nc net.Conn, ours bool) {
	c.remote = nc.RemoteAddr()
	c.core.Attach(nc, ours)
}

// SetServe sets the function that is called, on another goroutine, when the connection is
// parked and there is something to do. Without SetServe the connection is never parked.
func (c *Conn) SetServe(serve func()) { c.serve = serve }

// Core returns the underlying connection.
func (c *Conn) Core() *netcore.Conn { return &c.core }

// RemoteAddr returns the address of the server, or of the proxy.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Reused reports whether the connection has carried a request before the current one.
func (c *Conn) Reused() bool { return c.uses > 1 }

// Answered reports whether any byte of a response to the current request has arrived.
func (c *Conn) Answered() bool { return c.in > 0 }

// FirstByte returns when the first byte of the response arrived.
func (c *Conn) FirstByte() time.Time { return c.firstAt }

// Bytes returns the number of bytes read and written for the current request.
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

// SetKeepAlive sets the time for which the server has announced to keep the connection. Zero
// means that it announced nothing; a negative d means that it will not keep the connection.
func (c *Conn) SetKeepAlive(d time.Duration) { c.hint = d }

// Begin begins a request. The request ends at deadline, or when the server has neither sent
// nor acknowledged a byte for the duration silence. Zero means never for both. Begin reports
// whether the request was already queued when the connection was assigned to it.
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

// bound sets the timeouts for a request that begins now. The caller holds the lock.
func (c *Conn) bound(deadline time.Time, silence time.Duration) {
	c.state = connBusy
	c.deadline, c.since, c.out = deadline, time.Now(), 0
	c.writing, c.stopped, c.held = false, false, false
	if c.silence != silence {
		c.silence = silence
		if c.core.Raw() { // otherwise only due applies the silence timeout
			c.core.SetStall(silence)
		}
	}
	c.arm(c.since)
}

// assign assigns r to an idle connection. If m is not nil, the writers write it while the
// goroutine keeps waiting. The pool is locked.
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
	c.core.ExpectNoInput()
	c.queue(m)
}

// queue queues m. The caller holds the lock.
func (c *Conn) queue(m *Message) {
	m.moveTo(c.core.Queue())
	c.core.Send()
}

// Send queues m, the beginning of a request. If more is true, calls of Write follow.
func (c *Conn) Send(m *Message, more bool) {
	c.core.Lock()
	defer c.core.Unlock()
	if c.cut {
		m.Release()
		return
	}
	c.writing = more
	if c.uses > 1 {
		c.core.ExpectNoInput()
	}
	c.queue(m)
}

// AwaitRoom waits until the kernel has accepted all queued output. Then the caller should
// read and queue the next part of a body. It should not do so earlier, because the response
// may arrive first. Any goroutine may call AwaitRoom.
func (c *Conn) AwaitRoom() error {
	c.core.Lock()
	defer c.core.Unlock()
	for c.writeEnd() == nil && c.core.Pending() > 0 {
		c.awaitRoom()
	}
	return c.writeEnd()
}

// Write queues a copy of p. If last is true, p is the last part of the request. Any goroutine
// may call Write, one at a time, after AwaitRoom.
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

// awaitRoom waits for a call of madeRoom. The caller holds the lock, which awaitRoom releases
// while it waits.
func (c *Conn) awaitRoom() {
	if c.room == nil {
		c.room = sync.NewCond(&c.core)
	}
	c.room.Wait()
}

// madeRoom wakes the goroutines that wait for the state of the output. The caller holds the
// lock.
func (c *Conn) madeRoom() {
	if c.room != nil {
		c.room.Broadcast()
	}
}

// AwaitBegun waits until part of the request is written. Until then the request may have to
// be sent on another connection. Any goroutine may call AwaitBegun.
func (c *Conn) AwaitBegun() error {
	c.core.Lock()
	defer c.core.Unlock()
	for c.writeEnd() == nil && c.core.NothingWritten() {
		c.awaitRoom()
	}
	return c.writeEnd()
}

// writeEnd returns why nothing more can be written, or nil. The caller holds the lock.
func (c *Conn) writeEnd() error {
	switch {
	case c.cut || c.stopped:
		return os.ErrDeadlineExceeded
	case c.werr != nil:
		return c.werr
	}
	return nil
}

// Stale reports whether no byte of the request was written, because input or the end of the
// stream had arrived before.
func (c *Conn) Stale() bool {
	if c.uses == 1 || c.in == 0 && c.failed == nil {
		return false
	}
	c.core.Lock()
	defer c.core.Unlock()
	return !c.cut && c.core.NothingWritten()
}

// Response returns the Response that reads the response to the current request. It is valid
// until End.
func (c *Conn) Response() *Response {
	if c.resp == nil {
		c.resp = responses.Get().(*Response)
	}
	return c.resp
}

// responses is a pool of *Response. A Conn does not contain its Response, because most
// connections are idle.
var responses = sync.Pool{New: func() any { return new(Response) }}

func (c *Conn) dropResponse() {
	if r := c.resp; r != nil {
		c.resp, *r = nil, Response{}
		responses.Put(r)
	}
}

// End ends the request. It reports whether the connection can carry another request: more is
// true, the whole request was written, nothing failed, and no unread input remains.
func (c *Conn) End(more bool) bool { return c.end(more, settleTime) }

// EndTunnel is End for a request to a proxy, after which the connection is a tunnel. The
// proxy has responded to the request, so a writer that has not reported its write yet only
// waits for a processor. EndTunnel waits for the writer for writerTime at most; Interrupt
// ends the wait.
func (c *Conn) EndTunnel(more bool) bool {
	c.uses = 0 // the request to the proxy does not count
	return c.end(more, writerTime)
}

// writerTime limits the wait for a writer that only has to report its write.
const writerTime = time.Hour

func (c *Conn) end(more bool, patience time.Duration) bool {
	clean := more && len(c.window) == 0 && c.failed == nil && !c.core.HoldsInput()
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

// limit moves the deadline of the request to t, unless it is earlier than t.
func (c *Conn) limit(t time.Time) {
	c.core.Lock()
	defer c.core.Unlock()
	if c.deadline.IsZero() || t.Before(c.deadline) {
		c.deadline = t
	}
}

// Release ends a request, in place of End, and returns the underlying net.Conn and the unused
// bytes that were read from it. Like EndTunnel, it waits for the writer, but not longer than
// the deadline of the request. If part of the request was not sent, or there was an error,
// Release returns nil, and the caller must still close c.
func (c *Conn) Release() (nc net.Conn, rest []byte) {
	rest = bytes.Clone(c.window)
	c.dropResponse()
	c.release()
	c.core.Lock()
	if !c.writing {
		patience := writerTime
		if !c.deadline.IsZero() {
			patience = min(patience, time.Until(c.deadline))
		}
		c.settle(patience)
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

// Released reports whether Release has returned the underlying net.Conn. Then the connection
// must not be closed.
func (c *Conn) Released() bool { return c.released }

// settleTime limits the time for which the end of a request waits for a writer that itself
// waits for the server: that writer may be about to continue.
const settleTime = time.Millisecond

// settle waits until the writers have reported everything that they wrote. The response may
// arrive before their report. The caller holds the lock.
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

// Renew restarts the silence timeout, after a time in which the client did not read the
// response.
func (c *Conn) Renew() {
	c.core.Lock()
	defer c.core.Unlock()
	c.since = time.Now()
}

// Hold suspends the silence timeout if held is true, and restarts it otherwise. Any goroutine
// may call Hold, but only while c serves the request.
func (c *Conn) Hold(held bool) {
	c.core.Lock()
	defer c.core.Unlock()
	c.held, c.since = held, time.Now()
	c.core.Wake() // the deadline of the goroutine has changed
}

// Upgrade is called when the connection changes to another protocol. From then on there are
// no timeouts, and the request never counts as completely written.
func (c *Conn) Upgrade() {
	c.core.Lock()
	defer c.core.Unlock()
	c.deadline, c.silence, c.writing = time.Time{}, 0, true
	c.core.SetStall(0)
	c.fired = true // so that arm removes the read deadline
}

// CloseWrite ends the stream to the server when all output is sent. Any goroutine may call
// CloseWrite, but only while c serves the request.
func (c *Conn) CloseWrite() {
	c.core.Lock()
	defer c.core.Unlock()
	c.core.EndOutput()
}

// Interrupt makes all current and later reads and writes fail. Any goroutine may call it.
func (c *Conn) Interrupt() {
	c.core.Lock()
	defer c.core.Unlock()
	c.cut = true
	c.core.Cut(false)
	c.core.Wake()
	c.madeRoom()
}

// Fail ends reading with err, which is not an error of a Read.
func (c *Conn) Fail(err error) {
	if c.failed == nil {
		c.failed = err
	}
	c.core.Lock()
	defer c.core.Unlock()
	c.core.Cut(false)
}

// retire makes the goroutine of an idle connection close the connection. The pool has
// removed the connection, and is locked.
func (c *Conn) retire() {
	c.core.Lock()
	defer c.core.Unlock()
	c.state = connRetire
	c.core.Closing()
}

// setIdle marks the connection as idle until the given time. The pool is locked.
func (c *Conn) setIdle(until time.Time) {
	c.core.Lock()
	defer c.core.Unlock()
	c.state, c.deadline = connIdle, until
	c.core.ExpectNoInput()
}

// Next waits for the next request, on a connection that Pool.Put has kept. It returns nil
// when the connection has left the pool and must be closed, because it was idle for too
// long, or because the server has ended it or sent unsolicited data. If parked is true, the
// connection no longer has a goroutine, and the caller must not touch it.
func (c *Conn) Next(p *Pool) (r Request, parked bool) {
	c.in, c.size = 0, 0
	if c.uses == 1 && c.serve != nil {
		// The next request may not come soon. If it does, the goroutine that the
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

// look waits until input arrives or the state changes. It returns false if the connection is
// parked.
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

// timedOut reports whether err means that the read deadline has passed. A net.Conn that is
// not a socket may have its own timeouts.
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

// arm sets the read deadline if the current one is too late. A deadline that is too early does
// no harm, so one deadline serves many requests. The caller holds the lock.
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

// due returns when the goroutine must check the connection, or the zero time for never. The
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

// sending reports whether the server may still wait for the rest of the request. On a
// connection with a descriptor, the core watches whether the server accepts the pending
// output. On another one, only calls of Sent show progress, so sending reports false, and the
// silence timeout applies. The caller holds the lock.
func (c *Conn) sending() bool {
	if c.core.Pending() > 0 {
		return c.core.Raw() && c.werr == nil
	}
	return c.writing && c.werr == nil
}

// mayWait returns an error if the request has timed out or was interrupted. Otherwise it sets
// the read deadline.
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

// firstRead is the size of the first read of a response. After a read that fills its buffer,
// the next one is as large as possible.
const firstRead = 4 << 10

// more adds input to the window, or returns why there is none.
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

// readOnce reads the available input, or waits for input once.
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

// take removes n bytes from the window.
func (c *Conn) take(n int) {
	if c.window = c.window[n:]; len(c.window) == 0 {
		c.release()
	}
}

// takeBuffer removes up to n bytes from the window, and returns them in a separate buffer. If
// n is the size of the window, takeBuffer returns the buffer that the bytes were read into.
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

// maxSlack limits the bytes of a response between two parts of its body, such as chunk sizes
// and their extensions. Otherwise a server that sent nothing else could occupy the connection
// without end.
const maxSlack = 64 << 10

var errSlack = errors.New("endless framing")

// cause returns the error of a response that ended too early or was malformed. A failure of
// the connection takes precedence over err, the error of the parser.
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

// Close closes the connection. It waits neither for the server nor, if the connection is not
// a socket, for the code of the application that implements it.
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

// closeNotifyTimeout limits the time for which finish waits until another goroutine has
// written close_notify, on a connection that is not a socket.
const closeNotifyTimeout = 100 * time.Millisecond

// finish sends close_notify, if the kernel accepts it, and closes the connection.
func (c *Conn) finish() {
	c.core.Lock()
	c.settling = true
	if !c.cut && c.core.Secured() && !c.core.Handshaking() {
		c.core.EndOutput()
	}
	until := time.Now().Add(closeNotifyTimeout)
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

// A user is the Conn from the core's point of view.
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

// Sent records n bytes that the kernel has accepted.
func (u *user) Sent(n int, all bool) (report bool) {
	u.out += int64(n)
	u.since = time.Now()
	if u.settling {
		u.core.Wake()
	}
	(*Conn)(u).madeRoom()
	return false
}

// WriteFailed records err and wakes the goroutine.
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
