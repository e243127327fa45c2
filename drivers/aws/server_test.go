package awsloop_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

// A request is what a recorder has received.
type request struct {
	method, uri, body string
	header            http.Header
}

// A recorder is a server that notes each request, and answers by a function.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	reqs []request
}

// record starts a recorder. answer gets the number of the request, from 0 on.
func record(answer func(n int, w http.ResponseWriter, r *http.Request)) *recorder {
	s := &recorder{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		n := len(s.reqs)
		s.reqs = append(s.reqs, request{r.Method, r.RequestURI, string(body), r.Header})
		s.mu.Unlock()
		answer(n, w, r)
	}))
	return s
}

func (s *recorder) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reqs[:len(s.reqs):len(s.reqs)]
}

// xmlAnswer answers with a status and a document.
func xmlAnswer(status int, body string) func(n int, w http.ResponseWriter, r *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

const invalidationCreated = `<?xml version="1.0"?><Invalidation><Id>I1</Id><Status>InProgress</Status></Invalidation>`

const accessDenied = `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error><RequestId>r1</RequestId></ErrorResponse>`

// config returns a configuration for the server, with clients on the loop.
func config(l *eventloop.Loop, url string) aws.Config {
	return awsloop.Config(l, aws.Config{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(url),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "SESSION"}, nil
		}),
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
		},
	})
}

// onLoop runs f on a loop, with a client of CloudFront at the server and with workers, and
// fails if the loop does not end.
func onLoop(t *testing.T, s *recorder, f func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client)) {
	t.Helper()
	defer s.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(l, eventloop.NewWorkers(l, 4, "cloudfront"), cloudfront.NewFromConfig(config(l, s.URL)))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
