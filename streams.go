package eventloop

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// NetConn returns the connection as a net.Conn for the task t: Read and Write
// suspend the task, never the loop, so bufio, encoding/json, net/textproto,
// http.ReadRequest and io.Copy work on it unchanged. Deadlines work; Read obeys
// ConnConfig.ReadTimeout too.
//
// From the first NetConn on, what arrives and how it ends goes to Read instead of
// OnData and OnEvent; what had arrived and was not delivered comes first, and so
// does an end that was told before. After io.EOF the connection can still be written
// to. Write returns when its bytes are queued, and waits while more than HighWater
// bytes are pending; if HighWater is not below MaxBuffered it returns
// [ErrBufferFull] when that is reached. Close closes the connection as [Conn.Close]
// does.
//
// Read and Write are for tasks of the loop, one after the other or at the same time:
// any task may be the one that reads, and any one the one that writes, also a task
// that was given the net.Conn by another. A second reader or writer at the same time
// gets an error. Elsewhere Read and Write return [ErrNotOnTask]. All other methods
// may be called from any goroutine: a deadline that is set, or a Close, ends a Read
// or Write that waits, as crypto/tls and other libraries expect that take a context.
//
// The net.Conn ends with the task t; each task that wants to be sure of the connection
// asks for its own. When the last one ends, the callbacks have the connection again,
// with what was not read, in a later turn, and get an end that no Read or Write
// has returned; if the peer has ended the connection it is then closed.
//
// When the connection was closed, by Close of the net.Conn or of c,
// its methods return net.ErrClosed at once. After an error of the connection, Read and
// Write return that error.
func (c *Conn) NetConn(t *Task) net.Conn {
	if t == nil || t.check() != nil || t.loop != c.loop {
		return &stream{c: c, err: ErrNotOnTask}
	}
	sink, err := c.loopSide().openSink()
	if err != nil {
		return &stream{c: c, err: err}
	}
	for _, s := range sink.streams {
		if s.t == t {
			return s
		}
	}
	s := &stream{c: c, t: t, sink: sink}
	sink.streams = append(sink.streams, s)
	t.holds = append(t.holds, s)
	return s
}

// openSink returns the sink of the connection's streams. On the loop.
func (cl *connLoop) openSink() (*streamSink, error) {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	switch old := x.sink.(type) {
	case *streamSink:
		return old, nil
	case nil:
		if c.life >= lifeClosing {
			if x.untold != nil {
				x.untold.Ignore() // it is told here
			}
			return nil, c.closedError()
		}
		s := &streamSink{c: c}
		if c.facts.has(factEnded) {
			s.err, s.told = io.EOF, io.EOF
		}
		s.low = &onLow{s.drained}
		x.onLow = append(x.onLow, s.low)
		c.setSink(s)
		return s, nil
	}
	return nil, errors.New("eventloop: the connection's data goes to a pipe")
}

// A streamSink is what the streams of a connection share. Only on the loop.
type streamSink struct {
	c        *Conn
	streams  []*stream      // one a task
	low      *onLow         // wakes the writer
	buf      *sockio.Buffer // the chunk that is being read
	err      error          // how reading ended, or the connection
	told     error          // what a Read or Write has returned of it
	released bool           // the tasks of all streams have ended
	reader   waiter
	writer   waiter
}

// A waiter is a task that waits for something, or empty.
type waiter struct {
	t   *Task
	seq uint64
	d   *deadline // that bounds it
}

// wake goes on with the task now: the caller is a turn of its own.
func (w *waiter) wake() {
	if t := w.t; t != nil {
		w.t = nil
		t.wakeNow(w.seq)
	}
}

func (s *streamSink) chunk(b *sockio.Buffer) {
	s.buf = b
	s.reader.wake()
}

func (s *streamSink) unread() { s.reader.wake() }

// end keeps the end of reading for Read. After an error the connection is closed;
// after io.EOF it lives until its streams have ended.
func (s *streamSink) end(err error) bool {
	if s.err == nil || s.err == io.EOF {
		s.err = err
	}
	s.giveBack()
	if err != io.EOF {
		s.writer.wake()
	}
	s.reader.wake()
	return true
}

// endOutput ends the waits for output to be sent, since it will not be: the
// streams may hold what arrived before err, so that reading does not get to it, and
// their task may wait for just that.
func (s *streamSink) endOutput(err error) {
	c := s.c
	c.core.Lock()
	defer c.core.Unlock()
	c.unset(bitHigh)
	x := c.x.Load()
	for _, w := range x.flushed {
		w.f.Ignore() // Read is going to tell
		w.f.resolve(struct{}{}, err)
	}
	x.flushed = nil
	x.postLow(c.loop)
}

