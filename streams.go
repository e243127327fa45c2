package eventloop

import (
	"errors"
	"io"
	"net"
	"os"
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
// queued, and waits while more than HighWater bytes are pending. Close closes the
// connection as [Conn.Close] does.
//
// A stream belongs to its task; each task that uses the connection asks for its
// own. At any time one task may wait to read and one to write; others get an
// error. A stream ends with its task: when the last one does, the callbacks have
// the connection again, and it is closed if its peer has ended it meanwhile.
//
// Used by anybody but its task, the stream returns [ErrNotOnTask]; on a closed
// connection, net.ErrClosed.
func (c *Conn) Stream(t *Task) net.Conn {
	s := &stream{c: c, t: t}
	if t == nil || t.check() != nil || t.loop != c.loop {
		s.err = ErrNotOnTask
		return s
	}
	if s.sink, s.err = c.openSink(); s.err == nil {
		s.sink.users++
		t.releases = append(t.releases, s.release)
	}
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
		if c.flags.has(flagGone) {
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
	c      *Conn
	users  int            // streams
	low    *onLow         // wakes the writer
	buf    *sockio.Buffer // the chunk that is being read
	err    error          // how reading ended
	reader waiter
	writer waiter
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
	if s.err == nil {
		s.err = err
	}
	if err != io.EOF {
		s.writer.wake()
	}
	s.reader.wake()
	return true
}

func (s *streamSink) drained() { s.writer.wake() }

// release ends the sink, after its last user.
func (s *streamSink) release() {
	c := s.c
	c.mu.Lock()
	c.setSink(nil)
	c.x.Load().removeLow(s.low)
	gone := c.flags.has(flagClosing)
	c.mu.Unlock()
	if b := s.buf; b != nil && !gone {
		s.buf = nil
		c.chunk = b
		c.deliver() // in the turn of the task, which has ended
	} else if b != nil {
		b.Release()
		c.consumed()
	}
	if s.err == io.EOF && !gone {
		c.afterEOF()
	}
}

// A stream is a connection as one task sees it.
type stream struct {
	c      *Conn
	t      *Task
	sink   *streamSink
	err    error // for good
	closed bool
	read   deadline
	write  deadline
}

// release is called when the task ends.
func (s *stream) release() {
	s.closed = true
	s.read.stop()
	s.write.stop()
	if s.sink.users--; s.sink.users == 0 {
		s.sink.release()
	}
}

// usable returns what is against using the stream.
func (s *stream) usable() error {
	switch {
	case s.err != nil:
		return s.err
	case s.t.check() != nil:
		return ErrNotOnTask
	case s.closed:
		return net.ErrClosed
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
	for s.sink.buf == nil {
		if err := s.sink.err; err != nil {
			return 0, err
		}
		if err := s.wait(&s.sink.reader, &s.read, "read"); err != nil {
			return 0, err
		}
		if s.closed {
			return 0, net.ErrClosed
		}
	}
	if s.read.passed() {
		return 0, s.c.opError("read", os.ErrDeadlineExceeded)
	}
	b := s.sink.buf
	n := copy(p, b.Bytes())
	if b.Consume(n); b.Len() == 0 {
		s.sink.buf = nil
		b.Release()
		s.c.consumed()
	}
	s.t.spend()
	return n, nil
}

// wait suspends the task until the sink wakes it as w, or until the deadline.
func (s *stream) wait(w *waiter, d *deadline, op string) error {
	if w.t != nil {
		return s.c.opError(op, errors.New("another task is waiting to "+op))
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

// Write queues p, in pieces of at most HighWater bytes, and waits before each one
// while too many bytes are pending.
func (s *stream) Write(p []byte) (n int, err error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	piece := min(s.c.cfg.Load().HighWater, defaultHighWater)
	for {
		if s.write.passed() {
			return n, s.c.opError("write", os.ErrDeadlineExceeded)
		}
		for s.c.NeedDrain() && !s.c.Closed() {
			if err := s.wait(&s.sink.writer, &s.write, "write"); err != nil {
				return n, err
			}
		}
		m, err := s.c.Write(p[n:min(len(p), n+piece)])
		n += m
		if err != nil {
			return n, s.writeError(err)
		}
		if n == len(p) {
			s.t.spend()
			return n, nil
		}
	}
}

// writeError says why writing is not possible any more.
func (s *stream) writeError(err error) error {
	if cause := s.sink.err; err == net.ErrClosed && cause != nil && cause != io.EOF {
		return cause
	}
	return err
}

// Close closes the connection as Conn.Close does. A task that waits in Read or
// Write of another stream of it gets net.ErrClosed.
func (s *stream) Close() error {
	if err := s.usable(); err != nil {
		return err
	}
	s.closed = true
	if s.sink.err == nil {
		s.sink.err = net.ErrClosed
	}
	for _, w := range []*waiter{&s.sink.reader, &s.sink.writer} {
		if t := w.t; t != nil {
			w.t = nil
			t.wake(w.seq, nil)
		}
	}
	return s.c.Close()
}

// CloseWrite ends the stream to the peer.
func (s *stream) CloseWrite() error {
	if err := s.usable(); err != nil {
		return err
	}
	return s.c.CloseWrite()
}

func (s *stream) LocalAddr() net.Addr  { return s.c.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.c.RemoteAddr() }

func (s *stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error {
	if err := s.usable(); err != nil {
		return err
	}
	s.read.at = t
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	if err := s.usable(); err != nil {
		return err
	}
	s.write.at = t
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
