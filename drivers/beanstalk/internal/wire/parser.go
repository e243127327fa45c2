package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// ErrTooLarge is the error of a body that is larger than Parser.Limit.
var ErrTooLarge = errors.New("body larger than the limit")

// maxLine is the maximum length of a line, without its end. The longest line of a server is
// USING with the name of a tube.
const maxLine = 256

// A Parser decodes replies from chunks of any size. It stores its position in an incomplete
// reply, so it examines each byte once. The zero Parser is ready to use.
type Parser struct {
	Limit int // limits the bytes of a body; zero: no limit

	line    []byte // the beginning of an incomplete line
	reply   Reply  // a reply with an incomplete body
	missing int    // the missing bytes of the body and its end, if reply.Body is not nil
	err     error
}

// Next decodes the next reply from data. It returns the number of bytes that it consumed, and
// whether the reply is complete. If not, it has consumed all of data. An error is final.
func (p *Parser) Next(data []byte) (r Reply, n int, ok bool, err error) {
	if p.err == nil {
		r, n, ok, p.err = p.next(data)
	}
	return r, n, ok, p.err
}

func (p *Parser) next(data []byte) (r Reply, n int, ok bool, err error) {
	if p.reply.Body == nil {
		line, n, ok, err := p.nextLine(data)
		if !ok || err != nil {
			return Reply{}, n, false, err
		}
		r, size, err := parseLine(line)
		p.line = p.line[:0]
		if err != nil || size < 0 {
			return r, n, err == nil, err
		}
		if p.Limit > 0 && size > p.Limit {
			return Reply{}, n, false, ErrTooLarge
		}
		// Allocate no more than has arrived, whatever size the server announces.
		r.Body = make([]byte, 0, min(size, len(data)-n+1<<10))
		p.reply, p.missing = r, size+2
		r, m, ok, err := p.nextBody(data[n:])
		return r, n + m, ok, err
	}
	return p.nextBody(data)
}

// nextLine returns the next line without its end.
func (p *Parser) nextLine(data []byte) (line []byte, n int, ok bool, err error) {
	end := bytes.IndexByte(data, '\n')
	n = end + 1
	if end < 0 {
		n = len(data)
	}
	if len(p.line)+n > maxLine+2 {
		return nil, n, false, malformed("line", append(p.line, data[:min(n, maxLine)]...))
	}
	if end < 0 {
		p.line = append(p.line, data...)
		return nil, n, false, nil
	}
	line = data[:n]
	if len(p.line) > 0 {
		p.line = append(p.line, line...)
		line = p.line
	}
	body, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, n, false, malformed("line", line)
	}
	return body, n, true, nil
}

// nextBody consumes bytes of the body and its end.
func (p *Parser) nextBody(data []byte) (r Reply, n int, ok bool, err error) {
	n = min(p.missing, len(data))
	for i, c := range data[:n] {
		if p.missing-i > 2 {
			continue
		}
		if want := "\r\n"[2-(p.missing-i)]; c != want {
			return Reply{}, n, false, malformed("end of a body", data[i:n])
		}
	}
	p.reply.Body = append(p.reply.Body, data[:min(n, max(p.missing-2, 0))]...)
	if p.missing -= n; p.missing > 0 {
		return Reply{}, n, false, nil
	}
	r, p.reply = p.reply, Reply{}
	return r, n, true, nil
}

// parseLine parses a line. size is the size of the body that follows, or -1.
func parseLine(line []byte) (r Reply, size int, err error) {
	word, rest, spaced := bytes.Cut(line, []byte(" "))
	k := kindOf[string(word)]
	if k == 0 {
		return Reply{}, -1, malformed("reply", line)
	}
	r.Kind, size = k, -1
	ok := true
	form := words[k].form
	switch {
	case form == bare, !spaced && (form == maybeID || form == maybeCount):
		ok = !spaced
	case form == tubeForm:
		r.Tube = string(rest)
		ok = ValidTube(r.Tube)
	case form == idForm, form == maybeID:
		r.ID, ok = number(rest)
	case form == countForm, form == maybeCount:
		r.Count, ok = number(rest)
	case form == bodyForm:
		size, ok = length(rest)
	case form == idAndBody:
		id, n, _ := bytes.Cut(rest, []byte(" "))
		var okID bool
		r.ID, okID = number(id)
		size, ok = length(n)
		ok = ok && okID
	}
	if !ok {
		return Reply{}, -1, malformed("reply", line)
	}
	return r, size, nil
}

// number parses digits.
func number(p []byte) (n uint64, ok bool) {
	if len(p) == 0 || p[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p), 10, 64)
	return n, err == nil
}

func length(p []byte) (n int, ok bool) {
	u, ok := number(p)
	return int(u), ok && u <= math.MaxInt32-2 // with the end of line, it fits in an int on every platform
}

func malformed(what string, p []byte) error {
	return fmt.Errorf("malformed %s %.60q", what, p)
}
