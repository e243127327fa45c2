package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCommandsAreEncoded(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{string(AppendPut(nil, 1, 2, 3, []byte("body\r\n"))), "put 1 2 3 6\r\nbody\r\n\r\n"},
		{string(Append(nil, "stats")), "stats\r\n"},
		{string(Append([]byte("x"), "release", 1, 1<<64-1, 0)), "xrelease 1 18446744073709551615 0\r\n"},
		{string(AppendTube(nil, "use", "mails")), "use mails\r\n"},
		{string(AppendTube(nil, "pause-tube", "mails", 7)), "pause-tube mails 7\r\n"},
	} {
		if c.got != c.want {
			t.Errorf("command %q, want %q", c.got, c.want)
		}
	}
}

func TestNamesOfTubesAreChecked(t *testing.T) {
	for name, want := range map[string]bool{
		"default": true, "a-+/;.$_()Z9": true, strings.Repeat("x", 200): true,
		"": false, "-a": false, strings.Repeat("x", 201): false, "a b": false, "a\r\nb": false, "ä": false, "a\x00": false,
	} {
		if got := ValidTube(name); got != want {
			t.Errorf("ValidTube(%q) = %v, want %v", name, got, want)
		}
	}
}

// replies are one of every form, as the server writes them.
var replies = map[string]Reply{
	"INSERTED 7\r\n":            {Kind: Inserted, ID: 7},
	"BURIED 7\r\n":              {Kind: Buried, ID: 7},
	"BURIED\r\n":                {Kind: Buried},
	"USING a.b\r\n":             {Kind: Using, Tube: "a.b"},
	"RESERVED 9 5\r\nhello\r\n": {Kind: Reserved, ID: 9, Body: []byte("hello")},
	"RESERVED 9 0\r\n\r\n":      {Kind: Reserved, ID: 9, Body: []byte{}},
	"FOUND 9 4\r\n\r\n\r\n\r\n": {Kind: Found, ID: 9, Body: []byte("\r\n\r\n")},
	"WATCHING 2\r\n":            {Kind: Watching, Count: 2},
	"KICKED 3\r\n":              {Kind: Kicked, Count: 3},
	"KICKED\r\n":                {Kind: Kicked},
	"OK 6\r\n---\na\n\r\n":      {Kind: OK, Body: []byte("---\na\n")},
	"DEADLINE_SOON\r\n":         {Kind: DeadlineSoon},
	"TIMED_OUT\r\n":             {Kind: TimedOut},
	"DELETED\r\n":               {Kind: Deleted},
	"RELEASED\r\n":              {Kind: Released},
	"TOUCHED\r\n":               {Kind: Touched},
	"NOT_IGNORED\r\n":           {Kind: NotIgnored},
	"PAUSED\r\n":                {Kind: Paused},
	"NOT_FOUND\r\n":             {Kind: NotFound},
	"DRAINING\r\n":              {Kind: Draining},
	"JOB_TOO_BIG\r\n":           {Kind: JobTooBig},
	"EXPECTED_CRLF\r\n":         {Kind: ExpectedCRLF},
	"OUT_OF_MEMORY\r\n":         {Kind: OutOfMemory},
	"INTERNAL_ERROR\r\n":        {Kind: InternalError},
	"BAD_FORMAT\r\n":            {Kind: BadFormat},
	"UNKNOWN_COMMAND\r\n":       {Kind: UnknownCommand},
	"INSERTED 0" + "0123\r\n":   {Kind: Inserted, ID: 123},
	"USING " + strings.Repeat("t", 200) + "\r\n": {Kind: Using, Tube: strings.Repeat("t", 200)},
}

