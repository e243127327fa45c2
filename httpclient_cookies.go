package eventloop

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// jar returns the cookie jar of the request, or nil if there is none.
func (c *httpCall) jar() http.CookieJar {
	if c.trip != nil {
		return nil
	}
	if c.opts.Jar != nil {
		return c.opts.Jar
	}
	return c.client.cfg.Jar
}

// loadCookies gets the cookies of the request from the jar.
func (c *httpCall) loadCookies() error {
	jar := c.jar()
	if jar == nil {
		return nil
	}
	u, r := c.cookieURL(), http.Request{Header: make(http.Header)}
	err := c.asideFor("Cookies of", jar, func() error {
		for _, cookie := range jar.Cookies(u) {
			r.AddCookie(cookie)
		}
		return nil
	})
	if err == nil {
		c.more().cookies = r.Header.Get("Cookie")
	}
	return err
}

// asideFor calls f with Loop.aside. f calls method of of, a value of the application.
func (c *httpCall) asideFor(method string, of any, f func() error) error {
	return c.client.loop.aside(func() string { return fmt.Sprintf("%s %T of the request %s", method, of, c.describe()) }, f)
}

// storeCookies stores the cookies of a response in the jar.
func (c *httpCall) storeCookies(resp *httpclient.Response) error {
	jar := c.jar()
	if jar == nil {
		return nil
	}
	set := cookiesOf(headersOf(resp.Fields, 0))
	if len(set) == 0 {
		return nil
	}
	u := c.cookieURL()
	return c.asideFor("SetCookies of", jar, func() error { jar.SetCookies(u, set); return nil })
}

// cookieURL returns the URL for the cookie jar. As in net/http, its host is the value of the
// Host field.
func (c *httpCall) cookieURL() *url.URL {
	u := *c.target.u
	u.User, u.Host = nil, c.hostField()
	return &u
}

// cookiesOf returns the cookies that a response sets.
func cookiesOf(headers HTTPHeaders) []*http.Cookie {
	lines := headers.Values("Set-Cookie")
	if lines == nil {
		return nil
	}
	r := http.Response{Header: http.Header{"Set-Cookie": lines}}
	return r.Cookies()
}

// cookieField returns the value of the Cookie field: the cookies of the caller, then those of
// the jar, as in net/http. A request has only one such field (RFC 6265 section 5.4).
func (c *httpCall) cookieField(jar string) string {
	return strings.Join(append(c.opts.Headers.Values("Cookie"), jar), "; ")
}

// overrideCookies removes the cookies that a response has set from the cookies of the caller,
// because the jar has the new values. The domains and paths of the caller's cookies are
// unknown, so only the names count, as in net/http.
func (c *httpCall) overrideCookies(set []*http.Cookie) {
	if len(set) == 0 {
		return
	}
	headers := slices.Clone(c.opts.Headers)
	for i := range headers {
		if f := &headers[i]; http1.EqualFold(f.Name, "Cookie") {
			f.Value = withoutCookies(f.Value, set)
		}
	}
	c.opts.Headers = slices.DeleteFunc(headers, func(f HTTPHeader) bool {
		return f.Value == "" && http1.EqualFold(f.Name, "Cookie")
	})
}

// withoutCookies removes the cookies whose names are in set from a Cookie field.
func withoutCookies(field string, set []*http.Cookie) string {
	var kept []string
	for pair := range strings.SplitSeq(field, ";") {
		pair = strings.TrimSpace(pair)
		name, _, _ := strings.Cut(pair, "=")
		named := func(c *http.Cookie) bool { return c.Name == name }
		if pair != "" && !slices.ContainsFunc(set, named) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "; ")
}
