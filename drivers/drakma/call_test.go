package drakma

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A response that is not the result: its body is not needed, and does not have to end.
func TestTheBodyOfAResponseThatIsNotTheResultIsNotNeeded(t *testing.T) {
	const (
		silent  = "Content-Length: 100\r\n\r\nbegin"
		chunked = "Transfer-Encoding: chunked\r\nX-Framing: instead of Content-Length\r\n\r\n5\r\nbegin\r\n"
		cut     = "Content-Length: 100\r\nConnection: close\r\n\r\nbegin"
		long    = "Content-Length: 1000000000\r\n\r\nbegin"
		broken  = "Transfer-Encoding: chunked\r\nX-Framing: instead of Content-Length\r\n\r\nnonsense\r\n"
	)
	for name, head := range map[string]string{
		"redirect":  "HTTP/1.1 302 X\r\nLocation: /x\r\n",
		"challenge": "HTTP/1.1 401 X\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n",
		"retry":     "HTTP/1.1 503 X\r\nRetry-After: 7\r\n",
	} {
		for _, rest := range []string{silent, chunked, cut, long, broken} {
			for _, stream := range []bool{false, true} {
				answer := func(n int, _ *http.Request, _ string) string {
					if n == 0 {
						return head + rest
					}
					return answered(200, "done", "")
				}
				t.Run(name, func(t *testing.T) {
					inEveryOrder(t, answer, func(w *world) {
						r := w.drakma(Options{Retry: Retry{Max: 1}}).Get(w.Context(), "y").DigestAuth("u", "p")
						streamed := ""
						var f *eventloop.Future[*Response]
						if stream {
							f = r.Stream(func(_ *Response, p []byte) { streamed += string(p) })
						} else {
							f = r.Do()
						}
						f.Then(func(res *Response, err error) {
							if err != nil {
								w.Fatalf("%q: %v", rest, err)
							}
							equal(w.T, "the body", string(res.Body)+streamed, "done")
							equal(w.T, "Attempts", res.Attempts, 2)
							// Less than InactivityTimeout; and a retry waits as the head says.
							d := time.Since(w.began)
							if d > 20*time.Second || name == "retry" && (d < 7*time.Second || d > 8*time.Second) {
								w.Errorf("%q: it took %v", rest, d)
							}
						})
					})
				})
			}
		}
	}
}

func TestARedirectThatIsJudgedByItsHeadMayHaveABodyOverTheLimit(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/x" {
			io.WriteString(w, "ok")
			return
		}
		w.Header().Set("Location", "/x")
		w.WriteHeader(http.StatusFound)
		w.Write(make([]byte, 100_000))
	})
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{MaxBodyBytes: 1000})
		New(l, Options{Client: c, Retry: Retry{Max: 1}}).Get(ctx, s.URL).Text().Then(func(text string, err error) {
			equal(t, "the text", text, "ok")
			equal(t, "the error", err, nil)
		})
		New(l, Options{Client: c}).Get(ctx, s.URL).Text().Then(func(_ string, err error) {
			if !errors.Is(err, eventloop.ErrHTTPTooLarge) {
				t.Errorf("without retries: %v, want ErrHTTPTooLarge", err)
			}
		})
	})
}

// A short body of a response that is not the result is read, so that its connection can be
// used again.
func TestARedirectKeepsTheConnection(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x" {
			w.Header().Set("Location", "/x")
			w.WriteHeader(http.StatusFound)
			io.WriteString(w, "moved")
			w.(http.Flusher).Flush() // so that it is chunked
		}
	})
	for _, send := range []func(r *Request) *eventloop.Future[*Response]{
		(*Request).Do,
		func(r *Request) *eventloop.Future[*Response] { return r.Stream(func(*Response, []byte) {}) },
	} {
		res := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return send(d.Get(ctx, s.URL)) })
		equal(t, "the connection is used again", res.Reused, true)
	}
}

