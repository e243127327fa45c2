package drakma

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/onloop/eventloop"
)

func TestDecodeText(t *testing.T) {
	for _, c := range []struct{ in, contentType, charset, want string }{
		{"", "", "", ""},
		{"Grüße", "", "", "Grüße"},
		{"Gr\xfc\xdfe", "", "", "Grüße"}, // windows-1252
		{"\x80", "text/plain", "", "€"},
		{"Gr\xfc\xdfe", "text/plain; charset=ISO-8859-1", "", "Grüße"},
		{"Gr\xfc\xdfe", `text/plain; charset="latin1"`, "", "Grüße"},
		{"\xEF\xBB\xBFü", "text/plain; charset=iso-8859-1", "", "ü"},
		{"\xFF\xFEa\x00", "", "", "a"},
		{"\xFE\xFF\x00a", "text/plain; charset=utf-8", "", "a"},
		{"\x00a", "text/plain; charset=utf-16be", "", "a"},
		{"\x93\xfa", "text/plain; charset=Shift_JIS", "", "日"},
		{"<meta charset=koi8-r>\xc1", "text/html", "", "<meta charset=koi8-r>а"},
		{"<meta charset=windows-1252>\xc3\xbc", "text/html", "", "<meta charset=windows-1252>Ã¼"},
		{`<meta http-equiv="content-type" content="text/html; charset=koi8-r">` + "\xc1", "text/html", "", `<meta http-equiv="content-type" content="text/html; charset=koi8-r">а`},
		{"<!-- <meta charset=koi8-r> -->ü", "text/html", "", "<!-- <meta charset=koi8-r> -->ü"},
		{"<meta charset=utf-16>ü", "text/html", "", "<meta charset=utf-16>ü"},
		{"<meta charset=koi8-r>ü", "text/html; charset=utf-8", "", "<meta charset=koi8-r>ü"},
		{"<meta charset=koi8-r>ü", "text/plain", "", "<meta charset=koi8-r>ü"},
		{"<?xml version='1.0' encoding='koi8-r'?>\xc1", "application/rss+xml", "", "<?xml version='1.0' encoding='koi8-r'?>а"},
		{"\xc1", "text/plain; charset=utf-8", "koi8-r", "а"},
		{"\xEF\xBB\xBFü", "", "utf-8", "ü"},
		{"ü", "text/plain; charset", "", "ü"},
		{"\uFFFD", "", "", "\uFFFD"},
	} {
		got, err := decodeText([]byte(c.in), c.contentType, c.charset)
		if got != c.want || err != nil {
			t.Errorf("%q, %s, %s: %q, %v", c.in, c.contentType, c.charset, got, err)
		}
	}
}

// The response claims an encoding that its body does not have. The body is not lost.
func TestACharsetThatLiesIsAnError(t *testing.T) {
	for _, c := range []struct{ in, contentType, charset string }{
		{"Gr\xfc\xdfe", "text/plain; charset=utf-8", ""},
		{"\xEF\xBB\xBF\xff", "", ""},
		{"\xff\xff", "text/plain; charset=shift_jis", ""},
		{"\x80", "text/plain; charset=euc-kr", ""},
		{"x", "text/plain; charset=klingon", ""},
		{"x", "text/plain; charset=iso-2022-kr", ""}, // not for the web: see WHATWG, "replacement"
		{"x", "", "klingon"},
		{strings.Repeat("x", maxInline) + "\xff", "text/plain; charset=utf-8", ""},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", c.contentType)
			w.Write([]byte(c.in))
		})
		_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
			return d.Get(ctx, s.URL).Charset(c.charset).Text()
		})
		e, ok := errors.AsType[*CharsetError](err)
		if !ok || string(e.Response.Body) != c.in || e.Charset == "" || e.Error() == "" {
			t.Errorf("%.20q, %s: the error is %v", c.in, c.contentType, err)
		}
	}
}

func FuzzDecodeText(f *testing.F) {
	f.Add([]byte("<meta charset=koi8-r>\xc1"), "text/html", "")
	f.Add([]byte("\xFF\xFEa"), "text/plain; charset=big5", "latin1")
	f.Fuzz(func(t *testing.T, p []byte, contentType, name string) {
		s, err := decodeText(p, contentType, name)
		if err == nil && !utf8.ValidString(s) {
			t.Errorf("%q is not valid UTF-8", s)
		}
	})
}
