package resp

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestArgumentsAreWords(t *testing.T) {
	tests := []struct {
		args []any
		want string // the words
	}{
		{[]any{"GET", "key"}, "GET|key"},
		{[]any{"SET", []byte("a\r\nb"), "" /* empty */}, "SET|a\r\nb|"},
		{[]any{1, int8(-2), int16(3), int32(4), int64(-9223372036854775808)}, "1|-2|3|4|-9223372036854775808"},
		{[]any{uint(1), uint8(2), uint16(3), uint32(4), uint64(18446744073709551615)}, "1|2|3|4|18446744073709551615"},
		{[]any{1.5, float32(0.1), 1e100, true, false}, "1.5|0.1|1e+100|1|0"},
		{[]any{"DEL", []string{"a", "b", "c"}, "d"}, "DEL|a|b|c|d"},
		{[]any{"DEL", []string{}}, "DEL"},
		{[]any{"A", [][]byte{[]byte("x"), nil}, []any{1, []string{"y", "z"}}}, "A|x||1|y|z"},
	}
	for _, tt := range tests {
		enc, bad := AppendCommand([]byte("before"), tt.args...)
		if bad != -1 {
			t.Errorf("%v: argument %d cannot be encoded", tt.args, bad)
			continue
		}
		all, err := parseAll(&Parser{}, enc[len("before"):])
		if err != nil || len(all) != 1 {
			t.Errorf("%v: %q: %v, %v", tt.args, enc, all, err)
			continue
		}
		var words []string
		for _, e := range all[0].Elems {
			words = append(words, e.Str)
		}
		if got := strings.Join(words, "|"); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestWhatCannotBeEncodedLeavesTheBufferAsItWas(t *testing.T) {
	for _, bad := range []any{nil, struct{}{}, map[string]string{}, new(int), []any{nil}, complex(1, 2), make(chan int)} {
		got, i := AppendCommand([]byte("before"), "SET", []string{"a", "b"}, bad)
		if string(got) != "before" || i != 2 {
			t.Errorf("%T: got %q, argument %d", bad, got, i)
		}
	}
}

func TestTheHeaderCountsWordsNotArguments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lists := rapid.SliceOfN(rapid.SliceOfN(rapid.String(), 0, 15), 0, 12).Draw(t, "lists")
		args, want := []any{"CMD"}, []string{"CMD"}
		for _, l := range lists {
			args, want = append(args, l), append(want, l...)
		}
		enc, bad := AppendCommand([]byte("xyz"), args...)
		all, err := parseAll(&Parser{}, enc[3:])
		if bad != -1 || err != nil || len(all) != 1 || len(all[0].Elems) != len(want) {
			t.Fatalf("%q: %v, %v", enc, all, err)
		}
		for i, e := range all[0].Elems {
			if e.Str != want[i] {
				t.Fatalf("word %d is %q, want %q", i, e.Str, want[i])
			}
		}
	})
}

func BenchmarkAppendCommand(b *testing.B) {
	key := strings.Repeat("k", 16)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = AppendCommand(buf[:0], "GET", key)
	}
}
