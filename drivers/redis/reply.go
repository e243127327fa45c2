package redis

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Reply is a reply of the server, or an element of one. [As] and [Do] convert replies
// to Go values. The caller may keep a Reply and the results of its methods. The zero Reply
// is nil.
type Reply struct{ v resp.Value }

// A Kind is the type of a [Reply] in the protocol. Version 2 of the protocol has only
// KindNil, KindStatus, KindError, KindInt, KindString and KindArray.
type Kind uint8

// The kinds of replies.
const (
	KindNil       = Kind(resp.Null)
	KindStatus    = Kind(resp.Simple) // such as OK
	KindError     = Kind(resp.Error)
	KindInt       = Kind(resp.Int)
	KindString    = Kind(resp.Bulk)
	KindArray     = Kind(resp.Array)
	KindFloat     = Kind(resp.Double)
	KindBool      = Kind(resp.Bool)
	KindBigNumber = Kind(resp.BigNumber)
	KindVerbatim  = Kind(resp.Verbatim) // text for humans
	KindMap       = Kind(resp.Map)
	KindSet       = Kind(resp.Set)
	KindPush      = Kind(resp.Push)
)

var kindNames = [...]string{
	"nil", "status", "error", "integer", "string", "array", "float", "bool", "big number", "verbatim string", "map", "set", "push",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Kind returns the type of the reply.
func (r Reply) Kind() Kind { return Kind(r.v.Kind) }

// IsNil reports whether the reply is nil.
func (r Reply) IsNil() bool { return r.v.Kind == resp.Null }

// Err returns an [*Error] if the reply is an error, else nil.
func (r Reply) Err() error {
	if r.v.Kind != resp.Error {
		return nil
	}
	return &Error{r.v.Str}
}

// Text returns the reply as a string, as As[string] does.
func (r Reply) Text() (string, error) { return toString(r.v) }

// Int returns the reply as an integer, as As[int64] does.
func (r Reply) Int() (int64, error) { return toInt(r.v) }

// Float returns the reply as a float, as As[float64] does.
func (r Reply) Float() (float64, error) { return toFloat(r.v) }

// Bool returns the reply as a bool, as As[bool] does.
func (r Reply) Bool() (bool, error) { return toBool(r.v) }

// Len returns the number of elements. In a map, each key and each value counts as one
// element. Len is 0 for a reply without elements.
func (r Reply) Len() int { return len(r.v.Elems) }

// At returns element i. It panics if i is not in the range from 0 to Len()-1. The elements
// of a map are its alternating keys and values.
func (r Reply) At(i int) Reply { return Reply{r.v.Elems[i]} }

// All returns a sequence of the elements.
func (r Reply) All() iter.Seq2[int, Reply] {
	return func(yield func(int, Reply) bool) {
		for i, e := range r.v.Elems {
			if !yield(i, Reply{e}) {
				return
			}
		}
	}
}

// String formats the reply on one line, for logs and tests: strings are quoted, elements
// are in brackets.
func (r Reply) String() string {
	var b strings.Builder
	show(&b, r.v)
	return b.String()
}

func show(b *strings.Builder, v resp.Value) {
	switch v.Kind {
	case resp.Null:
		b.WriteString("nil")
	case resp.Simple, resp.BigNumber:
		b.WriteString(v.Str)
	case resp.Error:
		fmt.Fprintf(b, "error(%q)", v.Str)
	case resp.Bulk, resp.Verbatim:
		b.WriteString(strconv.Quote(v.Str))
	case resp.Int:
		b.WriteString(strconv.FormatInt(v.Int, 10))
	case resp.Double:
		b.WriteString(formatFloat(v.Float()))
	case resp.Bool:
		b.WriteString(strconv.FormatBool(v.Int != 0))
	case resp.Map:
		showElems(b, v.Elems, '{', '}')
	default:
		showElems(b, v.Elems, '[', ']')
	}
}

func showElems(b *strings.Builder, elems []resp.Value, begin, end byte) {
	b.WriteByte(begin)
	for i, e := range elems {
		switch {
		case i == 0:
		case begin == '{' && i%2 == 1:
			b.WriteString(": ")
		default:
			b.WriteByte(' ')
		}
		show(b, e)
	}
	b.WriteByte(end)
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
