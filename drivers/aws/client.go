package awsloop

import (
	"net/http"

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
// requests. As the SDK's own client does, it follows redirects with status 307 and 308,
// and no others. The time without a byte is bounded by HTTPClientConfig.InactivityTimeout,
// by default a minute; the SDK has no such bound.
//
// [config.WithHTTPClient]: https://pkg.go.dev/github.com/aws/aws-sdk-go-v2/config#WithHTTPClient
func HTTPClient(c *eventloop.HTTPClient) aws.HTTPClient {
	return &http.Client{Transport: c.RoundTripper(), CheckRedirect: checkRedirect}
}

// maxRedirects is as in net/http.
const maxRedirects = 10

// checkRedirect does what the SDK's own HTTP client does. The service client makes an
// error of the response to a request that is not redirected.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if next.Response == nil || len(via) >= maxRedirects {
		return http.ErrUseLastResponse
	}
	switch next.Response.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return http.ErrUseLastResponse
	}
	if last := via[len(via)-1]; last.URL.Host != next.URL.Host {
		next.Header.Del("X-Amz-Security-Token") // net/http removes Authorization, which it knows
	}
	return nil
}