// drained is posted when there is room for output again, and when the connection
// is closed.
func (s *streamSink) drained() {
	s.writer.wake()
	if s.c.Closed() {
		s.reader.wake()
	}
}

// failure returns the error for an operation, or nil.
func (s *streamSink) failure() error {
	if s.released {
		return ErrNotOnTask // the task that the stream was made for has ended
	}
	if s.err == nil || s.err == io.EOF {
		if s.c.Closed() && s.c.Err() == nil {
			return net.ErrClosed // we closed it: whatever has arrived is gone
		}
	}
	return s.err
}

// tell is for an error of the connection that Read or Write returns.
func (s *streamSink) tell(err error) error {
	s.told = err
	return err
}

// release ends the sink, after its last stream.
func (s *streamSink) release() {
	c := s.c
	s.released = true
	s.giveBack()
	c.core.Lock()
	gone := c.life >= lifeClosing
	if s.buf != nil && !gone {
		c.chunk, s.buf = s.buf, nil
		c.facts |= factHeld
	}
	c.setSink(nil)
	c.x.Load().removeLow(s.low)
	c.core.Unlock()
	if b := s.buf; b != nil {
		s.buf = nil
		b.Release()
		c.loopSide().consumed()
	}
	c.loop.Post(func() { // tasks that were given a stream of another
		s.reader.wake()
		s.writer.wake()
	})
	s.releaseEnd(gone)
}

// giveBack leaves what was not read to Detach, if that was called.
func (s *streamSink) giveBack() {
	if s.buf != nil && s.c.loopSide().detaching() {
		s.c.chunk, s.buf = s.buf, nil
	}
}

// releaseEnd tells of the end that no stream has told, if it was one by the peer.
func (s *streamSink) releaseEnd(gone bool) {
	c, untold := s.c, s.err != nil && s.err != s.told
	switch {
	case c.loop.ended.Load():
	case s.err == io.EOF && !gone:
		if untold {
			c.loopSide().event(io.EOF)
		}
		c.loopSide().afterEOF()
	case untold && c.failed:
		c.loop.event(s.err, true) // too late for the callbacks of the connection
	}
}

// A stream is a connection as tasks see it.
type stream struct {
	c     *Conn
	t     *Task // for which it was made
	sink  *streamSink
	err   error // for good
	read  deadline
	write deadline
}

// release is called when the task ends.
func (s *stream) release() {
	s.read.stop()
	s.write.stop()
	k := s.sink
	k.streams = slices.DeleteFunc(k.streams, func(other *stream) bool { return other == s })
	if len(k.streams) == 0 {
		k.release()
	}
}

// usable returns the task that uses the stream, or what is against that.
func (s *stream) usable() (*Task, error) {
	if s.err != nil {
		return nil, s.err
	}
	t := s.c.loop.task.Load()
	if t == nil {
		return nil, ErrNotOnTask
	}
	if err := t.enter(); err != nil {
		return nil, err
	}
	if t.unwound {
		return nil, ErrLoopClosed
	}
	return t, nil
}

// Read reads what has arrived, and waits for it if there is nothing.
func (s *stream) Read(p []byte) (int, error) {
	t, err := s.usable()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	k := s.sink
	for {
		err := k.failure()
		if err == net.ErrClosed || err == ErrNotOnTask {
			return 0, err
		}
		if s.read.passed() {
			return 0, s.c.opError(OpRead, os.ErrDeadlineExceeded)
		}
		if n := k.read(p); n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, k.tell(err)
		}
		if err := s.wait(t, &k.reader, &s.read, OpRead); err != nil {
			return 0, err
		}
	}
}

// read takes bytes from what has arrived, and gives the chunk back after its last.
// What StartTLS is going to take is not touched.
func (s *streamSink) read(p []byte) (n int) {
	c := s.c
	switch bits := c.bits.Load(); {
	case bits&bitUpgrade != 0:
		return 0
	case bits&bitUnread != 0:
		return c.loopSide().readUnread(p)
	case s.buf == nil:
		return 0
	}
	b := s.buf
	n = copy(p, b.Bytes())
	if b.Consume(n); b.Len() == 0 {
		s.buf = nil
		b.Release()
		c.loopSide().consumed()
	}
	return n
}

// readUnread takes bytes that were given back by Unread.
func (cl *connLoop) readUnread(p []byte) int {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	n := copy(p, x.unread)
	if x.unread = x.unread[n:]; len(x.unread) == 0 {
		x.unread = nil
		c.unset(bitUnread)
		c.facts &^= factRest
	}
	return n
}

