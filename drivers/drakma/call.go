package drakma

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop"
)

// maxInline is the largest size of a body that is decoded on the loop. A function of Work
// decodes larger bodies. Decoding 64 KB of JSON takes about 0.5 ms.
const maxInline = 64 << 10

// maxErrorBody is the maximum size of the stored part of the body of an error response.
const maxErrorBody = 64 << 10

// A body that is not delivered is drained so that its connection can be reused. Draining
// more than maxUseless bytes, or for more than maxUselessTime, would cost more than a new
// connection.
const (
	maxUseless     = 256 << 10
	maxUselessTime = time.Second
)

// maxChallenges is the maximum number of challenges that a request responds to: the first
// one and those for stale nonces.
const maxChallenges = 3

// A call is a request in progress. It makes one attempt after another until an attempt has
// the result. start runs on the caller's goroutine, everything else on the loop, unless
// stated otherwise. The methods of a call never run concurrently.
type call struct {
	Request           // a copy, which the caller can no longer change
	u        *url.URL // of the next attempt
	first    *url.URL // of the first attempt: its origin gets the credentials
	deadline time.Time
	sink     sink                   // gets the body; nil: it is collected in Response.Body
	done     func(*Response, error) // called once
	key      string                 // of digests
	body     body                   // nil: none, or none since a redirect
	referer  string                 // for the next attempt
	try      attempt                // the current attempt
	unwait   func() bool            // ends the last wait for a retry; or nil

	// byHead is true if the call judges a response when its header has arrived. Otherwise it
	// judges a response when the body has arrived. This saves a turn of the loop and a
	// context: 2.5 of 25 µs for a small GET.
	byHead bool

	// live is the context of the attempts. It ends with ctx, with the loop, when the call has
	// its result, and to end an attempt. The next attempt then needs another context.
	live   context.Context
	cancel context.CancelCauseFunc

	// handed is set when the body is passed to the HTTP client, which closes it, or when the
	// body is closed.
	handed atomic.Bool

	attempts, redirects, retries, challenges int
}

// An attempt is one request of a call.
type attempt struct {
	method     string
	res        *Response        // nil until the header has arrived
	verdict    verdict          // on res
	data       bool             // sink has received data
	drainTimer *eventloop.Timer // limits the draining of a body that is not needed
	useless    int              // the number of drained bytes
	stopped    bool             // draining took too long
}

// A sink receives the body of the final response, on the loop.
type sink interface {
	head(res *Response)
	data(res *Response, p []byte)
}

// A verdict is the decision of a call about a response.
type verdict struct {
	action    action
	next      *url.URL  // of a redirect
	at        time.Time // of a retry
	challenge *digest
	err       error
}

type action int

const (
	deliver action = iota // it is the result
	redirect
	authorize
	repeat
	fail // with err
)

// begin returns the call of a request. A request has at most one call.
func (r *Request) begin(s sink) *call {
	c := &call{Request: *r, sink: s}
	c.headers = slices.Clone(r.headers) // Request.Header changes them in place
	c.byHead = s != nil || c.digest || c.retry.Max > 0
	c.renew()
	if r.sent {
		c.err = ErrSent
	}
	r.sent, r.body = true, nil // the body belongs to the call
	return c
}

// renew makes the context of the next attempts.
func (c *call) renew() {
	if c.byHead {
		c.live, c.cancel = context.WithCancelCause(c.ctx)
	} else {
		c.live, c.cancel = c.ctx, func(error) {} // the attempt is never ended early
	}
}

// launch starts a call and returns the future of p. The done function of the call resolves p.
func launch[T any](c *call, p *eventloop.Promise[T]) *eventloop.Future[T] {
	owner, err := c.client.enter(c)
	if err == nil {
		err = p.Init(owner)
	}
	if err == nil {
		c.start()
		return &p.Future
	}
	defer c.closeUnsent() // the loop has ended
	c.leave()
	f, _ := eventloop.NewFuture[T](c.client.loop)
	return f
}

// leave releases the resources of a call that has its result.
func (c *call) leave() {
	c.client.leave(c)
	c.cancel(nil)
}

// abandon is like leave, for a call that failed at the end of the loop.
func (c *call) abandon() {
	if c.unwait != nil {
		c.unwait()
	}
	c.cancel(eventloop.ErrLoopClosed)
	c.closeUnsent()
}

// closeUnsent closes the body if it was not passed to the HTTP client.
func (c *call) closeUnsent() {
	if c.handed.CompareAndSwap(false, true) && c.Request.body != nil {
		c.Request.body.close()
	}
}

