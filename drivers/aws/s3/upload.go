package s3loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/onloop/eventloop"
)

// A Putter is the part of an *s3.Client that uploads use.
type Putter = transfermanager.S3APIClient

// Types of the SDK's transfer manager.
type (
	UploadInput   = transfermanager.UploadObjectInput
	UploadOutput  = transfermanager.UploadObjectOutput
	UploadOptions = transfermanager.Options
)

// Kind is the Kind of an upload in [eventloop.Loop.Handles].
const Kind = "s3"

// Defaults of UploadOptions.
const (
	defaultPartSize    = 8 << 20
	defaultConcurrency = 3
	defaultFailTimeout = 3 * time.Second
)

// Upload uploads the data that the loop writes to the returned writer, until Close, and
// returns a future of the result. Write never waits; NeedDrain and OnDrain of the writer
// report back-pressure from S3. To cancel, call CloseWithError: the upload then fails with
// that error, and no object appears.
//
// in is the input of the SDK's transfer manager, without a Body. Upload copies it. Content
// shorter than one part is sent with one PutObject. Other content is a multipart upload, by
// default with parts of 8 MB, 3 at a time, which takes about 50 MB of memory; opts change
// that. S3 allows 10,000 parts, which is 80 GB: for more, set ContentLength of in, or larger
// parts. Content that differs in length from ContentLength fails with ErrLength.
//
// The upload occupies a goroutine of w until its end, even while it waits for the loop to
// write. A failed multipart upload is aborted, within 3 s unless opts say otherwise. The
// abort is not possible when the loop ends by force, or if the server is unreachable: set a
// lifecycle rule for incomplete multipart uploads on the bucket.
//
// Upload panics if ctx or w is nil. If c or in is nil, the upload fails.
//
// An error of the upload is an [*Error]. If the body, the client or a listener panics, it
// wraps an [*eventloop.PanicError]; if one of them calls runtime.Goexit, it matches
// ErrGoexit. An upload that never began fails with the error of [eventloop.WorkOn]; a panic
// in Close of its body is then an unhandled failure of a future. If ctx ends, the error
// matches the error of ctx and its cause. When the upload fails, the writer is closed: Write
// returns an error, and OnDrain is no longer called.
func Upload(ctx context.Context, w *eventloop.Workers, c Putter, in *UploadInput, opts ...func(*UploadOptions)) (*eventloop.PipeWriter, *eventloop.Future[*UploadOutput]) {
	u := newUpload(ctx, w, c, in, opts)
	writer, body := eventloop.NewPipe(w.Loop(), 0)
	u.source.r, u.writer = body, writer
	if in != nil && in.Body != nil {
		u.invalid = errHasBody
	}
	return writer, u.start(ctx)
}

// UploadFrom uploads in.Body: a file, the output of a child process, a compressor. Body is
// read on goroutines other than the loop's, one Read at a time. If it is an io.Closer, it is
// closed exactly once, after its end or when the upload fails; Close must unblock a Read in
// progress.
//
// If Body is a regular file (an *os.File, or a type with its Stat method), it must not
// change during the upload: if its length or modification time changes, the upload fails
// with ErrChanged. As with every failed upload, no object appears, and an existing object
// stays.
//
// For everything else see [Upload].
func UploadFrom(ctx context.Context, w *eventloop.Workers, c Putter, in *UploadInput, opts ...func(*UploadOptions)) *eventloop.Future[*UploadOutput] {
	u := newUpload(ctx, w, c, in, opts)
	u.source.r = u.in.Body
	if u.in.Body == nil && u.invalid == nil {
		u.invalid = errHasNoBody
	}
	return u.start(ctx)
}

// An upload is an Upload or UploadFrom.
type upload struct {
	eventloop.Promise[*UploadOutput]
	owner   *eventloop.Owner
	workers *eventloop.Workers
	c       Putter
	in      UploadInput
	opts    []func(*UploadOptions)
	invalid error // the error for invalid arguments
	source  source
	writer  *eventloop.PipeWriter // only for Upload
	once    sync.Once             // closes the body
	closed  error                 // the panic or the Goexit of Close; set by once
	began   bool                  // run was called
}

func newUpload(ctx context.Context, w *eventloop.Workers, c Putter, in *UploadInput, opts []func(*UploadOptions)) *upload {
	checkContext(ctx)
	if w == nil { // Loop would panic without a reason
		panic("s3loop: nil Workers")
	}
	u := &upload{workers: w, c: c, opts: opts}
	switch {
	case in == nil:
		u.invalid = errNilInput
	case isNil(c):
		u.invalid = errNilClient
	default:
		u.in = *in
	}
	return u
}

