package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// chunkSize is the size of the chunks in which a body is read. A body that fits in one
// chunk is measured before it is sent, and can be sent again whatever its type.
const chunkSize = 64 << 10

// A body passes the bytes of a mail to a session, chunk by chunk. The task of the session
// that sends the mail uses its methods, except that end may be called on any goroutine and
// close is called off the loop.
type body struct {
	l     *eventloop.Loop
	src   any // Mail.Body
	meter smtpwire.Meter
	whole bool // first is the complete body, and meter has measured it

	first []byte // the body if it is a []byte, else its first chunk, once it has been read
	given bool   // next has returned first

	ctx    context.Context // ends when the body is no longer needed
	cancel context.CancelFunc
	closed sync.Once
	caught *eventloop.PanicError // the panic of Close of src; set by closed
	feed   *feed                 // reads src if it is not a []byte; nil before reading starts
	offset int64                 // the initial offset of src, if seeks is set
	seeks  bool
}

func newBody(l *eventloop.Loop, src any) *body {
	b := &body{l: l, src: src}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if p, ok := src.([]byte); ok {
		b.first = p
	}
	return b
}

// begin waits for the first chunk. If the mail is sent again, begin rewinds the body.
func (b *body) begin(t *eventloop.Task) error {
	if b.whole || b.feed != nil && !b.given {
		b.given = false
		return nil
	}
	if b.feed != nil {
		if err := b.rewind(t); err != nil {
			return err
		}
	}
	if err := b.load(t); err != nil {
		return err
	}
	b.given = false
	return nil
}

// prompt reports whether begin returns at once.
func (b *body) prompt() bool {
	p, ok := b.src.([]byte)
	return b.whole || ok && len(p) <= chunkSize
}

// load reads the first chunk and measures it.
func (b *body) load(t *eventloop.Task) error {
	b.meter = smtpwire.Meter{}
	if p, ok := b.src.([]byte); ok {
		for ; len(p) > chunkSize; p = p[chunkSize:] {
			b.meter.Add(p[:chunkSize])
			if err := t.Yield(); err != nil { // a large mail must not block the loop
				return err
			}
			if err := b.ended(); err != nil {
				return err
			}
		}
		b.meter.Add(p)
		b.whole = true
	} else {
		b.startFeed()
		var err error
		if b.first, b.whole, err = b.feed.take(t); err != nil {
			return err
		}
		b.meter.Add(b.first)
	}
	if b.whole {
		b.meter.End()
	}
	return nil
}

// next returns the next chunk, and io.EOF after the last one. The chunk is valid until
// the next call.
func (b *body) next(t *eventloop.Task) ([]byte, error) {
	if !b.given {
		b.given = true
		if len(b.first) > 0 {
			return b.first, nil
		}
	}
	if b.whole {
		return nil, io.EOF
	}
	p, last, err := b.feed.take(t)
	if err != nil {
		return nil, err
	}
	b.meter.Add(p)
	if last && len(p) == 0 {
		return nil, io.EOF
	}
	return p, nil
}

// again reports whether the body can be read again from its beginning.
func (b *body) again() bool {
	if b.whole || b.feed == nil || !b.given {
		return true
	}
	_, reads := b.src.(io.Reader)
	return b.seeks || !reads
}

// rewind stops the current read. The next load starts from the beginning.
func (b *body) rewind(t *eventloop.Task) error {
	b.feed.stop(errStopped)
	if _, err := b.feed.done.Await(t); err != nil && !b.feed.over() {
		return err
	}
	b.feed = nil
	return nil
}

// startFeed starts to read src from its beginning.
func (b *body) startFeed() {
	f := &feed{l: b.l, space: make(chan struct{}, 1)}
	first := b.feed == nil && !b.seeks
	b.feed = f
	f.done = eventloop.Work(b.ctx, b.l, func(ctx context.Context) (struct{}, error) {
		stop := context.AfterFunc(ctx, func() {
			f.stop(context.Cause(ctx))
			b.close()
		})
		defer stop()
		if err := b.seek(first); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, f.read(b.src)
	})
	f.done.Then(func(_ struct{}, err error) { f.end(err) })
}

// seek records the current offset of src the first time, and later returns to it.
func (b *body) seek(first bool) error {
	s, ok := b.src.(io.Seeker)
	switch {
	case !ok:
	case first:
		offset, err := s.Seek(0, io.SeekCurrent)
		b.offset, b.seeks = offset, err == nil
	case b.seeks:
		_, err := s.Seek(b.offset, io.SeekStart)
		return err
	}
	return nil
}

// ended returns an error when the mail has its result. The application then owns the
// memory of first.
func (b *body) ended() error { return context.Cause(b.ctx) }