// refuse ends a call that sends no further attempt.
func (c *call) refuse(err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errors.Join(err, panicError(v))
		}
		c.done(nil, err)
	}()
	c.closeUnsent()
}

// panicError returns the error for a panic in code of the application. The function that
// recovers calls it, so that the stack includes the place of the panic.
func panicError(v any) *eventloop.PanicError {
	if pe, ok := v.(*eventloop.PanicError); ok {
		return pe
	}
	stack := debug.Stack()
	// Remove the frames that recovered: the message names the first function outside the loop.
	if header, _, ok := bytes.Cut(stack, []byte("\n")); ok {
		if i := bytes.Index(stack, []byte("\npanic(")); i >= 0 {
			stack = slices.Concat(header, stack[i:])
		}
	}
	return &eventloop.PanicError{Value: v, Stack: stack}
}

// start sends the request. done gets the result on the loop, or at once if the
// request is not valid.
func (c *call) start() {
	returned := false
	defer func() {
		if !returned { // Options.Log has called Goexit
			c.refuse(errGoexit)
		}
	}()
	c.prepare()
	returned = true
}

var errGoexit = errors.New("drakma: runtime.Goexit was called while the request was sent")

// prepare prepares the request, and sends it.
func (c *call) prepare() {
	if c.err == nil {
		c.u, c.err = c.target()
	}
	if c.err == nil && c.form != nil {
		c.Request.body, c.err = c.formBody()
	}
	if c.err != nil {
		c.refuse(c.err)
		return
	}
	c.first, c.body, c.try.method = c.u, c.Request.body, c.method
	if c.digest {
		c.key = origin(c.u) + "\x00" + c.user
	}
	if c.timeout > 0 {
		c.deadline = time.Now().Add(c.timeout)
	}
	b := c.body
	if b == nil || !b.blocks() {
		c.send()
		return
	}
	eventloop.WorkOn(c.live, c.client.files, func(context.Context) (struct{}, error) { return struct{}{}, b.prepare() }).
		Then(func(_ struct{}, err error) {
			if err != nil {
				c.refuse(err)
				return
			}
			c.send()
		})
}

// origin returns the scope of credentials: scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// sameOrigin reports whether credentials for a may be sent to b.
func sameOrigin(a, b *url.URL) bool { return a == b || origin(a) == origin(b) }

// credentialsAllowed reports whether the next attempt may contain the credentials of the
// request.
func (c *call) credentialsAllowed() bool { return sameOrigin(c.first, c.u) }

// isPrivate reports whether a field is for one origin only. Host is private, because another
// server does not serve that host.
func isPrivate(name string) bool {
	switch strings.ToLower(name) {
	case "authorization", "cookie", "host", "proxy-authorization":
		return true
	}
	return false
}

// isBodyField reports whether the named header field describes the request body.
func isBodyField(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "content-") || name == "digest" || name == "repr-digest"
}

// send makes the next attempt.
func (c *call) send() {
	c.attempts++
	c.try = attempt{method: c.try.method}
	opts := eventloop.HTTPOptions{Jar: c.client.opts.Jar, Decompress: c.decompress}
	if c.byHead {
		opts.OnResponse = c.onHead
	}
	if c.credentialsAllowed() {
		opts.Host = c.host
	}
	if !c.deadline.IsZero() {
		// If the deadline has passed, the attempt fails with a timeout.
		opts.Timeout = max(time.Until(c.deadline), 1)
	}
	opts.Headers = c.fields()
	if c.sink != nil {
		opts.OnBody = c.onBody
	}
	if err := c.client.logRequest(c.try.method, c.u, &opts); err != nil {
		c.refuse(err)
		return
	}
	if c.attempts == 1 && !c.handed.CompareAndSwap(false, true) {
		return // the loop has ended and the body is closed
	}
	if c.body != nil {
		c.body.apply(&opts)
	}
	c.client.http.Do(c.live, c.try.method, c.u.String(), &opts).Then(c.onResult)
}

