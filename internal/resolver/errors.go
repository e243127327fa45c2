package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ErrNoData distinguishes a name that exists, but has no records of the requested
// type (NODATA, RFC 2308 section 2.2), from one that does not exist. Both are a
// [net.DNSError] with IsNotFound; the former unwraps to ErrNoData.
var ErrNoData = errors.New("name has no records of this type")

// Errors of names and of servers' replies. They become the text of a net.DNSError.
var (
	errNoSuchHost  = errors.New("no such host")
	errNoSuitable  = errors.New("no suitable address found")
	errServFail    = errors.New("server failed to answer (SERVFAIL)")
	errMisbehaving = errors.New("server misbehaving")
	errNoReply     = errors.New("server closed the connection without a reply")
	errLame        = errors.New("lame referral")
	errBadReply    = errors.New("server sent a malformed reply")
	errCNAMELoop   = errors.New("chain of aliases (CNAME) is circular or too long")
	errBadName     = errors.New("not a domain name")
	errBadType     = errors.New("not a type that can be queried")
	errNeverAsked  = errors.New("name is reserved and must not be queried")
	errBusy        = errors.New("too many queries at a time")
)

// errClosed is the cause with which a resolver cancels its work. It is a separate
// value, so that it cannot be confused with a cause of the caller.
var errClosed = fmt.Errorf("resolver is closed: %w", net.ErrClosed)

// ctxError returns the reason why ctx ended: errClosed, or the error of ctx. It never
// returns the caller's own cause, because callers check for context.Canceled.
func ctxError(ctx context.Context) error {
	if context.Cause(ctx) == errClosed {
		return errClosed
	}
	return ctx.Err()
}

// dnsError returns the error of a lookup of name. It sets the same flags as package net
// for the same causes, so that callers need not know which resolver they use.
func dnsError(err error, name, server string) *net.DNSError {
	e := &net.DNSError{Err: err.Error(), Name: name, Server: server}
	switch {
	case err == errNoSuchHost, err == errNoSuitable, err == errBadName, err == errNeverAsked:
		e.IsNotFound = true
	case err == ErrNoData:
		e.IsNotFound, e.UnwrapErr = true, err
	case err == errServFail, err == errBusy:
		e.IsTemporary = true
	case errors.Is(err, context.Canceled):
		e.Err, e.UnwrapErr = "operation was canceled", err
	case errors.Is(err, context.DeadlineExceeded):
		e.Err, e.UnwrapErr, e.IsTimeout, e.IsTemporary = "i/o timeout", err, true, true
	case errors.Is(err, net.ErrClosed):
		e.Err, e.UnwrapErr = "resolver is closed", net.ErrClosed
	default:
		socketError(e, err)
	}
	return e
}

// socketError completes e for an error of the operating system. Such errors are
// temporary, because a network may come back. They can be unwrapped, so that
// errors.Is finds ECONNREFUSED in them.
func socketError(e *net.DNSError, err error) {
	e.UnwrapErr = err
	var ne net.Error
	if !errors.As(err, &ne) {
		return
	}
	e.IsTemporary = true
	if ne.Timeout() {
		e.Err, e.IsTimeout = "i/o timeout", true
	}
}

// isTimeout reports whether an attempt timed out.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// isLocal reports whether err is a lack of resources of this process or machine.
// Such an error says nothing about a server or a name.
func isLocal(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, errBusy)
}

// named returns err with the name as the caller wrote it. It copies err, because
// err may belong to the cache, or to other callers that spelled the name
// differently.
func named(err *net.DNSError, name string) error {
	e := *err
	e.Name = name
	return &e
}
