package drakma

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// seeds is in how many orders of events the tests run.
const seeds = 30

// world is a loop with a server and a client on a network in memory, by a seed.
type world struct {
	*testing.T
	loop   *eventloop.Loop
	net    *looptest.Net
	client *eventloop.HTTPClient
	began  time.Time
}

// inEveryOrder runs f in many orders of events. answer gets each connection's requests, with
// their number from 0 on, and returns the bytes of the response; "" ends the connection.
func inEveryOrder(t *testing.T, answer func(n int, r *http.Request, body string) string, f func(w *world)) {
	t.Helper()
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		w := &world{T: t, loop: l, net: looptest.NewNet(t), began: time.Now()}
		w.net.Latency(0, time.Millisecond)
		w.net.Split(40)
		ln, err := w.net.Listen("server:80")
		if err != nil {
			return err
		}
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				// One connection after the other, so that n needs no lock.
				for br := bufio.NewReader(c); ; n++ {
					r, err := http.ReadRequest(br)
					if err != nil {
						break
					}
					body, _ := io.ReadAll(r.Body)
					out := answer(n, r, string(body))
					io.WriteString(c, out)
					if !strings.Contains(out, "Content-Length") || strings.Contains(out, "close") {
						n++
						break
					}
				}
				c.Close()
			}
		}()
		t.Cleanup(func() { ln.Close(); <-done })
		w.client = eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Dial: w.net.Dialer("client"), Proxy: nil})
		f(w)
		return nil
	})
}

func (w *world) drakma(opts Options) *Client {
	opts.Client = w.client
	opts.BaseURL = "http://server/"
	return New(w.loop, opts)
}

// answered is a response with a body.
func answered(status int, body, fields string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), fields, body)
}

func TestRetryHonorsRetryAfter(t *testing.T) {
	answer := func(n int, _ *http.Request, _ string) string {
		switch n {
		case 0:
			return answered(503, "busy", "Retry-After: 7\r\n")
		case 1:
			date := time.Now().Add(9 * time.Second).UTC().Format(http.TimeFormat)
			return answered(429, "slow down", "Retry-After: "+date+"\r\n")
		}
		return answered(200, "done", "")
	}
	inEveryOrder(t, answer, func(w *world) {
		w.drakma(Options{Retry: Retry{Max: 2}}).Get(w.Context(), "x").Do().Then(func(res *Response, err error) {
			if err != nil {
				w.Fatal(err)
			}
			equal(w.T, "the body", string(res.Body), "done")
			equal(w.T, "Attempts", res.Attempts, 3)
			if d := time.Since(w.began); d < 15*time.Second || d > 17*time.Second {
				w.Errorf("the retries took %v", d)
			}
		})
	})
}

func TestRetryEndsWithTheLastResponse(t *testing.T) {
	for name, c := range map[string]struct {
		retryAfter string
		retry      Retry
		timeout    time.Duration
		method     string
		key        string
		want       int // attempts
	}{
		"max":                     {"1", Retry{Max: 2}, 0, "GET", "", 3},
		"none":                    {"1", Retry{}, 0, "GET", "", 1},
		"retry-after too long":    {"60", Retry{Max: 2}, 0, "GET", "", 1},
		"retry-after is endless":  {"99999999999999999999", Retry{Max: 2}, 0, "GET", "", 1},
		"a longer MaxWait":        {"60", Retry{Max: 2, MaxWait: time.Minute}, 0, "GET", "", 3},
		"not in time":             {"5", Retry{Max: 2}, 4 * time.Second, "GET", "", 1},
		"not in time, later":      {"5", Retry{Max: 2}, 8 * time.Second, "GET", "", 2},
		"retry-after is nonsense": {"soon", Retry{Max: 2}, 0, "GET", "", 3},
		"not idempotent":          {"1", Retry{Max: 2}, 0, "POST", "", 1},
		"made idempotent":         {"1", Retry{Max: 2}, 0, "POST", "k", 3},
	} {
		t.Run(name, func(t *testing.T) {
			answer := func(int, *http.Request, string) string {
				return answered(503, "busy", "Retry-After: "+c.retryAfter+"\r\n")
			}
			inEveryOrder(t, answer, func(w *world) {
				r := w.drakma(Options{Retry: c.retry}).Request(w.Context(), c.method, "x").Timeout(c.timeout)
				if c.key != "" {
					r.Header("Idempotency-Key", c.key)
				}
				r.Do().Then(func(res *Response, err error) {
					if err != nil {
						w.Fatal(err)
					}
					equal(w.T, "the status", res.Status, 503)
					equal(w.T, "Attempts", res.Attempts, c.want)
				})
			})
		})
	}
}

