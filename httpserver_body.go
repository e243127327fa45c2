package eventloop

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/onloop/eventloop/internal/netcore"
)

// A bodySource supplies the body of a request: a connection of our own server, or a
// mountBody. One goroutine uses it.
type bodySource interface {
	// nextPiece waits for more of the body. The bytes are valid until the next call. At
	// the end of the body, the error is io.EOF. If the wait was interrupted, the error is
	// netcore.ErrWoken, and the caller may call again.
	nextPiece() ([]byte, error)
}

// A bodyStream is the body of a request while it is delivered to OnBody or a taker.
type bodyStream struct {
	src   bodySource // nil if the whole body has been read
	first []byte     // read before the body exceeded MaxInlineBody; owned by the goroutine of src

	// Guarded by HTTPRequest.mu.
	piece       []byte // the next piece to deliver
	asked       bool   // OnBody was called
	paused      bool
	held        bool // the dispatcher has a piece
	postponed   bool // a task came during a pause
	ended       bool // only onEnd follows
	onEndCalled bool
	err         error
	onData      func(p []byte)
	onEnd       func(err error)
	taker       *sync.Cond // signaled for each piece and for the end, in place of onData and onEnd
}

// wanted reports whether the goroutine of src should read the next piece.
func (st *bodyStream) wanted() bool {
	return st.reads() && st.asked && !st.paused && !st.held && !st.ended
}

// inUse reports whether the dispatcher has a piece of the body, or will get one. over says
// that the response is over: then a piece that a pause holds back is not delivered.
func (st *bodyStream) inUse(over bool) bool {
	return st.reads() && st.held && !((st.postponed || st.taker != nil) && over)
}

// reads reports whether the body is read while it is delivered.
func (st *bodyStream) reads() bool { return st != nil && st.src != nil }

// readBody reads the body of r from src, or makes it a stream if it is long. length is the
// announced length, or negative if there is none.
func (r *HTTPRequest) readBody(src bodySource, length int64) error {
	over := r.via.settings().MaxInlineBody
	if over > 0 && length > over {
		r.stream = &bodyStream{src: src}
		return nil
	}
	for {
		p, err := src.nextPiece()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if r.body == nil && length > 0 {
			// Do not allocate the announced length: the rest may never arrive.
			r.body = make([]byte, 0, min(length, 64<<10))
		}
		r.body = append(r.body, p...)
		if over > 0 && int64(len(r.body)) > over {
			r.stream = &bodyStream{src: src, first: r.body}
			r.body = nil
			return nil
		}
	}
}

var errBadBody = errors.New("eventloop: malformed request body")

// bodyTooLarge returns the error of a body of more than limit bytes. It matches
// ErrHTTPTooLarge and, for an http.Handler, *http.MaxBytesError.
func bodyTooLarge(limit int64) error {
	return fmt.Errorf("%w: %w (limit %d bytes)", ErrHTTPTooLarge, &http.MaxBytesError{Limit: limit}, limit)
}

// bodyRefusal returns the response status for a request whose body could not be read, or
// zero if the connection failed.
func bodyRefusal(err error) int {
	switch {
	case errors.Is(err, errBadBody):
		return http.StatusBadRequest
	case errors.Is(err, ErrHTTPTooLarge):
		return http.StatusRequestEntityTooLarge
	case deadlinePassed(err):
		return http.StatusRequestTimeout
	}
	return 0
}

// refusalStatus is like bodyRefusal, but returns 400 for a connection that has failed: in a
// foreign server, the client may still wait for a response.
func refusalStatus(err error) int { return cmp.Or(bodyRefusal(err), http.StatusBadRequest) }

// moveBody reads a piece of the body and passes it, or the end of the body, to the
// dispatcher or the taker.
func (r *HTTPRequest) moveBody() {
	st := r.stream
	piece, err := st.first, error(nil)
	if st.first = nil; len(piece) == 0 {
		piece, err = st.src.nextPiece()
	}
	if err == netcore.ErrWoken {
		return
	}
	r.mu.Lock()
	lost := st.ended // the dispatcher may be calling onEnd now
	switch {
	case lost:
	case err == nil:
		st.piece, st.held = piece, true
	default:
		st.ended = true
		if err != io.EOF {
			st.err = r.opError(err)
		}
	}
	taker := st.taker
	if taker != nil {
		taker.Broadcast()
	}
	r.mu.Unlock()
	if !lost && taker == nil {
		r.via.send((*httpBodyTask)(r))
	}
}

// loseBody ends the body of a request that is lost. The caller holds r.mu.
func (r *HTTPRequest) loseBody(err error) {
	if st := r.stream; st.reads() && !st.ended {
		st.ended, st.err = true, err
		if st.taker == nil {
			r.loop.Post((*httpBodyTask)(r).run)
		}
	}
}

// bodyLeft reports whether the response begins before the body is read to its end. Then
// the rest of the body is not read. It returns false for a streamed response, which may
// take as long as the body. The caller holds r.mu.
func (r *HTTPRequest) bodyLeft() bool {
	st := r.stream
	return st.reads() && (!st.ended || st.err != nil) && r.writer == nil
}

