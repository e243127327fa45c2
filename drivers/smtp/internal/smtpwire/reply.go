package smtpwire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Reply is a reply of a server (RFC 5321, section 4.2).
type Reply struct {
	Code     int
	Enhanced Enhanced
	Lines    []string // the text of each line, without the codes
}

// An Enhanced is an enhanced status code (RFC 2034, RFC 3463): class, subject and
// detail. It is zero if the server sent none.
type Enhanced [3]int

// String returns the code as in "5.1.1", or "" if there is none.
func (e Enhanced) String() string {
	if e == (Enhanced{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", e[0], e[1], e[2])
}

// Text returns the lines, with "\n" between them.
func (r *Reply) Text() string { return strings.Join(r.Lines, "\n") }

// Positive reports whether the reply confirms that the command was executed.
func (r *Reply) Positive() bool { return r.Code/100 == 2 }

// Negative reports whether the reply is a refusal, temporary or permanent.
func (r *Reply) Negative() bool { return r.Code/100 == 4 || r.Code/100 == 5 }

// ErrMalformed says that the bytes from the server are not a reply.
var ErrMalformed = errors.New("malformed reply")

// ErrTooLarge says that a reply is longer than Parser.Max.
var ErrTooLarge = errors.New("reply too large")

// A Parser splits the bytes from a server into replies.
type Parser struct {
	// Max limits the size of a reply in bytes, including its codes and line ends.
	Max int

	buf     []byte
	scanned int // buf has no line end before this index
	size    int // the total size of the lines in reply
	reply   Reply
}

// Write adds a copy of bytes from the server.
func (p *Parser) Write(b []byte) { p.buf = append(p.buf, b...) }

// Buffered returns the number of bytes that Next has not returned as a part of a reply.
func (p *Parser) Buffered() int { return p.size + len(p.buf) }

// Next returns the next reply. If the reply is incomplete, ok is false. After an error, the
// Parser must not be used again.
//
// Lines may end with LF instead of CRLF. The codes of all lines must be equal.
func (p *Parser) Next() (r Reply, ok bool, err error) {
	for {
		i := bytes.IndexByte(p.buf[p.scanned:], '\n')
		if i < 0 {
			p.scanned = len(p.buf)
			if p.Buffered() > p.Max {
				return Reply{}, false, ErrTooLarge
			}
			return Reply{}, false, nil
		}
		line := p.buf[:p.scanned+i+1]
		if p.size += len(line); p.size > p.Max {
			return Reply{}, false, ErrTooLarge
		}
		last, err := p.line(line)
		p.buf, p.scanned = p.buf[len(line):], 0
		if err != nil {
			return Reply{}, false, err
		}
		if last {
			r = p.reply
			p.reply, p.size = Reply{}, 0
			if len(p.buf) == 0 {
				p.buf = nil // frees the memory of consumed bytes
			}
			return r, true, nil
		}
	}
}

// line adds a line to the reply and reports whether it is the last one.
func (p *Parser) line(line []byte) (last bool, err error) {
	text := bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'})
	if len(text) < 3 || text[0] < '2' || text[0] > '5' || !isDigit(text[1]) || !isDigit(text[2]) {
		return false, malformed(text)
	}
	code := int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0')
	if len(p.reply.Lines) > 0 && code != p.reply.Code {
		return false, malformed(text)
	}
	p.reply.Code = code
	last, text = true, text[3:]
	if len(text) > 0 {
		if text[0] != ' ' && text[0] != '-' {
			return false, malformed(line)
		}
		last, text = text[0] == ' ', text[1:]
	}
	if e, rest, ok := cutEnhanced(string(text), code/100); ok {
		p.reply.Enhanced = e
		p.reply.Lines = append(p.reply.Lines, rest)
	} else {
		p.reply.Lines = append(p.reply.Lines, string(text))
	}
	return last, nil
}

// malformed returns the error for a line that does not belong to a reply.
func malformed(line []byte) error {
	const most = 80
	if len(line) > most {
		line = line[:most]
	}
	return fmt.Errorf("%w: %q", ErrMalformed, line)
}

// cutEnhanced removes an enhanced status code of a class from the beginning of s.
func cutEnhanced(s string, class int) (e Enhanced, rest string, ok bool) {
	code, rest, _ := strings.Cut(s, " ")
	parts := strings.Split(code, ".")
	if len(parts) != 3 || parts[0] != strconv.Itoa(class) {
		return e, "", false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || len(part) > 3 {
			return e, "", false
		}
		e[i] = int(n)
	}
	return e, rest, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
