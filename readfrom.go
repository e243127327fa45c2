package eventloop

import (
	"fmt"
	"io"
	"sync"
)

// readFromSize is how much a [Reader] reads at a time.
const readFromSize = 64 << 10

// maxEmptyReads is how many Reads in a row may give nothing, as in package bufio.
const maxEmptyReads = 100

// A Reader is an io.Reader as a handle of the loop: a file, the output of a child
// process, a decompressor. It keeps the loop alive until its end or Stop, unless it is
// unref'd. All methods may be called from any goroutine and from any callback.
type Reader struct {
	handle
	src    io.Reader
	onData func(p []byte)
	onEnd  func(err error)
	gate             // of the goroutine; quit is closed by Stop and by the end of the loop
	once   sync.Once // closes src

	mu      sync.Mutex // guards the following
	started bool       // the goroutine runs
	paused  bool
	stopped bool
	calling bool   // deliver
	piece   []byte // was read and is not delivered
	err     error  // that ended reading; nil when onEnd has been told
	closed  bool   // src was closed: the goroutine does not wait for foreign code
}

// ReadFrom calls onData on the loop with what r gives, piece by piece, and then onEnd
// once: with nil after io.EOF, or with the error that ended reading. A piece has at
// most 64 KB and is valid until onData returns. A goroutine reads, and the next Read
// waits until onData has returned, so r is read no faster than onData takes it. If
// onEnd is nil, an error goes to Config.EventHandler as an [*OpError]. A panic of r is
// such an error, too. ReadFrom panics if r or onData is nil.
//
// From now on r belongs to the Reader. If it is an io.Closer it is closed exactly once,
// when it is not needed any more, on a goroutine of its own: after its end, by
// [Reader.Stop], or at the end of the loop. An error of Close is ignored; a panic in it is
// treated like one in a callback (see Config.CatchPanics). Close has to end a Read that
// waits. Otherwise the loop waits for the Read at its end, for at most Config.WorkGrace,
// and the error of Run names it (see [ErrWorkLeft]). [Loop.Handles] shows the type of r
// and, if r has a method Name, as an *os.File has, its name; that may be called on any
// goroutine.
//
// ReadFrom may be called before Run, and then begins with it. After the end of the loop
// it only closes r.
func ReadFrom(l *Loop, r io.Reader, onData func(p []byte), onEnd func(err error)) *Reader {
	if r == nil || onData == nil {
		panic("eventloop: ReadFrom needs a reader and a function")
	}
	d := &Reader{
		src: r, onData: onData, onEnd: onEnd, gate: newGate(),
	}
	d.loop = l
	if l.register(&d.handle, d, kindReader, true) != nil {
		d.stopped = true
		go d.close()
		return d
	}
	l.Post(d.start)
	return d
}

// start starts the goroutine. After Stop that only closes the source.
func (r *Reader) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started {
		r.started = true
		r.loop.wg.Go(r.run)
	}
}

// run is the goroutine.
func (r *Reader) run() {
	over := false
	defer func() {
		if !over { // Read called Goexit
			r.loop.wg.Go(func() {
				r.ended(errGoexit)
				r.finish()
			})
		}
	}()
	r.loop.worksFor(&r.handle)
	buf, empty := make([]byte, readFromSize), 0
	for r.mayRead() {
		var n int
		err := guard(func() (err error) { n, err = r.src.Read(buf); return err })
		if n < 0 || n > len(buf) {
			n, err = 0, fmt.Errorf("eventloop: %T read %d bytes into %d", r.src, n, len(buf))
		}
		if empty++; n > 0 {
			empty = 0
		} else if err == nil && empty == maxEmptyReads {
			err = io.ErrNoProgress
		}
		r.mu.Lock()
		r.piece, r.err = buf[:n], err
		r.mu.Unlock()
		if n > 0 || err != nil {
			r.loop.send((*readTask)(r))
		}
		if err != nil {
			break
		}
	}
	over = true
	r.finish()
}

// ended keeps err, that ended reading, for deliver.
func (r *Reader) ended(err error) {
	r.mu.Lock()
	r.piece, r.err = nil, err
	r.mu.Unlock()
	r.loop.send((*readTask)(r))
}

