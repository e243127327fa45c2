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

// pipelined is the number of commands that the client sends before it reads their replies.
// The replies must fit into the buffers of the connection, because the client does not
// read while it writes (RFC 2920, section 3.1).
const pipelined = 256

// A transaction sends one mail.
type transaction struct {
	s *session
	j *job

	mail    *Error            // the refusal of MAIL, or nil
	refused []*smtpwire.Reply // the refusal of each recipient, or nil
	taken   int               // the number of accepted recipients
	data    *Error            // the refusal of DATA, or nil
	open    bool              // DATA was accepted: the server expects a mail
}

// errLost wraps the error of a session that ended before the end of the mail was sent, for
// a reason that does not concern the mail.
type errLost struct{ err error }

func (e errLost) Error() string { return e.err.Error() }
func (e errLost) Unwrap() error { return e.err }

// serve sends the mail j and settles it, or puts it back into the queue. sent says that
// the envelope was already sent, see lookAhead. serve reports whether the session remains
// usable.
func (s *session) serve(j *job, sent bool) (usable bool) {
	if !j.attach(s) { // given up after it was taken from the queue
		s.job = nil
		return !sent
	}
	tx := newTransaction(s, j)
	receipt, usable, err := tx.run(sent)
	s.job = nil
	if !usable {
		s.drop()
		s.returnAhead()
	}
	if j.settled() { // given up, which closed the connection
		s.returnAhead()
		return false
	}
	var lost errLost
	if errors.As(err, &lost) {
		s.pool.closeIdle()
		err = lost.err
		if j.tries++; j.tries == 1 && j.body.again() && s.c.requeue(j) {
			return false
		}
	}
	j.settle(receipt, err)
	return usable
}

// lookAhead appends the envelope of the next mail to the end of the current mail, if
// possible: RFC 2920, section 3.1, permits it. While mails wait for sessions, each mail
// then takes one round trip instead of two.
//
// The next mail must not delay the current one, so its body must be available at once. If
// the connection is lost, the next mail is sent again without loss. Giving up the next
// mail closes the connection only after the current mail is settled.
func (s *session) lookAhead() {
	p := s.pool
	if !s.ext.Pipelining || s.mails == s.c.opts.MaxMessages || p.opening > 0 || len(p.idle) > 0 {
		return
	}
	j := p.nextIf(func(j *job) bool { return j.body.prompt() && len(j.mail.To)+2 <= pipelined })
	if j == nil {
		return
	}
	tx := newTransaction(s, j)
	err := j.body.begin(s.t)
	if err == nil {
		err = tx.permitted()
	}
	if err != nil {
		j.settle(Receipt{}, err)
		return
	}
	s.ahead = j
	for i := -1; i <= len(j.mail.To); i++ {
		s.out = tx.appendCommand(s.out, i)
	}
}

// returnAhead puts the next mail back into the queue, because the session has ended.
func (s *session) returnAhead() {
	if j := s.ahead; j != nil {
		if s.ahead = nil; !s.c.requeue(j) {
			j.giveUp(errClientClosed) // the client was aborted
		}
	}
}

func newTransaction(s *session, j *job) *transaction {
	return &transaction{s: s, j: j, refused: make([]*smtpwire.Reply, len(j.mail.To))}
}

// run sends the mail.
func (tx *transaction) run(sent bool) (r Receipt, usable bool, err error) {
	if err := tx.j.body.begin(tx.s.t); err != nil {
		return r, true, err
	}
	if err := tx.permitted(); err != nil {
		return r, true, err
	}
	if err := tx.envelope(sent); err != nil {
		return r, false, err
	}
	if err := tx.refusal(); err != nil {
		return r, tx.withdraw() == nil, err
	}
	if err := tx.body(); err != nil {
		return r, false, err
	}
	return tx.result()
}

// permitted returns an error if the extensions of the server show that it cannot accept
// the mail.
func (tx *transaction) permitted() error {
	m, ext := &tx.j.mail, &tx.s.ext
	_, secure := tx.s.conn.TLS()
	switch {
	case m.utf8() && !ext.UTF8:
		return notOffered("SMTPUTF8")
	case m.DSN != nil && !ext.DSN:
		return notOffered("DSN")
	case m.RequireTLS && !secure:
		return fmt.Errorf("%w: the mail requires it", ErrNoTLS)
	case m.RequireTLS && !ext.RequireTLS:
		return notOffered("REQUIRETLS")
	}
	return tx.measured()
}

