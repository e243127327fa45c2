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

// Causes of failed requests, in addition to those of connections. They are wrapped in the
// [*OpError] of the request, which matches [ErrHTTP].
var (
	// ErrHTTPMalformed matches a response that is not valid HTTP/1.x.
	ErrHTTPMalformed = httpclient.ErrMalformed

	// ErrHTTPTooLarge matches a response whose head or body exceeds the limits of the
	// client. It also matches a request body that exceeds
	// [HTTPServerConfig.MaxBodyBytes].
	ErrHTTPTooLarge = httpclient.ErrTooLarge

	// ErrHTTPRedirects matches a request that was redirected more than
	// [HTTPOptions.MaxRedirects] times.
	ErrHTTPRedirects = errors.New("eventloop: too many redirects")

	// ErrHTTPBodyLength matches a request whose BodyReader returned more or fewer bytes
	// than [HTTPOptions.ContentLength].
	ErrHTTPBodyLength = httpclient.ErrBodyLength
)

// An HTTPClientConfig holds the settings of an [HTTPClient]. The zero value selects the
// defaults.
type HTTPClientConfig struct {
	// TLS is the configuration for https. The server is verified against its host name,
	// unless TLS says otherwise. If TLS is nil, the defaults of package tls apply.
	TLS *tls.Config

	// Timeout limits each request as a whole. [HTTPOptions.Timeout] overrides it for one
	// request. Zero or negative: no limit other than InactivityTimeout.
	Timeout time.Duration

	// ConnectTimeout limits name lookup, connecting and the TLS handshake together. Zero:
	// 30 s. Negative: no limit.
	ConnectTimeout time.Duration

	// InactivityTimeout ends a request if no byte of it could be sent or received for
	// InactivityTimeout, or up to an eighth longer. It does not run while OnBody has the
	// data, or while reading is paused. Zero: 60 s. Negative: no limit.
	InactivityTimeout time.Duration

	// IdleTimeout is how long an idle connection is kept for the next request. The time is
	// shorter if the server announces that in the field Keep-Alive. A connection is closed
	// at once if the server ends it, or sends data on it while it is idle. Zero: 60 s.
	// Negative: no idle connections are kept.
	IdleTimeout time.Duration

	// MaxConnsPerHost limits the connections per host, where a host is a scheme, a name
	// and a port. Further requests wait, first come, first served, and their timeout runs
	// meanwhile. Zero: 512. Negative: no limit.
	MaxConnsPerHost int

	// MaxIdlePerHost limits the idle connections per host. Zero: 256. Negative: no idle
	// connections are kept.
	MaxIdlePerHost int

	// MaxIdle limits the idle connections to all hosts together. The connection that has
	// been idle longest is closed first. Zero: 512. Negative: no idle connections are
	// kept.
	MaxIdle int

	// MaxHeaderBytes limits the head of a response, including interim responses (1xx). It
	// also limits the trailer fields, separately. Zero: 64 KB. Negative: no limit.
	MaxHeaderBytes int

	// MaxBodyBytes limits the body of a response before and after decompression. It does
	// not apply to bodies that go to OnBody. Zero: 64 MB. Negative: no limit.
	MaxBodyBytes int

	// DisableKeepAlives sends each request on a new connection, with "Connection: close".
	DisableKeepAlives bool

	// UserAgent is sent unless the request has a User-Agent field. Empty: "eventloop".
	UserAgent string

	// Transport sends the requests in place of the client: for HTTP/2, for
	// instrumentation, or as a double in a test. Everything else stays the same: futures,
	// callbacks, streams, Timeout, MaxBodyBytes, redirects (which the client follows),
	// cookies, decompression. RoundTrip, and Read of the body, are called on a goroutine of
	// the request. They must return when the context of the http.Request ends; otherwise
	// the end of the loop waits for them, for Config.WorkGrace at most. If they panic, the
	// request fails; without Config.CatchPanics the panic also ends the loop and leaves
	// Run. The transport belongs to the application, which closes its connections.
	//
	// Each request fails if a setting is made that would have no effect: TLS,
	// ConnectTimeout, InactivityTimeout, IdleTimeout, MaxConnsPerHost, MaxIdlePerHost,
	// MaxIdle, MaxHeaderBytes, DisableKeepAlives, Proxy and Dial, and in HTTPOptions
	// UnixSocket and Upgrade. HTTPResponse.Reused, RemoteAddr and most of Timing are
	// zero, and Headers are sorted by name. After a redirect, a BodyReader is sent again
	// only with HTTPOptions.GetBody. The GetBody of the http.Request is set if there is an
	// HTTPOptions.GetBody or a Body, so that the transport can also retry the request. If
	// the request does not ask for compression, http.Transport may ask for it, and
	// decompress the body.
	Transport http.RoundTripper

	// Jar stores the cookies of the client, as in net/http. The cookies that it has for
	// a URL are sent, including after a redirect. It receives the cookies that a
	// response sets, including those of a redirect. Cookies in a Cookie field of
	// HTTPOptions.Headers are sent before those of Jar; such a cookie is no longer sent
	// after a redirect whose response sets a cookie with its name. The methods of Jar
	// are called on a goroutine of the request, not on the loop. They must be safe for
	// concurrent use, as those of package net/http/cookiejar are. If they panic, the
	// panic is the error of the request. If Jar is nil, cookies are neither stored nor
	// sent.
	Jar http.CookieJar

	// Proxy returns the proxy for a request to u, or nil for none. The scheme of a proxy
	// is http, https, socks5 or socks5h. The client sends the URL's user and password to
	// the proxy. It requests a tunnel (CONNECT) from an HTTP proxy only for https and for
	// upgrades; if the proxy refuses, the error contains an [*HTTPStatusError]. A SOCKS
	// proxy resolves the name of the server, with either scheme; its default port is
	// 1080. Proxy is called on a goroutine of the request, not on the loop. If Proxy is
	// nil, the client uses the environment variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY,
	// as net/http does, and ALL_PROXY in place of HTTP_PROXY or HTTPS_PROXY if it is not
	// set. Lower case works, too. NewHTTPClient reads the variables.
	Proxy func(u *url.URL) (*url.URL, error)

	// Dial connects to a server or a proxy, in place of the loop's own resolver and
	// dialer. It is called on a goroutine of the request. The network is "tcp" or "unix".
	// When ctx ends, the request does not wait for Dial, but Dial should return: the end
	// of the loop waits for it, for Config.WorkGrace at most. A connection that it returns
	// after that is closed. The request fails if Dial returns an error or a nil
	// connection, calls Goexit, or, with Config.CatchPanics, panics; by default a panic
	// ends the loop and leaves Run.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NoProxy is a value for [HTTPClientConfig.Proxy]. The client uses no proxy, regardless of
// the environment.
func NoProxy(*url.URL) (*url.URL, error) { return nil, nil }

// isNoProxy reports whether f is NoProxy. NoProxy may be called on any goroutine, so its
// requests get idle connections like those without a Proxy of the application.
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

// environmentProxy returns the Proxy that the environment describes. net/http does not
// support ALL_PROXY, which is the usual variable for SOCKS proxies.
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

// atMost resolves a limit. Zero selects the default. A negative n means that nothing is
// kept, and becomes zero.
func atMost(n, byDefault int) int {
	if n == 0 {
		return byDefault
	}
	return max(n, 0)
}

// httpTLS returns a copy of conf that negotiates only HTTP/1.1, and resumes sessions.
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

// An HTTPClient sends requests, and keeps idle connections for the next requests
// (http-client). Idle connections do not keep the loop alive, and are closed when the
// loop ends. [NewHTTPClient] and [Loop.HTTP] return clients. All methods may be called
// from any goroutine.
type HTTPClient struct {
	loop     *Loop
	cfg      HTTPClientConfig
	pool     *httpclient.Pool
	ownProxy bool                      // cfg.Proxy is the application's
	conflict error                     // a setting that has no effect with cfg.Transport
	open     handle                    // of the pool: registered while there are connections, unref'd
	last     atomic.Pointer[httpPlace] // of the last request: see place
	lastTrip atomic.Pointer[httpPlace] // of the last one of a RoundTripper

	mu      sync.Mutex // guards the fields below
	running int        // the number of goroutines of connections
	ended   bool       // the loop is ending
}

// HTTP returns the loop's own client. Its settings are Config.HTTPClient.
func (l *Loop) HTTP() *HTTPClient {
	l.httpOnce.Do(func() { l.http = NewHTTPClient(l, l.cfg.HTTPClient) })
	return l.http
}

// NewHTTPClient returns a client with its own settings and connections. It need not be
// closed. A nil config means the zero HTTPClientConfig. NewHTTPClient copies config.
func NewHTTPClient(l *Loop, config *HTTPClientConfig) *HTTPClient {
	checkLoop(l)
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

// HTTPOptions holds the optional parts of a request. A nil *HTTPOptions means the zero
// HTTPOptions. The client copies the struct. Headers and Body must not change until the
// request has ended.
type HTTPOptions struct {
	// Headers are sent in order, and their names are sent unchanged. Host, User-Agent
	// and, with Decompress, Accept-Encoding are added if they are missing. A User-Agent
	// with an empty value is not sent. Connection, Content-Length, Transfer-Encoding and
	// the other fields of the connection are not sent, because they could break the
	// framing. "Connection: close" has the effect of Close. With "Expect: 100-continue",
	// the body waits until the server wants it, for a second at most; without a body the
	// field is not sent.
	Headers HTTPHeaders

	// Host is sent in place of the host of the URL. The client still connects to the
	// host of the URL, and verifies it. Host may have a port. A value that is not a
	// host, here or in a Host field of Headers, is an error that matches ErrHTTPHeader.
	Host string

	// Body is the body of the request. If it is empty, the client sends
	// "Content-Length: 0" with methods that usually have a body, such as POST.
	Body []byte

	// BodyReader supplies the body in place of Body. It is read on a goroutine of the
	// request, never on the loop, until io.EOF; any other error fails the request. Each
	// piece is sent when it has been read. If BodyReader is an io.Closer, it is closed
	// exactly once, when it is no longer needed, and always before the loop ends. That may
	// be while a Read waits; the Read must return then. A panic in Read or Close is always
	// the error of the future.
	//
	// If BodyReader is an *os.File whose Close does not interrupt a Read, such as os.Stdin
	// if it is a terminal or a pipe, a request that ends leaves the file in its Read.
	// Neither the request nor the loop waits for the Read and for Close. The Read ends with
	// the next input, which is lost, or with the process. See [ReadFrom]. With
	// HTTPClientConfig.Transport this depends on the transport: http.Transport waits for
	// the Read.
	//
	// A request with a BodyReader is sent again (see Do and MaxRedirects) only if the body
	// can be read again. This is the case if none of it was read, for example because the
	// server refused it after "Expect: 100-continue"; if GetBody is set; or if the reader
	// is an [io.Seeker]. A Seeker is set back to its first position, and is closed only
	// when it cannot be needed again; if that Seek fails, so does the request. A reader
	// whose first Seek fails, such as a pipe, cannot be read again.
	BodyReader io.Reader

	// GetBody returns the body again, from its beginning, as in net/http. It is called on
	// a goroutine of the request, and only if BodyReader has been read. With
	// HTTPClientConfig.Transport it is called after each redirect that sends the body
	// again, and when the transport asks for the body. Each reader that it returns is
	// closed exactly once; without a Transport, the last reader is closed before GetBody is
	// called. Its error is the error of the request. A *bytes.Buffer needs no GetBody, but
	// its bytes must not change until the request has ended.
	GetBody func() (io.ReadCloser, error)

	// ContentLength is the number of bytes that BodyReader returns. Zero means unknown,
	// and the body is sent in chunks. These readers have a known length: *bytes.Buffer,
	// *bytes.Reader, *strings.Reader, [http.NoBody], and an *os.File that is a regular
	// file, from its offset to its end. If BodyReader returns more or fewer bytes, for
	// example because the file has changed, the request fails with [ErrHTTPBodyLength],
	// and the server never gets a complete body. Without a BodyReader, a value other than
	// zero or the length of Body is the same error.
	ContentLength int64

	// Trailers are fields that follow the body, which is then sent in chunks. The field
	// Trailer announces their names. The values may be set until BodyReader returns
	// io.EOF, by its Read or before: this way you can send a checksum of the body. Fields
	// that must not follow the body (RFC 9110 section 6.5.1), and Trailers together with a
	// ContentLength, are errors. Servers may ignore trailers.
	Trailers HTTPHeaders

	// Timeout limits the request from the call to the last byte of the response:
	// waiting for a connection, name lookup, connecting, TLS, redirects. Zero:
	// HTTPClientConfig.Timeout. Negative: no limit.
	Timeout time.Duration

	// MaxRedirects limits the number of redirects that are followed. One more is an error
	// that matches ErrHTTPRedirects. Zero: 10 with CheckRedirect, otherwise none. Negative:
	// none. If none are followed, the redirect response is the result. For 301, 302 and
	// 303, methods other than HEAD become GET, without a body. For 307 and 308, the same
	// request is sent again; if its BodyReader cannot be read again, the response is the
	// result. The fields Authorization and Cookie of Headers are not sent to another
	// scheme, host or port.
	MaxRedirects int

	// CheckRedirect is called on the loop before a redirect is followed, at most
	// MaxRedirects times. res is the redirect response: res.URL is the URL that it is
	// from, res.Redirects is the number of redirects before it, and its body is not read
	// yet. next is its target; changing next has no effect. If CheckRedirect returns
	// [http.ErrUseLastResponse], res is the result, with its body. Any other error fails
	// the request, and the error of the future matches it. CheckRedirect is not called for
	// a redirect that would not be followed, and not after the end of ctx.
	CheckRedirect func(res *HTTPResponse, next *url.URL) error

	// Jar replaces HTTPClientConfig.Jar, so that sessions with separate cookies can share
	// the connections of a client. Nil: HTTPClientConfig.Jar.
	Jar http.CookieJar

	// OnResponse is called on the loop when the head of the response has arrived: once
	// per request, before the first OnBody and before the future has its result. The
	// client reads nothing more until it has returned. res is the later result of the
	// future, except that Body, Trailers and Timing.Total are not known yet, and that,
	// with Decompress and without OnBody, Headers still has Content-Encoding and
	// Content-Length. To end the request in OnResponse, end its ctx.
	//
	// OnResponse is called for each response that is the result, regardless of its status,
	// and also if it has no body, such as a response to HEAD. It is not called for interim
	// responses (1xx, except 101), for a redirect that is followed, if the request fails
	// before the head has arrived, and after the end of ctx. If the request fails later,
	// only the future reports it.
	OnResponse func(res *HTTPResponse)

	// OnBody is called on the loop with each piece of the response body as it arrives.
	// HTTPResponse.Body stays nil. The client reads nothing more until OnBody has
	// returned; see also HTTPResponse.PauseReading. res is the later result of the future,
	// except that Trailers and Timing.Total are not known yet. data is valid until OnBody
	// returns. All calls come before the future has its result. OnBody is not called if
	// the body is empty, for a redirect that is followed, and after the end of ctx.
	OnBody func(res *HTTPResponse, data []byte)

	// Decompress asks for a compressed response (gzip, br, zstd; with OnBody only gzip)
	// and decompresses it. Then the Headers of the response do not have Content-Encoding
	// and Content-Length. A response with another coding, or with several, is not
	// decompressed. Neither is the response to a request with a Range field, which does
	// not ask for a coding, because a part cannot be decompressed. Bytes after the
	// compressed data are ignored. A zstd frame may need a window of 8 MB.
	Decompress bool

	// Upgrade, if not nil, asks the server for another protocol. Headers must have the
	// field Upgrade, which names the protocol; "Connection: Upgrade" is added. If the
	// response is 101, the connection becomes HTTPResponse.Conn, with the callbacks and
	// settings of Upgrade. A 101 whose Upgrade field names none of the requested
	// protocols, ignoring case, is an error that matches ErrHTTPMalformed. Any other
	// response is an ordinary result. The schemes ws and wss mean http and https. See also
	// [HTTPClient.Upgrade].
	Upgrade *ConnConfig

	// UnixSocket is the path of a unix socket to connect to, regardless of the host of
	// the URL. No proxy is used then.
	UnixSocket string

	// Close sends "Connection: close", and closes the connection after the response.
	Close bool

	mustUpgrade bool // any response but 101 is an error
}

// An HTTPResponse is the response to a request. It does not change after the future of the
// request has its result. OnResponse and OnBody are called before that.
type HTTPResponse struct {
	Status int    // such as 200
	Reason string // such as "OK"; may be empty
	Proto  string // such as "HTTP/1.1"

	// Headers are the header fields in order, including duplicates, with names in
	// canonical case: "Content-Type".
	Headers HTTPHeaders

	// Trailers are the fields after a chunked body, without the fields that must not be
	// there (RFC 9110 section 6.5.1): those for framing, routing, credentials, and the
	// format of the body.
	Trailers HTTPHeaders

	// Body is the whole body; nil with OnBody.
	Body []byte

	// Conn is the upgraded connection after a 101 that HTTPOptions.Upgrade requested, and
	// otherwise nil. It is not set yet in OnResponse.
	Conn *Conn

	// URL is the URL that the response is from, the last one after redirects, without user
	// and password.
	URL        string
	Redirects  int  // the number of redirects that were followed
	Reused     bool // the connection has served an earlier request
	RemoteAddr net.Addr
	TLS        *tls.ConnectionState // nil without TLS
	Timing     HTTPTiming

	stream *httpStream // of OnResponse and OnBody
}

// Header returns the value of the first header field with that name, or "" if there is
// none.
func (r *HTTPResponse) Header(name string) string { return r.Headers.Get(name) }

// An HTTPTiming holds the durations of the parts of a request. After redirects, the fields
// before FirstByte are those of the last connection. They are zero if it was reused.
type HTTPTiming struct {
	Wait      time.Duration // waiting for a connection to the host
	Lookup    time.Duration // name lookup
	Connect   time.Duration // connecting to the server or the proxy, without Lookup
	TLS       time.Duration // the handshake
	FirstByte time.Duration // from the call to the first byte of the response
	Total     time.Duration // from the call to the last byte of the response
}

// Get is [HTTPClient.Do] with the method GET and no options.
func (c *HTTPClient) Get(ctx context.Context, url string) *Future[*HTTPResponse] {
	return c.do(ctx, "GET", url, nil, callSite())
}

// Do sends a request and returns at once. The scheme of the URL is http or https. If the
// URL has a user and password, they are sent as basic authorization. An empty method means
// GET.
//
// A complete response is a result, regardless of its status. Otherwise the future fails
// with an [*OpError] that matches [ErrHTTP] and its cause: [ErrTimeout], [ErrRefused],
// [ErrReset], [ErrDNS], io.EOF if the server ended the connection before the response,
// io.ErrUnexpectedEOF if it ended the connection within the response,
// [ErrHTTPMalformed], [ErrHTTPTooLarge], [ErrHTTPRedirects], [*HTTPStatusError], the
// errors of package tls, or the cause of ctx. An invalid URL, method or header field
// ([ErrHTTPHeader]) also fails the future.
//
// When ctx ends, the request ends at once, in any phase, and its connection is closed. A
// pending request keeps the loop alive.
//
// A request is retried, on a new connection, in two cases. If none of it was sent because
// an idle connection had ended, it is sent on another connection, as often as necessary.
// If it was sent on a reused connection that the server ended without a single byte of a
// response, it is sent once more, if its method is idempotent (RFC 9110 section 9.2.2)
// and its body can be read again: see [HTTPOptions.BodyReader].
func (c *HTTPClient) Do(ctx context.Context, method, url string, opts *HTTPOptions) *Future[*HTTPResponse] {
	return c.do(ctx, method, url, opts, callSite())
}

func (c *HTTPClient) do(ctx context.Context, method, url string, opts *HTTPOptions, at uintptr) *Future[*HTTPResponse] {
	checkContext(ctx)
	l := c.loop
	call := &httpCall{client: c, ctx: ctx, rawURL: url, opts: &noOptions, begun: time.Now(), at: at}
	if opts != nil {
		own := *opts
		call.opts = &own
		if own.Upgrade != nil {
			call.rawURL = httpScheme(url)
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
			go call.closeUnused() // Do must not run code of the application
		}
		return failedFuture[*HTTPResponse](l, err)
	}
	call.future.loop = l
	l.count.httpSent.Add(1)
	call.begin(method)
	return &call.future
}

// CloseIdle closes the idle connections. With HTTPClientConfig.Transport, it calls the
// transport's CloseIdleConnections method if it has one.
func (c *HTTPClient) CloseIdle() {
	c.pool.CloseIdle()
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// goroutineBegun counts a goroutine of a connection, or one that writes for it. With the
// first one, the client registers with the loop, so that it ends with the loop.
func (c *HTTPClient) goroutineBegun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running++; c.running > 1 || c.ended {
		return
	}
	c.open.unref = true
	if err := c.loop.register(&c.open, c, kindHTTPPool, false); err != nil {
		c.ended = true
		c.pool.Close() // the loop is ending
	}
}

// goroutineEnded undoes goroutineBegun. With the last goroutine, the client unregisters.
func (c *HTTPClient) goroutineEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running--; c.running == 0 {
		c.loop.unregisterAside(&c.open)
	}
}

// terminate closes the idle connections, and those that become idle later.
func (c *HTTPClient) terminate() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.pool.Close()
}

func (c *HTTPClient) describe() string { return "" }
