package eventloop

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// An httpTarget is a URL that a request can be sent to.
type httpTarget struct {
	u    *url.URL
	name string // the server's name, to resolve and to verify
	addr string // name:port
	host string // the field Host
	uri  string // path and query, escaped for the request line
}

var errNoHost = errors.New("URL without a host")

// parseTarget returns the target of a URL.
func parseTarget(raw string) (httpTarget, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The message of url.Error quotes the URL, and so does OpError.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return httpTarget{}, err
	}
	return newTarget(u)
}

func newTarget(u *url.URL) (httpTarget, error) {
	t := httpTarget{u: u}
	port := "80"
	switch u.Scheme {
	case "http":
	case "https":
		port = "443"
	default:
		return t, fmt.Errorf("scheme %q of the URL is not http or https", u.Scheme)
	}
	var err error
	if t.name, err = asciiHost(u.Hostname()); err != nil {
		return t, err
	}
	given := u.Port()
	if given != "" {
		port = given
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return t, fmt.Errorf("port %q of the URL is not valid", port)
		}
	}
	t.addr = joinHostPort(u.Host, t.name, port)
	if !http1.IsHost(t.addr) && strings.IndexByte(t.name, '%') < 0 {
		return t, fmt.Errorf("host %q of the URL is not valid", u.Host)
	}
	t.host = t.addr
	if given == "" {
		t.host = t.addr[:len(t.addr)-len(":")-len(port)]
	}
	if zone := strings.IndexByte(t.name, '%'); zone >= 0 {
		// A zone has a meaning only on this machine (RFC 6874 section 4).
		t.host = strings.Replace(t.host, t.name[zone:], "", 1)
	}
	t.uri = requestURI(u)
	return t, nil
}

// joinHostPort is like net.JoinHostPort. If host is the result already, it returns host,
// which saves an allocation for most URLs of services.
func joinHostPort(host, name, port string) string {
	if len(host) == len(name)+len(":")+len(port) && strings.HasPrefix(host, name) && strings.IndexByte(name, ':') < 0 {
		return host
	}
	return net.JoinHostPort(name, port)
}

// asciiHost returns the ASCII form of a host name, which is resolved and sent (RFC 5891).
func asciiHost(name string) (string, error) {
	plain := true
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 0x80, 'A' <= c && c <= 'Z':
			plain = false
		case c <= ' ' || c == 0x7f:
			return "", fmt.Errorf("host %q of the URL is not valid", name)
		}
	}
	if name == "" {
		return "", errNoHost
	}
	if plain {
		return name, nil
	}
	if isASCII(name) {
		// A zone is the name of an interface, and keeps its case.
		host, zone, zoned := strings.Cut(name, "%")
		if host = strings.ToLower(host); zoned {
			host += "%" + zone
		}
		return host, nil
	}
	if !utf8.ValidString(name) { // package idna would accept it as another name
		return "", fmt.Errorf("host %q of the URL is not valid", name)
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("host %q of the URL: %w", name, err)
	}
	return ascii, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// requestURI returns the target of the request line: path and query, escaped. It keeps the
// escapes of the caller. It also escapes bytes that net/url does not, in particular spaces
// in a query.
func requestURI(u *url.URL) string {
	s := u.RawPath // set if the caller's escapes differ from the default
	if s == "" {
		s = u.EscapedPath()
	}
	if s == "" {
		s = "/"
	}
	if u.ForceQuery || u.RawQuery != "" {
		s += "?" + u.RawQuery
	}
	if !isURI(s) {
		return escapeURI(s)
	}
	return s
}

// isURI reports whether all bytes of s may be in a URI.
func isURI(s string) bool {
	for i := range len(s) {
		if !uriByte(s[i]) {
			return false
		}
	}
	return true
}

// uriByte reports whether c is allowed anywhere in a URI (RFC 3986).
func uriByte(c byte) bool {
	switch c {
	case '"', '<', '>', '\\', '^', '`', '{', '|', '}':
		return false
	}
	return c > ' ' && c < 0x7f
}

