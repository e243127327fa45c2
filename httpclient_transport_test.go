package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// A tripFunc is a transport.
type tripFunc func(req *http.Request) (*http.Response, error)

func (f tripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// doubled returns a transport that answers by h, without a network.
func doubled(h http.HandlerFunc) tripFunc {
	return func(req *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		own := *req
		if own.Body == nil {
			own.Body = http.NoBody
		}
		h(w, &own)
		if req.Body != nil {
			req.Body.Close()
		}
		return w.Result(), nil
	}
}

// doOver sends a request over a transport.
func doOver(t testing.TB, transport http.RoundTripper, method, url string, opts *eventloop.HTTPOptions) (*eventloop.HTTPResponse, error) {
	t.Helper()
	var res *eventloop.HTTPResponse
	var err error
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport, MaxBodyBytes: 1 << 20})
		c.Do(bg, method, url, opts).Then(func(r *eventloop.HTTPResponse, e error) { res, err = r, e })
	})
	return res, err
}

func TestATransportSendsTheRequestsOfTheClient(t *testing.T) {
	transport := doubled(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("X", "1")
		w.Header().Add("X", "2")
		w.WriteHeader(203)
		io.WriteString(w, echoed(r))
	})
	res, err := doOver(t, transport, "PUT", "https://user:pass@example.org/a%2Fb?c#d", &eventloop.HTTPOptions{
		Headers: eventloop.HTTPHeaders{{"a", "1"}, {"A", "2"}, {"Connection", "close"}, {"Content-Length", "9"}},
		Body:    []byte("hello"),
	})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "status", res.Status, 203)
	wantEqual(t, "reason", res.Reason, "Non-Authoritative Information")
	wantEqual(t, "URL", res.URL, "https://example.org/a%2Fb?c#d")
	wantSlice(t, "fields", res.Headers.Values("X"), []string{"1", "2"})
	wantEqual(t, "request", string(res.Body), `PUT  HTTP/1.1 host=example.org length=5 coding=[] close=true
A: ["1" "2"]
Authorization: ["Basic dXNlcjpwYXNz"]
User-Agent: ["eventloop"]
"hello" <nil> trailer=map[]`)
	if res.Timing.FirstByte == 0 || res.Timing.Total < res.Timing.FirstByte {
		t.Errorf("timing %+v", res.Timing)
	}
}

func TestATransportSendsTrailers(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, echoed(r)) })
	transport := &http.Transport{}
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"Body":       {Body: []byte("hello")},
		"BodyReader": {BodyReader: io.MultiReader(strings.NewReader("hello"))},
	} {
		opts.Trailers = eventloop.HTTPHeaders{{"A", "1"}, {"a", "2"}}
		res, err := doOver(t, transport, "POST", s.URL, opts)
		if err != nil || !strings.HasSuffix(string(res.Body), `"hello" <nil> trailer=map[A:[1 2]]`) {
			t.Errorf("%s: %s, %v", name, res.Body, err)
		}
	}
	transport.CloseIdleConnections()
}

func TestATransportMayStreamBothWays(t *testing.T) {
	const size = 2 << 20
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		http.NewResponseController(w).EnableFullDuplex()
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("Sum", fmt.Sprint(n))
	})
	transport := &http.Transport{}
	var order []string
	got := 0
	body := &closeCounter{Reader: io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), size)}
	res, err := doOver(t, transport, "POST", s.URL, &eventloop.HTTPOptions{
		BodyReader: body,
		OnResponse: func(res *eventloop.HTTPResponse) { order = append(order, "head") },
		OnBody: func(res *eventloop.HTTPResponse, data []byte) {
			if got += len(data); len(order) == 1 {
				order = append(order, "body")
			}
		},
	})
	if err != nil || got != size || res.Trailers.Get("Sum") != fmt.Sprint(size) {
		t.Errorf("%d bytes, %+v, %v", got, res, err)
	}
	wantSlice(t, "callbacks", order, []string{"head", "body"})
	wantEqual(t, "Close", body.closed.Load(), 1)
	transport.CloseIdleConnections()
}

