package s3loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// An object is an S3 object as an io.ReadCloser. The first Read sends the request. If the
// response breaks off, the next Read requests the rest.
type object struct {
	c       Getter
	in      s3.GetObjectInput
	options DownloadOptions
	ctx     context.Context
	cancel  context.CancelCauseFunc
	offset  atomic.Int64 // the number of bytes that Read has returned

	mu       sync.Mutex          // held by Read and by the second half of Close
	head     *s3.GetObjectOutput // the first response, without its Body; not changed after that
	first    int64               // the position of the first byte in the object
	length   int64               // the number of bytes to read; -1 if unknown
	body     io.ReadCloser       // nil while there is no response
	failures int                 // consecutive failures without a received byte
	over     error               // the error of all later Reads
}

const defaultMaxResumes = 3

func newObject(ctx context.Context, c Getter, in *s3.GetObjectInput, o *DownloadOptions) *object {
	r := &object{c: c, in: *in}
	if o != nil {
		r.options = *o
	}
	if r.options.MaxResumes == 0 {
		r.options.MaxResumes = defaultMaxResumes
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}

// Name returns the name that Loop.Handles shows.
func (r *object) Name() string {
	return fmt.Sprintf("s3://%s/%s at byte %d", aws.ToString(r.in.Bucket), aws.ToString(r.in.Key), r.offset.Load())
}

// Read implements io.Reader. It returns a byte or an error, never both.
func (r *object) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for r.over == nil {
		err := r.open()
		var n int
		if err == nil {
			n, err = r.body.Read(p)
		}
		r.offset.Add(int64(n))
		if n > 0 {
			r.failures = 0
		}
		if err != nil {
			r.over = r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.over
}

// Close implements io.Closer. It ends a Read in progress.
func (r *object) Close() error {
	r.cancel(io.ErrClosedPipe)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeBody()
	if r.over == nil {
		r.over = io.ErrClosedPipe
	}
	return nil
}

func (r *object) closeBody() {
	if r.body != nil {
		r.body.Close() // its error does not concern the bytes already read
		r.body = nil
	}
}

// broken handles err, which ended a request or its body. It returns the error for Read, or
// nil if Read should resume the download.
func (r *object) broken(err error) error {
	r.closeBody()
	rest := int64(1) // unknown
	if r.head != nil && r.length >= 0 {
		rest = r.length - r.offset.Load()
	}
	switch {
	case err == io.EOF && r.head != nil && (rest == 0 || r.length < 0):
		r.cancel(io.EOF)
		return io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	if r.ctx.Err() != nil {
		return r.error(withContext(r.ctx, err))
	}
	if r.failures++; rest <= 0 || !r.mayResume(err) {
		r.cancel(err)
		return r.error(err)
	}
	if !r.sleep() {
		return r.error(withContext(r.ctx, err))
	}
	return nil
}

// mayResume reports whether the rest can be requested after err.
func (r *object) mayResume(err error) bool {
	if r.head == nil || r.length < 0 || r.head.ETag == nil || r.failures > r.options.MaxResumes {
		return false
	}
	if errors.Is(err, ErrChanged) {
		return false
	}
	status, ok := statusOf(err)
	return !ok || status >= 500
}

// statusOf returns the status of the response that caused err.
func statusOf(err error) (int, bool) {
	res, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok {
		return 0, false
	}
	return res.HTTPStatusCode(), true
}

// minBackoff is the approximate delay after the second consecutive failure.
const minBackoff = 100 * time.Millisecond

// sleep waits before a request for the rest, except after the first failure. It returns
// false if the context ended first.
func (r *object) sleep() bool {
	if r.failures < 2 {
		return true
	}
	d := minBackoff << min(r.failures-2, 6)
	t := time.NewTimer(d - rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

func (r *object) error(err error) error {
	return newError(OpDownload, r.in.Bucket, r.in.Key, r.offset.Load(), err)
}

// open sends the first request, or one for the rest, if there is no body to read.
func (r *object) open() error {
	if r.body != nil {
		return nil
	}
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	if r.head != nil {
		return r.openRest()
	}
	out, err := r.c.GetObject(r.ctx, &r.in, r.options.Options...)
	if err != nil {
		return err
	}
	r.body = out.Body
	r.length = -1
	if out.ContentLength != nil {
		r.length = *out.ContentLength
	}
	if first, _, ok := contentRange(out); ok {
		r.first = first
	}
	head := *out
	head.Body = nil
	r.head = &head
	return nil
}

// openRest requests the missing bytes of the same object.
func (r *object) openRest() error {
	in := r.in
	first, last := r.first+r.offset.Load(), r.first+r.length-1
	in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", first, last))
	in.PartNumber = nil // the range is relative to the object
	in.IfMatch, in.IfNoneMatch, in.IfModifiedSince, in.IfUnmodifiedSince = r.head.ETag, nil, nil, nil
	in.ChecksumMode = "" // the checksum is that of the whole object
	if in.VersionId == nil && aws.ToString(r.head.VersionId) != "null" {
		in.VersionId = r.head.VersionId
	}
	out, err := r.c.GetObject(r.ctx, &in, r.options.Options...)
	if err != nil {
		switch status, _ := statusOf(err); status {
		case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable:
			return errors.Join(ErrChanged, err)
		}
		return err
	}
	gotFirst, gotLast, ok := contentRange(out)
	if !ok || gotFirst != first || gotLast != last || aws.ToString(out.ETag) != *r.head.ETag {
		out.Body.Close()
		return fmt.Errorf("%w: %s of %s instead of bytes %d-%d of %s", ErrChanged,
			aws.ToString(out.ContentRange), aws.ToString(out.ETag), first, last, *r.head.ETag)
	}
	r.body = out.Body
	return nil
}

// contentRange returns the positions of the first and the last byte of a part of an object.
func contentRange(out *s3.GetObjectOutput) (first, last int64, ok bool) {
	_, err := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/", &first, &last)
	return first, last, err == nil && 0 <= first && first <= last
}

// withContext makes err, the result of a function with the context ctx, match the error of
// ctx and its cause, if ctx has ended. The error of the SDK does not match the cause, and not
// always the error of ctx.
func withContext(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	for _, end := range []error{ctx.Err(), context.Cause(ctx)} {
		if end != nil && !errors.Is(err, end) {
			err = fmt.Errorf("%w: %w", err, end)
		}
	}
	return err
}
