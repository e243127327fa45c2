package awsloop_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront/types"
	"github.com/aws/smithy-go"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

func background() context.Context { return context.Background() }

// invalidation is a valid request.
func invalidation(paths ...string) *cloudfront.CreateInvalidationInput {
	return &cloudfront.CreateInvalidationInput{
		DistributionId: aws.String("E2QWRUHAPOMQZL"),
		InvalidationBatch: &types.InvalidationBatch{
			CallerReference: aws.String("deploy-17"),
			Paths:           &types.Paths{Items: paths, Quantity: aws.Int32(int32(len(paths)))},
		},
	}
}

func TestCallSendsAnInvalidation(t *testing.T) {
	s := record(xmlAnswer(http.StatusCreated, invalidationCreated))
	calls := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/index.html", "/img/*")).Then(func(out *cloudfront.CreateInvalidationOutput, err error) {
			calls++
			if err != nil || aws.ToString(out.Invalidation.Id) != "I1" || aws.ToString(out.Invalidation.Status) != "InProgress" {
				t.Errorf("%+v, %v", out, err)
			}
		})
	})
	if reqs := s.requests(); calls != 1 || len(reqs) != 1 {
		t.Fatalf("%d results, requests: %v", calls, reqs)
	}
	r := s.requests()[0]
	if want := "/2020-05-31/distribution/E2QWRUHAPOMQZL/invalidation"; r.method != "POST" || r.uri != want {
		t.Errorf("%s %s, want POST %s", r.method, r.uri, want)
	}
	for _, part := range []string{
		"<CallerReference>deploy-17</CallerReference>",
		"<Items><Path>/index.html</Path><Path>/img/*</Path></Items>",
		"<Quantity>2</Quantity>",
	} {
		if !strings.Contains(r.body, part) {
			t.Errorf("the body has no %s: %s", part, r.body)
		}
	}
	if auth := r.header.Get("Authorization"); !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKID/") || !strings.Contains(auth, "/us-east-1/cloudfront/aws4_request") {
		t.Errorf("Authorization: %s", auth)
	}
}

func TestErrorsStayThoseOfTheSDK(t *testing.T) {
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			xmlAnswer(http.StatusForbidden, accessDenied)(n, w, r)
		} else {
			xmlAnswer(http.StatusBadRequest, strings.ReplaceAll(accessDenied, "AccessDenied", "TooManyInvalidationsInProgress"))(n, w, r)
		}
	})
	calls := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		l.Go(background(), func(task *eventloop.Task) error {
			_, err := awsloop.Call(task.Context(), w, c.CreateInvalidation, invalidation("/")).Await(task)
			op, ok := errors.AsType[*smithy.OperationError](err)
			if !ok || op.Service() != "CloudFront" || op.Operation() != "CreateInvalidation" {
				t.Errorf("no operation: %v", err)
			}
			if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "AccessDenied" {
				t.Errorf("no code: %v", err)
			}
			if _, ok := errors.AsType[*types.AccessDenied](err); !ok {
				t.Errorf("not AccessDenied: %v", err)
			}
			_, err = awsloop.Call(task.Context(), w, c.CreateInvalidation, invalidation("/")).Await(task)
			if _, ok := errors.AsType[*types.TooManyInvalidationsInProgress](err); !ok {
				t.Errorf("not TooManyInvalidationsInProgress: %v", err)
			}
			calls++
			return nil
		})
	})
	if calls != 1 {
		t.Error("the task did not end")
	}
}

func TestInputThatTheSDKRefusesFailsTheFuture(t *testing.T) {
	s := record(xmlAnswer(200, ""))
	calls := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		failed := func(what string) func(*cloudfront.CreateInvalidationOutput, error) {
			return func(_ *cloudfront.CreateInvalidationOutput, err error) {
				if calls++; err == nil {
					t.Errorf("%s: no error", what)
				}
			}
		}
		awsloop.Call(background(), w, c.CreateInvalidation, nil).Then(failed("nil input"))
		awsloop.Call(background(), w, c.CreateInvalidation, &cloudfront.CreateInvalidationInput{}).Then(failed("empty input"))
		var none func(context.Context, *cloudfront.CreateInvalidationInput, ...func(*cloudfront.Options)) (*cloudfront.CreateInvalidationOutput, error)
		awsloop.Call(background(), w, none, invalidation("/")).Then(failed("nil operation"))
		var nilClient *cloudfront.Client
		awsloop.Call(background(), w, nilClient.CreateInvalidation, invalidation("/")).Then(failed("nil client"))
	})
	if n := len(s.requests()); calls != 4 || n != 0 {
		t.Errorf("%d failures, want 4; %d requests", calls, n)
	}
}

func TestTheSDKRepeatsWhatItsRetryerAllows(t *testing.T) {
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		if n < 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		xmlAnswer(http.StatusCreated, invalidationCreated)(n, w, r)
	})
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/")).Then(func(_ *cloudfront.CreateInvalidationOutput, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	})
	if n := len(s.requests()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestACanceledCallFailsWithTheCause(t *testing.T) {
	arrived := make(chan struct{}, 1)
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(background())
	calls := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Call(ctx, w, c.CreateInvalidation, invalidation("/")).Then(func(_ *cloudfront.CreateInvalidationOutput, err error) {
			calls++
			if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want the cause", err)
			}
			if _, ok := errors.AsType[*smithy.OperationError](err); !ok {
				t.Errorf("no operation: %v", err)
			}
			awsloop.Call(ctx, w, c.CreateInvalidation, invalidation("/")).Then(func(_ *cloudfront.CreateInvalidationOutput, err error) {
				if calls++; err != cause { // like the error of WorkOn
					t.Errorf("%v, want the cause", err)
				}
			})
		})
		eventloop.Receive(l, arrived, func(struct{}, bool) { cancel(cause) }).Unref()
	})
	if n := len(s.requests()); calls != 2 || n != 1 {
		t.Errorf("%d results, want 2; %d requests, want 1", calls, n)
	}
}

func TestSlowWorkersDoNotHoldUpOthers(t *testing.T) {
	release := make(chan struct{})
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.RequestURI, "slow") {
			<-release
		}
		xmlAnswer(http.StatusCreated, invalidationCreated)(n, w, r)
	})
	var order []string
	onLoop(t, s, func(l *eventloop.Loop, _ *eventloop.Workers, c *cloudfront.Client) {
		slow, fast := eventloop.NewWorkers(l, 1, "slow"), eventloop.NewWorkers(l, 1, "fast")
		call := func(w *eventloop.Workers, name string) *eventloop.Future[*cloudfront.CreateInvalidationOutput] {
			in := invalidation("/")
			in.DistributionId = aws.String(name)
			f := awsloop.Call(background(), w, c.CreateInvalidation, in)
			f.Then(func(_ *cloudfront.CreateInvalidationOutput, err error) {
				order = append(order, fmt.Sprint(name, err))
			})
			return f
		}
		call(slow, "slow")
		call(slow, "slow")
		call(fast, "fast").Then(func(*cloudfront.CreateInvalidationOutput, error) { close(release) })
	})
	if want := []string{"fast<nil>", "slow<nil>", "slow<nil>"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

func TestTheEndOfTheLoopEndsCalls(t *testing.T) {
	for _, when := range []string{"before", "at once", "in flight", "in the queue", "while it waits to repeat"} {
		t.Run(when, func(t *testing.T) {
			arrived := make(chan struct{}, 10)
			s := record(func(n int, w http.ResponseWriter, r *http.Request) {
				arrived <- struct{}{}
				if when == "while it waits to repeat" {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				<-r.Context().Done()
			})
			defer s.Close()
			start := time.Now()
			var f *eventloop.Future[*cloudfront.CreateInvalidationOutput]
			l := eventloop.New(nil)
			w := eventloop.NewWorkers(l, 1, "cloudfront")
			cfg := config(l, s.URL)
			cfg.Retryer = nil // that waits for seconds
			c := cloudfront.NewFromConfig(cfg)
			l.Post(func() {
				if when == "before" {
					l.Stop()
				}
				f = awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/"))
				f.Then(func(*cloudfront.CreateInvalidationOutput, error) { t.Error("Then was called") })
				switch when {
				case "at once":
					l.Stop()
				case "in the queue":
					f = awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/"))
					fallthrough
				default:
					eventloop.Receive(l, arrived, func(struct{}, bool) { l.Stop() }).Unref()
				}
			})
			if err := l.Run(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
				t.Errorf("%v, want ErrLoopClosed", err)
			}
			if n := time.Since(start); n > watchdogTime {
				t.Errorf("it took %v", n)
			}
		})
	}
}
