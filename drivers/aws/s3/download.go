package s3loop

import (
	"context"
	"io"
	"iter"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/onloop/eventloop"
)

// A Getter is the part of an *s3.Client that downloads use.
type Getter interface {
	GetObject(ctx context.Context, in *s3.GetObjectInput, opts ...func(*s3.Options)) (*s3.GetObjectOutput, error)
}

// DownloadOptions are for downloads. A nil pointer means the zero DownloadOptions.
type DownloadOptions struct {
	// OnHead is called on the loop, once, with the response without its Body, before
	// the first onData, or before onEnd if there is no data. It is not called if the
	// request fails. Only Download uses it.
	OnHead func(head *s3.GetObjectOutput)

	// MaxResumes limits how many times in a row a broken download is resumed without
	// receiving a byte. Zero: 3. Negative: none; the first break ends the download.
	MaxResumes int

	// Options are passed to each request.
	Options []func(*s3.Options)
}

// pieceSize is the size of a read, as in eventloop.ReadFrom.
const pieceSize = 64 << 10

// Download calls onData on the loop with the content of an object, chunk by chunk, and then
// onEnd once: with nil after the last chunk, or with an [*Error]. A chunk has at most 64 KB
// and is valid until onData returns. The object is read no faster than onData accepts it:
// Pause of the Reader slows the server down, and at most about 300 KB are held in memory.
// For the other methods of the Reader, and for when it keeps the loop alive, see
// [eventloop.ReadFrom].
//
// in is the input of the SDK, which may have a Range or a PartNumber. Download copies it.
//
// If the connection breaks in the middle, the download resumes at the current offset, with a
// request for the rest of the same version of the object. If the object was replaced, the
// error matches ErrChanged; the delivered data is then the beginning of the old object. The
// SDK verifies the checksum of an object at its end, if there is one. It cannot do so after
// a resume; then Download verifies the length and the ETag.
//
// The Retryer of c also retries requests. The end of ctx ends the download; the error then
// matches the error of ctx and its cause. Download uses its own goroutine, not one of Workers.
//
// A panic in c ends the download with an [*eventloop.PanicError], which no *Error wraps.
//
// Download panics if ctx, l, c, in, onData or onEnd is nil.
func Download(ctx context.Context, l *eventloop.Loop, c Getter, in *s3.GetObjectInput, onData func(p []byte), onEnd func(err error), o *DownloadOptions) *eventloop.Reader {
	checkContext(ctx)
	if isNil(c) || in == nil || onData == nil || onEnd == nil {
		panic("s3loop: Download needs a client, an input and two functions")
	}
	r := newObject(ctx, c, in, o)
	tellHead := func() {
		if onHead := r.options.OnHead; onHead != nil && r.head != nil {
			r.options.OnHead = nil
			head := *r.head
			onHead(&head)
		}
	}
	return eventloop.ReadFrom(l, r, func(p []byte) {
		tellHead()
		onData(p)
	}, func(err error) {
		if err == nil {
			tellHead()
		}
		onEnd(err)
	})
}

// DownloadTo writes the content of an object to dst, on a goroutine of w, and returns a
// future of the response without its Body. It is for files and hashes, whose methods may
// block. The error of the future wraps an error of dst. Data written to dst before an error
// stays there; Error.Offset is its length, or less. For everything else see [Download].
func DownloadTo(ctx context.Context, w *eventloop.Workers, c Getter, in *s3.GetObjectInput, dst io.Writer, o *DownloadOptions) *eventloop.Future[*s3.GetObjectOutput] {
	return eventloop.WorkOn(ctx, w, func(ctx context.Context) (*s3.GetObjectOutput, error) {
		switch {
		case in == nil:
			return nil, errNilInput
		case isNil(c):
			return nil, errNilClient
		case dst == nil:
			return nil, errNilWriter
		}
		r := newObject(ctx, c, in, o)
		defer r.Close()
		buf := make([]byte, pieceSize)
		for written := int64(0); ; {
			n, err := r.Read(buf)
			if n > 0 {
				m, werr := dst.Write(buf[:n])
				written += int64(m)
				if werr == nil && m < n {
					werr = io.ErrShortWrite
				}
				if werr != nil {
					return nil, newError(OpDownload, in.Bucket, in.Key, written, werr)
				}
			}
			switch err {
			case nil:
			case io.EOF:
				return r.head, nil
			default:
				return nil, err
			}
		}
	})
}

// Pieces returns a sequence of the pieces of an object, for a task. The task waits for each
// piece. Each piece is at most 64 KB long and valid until the next one. A goroutine of w reads
// a piece when the range loop asks for it; until then the server has to wait. An error is the last
// element: an [*Error], or the end of the task's context. For everything else see
// [Download].
func Pieces(t *eventloop.Task, w *eventloop.Workers, c Getter, in *s3.GetObjectInput, o *DownloadOptions) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		switch {
		case in == nil:
			yield(nil, errNilInput)
			return
		case isNil(c):
			yield(nil, errNilClient)
			return
		}
		r := newObject(t.Context(), c, in, o)
		defer func() { go r.Close() }() // Close waits for a Read in progress
		buf := make([]byte, pieceSize)
		for {
			n, err := eventloop.WorkOn(t.Context(), w, func(context.Context) (int, error) {
				n, err := r.Read(buf)
				if err == io.EOF {
					return 0, nil // n is 0, too
				}
				return n, err
			}).Await(t)
			if err != nil {
				yield(nil, err)
				return
			}
			if n == 0 || !yield(buf[:n:n], nil) {
				return
			}
		}
	}
}
