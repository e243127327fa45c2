package eventloop

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/onloop/eventloop/internal/httpclient"
)

// Causes of failed requests, beside those that connections have. They are reached
// through the [*OpError] of the request, which matches [ErrHTTP].
var (
	// ErrHTTPMalformed matches an answer that is no HTTP/1.
	ErrHTTPMalformed = httpclient.ErrMalformed

	// ErrHTTPTooLarge matches an answer whose head or body is over the bounds of the
	// client.
	ErrHTTPTooLarge = httpclient.ErrTooLarge

	// ErrHTTPRedirects matches a request that was redirected more often than
	// [HTTPOptions.MaxRedirects].
	ErrHTTPRedirects = errors.New("eventloop: too many redirects")

	// ErrHTTPBodyLength matches a request whose BodyReader gave more or less than
	// [HTTPOptions.ContentLength] said.
	ErrHTTPBodyLength = httpclient.ErrBodyLength
)

// An HTTPClientConfig holds the settings of an [HTTPClient]. The zero value means
// the defaults.
type HTTPClientConfig struct {
	// TLS is for https. The server is verified against its host name unless the
	// tls.Config says otherwise. If nil, the defaults of package tls.
	TLS *tls.Config

	// Timeout bounds each request as a whole, as [HTTPOptions.Timeout] does for
	// one. Zero or negative: none, and InactivityTimeout alone bounds it.
	Timeout time.Duration

	// ConnectTimeout bounds name lookup, connecting and the TLS handshake
	// together. Zero: 30 s. Negative: none.
	ConnectTimeout time.Duration

	// InactivityTimeout ends a request when no byte of it could be sent or
	// received for so long, or up to an eighth longer. It does not run while
	// OnBody has the data, or reading is paused. Zero: 60 s. Negative: none.
	InactivityTimeout time.Duration

	// IdleTimeout is how long a connection is kept for the next request; less if
	// the server says that it will close it earlier, by the field Keep-Alive. One that the server ends, or
	// sends something on that was not asked for, is closed at once.
	// Zero: 60 s. Negative: none is kept.
	IdleTimeout time.Duration

	// MaxConnsPerHost bounds the connections to a host, by scheme, name and
	// port. Further requests wait, first come, first served, and their timeout
	// runs meanwhile. Zero: 512. Negative: no bound.
	MaxConnsPerHost int

	// MaxIdlePerHost bounds the connections to a host that are kept without
	// being in use. Zero: 256. Negative: none is kept.
	MaxIdlePerHost int

	// MaxIdle bounds the connections to all hosts that are kept without being in
	// use. Those that have been idle longest go first. Zero: 512. Negative: none
	// is kept.
	MaxIdle int

	// MaxHeaderBytes bounds the head of a response, interim responses (1xx)
	// included, and again its trailer fields. Zero: 64 KB. Negative: no bound.
	MaxHeaderBytes int

	// MaxBodyBytes bounds the body of an answer, and again after decompression.
	// It does not hold for what goes to OnBody. Zero: 64 MB. Negative: no bound.
	MaxBodyBytes int

	// DisableKeepAlives sends each request on a connection of its own, with
	// "Connection: close".
	DisableKeepAlives bool

	// UserAgent is sent unless the request has the field. Empty: "eventloop".
	UserAgent string

	// Transport carries the requests instead of the client itself: one that speaks
	// HTTP/2, is instrumented, or is a double in a test. The rest is as without it:
	// futures and callbacks, streams, Timeout, MaxBodyBytes, redirects, which the
	// client follows, cookies, decompression. RoundTrip and Read of the body are called
	// on a goroutine of the request. They must return when the context of the
	// http.Request ends; otherwise the end of the loop waits for them, for
	// Config.WorkGrace at most. A panic in them fails the request; without
	// Config.CatchPanics it also ends the loop and leaves Run. The transport belongs to
	// the application, which closes its connections.
	//
	// A setting that would have no effect is an error of each request: TLS,
	// ConnectTimeout, InactivityTimeout, IdleTimeout, MaxConnsPerHost, MaxIdlePerHost,
	// MaxIdle, MaxHeaderBytes, DisableKeepAlives, Proxy and Dial, and of HTTPOptions
	// UnixSocket and Upgrade. HTTPResponse.Reused, RemoteAddr and most of Timing are
	// zero, and Headers are sorted by name. After a redirect a BodyReader is sent again
	// only by HTTPOptions.GetBody. Request.GetBody is set if there is that or a Body, so
	// that the transport can send the request again, too. If the request asks for no
	// compression, http.Transport may ask for it, and undo it.
	Transport http.RoundTripper

	// Jar has the cookies of the client, as in net/http: those that it has for a URL
	// are sent, also after a redirect, and it is given those that a response sets,
	// also one that redirects. Cookies of the user, in a Cookie field of
	// HTTPOptions.Headers, are sent before them; one of them is no longer sent after
	// a redirect whose response sets a cookie with its name. Jar is called on a
	// goroutine of the request, not on the loop, and must be safe for use by several
	// goroutines; that of package net/http/cookiejar is. A panic in it is the error
	// of the request. If nil, cookies are neither kept nor sent.
	Jar http.CookieJar

	// Proxy returns the proxy for a request to u, nil for none. Its scheme is
	// http, https, socks5 or socks5h; user and password are sent to it. An HTTP
	// proxy is asked for a tunnel (CONNECT) for https and for upgrades, and only
	// then; if it refuses, the error contains an [*HTTPStatusError]. A SOCKS
	// proxy resolves the name of the server itself, with either scheme; its port
	// is 1080 if the URL has none. Proxy is called on a
	// goroutine of the request, not on the loop. If Proxy is nil, HTTP_PROXY,
	// HTTPS_PROXY and NO_PROXY of the environment count when the client is made, as in
	// net/http, and ALL_PROXY where one of the first two is not set; in lower case too.
	Proxy func(u *url.URL) (*url.URL, error)

	// Dial connects to a server or a proxy, instead of the loop's own resolver
	// and dialer. It is called on a goroutine of the request. The network is
	// "tcp" or "unix". When ctx ends the request goes on without waiting for Dial,
	// but Dial should return: the end of the loop waits for it, for Config.WorkGrace
	// at most. A connection that it returns later is closed. Its error, Goexit, a nil
	// connection or, with Config.CatchPanics, a panic fails the request; by default a
	// panic ends the loop and leaves Run.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NoProxy is for [HTTPClientConfig.Proxy]: whatever the environment says, no
// proxy is used.
func NoProxy(*url.URL) (*url.URL, error) { return nil, nil }

// isNoProxy reports whether f is NoProxy, which may be called anywhere: requests
// with it are assigned to kept connections like those with no Proxy at all.
func isNoProxy(f func(*url.URL) (*url.URL, error)) bool {
	return reflect.ValueOf(f).Pointer() == reflect.ValueOf(NoProxy).Pointer()
}

func (cfg HTTPClientConfig) withDefaults() HTTPClientConfig {
	cfg.Timeout = max(cfg.Timeout, 0)
	cfg.ConnectTimeout = timeLimit(cfg.ConnectTimeout, 30*time.Second)
	cfg.InactivityTimeout = timeLimit(cfg.InactivityTimeout, time.Minute)
	cfg.IdleTimeout = timeLimit(cfg.IdleTimeout, time.Minute)
	cfg.MaxConnsPerHost = limit(cfg.MaxConnsPerHost, 512)
	cfg.MaxIdlePerHost = atMost(cfg.MaxIdlePerHost, 256)
	cfg.MaxIdle = atMost(cfg.MaxIdle, 512)
	cfg.MaxHeaderBytes = limit(cfg.MaxHeaderBytes, 64<<10)
	cfg.MaxBodyBytes = limit(cfg.MaxBodyBytes, 64<<20)
	if cfg.DisableKeepAlives {
		cfg.IdleTimeout = 0
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "eventloop"
	}
	if cfg.Proxy == nil {
		cfg.Proxy = environmentProxy()
	}
	cfg.TLS = httpTLS(cfg.TLS)
	return cfg
}

// environmentProxy returns the Proxy that the environment describes. ALL_PROXY, which
// net/http does not know, is how SOCKS proxies are usually given.
func environmentProxy() func(*url.URL) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	all := cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))
	if env.HTTPProxy == "" {
		env.HTTPProxy = all
		env.CGI = false // a request cannot set ALL_PROXY, as it can HTTP_PROXY
	}
	env.HTTPSProxy = cmp.Or(env.HTTPSProxy, all)
	return env.ProxyFunc()
}