// wait suspends the task until the sink wakes it as w, or until the deadline.
func (s *stream) wait(t *Task, w *waiter, d *deadline, op string) error {
	if w.t != nil {
		return s.c.opError(op, errBusy)
	}
	if d.passed() {
		return s.c.opError(op, os.ErrDeadlineExceeded)
	}
	seq, err := t.park()
	if err != nil {
		return err
	}
	*w = waiter{t, seq, d}
	d.arm(t.loop, w)
	err = t.suspend()
	if w.t == t {
		w.t = nil // by the task's context
	}
	return err
}

var errBusy = errors.New("another task is waiting to do that")

// Write queues p, in pieces of at most HighWater bytes, and waits before each one
// while too many bytes are pending.
func (s *stream) Write(p []byte) (n int, err error) {
	t, err := s.usable()
	if err != nil {
		return 0, writeError(err)
	}
	k, piece := s.sink, s.piece()
	if k.writer.t != nil { // in the middle of a Write
		return 0, s.c.opError(OpWrite, errBusy)
	}
	for {
		if err := k.failure(); err != nil && err != io.EOF {
			return n, k.tell(err)
		}
		if s.write.passed() {
			return n, s.c.opError(OpWrite, os.ErrDeadlineExceeded)
		}
		if s.c.NeedDrain() {
			if err := s.wait(t, &k.writer, &s.write, OpWrite); err != nil {
				return n, err
			}
			continue
		}
		m, err := s.c.Write(p[n:min(len(p), n+piece)])
		n += m
		if err == net.ErrClosed {
			err = k.tell(s.c.loopSide().whyNotWrite())
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// whyNotWrite returns why Write said net.ErrClosed. The error of an earlier write
// may be known although the loop has not heard of it yet.
func (cl *connLoop) whyNotWrite() error {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return writeError(c.closedError())
}

// piece returns how much to write at a time, so that it never passes MaxBuffered.
func (s *stream) piece() int {
	cfg := s.c.cfg.Load()
	n := min(cfg.HighWater, defaultHighWater)
	if room := cfg.MaxBuffered - cfg.HighWater; room > 0 {
		n = min(n, room)
	}
	return max(n, 1)
}

// writeError is the error of writing to a connection that has ended with err.
func writeError(err error) error {
	if err == io.EOF {
		return net.ErrClosed
	}
	return err
}

// Close closes the connection as Conn.Close does. A task that waits in Read or
// Write of it gets net.ErrClosed.
func (s *stream) Close() error {
	if s.err != nil {
		return writeError(s.err)
	}
	return s.c.Close()
}

// CloseWrite ends the stream to the peer.
func (s *stream) CloseWrite() error {
	if s.err != nil {
		return writeError(s.err)
	}
	return s.c.CloseWrite()
}

func (s *stream) LocalAddr() net.Addr  { return s.c.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.c.RemoteAddr() }

func (s *stream) SetDeadline(t time.Time) error      { return s.setDeadlines(t, true, true) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.setDeadlines(t, true, false) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, false, true) }

func (s *stream) setDeadlines(t time.Time, read, write bool) error {
	if s.err != nil {
		return writeError(s.err)
	}
	if s.c.Closed() {
		return net.ErrClosed
	}
	if read {
		s.read.set(t, s, &s.sink.reader)
	}
	if write {
		s.write.set(t, s, &s.sink.writer)
	}
	return nil
}

// A deadline bounds the waits of one direction of a stream.
type deadline struct {
	at    atomic.Pointer[time.Time] // nil: none
	timer *Timer                    // only on the loop, as is w
	w     *waiter
}

// set may be called from any goroutine. The task of the stream is running when it
// calls, and cannot be waiting; otherwise a task that is gets the new deadline.
func (d *deadline) set(t time.Time, s *stream, w *waiter) {
	if t.IsZero() {
		d.at.Store(nil)
	} else {
		d.at.Store(&t)
	}
	if s.t.check() == nil {
		return
	}
	l := s.c.loop
	l.Post(func() {
		if w.t != nil && w.d == d {
			d.arm(l, w)
		}
	})
}

func (d *deadline) passed() bool {
	at := d.at.Load()
	return at != nil && !time.Now().Before(*at)
}

// arm has w woken at the deadline, if there is one. The timer stays armed after
// the wait, as the deadline is often far and soon armed again.
func (d *deadline) arm(l *Loop, w *waiter) {
	at := d.at.Load()
	if at == nil {
		d.stop()
		return
	}
	d.w = w
	if d.timer == nil {
		d.timer = l.AfterFunc(time.Until(*at), d.expired)
		d.timer.Unref()
		return
	}
	d.timer.Reset(time.Until(*at))
}

// expired wakes the task, which finds that the deadline has passed when it waits
// again.
func (d *deadline) expired() {
	if d.w.d == d {
		d.w.wake()
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}
