package resp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// parseAll gives the pieces to a parser, and returns what it made of them.
func parseAll(p *Parser, pieces ...[]byte) (all []Value, err error) {
	for _, piece := range pieces {
		for len(piece) > 0 {
			v, n, ok, err := p.Next(piece)
			if err != nil {
				return all, err
			}
			if !ok && n != len(piece) {
				return all, fmt.Errorf("consumed %d of %d bytes of an incomplete value", n, len(piece))
			}
			if ok {
				all = append(all, v)
			}
			piece = piece[n:]
		}
	}
	return all, nil
}

func bytewise(s string) [][]byte {
	var pieces [][]byte
	for i := range len(s) {
		pieces = append(pieces, []byte{s[i]})
	}
	return pieces
}

func text(s string) Value  { return Value{Kind: Bulk, Str: s} }
func number(n int64) Value { return Value{Kind: Int, Int: n} }
func double(f float64) Value {
	return Value{Kind: Double, Int: int64(math.Float64bits(f))}
}

func TestEveryTypeIsDecodedHoweverItArrives(t *testing.T) {
	tests := []struct {
		in   string
		want Value
	}{
		{"+OK\r\n", Value{Kind: Simple, Str: "OK"}},
		{"+\r\n", Value{Kind: Simple}},
		{"-ERR no\r\n", Value{Kind: Error, Str: "ERR no"}},
		{":0\r\n", number(0)},
		{":-42\r\n", number(-42)},
		{":+42\r\n", number(42)},
		{":9223372036854775807\r\n", number(math.MaxInt64)},
		{":-9223372036854775808\r\n", number(math.MinInt64)},
		{"$0\r\n\r\n", text("")},
		{"$5\r\na\r\nb\x00\r\n", text("a\r\nb\x00")},
		{"$-1\r\n", Value{}},
		{"*-1\r\n", Value{}},
		{"_\r\n", Value{}},
		{"*0\r\n", Value{Kind: Array}},
		{"*2\r\n:1\r\n$1\r\nx\r\n", Value{Kind: Array, Elems: []Value{number(1), text("x")}}},
		{"*2\r\n*0\r\n*1\r\n_\r\n", Value{Kind: Array, Elems: []Value{{Kind: Array}, {Kind: Array, Elems: []Value{{}}}}}},
		{"#t\r\n", Value{Kind: Bool, Int: 1}},
		{"#f\r\n", Value{Kind: Bool}},
		{",1.5\r\n", double(1.5)},
		{",-inf\r\n", double(math.Inf(-1))},
		{",1e999\r\n", double(math.Inf(1))},
		{"(12345678901234567890123\r\n", Value{Kind: BigNumber, Str: "12345678901234567890123"}},
		{"!6\r\nERR no\r\n", Value{Kind: Error, Str: "ERR no"}},
		{"=8\r\ntxt:text\r\n", Value{Kind: Verbatim, Str: "text"}},
		{"%1\r\n+a\r\n:1\r\n", Value{Kind: Map, Elems: []Value{{Kind: Simple, Str: "a"}, number(1)}}},
		{"~1\r\n:1\r\n", Value{Kind: Set, Elems: []Value{number(1)}}},
		{">1\r\n:1\r\n", Value{Kind: Push, Elems: []Value{number(1)}}},
		{"|1\r\n+ttl\r\n:3600\r\n:1\r\n", number(1)},
		{"|0\r\n:1\r\n", number(1)},
		{"*2\r\n|1\r\n+a\r\n*1\r\n:9\r\n:1\r\n:2\r\n", Value{Kind: Array, Elems: []Value{number(1), number(2)}}},
	}
	for _, tt := range tests {
		for _, pieces := range [][][]byte{{[]byte(tt.in)}, bytewise(tt.in), {[]byte(tt.in + tt.in)}} {
			p := &Parser{}
			all, err := parseAll(p, pieces...)
			if err != nil || len(all) == 0 || !reflect.DeepEqual(all[0], tt.want) || p.Partial() {
				t.Errorf("%q in %d pieces: got %+v, %v, partial %v; want %+v", tt.in, len(pieces), all, err, p.Partial(), tt.want)
			}
		}
	}
}

