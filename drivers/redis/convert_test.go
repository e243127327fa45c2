package redis

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

func parse(t *testing.T, s string) Reply {
	t.Helper()
	p := resp.Parser{}
	v, n, ok, err := p.Next([]byte(s))
	if err != nil || !ok || n != len(s) {
		t.Fatalf("%q: %v", s, err)
	}
	return Reply{v}
}

// converts checks a conversion. If fails is set, want is the error, or nil for any.
func converts[T any](t *testing.T, in string, want T) {
	t.Helper()
	if got, err := As[T](parse(t, in)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q as %T: got %v, %v, want %v", in, want, got, err, want)
	}
}

func refuses[T any](t *testing.T, in string) {
	t.Helper()
	if got, err := As[T](parse(t, in)); err == nil || errors.Is(err, ErrNil) {
		t.Errorf("%q as %T: got %v, %v", in, *new(T), got, err)
	}
}

func isNil[T any](t *testing.T, in string) {
	t.Helper()
	if got, err := As[T](parse(t, in)); err != ErrNil {
		t.Errorf("%q as %T: got %v, %v", in, *new(T), got, err)
	}
}

type (
	name   string
	rank   uint8
	word   []byte
	person struct {
		Name name
		Age  *int    `redis:"years"`
		Skip string  `redis:"-"`
		Size float32 // in meters
		note string
	}
)

func TestRepliesAreConverted(t *testing.T) {
	converts(t, "$2\r\nab\r\n", "ab")
	converts(t, "+OK\r\n", "OK")
	converts(t, ":5\r\n", "5")
	converts(t, ",1.5\r\n", "1.5")
	converts(t, "#t\r\n", "1")
	converts(t, "(99999999999999999999\r\n", "99999999999999999999")
	converts(t, "=6\r\ntxt:ab\r\n", "ab")
	converts(t, "$2\r\nab\r\n", []byte("ab"))
	converts(t, "$2\r\nab\r\n", name("ab"))
	converts(t, "$2\r\nab\r\n", []rank{'a', 'b'})
	converts(t, "$2\r\nab\r\n", word("ab"))
	converts(t, ":5\r\n", int64(5))
	converts(t, "$1\r\n5\r\n", 5)
	converts(t, ",5\r\n", int64(5))
	converts(t, "#t\r\n", int64(1))
	converts(t, ":255\r\n", rank(255))
	converts(t, "(18446744073709551615\r\n", uint64(math.MaxUint64))
	converts(t, ",1.5\r\n", 1.5)
	converts(t, "$3\r\n1.5\r\n", 1.5)
	converts(t, "$4\r\n-inf\r\n", math.Inf(-1))
	converts(t, ":2\r\n", 2.0)
	converts(t, ":1\r\n", true)
	converts(t, "#f\r\n", false)
	converts(t, "+OK\r\n", true)
	converts(t, "$1\r\n0\r\n", false)
	converts(t, "*2\r\n$1\r\na\r\n:1\r\n", []string{"a", "1"})
	converts(t, "~1\r\n:1\r\n", []int{1})
	converts(t, "%1\r\n$1\r\na\r\n:1\r\n", []any{"a", int64(1)})
	converts(t, "*3\r\n$1\r\na\r\n_\r\n$0\r\n\r\n", []*string{ptrTo("a"), nil, ptrTo("")})
	converts(t, "*1\r\n*1\r\n:1\r\n", [][]int{{1}})
	for _, m := range []string{"%1\r\n$1\r\na\r\n:1\r\n", "*2\r\n$1\r\na\r\n:1\r\n", "*1\r\n*2\r\n$1\r\na\r\n:1\r\n"} {
		converts(t, m, map[string]int{"a": 1})
	}
	converts(t, "%1\r\n:7\r\n*1\r\n#t\r\n", map[int][]bool{7: {true}})
	converts(t, "*6\r\n$4\r\nNAME\r\n$3\r\nAda\r\n$5\r\nyears\r\n$2\r\n36\r\n$4\r\nskip\r\n$1\r\nx\r\n", person{Name: "Ada", Age: ptrTo(36)})
	converts(t, "%3\r\n+name\r\n_\r\n+size\r\n,1.5\r\n+other\r\n*0\r\n", person{Size: 1.5})
	converts(t, "%2\r\n+note\r\n+x\r\n+name\r\n+Ada\r\n", person{Name: "Ada", note: ""}) // not exported
	converts(t, "*0\r\n", person{})
	converts(t, "*0\r\n", map[string]string{})
	converts(t, "_\r\n", (*int)(nil))
	converts(t, ":3\r\n", ptrTo(3))
	converts[any](t, "_\r\n", nil)
	converts[any](t, "*5\r\n:1\r\n,1.5\r\n#t\r\n_\r\n-ERR x\r\n", []any{int64(1), 1.5, true, nil, &Error{"ERR x"}})
	converts[any](t, "%2\r\n+a\r\n+b\r\n*1\r\n:1\r\n:2\r\n", map[string]any{"a": "b", "[1]": int64(2)})
	converts(t, "+OK\r\n", struct{}{})
	converts(t, "*1\r\n-ERR x\r\n", []Reply{parse(t, "-ERR x\r\n")})
}