func TestABrokenConnectionIsRetried(t *testing.T) {
	answer := func(n int, r *http.Request, body string) string {
		switch n {
		case 0:
			return "" // an end without a response
		case 1:
			return "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\ncut"
		}
		return answered(200, r.Method+" "+body, "")
	}
	inEveryOrder(t, answer, func(w *world) {
		w.drakma(Options{Retry: Retry{Max: 3}}).Put(w.Context(), "x").Data("", []byte("data")).Text().Then(func(text string, err error) {
			equal(w.T, "the text", text, "PUT data")
			equal(w.T, "the error", err, nil)
		})
	})
}

func TestAStreamIsNotRetriedOnceItHasData(t *testing.T) {
	answer := func(n int, r *http.Request, body string) string {
		if n == 0 {
			return answered(503, "busy", "")
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\ncut"
	}
	inEveryOrder(t, answer, func(w *world) {
		got := ""
		w.drakma(Options{Retry: Retry{Max: 3}}).Get(w.Context(), "x").Stream(func(_ *Response, p []byte) { got += string(p) }).
			Then(func(_ *Response, err error) {
				if got != "cut" || !errors.Is(err, io.ErrUnexpectedEOF) {
					w.Errorf("%q, %v", got, err)
				}
			})
	})
}

func TestTheEndOfTheContextEndsTheWaitForARetry(t *testing.T) {
	answer := func(int, *http.Request, string) string { return answered(503, "busy", "Retry-After: 20\r\n") }
	inEveryOrder(t, answer, func(w *world) {
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(w.Context())
		w.loop.AfterFunc(10*time.Second, func() { cancel(enough) })
		w.drakma(Options{Retry: Retry{Max: 3}}).Get(ctx, "x").Do().Then(func(_ *Response, err error) {
			if !errors.Is(err, enough) || !errors.Is(err, context.Canceled) {
				w.Errorf("the error is %v", err)
			}
			equal(w.T, "the time", time.Since(w.began), 10*time.Second)
		})
	})
}

func TestTimeoutBoundsAllAttempts(t *testing.T) {
	answer := func(n int, _ *http.Request, _ string) string {
		if n < 2 {
			return answered(503, "busy", "Retry-After: 3\r\n")
		}
		time.Sleep(time.Minute)
		return answered(200, "late", "")
	}
	inEveryOrder(t, answer, func(w *world) {
		w.drakma(Options{Retry: Retry{Max: 9}, Timeout: 10 * time.Second}).Get(w.Context(), "x").Do().Then(func(_ *Response, err error) {
			if !errors.Is(err, eventloop.ErrTimeout) {
				w.Errorf("the error is %v", err)
			}
			if d := time.Since(w.began); d < 10*time.Second || d > 11*time.Second {
				w.Errorf("the error came after %v", d)
			}
		})
	})
}

func TestTheEndOfTheLoopEndsTheWaitForARetry(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	var f *eventloop.Future[*Response]
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		f = New(l, Options{Retry: Retry{Max: 1}, Log: stopper{l}}).Get(ctx, s.URL).Do()
	})
	if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("the error is %v", err)
	}
}

// A stopper is a log that stops the loop when a response has arrived.
type stopper struct{ l *eventloop.Loop }

func (s stopper) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "HTTP/") {
		s.l.Post(func() { s.l.Stop() })
	}
	return len(p), nil
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	r := Retry{MinWait: time.Second, MaxWait: 5 * time.Second}
	for n, limit := range []time.Duration{1, 2, 4, 5, 5} {
		for range 1000 {
			if d := r.backoff(n); d < limit*time.Second/2 || d > limit*time.Second {
				t.Fatalf("wait %d is %v", n, d)
			}
		}
	}
	if d := (Retry{}).backoff(1 << 30); d > defaultMaxWait {
		t.Errorf("the wait is %v", d)
	}
}

// files returns the names and contents of the files in a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		p, _ := os.ReadFile(filepath.Join(dir, f.Name()))
		got = append(got, f.Name()+"="+string(p[:min(len(p), 20)]))
	}
	return strings.Join(got, ", ")
}

