package resp

import (
	"bufio"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
)

// readValue is the parser that Parser is compared with: recursive, from a whole input,
// without limits. It reports io.ErrUnexpectedEOF for an incomplete value.
func readValue(in *bufio.Reader, depth int) (Value, error) {
	v, attribute, err := readOne(in, depth)
	for attribute && err == nil {
		v, attribute, err = readOne(in, depth)
	}
	return v, err
}

var errSyntax = errors.New("malformed")

func readOne(in *bufio.Reader, depth int) (v Value, attribute bool, err error) {
	t, err := in.ReadByte()
	if err != nil {
		return v, false, err
	}
	if !strings.ContainsRune("+-:$*_,#(!=%~>|", rune(t)) {
		return v, false, errSyntax
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return v, false, io.ErrUnexpectedEOF
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.Contains(text, "\r") {
		return v, false, errSyntax
	}
	switch t {
	case '+':
		return Value{Kind: Simple, Str: text}, false, nil
	case '-':
		return Value{Kind: Error, Str: text}, false, nil
	case '(':
		return Value{Kind: BigNumber, Str: text}, false, nil
	case '_':
		if text != "" {
			err = errSyntax
		}
		return v, false, err
	case '#':
		switch text {
		case "t":
			return Value{Kind: Bool, Int: 1}, false, nil
		case "f":
			return Value{Kind: Bool}, false, nil
		}
		return v, false, errSyntax
	case ',':
		f, err := strconv.ParseFloat(text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return v, false, errSyntax
		}
		return Value{Kind: Double, Int: int64(math.Float64bits(f))}, false, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return v, false, errSyntax
	}
	switch {
	case t == ':':
		return Value{Kind: Int, Int: n}, false, nil
	case n == -1 && (t == '$' || t == '*'):
		return v, false, nil
	case n < 0:
		return v, false, errSyntax
	case t == '$' || t == '!' || t == '=':
		v, err := readString(in, t, n)
		return v, false, err
	case t == '>' && depth > 0:
		return v, false, errSyntax
	}
	v.Kind = map[byte]Kind{'*': Array, '~': Set, '>': Push, '%': Map, '|': Map}[t]
	if t == '%' || t == '|' {
		n *= 2
	}
	if n > 0 && depth == MaxDepth {
		return v, false, errSyntax
	}
	for range n {
		e, err := readValue(in, depth+1)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return v, false, err
		}
		v.Elems = append(v.Elems, e)
	}
	return v, t == '|', nil
}

func readString(in *bufio.Reader, t byte, n int64) (v Value, err error) {
	text, err := io.ReadAll(io.LimitReader(in, n))
	if err != nil || int64(len(text)) < n {
		return v, io.ErrUnexpectedEOF
	}
	for _, want := range "\r\n" {
		c, err := in.ReadByte()
		if err != nil {
			return v, io.ErrUnexpectedEOF
		}
		if rune(c) != want {
			return v, errSyntax
		}
	}
	s := string(text)
	switch t {
	case '$':
		return Value{Kind: Bulk, Str: s}, nil
	case '!':
		return Value{Kind: Error, Str: s}, nil
	}
	if len(s) < 4 || s[3] != ':' {
		return v, errSyntax
	}
	return Value{Kind: Verbatim, Str: s[4:]}, nil
}