// HasBodyStream reports whether the body is a stream because it is longer than
// HTTPServerConfig.MaxInlineBody. Body does not return such a body.
func (r *HTTPRequest) HasBodyStream() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream.reads()
}

// OnBody delivers the body piece by piece. onData is called on the loop with each piece,
// which is valid until onData returns. Then onEnd is called once, with nil at the end of
// the body, or with the error that ended it early. The server reads a streamed body no
// faster than onData takes it, and reads none of it before OnBody is called. It sends
// 100 Continue at that time, too, if the client waits for it. A body that has been read
// already is delivered in one piece. Either function may be nil.
//
// The error matches [ErrHTTPTooLarge] if the body is longer than
// HTTPServerConfig.MaxBodyBytes, and [ErrTimeout] after HTTPServerConfig.ReadTimeout. If
// the body ends with an error and no response has begun when onEnd returns, the server
// responds: with 413, 408, or 400 for a malformed or incomplete body. In a [TaskHandler],
// the task can respond until it ends. After such an error the connection is closed.
//
// No callback follows the response: the rest of the body is not read, and the connection
// is closed. A second call returns an error.
func (r *HTTPRequest) OnBody(onData func(p []byte), onEnd func(err error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.stream
	switch {
	case st != nil && st.asked:
		return errBodyTaken
	case st == nil:
		st = &bodyStream{piece: r.body, held: len(r.body) > 0, ended: len(r.body) == 0}
		r.stream = st
	}
	st.asked, st.onData, st.onEnd = true, onData, onEnd
	if st.src == nil || st.ended {
		return r.loop.Post((*httpBodyTask)(r).run)
	}
	r.via.wake()
	return nil
}

var errBodyTaken = errors.New("eventloop: OnBody was called already")

// PauseReading stops the callbacks of OnBody and, soon after, the reading of the body. If
// it is called on the loop, no callback follows.
func (r *HTTPRequest) PauseReading() { r.pauseBody(true) }

// ResumeReading undoes PauseReading.
func (r *HTTPRequest) ResumeReading() { r.pauseBody(false) }

func (r *HTTPRequest) pauseBody(pause bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.stream
	if st == nil || !st.asked || st.paused == pause {
		return
	}
	st.paused = pause
	if pause {
		return
	}
	if st.postponed {
		st.postponed = false
		r.loop.Post((*httpBodyTask)(r).run)
	}
	r.via.wake()
}

// httpBodyTask delivers a piece of the body of a request, or its end.
type httpBodyTask HTTPRequest

func (t *httpBodyTask) run() {
	r := (*HTTPRequest)(t)
	r.mu.Lock()
	st := r.stream
	over := r.isComplete() || r.loop.ended.Load()
	if st.paused && !over {
		st.postponed = true
		r.mu.Unlock()
		return
	}
	data, piece := st.onData, st.piece
	deliver := st.held && !over && !r.isLost() && data != nil
	r.mu.Unlock()
	defer r.bodyTaken() // onData may call runtime.Goexit
	if deliver {
		r.callBody(data, piece)
	}
}

// bodyTaken releases a piece after its delivery, and ends the body if that is due.
func (r *HTTPRequest) bodyTaken() {
	ended, err := r.bodyGivenBack()
	if !ended {
		return
	}
	if err != nil {
		defer r.refuseBody(err) // onEnd may call runtime.Goexit
	}
	if end := r.stream.onEnd; end != nil {
		r.call(func() { end(err) })
	}
}

// refuseBody responds to a request whose body ended with err, unless onEnd or an earlier
// callback has. The task of a TaskHandler may respond until it ends.
func (r *HTTPRequest) refuseBody(err error) {
	r.mu.Lock()
	task := r.peek().ctxLasts
	r.mu.Unlock()
	if !task {
		r.respondError(refusalStatus(err))
	}
}

// bodyFailure returns the error that ended the body early, or nil. The caller holds r.mu.
func (r *HTTPRequest) bodyFailure() error {
	if st := r.stream; st != nil && st.onEndCalled {
		return st.err
	}
	return nil
}

// bodyGivenBack reports whether the body ends now, and its error.
func (r *HTTPRequest) bodyGivenBack() (ended bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.stream
	// Even after the response, the goroutine waits until the piece is released. Otherwise
	// it must not be woken after the response: it may be serving a later request.
	if st.held && st.src != nil || !r.isComplete() {
		defer r.via.wake()
	}
	st.held = false
	st.ended = st.ended || st.src == nil
	switch {
	case !st.ended || st.onEndCalled || !st.asked || r.isComplete() || r.loop.ended.Load():
	case st.paused:
		st.postponed = true
	default:
		st.onEndCalled = true
		return true, st.err
	}
	return false, nil
}

func (r *HTTPRequest) callBody(f func(p []byte), p []byte) {
	defer r.caught()
	f(p)
}
