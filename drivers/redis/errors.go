package redis

import (
	"errors"
	"net"
	"strings"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// Errors of commands. Errors of the connection are an [*eventloop.OpError] whose Op is
// OpRedis, and match the sentinels of package eventloop, too, such as
// [eventloop.ErrTimeout]. A command beyond the limit of pending commands fails with
// [eventloop.ErrBufferFull]. A call after Close or Abort, and a command that Abort ends, fails
// with an OpError that matches net.ErrClosed.
var (
	// ErrNil is the error of a command whose reply is nil, such as a Get of a key that
	// does not exist.
	ErrNil = errors.New("redis: nil")

	// ErrUncertain matches the error of a command that was sent and has no reply: the
	// server may have executed it. Such a command is never repeated. If a command fails
	// with another error, it was not executed, or the error is the server's reply.
	ErrUncertain = errors.New("redis: the command may have been executed")

	// ErrConflict is the error of a transaction that was not executed, because a key
	// that its session watches has changed.
	ErrConflict = errors.New("redis: a watched key has changed")

	// ErrMalformed matches the error of a connection that received something other than
	// Redis replies.
	ErrMalformed = errors.New("redis: malformed reply")

	// ErrTooLarge matches the error of a connection that received a reply larger than
	// Options.MaxReplyBytes.
	ErrTooLarge = errors.New("redis: reply larger than MaxReplyBytes")
)

// OpRedis is the Op of an [*eventloop.OpError] of this package.
const OpRedis = "redis"

// An Error is an error reply of the server.
type Error struct {
	Text string // the text of the reply, such as "WRONGTYPE Operation against a key holding ..."
}

func (e *Error) Error() string { return "redis: " + e.Text }

// Code returns the first word of the reply, which identifies the kind of error: ERR,
// WRONGTYPE, NOAUTH, OOM and so on.
func (e *Error) Code() string {
	code, _, _ := strings.Cut(e.Text, " ")
	return code
}

// isCode reports whether err is an error reply with the code.
func isCode(err error, code string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code() == code
}

// A closedError is the cause of an error after Close or Abort, in an OpError. It says what is
// closed. The text of net.ErrClosed, "use of closed network connection", would be misleading.
type closedError string

func (e closedError) Error() string { return string(e) }
func (closedError) Unwrap() error   { return net.ErrClosed }

const (
	errClientClosed       closedError = "the client is closed"
	errSessionClosed      closedError = "the session is closed"
	errSubscriptionClosed closedError = "the subscription is closed"
)

// An uncertainError is the error of a command that may have been executed.
type uncertainError struct{ cause error }

func (e *uncertainError) Error() string {
	return "the command may have been executed: " + e.cause.Error()
}
func (e *uncertainError) Unwrap() error        { return e.cause }
func (e *uncertainError) Is(target error) bool { return target == ErrUncertain }

// uncertain returns the error of a command that was sent, given the error that ended its
// connection.
func uncertain(err error) error {
	if op, ok := err.(*eventloop.OpError); ok && op.Op == OpRedis {
		e := *op
		e.Err = &uncertainError{op.Err}
		return &e
	}
	return &uncertainError{err}
}

// A badReply is an error of the parser that ends a connection.
type badReply struct {
	cause error
	kind  error
}

func (e *badReply) Error() string        { return e.cause.Error() }
func (e *badReply) Unwrap() error        { return e.cause }
func (e *badReply) Is(target error) bool { return target == e.kind }

// parseError converts an error of the parser to a connection error.
func parseError(err error) error {
	if err == resp.ErrTooLarge {
		return &badReply{err, ErrTooLarge}
	}
	return &badReply{err, ErrMalformed}
}
