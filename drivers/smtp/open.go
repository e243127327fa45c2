package smtp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// open prepares a new connection for mails: greeting, EHLO, STARTTLS and EHLO again, AUTH.
func (s *session) open() error {
	if _, err := s.conn.Connected().Await(s.t); err != nil {
		return err
	}
	s.nc = s.conn.NetConn(s.t)
	r, err := s.reply(s.c.opts.ReplyTimeout)
	if err != nil {
		return err
	}
	if err := wants(220, "", &r); err != nil {
		return err
	}
	if err := s.hello(); err != nil {
		return err
	}
	if err := s.startTLS(); err != nil {
		return err
	}
	return s.auth()
}

// wants returns an error unless the reply has the given code. Another positive code is an
// error, too: the reply may belong to another command, and then every later reply would be
// matched to the wrong command.
func wants(code int, command string, r *smtpwire.Reply) error {
	switch {
	case r.Code == code:
		return nil
	case r.Negative():
		return newError(command, r)
	}
	return unexpected(command, r)
}

// hello sends EHLO, LHLO or HELO, and records the extensions that the server offers.
func (s *session) hello() error {
	verb := "EHLO"
	if s.c.opts.LMTP {
		verb = "LHLO"
	}
	s.ext = smtpwire.Extensions{}
	r, err := s.command(smtpwire.AppendHello(s.out[:0], verb, s.localName()))
	if err != nil {
		return err
	}
	if verb == "EHLO" && (r.Code == 500 || r.Code == 502) { // an old server
		verb = "HELO"
		if r, err = s.command(smtpwire.AppendHello(s.out[:0], verb, s.localName())); err != nil {
			return err
		}
		return wants(250, verb, &r)
	}
	if err := wants(250, verb, &r); err != nil {
		return err
	}
	s.ext = smtpwire.ParseExtensions(&r)
	return nil
}

// startTLS upgrades the connection to TLS, as Options.Security says.
func (s *session) startTLS() error {
	required := s.c.opts.Security == StartTLS
	if !required && s.c.opts.Security != Opportunistic {
		return nil
	}
	if !s.ext.StartTLS {
		if required {
			return fmt.Errorf("%w: the server does not offer STARTTLS", ErrNoTLS)
		}
		return nil
	}
	r, err := s.command([]byte("STARTTLS\r\n"))
	if err != nil {
		return err
	}
	if r.Negative() && !required {
		return nil
	}
	if err := wants(220, "STARTTLS", &r); err != nil {
		return err
	}
	// Plaintext bytes after the reply would pass for data that the server sent over TLS:
	// the injection of CVE-2011-0411.
	if s.in.Buffered() > 0 {
		return errEarlyBytes
	}
	if _, err := s.conn.StartTLS(s.c.opts.TLS).Await(s.t); err != nil {
		return err
	}
	return s.hello() // RFC 3207, section 4.2: discard the extensions offered in plaintext
}

// auth authenticates the client, if Options.Auth is set.
func (s *session) auth() error {
	choose := s.c.opts.Auth
	if choose == nil {
		return nil
	}
	if _, secure := s.conn.TLS(); !secure && !s.c.opts.PlaintextAuth && !s.c.opts.isLocal() {
		return fmt.Errorf("%w: the connection is not encrypted", ErrAuth)
	}
	if len(s.ext.Auth) == 0 {
		return fmt.Errorf("%w: the server does not offer it", ErrAuth)
	}
	mechanism, respond, err := choose(s.ext.Auth)
	if err == nil {
		err = smtpwire.CheckMechanism(mechanism)
	}
	if err == nil && respond == nil {
		err = fmt.Errorf("%s: Auth returned no function", mechanism)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAuth, err)
	}
	initial, err := respond(nil)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrAuth, mechanism, err)
	}
	secrets := []string{encoded(initial)}
	r, err := s.command(smtpwire.AppendAuth(s.out[:0], mechanism, initial))
	for err == nil && r.Code == 334 {
		var secret string
		r, secret, err = s.respond(&r, respond)
		secrets = append(secrets, secret)
	}
	if errors.Is(err, ErrMalformed) {
		return fmt.Errorf("%w to AUTH", ErrMalformed) // err quotes it
	}
	if err != nil {
		return err
	}
	hide(&r, secrets)
	if err := wants(235, "AUTH", &r); err != nil {
		var reply *Error
		if errors.As(err, &reply) {
			return fmt.Errorf("%w: %w", ErrAuth, err)
		}
		return err
	}
	return nil
}

// encoded returns a response of the client in the form in which it is sent.
func encoded(response []byte) string { return base64.StdEncoding.EncodeToString(response) }

// hide removes the client's secrets from a reply: some servers repeat a command that they
// do not understand.
func hide(r *smtpwire.Reply, secrets []string) {
	for i := range r.Lines {
		for _, secret := range secrets {
			if secret != "" {
				r.Lines[i] = strings.ReplaceAll(r.Lines[i], secret, "***")
			}
		}
	}
}

// respond sends the response to the challenge r. It returns the next reply and the encoded
// response. If the mechanism returns an error, respond cancels the exchange.
func (s *session) respond(r *smtpwire.Reply, respond func([]byte) ([]byte, error)) (next smtpwire.Reply, secret string, err error) {
	challenge, err := smtpwire.Challenge(r)
	if err != nil {
		return *r, "", wireError(err)
	}
	if challenge == nil {
		challenge = []byte{} // nil asks for the initial response
	}
	response, err := respond(challenge)
	if err != nil {
		s.command([]byte("*\r\n"))
		return *r, "", fmt.Errorf("%w: %w", ErrAuth, err)
	}
	next, err = s.command(smtpwire.AppendResponse(s.out[:0], response))
	return next, encoded(response), err
}
