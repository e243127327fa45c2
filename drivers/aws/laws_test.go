package awsloop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/aws/smithy-go"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// The rules that all drivers of eventloop keep, D1 to D12, for calls. Some do not apply: calls
// run at the same time, so they have no order (D4); Work bounds how many run, but not how
// many wait (D5); the SDK decides what is repeated and when (D7, D8: see
// TestTheSDKRepeatsWhatItsRetryerAllows). D10, that nothing is left, is checked by TestMain.

func TestD1CallNeitherBlocksNorRunsUserCodeAndMayBeCalledFromAnyGoroutine(t *testing.T) {
	var ran atomic.Int32
	results := 0
	s := record(xmlAnswer(200, ""))
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, _ *cloudfront.Client) {
		call := func() *eventloop.Future[*int] {
			called := make(chan struct{})
			defer close(called)
			return awsloop.Call(background(), w, func(context.Context, *int, ...func(*int)) (*int, error) {
				<-called
				ran.Add(1)
				return nil, nil
			}, nil)
		}
		count := func(_ *int, err error) {
			if results++; err != nil {
				t.Error(err)
			}
		}
		call().Then(count) // on the loop
		done := l.Hold()
		var all sync.WaitGroup
		for range 9 { // more than there are workers
			all.Go(func() {
				f := call()
				l.Post(func() { f.Then(count) })
			})
		}
		go func() {
			defer done()
			all.Wait()
		}()
	})
	if n := ran.Load(); n != 10 || results != 10 {
		t.Errorf("%d operations ran, %d results, want 10", n, results)
	}
}

// A deadline is a context whose deadline passes when expire is called: a time that is certain
// to pass while the server has the request would be long.
type deadline struct {
	context.Context
	done   chan struct{}
	expire func()
}

func newDeadline() *deadline {
	d := &deadline{Context: context.Background(), done: make(chan struct{})}
	d.expire = sync.OnceFunc(func() { close(d.done) })
	return d
}

func (d *deadline) Done() <-chan struct{} { return d.done }

func (d *deadline) Err() error {
	select {
	case <-d.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestD2EveryFutureSettlesOnce(t *testing.T) {
	cause := errors.New("changed my mind")
	reply := xmlAnswer(http.StatusCreated, invalidationCreated)
	wait := func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	isOperation := func(err error) bool { _, ok := errors.AsType[*smithy.OperationError](err); return ok }
	late := newDeadline()
	for what, test := range map[string]struct {
		answer func(n int, w http.ResponseWriter, r *http.Request)
		during func(l *eventloop.Loop, cancel context.CancelCauseFunc) // while the server has the request
		check  func(err error) bool
	}{
		"reply":     {reply, nil, func(err error) bool { return err == nil }},
		"error":     {xmlAnswer(http.StatusForbidden, accessDenied), nil, isOperation},
		"lost":      {func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, isOperation},
		"timeout":   {wait, func(*eventloop.Loop, context.CancelCauseFunc) { late.expire() }, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) && isOperation(err) }},
		"canceled":  {wait, func(_ *eventloop.Loop, cancel context.CancelCauseFunc) { cancel(cause) }, func(err error) bool { return errors.Is(err, cause) }},
		"loop ends": {wait, func(l *eventloop.Loop, _ context.CancelCauseFunc) { l.Stop() }, nil},
	} {
		results := 0
		var f *eventloop.Future[*cloudfront.CreateInvalidationOutput]
		var l *eventloop.Loop
		ctx, cancel := context.WithCancelCause(background())
		s := record(func(n int, w http.ResponseWriter, r *http.Request) {
			if test.during != nil {
				l.Post(func() { test.during(l, cancel) })
			}
			test.answer(n, w, r)
		})
		onLoop(t, s, func(loop *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
			l = loop
			var ctx context.Context = ctx
			if what == "timeout" {
				ctx = late
			}
			f = awsloop.Call(ctx, w, c.CreateInvalidation, invalidation("/"))
			f.Then(func(_ *cloudfront.CreateInvalidationOutput, err error) {
				if results++; test.check == nil || !test.check(err) {
					t.Errorf("%s: %v", what, err)
				}
			})
		})
		cancel(nil)
		want := 1
		if test.check == nil { // callbacks do not run after the end of the loop
			want = 0
		}
		if _, err := f.Result(); results != want || want == 0 && !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("%s: %d results, want %d; %v", what, results, want, err)
		}
	}
}

func TestD3IdleHoldsNothingAndPendingHoldsTheLoop(t *testing.T) {
	release := make(chan struct{})
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		<-release
		xmlAnswer(http.StatusCreated, invalidationCreated)(n, w, r)
	})
	got := false
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/")).Then(func(_ *cloudfront.CreateInvalidationOutput, err error) { got = err == nil })
		l.AfterFunc(time.Millisecond, func() { close(release) }).Unref()
	})
	if !got { // the idle client, with its connection, then did not hold the loop
		t.Error("the loop did not wait for the call")
	}
}