// fields returns the header fields of the next attempt.
func (c *call) fields() eventloop.HTTPHeaders {
	own, common, base := c.headers, c.client.opts.Headers, c.client.base
	h := make(eventloop.HTTPHeaders, 0, len(own)+len(common)+3)
	allowed, bodyGone := c.credentialsAllowed(), c.body == nil && c.redirects > 0
	add := func(f eventloop.HTTPHeader) {
		if !(bodyGone && isBodyField(f.Name)) {
			h.Add(f.Name, f.Value)
		}
	}
	for _, f := range own {
		if allowed || !isPrivate(f.Name) {
			add(f)
		}
	}
	for _, f := range common {
		if own.Values(f.Name) == nil && (!isPrivate(f.Name) || allowed && (base == nil || sameOrigin(base, c.u))) {
			add(f)
		}
	}
	if c.body != nil && c.body.contentType() != "" && h.Get("Content-Type") == "" {
		h.Add("Content-Type", c.body.contentType())
	}
	if c.referer != "" {
		h.Set("Referer", c.referer)
	}
	if c.digest && allowed {
		c.addDigest(&h)
	}
	return h
}

// addDigest adds digest authorization, if there is a challenge. It ignores a challenge that
// it cannot respond to: after the next 401, decideChallenge reports a ChallengeError.
func (c *call) addDigest(h *eventloop.HTTPHeaders) {
	d, nc := c.client.digests.use(c.key)
	if d == nil {
		return
	}
	p := &[]byte{}
	if c.body != nil {
		p = nil
		if m, ok := c.body.(*memory); ok {
			p = &m.p
		}
	}
	value, err := d.authorization(c.user, c.password, c.try.method, c.u.RequestURI(), p, nc, newCnonce())
	if err == nil {
		h.Set("Authorization", value)
	}
}

// onHead is called for the header of a response if byHead is set. It judges the response
// before the body arrives, because the body of a response that is not the result may be
// endless.
func (c *call) onHead(res *eventloop.HTTPResponse) {
	c.judge(res)
	switch {
	case c.delivers():
		if c.sink != nil {
			c.sink.head(c.try.res)
		}
	case c.try.verdict.action != deliver:
		c.limitDrain()
	}
}

// judge sets the verdict on a response.
func (c *call) judge(res *eventloop.HTTPResponse) {
	res.Redirects = c.redirects
	c.try.res = &Response{HTTPResponse: res, Attempts: c.attempts, charset: c.charset}
	c.try.verdict = c.decide(c.try.res)
	if err := c.client.logResponse(res); err != nil {
		c.try.verdict = verdict{action: fail, err: err}
	}
}

// delivers reports whether the response is the result and not an error.
func (c *call) delivers() bool { return c.try.verdict.action == deliver && !c.isError(c.try.res) }

// limitDrain limits the time for draining a body.
func (c *call) limitDrain() {
	n, err := strconv.ParseInt(c.try.res.Header("Content-Length"), 10, 64)
	if err == nil && n > maxUseless && c.try.method != "HEAD" {
		c.stop()
		return
	}
	c.try.drainTimer = c.client.loop.AfterFunc(maxUselessTime, c.stop)
}

var errUseless = errors.New("drakma: the body is not needed")

// stop ends the attempt: its header suffices.
func (c *call) stop() {
	if !c.try.stopped {
		c.try.stopped = true
		c.cancel(errUseless)
	}
}

// onBody is called for each chunk of the body if there is a sink.
func (c *call) onBody(res *eventloop.HTTPResponse, p []byte) {
	if c.delivers() {
		c.try.data = true
		c.sink.data(c.try.res, p)
		return
	}
	// The error for the response will contain the beginning of the body.
	res.Body = append(res.Body, p[:min(len(p), maxErrorBody-len(res.Body))]...)
	if c.try.useless += len(p); c.try.useless > maxUseless {
		c.stop()
	}
}

// isError reports whether the response becomes a StatusError.
func (c *call) isError(res *Response) bool { return c.check && res.Status >= 400 }

// onResult is called when an attempt has finished.
func (c *call) onResult(res *eventloop.HTTPResponse, err error) {
	if !c.byHead && err == nil {
		c.judge(res)
	}
	if c.try.drainTimer != nil {
		c.try.drainTimer.Stop()
	}
	if err != nil && !c.headSuffices(err) {
		c.onFailure(err)
		return
	}
	if c.try.stopped {
		err = nil // the rest of the body was not needed
		c.renew()
	}
	c.settle(c.try.res, c.try.verdict, err)
}

