package smtpwire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// parse returns all replies in s, which is given to the parser in pieces of n bytes.
func parse(s string, n, most int) (rs []Reply, rest int, err error) {
	p := Parser{Max: most}
	for len(s) > 0 {
		k := min(n, len(s))
		p.Write([]byte(s[:k]))
		s = s[k:]
		for {
			r, ok, err := p.Next()
			if err != nil {
				return rs, 0, err
			}
			if !ok {
				break
			}
			rs = append(rs, r)
		}
	}
	return rs, p.Buffered(), nil
}

func TestRepliesAreParsedInPiecesOfAnySize(t *testing.T) {
	const in = "220 mail.example.com ESMTP\r\n" +
		"250-mail.example.com\r\n250-SIZE 1000\r\n250 PIPELINING\r\n" +
		"250 2.1.0 ok\r\n" +
		"550-5.1.1 no such\r\n550 5.1.1 user\r\n" +
		"354\r\n" +
		"421 4.4.2 bye\n" +
		"250 2.0.0\r\n" +
		"250 5.0.0 of another class\r\n" +
		"250 2.0.0.0 is not a code\r\n" +
		"25"
	want := []Reply{
		{220, Enhanced{}, []string{"mail.example.com ESMTP"}},
		{250, Enhanced{}, []string{"mail.example.com", "SIZE 1000", "PIPELINING"}},
		{250, Enhanced{2, 1, 0}, []string{"ok"}},
		{550, Enhanced{5, 1, 1}, []string{"no such", "user"}},
		{354, Enhanced{}, []string{""}},
		{421, Enhanced{4, 4, 2}, []string{"bye"}},
		{250, Enhanced{2, 0, 0}, []string{""}},
		{250, Enhanced{}, []string{"5.0.0 of another class"}},
		{250, Enhanced{}, []string{"2.0.0.0 is not a code"}},
	}
	for n := 1; n <= len(in); n++ {
		got, rest, err := parse(in, n, 1000)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("in pieces of %d: got %+v, %v, want %+v", n, got, err, want)
		}
		if rest != len("25") {
			t.Fatalf("in pieces of %d: %d bytes are buffered, want 2", n, rest)
		}
	}
}

func TestBytesThatAreNoReplyAreMalformed(t *testing.T) {
	for _, in := range []string{
		"\r\n", "25\r\n", "2500 ok\r\n", "abc\r\n", "199 low\r\n", "600 high\r\n",
		"250_ok\r\n", "250-a\r\n251 b\r\n", "250-a\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n",
		" 250 ok\r\n", "\x15\x03\x01\x00\x02\n",
	} {
		for n := 1; n <= len(in); n++ {
			if _, _, err := parse(in, n, 1000); !errors.Is(err, ErrMalformed) {
				t.Errorf("%q in pieces of %d: got %v, want ErrMalformed", in, n, err)
			}
		}
	}
}

func TestAReplyMayHaveMaxBytesAndNoMore(t *testing.T) {
	const in = "250-abcdef\r\n250 ghijkl\r\n"
	for n := 1; n <= len(in); n++ {
		if rs, _, err := parse(in+in, n, len(in)); err != nil || len(rs) != 2 {
			t.Errorf("Max %d in pieces of %d: got %d replies and %v, want 2", len(in), n, len(rs), err)
		}
		if _, _, err := parse(in, n, len(in)-1); err != ErrTooLarge {
			t.Errorf("Max %d in pieces of %d: got %v, want ErrTooLarge", len(in)-1, n, err)
		}
	}
	if _, _, err := parse(strings.Repeat("2", 5000), 100, 1000); err != ErrTooLarge {
		t.Errorf("a line without an end: got %v, want ErrTooLarge", err)
	}
	if _, _, err := parse(strings.Repeat("250-x\r\n", 5000), 100, 1000); err != ErrTooLarge {
		t.Errorf("lines without an end: got %v, want ErrTooLarge", err)
	}
}

func TestExtensionsAreRead(t *testing.T) {
	r := Reply{Code: 250, Lines: []string{
		"PIPELINING is the name of this host", "size 35882577", "8bitmime", "STARTTLS",
		"ENHANCEDSTATUSCODES", "AUTH plain LOGIN", "SMTPUTF8", "DSN", "REQUIRETLS", "", "X-UNKNOWN 1 2",
	}}
	want := Extensions{StartTLS: true, EightBit: true, UTF8: true, Enhanced: true, DSN: true,
		RequireTLS: true, Size: true, MaxSize: 35882577, Auth: []string{"PLAIN", "LOGIN"}}
	if got := ParseExtensions(&r); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, line := range []string{"SIZE", "SIZE 0", "SIZE -1", "SIZE 99999999999999999999", "SIZE x"} {
		r := Reply{Code: 250, Lines: []string{"host", line, "PIPELINING"}}
		if got := ParseExtensions(&r); !got.Size || got.MaxSize != 0 || !got.Pipelining {
			t.Errorf("%q: got %+v, want a SIZE without limit", line, got)
		}
	}
	if got := ParseExtensions(&Reply{}); !reflect.DeepEqual(got, Extensions{}) {
		t.Errorf("of an empty reply: got %+v", got)
	}
}

func FuzzParser(f *testing.F) {
	f.Add("250-a\r\n250 b\r\n354 go\r\n", uint8(3))
	f.Add("550 5.1.1 no\n421", uint8(1))
	f.Add("250-a\r\n251 b\r\n", uint8(7))
	f.Fuzz(func(t *testing.T, in string, n uint8) {
		const most = 200
		want, wantRest, wantErr := parse(in, len(in)+1, most)
		got, rest, err := parse(in, int(n)+1, most)
		if !reflect.DeepEqual(got, want) || rest != wantRest || (err == nil) != (wantErr == nil) {
			t.Errorf("in pieces of %d: %+v, %d, %v; at once: %+v, %d, %v", int(n)+1, got, rest, err, want, wantRest, wantErr)
		}
		for _, r := range got {
			if r.Code < 200 || r.Code > 599 || len(r.Lines) == 0 || strings.Contains(r.Text(), "\r\n") {
				t.Errorf("impossible reply %+v", r)
			}
			ParseExtensions(&r)
			Challenge(&r)
		}
	})
}
