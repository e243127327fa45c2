package smtpwire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MailParams are the parameters of MAIL. The zero value has none.
type MailParams struct {
	Size       int64  // SIZE: the number of bytes of the mail; 0: unknown
	EightBit   bool   // BODY=8BITMIME
	UTF8       bool   // SMTPUTF8
	RequireTLS bool   // REQUIRETLS
	Return     string // RET: "", "FULL" or "HDRS"
	EnvelopeID string // ENVID
}

// RcptParams are the parameters of RCPT. The zero value has none.
type RcptParams struct {
	Notify   string // NOTIFY: "", "NEVER", or a list with commas
	Original string // ORCPT: the original recipient, as an address of type rfc822 or utf-8
}

// AppendHello appends EHLO, HELO or LHLO.
func AppendHello(dst []byte, verb, name string) []byte {
	return fmt.Appendf(dst, "%s %s\r\n", verb, name)
}

// AppendMail appends MAIL. An empty from is the null reverse-path of notifications.
func AppendMail(dst []byte, from string, p MailParams) []byte {
	dst = append(dst, "MAIL FROM:<"...)
	dst = append(dst, from...)
	dst = append(dst, '>')
	if p.Size > 0 {
		dst = append(dst, " SIZE="...)
		dst = strconv.AppendInt(dst, p.Size, 10)
	}
	if p.EightBit {
		dst = append(dst, " BODY=8BITMIME"...)
	}
	if p.UTF8 {
		dst = append(dst, " SMTPUTF8"...)
	}
	if p.RequireTLS {
		dst = append(dst, " REQUIRETLS"...)
	}
	if p.Return != "" {
		dst = append(dst, " RET="...)
		dst = append(dst, p.Return...)
	}
	if p.EnvelopeID != "" {
		dst = append(dst, " ENVID="...)
		dst = appendXtext(dst, p.EnvelopeID)
	}
	return append(dst, "\r\n"...)
}

// AppendRcpt appends RCPT.
func AppendRcpt(dst []byte, to string, p RcptParams) []byte {
	dst = append(dst, "RCPT TO:<"...)
	dst = append(dst, to...)
	dst = append(dst, '>')
	if p.Notify != "" {
		dst = append(dst, " NOTIFY="...)
		dst = append(dst, p.Notify...)
	}
	switch {
	case p.Original == "":
	case IsASCII(p.Original):
		dst = append(dst, " ORCPT=rfc822;"...)
		dst = appendXtext(dst, p.Original)
	default: // RFC 6533, section 3
		dst = append(dst, " ORCPT=utf-8;"...)
		dst = appendUnitext(dst, p.Original)
	}
	return append(dst, "\r\n"...)
}

// appendXtext appends s as xtext (RFC 3461, section 4).
func appendXtext(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '+' && c != '=' {
			dst = append(dst, c)
		} else {
			dst = fmt.Appendf(dst, "+%02X", c)
		}
	}
	return dst
}

// appendUnitext appends s as utf-8-addr-xtext (RFC 6533, section 3), which is ASCII.
func appendUnitext(dst []byte, s string) []byte {
	for _, r := range s {
		if r > ' ' && r < 0x7f && r != '+' && r != '=' && r != '\\' {
			dst = append(dst, byte(r))
		} else {
			dst = fmt.Appendf(dst, `\x{%X}`, r)
		}
	}
	return dst
}

// maxEnvelopeID is the limit of RFC 3461, section 4.4, in characters.
const maxEnvelopeID = 100

// CheckEnvelopeID returns an error if id is not a valid envelope identifier: printable ASCII
// (RFC 3461, section 4.4).
func CheckEnvelopeID(id string) error {
	if len(id) > maxEnvelopeID {
		return fmt.Errorf("envelope identifier longer than %d characters", maxEnvelopeID)
	}
	for i := range len(id) {
		if id[i] < ' ' || id[i] > '~' {
			return fmt.Errorf("envelope identifier %q: not printable ASCII", id)
		}
	}
	return nil
}

// AppendAuth appends AUTH with the initial response, which is nil if there is none
// (RFC 4954, section 4).
func AppendAuth(dst []byte, mechanism string, initial []byte) []byte {
	dst = append(dst, "AUTH "...)
	dst = append(dst, mechanism...)
	switch {
	case initial == nil:
	case len(initial) == 0:
		dst = append(dst, " ="...)
	default:
		dst = append(dst, ' ')
		dst = base64.StdEncoding.AppendEncode(dst, initial)
	}
	return append(dst, "\r\n"...)
}

// AppendResponse appends the response to a challenge of AUTH.
func AppendResponse(dst, response []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(dst, response)
	return append(dst, "\r\n"...)
}

// Challenge returns the challenge in a reply with code 334.
func Challenge(r *Reply) ([]byte, error) {
	c, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Text()))
	if err != nil {
		return nil, fmt.Errorf("%w: challenge: %w", ErrMalformed, err)
	}
	return c, nil
}

// CheckMechanism returns an error if name is not a valid name of a SASL mechanism (RFC 4422,
// section 3.1).
func CheckMechanism(name string) error {
	if name == "" || len(name) > 20 {
		return fmt.Errorf("authentication mechanism %q: must have 1 to 20 characters", name)
	}
	for i := range len(name) {
		if c := name[i]; !isDigit(c) && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return fmt.Errorf("authentication mechanism %q: invalid character", name)
		}
	}
	return nil
}

// CheckNotify returns an error if the values are not valid for NOTIFY (RFC 3461, section 4.1).
func CheckNotify(values []string) error {
	for _, v := range values {
		switch v {
		case "SUCCESS", "FAILURE", "DELAY":
		case "NEVER":
			if len(values) > 1 {
				return errors.New("notification NEVER excludes all others")
			}
		default:
			return fmt.Errorf("unknown notification %q", v)
		}
	}
	return nil
}