// A status that is an error is reported, also if there is no whole body with it.
func TestAStatusErrorDoesNotNeedItsBody(t *testing.T) {
	dir := t.TempDir()
	for name, send := range map[string]func(r *Request) *eventloop.Future[*Response]{
		"Do":     func(r *Request) *eventloop.Future[*Response] { return r.Check().Do() },
		"Into":   func(r *Request) *eventloop.Future[*Response] { return r.Into(new(int)) },
		"Stream": func(r *Request) *eventloop.Future[*Response] { return r.Check().Stream(func(*Response, []byte) {}) },
		"Save":   func(r *Request) *eventloop.Future[*Response] { return r.Save(filepath.Join(dir, "f")) },
	} {
		answer := func(int, *http.Request, string) string {
			return "HTTP/1.1 500 X\r\nContent-Length: 100\r\nConnection: close\r\n\r\nbegin"
		}
		t.Run(name, func(t *testing.T) {
			inEveryOrder(t, answer, func(w *world) {
				send(w.drakma(Options{Retry: Retry{Max: 3}}).Get(w.Context(), "x")).Then(func(_ *Response, err error) {
					e, ok := errors.AsType[*StatusError](err)
					if !ok || e.Response.Status != 500 || e.Response.Attempts != 1 || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(e.Err, io.ErrUnexpectedEOF) {
						w.Fatalf("the error is %v", err)
					}
					want := ""
					if name == "Stream" || name == "Save" {
						want = "begin"
					}
					equal(w.T, "the body", string(e.Response.Body), want)
				})
			})
		})
	}
}

// The time is over while the body of a response that would be retried is read.
func TestTheLastResponseIsReportedWhenNoTimeIsLeft(t *testing.T) {
	answer := func(int, *http.Request, string) string {
		return "HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 100\r\n\r\nbegin"
	}
	inEveryOrder(t, answer, func(w *world) {
		w.drakma(Options{Retry: Retry{Max: 3}, Timeout: 9500 * time.Millisecond}).Get(w.Context(), "x").Check().Do().Then(func(_ *Response, err error) {
			if e, ok := errors.AsType[*StatusError](err); !ok || e.Response.Status != 503 {
				w.Errorf("the error is %v", err)
			}
			if d := time.Since(w.began); d > 10*time.Second {
				w.Errorf("it took %v", d)
			}
		})
	})
}

// explosive panics where it is decoded, written to, and closed.
type explosive struct{ at string }

func (explosive) UnmarshalJSON([]byte) error { panic("boom") }

func (e explosive) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), e.at) {
		panic("boom")
	}
	return len(p), nil
}

func (explosive) Read([]byte) (int, error) { return 0, io.EOF }
func (explosive) Close() error             { panic("boom") }

func TestAPanicOfTheApplicationIsTheErrorOfTheFuture(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		size := 1
		fmt.Sscanf(r.URL.Path, "/%d", &size)
		fmt.Fprintf(w, "%q", strings.Repeat("x", size))
	})
	for name, send := range map[string]func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response]{
		"small": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{}).Get(ctx, s.URL).Into(&explosive{})
		},
		"large": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{}).Get(ctx, fmt.Sprintf("%s/%d", s.URL, 2*maxInline)).Into(&explosive{})
		},
		"log of the request": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{Log: explosive{"GET"}}).Get(ctx, s.URL).Do()
		},
		"log of the response": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{Log: explosive{"HTTP"}}).Get(ctx, s.URL).Do()
		},
		"log of the response, stream": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{Log: explosive{"HTTP"}}).Get(ctx, s.URL).Stream(func(*Response, []byte) { t.Error("data") })
		},
		"close unsent": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{}).Post(ctx, "no url").Body("", explosive{}).Do()
		},
		"close after a failed stat": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{}).Post(ctx, s.URL).Multipart(File("a", "no such file"), Reader("b", "b", "", explosive{})).Do()
		},
		"close sent": func(ctx context.Context, l *eventloop.Loop) *eventloop.Future[*Response] {
			return New(l, Options{Retry: Retry{Max: 3}}).Put(ctx, s.URL).Body("", explosive{}).Do()
		},
	} {
		for _, catch := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, CatchPanics %t", name, catch), func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
				defer cancel()
				n := 0
				err := eventloop.Run(ctx, &eventloop.Config{CatchPanics: catch, EventHandler: func(err error) { t.Errorf("the event %v", err) }}, func(l *eventloop.Loop) error {
					send(ctx, l).Then(func(_ *Response, err error) {
						n++
						pe, ok := errors.AsType[*eventloop.PanicError](err)
						if !ok || pe.Value != "boom" || !strings.Contains(pe.Error(), "boom, in github.com/onloop/eventloop/drivers/drakma.explosive.") {
							t.Errorf("the error is %v", err)
						}
					})
					return nil
				})
				equal(t, "Run", err, nil)
				equal(t, "the number of results", n, 1)
			})
		}
	}
}

