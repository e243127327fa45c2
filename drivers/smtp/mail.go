package smtp

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// A Mail is a message and its envelope. [Client.Send] copies all of it but Body.
type Mail struct {
	// From is the address of the sender, to which failures are reported: "a@example.com",
	// or "<a@example.com>", without a name. It may be empty, as in delivery notifications.
	From string

	// To lists the addresses of the recipients, at least one. The server delivers to these
	// addresses and ignores the header fields To, Cc and Bcc of the message.
	To []string

	// Body is the message, header and text: a []byte, an io.WriterTo such as the *Msg of
	// github.com/wneessen/go-mail, or an io.Reader. The caller must not change or use it
	// until the future has its result. If the mail has failed, a Read or WriteTo in
	// progress may outlast the result. The client sends a bare CR or LF as CRLF, and
	// doubles dots at the beginning of lines as SMTP requires.
	//
	// WriteTo and Read run on a goroutine of [eventloop.Work] and may block. The client
	// reads no faster than the server accepts the mail. If they fail, the client closes
	// the connection before the mail is complete, so that the server drops it.
	//
	// If a mail is sent again, see [Client.Send], the client reads a Body that is an
	// io.Seeker again from its initial offset, and calls WriteTo again if Body is not an
	// io.Reader. It sends any other Body again only if it had at most 64 KB.
	//
	// A Body that is an io.Closer is closed, once, when the client no longer needs it;
	// Close must unblock a Read in progress. A panic in Close is an unhandled failure of a
	// future, because the mail has its result by then. If Send rejects the mail at once,
	// because it is invalid or the queue is full, Body is not closed.
	Body any

	// Size is the number of bytes of Body with CRLF line ends, if the caller knows it;
	// 0 if not. The client measures a []byte and any Body of at most 64 KB. It sends the
	// size to the server, which can then refuse the mail before it is sent. Size may be an
	// estimate.
	Size int64

	// UTF8 declares that the header contains unencoded non-ASCII characters, for example in
	// addresses (SMTPUTF8, RFC 6531). It is implied if an address of the envelope contains
	// such characters. The mail fails with an error that matches [errors.ErrUnsupported]
	// if the server does not support it.
	UTF8 bool

	// RequireTLS requires TLS on the whole path to the recipient (RFC 8689). The mail
	// fails with [ErrNoTLS] if the connection has no TLS, and with an error that matches
	// [errors.ErrUnsupported] if the server does not offer REQUIRETLS.
	RequireTLS bool

	// DSN requests notifications. Nil: the server's default, which is a notification of
	// failure.
	DSN *DSN
}

// A DSN selects the delivery notifications that the sender requests (RFC 3461). A mail with
// a DSN fails with an error that matches [errors.ErrUnsupported] if the server does not
// offer DSN.
type DSN struct {
	Notify     []string // any of SUCCESS, FAILURE and DELAY, or NEVER alone; empty: the server's default
	Return     string   // the part of the mail in a notification of failure: "FULL", "HDRS", or ""
	EnvelopeID string   // repeated in notifications: at most 100 printable ASCII characters, or ""
}

// A Receipt reports that a server has accepted a mail.
type Receipt struct {
	// Reply is the server's reply to the mail, without codes. It often contains the
	// server's queue ID of the mail. From an LMTP server it is the reply for the first
	// accepted recipient.
	Reply string

	// Rejected lists the recipients that the server refused while it accepted others, in
	// the order of Mail.To. They do not get the mail.
	Rejected []Rejection
}

// A Rejection is a recipient that the server refused, with the server's reply.
type Rejection struct {
	To       string
	Code     int    // 400 to 599
	Enhanced string // the enhanced status code, such as "5.1.1", or ""
	Text     string // every line except the last ends with "\n"
}

// String returns the recipient and the reply, as one line.
func (r Rejection) String() string {
	var b strings.Builder
	b.WriteString(r.To)
	b.WriteString(": ")
	writeReply(&b, r.Code, r.Enhanced, r.Text)
	return b.String()
}

// Temporary reports whether the server may accept the recipient later: the code begins
// with 4.
func (r Rejection) Temporary() bool { return r.Code/100 == 4 }

func newRejection(to string, r *smtpwire.Reply) Rejection {
	return Rejection{To: to, Code: r.Code, Enhanced: r.Enhanced.String(), Text: r.Text()}
}

// bare returns an address without its angle brackets, if it has any.
func bare(addr string) string {
	if inner, ok := strings.CutPrefix(addr, "<"); ok && strings.HasSuffix(inner, ">") {
		return strings.TrimSuffix(inner, ">")
	}
	return addr
}

// clone returns a copy whose envelope the application cannot change after it was checked.
func (m Mail) clone() Mail {
	m.To = slices.Clone(m.To)
	if m.DSN != nil {
		d := *m.DSN
		d.Notify = slices.Clone(d.Notify)
		m.DSN = &d
	}
	return m
}

// check returns an error if the mail is invalid for every server.
func (m *Mail) check() error {
	if from := bare(m.From); from != "" {
		if err := smtpwire.CheckAddress(from); err != nil {
			return fmt.Errorf("smtp: sender: %w", err)
		}
	}
	if len(m.To) == 0 {
		return errors.New("smtp: no recipient")
	}
	for _, to := range m.To {
		if err := smtpwire.CheckAddress(bare(to)); err != nil {
			return fmt.Errorf("smtp: recipient: %w", err)
		}
	}
	switch m.Body.(type) {
	case []byte, io.WriterTo, io.Reader:
	case nil:
		return errors.New("smtp: no body")
	default:
		return fmt.Errorf("smtp: the body is a %T, want []byte, io.WriterTo or io.Reader", m.Body)
	}
	if m.Size < 0 {
		return fmt.Errorf("smtp: size %d", m.Size)
	}
	return m.DSN.check()
}

func (d *DSN) check() error {
	if d == nil {
		return nil
	}
	if err := smtpwire.CheckNotify(d.Notify); err != nil {
		return fmt.Errorf("smtp: %w", err)
	}
	if !slices.Contains([]string{"", "FULL", "HDRS"}, d.Return) {
		return fmt.Errorf("smtp: return %q, want FULL or HDRS", d.Return)
	}
	if err := smtpwire.CheckEnvelopeID(d.EnvelopeID); err != nil {
		return fmt.Errorf("smtp: %w", err)
	}
	return nil
}

// utf8 reports whether the mail needs SMTPUTF8.
func (m *Mail) utf8() bool {
	return m.UTF8 || !smtpwire.IsASCII(m.From) || slices.ContainsFunc(m.To, func(to string) bool { return !smtpwire.IsASCII(to) })
}
