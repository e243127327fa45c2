package awsloop_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

const distribution = `<Distribution><Id>E1</Id></Distribution>`

func redirect(w http.ResponseWriter, status int, location string) {
	w.Header().Set("Location", location)
	w.WriteHeader(status)
}

// getDistribution requests a distribution on a loop, with a key in the headers as S3 has
// them, and returns the error.
func getDistribution(t *testing.T, s *recorder) (result error) {
	t.Helper()
	calls := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		withKey := func(o *cloudfront.Options) {
			o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("X-Amz-Server-Side-Encryption-Customer-Key", "KEY"))
		}
		in := &cloudfront.GetDistributionInput{Id: aws.String("E1")}
		awsloop.Call(background(), w, c.GetDistribution, in, withKey).Then(func(_ *cloudfront.GetDistributionOutput, err error) {
			calls++
			result = err
		})
	})
	if calls != 1 {
		t.Errorf("%d results", calls)
	}
	return result
}

func TestRedirectsWith307And308AreFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := record(func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 0 {
				redirect(w, status, "/elsewhere")
				return
			}
			xmlAnswer(200, distribution)(n, w, r)
		})
		err := getDistribution(t, s)
		reqs := s.requests()
		if status < 307 {
			if len(reqs) != 1 || err == nil {
				t.Errorf("%d: %d requests, %v", status, len(reqs), err)
			}
			continue
		}
		if len(reqs) != 2 || err != nil {
			t.Errorf("%d: %d requests, %v", status, len(reqs), err)
			continue
		}
		for _, name := range []string{"Authorization", "X-Amz-Security-Token", "X-Amz-Server-Side-Encryption-Customer-Key"} {
			if got, want := reqs[1].header.Get(name), reqs[0].header.Get(name); got != want || got == "" {
				t.Errorf("%d: %s is %q on the same host, want %q", status, name, got, want)
			}
		}
	}
}

// The other host redirects once more, to itself: net/http copies the headers of each hop
// from the first request, so a header that was deleted for one hop comes back at the next.
func TestNothingIsSentToAnotherHost(t *testing.T) {
	for _, hops := range []int{0, 1, 2} { // on the host itself, before
		for _, status := range []int{307, 308} {
			foreign := record(func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 0 {
					redirect(w, status, "/second")
					return
				}
				xmlAnswer(200, distribution)(n, w, r)
			})
			for _, host := range []string{"127.0.0.1", "localhost"} { // net/http compares names without ports
				s := record(func(n int, w http.ResponseWriter, r *http.Request) {
					if n < hops {
						redirect(w, status, "/again")
						return
					}
					redirect(w, status, strings.Replace(foreign.URL, "127.0.0.1", host, 1)+"/first")
				})
				err := getDistribution(t, s)
				if res, ok := errors.AsType[*awshttp.ResponseError](err); !ok || res.HTTPStatusCode() != status {
					t.Errorf("%d after %d hops, %s: %v, want an error with the status", status, hops, host, err)
				}
				if n := len(s.requests()); n != hops+1 {
					t.Errorf("%d after %d hops, %s: %d requests", status, hops, host, n)
				}
				for _, r := range foreign.requests() {
					t.Errorf("%d after %d hops, %s: the other host got %s with %v", status, hops, host, r.uri, r.header)
				}
			}
			foreign.Close()
		}
	}
}

func TestWhichRedirectsStayOnTheHost(t *testing.T) {
	client := awsloop.HTTPClient(eventloop.New(nil).HTTP()).(*http.Client)
	for _, c := range []struct {
		from, to string
		follow   bool
	}{
		{"https://films.s3.amazonaws.com/a", "https://films.s3.amazonaws.com/b?c", true},
		{"http://minio:9000/a", "http://minio:9000/b", true},
		{"http://minio/a", "https://minio/a", true},
		{"http://minio:9000/a", "https://minio:9000/a", true},
		{"https://films.s3.amazonaws.com/a", "http://films.s3.amazonaws.com/a", false},
		{"https://films.s3.amazonaws.com/a", "http://films.s3.amazonaws.com:443/a", false},
		{"https://films.s3.amazonaws.com/a", "https://films.s3.eu-west-1.amazonaws.com/a", false},
		{"https://s3.amazonaws.com/a", "https://films.s3.amazonaws.com/a", false},
		{"http://127.0.0.1:9000/a", "http://127.0.0.1:9001/a", false},
		{"http://minio:9000/a", "https://minio/a", false},
		{"http://[::1]:9000/a", "http://[::1]:9000/b", true},
	} {
		from, to := mustParse(c.from), mustParse(c.to)
		next := &http.Request{URL: to, Response: &http.Response{StatusCode: 307}, Header: http.Header{}}
		err := client.CheckRedirect(next, []*http.Request{{URL: from}})
		if (err == nil) != c.follow || err != nil && err != http.ErrUseLastResponse {
			t.Errorf("from %s to %s: %v", c.from, c.to, err)
		}
	}
}

func mustParse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}