func TestWhatIsNotRESPIsASyntaxError(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 400 Bad Request\r\n", "\r\n", "\x00", "+OK\n", "+O\rK\r\n", ":1\n", ":\r\n", ":x\r\n", ":1.5\r\n", ":99999999999999999999\r\n", ":-\r\n",
		"$x\r\n", "$-2\r\n", "$\r\n", "$1\r\nxx\r\n", "$1\r\nx\rx", "$?\r\n", "*?\r\n", "*-2\r\n", "%-1\r\n", "~-1\r\n", "!-1\r\n", "=-1\r\n",
		"=3\r\ntxt\r\n", "=4\r\ntxt-\r\n", "_x\r\n", "#x\r\n", "#\r\n", ",x\r\n", ",\r\n", "*1\r\n>1\r\n:1\r\n", "*1\r\nx",
		strings.Repeat("*1\r\n", MaxDepth+1),
	} {
		for _, pieces := range [][][]byte{{[]byte(in)}, bytewise(in)} {
			p := &Parser{}
			_, err := parseAll(p, pieces...)
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Errorf("%q in %d pieces: got %v, want a SyntaxError", in, len(pieces), err)
			}
			if _, n, ok, again := p.Next([]byte("+OK\r\n")); again != err || n != 0 || ok {
				t.Errorf("%q: after the error: %d, %v, %v", in, n, ok, again)
			}
		}
	}
}

func TestTheLimitCountsBytesAndElements(t *testing.T) {
	tests := []struct {
		in    string
		limit int // the least with which it is decoded
	}{
		{"$10\r\n0123456789\r\n", 10},
		{"+0123456789\r\n", 10},
		{"*2\r\n:1\r\n$3\r\nabc\r\n", 2*valueSize + 3},
		{"%1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", 3*valueSize + 2},
		{"+" + strings.Repeat("x", 1000) + "\r\n", 1000},
	}
	for _, tt := range tests {
		for _, pieces := range [][][]byte{{[]byte(tt.in)}, bytewise(tt.in), {[]byte(tt.in + tt.in)}} {
			if all, err := parseAll(&Parser{Limit: tt.limit}, pieces...); err != nil || len(all) == 0 {
				t.Errorf("%.40q with limit %d: %v, %v", tt.in, tt.limit, all, err)
			}
			if _, err := parseAll(&Parser{Limit: tt.limit - 1}, pieces...); err != ErrTooLarge {
				t.Errorf("%.40q with limit %d: %v, want ErrTooLarge", tt.in, tt.limit-1, err)
			}
		}
	}
}

func TestWhatIsAnnouncedIsRefusedBeforeItArrives(t *testing.T) {
	for _, in := range []string{
		"$536870912\r\n", "*1000000000\r\n", "%1000000000\r\n", "%9223372036854775807\r\n", "*9223372036854775807\r\n", "$9223372036854775807\r\n",
		"*2\r\n*1048576\r\n", "=536870912\r\n", "+" + strings.Repeat("x", 64<<20+maxHeader+1),
	} {
		if _, err := parseAll(&Parser{Limit: 64 << 20}, []byte(in)); err != ErrTooLarge {
			t.Errorf("%.40q: %v, want ErrTooLarge", in, err)
		}
	}
}

// Without a limit, too, the greatest length is nothing but a length.
func TestTheGreatestLengthsDoNotOverflow(t *testing.T) {
	for _, in := range []string{
		"$9223372036854775807\r\nx", "$9223372036854775806\r\n", "!9223372036854775807\r\n", "=9223372036854775807\r\n",
		"*9223372036854775807\r\n:1\r\n", "%4611686018427387904\r\n", "~9223372036854775807\r\n", ">9223372036854775807\r\n",
	} {
		if all, err := parseAll(&Parser{}, []byte(in)); len(all) > 0 || err != nil && err != ErrTooLarge {
			t.Errorf("%q: got %v, %v", in, all, err)
		}
	}
}

func TestAnAnnouncementAllocatesLittle(t *testing.T) {
	for _, in := range []string{"$60000000\r\n", "*900000\r\n"} {
		res := testing.Benchmark(func(b *testing.B) {
			for range b.N {
				parseAll(&Parser{Limit: 64 << 20}, []byte(in))
			}
		})
		if got := res.AllocedBytesPerOp(); got > maxBytesAhead+4096 {
			t.Errorf("%q: %d bytes allocated, want at most %d", in, got, maxBytesAhead)
		}
	}
}

