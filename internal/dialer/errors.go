package dialer

import (
	"context"
	"errors"
	"net"
	"strings"
)

// attemptErrors are the errors of all addresses that were tried.
type attemptErrors []error

var _ net.Error = attemptErrors(nil)

// Error tells each address with what went wrong there.
func (e attemptErrors) Error() string {
	parts := make([]string, len(e))
	for i, err := range e {
		parts[i] = err.Error()
		// "dial tcp" is already in front of the whole.
		if op, ok := err.(*net.OpError); ok && op.Addr != nil {
			parts[i] = op.Addr.String() + ": " + op.Err.Error()
		}
	}
	return strings.Join(parts, "; ")
}

// Unwrap lets errors.Is and errors.As look at each.
func (e attemptErrors) Unwrap() []error { return e }

// Timeout reports whether one of the errors is a time-out.
func (e attemptErrors) Timeout() bool {
	for _, err := range e {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return true
		}
	}
	return false
}

// Temporary is there for net.Error. It means a time-out here.
func (e attemptErrors) Temporary() bool { return e.Timeout() }

// hostAddr is an address that is not resolved.
type hostAddr struct{ network, address string }

func (a hostAddr) Network() string { return a.network }
func (a hostAddr) String() string  { return a.address }

func opError(network string, addr net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
}

// ctxErr is the end of a context in the words of package net.
type ctxErr struct {
	cause error // context.Canceled or context.DeadlineExceeded
	text  string
}

func (e *ctxErr) Error() string   { return e.text }
func (e *ctxErr) Unwrap() error   { return e.cause }
func (e *ctxErr) Timeout() bool   { return e.cause == context.DeadlineExceeded }
func (e *ctxErr) Temporary() bool { return e.Timeout() }

func ctxError(err error) error {
	if err == context.DeadlineExceeded {
		return &ctxErr{err, "i/o timeout"}
	}
	return &ctxErr{err, "operation was canceled"}
}
