package eventloop

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/valyala/fasthttp"
)

// TaskHandler returns a handler for [Loop.ListenHTTP], [HTTPHandler] and the like that
// runs f as a task for each request. The context of the task is that of the request,
// which ends with the task rather than with the response.
//
// When f returns, the response is over. Without a response the client gets a 500; a
// stream that is still open is closed if f returned nil, and cut otherwise, so that
// the client notices. That f returned an error, gave no response, or panicked (with
// Config.CatchPanics) goes to HTTPServerConfig.OnEvent, as an [*OpError] with the
// request; without OnEvent to Config.EventHandler, and otherwise to the log. An error
// after the client has left is not reported if it tells of that: it is information
// (see [IsInfo]), net.ErrClosed, or the end of the context.
//
// TaskHandler panics if f is nil.
func TaskHandler(f func(t *Task, r *HTTPRequest) error) func(r *HTTPRequest) {
	if f == nil {
		panic(errNilFunc)
	}
	return func(r *HTTPRequest) {
		r.mu.Lock()
		r.extra().ctxLasts = true
		r.mu.Unlock()
		run := func(t *Task) error { return f(t, r) }
		r.loop.startTask(r.Context(), run, origin{fn: funcPC(f)}).Then(func(_ struct{}, err error) { r.taskEnded(err) })
	}
}

// taskEnded completes the response after the task of the request, which returned err.
// On the loop.
func (r *HTTPRequest) taskEnded(err error) {
	r.mu.Lock()
	w, open, served := r.writer, !r.over(), r.x.served != nil
	r.mu.Unlock()
	switch {
	case !open, served:
	case w == nil:
		r.respondError(fasthttp.StatusInternalServerError)
		err = cmp.Or(err, errNoResponse)
	case err == nil:
		err = w.Close()
	default:
		w.Abort()
	}
	switch {
	case err == nil, r.tellsOfLeaving(err):
	case isPanic(err):
		r.event(err)
	default:
		r.event(r.opError(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !served { // whose context ends with its handler
		r.x.ctxLasts = false
		r.x.cancel(nil)
	}
}

// tellsOfLeaving reports whether err is how a task hears that its client has left.
func (r *HTTPRequest) tellsOfLeaving(err error) bool {
	r.mu.Lock()
	left, cause := r.x.abort != nil, context.Cause(r.x.ctx)
	r.mu.Unlock()
	return left && !isPanic(err) && (IsInfo(err) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.Canceled) || cause != nil && errors.Is(err, cause))
}

var errNoResponse = errors.New("the task ended without a response")

// respondError answers with the text of status.
func (r *HTTPRequest) respondError(status int) error {
	return r.RespondText(status, fasthttp.StatusMessage(status)+"\n")
}

// RespondText is [HTTPRequest.Respond] with text as text/plain in UTF-8.
func (r *HTTPRequest) RespondText(status int, text string) error {
	return r.Respond(status, textPlain, []byte(text))
}

// RespondJSON is [HTTPRequest.Respond] with v as application/json. If v cannot be
// encoded it returns the error of package encoding/json, and the request can still be
// answered.
func (r *HTTPRequest) RespondJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.Respond(status, applicationJSON, body)
}

var (
	textPlain       = HTTPHeaders{{"Content-Type", "text/plain; charset=utf-8"}}
	applicationJSON = HTTPHeaders{{"Content-Type", "application/json"}}
)

// QueryValues returns the values that the query of the target has, decoded. What is
// malformed is left out, as by [url.URL.Query].
func (r *HTTPRequest) QueryValues() url.Values {
	values, _ := url.ParseQuery(r.Query())
	return values
}

// FormValues returns the values of a form in the body, which must be of the type
// application/x-www-form-urlencoded; otherwise, and if the body is a stream
// ([HTTPRequest.HasBodyStream]), it returns an error. If parts of the form are
// malformed, it returns the others together with an error.
// [HTTPRequest.FastHTTP] has a parser for multipart/form-data.
func (r *HTTPRequest) FormValues() (url.Values, error) {
	const form = "application/x-www-form-urlencoded"
	switch media, _, err := mime.ParseMediaType(r.Header("Content-Type")); {
	case err != nil || media != form:
		return nil, fmt.Errorf("eventloop: the body is not of type %s but %q", form, r.Header("Content-Type"))
	case r.HasBodyStream():
		return nil, errors.New("eventloop: the body of the form is a stream")
	}
	return url.ParseQuery(string(r.Body()))
}

// Cookies returns the cookies of the request, in order. What is malformed is left out, as
// by [http.Request.Cookies].
func (r *HTTPRequest) Cookies() []*http.Cookie { return r.parsed("Cookie").Cookies() }

// Cookie returns the value of the first cookie with that name, and whether there is one.
// Quotation marks around the value are left out.
func (r *HTTPRequest) Cookie(name string) (value string, ok bool) {
	c, err := r.parsed("Cookie").Cookie(name)
	if err != nil {
		return "", false
	}
	return c.Value, true
}

// BasicAuth returns the name and the password of the Authorization field, and whether
// they are there (RFC 7617). Passwords are compared by [crypto/subtle.ConstantTimeCompare].
func (r *HTTPRequest) BasicAuth() (username, password string, ok bool) {
	return r.parsed("Authorization").BasicAuth()
}

// parsed returns a request of net/http that has the fields with one name.
func (r *HTTPRequest) parsed(name string) *http.Request {
	var values []string
	for _, f := range r.Headers() {
		if http1.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return &http.Request{Header: http.Header{name: values}}
}

// HTTP returns the http.Request that a server of net/http gave to [HTTPHandler], or
// nil if the request came otherwise. Its body has been read already: see
// [HTTPRequest.Body] and [HTTPRequest.OnBody]. It must not be modified.
func (r *HTTPRequest) HTTP() *http.Request { return r.via.httpRequest() }

// PathValue returns what the http.ServeMux around [HTTPHandler] matched for the
// wildcard name of its pattern, or "" if there is no such wildcard or no such mux.
func (r *HTTPRequest) PathValue(name string) string {
	if req := r.HTTP(); req != nil {
		return req.PathValue(name)
	}
	return ""
}