func TestRedirectsCookiesAndCodingsWorkOverATransport(t *testing.T) {
	jar, _ := cookiejar.New(nil)
	transport := doubled(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
			http.Redirect(w, r, "/next", http.StatusTemporaryRedirect)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding")[:len("gzip")])
		io.WriteString(w, gzipped(fmt.Sprintf("%s %s %s", r.Method, r.Header.Get("Cookie"), body)))
	})
	for name, opts := range map[string]eventloop.HTTPOptions{
		"Body":    {Body: []byte("hello")},
		"GetBody": {BodyReader: strings.NewReader("hello"), GetBody: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hello")), nil }},
	} {
		opts.MaxRedirects, opts.Decompress, opts.Jar = 1, true, jar
		res, err := doOver(t, transport, "POST", "http://example.org/", &opts)
		if err != nil || string(res.Body) != "POST a=b hello" || res.Redirects != 1 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	res, err := doOver(t, transport, "POST", "http://example.org/", &eventloop.HTTPOptions{MaxRedirects: 1, BodyReader: strings.NewReader("x")})
	if err != nil || res.Status != 307 {
		t.Errorf("a reader that cannot be read again: %+v, %v", res, err)
	}
	_, err = doOver(t, transport, "GET", "http://example.org/", &eventloop.HTTPOptions{MaxRedirects: 1, CheckRedirect: func(*eventloop.HTTPResponse, *url.URL) error { return io.ErrNoProgress }})
	if !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("CheckRedirect: %v", err)
	}
}

// A transport has read the body, or only closed it, before the redirect.
func TestATransportIsGivenTheBodyOfGetBodyAfterARedirect(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		n := len(r.URL.Path)
		if n < 3 {
			if r.Header.Get("Expect") == "" {
				io.Copy(io.Discard, r.Body)
			}
			http.Redirect(w, r, "/"+strings.Repeat("x", n), http.StatusPermanentRedirect)
			return
		}
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q %v length=%d", r.Method, body, err, r.ContentLength)
	})
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	var got []*closeCounter
	failure := errors.New("failure")
	for name, test := range map[string]struct {
		opts eventloop.HTTPOptions
		body string // of the response
		is   error
	}{
		"chunks":        {opts: eventloop.HTTPOptions{}, body: "length=-1"},
		"a length":      {opts: eventloop.HTTPOptions{ContentLength: 5}, body: "length=5"},
		"Expect":        {opts: eventloop.HTTPOptions{ContentLength: 5, Headers: eventloop.HTTPHeaders{{"Expect", "100-continue"}}}, body: "length=5"},
		"*bytes.Buffer": {opts: eventloop.HTTPOptions{BodyReader: bytes.NewBufferString("hello")}, body: "length=5"},
		"an error":      {opts: eventloop.HTTPOptions{GetBody: func() (io.ReadCloser, error) { return nil, failure }}, is: failure},
		"nil":           {opts: eventloop.HTTPOptions{GetBody: func() (io.ReadCloser, error) { return nil, nil }}, is: eventloop.ErrHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			defer transport.CloseIdleConnections()
			got = nil
			newBody := func() (io.ReadCloser, error) {
				got = append(got, &closeCounter{Reader: io.MultiReader(strings.NewReader("hello"))})
				return got[len(got)-1], nil
			}
			calls := 0
			if test.opts.BodyReader == nil {
				test.opts.BodyReader, _ = newBody()
				calls = 1
				if test.is == nil {
					calls, test.opts.GetBody = 3, newBody
				}
			}
			test.opts.MaxRedirects = 2
			res, err := doOver(t, transport, "POST", s.URL, &test.opts)
			wantEqual(t, "bodies", len(got), calls)
			for _, body := range got {
				wantEqual(t, "Close", body.closed.Load(), 1)
			}
			if test.is != nil {
				wantErr(t, "error", err, test.is)
				return
			}
			if want := `POST "hello" <nil> ` + test.body; err != nil || res.Redirects != 2 || string(res.Body) != want {
				t.Errorf("%+v, %v, want %s", res, err, want)
			}
		})
	}
}