// settle executes the verdict. err is the error of reading the body.
func (c *call) settle(res *Response, v verdict, err error) {
	if c.digest {
		if info := res.Header("Authentication-Info"); info != "" && c.credentialsAllowed() {
			c.client.digests.next(c.key, info)
		}
	}
	if v.action == repeat && err != nil && !c.inTime(0) {
		v.action = deliver // there was no time for the body, and there is none for a retry
	}
	switch v.action {
	case redirect:
		c.follow(v.next)
	case authorize:
		c.challenges++
		c.client.digests.put(c.key, v.challenge)
		c.send()
	case repeat:
		c.later(time.Until(v.at))
	case fail:
		c.done(nil, v.err)
	default:
		switch {
		case c.isError(res):
			c.done(nil, &StatusError{res, err})
		case err != nil:
			c.done(nil, err)
		default:
			c.done(res, nil)
		}
	}
}

// headSuffices reports whether the verdict stands although the attempt failed with err:
// the response is not the result, and only its body was lost.
func (c *call) headSuffices(err error) bool {
	_, panicked := errors.AsType[*eventloop.PanicError](err)
	return c.try.res != nil && !c.delivers() && c.ctx.Err() == nil && !panicked
}

// decide returns the verdict for a response.
func (c *call) decide(res *Response) verdict {
	switch res.Status {
	case 301, 302, 303, 307, 308:
		return c.decideRedirect(res)
	case 401:
		return c.decideChallenge(res)
	case 429, 503:
		if c.retries < c.retry.Max && c.mayRepeat() {
			wait, ok := c.retry.after(res.Header("Retry-After"), c.retries, time.Now())
			if ok && c.inTime(wait) {
				return verdict{action: repeat, at: time.Now().Add(wait)}
			}
		}
	}
	return verdict{}
}

func (c *call) bodyAgain() bool { return c.body == nil || c.body.again() }

func (c *call) mayRepeat() bool {
	return isIdempotent(c.try.method, c.headers) && c.bodyAgain()
}

// inTime reports whether there is time for another attempt after a wait.
func (c *call) inTime(wait time.Duration) bool {
	return c.deadline.IsZero() || wait < time.Until(c.deadline)
}

func (c *call) decideRedirect(res *Response) verdict {
	location := res.Header("Location")
	if c.maxRedirects == 0 || location == "" {
		return verdict{}
	}
	if (res.Status == 307 || res.Status == 308) && !c.bodyAgain() {
		return verdict{}
	}
	link, err := parseURL(location)
	if err != nil {
		return verdict{}
	}
	next := c.u.ResolveReference(link)
	if !isHTTP(next) {
		return verdict{}
	}
	if next.User == nil && sameOrigin(c.u, next) {
		next.User = c.u.User // as for a relative URL
	}
	if c.redirects == c.maxRedirects {
		return verdict{action: fail, err: fmt.Errorf("drakma: %s: %w (%d)", res.URL, eventloop.ErrHTTPRedirects, c.maxRedirects)}
	}
	if next.Fragment == "" {
		next.Fragment, next.RawFragment = c.u.Fragment, c.u.RawFragment
	}
	return verdict{action: redirect, next: next}
}

func (c *call) decideChallenge(res *Response) verdict {
	if !c.digest || c.challenges == maxChallenges || !c.bodyAgain() || !c.credentialsAllowed() {
		return verdict{}
	}
	d, err := newDigest(res.Headers.Values("Www-Authenticate"))
	switch {
	case err != nil:
		return verdict{action: fail, err: &ChallengeError{err.Error(), res}}
	case d == nil || c.challenges > 0 && !d.stale:
		return verdict{}
	}
	if _, inMemory := c.body.(*memory); !d.auth && d.authInt && c.body != nil && !inMemory {
		return verdict{action: fail, err: &ChallengeError{"auth-int needs a body that is in memory", res}}
	}
	return verdict{action: authorize, challenge: d}
}

// follow makes the next attempt at the target of a redirect.
func (c *call) follow(next *url.URL) {
	c.redirects++
	if s := c.try.res.Status; s != 307 && s != 308 {
		if c.try.method != "HEAD" {
			c.try.method = "GET"
		}
		c.body = nil
	}
	c.referer = ""
	if c.autoReferer && (c.u.Scheme != "https" || next.Scheme == "https") {
		from := *c.u
		from.User, from.Fragment, from.RawFragment = nil, "", ""
		c.referer = from.String()
	}
	c.u = next
	c.send()
}

// onFailure is called when an attempt has failed.
func (c *call) onFailure(err error) {
	if c.retries < c.retry.Max && c.ctx.Err() == nil && c.mayRepeat() && isTransient(err) && !errors.Is(err, ErrFileChanged) {
		restart, canRestart := c.sink.(restarter)
		wait := c.retry.backoff(c.retries)
		if (!c.try.data || canRestart) && c.inTime(wait) {
			if canRestart {
				restart.restart(err)
			}
			c.later(wait)
			return
		}
	}
	c.done(nil, err)
}