func notOffered(extension string) error {
	return fmt.Errorf("the server does not offer %s: %w", extension, errors.ErrUnsupported)
}

// measured returns an error if the server cannot accept the part of the body measured so
// far, or its announced size.
func (tx *transaction) measured() error {
	m, ext := &tx.j.body.meter, &tx.s.ext
	size := m.Size
	if !tx.j.body.whole {
		size = max(size, tx.j.mail.Size)
	}
	if ext.MaxSize > 0 && size > ext.MaxSize {
		return fmt.Errorf("%w: %d bytes, it takes %d", ErrTooLarge, size, ext.MaxSize)
	}
	if m.EightBit && !ext.EightBit {
		return fmt.Errorf("the mail has bytes above 127: %w", notOffered("8BITMIME"))
	}
	return nil
}

// envelope sends RSET if required, MAIL, RCPT and DATA, unless they were already sent, and
// records the replies. With PIPELINING it sends them in one write.
func (tx *transaction) envelope(sent bool) error {
	s := tx.s
	if !sent {
		if err := s.checkQuiet(); err != nil {
			return err
		}
	}
	window := 1
	if s.ext.Pipelining {
		window = pipelined
	}
	first := -1 // MAIL
	if s.reset {
		first = -2 // RSET
	}
	last := len(tx.j.mail.To) // DATA
	for i := first; i <= last; {
		end := min(i+window, last+1)
		if tx.mail != nil || i == last && tx.taken == 0 {
			return nil
		}
		if !sent {
			s.out = s.out[:0]
			for k := i; k < end; k++ {
				s.out = tx.appendCommand(s.out, k)
			}
			if err := s.write(s.out); err != nil {
				return s.lost(err)
			}
		}
		for ; i < end; i++ {
			r, err := s.reply(s.c.opts.ReplyTimeout)
			if err != nil {
				return s.lost(err)
			}
			if err := tx.note(i, &r); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkQuiet returns an error if the server has sent unsolicited bytes. Usually these are
// reply 421: the server is about to close the connection.
func (s *session) checkQuiet() error {
	if s.in.Buffered() == 0 {
		return nil
	}
	r, ok, err := s.in.Next()
	switch {
	case err != nil:
		return wireError(err)
	case ok && r.Code == 421:
		return errLost{newError("", &r)}
	}
	return errEarlyBytes
}

// lost wraps err in errLost if the connection ended, so that the mail may be sent on
// another one.
func (s *session) lost(err error) error {
	if errors.Is(err, eventloop.ErrReset) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return errLost{err}
	}
	return err
}

// appendCommand appends command i: RSET is -2, MAIL is -1, the recipients start at 0, and
// DATA is last.
func (tx *transaction) appendCommand(dst []byte, i int) []byte {
	m := &tx.j.mail
	switch {
	case i == -2:
		return append(dst, "RSET\r\n"...)
	case i == -1:
		return smtpwire.AppendMail(dst, bare(m.From), tx.mailParams())
	case i == len(m.To):
		return append(dst, "DATA\r\n"...)
	}
	var p smtpwire.RcptParams
	if m.DSN != nil {
		p.Notify = strings.Join(m.DSN.Notify, ",")
		p.Original = bare(m.To[i])
	}
	return smtpwire.AppendRcpt(dst, bare(m.To[i]), p)
}

func (tx *transaction) mailParams() (p smtpwire.MailParams) {
	m, b, ext := &tx.j.mail, tx.j.body, &tx.s.ext
	if ext.Size {
		if p.Size = m.Size; b.whole {
			p.Size = b.meter.Size
		}
	}
	p.EightBit = ext.EightBit && (b.meter.EightBit || !b.whole)
	p.UTF8 = m.utf8()
	p.RequireTLS = m.RequireTLS
	if m.DSN != nil {
		p.Return, p.EnvelopeID = m.DSN.Return, m.DSN.EnvelopeID
	}
	return p
}

// note records the reply to command i. An error ends the session.
func (tx *transaction) note(i int, r *smtpwire.Reply) error {
	name := "RCPT"
	switch i {
	case -2:
		name = "RSET"
	case -1:
		name = "MAIL"
	case len(tx.j.mail.To):
		name = "DATA"
	}
	switch {
	case r.Code == 421: // the server closes the connection
		return errLost{newError(name, r)}
	case name == "DATA" && r.Code == 354:
		tx.open = true
	case name == "DATA" && r.Negative():
		tx.data = newError(name, r)
	case name == "DATA" || r.Code/100 == 3:
		return unexpected(name, r)
	case name == "RSET":
		if err := wants(250, name, r); err != nil {
			return errLost{err} // the reply does not concern the mail
		}
	case name == "MAIL" && r.Negative():
		tx.mail = newError(name, r)
	case name == "MAIL":
	case r.Negative():
		refusal := *r
		tx.refused[i] = &refusal
	default:
		tx.taken++
	}
	return nil
}

// refusal returns the server's refusal of the mail, or nil.
func (tx *transaction) refusal() error {
	switch {
	case tx.mail != nil:
		return tx.mail
	case tx.taken == 0:
		return tx.allRefused("RCPT")
	case tx.data != nil:
		return tx.data
	}
	return nil
}

// allRefused returns the error of a mail whose recipients were all refused.
func (tx *transaction) allRefused(command string) *Error {
	rejected := tx.rejected()
	e := newError(command, tx.refused[0])
	e.Rejected = rejected
	return e
}

// rejected returns the refused recipients.
func (tx *transaction) rejected() (list []Rejection) {
	for i, r := range tx.refused {
		if r != nil {
			list = append(list, newRejection(tx.j.mail.To[i], r))
		}
	}
	return list
}

// withdraw prepares the session for the next mail. If the server has accepted DATA
// although it has no recipient, withdraw sends an empty mail, which the server refuses
// (RFC 2920, section 3.1).
func (tx *transaction) withdraw() error {
	s := tx.s
	s.reset = true
	if !tx.open {
		return nil
	}
	if err := s.write([]byte(".\r\n")); err != nil {
		return err
	}
	r, err := s.reply(2 * s.c.opts.ReplyTimeout)
	if err == nil && r.Code == 421 {
		err = newError("DATA", &r)
	}
	return err
}

// body sends the body and its end. If body fails, the end was not sent, and the caller
// must close the connection so that the server drops the incomplete mail.
func (tx *transaction) body() error {
	s, b := tx.s, tx.j.body
	var stuffer smtpwire.Stuffer
	s.out = s.out[:0]
	for {
		p, err := b.next(s.t)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = tx.measured()
		}
		if err != nil {
			return err
		}
		for len(p) > 0 {
			if err := b.ended(); err != nil { // the mail was given up during the last write
				return err
			}
			n := min(len(p), chunkSize)
			if s.out = stuffer.Append(s.out, p[:n]); len(s.out) >= chunkSize {
				if err := s.write(s.out); err != nil {
					return tx.interrupted(err)
				}
				s.out = s.out[:0]
			}
			p = p[n:]
		}
	}
	s.out = stuffer.End(s.out)
	end := len(s.out)
	s.lookAhead()
	tx.j.sending(true)
	if n, err := s.nc.Write(s.out); err != nil && n < end {
		tx.j.sending(false) // Write has not taken the end
		return tx.interrupted(err)
	}
	if cap(s.out) > 4*chunkSize {
		s.out = nil
	}
	s.reset = false
	return nil
}

// interrupted returns the error for a failed write in the middle of the mail. The server
// may have sent a reply with the reason before it closed the connection.
func (tx *transaction) interrupted(err error) error {
	s := tx.s
	if r, err := s.reply(s.c.opts.ReplyTimeout); err == nil && r.Negative() && r.Code != 421 {
		return newError("DATA", &r)
	}
	return s.lost(err)
}

// result waits for the reply to the mail. An LMTP server sends one reply per accepted
// recipient.
func (tx *transaction) result() (Receipt, bool, error) {
	s := tx.s
	var receipt Receipt
	accepted := false
	var last *Error
	usable := true
	for i, refused := range tx.refused {
		if refused != nil {
			continue
		}
		r, err := s.reply(2 * s.c.opts.ReplyTimeout)
		if err == nil && !r.Positive() && !r.Negative() {
			err = unexpected("DATA", &r)
		}
		if err != nil {
			return Receipt{}, false, uncertain(err)
		}
		usable = usable && r.Code != 421
		switch {
		case r.Positive() && !accepted:
			accepted, receipt.Reply = true, r.Text()
		case r.Negative():
			last = newError("DATA", &r)
			tx.refused[i] = &r
		}
		if !s.c.opts.LMTP {
			break
		}
	}
	if !accepted {
		if s.c.opts.LMTP {
			last = tx.allRefused("DATA")
		}
		return Receipt{}, usable, last
	}
	receipt.Rejected = tx.rejected()
	return receipt, usable, nil
}