// A transport asks for the body again when it sends the request again.
func TestATransportIsGivenGetBodyIfTheBodyCanBeReadAgain(t *testing.T) {
	var bodies []*closeCounter
	newBody := func() (io.ReadCloser, error) {
		bodies = append(bodies, &closeCounter{Reader: io.MultiReader(strings.NewReader("hello"))})
		return bodies[len(bodies)-1], nil
	}
	again := 0
	transport := tripFunc(func(req *http.Request) (*http.Response, error) {
		res := &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("done"))}
		if req.GetBody == nil {
			return res, nil
		}
		io.ReadFull(req.Body, make([]byte, 2))
		for i := range 3 {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			again++
			if b, err := io.ReadAll(body); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			if len(req.Trailer) > 0 {
				wantSlice(t, "trailer", req.Trailer["A"], []string{"1", "2"})
			}
			if i > 0 {
				body.Close()
			}
		}
		t.Cleanup(func() { // the request has ended
			if body, err := req.GetBody(); body != nil || err == nil {
				t.Errorf("GetBody = %v, %v", body, err)
			}
		})
		return res, nil
	})
	for name, test := range map[string]struct {
		opts   eventloop.HTTPOptions
		bodies int // of the application
		again  int
	}{
		"Body":                {eventloop.HTTPOptions{Body: []byte("hello")}, 0, 3},
		"Body and Trailers":   {eventloop.HTTPOptions{Body: []byte("hello"), Trailers: eventloop.HTTPHeaders{{"a", "1"}, {"A", "2"}}}, 0, 3},
		"BodyReader":          {eventloop.HTTPOptions{BodyReader: strings.NewReader("hello")}, 0, 0},
		"GetBody":             {eventloop.HTTPOptions{GetBody: newBody}, 4, 3},
		"GetBody with length": {eventloop.HTTPOptions{GetBody: newBody, ContentLength: 5}, 4, 3},
		"*bytes.Buffer":       {eventloop.HTTPOptions{BodyReader: bytes.NewBufferString("hello")}, 0, 3},
		"none":                {eventloop.HTTPOptions{}, 0, 0},
		"an empty one":        {eventloop.HTTPOptions{BodyReader: http.NoBody, GetBody: newBody}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			again, bodies = 0, nil
			if test.bodies > 0 {
				test.opts.BodyReader, _ = newBody()
			}
			if _, err := doOver(t, transport, "POST", "http://h", &test.opts); err != nil {
				t.Error(err)
			}
			wantEqual(t, "bodies", len(bodies), test.bodies)
			wantEqual(t, "sent again", again, test.again)
			for _, body := range bodies {
				wantEqual(t, "Close", body.closed.Load(), 1)
			}
		})
	}
	for name, test := range map[string]struct {
		change func(req *http.Request)
		bodies int
		again  int
	}{
		"GetBody":         {func(*http.Request) {}, 4, 3},
		"no GetBody":      {func(r *http.Request) { r.GetBody = nil }, 1, 0},
		"bytes in memory": {func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("hello")), 5 }, 0, 3},
		"none":            {func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, 5 }, 0, 0},
		"an empty one": {func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "GET", io.NopCloser(strings.NewReader("")), -1
		}, 0, 0},
	} {
		t.Run("RoundTripper, "+name, func(t *testing.T) {
			again, bodies = 0, nil
			runHTTPLoop(t, nil, func(l *eventloop.Loop) {
				rt := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: tripFunc(func(req *http.Request) (*http.Response, error) {
					if req.Body == nil && req.ContentLength != 0 {
						t.Errorf("ContentLength = %d without a body", req.ContentLength)
					}
					return transport(req)
				})}).RoundTripper()
				tripIn(l, "goroutine", func() {
					req := newRequest(t, "POST", "http://h", nil)
					if test.bodies > 0 {
						req.Body, _ = newBody()
					}
					req.GetBody = newBody
					test.change(req)
					res, err := rt.RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					res.Body.Close()
				})
			})
			wantEqual(t, "bodies", len(bodies), test.bodies)
			wantEqual(t, "sent again", again, test.again)
			for _, body := range bodies {
				wantEqual(t, "Close", body.closed.Load(), 1)
			}
		})
	}
}

func TestAResponseOfATransportIsBounded(t *testing.T) {
	transport := doubled(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20+1)) })
	_, err := doOver(t, transport, "GET", "http://example.org/", nil)
	if !errors.Is(err, eventloop.ErrHTTPTooLarge) {
		t.Error(err)
	}
}

