package eventloop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
)

// A PipeWriter is the write end of a pipe from the loop to another goroutine. NewPipe
// creates it. It keeps the loop alive until Close, and then until everything is read,
// unless it is unref'd. All methods may be called from any goroutine and from any
// callback.
type PipeWriter struct {
	handle
	high int

	mu          sync.Mutex // guards the following
	readers     sync.Cond  // signaled when there are bytes to read, or an end
	buf         bytes.Buffer
	wrote       bool  // bytes were written, or OnDrain was called, since onDrain last ran
	drainPosted bool  // callOnDrain is queued
	full        bool  // see NeedDrain
	end         error // what Read returns after buf; nil while the writer is open
	gone        error // what Write returns; nil while both ends are open
	onDrain     func()
}

// NewPipe returns a pipe from the loop to a goroutine, such as one that writes to the
// standard input of a child process, or that reads an [HTTPOptions.BodyReader]. Unlike
// Write of io.Pipe, Write does not wait: it queues the bytes, and [PipeWriter.NeedDrain]
// reports whether more than highWater bytes are queued. highWater zero: 256 KB. Negative:
// no limit.
//
// Read of the reader waits until there are bytes to read. One goroutine at a time may
// call it; on the loop it returns [ErrOnLoop]. After the loop has ended by force it
// returns [ErrLoopClosed]. Close of the reader drops the queued bytes. OnDrain is then
// called, and Write returns io.ErrClosedPipe.
//
// NewPipe may be called before Run. A pipe that is created after the end of the loop is
// closed.
func NewPipe(l *Loop, highWater int) (*PipeWriter, io.ReadCloser) {
	checkLoop(l)
	w := &PipeWriter{high: limit(highWater, defaultHighWater)}
	w.readers.L = &w.mu
	w.loop = l
	if err := l.register(&w.handle, w, kindPipe, true); err != nil {
		w.end, w.gone = err, err
	}
	return w, (*pipeReader)(w)
}

// Write queues a copy of p and returns len(p). It never waits. It returns net.ErrClosed
// after Close, io.ErrClosedPipe after Close of the reader, and [ErrBufferFull] if more
// than 64 MB would be queued. With an error, no byte of p is queued.
func (w *PipeWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.gone != nil:
		return 0, w.gone
	case len(p) > defaultMaxBuffered-w.buf.Len():
		return 0, ErrBufferFull
	}
	w.buf.Write(p)
	w.wrote = true
	w.full = w.full || w.buf.Len() > w.high
	w.readers.Signal()
	return len(p), nil
}

// Buffered returns the number of bytes that were written and not read.
func (w *PipeWriter) Buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Len()
}

// NeedDrain reports whether a producer should wait for OnDrain. It becomes true when more
// than highWater bytes are queued, and false when half of highWater or less is queued.
func (w *PipeWriter) NeedDrain() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full
}

// OnDrain sets the function that is called on the loop each time all written bytes have
// been read, or dropped by Close of the reader, until Close. f is also called if nothing
// is queued when OnDrain is called. So f is called at least once, and can do all the
// writing. A second call replaces f, and the new f is also called at least once.
func (w *PipeWriter) OnDrain(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onDrain, w.wrote = f, true
	w.checkDrain()
}

// checkDrain updates NeedDrain and posts OnDrain if it is due. The caller holds w.mu.
func (w *PipeWriter) checkDrain() {
	n := w.buf.Len()
	w.full = w.full && n > w.high/2
	if n == 0 && w.wrote && w.onDrain != nil && w.end == nil && !w.drainPosted {
		w.drainPosted = true
		w.loop.Post(w.callOnDrain)
	}
}

// callOnDrain calls OnDrain. It runs on the loop.
func (w *PipeWriter) callOnDrain() {
	w.mu.Lock()
	f := w.onDrain
	w.drainPosted = false
	due := f != nil && w.buf.Len() == 0 && w.end == nil
	if due {
		w.wrote = false
	}
	w.mu.Unlock()
	if due {
		f()
	}
}

// Close ends the pipe: after the queued bytes, Read returns io.EOF. A second call returns
// net.ErrClosed.
func (w *PipeWriter) Close() error { return w.CloseWithError(nil) }

// CloseWithError is Close, but Read returns err instead of io.EOF, unless err is nil.
func (w *PipeWriter) CloseWithError(err error) error {
	if err == nil {
		err = io.EOF
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil {
		return net.ErrClosed
	}
	w.end = err
	if w.gone == nil {
		w.gone = net.ErrClosed
	}
	w.readers.Broadcast()
	w.endIfRead()
	return nil
}

// endIfRead ends the handle if the pipe is closed and everything is read. The caller
// holds w.mu.
func (w *PipeWriter) endIfRead() {
	if w.end != nil && w.buf.Len() == 0 {
		w.loop.unregister(&w.handle)
	}
}

// terminate implements owner. Bytes may be unread, so Read returns ErrLoopClosed, not
// io.EOF.
func (w *PipeWriter) terminate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = bytes.Buffer{}
	w.end, w.gone = ErrLoopClosed, ErrLoopClosed
	w.readers.Broadcast()
	w.loop.unregister(&w.handle)
}

// describe implements owner.
func (w *PipeWriter) describe() string { return fmt.Sprintf("%d bytes", w.Buffered()) }

// Ref makes the pipe keep the loop alive. This is the default.
func (w *PipeWriter) Ref() { w.setRef(true) }

// Unref lets the loop end while the pipe is open; the pipe is then closed as by a forced
// end. Until then it works as before.
func (w *PipeWriter) Unref() { w.setRef(false) }

// A pipeReader is the read end of a pipe.
type pipeReader PipeWriter

// Read implements io.Reader.
func (r *pipeReader) Read(p []byte) (int, error) {
	w := (*PipeWriter)(r)
	if w.loop.onLoop() {
		return 0, ErrOnLoop
	}
	if len(p) == 0 {
		return 0, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.buf.Len() == 0 && w.end == nil && w.gone == nil {
		w.readers.Wait()
	}
	if w.buf.Len() == 0 {
		if w.end == nil {
			return 0, io.ErrClosedPipe
		}
		return 0, w.end
	}
	n, _ := w.buf.Read(p)
	w.checkDrain()
	w.endIfRead()
	return n, nil
}

// Close implements io.Closer.
func (r *pipeReader) Close() error {
	w := (*PipeWriter)(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = bytes.Buffer{}
	if w.gone == nil {
		w.gone = io.ErrClosedPipe
		w.wrote = true // call OnDrain even if everything is read: it notifies the writer
	}
	w.readers.Broadcast()
	w.checkDrain()
	w.endIfRead()
	return nil
}
