package smtp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// OpSend is the [eventloop.OpError.Op] of the errors of [Client.Send].
const OpSend = "send mail"

// Errors of Send. The error of a future is an [*eventloop.OpError] with the address of
// the server; test for these with [errors.Is]. A negative reply of the server is an
// [*Error]; find it with [errors.As].
var (
	// ErrUncertain says that the connection ended, or the caller gave up, after the last
	// byte of the mail was sent and before the server's reply to it arrived. The server may
	// have accepted the mail, so the client does not send it again. The error also matches
	// the cause.
	ErrUncertain = errors.New("smtp: the mail may have been delivered")

	// ErrNoTLS says that [StartTLS] is required and the server does not offer STARTTLS,
	// or that [Mail.RequireTLS] is set and the connection does not use TLS.
	ErrNoTLS = errors.New("smtp: no TLS")

	// ErrAuth says that the client could not authenticate: the server refused the
	// credentials or offers no mechanism that the client supports, or the connection is
	// not encrypted.
	ErrAuth = errors.New("smtp: authentication failed")

	// ErrTooLarge says that the mail is larger than the server permits (SIZE).
	ErrTooLarge = errors.New("smtp: the mail is larger than the server permits")

	// ErrMalformed says that the server sent something that is not a reply, or a reply
	// that has no meaning at that point. The client closed the connection.
	ErrMalformed = errors.New("smtp: malformed reply")

	// ErrReplyTooLarge says that a reply was larger than [Options.MaxReplyBytes]. The
	// client closed the connection.
	ErrReplyTooLarge = errors.New("smtp: reply too large")
)

var (
	errServerClosed = fmt.Errorf("the server closed the connection: %w", io.ErrUnexpectedEOF)
	errEarlyBytes   = fmt.Errorf("%w: unsolicited bytes", ErrMalformed)
)

// An Error is the negative reply of a server.
type Error struct {
	Command  string // such as "RCPT"; "DATA" also for the mail itself, "" for the greeting
	Code     int    // 400 to 599
	Enhanced string // the enhanced status code, such as "5.1.1", or ""
	Text     string // the text of the reply; every line except the last ends with "\n"

	// Rejected has all recipients and the reply to each, if the server refused all of
	// them. The other fields are then those of the first reply.
	Rejected []Rejection
}

// Error returns the command and the reply, as one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("smtp: ")
	if e.Command != "" {
		b.WriteString(e.Command)
		b.WriteString(": ")
	}
	writeReply(&b, e.Code, e.Enhanced, e.Text)
	if n := len(e.Rejected); n > 1 {
		fmt.Fprintf(&b, " (and %d more recipients)", n-1)
	}
	return b.String()
}

func writeReply(b *strings.Builder, code int, enhanced, text string) {
	fmt.Fprint(b, code)
	for _, part := range []string{enhanced, strings.Join(strings.Fields(text), " ")} {
		if part != "" {
			b.WriteByte(' ')
			b.WriteString(part)
		}
	}
}

// Temporary reports whether the server may accept the same mail later: the code begins
// with 4.
func (e *Error) Temporary() bool { return e.Code/100 == 4 }

// newError returns the negative reply r to command as an error.
func newError(command string, r *smtpwire.Reply) *Error {
	return &Error{Command: command, Code: r.Code, Enhanced: r.Enhanced.String(), Text: r.Text()}
}

// unexpected returns the error for a reply whose code is not valid for the command.
func unexpected(command string, r *smtpwire.Reply) error {
	if command == "" {
		return fmt.Errorf("%w: %d as the greeting", ErrMalformed, r.Code)
	}
	return fmt.Errorf("%w: %d to %s", ErrMalformed, r.Code, command)
}

// errClientClosed is the cause of an error after Close or Abort, in an OpError. The text of
// net.ErrClosed, "use of closed network connection", would be misleading.
var errClientClosed error = closedError{}

type closedError struct{}

func (closedError) Error() string { return "the client is closed" }
func (closedError) Unwrap() error { return net.ErrClosed }

// opError adds the operation and the address to err. A connection error already has
// them, so opError uses only its cause.
func (c *Client) opError(err error) error {
	if op, ok := err.(*eventloop.OpError); ok {
		cause := op.Err
		if n, ok := cause.(*net.OpError); ok && n.Err != nil {
			cause = n.Err
		}
		err = fmt.Errorf("%s: %w", op.Op, cause)
	}
	return &eventloop.OpError{Op: OpSend, Net: c.opts.Network, Addr: c.opts.Addr, Err: err}
}

// uncertain marks err as the failure of a mail that may have been delivered.
func uncertain(err error) error { return fmt.Errorf("%w: %w", ErrUncertain, err) }

// wireError converts errors of the parser to errors of this package.
func wireError(err error) error {
	switch {
	case errors.Is(err, smtpwire.ErrTooLarge):
		return ErrReplyTooLarge
	case errors.Is(err, smtpwire.ErrMalformed):
		return fmt.Errorf("%w: %s", ErrMalformed, strings.TrimPrefix(err.Error(), "malformed reply: "))
	}
	return err
}
