package resp

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// The memory that the parser allocates for announced elements and bytes before they arrive.
const (
	maxElemsAhead = 1 << 10
	maxBytesAhead = 1 << 20
)

const (
	maxHeader   = 64
	maxLineKept = 4 << 10 // capacity of the buffer of lines
)

// A Parser decodes values from a stream of bytes that arrives in chunks. It examines each
// byte once, wherever the chunks end, because it stores the state of an incomplete value. The
// zero Parser has no limit.
type Parser struct {
	// Limit is the maximum memory of a value: its bytes, and 64 for each element. Zero or
	// negative: no limit. It must not change while a value is incomplete.
	Limit int

	state state
	line  []byte // the beginning of a line whose end has not arrived
	bulk  partialBulk
	stack []frame   // the incomplete containers, outermost first
	left  int       // the unused part of the limit
	names [2]string // the first elements of the last push
	spare []Value   // empty, for the elements of a container; see Recycle
	err   error
}

type state uint8

const (
	stateStart   state = iota // at the first byte of a top-level value
	stateLine                 // in a line
	stateBulk                 // in the bytes of a bulk
	stateBulkEnd              // in the end of line after a bulk
)

// A partialBulk is an incomplete string of known length.
type partialBulk struct {
	kind   byte
	size   int // of the complete string, without the end of line
	buf    strings.Builder
	ending int // the number of bytes of the end of line that have arrived
}

// A frame is an incomplete container.
type frame struct {
	kind  Kind
	left  int // the number of missing elements
	elems []Value
	drop  bool // the container is an attribute
}

// Partial reports whether a value is incomplete.
func (p *Parser) Partial() bool { return p.state != stateStart }

// Next decodes the next value. It consumes n bytes of data. If ok is false, it has
// consumed all of data, and the value is incomplete. v does not refer to memory of data.
// After an error, which is a [*SyntaxError] or [ErrTooLarge], the stream cannot be decoded
// any further: Next returns the same error again.
func (p *Parser) Next(data []byte) (v Value, n int, ok bool, err error) {
	if p.err != nil {
		return Value{}, 0, false, p.err
	}
	pos := 0
	for {
		ok, err = p.scalar(&v, data, &pos)
		if ok && p.fold(&v) {
			p.state = stateStart
			return v, pos, true, nil
		}
		if err != nil {
			p.err = err
			return Value{}, pos, false, err
		}
		if pos == len(data) {
			return Value{}, pos, false, nil
		}
	}
}

// Recycle lets the parser reuse the memory of v.Elems, which is most of what a message of a
// subscription allocates. The caller must not use v.Elems afterwards; the strings remain
// valid.
func (p *Parser) Recycle(v Value) {
	if cap(v.Elems) <= maxSpare {
		clear(v.Elems)
		p.spare = v.Elems[:0]
	}
}

// maxSpare is the maximum capacity that Recycle keeps.
const maxSpare = 8

// scalar decodes up to the end of the next line or bulk. If a value is complete, which may be
// an empty container, scalar stores it in v, and ok is true. Returning it would copy it
// several times: a Value is large (a message would take 1.4 times the CPU time).
func (p *Parser) scalar(v *Value, data []byte, pos *int) (ok bool, err error) {
	if p.state >= stateBulk {
		return p.continueBulk(v, data, pos)
	}
	rest := data[*pos:]
	if len(rest) == 0 {
		return false, nil
	}
	if p.state == stateStart {
		p.state, p.left = stateLine, p.Limit
		if p.Limit <= 0 {
			p.left = math.MaxInt
		}
	}
	if len(p.line) == 0 && !isType(rest[0]) {
		return false, malformed("%q is not a type", rest[0])
	}
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		*pos = len(data)
		return false, p.keepLine(rest)
	}
	*pos += end + 1
	line := rest[:end]
	if p.tooLong(len(p.line) + end) {
		return false, ErrTooLarge
	}
	if len(p.line) > 0 {
		line = append(p.line, line...)
		p.line = line[:0]
		if cap(line) > maxLineKept {
			p.line = nil
		}
	}
	if len(line) < 2 || line[len(line)-1] != '\r' {
		return false, malformed("line without a carriage return")
	}
	return p.header(v, line[0], line[1:len(line)-1], data, pos)
}

