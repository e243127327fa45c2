package s3loop

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Errors of transfers. They are wrapped in an [*Error].
var (
	// ErrChanged matches the error of a download during which the object was replaced, and of
	// an upload during which the file changed.
	ErrChanged = errors.New("s3loop: the content has changed during the transfer")

	// ErrLength is the error of an upload whose body differs in length from its
	// ContentLength.
	ErrLength = errors.New("s3loop: the length of the body differs from ContentLength")

	// ErrGoexit matches the error of an upload whose body, client or listener called
	// runtime.Goexit, as the methods of testing.T do that stop a test.
	ErrGoexit = errors.New("s3loop: runtime.Goexit was called")
)

// An Error is the error of a transfer. It wraps the error of the SDK, in which errors.As
// finds a *smithy.OperationError, a smithy.APIError, *types.NoSuchKey and the like, or the
// error of the body.
type Error struct {
	Op          string // OpUpload or OpDownload
	Bucket, Key string

	// Offset is the number of bytes of the body that were transferred: to the application by
	// a download, from the application by an upload.
	Offset int64

	Err error
}

// Values of Error.Op.
const (
	OpUpload   = "upload"
	OpDownload = "download"
)

func (e *Error) Error() string {
	return fmt.Sprintf("s3loop: %s of s3://%s/%s failed at byte %d: %v", e.Op, e.Bucket, e.Key, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether the error is a timeout, as in net.Error.
func (e *Error) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout()
}

func newError(op string, bucket, key *string, offset int64, err error) error {
	return &Error{Op: op, Bucket: aws.ToString(bucket), Key: aws.ToString(key), Offset: offset, Err: err}
}

// isNil reports whether c, a Getter or a Putter, is nil or holds a nil pointer.
func isNil(c any) bool {
	v := reflect.ValueOf(c)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

func checkContext(ctx context.Context) {
	if ctx == nil {
		panic("s3loop: nil context")
	}
}

var (
	errNilInput  = errors.New("s3loop: nil input")
	errNilClient = errors.New("s3loop: nil client")
	errNilWriter = errors.New("s3loop: nil writer")
	errHasBody   = errors.New("s3loop: the input of Upload has a Body; use UploadFrom")
	errHasNoBody = errors.New("s3loop: the input of UploadFrom has no Body")
)
