package drakma

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/onloop/eventloop"
)

// ErrSent is the error of sending a [Request] a second time.
var ErrSent = errors.New("drakma: the request was sent before")

// A Request is a request in preparation. Its methods add to it and return it, so calls can
// be chained. The future reports an invalid argument. The methods that return a future send
// the request. Only one of them may be called, once. A Request must not be used by two
// goroutines at a time.
type Request struct {
	client *Client
	ctx    context.Context
	method string
	url    string
	err    error // the first mistake
	sent   bool

	query        []param
	form         url.Values // nil: none
	encoding     string     // of query and form; "" is UTF-8
	headers      eventloop.HTTPHeaders
	body         body
	user         string
	password     string
	digest       bool
	charset      string // of the response; "" is detected
	host         string
	maxRedirects int
	autoReferer  bool
	decompress   bool
	check        bool
	retry        Retry
	timeout      time.Duration
}

type param struct{ name, value string }

// setError records the first error.
func (r *Request) setError(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("drakma: "+format, args...)
	}
}

// Query adds a parameter to the query of the URL. The parameters are sent in the order of the
// calls, after those in the URL.
func (r *Request) Query(name, value string) *Request {
	r.query = append(r.query, param{name, value})
	return r
}

// Form makes the body a form with these values (application/x-www-form-urlencoded), sorted
// by name. If several methods that set a body are called, the last call counts.
func (r *Request) Form(values url.Values) *Request {
	r.body, r.form = nil, url.Values{}
	for name, vs := range values {
		r.form[name] = slices.Clone(vs)
	}
	return r
}

// Encoding sets the character encoding of the parameters of Query and Form, by its name
// in the WHATWG registry, such as "iso-8859-1". The default is UTF-8. A character that the
// encoding lacks is an error, a [*CharsetError].
func (r *Request) Encoding(name string) *Request {
	r.encoding = name
	return r
}

// Header sets a header field. It replaces a field of that name in [Options.Headers]. After a
// redirect, Authorization, Cookie, Host and Proxy-Authorization are not sent to another
// scheme, host or port.
func (r *Request) Header(name, value string) *Request {
	r.headers.Set(name, value)
	return r
}

// Accept sets the field Accept.
func (r *Request) Accept(mediaTypes string) *Request { return r.Header("Accept", mediaTypes) }

// UserAgent sets the field User-Agent.
func (r *Request) UserAgent(name string) *Request { return r.Header("User-Agent", name) }

// Host sets the field Host. The connection is still to the host of the URL. After a redirect,
// the field is not sent to another scheme, host or port.
func (r *Request) Host(host string) *Request {
	r.host = host
	return r
}

