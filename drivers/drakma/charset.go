package drakma

import (
	"bytes"
	"mime"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/charset"
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

// detectCharset returns the name of the encoding of a text, and the text without a byte
// order mark. The name is "" if nothing says what it is.
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
			return string(m[1]), p
		}
	}
	return "", p
}

// metaCharset returns what a meta element of HTML says, "" if there is none. It is not that
// of charset.DetermineEncoding, which also guesses, and does not tell the difference.
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
			if strings.HasPrefix(strings.ToLower(name), "utf-16") {
				return "utf-8" // the element could not be read if it were true
			}
			if name != "" {
				return name
			}
		}
	}
}

// decodeText returns a text as UTF-8. name is the encoding, or "" to detect it.
func decodeText(p []byte, contentType, name string) (string, error) {
	if name == "" {
		name, p = detectCharset(p, contentType)
	} else {
		// A mark of the same encoding is no part of the text.
		if found, rest := detectCharset(p, ""); strings.EqualFold(found, name) {
			p = rest
		}
	}
	if name == "" {
		if utf8.Valid(p) {
			return string(p), nil
		}
		name = "windows-1252" // which is what browsers take
	}
	enc, canonical := charset.Lookup(name)
	switch {
	case enc == nil || canonical == "replacement":
		return "", &CharsetError{Charset: name, Reason: "unknown"}
	case canonical == "utf-8":
		if !utf8.Valid(p) {
			return "", &CharsetError{Charset: name, Reason: "the text is not valid in it"}
		}
		return string(p), nil
	}
	text, err := enc.NewDecoder().Bytes(p)
	if err != nil {
		return "", &CharsetError{Charset: name, Reason: err.Error()}
	}
	// A decoder writes U+FFFD for what is not valid. Few encodings can write it.
	if bytes.ContainsRune(text, utf8.RuneError) && !strings.HasPrefix(canonical, "utf-16") && canonical != "gb18030" {
		return "", &CharsetError{Charset: name, Reason: "the text is not valid in it"}
	}
	return string(text), nil
}
