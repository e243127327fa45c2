package drakma

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/onloop/eventloop"
	"golang.org/x/net/publicsuffix"
)

// defaultRedirects is the limit of redirects if Request.Redirects is not called.
const defaultRedirects = 10

// Options are the settings of a [Client]. The zero Options mean the defaults.
type Options struct {
	// Client sends the requests: its connections, proxy, TLS settings, limits and
	// timeouts apply. Nil: [eventloop.Loop.HTTP].
	Client *eventloop.HTTPClient

	// BaseURL is what the URLs of requests are relative to, by the rules for links
	// (RFC 3986): a BaseURL whose path is to be kept ends with a slash.
	BaseURL string

	// Headers are sent with each request that has no field of that name, to every server that
	// the client is used for, also after a redirect. Authorization, Cookie, Host and
	// Proxy-Authorization are only sent to the scheme, host and port of BaseURL; without a
	// BaseURL to those of the URL of each request, and not elsewhere after a redirect.
	Headers eventloop.HTTPHeaders

	// Jar has the cookies, such as one of NewJar. Nil: the jar of Client, if it has one.
	Jar http.CookieJar

	// Retry says whether and how failed requests are repeated.
	Retry Retry

	// Timeout bounds each request, with all that belongs to it: redirects, retries and
	// the time between them. Zero: none, except those of Client. See Request.Timeout.
	Timeout time.Duration

	// Log gets the head of each request and of each response, with one call of Write for
	// each, as they are sent and arrive: those of redirects and retries, too. Instead of
	// credentials it has "***": the values of Authorization (after a scheme that is known),
	// Proxy-Authorization, Cookie, Set-Cookie and other fields whose names say that they are
	// secret, such as X-Api-Key, and user and password in URLs. The query of a URL is shown.
	// Fields that Client adds (User-Agent, Content-Length, cookies of the jar) are not shown.
	// Write is called on the loop and by the functions that send, one call at a time, and
	// must not block for long; a [eventloop.PipeWriter] never does. Its errors are ignored.
	Log io.Writer
}

// A Client sends requests. It needs no closing: what is open belongs to the HTTP client
// of the loop. All methods may be called from any goroutine and from any callback. A
// client can be made, and requests can be prepared, before Run; one that is sent while the
// loop does not run fails with [eventloop.ErrNotRunning] or [eventloop.ErrLoopClosed].
type Client struct {
	loop    *eventloop.Loop
	http    *eventloop.HTTPClient
	opts    Options
	base    *url.URL // nil if there is no BaseURL
	err     error    // of the options; the error of each request
	files   *eventloop.Workers
	digests digestCache
	logMu   sync.Mutex // serializes the writes to opts.Log

	mu    sync.Mutex // guards the following
	owner *eventloop.Owner
	calls map[*call]struct{} // that have no result yet
}

// New returns a client. A BaseURL that is not valid is the error of each request.
func New(l *eventloop.Loop, opts Options) *Client {
	// No limit: a Save has its worker until the server has sent everything, so downloads that
	// stall would hold up those that do not. The connections are the limit.
	c := &Client{loop: l, http: opts.Client, opts: opts, files: eventloop.NewWorkers(l, math.MaxInt, "drakma"), calls: make(map[*call]struct{})}
	c.opts.Headers = append(eventloop.HTTPHeaders(nil), opts.Headers...)
	if c.http == nil {
		c.http = l.HTTP()
	}
	if opts.BaseURL != "" {
		base, err := parseURL(opts.BaseURL)
		switch {
		case err != nil:
			c.err = invalidURL(err)
		case !isHTTP(base):
			c.err = fmt.Errorf("drakma: the BaseURL %q is not an absolute http or https URL", base.Redacted())
		}
		c.base = base
	}
	return c
}

// enter adds a call, and returns the owner of its promise. There is an owner only while
// there are calls: it is a handle of the loop, and an idle client holds none.
func (c *Client) enter(k *call) (*eventloop.Owner, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner == nil {
		name := ""
		if c.base != nil {
			name = c.base.Host
		}
		o, err := eventloop.NewOwner(c.loop, "drakma", name, c.ended)
		if err != nil {
			return nil, err
		}
		c.owner = o
	}
	c.calls[k] = struct{}{}
	return c.owner, nil
}

// leave removes a call that has its result. A second time does nothing.
func (c *Client) leave(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, k)
	if len(c.calls) == 0 && c.owner != nil {
		c.owner.Close()
		c.owner = nil
	}
}

// ended is called when the loop has ended by force, and the futures of the calls have failed.
func (c *Client) ended(error) {
	c.mu.Lock()
	calls := slices.Collect(maps.Keys(c.calls))
	clear(c.calls)
	c.owner = nil
	c.mu.Unlock()
	for _, k := range calls {
		defer k.abandon() // also after a panic in Close of the body of another one
	}
}

func isHTTP(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// NewJar returns an empty jar for cookies. It knows the public suffixes, so that a server
// cannot set cookies for "com" or "co.uk", or for a domain that is not its own. It may be
// used by several clients.
func NewJar() http.CookieJar {
	jar, err := cookiejar.New(&cookiejar.Options{PublicSuffixList: publicsuffix.List})
	if err != nil {
		panic(err) // it never returns one
	}
	return jar
}

// Get begins a GET request.
func (c *Client) Get(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodGet, url)
}

// Head begins a HEAD request.
func (c *Client) Head(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodHead, url)
}

// Post begins a POST request.
func (c *Client) Post(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodPost, url)
}

// Put begins a PUT request.
func (c *Client) Put(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodPut, url)
}

// Patch begins a PATCH request.
func (c *Client) Patch(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodPatch, url)
}

// Delete begins a DELETE request.
func (c *Client) Delete(ctx context.Context, url string) *Request {
	return c.Request(ctx, http.MethodDelete, url)
}

// Request begins a request with any method, such as PROPFIND of WebDAV. The request is
// sent by [Request.Do], [Request.Text], [Request.Bytes], [Request.Into], [Request.Save] or
// [Request.Stream]. When ctx ends the request ends at once, and its future fails with an
// error that matches the cause of ctx.
func (c *Client) Request(ctx context.Context, method, url string) *Request {
	if ctx == nil {
		panic("drakma: nil context")
	}
	r := &Request{client: c, ctx: ctx, method: method, url: url, err: c.err}
	r.maxRedirects, r.retry, r.timeout, r.decompress = defaultRedirects, c.opts.Retry, c.opts.Timeout, true
	return r
}
