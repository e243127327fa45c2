package drakma

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/onloop/eventloop"
)

// secretWords are in the names of fields that have credentials.
var secretWords = []string{"authorization", "cookie", "token", "secret", "password", "api-key", "apikey"}

// redact returns the value of a field as it is logged. Of authorization the scheme stays.
func redact(name, value string) string {
	name = strings.ToLower(name)
	for _, w := range secretWords {
		if !strings.Contains(name, w) {
			continue
		}
		if scheme, _, ok := strings.Cut(value, " "); ok && strings.HasSuffix(name, "authorization") {
			return scheme + " ***"
		}
		return "***"
	}
	return value
}

// log writes a head to Options.Log. Its error is a panic of that.
func (c *Client) log(first string, fields ...eventloop.HTTPHeaders) (err error) {
	var b strings.Builder
	b.WriteString(first + "\n")
	for _, list := range fields {
		for _, f := range list {
			b.WriteString(f.Name + ": " + redact(f.Name, f.Value) + "\n")
		}
	}
	b.WriteString("\n")
	c.logMu.Lock()
	defer c.logMu.Unlock()
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	c.opts.Log.Write([]byte(b.String()))
	return nil
}

func (c *Client) logRequest(method string, u *url.URL, opts *eventloop.HTTPOptions) error {
	if c.opts.Log == nil {
		return nil
	}
	host := opts.Host
	if host == "" {
		host = u.Host
	}
	return c.log(method+" "+u.RequestURI()+" HTTP/1.1", eventloop.HTTPHeaders{{Name: "Host", Value: host}}, opts.Headers)
}

func (c *Client) logResponse(res *eventloop.HTTPResponse) error {
	if c.opts.Log == nil {
		return nil
	}
	return c.log(strings.TrimRight(fmt.Sprintf("%s %d %s", res.Proto, res.Status, res.Reason), " "), res.Headers)
}
