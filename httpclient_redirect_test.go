package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
)

// countdown is a server on which /n redirects to /n-1, and /0 does not. Every
// response has a body.
func countdown(t testing.TB) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscanf(r.URL.Path, "/%d", &n)
		if n > 0 {
			w.Header().Set("Location", fmt.Sprintf("/%d?q#f", n-1))
			w.WriteHeader(http.StatusFound)
		}
		fmt.Fprintf(w, "body of %d", n)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestCheckRedirectIsAskedBeforeEachRedirectOnTheLoop(t *testing.T) {
	checkLeaks(t)
	s := countdown(t)
	var asked []string // no lock: the race detector finds another goroutine
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		opts := &eventloop.HTTPOptions{CheckRedirect: func(res *eventloop.HTTPResponse, next *url.URL) error {
			asked = append(asked, fmt.Sprintf("%d %s %d to %s", res.Status, strings.TrimPrefix(res.URL, s.URL), res.Redirects, next))
			next.Path = "/no effect"
			return nil
		}}
		l.HTTP().Do(context.Background(), "GET", s.URL+"/2", opts).Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil || string(res.Body) != "body of 0" || res.Redirects != 2 {
				t.Errorf("%+v, %v", res, err)
			}
			asked = append(asked, "result")
		})
	})
	wantSlice(t, "asked", asked, []string{
		"302 /2 0 to " + s.URL + "/1?q#f", "302 /1?q#f 1 to " + s.URL + "/0?q#f", "result"})
}

func TestCheckRedirectDecides(t *testing.T) {
	errMine := errors.New("mine")
	never := func(*eventloop.HTTPResponse, *url.URL) error { panic("asked") }
	always := func(*eventloop.HTTPResponse, *url.URL) error { return nil }
	at := func(n int, err error) func(*eventloop.HTTPResponse, *url.URL) error {
		return func(res *eventloop.HTTPResponse, _ *url.URL) error {
			if res.Redirects == n {
				return err
			}
			return nil
		}
	}
	for _, test := range []struct {
		name  string
		first int // the first URL
		max   int
		check func(*eventloop.HTTPResponse, *url.URL) error
		body  string // of the result
		is    error  // or what its error matches
	}{
		{"use the first response", 2, 5, at(0, http.ErrUseLastResponse), "body of 2", nil},
		{"use the second response", 2, 5, at(1, http.ErrUseLastResponse), "body of 1", nil},
		{"an error at once", 2, 5, at(0, errMine), "", errMine},
		{"an error later", 2, 5, at(1, errMine), "", errMine},
		{"the default limit", 10, 0, always, "body of 0", nil},
		{"over the default limit", 11, 0, always, "", eventloop.ErrHTTPRedirects},
		{"at the limit", 3, 3, always, "body of 0", nil},
		{"over the limit", 4, 3, always, "", eventloop.ErrHTTPRedirects},
		{"no redirects wanted", 2, -1, never, "body of 2", nil},
		{"no redirect", 0, 5, never, "body of 0", nil},
	} {
		for _, streamed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, streamed %v", test.name, streamed), func(t *testing.T) {
				checkLeaks(t)
				s := countdown(t)
				opts := &eventloop.HTTPOptions{MaxRedirects: test.max, CheckRedirect: test.check}
				got := ""
				if streamed {
					opts.OnBody = func(_ *eventloop.HTTPResponse, p []byte) { got += string(p) }
				}
				res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", fmt.Sprintf("%s/%d", s.URL, test.first), opts)
				if err == nil && !streamed {
					got = string(res.Body)
				}
				if got != test.body || !errors.Is(err, test.is) || (err != nil) != errors.Is(err, eventloop.ErrHTTP) {
					t.Errorf("body %q, error %v", got, err)
				}
			})
		}
	}
}

func TestCheckRedirectLeavesTheConnectionForTheNextRequest(t *testing.T) {
	checkLeaks(t)
	s := countdown(t)
	last := &eventloop.HTTPOptions{CheckRedirect: func(*eventloop.HTTPResponse, *url.URL) error { return http.ErrUseLastResponse }}
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(task *eventloop.Task) error {
			for i := range 3 {
				res, err := l.HTTP().Do(task.Context(), "GET", s.URL+"/1", last).Await(task)
				if err != nil || res.Reused != (i > 0) {
					t.Errorf("%+v, %v", res, err)
				}
			}
			return nil
		})
	})
}

func TestCheckRedirectThatPanics(t *testing.T) {
	s := countdown(t)
	opts := &eventloop.HTTPOptions{CheckRedirect: func(*eventloop.HTTPResponse, *url.URL) error { panic("check") }}
	t.Run("is the error of the request with CatchPanics", func(t *testing.T) {
		checkLeaks(t)
		runHTTPLoop(t, &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) {
			l.HTTP().Do(context.Background(), "GET", s.URL+"/1", opts).Then(func(_ *eventloop.HTTPResponse, err error) {
				var pe *eventloop.PanicError
				if !errors.As(err, &pe) || !errors.Is(err, eventloop.ErrHTTP) {
					t.Error(err)
				}
			})
		})
	})
	t.Run("leaves Run without", func(t *testing.T) {
		checkLeaks(t)
		panicked, _ := outcome(func() {
			eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
				l.HTTP().Do(context.Background(), "GET", s.URL+"/1", opts).Then(func(*eventloop.HTTPResponse, error) { t.Error("called") })
				return nil
			})
		})
		if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "check" {
			t.Errorf("panic %v", panicked)
		}
	})
}

func TestCheckRedirectMayEndTheRequestOrTheLoop(t *testing.T) {
	s := countdown(t)
	t.Run("its context", func(t *testing.T) {
		checkLeaks(t)
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			ctx, cancel := context.WithCancel(context.Background())
			opts := &eventloop.HTTPOptions{CheckRedirect: func(*eventloop.HTTPResponse, *url.URL) error { cancel(); return nil }}
			l.HTTP().Do(ctx, "GET", s.URL+"/3", opts).Then(func(_ *eventloop.HTTPResponse, err error) {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	})
	t.Run("the loop", func(t *testing.T) {
		checkLeaks(t)
		asked := 0
		err := eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
			opts := &eventloop.HTTPOptions{CheckRedirect: func(*eventloop.HTTPResponse, *url.URL) error { asked++; l.Stop(); return nil }}
			l.HTTP().Do(context.Background(), "GET", s.URL+"/3", opts).Then(func(*eventloop.HTTPResponse, error) { t.Error("called") })
			return nil
		})
		if err != nil || asked != 1 {
			t.Errorf("asked %d times; %v", asked, err)
		}
	})
}

func ExampleHTTPOptions_checkRedirect() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a":
			http.Redirect(w, r, "/b", http.StatusFound)
		case "/b":
			http.Redirect(w, r, "http://other.example/", http.StatusFound)
		}
	}))
	defer server.Close()
	opts := &eventloop.HTTPOptions{
		MaxRedirects: 5,
		CheckRedirect: func(res *eventloop.HTTPResponse, next *url.URL) error {
			fmt.Println(res.Status, "to", next.Path)
			if from, _ := url.Parse(res.URL); from.Host != next.Host {
				return http.ErrUseLastResponse // stay with this host
			}
			return nil
		},
	}
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		l.HTTP().Do(ctx, "GET", server.URL+"/a", opts).Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println("result:", res.Status, res.Header("Location"))
		})
		return nil
	})
	// Output:
	// 302 to /b
	// 302 to /
	// result: 302 http://other.example/
}
