package smtpwire

import (
	"bufio"
	"bytes"
	"io"
	"net/textproto"
	"strings"
	"testing"
)

// stuff returns the form of the mail in DATA; the mail is given in pieces of n bytes.
func stuff(mail string, n int) string {
	var s Stuffer
	var out []byte
	for len(mail) > 0 {
		k := min(n, len(mail))
		out = s.Append(out, []byte(mail[:k]))
		mail = mail[k:]
	}
	return string(s.End(out))
}

func TestMailsAreStuffedInPiecesOfAnySize(t *testing.T) {
	for _, c := range []struct{ mail, want string }{
		{"", ".\r\n"},
		{"a", "a\r\n.\r\n"},
		{"a\r\n", "a\r\n.\r\n"},
		{"a\n", "a\r\n.\r\n"},
		{"a\r", "a\r\n.\r\n"},
		{".", "..\r\n.\r\n"},
		{".\r\n", "..\r\n.\r\n"},
		{"a\r\n.\r\nMAIL FROM:<b@y>\r\n", "a\r\n..\r\nMAIL FROM:<b@y>\r\n.\r\n"},
		{"a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\r.\rb", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\n.\r\nb", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\r\n.\nb", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\r\r\n\n\r.", "a\r\n\r\n\r\n\r\n..\r\n.\r\n"},
		{"a.b..", "a.b..\r\n.\r\n"},
	} {
		for n := 1; n <= len(c.mail)+1; n++ {
			if got := stuff(c.mail, n); got != c.want {
				t.Errorf("%q in pieces of %d: got %q, want %q", c.mail, n, got, c.want)
			}
		}
	}
}

func FuzzStuffer(f *testing.F) {
	f.Add("a\r\n.\r\n..b\n\r.", uint8(2))
	f.Add("\r", uint8(1))
	f.Add(".", uint8(1))
	f.Fuzz(func(t *testing.T, mail string, n uint8) {
		got := stuff(mail, int(n)+1)
		if at := stuff(mail, len(mail)+1); got != at {
			t.Fatalf("in pieces of %d: %q, at once %q", int(n)+1, got, at)
		}
		body, ok := strings.CutSuffix(got, ".\r\n")
		if !ok || strings.Contains("\r\n"+body, "\r\n.\r\n") {
			t.Errorf("%q does not end at its end only", got)
		}
		if rest := strings.ReplaceAll(got, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
			t.Errorf("%q has CR or LF alone", got)
		}

		// A server gets the mail, with CRLF line ends.
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(mail)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		server := textproto.NewReader(bufio.NewReader(strings.NewReader(got)))
		if received, err := io.ReadAll(server.DotReader()); err != nil || string(received) != want {
			t.Errorf("%q arrived as %q, want %q (%v)", mail, received, want, err)
		}

		var m Meter
		for p := []byte(mail); len(p) > 0; p = p[min(len(p), int(n)+1):] {
			m.Add(p[:min(len(p), int(n)+1)])
		}
		m.End()
		if size := int64(len(want) + strings.Count(want, "\n")); m.Size != size {
			t.Errorf("%q has size %d, want %d", mail, m.Size, size)
		}
		if m.EightBit == IsASCII(mail) {
			t.Errorf("EightBit is %v for %q", m.EightBit, mail)
		}
	})
}

func BenchmarkStuffer(b *testing.B) {
	mail := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), 1000)
	dst := make([]byte, 0, 2*len(mail))
	b.SetBytes(int64(len(mail)))
	for b.Loop() {
		var s Stuffer
		s.End(s.Append(dst[:0], mail))
	}
}