func TestAFailureOfATransportIsTheErrorOfTheRequest(t *testing.T) {
	failure := errors.New("failure")
	for name, test := range map[string]struct {
		transport tripFunc
		is        error
		text      string
	}{
		"an error":       {func(*http.Request) (*http.Response, error) { return nil, failure }, failure, ""},
		"nothing":        {func(*http.Request) (*http.Response, error) { return nil, nil }, nil, "neither a response nor an error"},
		"a wrong status": {func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 7}, nil }, eventloop.ErrHTTPMalformed, ""},
		"a wrong field": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"A": {"b\nc"}}}, nil
		}, eventloop.ErrHTTPMalformed, ""},
		"a body that fails": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(readerFunc(func([]byte) (int, error) { return 0, failure }))}, nil
		}, failure, ""},
		"Goexit": {func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil }, nil, "Goexit"},
	} {
		body := &closeCounter{Reader: strings.NewReader("x")}
		res, err := doOver(t, test.transport, "POST", "http://example.org/", &eventloop.HTTPOptions{BodyReader: body})
		if res != nil || !errors.Is(err, eventloop.ErrHTTP) || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, %v", name, res, err)
		}
		wantEqual(t, name+": Close", body.closed.Load(), 1)
	}
	panics := tripFunc(func(*http.Request) (*http.Response, error) { panic("transport") })
	runHTTPLoop(t, &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) {
		eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: panics}).Get(bg, "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
			if pe := new(eventloop.PanicError); !errors.As(err, &pe) || pe.Value != "transport" {
				t.Error(err)
			}
		})
	})
	defer func() {
		if pe, ok := recover().(*eventloop.PanicError); !ok || pe.Value != "transport" {
			t.Errorf("Run panicked with %v", pe)
		}
	}()
	eventloop.Run(bg, nil, func(l *eventloop.Loop) error {
		eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: panics}).Get(bg, "http://h").Ignore()
		return nil
	})
}

func TestSettingsThatHaveNoEffectWithATransportAreErrors(t *testing.T) {
	transport := doubled(func(http.ResponseWriter, *http.Request) {})
	for name, cfg := range map[string]*eventloop.HTTPClientConfig{
		"ConnectTimeout":    {ConnectTimeout: 1},
		"InactivityTimeout": {InactivityTimeout: -1},
		"IdleTimeout":       {IdleTimeout: 1},
		"MaxConnsPerHost":   {MaxConnsPerHost: 1},
		"MaxIdlePerHost":    {MaxIdlePerHost: 1},
		"MaxIdle":           {MaxIdle: 1},
		"MaxHeaderBytes":    {MaxHeaderBytes: 1},
		"DisableKeepAlives": {DisableKeepAlives: true},
		"Proxy":             {Proxy: eventloop.NoProxy},
		"Dial":              {Dial: func(context.Context, string, string) (net.Conn, error) { return nil, nil }},
		"TLS":               {TLS: clientConf},
	} {
		cfg.Transport = transport
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			eventloop.NewHTTPClient(l, cfg).Get(bg, "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
				if err == nil || !strings.Contains(err.Error(), "HTTPClientConfig."+name+" has no effect") {
					t.Errorf("%s: %v", name, err)
				}
			})
		})
	}
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"UnixSocket": {UnixSocket: "/s"},
		"Upgrade":    {Upgrade: &eventloop.ConnConfig{}, Headers: eventloop.HTTPHeaders{{"Upgrade", "x"}}},
	} {
		_, err := doOver(t, transport, "GET", "http://h", opts)
		if err == nil || !strings.Contains(err.Error(), "HTTPOptions."+name+" has no effect") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheEndOfARequestIsThatOfItsTransport(t *testing.T) {
	for _, where := range []string{"RoundTrip", "Read", "paused"} {
		for _, how := range []string{"cancel", "timeout", "stop"} {
			t.Run(where+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					reason := errors.New("reason")
					transport := tripFunc(func(req *http.Request) (*http.Response, error) {
						wait := readerFunc(func(p []byte) (int, error) { <-req.Context().Done(); return 0, req.Context().Err() })
						switch where {
						case "RoundTrip":
							_, err := wait(nil)
							return nil, err
						case "Read":
							return &http.Response{StatusCode: 200, Body: io.NopCloser(wait)}, nil
						}
						return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(make([]byte, 1<<20)))}, nil
					})
					began := time.Now()
					var failure error
					ctx, cancel := context.WithCancelCause(bg)
					defer cancel(nil)
					runHTTPLoop(t, nil, func(l *eventloop.Loop) {
						opts := &eventloop.HTTPOptions{OnBody: func(res *eventloop.HTTPResponse, _ []byte) { res.PauseReading() }}
						switch how {
						case "cancel":
							l.AfterFunc(time.Second, func() { cancel(reason) })
						case "timeout":
							opts.Timeout = time.Second
						default:
							l.AfterFunc(time.Second, l.Stop)
						}
						f := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport}).Do(ctx, "GET", "http://h", opts)
						l.OnExit(func() { _, failure = f.Result() })
					})
					wantEqual(t, "duration", time.Since(began), time.Second)
					want := map[string]error{"cancel": reason, "timeout": eventloop.ErrTimeout, "stop": eventloop.ErrLoopClosed}[how]
					if !errors.Is(failure, want) {
						t.Errorf("error = %v, want %v", failure, want)
					}
				})
			})
		}
	}
}