func ptrTo[T any](v T) *T { return &v }

func TestWhatDoesNotFitIsAnError(t *testing.T) {
	refuses[string](t, "*0\r\n")
	refuses[int64](t, "$1\r\nx\r\n")
	refuses[int64](t, ",1.5\r\n")
	refuses[int8](t, ":128\r\n")
	refuses[uint](t, ":-1\r\n")
	refuses[uint](t, "$2\r\n-1\r\n")
	refuses[rank](t, ":256\r\n")
	refuses[float64](t, "$1\r\nx\r\n")
	refuses[bool](t, ":2\r\n")
	refuses[bool](t, "+NO\r\n")
	refuses[[]string](t, ":1\r\n")
	refuses[[]string](t, "*1\r\n*0\r\n")
	refuses[[]int](t, "*1\r\n$1\r\nx\r\n")
	refuses[map[string]int](t, "*1\r\n:1\r\n")
	refuses[map[string]int](t, ":1\r\n")
	refuses[map[int]int](t, "*2\r\n$1\r\nx\r\n:1\r\n")
	refuses[person](t, "*2\r\n$5\r\nyears\r\n$1\r\nx\r\n")
	refuses[person](t, ":1\r\n")
	refuses[chan int](t, ":1\r\n")
	refuses[error](t, ":1\r\n")
	refuses[Reply](t, "-ERR x\r\n")
	refuses[any](t, "-ERR x\r\n")
	refuses[struct{}](t, "-ERR x\r\n")
	for _, in := range []string{"_\r\n", "$-1\r\n", "*-1\r\n"} {
		isNil[string](t, in)
		isNil[[]byte](t, in)
		isNil[int](t, in)
		isNil[uint](t, in)
		isNil[float64](t, in)
		isNil[bool](t, in)
		isNil[[]string](t, in)
		isNil[[]int](t, in)
		isNil[map[string]string](t, in)
		isNil[person](t, in)
	}
	isNil[[]string](t, "*1\r\n_\r\n")
	if _, err := As[[]string](parse(t, "-WRONGTYPE x y\r\n")); !isCode(err, "WRONGTYPE") || err.Error() != "redis: WRONGTYPE x y" {
		t.Errorf("got %v", err)
	}
}

func TestRepliesAreShownOnOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"*5\r\n$1\r\n\n\r\n:1\r\n_\r\n,1.5\r\n#t\r\n": `["\n" 1 nil 1.5 true]`,
		"%2\r\n+a\r\n:1\r\n+b\r\n~0\r\n":              `{a: 1 b: []}`,
		"-ERR x\r\n":                                  `error("ERR x")`,
		"(12\r\n":                                     `12`,
		"=6\r\ntxt:ab\r\n":                            `"ab"`,
	} {
		if got := parse(t, in).String(); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestElementsOfRepliesAreReached(t *testing.T) {
	r := parse(t, "*3\r\n:1\r\n$1\r\n2\r\n-ERR x\r\n")
	if r.Kind() != KindArray || r.Len() != 3 || r.IsNil() || r.Err() != nil || KindArray.String() != "array" || Kind(99).String() != "Kind(99)" {
		t.Errorf("%v", r)
	}
	sum := int64(0)
	for i, e := range r.All() {
		if i == 2 {
			if e.Err() == nil || e.Kind() != KindError {
				t.Errorf("element %d is %v", i, e)
			}
			break
		}
		n, err := e.Int()
		if err != nil {
			t.Error(err)
		}
		sum += n
	}
	if s, err := r.At(1).Text(); sum != 3 || s != "2" || err != nil {
		t.Errorf("sum %d, %q, %v", sum, s, err)
	}
	if f, err := r.At(0).Float(); f != 1 || err != nil {
		t.Error(f, err)
	}
	if b, err := r.At(0).Bool(); !b || err != nil {
		t.Error(b, err)
	}
}