// keepLine stores a part of a line.
func (p *Parser) keepLine(part []byte) error {
	if p.tooLong(len(p.line) + len(part)) {
		return ErrTooLarge
	}
	p.line = append(p.line, part...)
	return nil
}

// tooLong reports whether a line of n bytes is too long, whatever its content. The limit
// applies to its text, in addition to maxHeader bytes for a header or a number.
func (p *Parser) tooLong(n int) bool { return n-maxHeader > p.left }

func isType(c byte) bool { return strings.IndexByte("+-:$*_,#(!=%~>|", c) >= 0 }

// header decodes a line of type t.
func (p *Parser) header(v *Value, t byte, text, data []byte, pos *int) (ok bool, err error) {
	switch t {
	case '$', '!', '=':
		return p.beginBulk(v, t, text, data, pos)
	case '*', '~', '%', '>', '|':
		return p.beginContainer(v, t, text)
	case ':':
		n, ok := parseInt(text)
		if !ok {
			return false, malformed("integer %q", clip(text))
		}
		*v = Value{Kind: Int, Int: n}
		return true, nil
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		return false, malformed("carriage return in a line")
	}
	switch t {
	case '+', '-', '(':
		if err := p.charge(len(text)); err != nil {
			return false, err
		}
		*v = Value{Kind: lineKind(t), Str: string(text)}
		return true, nil
	case '_':
		if len(text) == 0 {
			*v = Value{}
			return true, nil
		}
	case '#':
		if string(text) == "t" {
			*v = Value{Kind: Bool, Int: 1}
			return true, nil
		} else if string(text) == "f" {
			*v = Value{Kind: Bool}
			return true, nil
		}
	case ',':
		f, err := strconv.ParseFloat(string(text), 64)
		if err == nil || math.IsInf(f, 0) { // out of range
			*v = Value{Kind: Double, Int: int64(math.Float64bits(f))}
			return true, nil
		}
	}
	return false, malformed("value %q of type %q", clip(text), t)
}

func lineKind(t byte) Kind {
	switch t {
	case '+':
		return Simple
	case '-':
		return Error
	}
	return BigNumber
}

// charge subtracts n bytes from the limit.
func (p *Parser) charge(n int) error {
	if n > p.left {
		return ErrTooLarge
	}
	p.left -= n
	return nil
}

// beginBulk decodes a string. text is its length.
func (p *Parser) beginBulk(v *Value, t byte, text, data []byte, pos *int) (ok bool, err error) {
	n, ok := parseInt(text)
	switch {
	case ok && n == -1 && t == '$':
		*v = Value{}
		return true, nil
	case !ok || n < 0:
		return false, malformed("length %q", clip(text))
	case n > int64(p.left):
		return false, ErrTooLarge
	}
	p.left -= int(n)
	size, rest := int(n), data[*pos:]
	if len(rest)-2 >= size { // the usual case: the string is complete; size+2 could overflow
		if rest[size] != '\r' || rest[size+1] != '\n' {
			return false, errBulkEnd
		}
		*pos += size + 2
		return bulkValue(v, t, p.text(rest[:size]))
	}
	p.state = stateBulk
	p.bulk = partialBulk{kind: t, size: size}
	p.bulk.buf.Grow(min(size, maxBytesAhead))
	return p.continueBulk(v, data, pos)
}

// text returns b as a string. A push begins with its kind and its channel. They are often
// equal to those of the previous push, so text reuses the strings.
func (p *Parser) text(b []byte) string {
	if len(p.stack) == 1 && p.stack[0].kind == Push && len(b) <= maxNameKept {
		if i := len(p.stack[0].elems); i < len(p.names) {
			if p.names[i] != string(b) {
				p.names[i] = string(b)
			}
			return p.names[i]
		}
	}
	return string(b)
}

// maxNameKept is the maximum length of the strings that text reuses.
const maxNameKept = 128

var errBulkEnd = malformed("no end of line after a string")