// What a transport does after the end of a request has no effect on it.
func TestARequestFailsAtItsEndAlthoughItsTransportGoesOn(t *testing.T) {
	for _, where := range []string{"RoundTrip", "RoundTrip, no body", "Read", "Read, then the end"} {
		for _, how := range []string{"cancel", "Timeout"} {
			for _, by := range []string{"Do", "OnBody", "RoundTripper"} {
				t.Run(where+"/"+how+"/"+by, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testStubbornTransport(t, where, how, by) })
				})
			}
		}
	}
}

func testStubbornTransport(t *testing.T, where, how, by string) {
	const late = 2 * time.Second
	body := &closeCounter{Reader: strings.NewReader("late")}
	transport := tripFunc(func(*http.Request) (*http.Response, error) {
		res := &http.Response{StatusCode: 200, Body: body, ContentLength: -1}
		switch where {
		case "RoundTrip, no body":
			res.Body = http.NoBody
			body.Close()
			fallthrough
		case "RoundTrip":
			time.Sleep(late)
		case "Read, then the end":
			body.Reader = io.MultiReader(body.Reader, readerFunc(func(p []byte) (int, error) { time.Sleep(late); return 0, io.EOF }))
		default:
			body.Reader = io.MultiReader(readerFunc(func(p []byte) (int, error) { time.Sleep(late); return 0, io.EOF }), body.Reader)
		}
		return res, nil
	})
	cfg := &eventloop.HTTPClientConfig{Transport: transport}
	ctx, cancel := context.WithCancelCause(bg)
	defer cancel(nil)
	want := errors.New("reason")
	if how == "Timeout" {
		cfg.Timeout, want = time.Second, eventloop.ErrTimeout
	} else {
		time.AfterFunc(time.Second, func() { cancel(want) })
	}
	var failure error
	began := time.Now()
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		c := eventloop.NewHTTPClient(l, cfg)
		if by == "RoundTripper" {
			tripIn(l, "goroutine", func() {
				res, err := c.RoundTripper().RoundTrip(newRequest(t, "GET", "http://h", nil).WithContext(ctx))
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				failure = err
			})
			return
		}
		opts := &eventloop.HTTPOptions{}
		if by == "OnBody" {
			opts.OnBody = func(*eventloop.HTTPResponse, []byte) {}
		}
		c.Do(ctx, "GET", "http://h", opts).Then(func(_ *eventloop.HTTPResponse, err error) { failure = err })
	})
	if !errors.Is(failure, want) || !errors.Is(failure, eventloop.ErrHTTP) {
		t.Errorf("error = %v, want %v", failure, want)
	}
	wantEqual(t, "duration", time.Since(began), late)
	wantEqual(t, "Close", body.closed.Load(), 1)
}

