package drakma

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/onloop/eventloop"
)

// A Response is an HTTP response, with the number of requests that it took.
type Response struct {
	// The response of the HTTP client. Its Redirects counts all redirects of the request.
	*eventloop.HTTPResponse

	// Attempts is the number of requests that were sent: 1, and one more for each redirect,
	// each retry and each response to a challenge.
	Attempts int

	charset string // of Request.Charset
}

// Text returns the body as UTF-8. The first of these determines its encoding:
// Request.Charset, a byte order mark, the field Content-Type, the meta element of HTML or the
// declaration of XML. Otherwise the encoding is UTF-8 if the text is valid UTF-8, else
// windows-1252. A text that is not valid in its encoding is a [*CharsetError].
//
// Text converts the whole body. [Request.Text] does so on another goroutine if the body
// is large.
func (r *Response) Text() (string, error) {
	s, err := decodeText(r.Body, r.Header("Content-Type"), r.charset)
	if e, ok := errors.AsType[*CharsetError](err); ok {
		e.Response = r
	}
	return s, err
}

// JSON decodes the body into v, as [json.Unmarshal] does. It ignores Content-Type. Its error
// is a [*DecodeError].
func (r *Response) JSON(v any) error {
	if err := json.Unmarshal(bytes.TrimPrefix(r.Body, []byte("\xEF\xBB\xBF")), v); err != nil {
		return &DecodeError{err, r}
	}
	return nil
}

// Cookies returns the cookies that the response sets, without malformed ones.
func (r *Response) Cookies() []*http.Cookie {
	h := http.Response{Header: http.Header{"Set-Cookie": r.Headers.Values("Set-Cookie")}}
	return h.Cookies()
}