// continueBulk decodes more of a string.
func (p *Parser) continueBulk(v *Value, data []byte, pos *int) (ok bool, err error) {
	b := &p.bulk
	if p.state == stateBulk {
		part := data[*pos:]
		part = part[:min(len(part), b.size-b.buf.Len())]
		b.grow(len(part))
		b.buf.Write(part)
		*pos += len(part)
		if b.buf.Len() < b.size {
			return false, nil
		}
		p.state = stateBulkEnd
	}
	for ; b.ending < 2; b.ending++ {
		if *pos == len(data) {
			return false, nil
		}
		if data[*pos] != "\r\n"[b.ending] {
			return false, errBulkEnd
		}
		*pos++
	}
	text := b.buf.String()
	p.bulk = partialBulk{kind: b.kind}
	p.state = stateLine
	return bulkValue(v, b.kind, text)
}

// grow makes room for n more bytes, but for no more than the size of the string.
func (b *partialBulk) grow(n int) {
	if room := b.buf.Cap() - b.buf.Len(); n > room {
		b.buf.Grow(min(b.size-b.buf.Len(), max(n, b.buf.Len())))
	}
}

func bulkValue(v *Value, t byte, s string) (ok bool, err error) {
	switch t {
	case '!':
		*v = Value{Kind: Error, Str: s}
		return true, nil
	case '=':
		if len(s) < 4 || s[3] != ':' {
			return false, malformed("verbatim string without a format")
		}
		*v = Value{Kind: Verbatim, Str: s[4:]}
		return true, nil
	}
	*v = Value{Kind: Bulk, Str: s}
	return true, nil
}

// beginContainer decodes the header of a container. text is its length.
func (p *Parser) beginContainer(v *Value, t byte, text []byte) (ok bool, err error) {
	n, ok := parseInt(text)
	switch {
	case ok && n == -1 && t == '*':
		*v = Value{}
		return true, nil
	case !ok || n < 0:
		return false, malformed("length %q", clip(text))
	case t == '>' && len(p.stack) > 0:
		return false, malformed("push inside of a value")
	case n > math.MaxInt64/2 || containerElems(t, n) > int64(p.left/valueSize):
		return false, ErrTooLarge
	}
	elems := int(containerElems(t, n))
	p.left -= elems * valueSize
	f := frame{left: elems, drop: t == '|'}
	switch t {
	case '*':
		f.kind = Array
	case '~':
		f.kind = Set
	case '>':
		f.kind = Push
	default:
		f.kind = Map
	}
	switch {
	case elems > 0:
	case f.drop:
		return false, nil // an empty attribute: the value follows
	default:
		*v = Value{Kind: f.kind}
		return true, nil
	}
	if len(p.stack) == MaxDepth {
		return false, malformed("nested more than %d deep", MaxDepth)
	}
	if elems <= cap(p.spare) {
		f.elems, p.spare = p.spare, nil
	} else {
		f.elems = make([]Value, 0, min(elems, maxElemsAhead))
	}
	p.stack = append(p.stack, f)
	return false, nil
}

func containerElems(t byte, n int64) int64 {
	if t == '%' || t == '|' {
		return 2 * n
	}
	return n
}

// fold adds v to the innermost incomplete container. It reports whether a top-level value is
// complete, and stores that value in v.
func (p *Parser) fold(v *Value) bool {
	for len(p.stack) > 0 {
		top := &p.stack[len(p.stack)-1]
		top.elems = append(top.elems, *v)
		if top.left--; top.left > 0 {
			return false
		}
		*v = Value{Kind: top.kind, Elems: top.elems}
		drop := top.drop
		*top = frame{}
		p.stack = p.stack[:len(p.stack)-1]
		if drop {
			return false
		}
	}
	return true
}

// parseInt decodes a decimal number with an optional sign.
func parseInt(text []byte) (n int64, ok bool) {
	digits := text
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		digits = text[1:]
	}
	if len(digits) == 0 {
		return 0, false
	}
	if len(digits) > 18 { // n could overflow
		n, err := strconv.ParseInt(string(text), 10, 64)
		return n, err == nil
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if text[0] == '-' {
		n = -n
	}
	return n, true
}

// clip shortens text for an error message.
func clip(text []byte) []byte { return text[:min(len(text), 32)] }
