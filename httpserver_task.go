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
// When f returns, the response ends. If there is no response, the client gets a 500, or the
// status of the error if OnBody has reported one. A
// stream that is still open is closed if f returned nil. Otherwise it is aborted, so that
// the client notices. If f returns an error, does not respond, or panics (with
// Config.CatchPanics), HTTPServerConfig.OnEvent gets an [*OpError] with the request;
// without OnEvent it goes to Config.EventHandler, and otherwise to the log. After the
// client has disconnected, an error that only says so is not reported: information (see
// [IsInfo]), net.ErrClosed, or the end of the context.
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
	w, open, served, failure := r.writer, !r.over(), r.x.served != nil, r.bodyFailure()
	r.mu.Unlock()
	switch {
	case !open, served:
	case w == nil && failure != nil && !isPanic(err):
		r.respondError(refusalStatus(failure))
	case w == nil:
		r.respondError(fasthttp.StatusInternalServerError)
		err = cmp.Or(err, errNoResponse)
	case err == nil:
		err = w.Close()
	default:
		w.Abort()
	}
	switch {
	case err == nil, r.isDisconnect(err):
	case isPanic(err):
		r.event(err)
	default:
		r.event(r.opError(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !served { // with ServeHTTP, the context ends with the handler
		r.x.ctxLasts = false
		r.x.cancel(nil)
	}
}

// isDisconnect reports whether the client has disconnected and err only says so.
func (r *HTTPRequest) isDisconnect(err error) bool {
	r.mu.Lock()
	left, cause := r.x.abort != nil, context.Cause(r.x.ctx)
	r.mu.Unlock()
	return left && !isPanic(err) && (IsInfo(err) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.Canceled) || cause != nil && errors.Is(err, cause))
}

var errNoResponse = errors.New("the task ended without a response")

// respondError responds with status and its text.
func (r *HTTPRequest) respondError(status int) error {
	return r.RespondText(status, fasthttp.StatusMessage(status)+"\n")
}

// RespondText is [HTTPRequest.Respond] with text as text/plain in UTF-8.
func (r *HTTPRequest) RespondText(status int, text string) error {
	return r.Respond(status, textPlain, []byte(text))
}

// RespondJSON is [HTTPRequest.Respond] with v as application/json. If v cannot be encoded,
// it returns the error of package encoding/json, and the request can still get a
// response.
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

// QueryValues returns the decoded values of the target's query. Like [url.URL.Query], it
// omits malformed pairs.
func (r *HTTPRequest) QueryValues() url.Values {
	values, _ := url.ParseQuery(r.Query())
	return values
}

// FormValues returns the values of a form in the body. It returns an error if the body is
// not of type application/x-www-form-urlencoded, or is a stream
// ([HTTPRequest.HasBodyStream]). If parts of the form are malformed, it returns the other
// parts together with an error. [HTTPRequest.FastHTTP] has a parser for
// multipart/form-data.
func (r *HTTPRequest) FormValues() (url.Values, error) {
	const form = "application/x-www-form-urlencoded"
	switch media, _, err := mime.ParseMediaType(r.Header("Content-Type")); {
	case err != nil || media != form:
		return nil, fmt.Errorf("eventloop: the body must be of type %s, not %q", form, r.Header("Content-Type"))
	case r.HasBodyStream():
		return nil, errors.New("eventloop: the body of the form is a stream")
	}
	return url.ParseQuery(string(r.Body()))
}

// Cookies returns the cookies of the request, in order. Like [http.Request.Cookies], it
// omits malformed ones.
func (r *HTTPRequest) Cookies() []*http.Cookie { return r.parsed("Cookie").Cookies() }

// Cookie returns the value of the first cookie with that name, without surrounding
// quotation marks, and whether there is one.
func (r *HTTPRequest) Cookie(name string) (value string, ok bool) {
	c, err := r.parsed("Cookie").Cookie(name)
	if err != nil {
		return "", false
	}
	return c.Value, true
}

// BasicAuth returns the username and password of the Authorization field, and whether the
// field has them (RFC 7617). Compare passwords with [crypto/subtle.ConstantTimeCompare].
func (r *HTTPRequest) BasicAuth() (username, password string, ok bool) {
	return r.parsed("Authorization").BasicAuth()
}

// parsed returns an http.Request that has only the fields with that name.
func (r *HTTPRequest) parsed(name string) *http.Request {
	var values []string
	for _, f := range r.Headers() {
		if http1.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return &http.Request{Header: http.Header{name: values}}
}

// HTTP returns the http.Request that a net/http server passed to [HTTPHandler], or nil if
// the request is from another server. It must not be modified. Do not read its body; use
// [HTTPRequest.Body] or [HTTPRequest.OnBody].
func (r *HTTPRequest) HTTP() *http.Request { return r.via.httpRequest() }

// PathValue returns the value that the http.ServeMux around [HTTPHandler] matched for the
// wildcard name of its pattern. It returns "" if there is no such wildcard or mux.
func (r *HTTPRequest) PathValue(name string) string {
	if req := r.HTTP(); req != nil {
		return req.PathValue(name)
	}
	return ""
}
