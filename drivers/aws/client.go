package awsloop

import (
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/onloop/eventloop"
)

// Config returns a copy of cfg whose clients send their requests through l.HTTP(): they use
// its connections, its name resolution, its limits and its statistics, and leave no
// connection or goroutine when the loop ends. The rest of cfg is unchanged.
//
// Clients with the returned Config must be called on goroutines other than the loop's, as
// [Call] and [Pages] do. A request that is sent in a callback fails with
// [eventloop.ErrOnLoop].
//
// Config panics if l is nil.
func Config(l *eventloop.Loop, cfg aws.Config) aws.Config {
	if l == nil {
		panic("awsloop: nil Loop")
	}
	cfg = cfg.Copy()
	cfg.HTTPClient = HTTPClient(l.HTTP())
	return cfg
}

// HTTPClient returns c as the HTTP client of an [aws.Config], for a client with its own
// settings:
//
//	cfg.HTTPClient = awsloop.HTTPClient(eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{...}))
//
// [config.WithHTTPClient] accepts the result, too, for credential providers that send
// requests. HTTPClientConfig.InactivityTimeout, by default a minute, limits the time
// without a received byte; the SDK has no such limit.
//
// Like the SDK's own client, it follows only redirects with status 307 and 308. Unlike that
// client, it follows them only on the host of the request, and not from https to http. A
// request may carry credentials in its headers and in its body, so no part of it is sent
// elsewhere. Any other redirect is the error of the operation, such as TemporaryRedirect of
// S3.
//
// HTTPClient panics if c is nil.
//
// [config.WithHTTPClient]: https://pkg.go.dev/github.com/aws/aws-sdk-go-v2/config#WithHTTPClient
func HTTPClient(c *eventloop.HTTPClient) aws.HTTPClient {
	if c == nil {
		panic("awsloop: nil HTTPClient")
	}
	return &http.Client{Transport: c.RoundTripper(), CheckRedirect: checkRedirect}
}

// maxRedirects is the limit of net/http.
const maxRedirects = 10

// checkRedirect decides whether to follow a redirect. If it is not followed, the service
// client converts the response to an error.
//
// It would not be safe to follow a redirect to another host and delete the credentials:
// session tokens, S3 keys for server-side encryption and the tokens of other services are in
// headers with many names, and a request for credentials has secrets in its body. It would
// not be useful either, because a signature covers the Host header.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if next.Response == nil || len(via) >= maxRedirects || !staysOnHost(via[0].URL, next.URL) {
		return http.ErrUseLastResponse
	}
	switch next.Response.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return nil
	}
	return http.ErrUseLastResponse
}

// staysOnHost reports whether a redirect keeps the Host header, and does not switch from
// https to http.
func staysOnHost(from, to *url.URL) bool {
	return from.Host == to.Host && (from.Scheme == to.Scheme || to.Scheme == "https")
}