// A goexiter is a log that ends the goroutine, as FailNow of a test does.
type goexiter struct{}

func (goexiter) Write([]byte) (int, error) { runtime.Goexit(); return 0, nil }

func TestGoexitOfTheApplicationIsTheErrorOfTheFuture(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	// The caller gets no future, so its failure is an event.
	var events []error
	err := eventloop.Run(ctx, &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}, func(l *eventloop.Loop) error {
		d, done := New(l, Options{Log: goexiter{}}), l.Hold()
		body := &closer{Reader: strings.NewReader("x")}
		go func() {
			defer l.Post(func() {
				done()
				equal(t, "how often the body is closed", body.closed, 1)
				equal(t, "the number of calls", len(d.calls), 0)
			})
			d.Post(ctx, "http://127.0.0.1/").Body("", body).Do()
			t.Error("Do has returned")
		}()
		return nil
	})
	equal(t, "Run", err, nil)
	if len(events) != 1 || !errors.Is(events[0], errGoexit) {
		t.Errorf("the events are %v", events)
	}
}

// A watchedContext counts what is registered at it.
type watchedContext struct {
	context.Context
	done chan struct{}

	mu sync.Mutex
	n  int
}

func (c *watchedContext) Done() <-chan struct{} { return c.done }

// AfterFunc is what package context calls, for derived contexts too.
func (c *watchedContext) AfterFunc(func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	var once sync.Once
	return func() (first bool) {
		once.Do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.n--
			first = true
		})
		return first
	}
}

func (c *watchedContext) registered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestNothingStaysAtTheContext(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/retry":
			w.Header().Set("Retry-After", "20")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/endless":
			io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/redirect":
			w.Header().Set("Location", "/")
			w.Header().Set("Content-Length", "1000000000")
			w.WriteHeader(http.StatusFound)
		}
	})
	dir := t.TempDir()
	for name, c := range map[string]struct {
		send func(r *Request) *eventloop.Future[*Response]
		ends bool
	}{
		"/retry":          {send: (*Request).Do},
		"/endless":        {send: (*Request).Do},
		"/endless stream": {send: func(r *Request) *eventloop.Future[*Response] { return r.Stream(func(*Response, []byte) {}) }},
		"/endless save":   {send: func(r *Request) *eventloop.Future[*Response] { return r.Save(filepath.Join(dir, "f")) }},
		"/whole":          {send: (*Request).Do, ends: true},
		"/redirect":       {send: (*Request).Do, ends: true},
		"/redirect save":  {send: func(r *Request) *eventloop.Future[*Response] { return r.Save(filepath.Join(dir, "f")) }, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			path, _, _ := strings.Cut(name, " ")
			parent := &watchedContext{Context: context.Background(), done: make(chan struct{})}
			var f *eventloop.Future[*Response]
			onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
				opts := Options{Retry: Retry{Max: 1}}
				if !c.ends {
					opts.Log = stopper{l}
				}
				f = c.send(New(l, opts).Get(parent, s.URL+path))
			})
			if _, err := f.Result(); (err == nil) != c.ends || err != nil && !errors.Is(err, eventloop.ErrLoopClosed) {
				t.Errorf("the error is %v", err)
			}
			equal(t, "what is registered at the context", parent.registered(), 0)
		})
	}
}

func TestABodyIsClosedWhenTheLoopHasEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, []byte("x"), 0o600)
	l := eventloop.New(nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ended)
	d := New(l, Options{})
	for _, f := range []func(r *Request, c io.Reader) *Request{
		func(r *Request, c io.Reader) *Request { return r.Body("", c) },
		func(r *Request, c io.Reader) *Request { return r.Multipart(Reader("a", "a", "", c)) },
		func(r *Request, c io.Reader) *Request { return r.Multipart(Reader("a", "a", "", c), File("b", path)) },
	} {
		c := newSignaled()
		_, err := f(d.Post(t.Context(), "http://127.0.0.1/"), c).Do().Result()
		if !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("the error is %v", err)
		}
		select {
		case <-c.done:
		case <-time.After(watchdogTime):
			t.Fatal("it is not closed")
		}
		equal(t, "how often it is closed", c.closed, 1)
	}
}