// genValue generates values; those on the top level may be pushes.
func genValue(depth int) *rapid.Generator[Value] {
	return rapid.Custom(func(t *rapid.T) Value {
		last := Verbatim
		if depth > 0 {
			last = Push
		}
		k := Kind(rapid.IntRange(0, int(last)).Draw(t, "kind"))
		if k >= Array && k < Double && depth == 0 {
			k = Bulk
		}
		v := Value{Kind: k}
		switch k {
		case Simple, Error, BigNumber:
			v.Str = rapid.StringMatching(`[^\r\n]{0,40}`).Draw(t, "text")
		case Bulk, Verbatim:
			v.Str = strings.Repeat(rapid.StringN(0, 20, 40).Draw(t, "text"), rapid.SampledFrom([]int{1, 1, 1, 500}).Draw(t, "times"))
		case Int:
			v.Int = rapid.Int64().Draw(t, "int")
		case Bool:
			v.Int = rapid.Int64Range(0, 1).Draw(t, "bool")
		case Double:
			v = double(rapid.Float64().Draw(t, "double"))
		case Array, Set, Map, Push:
			n := rapid.SampledFrom([]int{0, 1, 2, 3, 5}).Draw(t, "elements")
			if k == Map {
				n *= 2
			}
			for range n {
				e := genValue(depth-1).Filter(func(v Value) bool { return v.Kind != Push }).Draw(t, "element")
				v.Elems = append(v.Elems, e)
			}
		}
		return v
	})
}

// encode is the inverse of the parser.
func encode(dst []byte, v Value) []byte {
	sized := func(t byte, s string) []byte { return fmt.Appendf(dst, "%c%d\r\n%s\r\n", t, len(s), s) }
	switch v.Kind {
	case Simple:
		return fmt.Appendf(dst, "+%s\r\n", v.Str)
	case Error:
		if strings.Contains(v.Str, "x") {
			return sized('!', v.Str)
		}
		return fmt.Appendf(dst, "-%s\r\n", v.Str)
	case BigNumber:
		return fmt.Appendf(dst, "(%s\r\n", v.Str)
	case Int:
		return fmt.Appendf(dst, ":%d\r\n", v.Int)
	case Bulk:
		return sized('$', v.Str)
	case Verbatim:
		return sized('=', "txt:"+v.Str)
	case Bool:
		return fmt.Appendf(dst, "#%c\r\n", "ft"[v.Int])
	case Double:
		return fmt.Appendf(dst, ",%s\r\n", strconv.FormatFloat(v.Float(), 'g', -1, 64))
	case Array, Set, Map, Push:
		n := len(v.Elems)
		if v.Kind == Map {
			n /= 2
		}
		dst = fmt.Appendf(dst, "%c%d\r\n", map[Kind]byte{Array: '*', Set: '~', Map: '%', Push: '>'}[v.Kind], n)
		for _, e := range v.Elems {
			dst = encode(dst, e)
		}
		return dst
	}
	return append(dst, "_\r\n"...)
}

func TestParserInvertsEncodingWhereverPiecesEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(genValue(4), 1, 8).Draw(t, "values")
		var stream []byte
		for _, v := range want {
			stream = encode(stream, v)
		}
		got, err := parseAll(&Parser{}, cut(t, stream)...)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

// cut cuts a stream into pieces, most of them small.
func cut(t *rapid.T, stream []byte) (pieces [][]byte) {
	most := rapid.SampledFrom([]int{1, 2, 7, 100, 70000}).Draw(t, "most")
	for len(stream) > 0 {
		n := min(len(stream), rapid.IntRange(1, most).Draw(t, "piece"))
		pieces = append(pieces, stream[:n])
		stream = stream[n:]
	}
	return pieces
}

// reference decodes a whole input with the simple parser.
func reference(data []byte) (all []Value, err error) {
	in := bufio.NewReader(bytes.NewReader(data))
	for {
		v, err := readValue(in, 0)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
}

func FuzzParser(f *testing.F) {
	for _, s := range []string{
		"+OK\r\n-ERR x\r\n:12\r\n$3\r\nabc\r\n*2\r\n:1\r\n_\r\n", "%1\r\n+a\r\n,1.5\r\n~1\r\n#t\r\n", ">2\r\n+message\r\n(1\r\n", "|1\r\n+a\r\n:1\r\n!3\r\nERR\r\n",
		"=7\r\ntxt:abc\r\n$-1\r\n*-1\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n$1\r\na\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		whole, err := parseAll(&Parser{Limit: 1 << 20}, data)
		var pieces [][]byte
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(step)%16+1)
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		inPieces, err2 := parseAll(&Parser{Limit: 1 << 20}, pieces...)
		if !reflect.DeepEqual(whole, inPieces) || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("whole %+v, %v; in pieces %+v, %v", whole, err, inPieces, err2)
		}
		if err == ErrTooLarge {
			return // the reference has no limit
		}
		ref, err3 := reference(data)
		if !reflect.DeepEqual(whole, ref) {
			t.Fatalf("parser %+v, %v; reference %+v, %v", whole, err, ref, err3)
		}
		// The reference looks at the end of a line before it looks at the line.
		if err3 != nil && err == nil {
			t.Fatalf("reference says %v", err3)
		}
	})
}