// atMost resolves a number of which zero is the default and negative is none at
// all, which becomes zero.
func atMost(n, byDefault int) int {
	if n == 0 {
		return byDefault
	}
	return max(n, 0)
}

// httpTLS returns a copy of conf that speaks HTTP/1.1 only and resumes sessions.
func httpTLS(conf *tls.Config) *tls.Config {
	if conf == nil {
		conf = &tls.Config{}
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"}
	if conf.ClientSessionCache == nil {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return conf
}

// An HTTPClient sends requests and keeps connections for the next ones
// (http-client). What it keeps does not keep the loop alive, and is closed when
// the loop ends. It is made by [NewHTTPClient], or by [Loop.HTTP]. All methods
// may be called from any goroutine.
type HTTPClient struct {
	loop     *Loop
	cfg      HTTPClientConfig
	pool     *httpclient.Pool
	ownProxy bool                      // cfg.Proxy is the application's
	conflict error                     // of the settings with cfg.Transport
	open     handle                    // of the pool: registered while there are connections, unref'd
	last     atomic.Pointer[httpPlace] // of the last request: see place
	lastTrip atomic.Pointer[httpPlace] // of the last one of a RoundTripper

	mu      sync.Mutex // guards the following
	running int        // goroutines of connections
	ended   bool       // the loop ends
}

// HTTP returns the loop's own client, which has the settings of Config.HTTPClient.
func (l *Loop) HTTP() *HTTPClient {
	l.httpOnce.Do(func() { l.http = NewHTTPClient(l, l.cfg.HTTPClient) })
	return l.http
}

// NewHTTPClient returns a client with settings and connections of its own. It
// needs no closing. A nil config means the zero HTTPClientConfig; config is copied.
func NewHTTPClient(l *Loop, config *HTTPClientConfig) *HTTPClient {
	var cfg HTTPClientConfig
	if config != nil {
		cfg = *config
	}
	ownProxy := cfg.Proxy != nil && !isNoProxy(cfg.Proxy)
	conflict := cfg.transportConflict()
	cfg = cfg.withDefaults()
	return &HTTPClient{
		conflict: conflict,
		loop:     l,
		cfg:      cfg,
		ownProxy: ownProxy,
		pool:     httpclient.NewPool(cfg.MaxConnsPerHost, cfg.MaxIdlePerHost, cfg.MaxIdle, cfg.IdleTimeout),
	}
}

// HTTPOptions holds the optional parts of a request. Nil means the
// zero HTTPOptions. They are copied; Headers and Body must not change until the
// request has ended.
type HTTPOptions struct {
	// Headers are sent in their order, with their names as they are. Host,
	// User-Agent and, with Decompress, Accept-Encoding are added if they are
	// missing; a User-Agent with an empty value is left out. Connection,
	// Content-Length, Transfer-Encoding and what else belongs to the connection
	// is not sent, since it could break the framing; but "Connection: close" is
	// understood as Close. "Expect: 100-continue" holds the body back until the
	// server wants it, for a second at most; without a body it is not sent.
	Headers HTTPHeaders

	// Host is sent instead of the host of the URL, which is still what is
	// connected to, and verified. It is a host with or without a port; anything
	// else, here or in a Host field of Headers, is an error that matches
	// ErrHTTPHeader.
	Host string

	// Body is the body of the request. A method that usually has one, like POST,
	// says "Content-Length: 0" if it is empty.
	Body []byte

	// BodyReader gives the body instead of Body. It is read on a goroutine of the
	// request, never on the loop, until io.EOF; any other error fails the
	// request. It is sent as it comes. If it is an io.Closer it is closed,
	// exactly once, when it is not needed any more, which may be while a Read
	// waits, and in any case before the loop ends; a Read that waits then must
	// return. A panic in Read or Close is always the error of the future.
	//
	// A request with a BodyReader is sent a second time (see Do, and MaxRedirects) if
	// the body can be read again: nothing of it was read, as when a server has refused
	// it after "Expect: 100-continue"; or GetBody is set; or the reader is an
	// [io.Seeker], which is set back to where it was at first, and is closed only when
	// it cannot be needed again. A Seek that fails then is the error of the request. A
	// reader whose first Seek fails, such as a pipe, cannot be read again.
	BodyReader io.Reader

	// GetBody returns the body again, from its beginning, as in net/http. It is called
	// on a goroutine of the request, only if BodyReader has been read; with
	// HTTPClientConfig.Transport after each redirect that sends the body again, and when
	// the transport asks for the body. What it returns is closed exactly once. Its error is the error of the request. A *bytes.Buffer
	// needs no GetBody; its bytes must not change until the request has ended.
	GetBody func() (io.ReadCloser, error)

	// ContentLength is the length of what BodyReader gives. Zero means unknown,
	// and the body is sent in chunks, except that these know their own: *bytes.Buffer,
	// *bytes.Reader, *strings.Reader, [http.NoBody], and an *os.File that is a regular
	// file, from its offset to its end. If BodyReader gives more or less, because the
	// file has changed for example, the request fails with [ErrHTTPBodyLength], and the
	// server never gets the whole of it. Without a BodyReader, any value but zero and the
	// length of Body is such an error, too.
	ContentLength int64

	// Trailers are fields that follow the body, which is then sent in chunks; their
	// names are announced in the field Trailer. The values may be set until BodyReader
	// returns io.EOF, by its Read or before: that is how a checksum of the body is
	// sent. Fields that must not come after the body (RFC 9110 section 6.5.1), and
	// Trailers together with a ContentLength, are errors. Servers may ignore them.
	Trailers HTTPHeaders

	// Timeout bounds the request from the call to the last byte of the answer:
	// waiting for a connection, name lookup, connecting, TLS, redirects. Zero:
	// HTTPClientConfig.Timeout. Negative: none.
	Timeout time.Duration

	// MaxRedirects is how many redirects are followed; one more is an error that
	// matches ErrHTTPRedirects. Zero: none, the response that redirects is the
	// result; but 10 with CheckRedirect. Negative: none. 301, 302 and 303 turn
	// methods other than HEAD into GET, without a body; 307 and 308 send the same
	// again, unless there is a BodyReader that cannot be read again: then the response
	// is the result. The fields Authorization and Cookie of Headers are not sent to another scheme,
	// host or port.
	MaxRedirects int

	// CheckRedirect is called on the loop before a redirect is followed, at most
	// MaxRedirects times. The response that redirects is res: res.URL is where it
	// is from, res.Redirects how many were followed before, and its body is not
	// read yet. next is where it leads; changing it has no effect. If CheckRedirect
	// returns [http.ErrUseLastResponse], res is the result, with its body. Any
	// other error fails the request, and the error of the future matches it. It is
	// not called for a redirect that is not followed anyway, and not after the end
	// of ctx.
	CheckRedirect func(res *HTTPResponse, next *url.URL) error

	// Jar is used instead of HTTPClientConfig.Jar, so that sessions with cookies of
	// their own can share the connections of a client. Nil: HTTPClientConfig.Jar.
	Jar http.CookieJar

	// OnResponse is called on the loop when the head of the response is there: once per
	// request, before the first OnBody and before the future has its result. Nothing
	// more is read until it has returned. res is what the future will succeed with,
	// except that Body, Trailers and Timing.Total are not known yet, and that, with
	// Decompress and without OnBody, Headers still has Content-Encoding and
	// Content-Length. To end the request there, end its ctx.
	//
	// OnResponse is called for each response that is the result, whatever its status,
	// also for one without a body, such as a response to HEAD. It is not called for
	// interim responses (1xx, except 101) or for a response whose redirect is followed.
	// It is not called if the request fails before the head is there, or after the end
	// of ctx. If the request fails later, the future tells.
	OnResponse func(res *HTTPResponse)

	// OnBody is called on the loop with each piece of the body of the answer as
	// it arrives, and HTTPResponse.Body stays nil. Nothing more is read until it
	// has returned: see also HTTPResponse.PauseReading. res is what the future
	// will succeed with, except that Trailers and Timing.Total are not known
	// yet; data is valid until OnBody returns. All calls come before the future
	// has its result. There is none when the body is empty, after the end of
	// ctx, or for an answer whose redirect is followed.
	OnBody func(res *HTTPResponse, data []byte)

	// Decompress asks for a compressed answer (gzip, br, zstd; with OnBody gzip
	// only) and decompresses it. Content-Encoding and Content-Length are then
	// missing from the Headers of the response. A response with another coding, or
	// with several, stays as it is, and so does one to a request with a Range
	// field, which asks for no coding: a part cannot be decompressed. Bytes after
	// the compressed data are ignored. A zstd frame may need a window of 8 MB.
	Decompress bool

	// Upgrade, if it is not nil, asks the server for another protocol. The request must
	// have the field Upgrade, which names it; "Connection: Upgrade" is added. If the
	// response is 101 the connection becomes HTTPResponse.Conn, with the callbacks and
	// settings of Upgrade. A 101 whose field Upgrade names none of the protocols that were
	// asked for is an error that matches ErrHTTPMalformed; case does not count. Any other
	// response is a result like others. The schemes ws
	// and wss mean http and https. See also [HTTPClient.Upgrade].
	Upgrade *ConnConfig

	// UnixSocket is the path of a unix socket to connect to, whatever the host
	// of the URL is. No proxy is used then.
	UnixSocket string

	// Close sends "Connection: close", and does not keep the connection.
	Close bool

	mustUpgrade bool // any response but 101 is an error
}

// An HTTPResponse is the response to a request. It changes only until the future of
// the request has its result, which OnResponse and OnBody come before.
type HTTPResponse struct {
	Status int    // such as 200
	Reason string // such as "OK"; may be empty
	Proto  string // such as "HTTP/1.1"

	// Headers are the fields in their order, duplicates included, with names in
	// canonical case: "Content-Type".
	Headers HTTPHeaders

	// Trailers are the fields after a chunked body, without those that must not
	// come there (RFC 9110 section 6.5.1): framing, routing, credentials, and what
	// tells how to read the body.
	Trailers HTTPHeaders

	// Body is the whole body; nil with OnBody.
	Body []byte

	// Conn is what the connection has become after 101 if HTTPOptions.Upgrade asked for
	// it, else nil. It is not set yet in OnResponse.
	Conn *Conn

	URL        string // that the response is from: the last one, after redirects; without user and password
	Redirects  int    // how many were followed
	Reused     bool   // the connection had carried a request before
	RemoteAddr net.Addr
	TLS        *tls.ConnectionState // nil without TLS
	Timing     HTTPTiming

	stream *httpStream // of OnResponse and OnBody
}

// Header returns the value of the first field with that name, "" if there is
// none.
func (r *HTTPResponse) Header(name string) string { return r.Headers.Get(name) }

// An HTTPTiming says how long the parts of a request took. Those before
// FirstByte are of the last connection only, if there were redirects, and zero
// if it was reused.
type HTTPTiming struct {
	Wait      time.Duration // for one of the connections to the host to be free
	Lookup    time.Duration // of the name
	Connect   time.Duration // connecting, to a proxy too, without Lookup
	TLS       time.Duration // the handshake
	FirstByte time.Duration // from the call to the first byte of the answer
	Total     time.Duration // from the call to the last byte of the answer
}

// Get is [HTTPClient.Do] with the method GET and no options.
func (c *HTTPClient) Get(ctx context.Context, url string) *Future[*HTTPResponse] {
	return c.do(ctx, "GET", url, nil, callSite())
}

// Do sends a request and returns at once. The URL is http or https; what it has
// of user and password is sent as basic authorization. An empty method is GET.
//
// Whatever the status, an answer is the result: the future fails only if there
// was no whole answer, with an [*OpError] that matches [ErrHTTP] and its cause:
// [ErrTimeout], [ErrRefused], [ErrReset], [ErrDNS], io.EOF if the server ended the
// connection without an answer, io.ErrUnexpectedEOF if it ended it within,
// [ErrHTTPMalformed], [ErrHTTPTooLarge], [ErrHTTPRedirects], [*HTTPStatusError], those of package tls, the cause
// of ctx. So does a URL, a method or a field that is not valid ([ErrHTTPHeader]).
//
// When ctx ends the request ends at once, in whatever it is doing, and its
// connection is closed. A pending request keeps the loop alive.
//
// A request is retried, on a new connection, in two cases. If nothing of it was sent,
// because the connection was a kept one that had ended, it is sent elsewhere, as often
// as need be. If it was sent on a kept connection that the server ended without a single
// byte of a response, it is sent once more, provided that its method is idempotent (RFC
// 9110 section 9.2.2) and that its body can be read again: see [HTTPOptions.BodyReader].
func (c *HTTPClient) Do(ctx context.Context, method, url string, opts *HTTPOptions) *Future[*HTTPResponse] {
	return c.do(ctx, method, url, opts, callSite())
}

func (c *HTTPClient) do(ctx context.Context, method, url string, opts *HTTPOptions, at uintptr) *Future[*HTTPResponse] {
	checkContext(ctx)
	l := c.loop
	call := &httpCall{client: c, ctx: ctx, asked: url, opts: &noOptions, begun: time.Now(), at: at}
	if opts != nil {
		own := *opts
		call.opts = &own
		if own.Upgrade != nil {
			call.asked = httpScheme(url)
		}
		if own.BodyReader == http.NoBody {
			own.BodyReader, own.GetBody = nil, nil
		}
		if body, ok := own.BodyReader.(io.Closer); ok {
			call.body = &bodyCloser{body: body}
		}
	}
	if err := l.register(&call.handle, call, kindHTTPClient, false); err != nil {
		if call.body != nil {
			go call.closeUnused() // no call runs code of the application
		}
		return failedFuture[*HTTPResponse](l, err)
	}
	call.future.loop = l
	l.count.httpSent.Add(1)
	call.begin(method)
	return &call.future
}

// CloseIdle closes the connections that are kept for later requests. With
// HTTPClientConfig.Transport it calls CloseIdleConnections of that, if it has such a
// method.
func (c *HTTPClient) CloseIdle() {
	c.pool.CloseIdle()
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// goroutineBegun counts a connection in, or a goroutine that writes for one. With the first the client registers
// with the loop, so that the loop's end is its own.
func (c *HTTPClient) goroutineBegun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running++; c.running > 1 || c.ended {
		return
	}
	c.open.unref = true
	if err := c.loop.register(&c.open, c, kindHTTPPool, false); err != nil {
		c.ended = true
		c.pool.Close() // the loop ends at this moment
	}
}

// goroutineEnded counts it out. A client without connections leaves nothing registered.
func (c *HTTPClient) goroutineEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running--; c.running == 0 && c.loop.unregister(&c.open) && c.loop.ended.Load() {
		c.loop.wake() // closeAll waits for the last handle
	}
}

// terminate closes the connections that are idle, and those that will be.
func (c *HTTPClient) terminate() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.pool.Close()
}

func (c *HTTPClient) describe() string { return "" }
