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

// NetConn returns the connection as a net.Conn for the task t. Read and Write suspend
// the task, never the loop, so bufio, encoding/json, net/textproto, http.ReadRequest and
// io.Copy work on it unchanged. Deadlines work; ConnConfig.ReadTimeout also applies to
// Read.
//
// From the first NetConn on, Read receives the input and its end, instead of OnData and
// OnEvent. Read first returns bytes that had arrived and were not delivered. It also
// returns an end that OnEvent has already received. After io.EOF the connection can
// still be written to. Write returns when its bytes are queued, and waits while more
// than HighWater bytes are pending. If HighWater is not below MaxBuffered, Write returns
// [ErrBufferFull] when MaxBuffered is reached. Close closes the connection as
// [Conn.Close] does.
//
// Only tasks of the loop may call Read and Write, one after the other or concurrently.
// Any task may read, and any task may write, including a task that received the
// net.Conn from another task. A second concurrent reader or writer gets an error.
// Outside of tasks, Read and Write return [ErrNotOnTask]. All other methods may be
// called from any goroutine. Setting a deadline, or Close, ends a waiting Read or
// Write, as crypto/tls and other libraries that accept a context expect.
//
// The net.Conn ends with the task t. A task that needs the connection for its whole
// life calls NetConn itself. If the caller of NetConn is not t, or t belongs to another
// loop, its Read and Write return [ErrNotOnTask]. When the last net.Conn has ended, the
// callbacks receive the input again: in a later turn, the bytes that were not read, and
// an end that no Read or Write has returned. If the peer has ended its side, the
// connection is then closed.
//
// After the connection was closed, by Close of the net.Conn or of c, the methods return
// net.ErrClosed immediately. After an error of the connection, Read and Write return
// that error.
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

// openSink returns the sink of the connection's streams, and creates it if needed. It
// runs on the loop.
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
			if x.unreported != nil {
				x.unreported.Ignore() // the error is returned here
			}
			return nil, c.closedError()
		}
		s := &streamSink{c: c}
		if c.facts.has(factEnded) {
			s.err, s.returned = io.EOF, io.EOF
		}
		s.low = &onLow{s.drained}
		x.onLow = append(x.onLow, s.low)
		c.setSink(s)
		return s, nil
	}
	return nil, errors.New("eventloop: the connection's data goes to a pipe")
}

// A streamSink holds the state that the streams of a connection share. It is used only
// on the loop.
type streamSink struct {
	c        *Conn
	streams  []*stream      // one per task
	low      *onLow         // wakes the writer
	buf      *sockio.Buffer // the chunk that is being read
	err      error          // how reading, or the connection, ended
	returned error          // the err that a Read or Write has returned
	released bool           // the tasks of all streams have ended
	reader   waiter
	writer   waiter
}

// A waiter is a waiting task, or empty.
type waiter struct {
	t   *Task
	seq uint64
	d   *deadline // limits the wait
}

// wake resumes the task immediately. The caller must be the only code in its turn, see
// Task.wakeNow.
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

// end stores the end of reading for Read. After an error the connection is closed. After
// io.EOF it stays open until its streams have ended.
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

// endOutput ends all waits for output, which will not be sent. The streams may hold bytes
// that arrived before err, so that reading does not reach err; and the task that should
// read them may be waiting for this output.
func (s *streamSink) endOutput(err error) {
	c := s.c
	c.core.Lock()
	defer c.core.Unlock()
	c.unset(bitHigh)
	x := c.x.Load()
	for _, w := range x.flushed {
		w.f.Ignore() // Read reports the error
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
		return ErrNotOnTask // the tasks of all streams have ended
	}
	if s.err == nil || s.err == io.EOF {
		if s.c.Closed() && s.c.Err() == nil {
			return net.ErrClosed // closed locally: unread bytes are dropped
		}
	}
	return s.err
}

// returning records that Read or Write returns err, an error of the connection.
func (s *streamSink) returning(err error) error {
	s.returned = err
	return err
}

// release ends the sink after its last stream has ended.
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
	reported := s.returned == io.EOF
	held := !gone && s.err == io.EOF && (c.is(bitUnread) || !reported && c.is(pauseReads))
	if held {
		c.loopSide().holdEndAgain(reported)
	}
	c.core.Unlock()
	if b := s.buf; b != nil {
		s.buf = nil
		b.Release()
		c.loopSide().consumed()
	}
	c.loop.Post(func() { // wake tasks that use a stream of another task
		s.reader.wake()
		s.writer.wake()
	})
	if !held {
		s.releaseEnd(gone)
	}
}