// The race detector sees whether what a transport does after Run gets in the way of the
// caller.
func TestATransportThatReturnsAfterRunChangesNothing(t *testing.T) {
	for _, where := range []string{"RoundTrip", "RoundTrip, 101", "Read"} {
		for _, by := range []string{"Do", "RoundTripper"} {
			t.Run(where+"/"+by, func(t *testing.T) {
				checkLeaks(t)
				unblock := make(chan struct{})
				body := &closeCounter{Reader: strings.NewReader("late")}
				l := eventloop.New(logged(t, &eventloop.Config{WorkGrace: -1}))
				block := func() { l.Stop(); <-unblock }
				transport := tripFunc(func(*http.Request) (*http.Response, error) {
					res := &http.Response{StatusCode: 200, Body: body, Trailer: http.Header{"A": {"1"}}}
					switch where {
					case "RoundTrip, 101":
						res.StatusCode = http.StatusSwitchingProtocols
						fallthrough
					case "RoundTrip":
						block()
					default:
						body.Reader = io.MultiReader(body.Reader, readerFunc(func([]byte) (int, error) { block(); return 0, io.EOF }))
					}
					return res, nil
				})
				result := make(chan error, 1)
				l.Post(func() {
					c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport})
					if by == "Do" {
						f := c.Get(bg, "http://h")
						l.OnExit(func() { _, err := f.Result(); result <- err })
						return
					}
					go func() {
						res, err := c.RoundTripper().RoundTrip(newRequest(t, "GET", "http://h", nil))
						if err == nil {
							_, err = io.ReadAll(res.Body)
							wantEqual(t, "trailer", res.Trailer.Get("A"), "1") // of the response itself
						}
						result <- err
					}()
				})
				release := l.Hold()
				err := l.Run(bg)
				release()
				if !errors.Is(err, eventloop.ErrWorkLeft) {
					t.Errorf("Run = %v", err)
				}
				close(unblock)
				wantErr(t, "error", <-result, eventloop.ErrLoopClosed)
				if !eventually(func() bool { return body.closed.Load() == 1 }) {
					t.Errorf("the body was closed %d times", body.closed.Load())
				}
				eventually(func() bool { return l.Stats().HTTPClient.Requests == 0 })
				wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 0)
			})
		}
	}
}

func TestATransportThatDoesNotReturnIsNamed(t *testing.T) {
	unblock, gone := make(chan struct{}), make(chan struct{})
	err := eventloop.Run(bg, logged(t, &eventloop.Config{WorkGrace: -1}), func(l *eventloop.Loop) error {
		transport := tripFunc(func(*http.Request) (*http.Response, error) {
			defer close(gone)
			l.Stop()
			<-unblock
			return nil, io.EOF
		})
		eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport}).Get(bg, "http://h").Ignore()
		return nil
	})
	if !errors.Is(err, eventloop.ErrWorkLeft) || !strings.Contains(err.Error(), "RoundTrip of eventloop_test.tripFunc") {
		t.Errorf("Run = %v", err)
	}
	close(unblock)
	<-gone
}

func TestTheRoundTripperOfAClientWithATransportUsesIt(t *testing.T) {
	var closed atomic.Int32
	transport := doubled(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		w.Write(make([]byte, 1<<20))
	})
	mustRun(t, nil, func(l *eventloop.Loop) {
		c := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: idleCloser{transport, &closed}})
		l.Go(bg, func(*eventloop.Task) error {
			client := &http.Client{Transport: c.RoundTripper()}
			res, err := client.Post("http://h/", "text/plain", io.MultiReader(strings.NewReader("hello")))
			if err != nil {
				t.Error(err)
				return nil
			}
			body, err := io.ReadAll(res.Body)
			if len(body) != len("hello")+1<<20 || err != nil {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			res.Body.Close()
			client.CloseIdleConnections()
			return nil
		})
	})
	wantEqual(t, "CloseIdleConnections", closed.Load(), 1)
}

type idleCloser struct {
	tripFunc
	closed *atomic.Int32
}

func (c idleCloser) CloseIdleConnections() { c.closed.Add(1) }

func TestHTTP2OfNetHTTPWorksUnderTheClient(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	transport := s.Client().Transport.(*http.Transport)
	defer transport.CloseIdleConnections()
	res, err := doOver(t, transport, "GET", s.URL, nil)
	if err != nil || res.Proto != "HTTP/2.0" || string(res.Body) != "HTTP/2.0" || res.TLS == nil {
		t.Errorf("%+v, %v", res, err)
	}
}

// withBothTransports calls f with the two kinds of clients.
func withBothTransports(t *testing.T, f func(t *testing.T, clientOf func(l *eventloop.Loop) *eventloop.HTTPClient)) {
	t.Run("own", func(t *testing.T) { f(t, (*eventloop.Loop).HTTP) })
	t.Run("http.Transport", func(t *testing.T) {
		f(t, func(l *eventloop.Loop) *eventloop.HTTPClient {
			transport := &http.Transport{}
			l.OnExit(transport.CloseIdleConnections)
			return eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport})
		})
	})
}