// A signaled reader says when it is closed.
type signaled struct {
	closer
	done chan struct{}
}

func newSignaled() *signaled {
	return &signaled{closer: closer{Reader: strings.NewReader("x")}, done: make(chan struct{})}
}

func (s *signaled) Close() error {
	s.closer.Close()
	close(s.done) // a second time is a panic
	return nil
}

// The loop ends by force while the file of a form is looked at.
func TestABodyIsClosedWhenTheLoopEndsBeforeItIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, []byte("x"), 0o600)
	c := newSignaled()
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		r := New(l, Options{}).Post(ctx, "http://127.0.0.1/").Multipart(Reader("a", "a", "", c), File("b", path))
		r.body = changing{r.body, func() error {
			l.Stop()
			select {
			case <-c.done:
			case <-ctx.Done():
				t.Error("the reader is not closed")
			}
			return nil
		}}
		r.Do().Ignore()
	})
	equal(t, "how often it is closed", c.closed, 1)
}

func TestABodyIsClosedAlsoIfTheRequestWasSentBefore(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	first, second := &closer{Reader: strings.NewReader("1")}, &closer{Reader: strings.NewReader("2")}
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		r := New(l, Options{}).Post(ctx, s.URL).Body("", first)
		r.Do().Then(func(_ *Response, err error) { equal(t, "the error", err, nil) })
		r.Do().Then(func(_ *Response, err error) { equal(t, "the error", err, ErrSent) })
		r.Body("", second).Do().Then(func(_ *Response, err error) { equal(t, "the error", err, ErrSent) })
	})
	equal(t, "how often the first is closed", first.closed, 1)
	equal(t, "how often the second is closed", second.closed, 1)
}

// Downloads that stall must not hold up the functions of the application.
func TestSaveLeavesWorkToTheApplication(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	dir := t.TempDir()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, &eventloop.Config{MaxWork: 1}, func(l *eventloop.Loop) error {
		const saves = 5
		d := New(l, Options{})
		downloads, stop := context.WithCancel(ctx)
		for i := range saves {
			d.Get(downloads, s.URL).Save(filepath.Join(dir, fmt.Sprint(i))).Ignore()
		}
		var wait func()
		wait = func() {
			if strings.Count(files(t, dir), "=") < saves { // each has its file
				l.AfterFunc(time.Millisecond, wait)
				return
			}
			eventloop.Work(ctx, l, func(context.Context) (int, error) { return 1, nil }).Then(func(_ int, err error) {
				equal(t, "the error", err, nil)
				stop()
			})
		}
		wait()
		return nil
	})
	equal(t, "Run", err, nil)
}

func TestAnIdleClientHoldsNothing(t *testing.T) {
	s := serve(t, echoURI)
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{BaseURL: s.URL})
		kinds := func() string {
			var list []string
			for h := range l.Handles() {
				if h.Kind == "drakma" {
					list = append(list, h.Name)
				}
			}
			return strings.Join(list, "; ")
		}
		pending := 2
		for range pending {
			d.Get(ctx, "/").Do().Then(func(*Response, error) {
				if pending--; pending == 0 {
					equal(t, "what an idle client holds", kinds(), "")
				}
			})
		}
		equal(t, "what a client with requests holds", kinds(), strings.TrimPrefix(s.URL, "http://")+", 2 pending")
	})
}

// A Transport sends the attempts. The heads of their responses are checked as well.
func TestATransportSendsTheAttempts(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/private", http.StatusFound)
		case "/private":
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Digest realm="r", nonce="n", qop="auth"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
			io.WriteString(w, "done")
		}
	})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{BaseURL: s.URL, Client: eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport})})
		d.Get(ctx, "/redirect").DigestAuth("u", "p").Do().Then(func(res *Response, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			equal(t, "the body", string(res.Body), "done")
			equal(t, "Attempts", res.Attempts, 3)
		})
	})
}