// start starts the upload. Its own promise, rather than the future of WorkOn, is the
// result, because the body must be closed even if the upload never begins.
func (u *upload) start(ctx context.Context) *eventloop.Future[*UploadOutput] {
	l := u.workers.Loop()
	name := fmt.Sprintf("upload of s3://%s/%s", aws.ToString(u.in.Bucket), aws.ToString(u.in.Key))
	owner, err := eventloop.NewOwner(l, Kind, name, func(error) { u.closeAside() })
	if err != nil {
		logLate(u.closeBody())
		f, _ := eventloop.NewFuture[*UploadOutput](l) // the future has failed with the same error
		return f
	}
	u.owner = owner
	u.Init(owner)
	eventloop.WorkOn(ctx, u.workers, u.run).Then(func(out *UploadOutput, err error) {
		u.done(out, withContext(ctx, err))
	})
	return &u.Future
}

// done is called on the loop, unless the loop ends by force.
func (u *upload) done(out *UploadOutput, err error) {
	if err != nil {
		if u.began {
			err = newError(OpUpload, u.in.Bucket, u.in.Key, u.source.offset.Load(), err)
		} else {
			u.closeAside()
		}
		if u.writer != nil {
			u.writer.CloseWithError(err)
		}
	}
	u.Resolve(out, err)
	u.owner.Close()
}

// closeBody closes the body once. It returns an error if Close panicked or called
// runtime.Goexit. A second caller waits for the first. One caller runs when a context ends, on
// a goroutine where a panic would end the process.
func (u *upload) closeBody() error {
	u.once.Do(func() {
		c, ok := u.source.r.(io.Closer)
		if !ok {
			return
		}
		_, err := guard(func() (struct{}, error) { return struct{}{}, c.Close() })
		if isUncaught(err) {
			u.closed = err
		}
	})
	return u.closed
}

// closeAside closes the body of an upload that did not begin. The future of the upload has
// failed already, so a panic in Close is an unhandled failure of another future.
func (u *upload) closeAside() {
	l := u.workers.Loop()
	closing := eventloop.Work(context.Background(), l, func(context.Context) (struct{}, error) {
		if err := u.closeBody(); err != nil {
			_, resolve := eventloop.NewFuture[struct{}](l)
			resolve(struct{}{}, err)
		}
		return struct{}{}, nil
	})
	if _, err := closing.Result(); errors.Is(err, eventloop.ErrLoopClosed) {
		go func() { logLate(u.closeBody()) }()
	}
}

// logLate logs err, the panic of code of the application after the end of the loop, if it is
// not nil.
func logLate(err error) {
	if err != nil {
		slog.Error("s3loop: Close of a body after the end of the loop", "err", err)
	}
}

// run runs on a goroutine of the workers.
func (u *upload) run(ctx context.Context) (out *UploadOutput, err error) {
	u.began = true
	defer func() {
		if closed := u.closeBody(); closed != nil && !errors.Is(err, closed) {
			out, err = nil, errors.Join(err, closed)
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx) // cancel is for failures of the upload itself
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { u.closeBody() })() // unblocks a Read in progress
	out, err = u.transfer(ctx, cancel)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return out, err
}