// The reply to a canceled call arrives late. No other call may have it.
func TestD6ACanceledCallFailsAtOnceAndNeverShiftsReplies(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(background())
	canceled := make(chan struct{})
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			cancel(why)
			<-canceled
		}
		xmlAnswer(200, `<Distribution><Id>`+path.Base(r.URL.Path)+`</Id></Distribution>`)(n, w, r)
	})
	ended := false
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		get := func(ctx context.Context, id string) *eventloop.Future[*cloudfront.GetDistributionOutput] {
			return awsloop.Call(ctx, w, c.GetDistribution, &cloudfront.GetDistributionInput{Id: aws.String(id)})
		}
		l.Go(background(), func(task *eventloop.Task) error {
			if _, err := get(ctx, "first").Await(task); !errors.Is(err, why) {
				t.Errorf("%v, want the cause", err)
			}
			close(canceled)
			for i := range 20 {
				id := fmt.Sprint("E", i)
				if out, err := get(task.Context(), id).Await(task); err != nil || *out.Distribution.Id != id {
					t.Errorf("%s: %v, %v", id, out, err)
				}
			}
			ended = true
			return nil
		})
	})
	if !ended {
		t.Error("the task did not end")
	}
}

func TestD9GarbageAndOversizeEndTheConnectionAndNotTheLoop(t *testing.T) {
	for _, what := range []string{
		"not HTTP\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 8<<20),
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<Dist",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		s := record(func(n int, w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "bad") {
				xmlAnswer(200, `<Distribution><Id>E1</Id></Distribution>`)(n, w, r)
				return
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, what)
		})
		steps := 0
		onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
			awsloop.Call(background(), w, c.GetDistribution, &cloudfront.GetDistributionInput{Id: aws.String("bad")}).Then(func(_ *cloudfront.GetDistributionOutput, err error) {
				steps++
				if _, ok := errors.AsType[*smithy.OperationError](err); !ok {
					t.Errorf("%.40q: %v", what, err)
				}
				awsloop.Call(background(), w, c.GetDistribution, &cloudfront.GetDistributionInput{Id: aws.String("E1")}).Then(func(_ *cloudfront.GetDistributionOutput, err error) {
					if steps++; err != nil {
						t.Errorf("after %.40q: %v", what, err)
					}
				})
			})
		})
		if steps != 2 {
			t.Errorf("%.40q: %d results, want 2", what, steps)
		}
	}
}

func TestD11HandlesSayTheNameOfTheWorkersAndThePendingCalls(t *testing.T) {
	var l *eventloop.Loop
	var shown []string
	s := record(func(n int, w http.ResponseWriter, r *http.Request) {
		eventloop.Call(r.Context(), l, func() (struct{}, error) {
			for h := range l.Handles() {
				shown = append(shown, h.Kind+" "+h.Name)
			}
			return struct{}{}, nil
		})
		xmlAnswer(http.StatusCreated, invalidationCreated)(n, w, r)
	})
	onLoop(t, s, func(loop *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		l = loop
		awsloop.Call(background(), w, c.CreateInvalidation, invalidation("/")).Ignore()
	})
	n := len(slices.DeleteFunc(slices.Clone(shown), func(h string) bool { return !strings.HasPrefix(h, "work cloudfront: ") }))
	if n != 1 || !slices.ContainsFunc(shown, func(h string) bool { return strings.Contains(h, strings.TrimPrefix(s.URL, "http://")) }) {
		t.Errorf("handles: %q", shown)
	}
}

// The SDK waits for seconds between its attempts.
func TestD12CallsWorkInABubbleOverNetPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests, results := 0, 0
		ln := pipelistener.New()
		dial := func(context.Context, string, string) (net.Conn, error) { return ln.Dial(), nil }
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests++; requests < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			xmlAnswer(200, `<Distribution><Id>E1</Id></Distribution>`)(0, w, r)
		})}
		go server.Serve(ln)
		defer server.Close()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			cfg := config(l, "http://cloudfront.example")
			cfg.Retryer = nil
			cfg.HTTPClient = awsloop.HTTPClient(eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Dial: dial}))
			in := &cloudfront.GetDistributionInput{Id: aws.String("E1")}
			awsloop.Call(t.Context(), eventloop.NewWorkers(l, 1, ""), cloudfront.NewFromConfig(cfg).GetDistribution, in).Then(func(out *cloudfront.GetDistributionOutput, err error) {
				if results++; err != nil || *out.Distribution.Id != "E1" {
					t.Errorf("%v, %v", out, err)
				}
			})
			return nil
		})
		if err != nil || requests != 3 || results != 1 {
			t.Errorf("%v, %d requests, %d results", err, requests, results)
		}
	})
}
