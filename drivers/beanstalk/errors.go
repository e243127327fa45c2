package beanstalk

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// Errors of commands. Errors of a connection are an [*eventloop.OpError] whose Op is
// OpBeanstalk and match the sentinels of package eventloop, too, such as
// [eventloop.ErrTimeout]. A command beyond the limit of pending commands fails with
// [eventloop.ErrBufferFull]. A call after Close or Abort, and a command that Abort ends, fails
// with an OpError that matches net.ErrClosed. A command that is pending at the end of the
// loop fails with [eventloop.ErrLoopClosed].
var (
	// ErrNotFound is the error of a command about a job or a tube that does not exist, or
	// about a job that is in the wrong state for the command. For a Delete, Release, Bury
	// or Touch of a reserved job it means that the time to run was over: the server has
	// made the job ready for another consumer.
	ErrNotFound = errors.New("beanstalk: not found")

	// ErrUncertain matches the error of a command that was sent and has no reply: the
	// server may have executed it. Such a command is never repeated. After any other
	// error the command was not executed.
	ErrUncertain = errors.New("beanstalk: the command may have been executed")

	// ErrJobLost matches the error of a command about a reserved job whose connection is
	// lost. The server has made the job ready again, so it will run a second time.
	ErrJobLost = errors.New("beanstalk: the connection that reserved the job is lost")

	// ErrSettled is the error of a command about a job that was already deleted, released
	// or buried.
	ErrSettled = errors.New("beanstalk: the job is settled")

	// ErrBuried is the error of a Put or a Release that the server could carry out only
	// in part, because it is out of memory: the job exists, and is buried.
	ErrBuried = errors.New("beanstalk: the server is out of memory, and the job is buried")

	// ErrDraining is the error of a Put to a server that accepts no more jobs.
	ErrDraining = errors.New("beanstalk: the server is draining")

	// ErrJobTooBig is the error of a Put with a body larger than the server accepts. The
	// limit is the value max-job-size of Client.Stats, 64 KB by default.
	ErrJobTooBig = errors.New("beanstalk: job too big")

	// ErrOutOfMemory is a reply of the server.
	ErrOutOfMemory = errors.New("beanstalk: the server is out of memory")

	// ErrInternal is the reply of a server that has detected an internal error.
	ErrInternal = errors.New("beanstalk: internal error of the server")

	// ErrUnknownCommand is the reply of a server that is too old for the command.
	ErrUnknownCommand = errors.New("beanstalk: the server does not know the command")

	// ErrMalformed matches the error of a connection that received something other than
	// the replies to its commands.
	ErrMalformed = errors.New("beanstalk: malformed reply")

	// ErrTooLarge matches the error of a connection that received a body larger than
	// Options.MaxBodyBytes.
	ErrTooLarge = errors.New("beanstalk: reply larger than MaxBodyBytes")

	// ErrTube matches the error of a command with an invalid tube name. A name has 1 to 200
	// bytes: letters, digits and any of -+/;.$_(). It must not begin with a hyphen.
	ErrTube = errors.New("beanstalk: invalid name of a tube")
)

// OpBeanstalk is the Op of an [*eventloop.OpError] of this package.
const OpBeanstalk = "beanstalk"

// refusals are the error replies that concern one command only.
var refusals = map[wire.Kind]error{
	wire.NotFound:       ErrNotFound,
	wire.Draining:       ErrDraining,
	wire.JobTooBig:      ErrJobTooBig,
	wire.OutOfMemory:    ErrOutOfMemory,
	wire.InternalError:  ErrInternal,
	wire.UnknownCommand: ErrUnknownCommand,
}

func checkTube(name string) error {
	if !wire.ValidTube(name) {
		return fmt.Errorf("%w: %.210q", ErrTube, name)
	}
	return nil
}

// A closedError is the cause of an error after Close or Abort, in an OpError. It says what is
// closed. The text of net.ErrClosed, "use of closed network connection", would be misleading.
type closedError string

func (e closedError) Error() string { return string(e) }
func (closedError) Unwrap() error   { return net.ErrClosed }

const (
	errClientClosed   closedError = "the client is closed"
	errConsumerClosed closedError = "the consumer is closed"
)

// A causeError is a cause that also matches a sentinel of this package.
type causeError struct {
	kind  error
	cause error
}

func (e *causeError) Error() string        { return e.cause.Error() }
func (e *causeError) Unwrap() error        { return e.cause }
func (e *causeError) Is(target error) bool { return target == e.kind }

// uncertain returns the error of a command that was sent, given the error that ended its
// connection or the wait for its reply.
func uncertain(err error) error {
	if err == eventloop.ErrLoopClosed {
		return err
	}
	return withKind(ErrUncertain, err, "the command may have been executed: %w")
}

// withKind returns an error like err that also matches kind.
func withKind(kind, err error, format string) error {
	cause := err
	op, ok := err.(*eventloop.OpError)
	if ok {
		cause = op.Err
	}
	cause = &causeError{kind, fmt.Errorf(format, cause)}
	if !ok {
		return cause
	}
	o := *op
	o.Err = cause
	return &o
}

// opError returns err as a connection error.
func (o *Options) opError(err error) error {
	if err == eventloop.ErrLoopClosed {
		return err
	}
	if op, ok := err.(*eventloop.OpError); ok {
		if op.Op == OpBeanstalk || op.Op == eventloop.OpDial {
			return err
		}
		err = op.Err
	}
	if err == io.EOF {
		err = fmt.Errorf("the server closed the connection: %w", io.EOF)
	}
	return &eventloop.OpError{Op: OpBeanstalk, Net: o.Network, Addr: o.Addr, Err: err}
}

// unexpected returns the error of a connection whose reply does not fit the command.
func unexpected(k wire.Kind) error {
	return &causeError{ErrMalformed, fmt.Errorf("unexpected reply %v", k)}
}

// parseError converts an error of the parser to a connection error.
func parseError(err error) error {
	if err == wire.ErrTooLarge {
		return &causeError{ErrTooLarge, err}
	}
	return &causeError{ErrMalformed, err}
}
