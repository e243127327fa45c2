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
		{"\xEF\xBB\xBFü", "", "utf8", "ü"}, // another name of utf-8
		{"\xEF\xBB\xBFü", "", " UTF-8 ", "ü"},
		{"ü", `text/plain; charset=" utf-8 "`, "", "ü"},
		{"\xFE\xFF\x00a", "", "utf-16", "a"}, // the mark says the order of the bytes
		{"\xFF\xFEa\x00", "", "utf-16", "a"},
		{"\xFE\xFF\x00a", "", "UCS-2", "a"},
		{"a\x00", "", "utf-16", "a"},
		{"\xFF\xFEa\x00", "", "utf-16le", "a"},
		{"\xFE\xFF\x00a", "", "utf-16be", "a"},
		{"\xFE\xFF\x00a", "", "utf-16le", "\uFFFE\u6100"}, // the caller knows better
		{"\x3D\xD8\x00\xDE\xFD\xFFa\x00", "text/plain; charset=utf-16le", "", "😀\uFFFDa"},
		{"\xFF\xFD\xD8\x3D\xDE\x00", "text/plain; charset=utf-16be", "", "\uFFFD😀"},
		{"a\x84\x31\xA4\x37b", "text/plain; charset=gb18030", "", "a\uFFFDb"},
		{"\xCA\xC0\xBD\xE7", "text/plain; charset=gb2312", "", "世界"},
		{"<meta charset=unicode>ü", "text/html", "", "<meta charset=unicode>ü"},
		{"<?xml version='1.0' encoding='UTF-16'?>ü", "text/xml", "", "<?xml version='1.0' encoding='UTF-16'?>ü"},
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
		{"a\x00b", "text/plain; charset=utf-16le", ""}, // half a character
		{"\xFF\xFEa\x00b", "", ""},
		{"\x00\xD8a\x00", "text/plain; charset=utf-16le", ""}, // half a pair
		{"a\x00\x00\xDC", "text/plain; charset=utf-16le", ""},
		{"\xD8\x00", "text/plain; charset=utf-16be", ""},
		{"\xFF\xFD\xD8\x00", "text/plain; charset=utf-16be", ""},
		{"\x84\x31\xA4\x37\xFF", "text/plain; charset=gb18030", ""},
		{"\xFF", "text/plain; charset=gbk", ""},
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

// What an encoding does not have is an error, not a reference such as in HTML.
func TestEncodeParam(t *testing.T) {
	for _, c := range []struct{ encoding, in, want string }{
		{"", "ü 世", "a=%C3%BC+%E4%B8%96"},
		{"utf8", "ü", "a=%C3%BC"},
		{"latin1", "ü", "a=%FC"},
		{"latin1", "世", ""},
		{"Shift_JIS", "日", "a=%93%FA"},
		{"shift_jis", "ü", ""},
		{"gb18030", "世", "a=%CA%C0"},
		{"latin1", "\xff", ""}, // not UTF-8
		{"utf-8", "\xff", ""},
		{"klingon", "x", ""},
		{"iso-2022-kr", "x", ""},
	} {
		got, err := encodeParam(c.encoding, param{"a", c.in})
		_, ok := errors.AsType[*CharsetError](err)
		if got != c.want || ok != (c.want == "") {
			t.Errorf("%s, %q: %s, %v", c.encoding, c.in, got, err)
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
