package eventloop

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// readFromSize is the maximum number of bytes of one Read of a [Reader].
const readFromSize = 64 << 10

// maxEmptyReads is the number of consecutive Reads that may return no bytes and no error, as
// in package bufio.
const maxEmptyReads = 100

// A Reader is a handle of the loop that reads from an io.Reader, for example a file, the
// output of a child process or a decompressor. It keeps the loop alive until its end or
// Stop, unless it is unref'd. All methods may be called from any goroutine and from any
// callback.
type Reader struct {
	handle
	src    io.Reader
	onData func(p []byte)
	onEnd  func(err error)
	once   sync.Once // closes src
	gate             // its mu guards the following

	started bool   // the goroutine runs
	reading bool   // the goroutine is in Read
	left    bool   // Stop has left the goroutine in Read: nothing waits for it
	piece   []byte // read and not delivered yet
	err     error  // ended reading; nil again when it is delivered to onEnd
	closed  bool   // src is closed: the goroutine does not wait for foreign code
}

// ReadFrom calls onData on the loop with the data of r, piece by piece, and then onEnd once:
// with nil after io.EOF, or with the error that ended reading. A piece has at most 64 KB and
// is valid until onData returns. A goroutine reads from r. It calls Read again only after
// onData has returned, so it reads no faster than onData handles the data. A panic in Read
// ends reading, and its error is a [*PanicError]. If onEnd is nil, an error goes to
// Config.EventHandler as an [*OpError]. ReadFrom panics if r or onData is nil.
//
// The Reader takes ownership of r. If r is an io.Closer, the Reader closes it exactly once,
// on a separate goroutine: when r is at its end, when [Reader.Stop] is called, or at the end
// of the loop. An error of Close is ignored; a panic in Close is treated like a panic in a
// callback (see Config.CatchPanics). Close must interrupt a Read that is waiting. Otherwise
// the loop waits for the Read at its end, for at most Config.WorkGrace, and the error of Run
// names it (see [ErrWorkLeft]).
//
// ReadFrom(l, os.Stdin, ...) reads the standard input. If it is a terminal or a pipe, Close
// does not interrupt a Read that waits for input. The same is true of every other *os.File
// without deadlines (see [os.ErrNoDeadline]) that is not a regular file. [Reader.Stop] and
// the loop leave such a file in its Read, and do not wait. The Read ends with the next input,
// which is lost, or with the process. A reader that wraps such a file, for example a
// bufio.Reader, is not recognized: pass the file itself.
//
// [Loop.Handles] shows the type of r. If r has a method Name, as an *os.File has, it also
// shows the name; Name may be called on any goroutine.
//
// If ReadFrom is called before Run, reading starts with Run. After the end of the loop,
// ReadFrom only closes r.
func ReadFrom(l *Loop, r io.Reader, onData func(p []byte), onEnd func(err error)) *Reader {
	checkLoop(l)
	if isNil(r) || onData == nil {
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

// start starts the goroutine. After Stop, the goroutine only closes the source.
func (r *Reader) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started {
		r.started = true
		r.loop.wg.Add(1)
		go r.run()
	}
}

// run is the body of the goroutine.
func (r *Reader) run() {
	defer func() {
		if !r.isLeft() {
			r.loop.wg.Done()
		}
	}()
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
		n, err = netcore.CheckCount("Read", r.src, len(buf), n, err)
		if empty++; n > 0 {
			empty = 0
		} else if err == nil && empty == maxEmptyReads {
			err = io.ErrNoProgress
		}
		r.mu.Lock()
		r.piece, r.err, r.reading = buf[:n], err, false
		r.mu.Unlock()
		if r.isLeft() {
			over = true
			return
		}
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

// ended stores err, which ended reading, for deliver.
func (r *Reader) ended(err error) {
	r.mu.Lock()
	r.piece, r.err = nil, err
	r.mu.Unlock()
	r.loop.send((*readTask)(r))
}

// finish closes the source, waits until the end is delivered, and ends the handle.
func (r *Reader) finish() {
	r.close()
	r.await(func() bool {
		r.closed = true
		return r.stopped || !r.busy()
	})
	r.loop.send((*readerEndedTask)(r))
}

// mayRead waits until the last piece is delivered and the reader is not paused. It returns
// false after Stop.
func (r *Reader) mayRead() (more bool) {
	r.await(func() bool {
		more = !r.stopped
		r.reading = more && !r.paused && !r.busy()
		return r.stopped || r.reading
	})
	return more
}

func (r *Reader) isLeft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// busy reports whether a delivery is pending or running. The caller holds r.mu.
func (r *Reader) busy() bool { return r.holds() || r.calling }

// holds reports whether a piece, or the end, is not delivered yet. The caller holds r.mu.
func (r *Reader) holds() bool { return len(r.piece) > 0 || r.err != nil }

// close closes the source. A second caller waits for the first.
func (r *Reader) close() {
	r.once.Do(func() {
		if c, ok := r.src.(io.Closer); ok {
			if err := aside(c.Close); isUncaught(err) {
				r.loop.reportUnowned(err)
			}
		}
	})
}

type (
	readTask        Reader
	readerEndedTask Reader
)

func (t *readTask) run() { (*Reader)(t).deliver() }

func (t *readerEndedTask) run() {
	r := (*Reader)(t)
	r.loop.unregister(&r.handle)
}

// deliver calls onData and onEnd with the undelivered piece and end, unless the reader is
// paused. It then lets the goroutine read again.
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
	r.notify()
}

// deliverNext calls onData or onEnd once. It reports whether there is more to deliver.
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
		r.callOnData(p)
	case err == io.EOF:
		r.callOnEnd(nil)
	default:
		r.callOnEnd(err)
	}
	return more
}

