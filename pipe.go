package eventloop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
)

// A PipeWriter is the end of a pipe that the loop writes to: what it writes, another
// goroutine reads. It is made by NewPipe. It keeps the loop alive until Close, and then
// until all is read, unless it is unref'd. All methods may be called from any goroutine
// and from any callback.
type PipeWriter struct {
	handle
	high int

	mu      sync.Mutex // guards the following
	readers sync.Cond  // signaled when there is something to read, or an end
	buf     bytes.Buffer
	wrote   bool  // since the last OnDrain
	full    bool  // see NeedDrain
	end     error // what Read returns after buf; nil while the writer is open
	gone    error // what Write returns; nil while both ends are open
	onDrain func()
}

// NewPipe returns a pipe from the loop to a goroutine, such as one that writes to the
// standard input of a child process, or that reads an [HTTPOptions.BodyReader]. Unlike
// that of io.Pipe, Write does not wait: it queues, and [PipeWriter.NeedDrain] reports
// whether more than highWater bytes are queued. Zero: 256 KB. Negative: no limit.
//
// Read of the reader waits until there is something to read. It is for other goroutines,
// one at a time: on the loop it returns [ErrOnLoop]. When the loop has ended by force it
// returns [ErrLoopClosed]. Close of the reader drops what is queued, and the writer is
// told by OnDrain, and by Write, which returns io.ErrClosedPipe then.
//
// NewPipe may be called before Run. After the end of the loop the pipe is closed.
func NewPipe(l *Loop, highWater int) (*PipeWriter, io.ReadCloser) {
	w := &PipeWriter{high: limit(highWater, defaultHighWater), wrote: true}
	w.readers.L = &w.mu
	w.loop = l
	if err := l.register(&w.handle, w, kindPipe, true); err != nil {
		w.end, w.gone = err, err
	}
	return w, (*pipeReader)(w)
}

// Write queues a copy of p and returns len(p). It never waits. It returns net.ErrClosed
// after Close, io.ErrClosedPipe after Close of the reader, and [ErrBufferFull], and
// takes nothing, if more than 64 MB would be queued.
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

// NeedDrain reports whether more than highWater bytes were queued, and half of it still
// are: a producer had better wait for OnDrain.
func (w *PipeWriter) NeedDrain() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full
}

// OnDrain arranges for f to be called on the loop each time that all that was written
// has been read, or dropped by Close of the reader, until Close: also if that was before
// OnDrain was called. So f is called at least once, and can write everything. A second
// call replaces f.
func (w *PipeWriter) OnDrain(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onDrain = f
	w.checkDrain()
}

// checkDrain arranges for OnDrain if it is due. The caller holds w.mu.
func (w *PipeWriter) checkDrain() {
	n := w.buf.Len()
	w.full = w.full && n > w.high/2
	if n == 0 && w.wrote && w.onDrain != nil && w.end == nil {
		w.wrote = false
		w.loop.Post(w.tellDrained)
	}
}

// tellDrained runs on the loop.
func (w *PipeWriter) tellDrained() {
	w.mu.Lock()
	f := w.onDrain
	if w.buf.Len() > 0 || w.end != nil {
		f = nil
	}
	w.mu.Unlock()
	if f != nil {
		f()
	}
}

// Close ends the pipe: after what is queued, Read returns io.EOF. A second call returns
// net.ErrClosed.
func (w *PipeWriter) Close() error { return w.CloseWithError(nil) }

// CloseWithError is Close with an error that Read returns instead of io.EOF, unless it
// is nil.
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

// endIfRead ends the handle if nothing is to be done any more. The caller holds w.mu.
func (w *PipeWriter) endIfRead() {
	if w.end != nil && w.buf.Len() == 0 {
		w.loop.unregister(&w.handle)
	}
}

// terminate implements owner. Not all is read, so the reader must not take it for the
// end.
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

// Unref lets the loop end although the pipe is open; it is then closed as by force.
// Until then it works as before.
func (w *PipeWriter) Unref() { w.setRef(false) }

// A pipeReader is the other end.
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
		w.wrote = true // even if all is read: the writer is to know
	}
	w.readers.Broadcast()
	w.checkDrain()
	w.endIfRead()
	return nil
}