func (u *upload) transfer(ctx context.Context, cancel context.CancelCauseFunc) (*UploadOutput, error) {
	if u.invalid != nil {
		return nil, u.invalid
	}
	u.source.ctx = ctx
	if err := u.source.begin(&u.in); err != nil {
		return nil, err
	}
	u.in.Body = &u.source
	opts := []func(*UploadOptions){func(o *UploadOptions) {
		o.PartSizeBytes, o.MultipartUploadThreshold = defaultPartSize, defaultPartSize
		o.Concurrency, o.FailTimeout = defaultConcurrency, defaultFailTimeout
	}}
	opts = append(opts, u.opts...)
	guarded := &shield{cancel: cancel}
	opts = append(opts, guarded.around)
	out, err := transfermanager.New(u.c, opts...).UploadObject(ctx, &u.in)
	for _, e := range []error{u.source.uncaught, guarded.listener} {
		if e != nil && !errors.Is(err, e) {
			err = errors.Join(err, e) // it followed another failure, or the end of the upload
		}
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// guard calls f, which is code of the application, on a separate goroutine. It returns a
// panic in f as a [*eventloop.PanicError], and a Goexit as ErrGoexit. The transfer manager
// must see neither: it would not end its goroutines and not abort the upload, and it would
// complete the upload without the part whose request called Goexit. A panic in one of its
// goroutines would not be recovered.
//
// A goroutine costs about a microsecond, and a Read returns some KB: the pipe of Upload
// returns 64.
func guard[T any](f func() (T, error)) (v T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = ErrGoexit // unless f returns
		defer func() {
			if p := recover(); p != nil {
				err = newPanicError(p)
			}
		}()
		v, err = f()
	}()
	<-done
	return v, err
}

// isUncaught reports whether err is the result of a panic or a Goexit under guard.
func isUncaught(err error) bool {
	_, ok := err.(*eventloop.PanicError)
	return ok || err == ErrGoexit
}

// newPanicError returns the error for a panic. The deferred function that recovers calls it.
// The stack begins with the panic.
func newPanicError(value any) *eventloop.PanicError {
	stack := debug.Stack()
	if i := bytes.Index(stack, []byte("\npanic(")); i >= 0 {
		head, _, _ := bytes.Cut(stack, []byte("\n"))
		stack = append(head, stack[i:]...) // i is not before the end of head
	}
	return &eventloop.PanicError{Value: value, Stack: stack}
}

// A shield is between the transfer manager and the client and listeners of an upload, where
// the transfer manager calls them on its goroutines. It ends the upload when its first part
// fails. The transfer manager notices the failure only when it has read the next part, and
// the loop may never write that much.
type shield struct {
	Putter
	cancel    context.CancelCauseFunc
	listeners []transfermanager.ObjectBytesTransferredListener

	mu       sync.Mutex
	listener error // the first panic or Goexit of a listener
}

// around is the last option of an upload.
func (s *shield) around(o *UploadOptions) {
	s.Putter, o.S3 = o.S3, s
	if p := &o.ObjectProgressListeners; len(p.ObjectBytesTransferred) > 0 {
		s.listeners = p.ObjectBytesTransferred
		p.ObjectBytesTransferred = []transfermanager.ObjectBytesTransferredListener{s}
	}
}

func (s *shield) UploadPart(ctx context.Context, in *s3.UploadPartInput, opts ...func(*s3.Options)) (*s3.UploadPartOutput, error) {
	out, err := guard(func() (*s3.UploadPartOutput, error) { return s.Putter.UploadPart(ctx, in, opts...) })
	if err != nil {
		s.cancel(err)
	}
	return out, err
}

// CompleteMultipartUpload completes the upload, unless it was canceled: a client may ignore
// the context.
func (s *shield) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, opts ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return guard(func() (*s3.CompleteMultipartUploadOutput, error) {
		return s.Putter.CompleteMultipartUpload(ctx, in, opts...)
	})
}

func (s *shield) OnObjectBytesTransferred(ctx context.Context, event *transfermanager.ObjectBytesTransferredEvent) {
	_, err := guard(func() (struct{}, error) {
		for _, l := range s.listeners {
			l.OnObjectBytesTransferred(ctx, event)
		}
		return struct{}{}, nil
	})
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		s.listener = err
		s.cancel(err)
	}
}

// A source is the body of an upload. At the end of the content, before the transfer manager
// completes the upload, it verifies the properties of the content that were known at the
// beginning.
type source struct {
	r      io.Reader
	ctx    context.Context
	offset atomic.Int64
	length int64 // the expected length; -1 if unknown
	wrong  error // the error if the length differs
	file   statter
	before fs.FileInfo // of file

	uncaught error // a panic or a Goexit; set by Read, which the upload's goroutine calls
}

type statter interface{ Stat() (fs.FileInfo, error) }

// begin records the known properties of the content. It sets the length of the input, which
// determines the size of the parts.
func (s *source) begin(in *UploadInput) error {
	s.length = -1
	if f, ok := s.r.(statter); ok {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			s.file, s.before = f, info
		}
	}
	switch {
	case in.ContentLength != nil:
		s.length, s.wrong = *in.ContentLength, ErrLength
	case s.file != nil:
		s.length, s.wrong = s.before.Size(), ErrChanged
		if k, ok := s.r.(io.Seeker); ok {
			at, err := k.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			s.length = max(s.length-at, 0)
		}
		in.ContentLength = &s.length
	}
	return nil
}

// Read implements io.Reader. A panic or a Goexit in the body is an error.
func (s *source) Read(p []byte) (int, error) {
	if s.uncaught != nil {
		return 0, s.uncaught
	}
	n, err := guard(func() (int, error) { return s.read(p) })
	if isUncaught(err) {
		s.uncaught = err
	}
	return n, err
}

// read reads and verifies. If the context has ended, it returns that error instead of the
// reader's, because the transfer manager prefers any other error to that of the context.
func (s *source) read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if ctxErr := s.ctx.Err(); err != nil && err != io.EOF && ctxErr != nil {
		return 0, ctxErr
	}
	at := s.offset.Add(int64(n))
	switch {
	case s.length >= 0 && (at > s.length || err == io.EOF && at < s.length):
		return 0, s.wrong
	case err == io.EOF && s.file != nil:
		after, statErr := s.file.Stat()
		if statErr != nil {
			return 0, statErr
		}
		if after.Size() != s.before.Size() || !after.ModTime().Equal(s.before.ModTime()) {
			return 0, ErrChanged
		}
	}
	return n, err
}