// finish closes the source, waits until the end is delivered, and ends the handle.
func (r *Reader) finish() {
	r.close()
	r.await(&r.mu, func() bool {
		r.closed = true
		return r.stopped || !r.busy()
	})
	r.loop.send((*readerGoneTask)(r))
}

// mayRead waits until the last piece is delivered and there is no pause. It returns
// false after Stop.
func (r *Reader) mayRead() (more bool) {
	r.await(&r.mu, func() bool {
		more = !r.stopped
		return r.stopped || !r.paused && !r.busy()
	})
	return more
}

// busy reports whether the dispatcher has something to deliver. The caller holds r.mu.
func (r *Reader) busy() bool { return r.holds() || r.calling }

// holds reports whether a piece or the end is not delivered yet. The caller holds r.mu.
func (r *Reader) holds() bool { return len(r.piece) > 0 || r.err != nil }

// close closes the source. A second caller waits for the first.
func (r *Reader) close() {
	r.once.Do(func() {
		if c, ok := r.src.(io.Closer); ok {
			if err := aside(c.Close); isUncaught(err) {
				r.loop.strayEvent(err)
			}
		}
	})
}

type (
	readTask       Reader
	readerGoneTask Reader
)

func (t *readTask) run() { (*Reader)(t).deliver() }

func (t *readerGoneTask) run() {
	r := (*Reader)(t)
	r.loop.unregister(&r.handle)
}

// deliver tells what is held, unless there is a pause, and lets the goroutine read on.
func (r *Reader) deliver() {
	defer r.delivered()
	for r.deliverNext() {
		r.loop.ran(true) // as after each callback
	}
}

func (r *Reader) delivered() {
	r.mu.Lock()
	r.calling = false
	r.mu.Unlock()
	r.ring()
}

// deliverNext calls onData or onEnd. It reports whether there is more to tell.
func (r *Reader) deliverNext() (more bool) {
	r.mu.Lock()
	if !r.holds() || r.paused || r.stopped || r.loop.ended.Load() {
		r.mu.Unlock()
		return false
	}
	p, err := r.piece, error(nil)
	if r.piece = nil; len(p) == 0 {
		err, r.err = r.err, nil
	}
	r.calling, more = true, r.err != nil
	r.mu.Unlock()
	switch {
	case len(p) > 0:
		r.tell(p)
	case err == io.EOF:
		r.tellEnd(nil)
	default:
		r.tellEnd(err)
	}
	return more
}

func (r *Reader) tell(p []byte) {
	defer r.loop.caught(nil)
	r.onData(p)
	poison(p)
}

func (r *Reader) tellEnd(err error) {
	switch {
	case r.onEnd != nil:
		defer r.loop.caught(nil)
		r.onEnd(err)
	case err != nil:
		r.loop.count.errors.Add(1)
		r.loop.event(&OpError{Op: OpRead, Err: err}, false)
	}
}

// Pause stops the callbacks, and soon reading: at most one more piece is read. If it is
// called on the loop, no callback comes after it.
func (r *Reader) Pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = true
}

// Resume undoes Pause.
func (r *Reader) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.paused {
		return
	}
	r.paused = false
	if r.holds() {
		r.loop.Post(r.deliver)
	}
	r.ring()
}

// Stop ends reading, and closes the io.Reader if it is an io.Closer. It does not wait.
// If it is called on the loop, no callback comes after it. A second call does nothing.
func (r *Reader) Stop() {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.stopped = true
	close(r.quit)
	closed := r.closed
	r.mu.Unlock()
	r.Unref() // a Read that nothing ends does not keep the loop alive
	if !closed {
		r.loop.wg.Go(r.close)
		r.start()
	}
}

func (r *Reader) terminate() { r.Stop() }

func (r *Reader) describe() string {
	if named, ok := r.src.(interface{ Name() string }); ok {
		return fmt.Sprintf("%T %s", r.src, named.Name())
	}
	return fmt.Sprintf("%T", r.src)
}

// abandon implements abandoner.
func (r *Reader) abandon() {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if !closed {
		r.loop.gaveUp("reader " + r.describe())
		r.loop.unregister(&r.handle)
	}
}

// Ref makes the reader keep the loop alive. This is the default.
func (r *Reader) Ref() { r.setRef(true) }

// Unref lets the loop end although the reader is open; the reader is then stopped.
// Until then it works as before.
func (r *Reader) Unref() { r.setRef(false) }
