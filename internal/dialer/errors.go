package dialer

import (
	"context"
	"errors"
	"net"
	"strings"
)

// attemptErrors holds the errors of all attempted addresses.
type attemptErrors []error

var _ net.Error = attemptErrors(nil)

// Error lists each address with its error.
func (e attemptErrors) Error() string {
	parts := make([]string, len(e))
	for i, err := range e {
		parts[i] = err.Error()
		// The whole message already begins with "dial tcp".
		if op, ok := err.(*net.OpError); ok && op.Addr != nil {
			parts[i] = op.Addr.String() + ": " + op.Err.Error()
		}
	}
	return strings.Join(parts, "; ")
}

// Unwrap makes errors.Is and errors.As check each error.
func (e attemptErrors) Unwrap() []error { return e }

// Timeout reports whether one of the errors is a timeout.
func (e attemptErrors) Timeout() bool {
	for _, err := range e {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return true
		}
	}
	return false
}

// Temporary implements net.Error. It is the same as Timeout.
func (e attemptErrors) Temporary() bool { return e.Timeout() }

// hostAddr is an unresolved address.
type hostAddr struct{ network, address string }

func (a hostAddr) Network() string { return a.network }
func (a hostAddr) String() string  { return a.address }

func opError(network string, addr net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
}

// ctxErr is the end of a context with the text of package net.
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