func TestSave(t *testing.T) {
	var attempts atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		attempt := attempts.Add(1)
		switch r.URL.Path {
		case "/large":
			for range 1000 {
				w.Write(make([]byte, 10_000))
			}
		case "/empty":
		case "/cut":
			if attempt > 1 {
				io.WriteString(w, "second")
				return
			}
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "first")
			panic(http.ErrAbortHandler)
		case "/redirect":
			http.Redirect(w, r, "/other", http.StatusFound)
		case "/error":
			w.WriteHeader(http.StatusGone)
			io.WriteString(w, "gone")
		default:
			io.WriteString(w, "new")
		}
	})
	for _, c := range []struct {
		path, want string
		retry      int
		failure    bool
	}{
		{"/", "f=new", 0, false},
		{"/redirect", "f=new", 0, false},
		{"/large", "f=" + strings.Repeat("\x00", 20), 0, false},
		{"/empty", "f=", 0, false},
		{"/cut", "f=old", 0, true},
		{"/cut", "f=second", 1, false},
		{"/error", "f=old", 1, true},
	} {
		attempts.Store(0)
		dir := t.TempDir()
		name := filepath.Join(dir, "f")
		os.WriteFile(name, []byte("old"), 0o600)
		_, err := result(t, Options{BaseURL: s.URL, Retry: Retry{Max: c.retry, MinWait: 1}}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Get(ctx, c.path).Save(name)
		})
		if got := files(t, dir); got != c.want || (err != nil) != c.failure {
			t.Errorf("%s: %s, %v; want %s", c.path, got, err, c.want)
		}
		if info, err := os.Stat(name); c.path == "/large" && (err != nil || info.Size() != 10_000_000) {
			t.Errorf("the size is %v, %v", info, err)
		}
	}
}

func TestSaveToAPlaceThatIsNotThere(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		// Without end: only the error of the file ends it.
		for {
			if _, err := w.Write(make([]byte, 10_000)); err != nil {
				return
			}
		}
	})
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL).Save(filepath.Join(t.TempDir(), "no", "f"))
	})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}

func TestTheEndOfTheLoopRemovesTheTemporaryFile(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	defer close(release)
	dir := t.TempDir()
	var f *eventloop.Future[*Response]
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		f = New(l, Options{}).Get(ctx, s.URL).Save(filepath.Join(dir, "f"))
		var wait func()
		wait = func() {
			if files(t, dir) == "" {
				l.AfterFunc(time.Millisecond, wait)
				return
			}
			l.Stop()
		}
		wait()
	})
	if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("the error is %v", err)
	}
	equal(t, "what is left", files(t, dir), "")
}

func TestTheEndOfTheContextEndsSave(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	dir, enough := t.TempDir(), errors.New("enough")
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		ctx, cancel := context.WithCancelCause(ctx)
		var wait func()
		wait = func() {
			if files(t, dir) == "" {
				d.loop.AfterFunc(time.Millisecond, wait)
				return
			}
			cancel(enough)
		}
		wait()
		return d.Get(ctx, s.URL).Save(filepath.Join(dir, "f"))
	})
	if !errors.Is(err, enough) {
		t.Errorf("the error is %v", err)
	}
	equal(t, "what is left", files(t, dir), "")
}

func TestRequestsOfManyGoroutines(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{BaseURL: s.URL, Log: io.Discard, Jar: NewJar()})
		for i := range 8 {
			eventloop.Work(ctx, l, func(ctx context.Context) (struct{}, error) {
				for j := range 20 {
					path := fmt.Sprintf("/%d/%d", i, j)
					text, err := d.Get(ctx, path).DigestAuth("u", "p").Text().Wait(ctx)
					if err != nil || text != path {
						return struct{}{}, fmt.Errorf("%s: %s, %w", path, text, err)
					}
				}
				return struct{}{}, nil
			}).Then(func(_ struct{}, err error) { equal(t, "the error", err, nil) })
		}
	})
}

// A response that is not delivered does not have to end.
func TestAnEndlessBodyThatIsNotDeliveredIsGivenUp(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			w.Header().Set("Location", "/")
			w.WriteHeader(http.StatusFound)
		case "/error":
			w.WriteHeader(http.StatusGone)
		default:
			io.WriteString(w, "end")
			return
		}
		for {
			if _, err := w.Write(make([]byte, 10_000)); err != nil {
				return
			}
		}
	})
	got := ""
	res := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL+"/redirect").Stream(func(_ *Response, p []byte) { got += string(p) })
	})
	equal(t, "the body", got, "end")
	equal(t, "the status", res.Status, 200)
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL+"/error").Check().Stream(func(*Response, []byte) { t.Error("data") })
	})
	if e, ok := errors.AsType[*StatusError](err); !ok || len(e.Response.Body) != maxErrorBody {
		t.Errorf("the error is %v", err)
	}
}
