// Package resp encodes the commands and decodes the replies of Redis, in RESP2 and
// RESP3. It does no I/O: the caller passes bytes to a [Parser] as they arrive, and the
// Append functions append commands to a buffer.
package resp

import (
	"errors"
	"fmt"
	"math"
)

// Kind is the type of a Value.
type Kind uint8

// The kinds of values. Null is the null of RESP3 and both nulls of RESP2. Error is a simple
// or a bulk error. Attributes are not values: the parser drops them.
const (
	Null Kind = iota
	Simple
	Error
	Int
	Bulk
	Array
	Double
	Bool
	BigNumber
	Verbatim
	Map
	Set
	Push
)

// A Value is a reply, or a part of one.
type Value struct {
	Kind Kind

	// Int is the value of an Int. For a Bool it is 0 or 1, for a Double its bits.
	Int int64

	// Str is the text of a Simple, an Error, a Bulk, a BigNumber or a Verbatim.
	Str string

	// Elems are the elements of an Array, a Set or a Push. For a Map they are its
	// alternating keys and values.
	Elems []Value
}

// Float returns the value of a Double.
func (v *Value) Float() float64 { return math.Float64frombits(uint64(v.Int)) }

// valueSize is the size of a Value toward Parser.Limit: its memory, rounded up.
const valueSize = 64

// MaxDepth is the maximum depth of nested values.
const MaxDepth = 64

// ErrTooLarge is returned for a value that is larger than the limit of the parser.
var ErrTooLarge = errors.New("reply larger than the limit")

// A SyntaxError reports bytes that are not valid RESP.
type SyntaxError struct{ What string }

func (e *SyntaxError) Error() string { return "malformed reply: " + e.What }

func malformed(format string, args ...any) error {
	return &SyntaxError{fmt.Sprintf(format, args...)}
}