// parse decodes text that arrives in chunks.
func parse(p *Parser, text string, chunk func(left int) int) (all []Reply, err error) {
	for len(text) > 0 {
		data := []byte(text[:chunk(len(text))])
		text = text[len(data):]
		for len(data) > 0 {
			r, n, ok, err := p.Next(data)
			if err != nil {
				return all, err
			}
			if !ok && n != len(data) {
				return all, fmt.Errorf("an incomplete reply took %d bytes of %d", n, len(data))
			}
			data = data[n:]
			if ok {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

func same(a, b Reply) bool {
	return a.Kind == b.Kind && a.ID == b.ID && a.Count == b.Count && a.Tube == b.Tube &&
		bytes.Equal(a.Body, b.Body) && (a.Body == nil) == (b.Body == nil)
}

func TestRepliesAreDecodedHoweverTheyAreCut(t *testing.T) {
	var texts []string
	for text := range replies {
		texts = append(texts, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		sent := rapid.SliceOfN(rapid.SampledFrom(texts), 1, 10).Draw(t, "replies")
		most := rapid.IntRange(1, 20).Draw(t, "chunk")
		got, err := parse(&Parser{Limit: 6}, strings.Join(sent, ""), func(left int) int { return min(left, most) })
		if err != nil || len(got) != len(sent) {
			t.Fatalf("%d replies, %v, want %d", len(got), err, len(sent))
		}
		for i, text := range sent {
			if !same(got[i], replies[text]) {
				t.Fatalf("reply %q decoded as %+v", text, got[i])
			}
		}
	})
}

func TestGarbageIsAnError(t *testing.T) {
	for _, text := range []string{
		"\r\n", "\n", "HELLO\r\n", "DELETED\n", "DELETED \r\n", "DELETED 1\r\n", "INSERTED\r\n", "INSERTED x\r\n",
		"INSERTED -1\r\n", "INSERTED +1\r\n", "INSERTED 18446744073709551616\r\n", "USING\r\n", "USING a b\r\n",
		"OK\r\n", "OK -1\r\n", "OK 99999999999\r\n", "RESERVED 1\r\n", "RESERVED 1 x\r\n", "RESERVED x 1\r\n",
		"OK 1\r\nab\r\n", "OK 0\r\n\n\r", strings.Repeat("x", 300), "USING " + strings.Repeat("t", 300) + "\r\n",
		"BURIED \r\n", "KICKED x\r\n",
	} {
		for _, chunk := range []int{1, 1000} {
			p := &Parser{Limit: 10}
			if all, err := parse(p, text, func(left int) int { return min(left, chunk) }); err == nil {
				t.Errorf("%q in chunks of %d decoded as %+v", text, chunk, all)
			} else if _, _, ok, again := p.Next([]byte("DELETED\r\n")); ok || again != err {
				t.Errorf("after an error Next returned %v, %v", ok, again)
			}
		}
	}
}

func TestABodyOverTheLimitIsAnError(t *testing.T) {
	p := &Parser{Limit: 4}
	if _, _, _, err := p.Next([]byte("OK 5\r\n")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error = %v, want %v", err, ErrTooLarge)
	}
}

func TestAnAnnouncedBodyIsNotAllocatedBeforeItArrives(t *testing.T) {
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			p := &Parser{}
			p.Next([]byte("OK 1000000000\r\n"))
		}
	}).AllocedBytesPerOp()
	if allocated > 10_000 {
		t.Errorf("an announcement allocates %d bytes", allocated)
	}
}

// The parser decodes the same whatever the chunks, and never takes more than it is given.
func FuzzParser(f *testing.F) {
	for text := range replies {
		f.Add([]byte(text), uint8(3))
		f.Add([]byte(text+text), uint8(1))
	}
	f.Add([]byte("OK 3\r\nab\r\n"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint8) {
		size := int(chunk) + 1
		whole, wholeErr := parse(&Parser{Limit: 1000}, string(data), func(left int) int { return left })
		cut, cutErr := parse(&Parser{Limit: 1000}, string(data), func(left int) int { return min(left, size) })
		if (wholeErr == nil) != (cutErr == nil) || len(whole) != len(cut) {
			t.Fatalf("%d replies and %v in one piece, %d and %v in pieces of %d", len(whole), wholeErr, len(cut), cutErr, size)
		}
		for i := range whole {
			if !same(whole[i], cut[i]) {
				t.Fatalf("%+v in one piece, %+v in pieces", whole[i], cut[i])
			}
		}
	})
}
