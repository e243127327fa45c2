package eventloop

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// Stream returns the connection as a net.Conn for the task t: Read and Write
// suspend the task, never the loop, so bufio, encoding/json, net/textproto,
// http.ReadRequest and io.Copy work on it unchanged. Deadlines work; Read obeys
// ConnConfig.ReadTimeout too.
//
// From the first Stream on, what arrives and how it ends goes to Read instead of
// OnData and OnEvent; what had arrived and was not delivered comes first. After
// io.EOF the connection can still be written to. Write returns when its bytes are
// queued, and waits while more than HighWater bytes are pending; if HighWater is
// not below MaxBuffered it returns [ErrBufferFull] when that is reached. Close
// closes the connection as [Conn.Close] does.
//
// A stream belongs to its task; each task that uses the connection asks for its
// own. At any time one task may wait to read and one to write; others get an
// error. A stream ends with its task: when the last one does, the callbacks have
// the connection again, with what was not read, and hear of an end that no Read
// or Write has told; if the peer has ended the connection it is then closed.
//
// Used by anybody but its task, the stream returns [ErrNotOnTask]; when the
// connection was closed, by Close of the stream or of the connection, whoever did
// it, net.ErrClosed at once. After an error of the connection, Read and Write
// return that error.
func (c *Conn) Stream(t *Task) net.Conn {
	if t == nil || t.check() != nil || t.loop != c.loop {
		return &stream{c: c, t: t, err: ErrNotOnTask}
	}
	sink, err := c.openSink()
	if err != nil {
		return &stream{c: c, t: t, err: err}
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

// openSink returns the sink of the connection's streams.
func (c *Conn) openSink() (*streamSink, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extra()
	switch old := x.sink.(type) {
	case *streamSink:
		return old, nil
	case nil:
		if c.flags.has(flagClosing) {
			return nil, c.closedError()
		}
		s := &streamSink{c: c}
		s.low = &onLow{s.drained}
		x.onLow = append(x.onLow, s.low)
		c.setSink(s)
		return s, nil
	}
	return nil, errors.New("eventloop: the connection's data goes to a pipe")
}

// A streamSink is what the streams of a connection share. Only on the loop.
type streamSink struct {
	c       *Conn
	streams []*stream      // one a task
	low     *onLow         // wakes the writer
	buf     *sockio.Buffer // the chunk that is being read
	err     error          // how reading ended, or the connection
	told    error          // what a Read or Write has returned of it
	reader  waiter
	writer  waiter
}

// A waiter is a task that waits for something, or nobody.
type waiter struct {
	t   *Task
	seq uint64
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
	c.mu.Lock()
	c.setSink(nil)
	c.x.Load().removeLow(s.low)
	gone := c.flags.has(flagClosing)
	c.mu.Unlock()
	s.giveBack()
	if b := s.buf; b != nil {
		s.buf = nil
		if !gone {
			c.chunk = b
			(*chunkTask)(c).redeliver() // in the turn of the task, which has ended
		} else {
			b.Release()
			c.consumed()
		}
	}
	s.releaseEnd(gone)
}

// giveBack leaves what was not read to Detach, if somebody called it.
func (s *streamSink) giveBack() {
	s.c.mu.Lock()
	detaching := s.c.flags.has(flagDetach)
	s.c.mu.Unlock()
	if detaching && s.buf != nil {
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
			c.event(io.EOF)
		}
		c.afterEOF()
	case untold && c.failed:
		c.loop.event(s.err, true) // too late for the callbacks of the connection
	}
}

// A stream is a connection as one task sees it.
type stream struct {
	c     *Conn
	t     *Task
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

// usable returns what is against using the stream.
func (s *stream) usable() error {
	if s.err != nil {
		return s.err
	}
	if err := s.t.enter(); err != nil {
		return err
	}
	if s.t.unwound {
		return ErrLoopClosed
	}
	return nil
}

// Read reads what has arrived, and waits for it if there is nothing.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	k := s.sink
	for {
		err := k.failure()
		if err == net.ErrClosed {
			return 0, err
		}
		if s.read.passed() {
			return 0, s.c.opError("read", os.ErrDeadlineExceeded)
		}
		if k.buf != nil {
			return k.read(p), nil
		}
		if err != nil {
			return 0, k.tell(err)
		}
		if err := s.wait(&k.reader, &s.read, "read"); err != nil {
			return 0, err
		}
	}
}

// read takes bytes from the chunk, and gives the chunk back after the last.
func (s *streamSink) read(p []byte) int {
	b := s.buf
	n := copy(p, b.Bytes())
	if b.Consume(n); b.Len() == 0 {
		s.buf = nil
		b.Release()
		s.c.consumed()
	}
	return n
}

// wait suspends the task until the sink wakes it as w, or until the deadline.
func (s *stream) wait(w *waiter, d *deadline, op string) error {
	if w.t != nil {
		return s.c.opError(op, errBusy)
	}
	if d.passed() {
		return s.c.opError(op, os.ErrDeadlineExceeded)
	}
	seq, err := s.t.park()
	if err != nil {
		return err
	}
	*w = waiter{s.t, seq}
	d.arm(s.t.loop, w)
	err = s.t.suspend()
	if w.t == s.t {
		w.t = nil // by the task's context
	}
	return err
}

var errBusy = errors.New("another task is waiting to do that")

// Write queues p, in pieces of at most HighWater bytes, and waits before each one
// while too many bytes are pending.
func (s *stream) Write(p []byte) (n int, err error) {
	if err := s.usable(); err != nil {
		return 0, writeError(err)
	}
	k, piece := s.sink, s.piece()
	if k.writer.t != nil { // in the middle of a Write
		return 0, s.c.opError("write", errBusy)
	}
	for {
		if err := k.failure(); err != nil && err != io.EOF {
			return n, k.tell(err)
		}
		if s.write.passed() {
			return n, s.c.opError("write", os.ErrDeadlineExceeded)
		}
		if s.c.NeedDrain() {
			if err := s.wait(&k.writer, &s.write, "write"); err != nil {
				return n, err
			}
			continue
		}
		m, err := s.c.Write(p[n:min(len(p), n+piece)])
		n += m
		if err == net.ErrClosed {
			err = k.tell(s.c.whyNotWrite())
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// whyNotWrite returns why Write said net.ErrClosed. The error of an earlier write
// may be known although the loop has not heard of it yet.
func (c *Conn) whyNotWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	if err := s.usable(); err != nil {
		return writeError(err)
	}
	return s.c.Close()
}

// CloseWrite ends the stream to the peer.
func (s *stream) CloseWrite() error {
	if err := s.usable(); err != nil {
		return writeError(err)
	}
	return s.c.CloseWrite()
}

func (s *stream) LocalAddr() net.Addr  { return s.c.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.c.RemoteAddr() }

func (s *stream) SetDeadline(t time.Time) error      { return s.setDeadlines(t, &s.read, &s.write) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.setDeadlines(t, &s.read) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, &s.write) }

func (s *stream) setDeadlines(t time.Time, ds ...*deadline) error {
	err := s.err
	if err == nil {
		err = s.t.check()
	}
	if err == nil && s.c.Closed() {
		err = net.ErrClosed
	}
	if err != nil {
		return writeError(err)
	}
	for _, d := range ds {
		d.at = t
	}
	return nil
}

// A deadline bounds the waits of one direction of a stream.
type deadline struct {
	at    time.Time
	timer *Timer
	w     *waiter
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// arm has w woken at the deadline, if there is one. The timer stays armed after
// the wait, as the deadline is often far and soon armed again.
func (d *deadline) arm(l *Loop, w *waiter) {
	if d.at.IsZero() {
		d.stop()
		return
	}
	d.w = w
	if d.timer == nil {
		d.timer = l.AfterFunc(time.Until(d.at), d.expired)
		d.timer.Unref()
		return
	}
	d.timer.Reset(time.Until(d.at))
}

// expired wakes the task, which finds that the deadline has passed when it waits
// again.
func (d *deadline) expired() { d.w.wake() }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}
