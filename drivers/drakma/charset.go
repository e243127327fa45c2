package drakma

import (
	"bytes"
	"mime"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/transform"
)

var byteOrderMarks = []struct {
	mark []byte
	name string
}{
	{[]byte("\xEF\xBB\xBF"), "utf-8"},
	{[]byte("\xFE\xFF"), "utf-16be"},
	{[]byte("\xFF\xFE"), "utf-16le"},
}

// xmlEncoding finds the encoding of an XML declaration.
var xmlEncoding = regexp.MustCompile(`^<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']`)

// detectCharset returns the declared name of a text's encoding, or "", and the text without
// a byte order mark.
func detectCharset(p []byte, contentType string) (string, []byte) {
	for _, bom := range byteOrderMarks {
		if rest, ok := bytes.CutPrefix(p, bom.mark); ok {
			return bom.name, rest
		}
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err == nil && params["charset"] != "" {
		return params["charset"], p
	}
	switch {
	case mediaType == "text/html" || mediaType == "application/xhtml+xml":
		return metaCharset(p[:min(len(p), 1024)]), p
	case mediaType == "text/xml" || mediaType == "application/xml" || strings.HasSuffix(mediaType, "+xml"):
		if m := xmlEncoding.FindSubmatch(p[:min(len(p), 1024)]); m != nil {
			return readable(string(m[1])), p
		}
	}
	return "", p
}

// metaCharset returns the encoding that a meta element of HTML declares, or "". The caller
// cannot use DetermineEncoding of package charset: it also guesses, without saying so.
func metaCharset(p []byte) string {
	for z := html.NewTokenizer(bytes.NewReader(p)); ; {
		switch z.Next() {
		case html.ErrorToken:
			return ""
		case html.StartTagToken, html.SelfClosingTagToken:
			t := z.Token()
			if t.Data != "meta" {
				continue
			}
			attr := make(map[string]string)
			for _, a := range t.Attr {
				attr[a.Key] = a.Val
			}
			name := attr["charset"]
			if name == "" && strings.EqualFold(attr["http-equiv"], "Content-Type") {
				_, params, _ := mime.ParseMediaType(attr["content"])
				name = params["charset"]
			}
			if name != "" {
				return readable(name)
			}
		}
	}
}

// readable returns the encoding of a text that declares it in ASCII. Such a text is not
// UTF-16, even if it declares that.
func readable(name string) string {
	if isUTF16(name) {
		return "utf-8"
	}
	return name
}

// lookup returns an encoding by any of its names in the WHATWG registry, with its canonical
// name. It returns nil for an unknown name. The encoders of charset.Lookup would replace
// characters that they cannot encode by references such as "&#19990;".
func lookup(name string) (enc encoding.Encoding, canonical string) {
	enc, err := htmlindex.Get(name)
	if err != nil {
		return nil, ""
	}
	canonical, err = htmlindex.Name(enc)
	if err != nil || canonical == "replacement" { // its decoder rejects every text
		return nil, ""
	}
	return enc, canonical
}

// isUTF16 reports whether name means UTF-16, in either byte order.
func isUTF16(name string) bool {
	_, canonical := lookup(name)
	return strings.HasPrefix(canonical, "utf-16")
}

// cutMark removes a byte order mark of the encoding that the caller has named, and returns
// the name of the encoding. If the name does not include the byte order, as "utf-16" does
// not, the mark decides.
func cutMark(p []byte, name string) (string, []byte) {
	_, canonical := lookup(name)
	mark, rest := detectCharset(p, "")
	switch open := !strings.EqualFold(strings.TrimSpace(name), canonical); {
	case mark == "":
	case mark == canonical:
		return name, rest
	case open && canonical == "utf-16le" && mark == "utf-16be":
		return mark, rest
	}
	return name, p
}

// decodeText returns a text as UTF-8. name is the encoding, or "" to detect it.
func decodeText(p []byte, contentType, name string) (string, error) {
	if name == "" {
		name, p = detectCharset(p, contentType)
	} else {
		name, p = cutMark(p, name)
	}
	if name == "" {
		if utf8.Valid(p) {
			return string(p), nil
		}
		name = "windows-1252" // the default of browsers
	}
	enc, canonical := lookup(name)
	switch {
	case enc == nil:
		return "", &CharsetError{Charset: name, Reason: "unknown"}
	case canonical == "utf-8":
		if !utf8.Valid(p) {
			return "", &CharsetError{Charset: name, Reason: invalidText}
		}
		return string(p), nil
	}
	text, err := enc.NewDecoder().Bytes(p)
	if err != nil {
		return "", &CharsetError{Charset: name, Reason: err.Error()}
	}
	if bytes.ContainsRune(text, utf8.RuneError) && !isGenuine(enc, p) {
		return "", &CharsetError{Charset: name, Reason: invalidText}
	}
	return string(text), nil
}

const invalidText = "the text is not valid in this encoding"

// isGenuine reports whether each U+FFFD in the decoded text is in the original, too. A
// decoder also writes U+FFFD for invalid bytes. Few encodings can encode it: UTF-16 and
// GB 18030.
func isGenuine(enc encoding.Encoding, p []byte) bool {
	genuine, err := enc.NewEncoder().Bytes([]byte("\uFFFD"))
	if err != nil {
		return false
	}
	// There is room for U+FFFD and nothing else, so p[:n] is its source.
	var out [utf8.UTFMax]byte
	for d := enc.NewDecoder(); len(p) > 0; {
		room := out[:len("\uFFFD")]
		m, n, err := d.Transform(room, p, true)
		if m == 0 && err == transform.ErrShortDst {
			m, n, err = d.Transform(out[:], p, true) // a rune of four bytes
		}
		if err != nil && err != transform.ErrShortDst || n == 0 {
			return false
		}
		if string(out[:m]) == "\uFFFD" && !bytes.Equal(p[:n], genuine) {
			return false
		}
		p = p[n:]
	}
	return true
}
