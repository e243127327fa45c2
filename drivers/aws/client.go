package awsloop

import (
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/onloop/eventloop"
)

// Config returns a copy of cfg whose clients send their requests through l.HTTP(): they
// use its connections, its name resolution, its limits and its statistics, and nothing of
// them is left when the loop ends. Everything else of cfg stays.
//
// The clients of the result must be called on goroutines other than the loop's, which is
// what [Call] and [Pages] do. A request that is sent in a callback fails with
// [eventloop.ErrOnLoop].
func Config(l *eventloop.Loop, cfg aws.Config) aws.Config {
	cfg = cfg.Copy()
	cfg.HTTPClient = HTTPClient(l.HTTP())
	return cfg
}

// HTTPClient returns c as the HTTP client of an [aws.Config], for a client with settings
// of its own:
//
//	cfg.HTTPClient = awsloop.HTTPClient(eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{...}))
//
// It is also what [config.WithHTTPClient] takes, for providers of credentials that send
// requests. The time without a byte is bounded by HTTPClientConfig.InactivityTimeout, by
// default a minute; the SDK has no such bound.
//
// As the SDK's own client does, it follows redirects with status 307 and 308, and no
// others. Unlike that client, it follows them only on the host of the request, and not from
// https to http: nothing of a request, which may carry credentials in its headers and in its
// body, is sent elsewhere. Any other redirect is the error of the operation, such as
// TemporaryRedirect of S3.
//
// [config.WithHTTPClient]: https://pkg.go.dev/github.com/aws/aws-sdk-go-v2/config#WithHTTPClient
func HTTPClient(c *eventloop.HTTPClient) aws.HTTPClient {
	return &http.Client{Transport: c.RoundTripper(), CheckRedirect: checkRedirect}
}

// maxRedirects is as in net/http.
const maxRedirects = 10

// checkRedirect decides whether a redirect is followed. The service client makes an error
// of the response to a request that is not redirected.
//
// To follow a redirect to another host and delete the credentials would not be safe: a
// session token, a key of S3 for server-side encryption and the tokens of other services are
// headers of many names, and a request for credentials has secrets in its body. It would not
// be useful either, because a signature covers the Host header.
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

// staysOnHost reports whether a redirect leaves the Host header as it is, and does not end
// encryption.
func staysOnHost(from, to *url.URL) bool {
	return from.Host == to.Host && (from.Scheme == to.Scheme || to.Scheme == "https")
}