func (r *Reader) callOnData(p []byte) {
	defer r.loop.caught(nil)
	r.onData(p)
	poison(p)
}

// callOnEnd calls onEnd, or reports err as an event if onEnd is nil.
func (r *Reader) callOnEnd(err error) {
	switch {
	case r.onEnd != nil:
		defer r.loop.caught(nil)
		r.onEnd(err)
	case err != nil:
		r.loop.count.errors.Add(1)
		r.loop.event(&OpError{Op: OpRead, Err: err}, false)
	}
}

// Pause stops the callbacks and the reading until Resume. At most one more piece is read. If
// Pause is called on the loop, no callback runs afterwards until Resume.
func (r *Reader) Pause() { r.pause() }

// Resume undoes Pause.
func (r *Reader) Resume() { r.resume(r.loop, r.holds, r.deliver) }

// Stop ends reading, and closes the io.Reader if it is an io.Closer. Stop does not wait. If
// Stop is called on the loop, no callback runs afterwards. A second call has no effect.
func (r *Reader) Stop() {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.stopped = true
	close(r.quit)
	closed := r.closed
	r.left = r.reading && isUninterruptible(r.src)
	left := r.left
	r.mu.Unlock()
	r.Unref() // a Read that Close does not interrupt must not keep the loop alive
	switch {
	case left:
		go r.close() // on Windows, Close waits for the Read
		r.loop.wg.Done()
		r.loop.unregisterAside(&r.handle)
	case !closed:
		r.loop.wg.Go(r.close)
		r.start()
	}
}

// isUninterruptible reports whether r is a file whose Close does not interrupt a Read that
// waits for input. These are the files that the runtime does not poll. A read of a regular
// file does not wait for input.
func isUninterruptible(r io.Reader) bool {
	f, ok := unwrapped(r).(*os.File)
	if !ok || f.SetReadDeadline(time.Time{}) == nil {
		return false
	}
	info, err := f.Stat()
	return err != nil || !info.Mode().IsRegular()
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