// end releases the body, which is no longer needed. The mail has its result, so a panic in
// Close is an unhandled failure of a future.
func (b *body) end() {
	b.cancel()
	if _, ok := b.src.(io.Closer); !ok {
		return
	}
	closing := eventloop.Work(context.Background(), b.l, func(context.Context) (struct{}, error) {
		if pe := b.close(); pe != nil {
			_, resolve := eventloop.NewFuture[struct{}](b.l)
			resolve(struct{}{}, pe)
		}
		return struct{}{}, nil
	})
	if _, err := closing.Result(); errors.Is(err, eventloop.ErrLoopClosed) {
		go func() {
			if pe := b.close(); pe != nil {
				slog.Error("smtp: Close of a body after the end of the loop", "err", pe)
			}
		}()
	}
}

// close closes src, once, and returns the panic of Close. A second caller waits for the
// first. The callers run on several goroutines, one of which is that of a context that ends,
// where a panic would end the process.
func (b *body) close() *eventloop.PanicError {
	c, ok := b.src.(io.Closer)
	if !ok {
		return nil
	}
	b.closed.Do(func() {
		defer func() {
			if v := recover(); v != nil {
				b.caught = panicError(v)
			}
		}()
		c.Close()
	})
	return b.caught
}

// panicError returns the error for a panic. The deferred function that recovers calls it.
// The stack begins with the panic.
func panicError(value any) *eventloop.PanicError {
	stack := debug.Stack()
	if i := bytes.Index(stack, []byte("\npanic(")); i >= 0 {
		head, _, _ := bytes.Cut(stack, []byte("\n"))
		stack = append(head[:len(head):len(head)], stack[i:]...)
	}
	return &eventloop.PanicError{Value: value, Stack: stack}
}

var errStopped = errors.New("the mail is not sent")

// A feed passes chunks from the goroutine that reads a body to the task that sends it.
// The task holds one chunk while the goroutine fills another.
type feed struct {
	l     *eventloop.Loop
	done  *eventloop.Future[struct{}] // of the goroutine
	space chan struct{}               // wakes the goroutine; one slot

	mu    sync.Mutex // guards the following
	fill  []byte
	spare []byte // the buffer of the chunk that the task took last
	ready func(struct{}, error)
	ended bool
	err   error // why reading ended; nil at the end of the body
	quit  error // why the goroutine must stop reading; nil: it continues
}

// read copies src to f. It runs on the goroutine.
func (f *feed) read(src any) error {
	if w, ok := src.(io.WriterTo); ok {
		_, err := w.WriteTo(f)
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{f}, src.(io.Reader), make([]byte, chunkSize/2))
	return err
}

// Write appends p to the current chunk. When the chunk is full, Write waits until the task
// has taken it.
func (f *feed) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(p) > 0 {
		for len(f.fill) == chunkSize && f.quit == nil {
			f.mu.Unlock()
			<-f.space
			f.mu.Lock()
		}
		if f.quit != nil {
			return n, f.quit
		}
		m := min(len(p), chunkSize-len(f.fill))
		f.fill = append(f.fill, p[:m]...)
		n, p = n+m, p[m:]
		if len(f.fill) == chunkSize {
			f.wakeTask()
		}
	}
	return n, nil
}

// take returns the next chunk. It waits until the chunk is full or the last one.
func (f *feed) take(t *eventloop.Task) (p []byte, last bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.fill) < chunkSize && !f.ended {
		wait, ready := eventloop.NewFuture[struct{}](f.l)
		f.ready = ready
		f.mu.Unlock()
		_, err := wait.Await(t)
		f.mu.Lock()
		if err != nil {
			f.wakeTask()
			return nil, false, err
		}
	}
	if f.err != nil {
		return nil, false, f.err
	}
	p, last = f.fill, f.ended
	f.fill, f.spare = f.spare[:0], p
	f.wakeGoroutine()
	return p, last, nil
}

// end records that the goroutine has ended. Only the first call has an effect.
func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	if err != nil {
		f.err = fmt.Errorf("reading the body: %w", err)
	}
	f.wakeTask()
}

// over reports whether the goroutine has ended.
func (f *feed) over() bool {
	_, err := f.done.Result()
	return err != eventloop.ErrPending
}

// stop makes take and the goroutine's Write fail with err. The goroutine may keep running
// for a while, in a blocked Read.
func (f *feed) stop(err error) {
	f.end(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.quit == nil {
		f.quit = err
	}
	f.wakeGoroutine()
}

// wakeTask wakes the waiting task. The caller holds the lock.
func (f *feed) wakeTask() {
	if f.ready != nil {
		f.ready(struct{}{}, nil)
		f.ready = nil
	}
}

// wakeGoroutine wakes the goroutine. The caller holds the lock.
func (f *feed) wakeGoroutine() {
	select {
	case f.space <- struct{}{}:
	default:
	}
}