// BasicAuth authorizes the request with a user and a password (RFC 7617). Like all
// credentials, they are not sent to another scheme, host or port after a redirect.
func (r *Request) BasicAuth(user, password string) *Request {
	if strings.Contains(user, ":") {
		r.setError("the user %q of basic authorization contains a colon", user)
	}
	return r.Header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// Bearer authorizes the request with a token (RFC 6750).
func (r *Request) Bearer(token string) *Request {
	return r.Header("Authorization", "Bearer "+token)
}

// DigestAuth authorizes the request with a user and a password by the scheme Digest (RFC
// 7616). It supports MD5, SHA-256 and SHA-512-256, their -sess variants, and the qualities of
// protection auth, auth-int and, for old servers, none. The request is sent once to get the
// challenge of the server, unless the client has one from an earlier request to the server,
// and once more with the credentials. The client replaces a nonce that the server calls
// stale.
//
// A challenge that the client cannot respond to is a [*ChallengeError]. If the server
// rejects the credentials, or the body cannot be sent twice (see [Request.Body]), the
// response with status 401 is the result.
func (r *Request) DigestAuth(user, password string) *Request {
	r.user, r.password, r.digest = user, password, true
	return r
}

// Range requests the bytes from first to last, both included. A negative last requests the
// bytes from first to the end; a negative first requests that many bytes at the end. The
// response has status 206 if the server supports ranges, or else status 200 and the complete
// body.
func (r *Request) Range(first, last int64) *Request {
	switch {
	case first < 0:
		return r.Header("Range", "bytes="+strconv.FormatInt(first, 10))
	case last < 0:
		return r.Header("Range", fmt.Sprintf("bytes=%d-", first))
	case last < first:
		r.setError("the range %d-%d is empty", first, last)
	}
	return r.Header("Range", fmt.Sprintf("bytes=%d-%d", first, last))
}

// JSON makes the body the JSON encoding of v, which is encoded at once.
func (r *Request) JSON(v any) *Request {
	p, err := json.Marshal(v)
	if err != nil {
		r.setError("%w", err)
	}
	return r.setBody(bytesBody("application/json", p))
}

// Data makes p the body, with this media type. p must not change until the request has
// ended.
func (r *Request) Data(mediaType string, p []byte) *Request {
	return r.setBody(bytesBody(mediaType, p))
}

// Body sends the content of b, with this media type. A goroutine of the request reads b in
// chunks, as for [eventloop.HTTPOptions.BodyReader], and closes it if it is an io.Closer. To
// send data that the loop produces chunk by chunk, use the reader of [eventloop.NewPipe].
//
// Such a body can be sent only once: the request is not retried, does not follow a
// redirect with status 307 or 308, and does not respond to a challenge. A *bytes.Reader,
// *bytes.Buffer or *strings.Reader is read at once, and can be sent again.
func (r *Request) Body(mediaType string, b io.Reader) *Request {
	switch b := b.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		p, err := io.ReadAll(b)
		if err != nil {
			r.setError("%w", err)
		}
		return r.setBody(bytesBody(mediaType, p))
	case nil:
		r.setError("the body is nil")
		return r
	default:
		return r.setBody(&readerBody{mediaType: mediaType, r: b})
	}
}

// BodyFile sends the contents of a file, with this media type. A goroutine of the request
// reads the file. If the file changes in the meantime, the error matches [ErrFileChanged],
// and the server never gets the complete request.
func (r *Request) BodyFile(mediaType, path string) *Request {
	return r.setBody(&fileBody{mediaType: mediaType, file: File("", path)})
}

// Multipart makes the body a form of these parts (multipart/form-data), in this order. The
// request has a Content-Length unless one of the parts is a [Reader], of unknown length.
func (r *Request) Multipart(parts ...Part) *Request {
	for _, p := range parts {
		if strings.ContainsAny(p.mediaType, "\r\n\x00") {
			r.setError("%w: media type %q of the part %q", eventloop.ErrHTTPHeader, p.mediaType, p.name)
		}
	}
	return r.setBody(newMultipart(parts))
}

func (r *Request) setBody(b body) *Request {
	r.body, r.form = b, nil
	return r
}

// Charset sets the encoding of the response's text, by its name in the WHATWG registry. It
// overrides the encoding that the response declares. It applies to [Request.Text] and
// [Response.Text].
func (r *Request) Charset(name string) *Request {
	r.charset = name
	return r
}

// Timeout sets the maximum time of the request, including authorization, redirects, retries
// and the delays between them. After it, the request fails with an error that matches
// [eventloop.ErrTimeout]. If a retry would come too late, the last response or error is the
// result at once. Zero or negative: no limit, except those of [Options.Client].
func (r *Request) Timeout(d time.Duration) *Request {
	r.timeout = d
	return r
}

// Redirects sets the maximum number of redirects to follow: 10 by default. One more is an
// error that matches [eventloop.ErrHTTPRedirects]. With 0 or less, the redirect response
// is the result. Status 301, 302 and 303 change methods other than HEAD to GET, without a
// body; 307 and 308 repeat the request unchanged. A redirect without a valid Location, or
// to a scheme other than http and https, is the result.
func (r *Request) Redirects(n int) *Request {
	r.maxRedirects = max(n, 0)
	return r
}