func escapeURI(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if uriByte(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// sameOrigin reports whether credentials for t may be sent to o.
func (t *httpTarget) sameOrigin(o *httpTarget) bool {
	return t.u.Scheme == o.u.Scheme && t.addr == o.addr
}

// redirect returns the target of a Location field in a response from t.
func (t *httpTarget) redirect(location string) (httpTarget, error) {
	u, err := t.u.Parse(location)
	if err != nil {
		return httpTarget{}, fmt.Errorf("%w: Location %q", ErrHTTPMalformed, location)
	}
	if u.User == nil && u.Scheme == t.u.Scheme && u.Host == t.u.Host {
		u.User = t.u.User // as with a relative Location
	}
	if u.Fragment == "" {
		u.Fragment, u.RawFragment = t.u.Fragment, t.u.RawFragment // RFC 9110 section 10.2.2
	}
	next, err := newTarget(u)
	if err != nil {
		return next, fmt.Errorf("%w: Location %q: %w", ErrHTTPMalformed, location, err)
	}
	return next, nil
}

// basicAuth returns the value of the Authorization field for the user of a URL.
func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// redacted returns a URL without its password, for messages.
func redacted(raw string) string {
	if strings.IndexByte(raw, '@') < 0 {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "(URL that is not valid)" // it may contain a password
	}
	return u.Redacted()
}

// withoutUser returns the URL u without user and password. raw is the text of u.
func withoutUser(u *url.URL, raw string) string {
	if u.User == nil {
		return raw
	}
	own := *u
	own.User = nil
	return own.String()
}

// An httpRoute describes the connection to a target.
type httpRoute struct {
	key     httpclient.Key
	network string
	addr    string // the address to connect to
	proxy   *url.URL
	socks   bool // proxy is a SOCKS proxy
}

// An httpPlace is the cached target and route of a URL. It is immutable.
type httpPlace struct {
	rawURL string
	target httpTarget
	route  *httpRoute // nil if the goroutine of the request must find it
}

// place returns the target and route of a URL. It caches the last result, because many
// clients request the same URL again and again, and parsing takes longer than sending.
func (c *HTTPClient) place(rawURL string) (*httpPlace, error) {
	if p := c.last.Load(); p != nil && p.rawURL == rawURL {
		return p, nil
	}
	p := &httpPlace{rawURL: rawURL}
	var err error
	if p.target, err = parseTarget(rawURL); err != nil {
		return nil, err
	}
	p.findRoute(c)
	c.last.Store(p)
	return p, nil
}

// findRoute sets the route. It does not call a Proxy of the application. The goroutine of
// the request reports an error.
func (p *httpPlace) findRoute(c *HTTPClient) {
	if c.ownProxy {
		return
	}
	if r, err := c.route(&p.target, ""); err == nil {
		p.route = &r
	}
}

// tunnel reports whether the route is a tunnel through an HTTP proxy (CONNECT).
func (r *httpRoute) tunnel() bool { return r.proxy != nil && !r.socks && r.key.Addr != "" }

// absolute reports whether the request line has the whole URL, for an HTTP proxy.
func (r *httpRoute) absolute() bool { return r.proxy != nil && r.key.Addr == "" }

// route returns the route to t: through a unix socket, through a proxy, or directly.
func (c *HTTPClient) route(t *httpTarget, socket string) (httpRoute, error) {
	r := httpRoute{network: "tcp", addr: t.addr, key: httpclient.Key{Scheme: t.u.Scheme, Addr: t.addr}}
	if socket != "" {
		return *unixRoute(t, socket), nil
	}
	u := t.u
	if c.ownProxy {
		own := *u // the application may change it, and u may be cached
		u = &own
	}
	proxy, err := c.cfg.Proxy(u)
	if err != nil {
		return r, fmt.Errorf("proxy: %w", err)
	}
	if proxy == nil {
		return r, nil
	}
	switch proxy.Scheme {
	case "http", "https":
	case "socks5", "socks5h":
		r.socks = true
	default:
		return r, fmt.Errorf("proxy: scheme %q is not http, https, socks5 or socks5h", proxy.Scheme)
	}
	if r.addr, err = proxyAddr(proxy, r.socks); err != nil {
		return r, fmt.Errorf("proxy: %w", err)
	}
	r.proxy, r.key.Proxy = proxy, proxy.String()
	if t.u.Scheme == "http" && !r.socks {
		r.key.Addr = "" // one connection to the proxy can carry requests to any server
	}
	return r, nil
}

// throughTunnel returns r with a tunnel in place of an absolute request line. Few proxies
// forward requests with an absolute request line for protocols other than HTTP.
func throughTunnel(r *httpRoute, t *httpTarget) *httpRoute {
	if r == nil || !r.absolute() {
		return r
	}
	own := *r
	own.key.Addr = t.addr
	return &own
}

// unixRoute returns the route to t through a unix socket.
func unixRoute(t *httpTarget, socket string) *httpRoute {
	return &httpRoute{
		network: "unix", addr: socket,
		key: httpclient.Key{Scheme: t.u.Scheme, Addr: t.addr, Socket: socket},
	}
}

// proxyAddr returns the address of a proxy.
func proxyAddr(proxy *url.URL, socks bool) (string, error) {
	if socks {
		own := *proxy
		if own.Scheme = "http"; own.Port() == "" {
			own.Host = net.JoinHostPort(own.Hostname(), "1080")
		}
		proxy = &own
	}
	p, err := newTarget(proxy)
	return p.addr, err
}
