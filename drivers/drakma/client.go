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

	// BaseURL resolves relative URLs of requests, by the rules for links (RFC 3986). To
	// keep the whole path of the BaseURL, end it with a slash.
	BaseURL string

	// Headers are sent with each request that has no field of that name, to every server,
	// including after a redirect. Authorization, Cookie, Host and Proxy-Authorization are
	// exceptions: they are sent only to the scheme, host and port of BaseURL, or, without
	// a BaseURL, of the request's URL. A redirect to another server does not get them.
	Headers eventloop.HTTPHeaders

	// Jar stores the cookies. NewJar returns one. Nil: the jar of Client, if it has one.
	Jar http.CookieJar

	// Retry configures the retries of failed requests.
	Retry Retry

	// Timeout is the maximum time of each request, including redirects, retries and the
	// delays between them. Zero: no limit, except those of Client. See Request.Timeout.
	Timeout time.Duration

	// Log receives the header of each request when it is sent, and of each response when it
	// arrives, including those of redirects and retries. Each header is one call of Write.
	// Credentials are replaced by "***": the values of Authorization (after a known scheme),
	// Proxy-Authorization, Cookie, Set-Cookie and other fields with a name that suggests a
	// secret, such as X-Api-Key, and the user and password in URLs. The query of a URL is
	// logged. Fields that Client adds (User-Agent, Content-Length, cookies of the jar) are
	// not logged. Write is called on the loop, or on the goroutine that sends the request,
	// one call at a time. It must not block for long; a [eventloop.PipeWriter] never blocks.
	// Its errors are ignored.
	Log io.Writer
}

// A Client sends requests. It need not be closed: its connections belong to the HTTP client
// of the loop. All methods may be called from any goroutine and from any callback. Before
// Run, a client can be created and requests can be prepared. A request that is sent while
// the loop does not run fails with [eventloop.ErrNotRunning] or [eventloop.ErrLoopClosed].
type Client struct {
	loop    *eventloop.Loop
	http    *eventloop.HTTPClient
	opts    Options
	base    *url.URL // nil if there is no BaseURL
	err     error    // the error of the options, which every request reports
	files   *eventloop.Workers
	digests digestCache
	logMu   sync.Mutex // serializes the writes to opts.Log

	mu    sync.Mutex // guards the following
	owner *eventloop.Owner
	calls map[*call]struct{} // the calls without a result
}

// New returns a client. It panics if l is nil. If the BaseURL is invalid, each request fails with that error.
func New(l *eventloop.Loop, opts Options) *Client {
	// No limit on workers: each Save occupies a worker until the server has sent everything,
	// so stalled downloads would block the others. The number of connections is the limit.
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

// enter adds a call, and returns the owner of its promise. The owner exists only while there
// are calls: it is a handle of the loop, and an idle client has no handle.
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

// leave removes a call that has its result. A second call does nothing.
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
		defer k.abandon() // deferred, so that a panic in Close of one body does not skip the others
	}
}

func isHTTP(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// NewJar returns an empty cookie jar. The jar knows the public suffixes, so a server cannot
// set cookies for "com" or "co.uk", or for the domain of another site. Several clients may
// share a jar.
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

// Request begins a request with any method, such as PROPFIND of WebDAV. [Request.Do],
// [Request.Text], [Request.Bytes], [Request.Into], [Request.Save] or [Request.Stream] sends
// the request. When ctx ends, the request ends at once, and its future fails with an error
// that matches the error of ctx and its cause.
func (c *Client) Request(ctx context.Context, method, url string) *Request {
	if ctx == nil {
		panic("drakma: nil context")
	}
	r := &Request{client: c, ctx: ctx, method: method, url: url, err: c.err}
	r.maxRedirects, r.retry, r.timeout, r.decompress = defaultRedirects, c.opts.Retry, c.opts.Timeout, true
	return r
}