// A restarter is a sink that can restart after it has received data.
type restarter interface{ restart(err error) }

// later makes the next attempt after wait, unless the context ends first.
func (c *call) later(wait time.Duration) {
	c.retries++
	timer := c.client.loop.AfterFunc(wait, func() {
		if c.unwait() {
			c.send()
		}
	})
	// The context may end on another goroutine while the timer fires. Exactly one of the two
	// ends the wait: unwait returns true if it is the timer.
	c.unwait = context.AfterFunc(c.live, func() {
		c.client.loop.Post(func() {
			timer.Stop()
			c.done(nil, fmt.Errorf("drakma: %s %s: %w", c.try.method, c.u.Redacted(), contextError(c.live)))
		})
	})
}

// contextError returns the error of a request that ended because ctx did. It matches the
// error of ctx and its cause.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) || cause == eventloop.ErrLoopClosed {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// future starts the call and returns a future of the result that finish computes from the
// response. If finish is slow for large bodies, slow is true.
func future[T any](c *call, slow bool, finish func(*Response) (T, error)) *eventloop.Future[T] {
	p := &eventloop.Promise[T]{}
	settle := func(v T, err error) {
		p.Resolve(v, err)
		c.leave()
	}
	c.done = func(res *Response, err error) {
		switch {
		case err != nil:
			settle(*new(T), err)
		case slow && len(res.Body) > maxInline:
			eventloop.Work(c.ctx, c.client.loop, func(context.Context) (T, error) { return finish(res) }).Then(settle)
		default:
			settle(guarded(finish, res))
		}
	}
	return launch(c, p)
}

// guarded calls finish, which may run code of the application, and returns a panic as an
// error. Work, which calls finish for larger bodies, does the same.
func guarded[T any](finish func(*Response) (T, error), res *Response) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError(p)
		}
	}()
	return finish(res)
}

func same(res *Response) (*Response, error) { return res, nil }

// Do sends the request. The result is the response, whatever its status, unless
// [Request.Check] was called. Errors of the connection and of HTTP are those of
// [eventloop.HTTPClient.Do].
func (r *Request) Do() *eventloop.Future[*Response] { return future(r.begin(nil), false, same) }

// Text sends the request. The result is the body as text in UTF-8: see [Response.Text]. A
// status of 400 or more is a [*StatusError].
func (r *Request) Text() *eventloop.Future[string] {
	c := r.begin(nil)
	c.check = true
	return future(c, true, (*Response).Text)
}

// Bytes sends the request. The result is the unchanged body, whatever its media type. A
// status of 400 or more is a [*StatusError].
func (r *Request) Bytes() *eventloop.Future[[]byte] {
	c := r.begin(nil)
	c.check = true
	return future(c, false, func(res *Response) ([]byte, error) { return res.Body, nil })
}

// Into sends the request and decodes the body of the response as JSON into v, which is a
// pointer. The caller must not use v until the future has its result. A status of 400 or
// more is a [*StatusError], and a body that cannot be decoded is a [*DecodeError]; both
// contain the response. Into sets the field Accept unless the request or Options.Headers has
// it.
func (r *Request) Into(v any) *eventloop.Future[*Response] {
	if r.headers.Values("Accept") == nil && r.client.opts.Headers.Values("Accept") == nil {
		r.Accept("application/json")
	}
	c := r.begin(nil)
	c.check = true
	return future(c, true, func(res *Response) (*Response, error) {
		if err := res.JSON(v); err != nil {
			return nil, err
		}
		return res, nil
	})
}

// Stream sends the request, and calls onData on the loop with each chunk of the body as it
// arrives. data is valid until onData returns. No further data is read before that. To pause
// for longer, call PauseReading of the response. All calls precede the result of the future,
// which is the response without Body. onData receives only the body of the final response,
// not the bodies of redirects, of responses that are retried or, with [Request.Check], of
// responses with a status of 400 or more. If the body ends early or its coding is
// incomplete, the future fails after some calls of onData.
func (r *Request) Stream(onData func(res *Response, data []byte)) *eventloop.Future[*Response] {
	if onData == nil {
		r.setError("onData is nil")
	}
	return future(r.begin(stream(onData)), false, same)
}

// stream is the sink of Stream.
type stream func(res *Response, data []byte)

func (s stream) head(*Response)               {}
func (s stream) data(res *Response, p []byte) { s(res, p) }
