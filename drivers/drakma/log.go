package drakma

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/onloop/eventloop"
)

// secretWords are parts of the names of fields that may contain credentials.
var secretWords = []string{"auth", "cookie", "credential", "key", "passw", "secret", "session", "signature", "token"}

// userInfo matches the user and password in URLs.
var userInfo = regexp.MustCompile(`://[^/?#\s]*@`)

// oneLine keeps a value on its line, if it is invalid and will not be sent.
var oneLine = strings.NewReplacer("\r", `\r`, "\n", `\n`)

// redact returns the value of a field for the log, without credentials.
func redact(name, value string) string {
	name = strings.ToLower(name)
	secret := func(word string) bool { return strings.Contains(name, word) }
	if strings.HasSuffix(name, "authenticate") || !slices.ContainsFunc(secretWords, secret) { // a challenge is no secret
		return userInfo.ReplaceAllLiteralString(value, "://***@")
	}
	if scheme, _, ok := strings.Cut(value, " "); ok && strings.HasSuffix(name, "authorization") {
		switch strings.ToLower(scheme) {
		case "basic", "bearer", "digest":
			return scheme + " ***"
		}
	}
	return "***"
}

// log writes a header to Options.Log. It returns an error only if Options.Log panics.
func (c *Client) log(first string, fields ...eventloop.HTTPHeaders) (err error) {
	var b strings.Builder
	b.WriteString(oneLine.Replace(first) + "\n")
	for _, list := range fields {
		for _, f := range list {
			b.WriteString(oneLine.Replace(f.Name+": "+redact(f.Name, f.Value)) + "\n")
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
	var line eventloop.HTTPHeaders
	switch {
	case opts.Host != "":
		line.Add("Host", opts.Host)
	case opts.Headers.Values("Host") == nil:
		line.Add("Host", u.Host)
	}
	return c.log(method+" "+u.RequestURI()+" HTTP/1.1", line, opts.Headers)
}

func (c *Client) logResponse(res *eventloop.HTTPResponse) error {
	if c.opts.Log == nil {
		return nil
	}
	return c.log(strings.TrimRight(fmt.Sprintf("%s %d %s", res.Proto, res.Status, res.Reason), " "), res.Headers)
}
