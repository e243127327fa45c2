package eventloop

import (
	"net/http"

	"github.com/onloop/eventloop/internal/httpclient"
)

// This file decides whether to follow a redirect. httpCall.follow follows it.

// defaultRedirects is the limit if there is a CheckRedirect, as in net/http.
const defaultRedirects = 10

// maxRedirects returns the limit on the number of redirects.
func (c *httpCall) maxRedirects() int {
	if c.opts.MaxRedirects == 0 && c.opts.CheckRedirect != nil {
		return defaultRedirects
	}
	return c.opts.MaxRedirects
}

// redirectTarget returns the target of a redirect response, or nil if the response is the
// result.
func (c *httpCall) redirectTarget(resp *httpclient.Response) (*httpTarget, error) {
	if c.maxRedirects() <= 0 {
		return nil, nil
	}
	switch resp.Status {
	case 301, 302, 303:
	case 307, 308:
		if !c.canSendAgain() {
			return nil, nil
		}
	default:
		return nil, nil
	}
	location := resp.Fields.Get("Location")
	if location == "" {
		return nil, nil
	}
	next, err := c.target.redirect(location)
	return &next, err
}

// checkRedirect calls CheckRedirect. It clears end.next if the response is the result.
func (c *httpCall) checkRedirect(end *requestEnd) error {
	check := c.opts.CheckRedirect
	if check == nil || int(c.redirects) == c.maxRedirects() {
		return nil
	}
	u := *end.next.u
	var verdict error
	err := c.callOnLoop("redirect", func() { verdict = check(end.res, &u) })
	if err == nil {
		err = verdict
	}
	if err == http.ErrUseLastResponse {
		end.next, err = nil, nil
	}
	return err
}

// An httpCallback is a callback that a request waits for.
type httpCallback struct {
	call *httpCall
	what string
	f    func()
	err  error // the reason why f was not called, or did not return
	done chan struct{}
}

// callOnLoop calls f, which is code of the application, on the loop, and waits for it. It
// returns an error if the request ends, or if f panics.
func (c *httpCall) callOnLoop(what string, f func()) error {
	cb := &httpCallback{call: c, what: what, f: f, err: errOver, done: make(chan struct{})}
	c.client.loop.send(cb)
	select {
	case <-cb.done: // the loop runs all tasks while a request is open
		return cb.err
	case <-c.client.loop.done: // the loop did not wait for this request, because of foreign code
		return errOver
	}
}

// run calls the callback. On the loop.
func (cb *httpCallback) run() {
	defer close(cb.done)
	l := cb.call.client.loop
	if l.ended.Load() || cb.call.ctx.Err() != nil || cb.call.isAborted() {
		return
	}
	defer l.caught(func(err error) { cb.err = err })
	cb.f()
	cb.err = nil
}