func BenchmarkParser(b *testing.B) {
	for _, bm := range []struct {
		name, one string
		piece     int
	}{
		{"bulk64", "$64\r\n" + strings.Repeat("x", 64) + "\r\n", 64 << 10},
		{"int", ":12345\r\n", 64 << 10},
		{"bulk1M", "$1048576\r\n" + strings.Repeat("x", 1<<20) + "\r\n", 64 << 10},
		{"bulk1M-bytewise", "$1048576\r\n" + strings.Repeat("x", 1<<20) + "\r\n", 1},
		{"message", ">3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$64\r\n" + strings.Repeat("x", 64) + "\r\n", 64 << 10},
		{"array100", "*100\r\n" + strings.Repeat("$8\r\nabcdefgh\r\n", 100), 64 << 10},
	} {
		b.Run(bm.name, func(b *testing.B) {
			stream := []byte(strings.Repeat(bm.one, max(1, 64<<10/len(bm.one))))
			p := &Parser{}
			n := 0
			b.ReportAllocs()
			b.SetBytes(int64(len(bm.one)))
			for n < b.N {
				for at := 0; at < len(stream) && n < b.N; {
					end := min(len(stream), at+bm.piece)
					v, used, ok, err := p.Next(stream[at:end])
					if err != nil {
						b.Fatal(err)
					}
					at += used
					if ok {
						if v.Kind == Push {
							p.Recycle(v)
						}
						n++
					}
				}
			}
		})
	}
}

func TestPushesKeepTheirNamesWhenOthersFollow(t *testing.T) {
	var stream []byte
	var want []Value
	for _, names := range [][2]string{{"message", "a"}, {"message", "a"}, {"pmessage", "b"}, {"message", "a"}, {"message", strings.Repeat("n", maxNameKept+1)}, {"message", "c"}} {
		v := Value{Kind: Push, Elems: []Value{text(names[0]), text(names[1]), text("payload")}}
		want = append(want, v)
		stream = encode(stream, v)
	}
	for _, pieces := range [][][]byte{{bytes.Clone(stream)}, bytewise(string(stream))} {
		got, err := parseAll(&Parser{}, pieces...)
		clear(pieces[0])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestRecycleReusesTheElementsAndKeepsTheStrings(t *testing.T) {
	p := &Parser{}
	next := func(payload string) Value {
		t.Helper()
		want := Value{Kind: Push, Elems: []Value{text("message"), text("news"), text(payload)}}
		got, err := parseAll(p, encode(nil, want))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		return got[0]
	}
	first := next("one")
	payload := first.Elems[2].Str
	p.Recycle(first)
	if !reflect.DeepEqual(first.Elems, make([]Value, 3)) {
		t.Errorf("the parser keeps %+v in memory", first.Elems)
	}
	second := next("two")
	if &second.Elems[0] != &first.Elems[0] {
		t.Error("the memory of the first value is not used again")
	}
	next("three")
	if payload != "one" || second.Elems[2].Str != "two" {
		t.Errorf("the payloads have become %q and %q", payload, second.Elems[2].Str)
	}
}

func TestRecycleKeepsNoLargeContainer(t *testing.T) {
	large := Value{Kind: Array}
	for range maxSpare + 1 {
		large.Elems = append(large.Elems, text("x"))
	}
	stream := encode(nil, large)
	p := &Parser{}
	for range 2 {
		got, err := parseAll(p, stream)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], large) {
			t.Fatalf("got %+v, %v", got, err)
		}
		if p.Recycle(got[0]); cap(p.spare) > maxSpare {
			t.Fatalf("the parser keeps memory for %d elements", cap(p.spare))
		}
	}
}