// endlessResponse is a server that responds before it has the body, without end.
func endlessResponse(t *testing.T) *httpPeer {
	return newHTTPPeer(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		for err := error(nil); err == nil; {
			_, err = c.Write(make([]byte, 64<<10))
		}
	})
}

func TestABodyThatFailsEndsARequestWhoseResponseIsNotRead(t *testing.T) {
	failed := errors.New("the source of the body failed")
	withBothTransports(t, func(t *testing.T, clientOf func(l *eventloop.Loop) *eventloop.HTTPClient) {
		for _, in := range []string{"OnResponse", "OnBody"} {
			t.Run("PauseReading in "+in, func(t *testing.T) {
				server := endlessResponse(t)
				body, source := io.Pipe()
				go source.Write([]byte("begin"))
				pieces := 0
				pause := func(r *eventloop.HTTPResponse) {
					r.PauseReading()
					go source.CloseWithError(failed)
				}
				o := &eventloop.HTTPOptions{BodyReader: body, OnBody: func(r *eventloop.HTTPResponse, _ []byte) {
					pieces++
					pause(r)
				}}
				if in == "OnResponse" {
					o.OnResponse = pause
				}
				var err error
				mustRun(t, nil, func(l *eventloop.Loop) {
					clientOf(l).Do(t.Context(), "POST", "http://"+server.addr, o).Then(func(_ *eventloop.HTTPResponse, e error) { err = e })
				})
				wantEqual(t, "the error of the request is that of the body", errors.Is(err, failed), true)
				wantEqual(t, "calls of OnBody", pieces, map[string]int{"OnBody": 1}[in])
			})
		}
		t.Run("RoundTripper", func(t *testing.T) {
			server := endlessResponse(t)
			body, source := io.Pipe()
			go source.Write([]byte("begin"))
			mustRun(t, nil, func(l *eventloop.Loop) {
				release := l.Hold()
				go func() {
					defer release()
					req, _ := http.NewRequest("POST", "http://"+server.addr, body)
					res, err := clientOf(l).RoundTripper().RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					defer res.Body.Close()
					go source.CloseWithError(failed)
					if !eventually(func() bool { return l.Stats().HTTPClient.Requests == 0 }) {
						t.Error("the request does not end before its response is read")
					}
					_, err = io.Copy(io.Discard, res.Body)
					wantEqual(t, "the error of the response is that of the body", errors.Is(err, failed), true)
				}()
			})
		})
	})
}

func TestAPanicInABodyIsTheErrorOfTheRequest(t *testing.T) {
	withBothTransports(t, func(t *testing.T, clientOf func(l *eventloop.Loop) *eventloop.HTTPClient) {
		server := newHTTPPeer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
		var err error
		mustRun(t, nil, func(l *eventloop.Loop) {
			o := &eventloop.HTTPOptions{BodyReader: readerFunc(func([]byte) (int, error) { panic("body") })}
			clientOf(l).Do(t.Context(), "POST", "http://"+server.addr, o).Then(func(_ *eventloop.HTTPResponse, e error) { err = e })
		})
		if pe := new(eventloop.PanicError); !errors.As(err, &pe) || pe.Value != "body" {
			t.Errorf("error = %v, want the panic", err)
		}
	})
}

// A transport closes the body when it has the response. That the body's Read then fails is
// no failure of the request.
func TestABodyThatItsTransportClosesDoesNotFailTheRequest(t *testing.T) {
	server := newHTTPPeer(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")
		}
	})
	closes := tripFunc(func(req *http.Request) (*http.Response, error) {
		body, other := req.Body, &http.Transport{}
		defer other.CloseIdleConnections()
		read := make(chan error)
		go func() {
			_, err := body.Read(make([]byte, 1))
			read <- err
		}()
		own := req.Clone(req.Context())
		own.Body, own.ContentLength = nil, 0
		res, err := other.RoundTrip(own)
		body.Close()
		if err := <-read; err == nil {
			t.Error("Read after Close succeeded")
		}
		return res, err
	})
	body, source := io.Pipe()
	defer source.Close()
	mustRun(t, nil, func(l *eventloop.Loop) {
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: closes})
		client.Do(t.Context(), "POST", "http://"+server.addr, &eventloop.HTTPOptions{BodyReader: body}).Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			wantEqual(t, "body", string(res.Body), "early")
		})
	})
}