// AutoReferer sets the field Referer after a redirect to the URL that redirected, without
// user and password. A redirect from https to http gets no such field.
func (r *Request) AutoReferer() *Request {
	r.autoReferer = true
	return r
}

// Decompress sets whether the server may compress the response. The client decompresses it.
// The default is true.
func (r *Request) Decompress(on bool) *Request {
	r.decompress = on
	return r
}

// Check makes a status of 400 or more a [*StatusError]. Text, Bytes, Into and Save imply it.
func (r *Request) Check() *Request {
	r.check = true
	return r
}

// Retry configures the retries of this request. It replaces [Options.Retry].
func (r *Request) Retry(retry Retry) *Request {
	r.retry = retry
	return r
}

// target returns the URL with the query.
func (r *Request) target() (*url.URL, error) {
	u, err := parseURL(r.url)
	if err != nil {
		return nil, invalidURL(err)
	}
	if r.client.base != nil {
		u = r.client.base.ResolveReference(u)
	}
	if !isHTTP(u) {
		return nil, fmt.Errorf("drakma: %q is not an absolute http or https URL", u.Redacted())
	}
	if len(r.query) == 0 {
		return u, nil
	}
	encoded := make([]string, 0, len(r.query)+1)
	if u.RawQuery != "" {
		encoded = append(encoded, u.RawQuery)
	}
	for _, q := range r.query {
		s, err := encodeParam(r.encoding, q)
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, s)
	}
	u.RawQuery = strings.Join(encoded, "&")
	return u, nil
}

// parseURL is like url.Parse, but also escapes all bytes that the HTTP client escapes when it
// sends the URL. So RequestURI of the URL is exactly the URI that the server receives, which
// digest authorization must hash. Package net/url would undo the escapes in a path that also
// has bytes that need escaping: "/a%2F|" would become "/a/%7C".
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.RawPath == "" {
		u.RawPath = u.EscapedPath()
	}
	u.RawPath, u.RawQuery = escapeURI(u.RawPath), escapeURI(u.RawQuery)
	return u, nil
}

// escapeURI escapes the bytes that a URI must not contain (RFC 3986).
func escapeURI(s string) string {
	if strings.IndexFunc(s, notInURI) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if notInURI(rune(s[i])) {
			fmt.Fprintf(&b, "%%%02X", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func notInURI(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", c)
}

// invalidURL returns an error of url.Parse without the URL, which may contain a password.
func invalidURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return fmt.Errorf("drakma: the URL is not valid: %w", err)
}

// formBody returns the body of Form.
func (r *Request) formBody() (body, error) {
	var pairs []string
	names := make([]string, 0, len(r.form))
	for name := range r.form {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range r.form[name] {
			s, err := encodeParam(r.encoding, param{name, value})
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, s)
		}
	}
	return bytesBody("application/x-www-form-urlencoded", []byte(strings.Join(pairs, "&"))), nil
}

// encodeParam returns the encoded form of a parameter.
func encodeParam(encoding string, p param) (string, error) {
	if encoding == "" {
		return url.QueryEscape(p.name) + "=" + url.QueryEscape(p.value), nil
	}
	enc, _ := lookup(encoding)
	if enc == nil {
		return "", &CharsetError{Charset: encoding, Reason: "unknown"}
	}
	var out [2]string
	for i, s := range []string{p.name, p.value} {
		b, err := enc.NewEncoder().String(s)
		if err != nil || !utf8.ValidString(s) { // encoders replace invalid UTF-8
			return "", &CharsetError{Charset: encoding, Reason: fmt.Sprintf("cannot encode %q", s)}
		}
		out[i] = url.QueryEscape(b)
	}
	return out[0] + "=" + out[1], nil
}