// holdEndAgain holds an end that the sink received: it comes after a pause, and after the
// unread bytes. The callbacks get the end unless a stream has reported it. The caller
// holds the lock.
func (cl *connLoop) holdEndAgain(reported bool) {
	c := (*Conn)(cl)
	c.facts |= factEndHeld
	if !reported {
		c.facts &^= factEnded
	}
	c.readerChanged()
}

// giveBack passes the unread chunk to Detach, if Detach was called.
func (s *streamSink) giveBack() {
	if s.buf != nil && s.c.loopSide().detaching() {
		s.c.chunk, s.buf = s.buf, nil
	}
}

// releaseEnd reports an end that no stream has returned, and closes the connection if
// the peer has ended its side.
func (s *streamSink) releaseEnd(gone bool) {
	c, unreported := s.c, s.err != nil && s.err != s.returned
	switch {
	case c.loop.ended.Load():
	case s.err == io.EOF && !gone:
		if unreported {
			c.loopSide().event(io.EOF)
		}
		c.loopSide().afterEOF()
	case unreported && c.failed:
		c.loop.event(s.err, true) // too late for the callbacks of the connection
	}
}

// A stream is the net.Conn that NetConn returns to a task.
type stream struct {
	c     *Conn
	t     *Task // the task that called NetConn
	sink  *streamSink
	err   error // if not nil, all operations fail with it
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

// usable returns the task that uses the stream, or an error if it must not use it.
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

// Read returns bytes that have arrived, or waits until bytes arrive.
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
			return 0, k.returning(err)
		}
		if err := s.wait(t, &k.reader, &s.read, OpRead); err != nil {
			return 0, err
		}
	}
}

// read copies input to p, and releases the chunk after its last byte. It leaves bytes
// that StartTLS will take.
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

// readUnread copies unread bytes to p.
func (cl *connLoop) readUnread(p []byte) int {
	c := (*Conn)(cl)
	c.noteRead()
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

// wait suspends the task until the sink wakes w, or until the deadline.
func (s *stream) wait(t *Task, w *waiter, d *deadline, op string) error {
	if w.t != nil {
		return s.c.opError(op, errBusy)
	}
	if d.passed() {
		return s.c.opError(op, os.ErrDeadlineExceeded)
	}
	seq, err := t.beginSuspend()
	if err != nil {
		return err
	}
	*w = waiter{t, seq, d}
	d.arm(t.loop, w)
	err = t.suspend()
	if w.t == t {
		w.t = nil // the task's context ended the wait
	}
	return err
}

var errBusy = errors.New("another task is already waiting in this operation")

// Write queues p in pieces of at most HighWater bytes, and waits before each piece while
// too many bytes are pending.
func (s *stream) Write(p []byte) (n int, err error) {
	t, err := s.usable()
	if err != nil {
		return 0, writeError(err)
	}
	k, piece := s.sink, s.piece()
	if k.writer.t != nil { // another Write is in progress
		return 0, s.c.opError(OpWrite, errBusy)
	}
	for {
		if err := k.failure(); err != nil && err != io.EOF {
			return n, k.returning(err)
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
			err = k.returning(s.c.loopSide().whyNotWrite())
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// whyNotWrite returns the reason why Write returned net.ErrClosed. An earlier write may
// have failed although its writeErrTask has not run yet.
func (cl *connLoop) whyNotWrite() error {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return writeError(c.closedError())
}

// piece returns the number of bytes to write at a time, so that the pending output never
// exceeds MaxBuffered.
func (s *stream) piece() int {
	cfg := s.c.cfg.Load()
	n := min(cfg.HighWater, defaultHighWater)
	if room := cfg.MaxBuffered - cfg.HighWater; room > 0 {
		n = min(n, room)
	}
	return max(n, 1)
}

// writeError returns the error of a write to a connection that has ended with err.
func writeError(err error) error {
	if err == io.EOF {
		return net.ErrClosed
	}
	return err
}

// Close closes the connection as Conn.Close does. A waiting Read or Write returns
// net.ErrClosed.
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

// A deadline limits the waits of one direction of a stream.
type deadline struct {
	at    atomic.Pointer[time.Time] // nil: none
	timer *Timer                    // only on the loop, as is w
	w     *waiter
}

// set may be called from any goroutine. If the caller is the task of the stream, that
// task is not waiting. Otherwise a waiting task gets the new deadline.
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

// arm sets the timer to wake w at the deadline, if there is one. The timer stays armed
// after the wait, because the deadline is often far away and soon armed again.
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

// expired wakes the task, which then notices that the deadline has passed.
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
