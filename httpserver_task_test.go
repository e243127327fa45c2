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
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

func TestTaskHandlerRespondsForItsTask(t *testing.T) {
	failure := errors.New("failure")
	closed := errors.New("the response was complete")
	for _, v := range []struct {
		name   string
		f      func(k *eventloop.Task, r *eventloop.HTTPRequest) error
		status int
		body   string
		cut    bool
		event  error // nil: none
	}{
		{name: "a response", status: 200, body: "hai",
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { hai(r); return nil }},
		{name: "a response after a wait", status: 200, body: "hai",
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				err := k.Sleep(time.Hour)
				hai(r)
				return err
			}},
		{name: "an error", status: 500, body: "Internal Server Error\n", event: failure,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { k.Sleep(time.Hour); return failure }},
		{name: "nothing", status: 500, body: "Internal Server Error\n", event: errAny,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { return k.Sleep(time.Hour) }},
		{name: "an error after the response", status: 200, body: "hai", event: failure,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { hai(r); return failure }},
		{name: "a panic", status: 500, body: "Internal Server Error\n", event: errBoom,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { k.Sleep(time.Hour); panic("boom") }},
		{name: "a stream that is closed", status: 200, body: "part",
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				w, _ := r.RespondStream(200, nil)
				w.Write([]byte("part"))
				return w.Close()
			}},
		{name: "a stream that is not closed", status: 200, body: "part",
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				w, _ := r.RespondStream(200, nil)
				w.Write([]byte("part"))
				return k.Sleep(time.Hour)
			}},
		{name: "a stream that is too short", status: 200, body: "part", cut: true, event: errAny,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				w, _ := r.RespondStream(200, eventloop.HTTPHeaders{{"Content-Length", "5"}})
				w.Write([]byte("part"))
				return k.Sleep(time.Hour)
			}},
		{name: "an error in a stream", status: 200, body: "part", cut: true, event: failure,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				w, _ := r.RespondStream(200, nil)
				w.Write([]byte("part"))
				k.Sleep(time.Hour)
				return failure
			}},
		{name: "a panic in a stream", status: 200, body: "part", cut: true, event: errBoom,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				w, _ := r.RespondStream(200, nil)
				w.Write([]byte("part"))
				k.Sleep(time.Hour)
				panic("boom")
			}},
		{name: "end-of-stream errors of others", status: 500, body: "Internal Server Error\n", event: io.EOF,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error { return io.EOF }},
		{name: "an error for the response being complete", status: 200, body: "hai", event: closed,
			f: func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
				hai(r)
				if err := r.RespondText(200, "again"); err != eventloop.ErrHTTPResponded {
					return fmt.Errorf("second response: %v", err)
				}
				return closed
			}},
	} {
		t.Run(v.name, func(t *testing.T) {
			var events []error
			var status int
			var body string
			var readErr error
			synctest.Test(t, func(t *testing.T) {
				ln := pipelistener.New()
				cfg := &eventloop.HTTPServerConfig{
					OnEvent: func(_ *eventloop.HTTPServer, err error) { events = append(events, err) },
				}
				err := eventloop.Run(t.Context(), &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) error {
					s, err := l.ServeHTTP(ln, eventloop.TaskHandler(v.f), cfg)
					go func() {
						nc := ln.Dial()
						defer s.Close()
						defer nc.Close()
						io.WriteString(nc, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
						resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
						if err != nil {
							t.Errorf("no response: %v", err)
							return
						}
						b, err := io.ReadAll(resp.Body)
						status, body, readErr = resp.StatusCode, string(b), err
					}()
					return err
				})
				wantEqual(t, "Run", err, nil)
			})
			wantEqual(t, "status", status, v.status)
			wantEqual(t, "body", body, v.body)
			wantEqual(t, "cut", readErr != nil, v.cut)
			wantOneEvent(t, events, v.event)
		})
	}
}

var (
	errAny  = errors.New("any")
	errBoom = errors.New("a panic")
)

// wantOneEvent fails the test unless the only event is want, or there is none if
// want is nil.
func wantOneEvent(t *testing.T, events []error, want error) {
	t.Helper()
	switch {
	case want == nil && len(events) == 0:
		return
	case want == nil || len(events) != 1:
		t.Errorf("events: %v, want %v", events, want)
		return
	}
	if pe, ok := errors.AsType[*eventloop.PanicError](events[0]); ok {
		if want != errBoom || pe.Value != "boom" {
			t.Errorf("event %v, want %v", events[0], want)
		}
		return
	}
	if !errors.Is(events[0], eventloop.ErrHTTP) || want != errAny && !errors.Is(events[0], want) {
		t.Errorf("event %v, want an error of the request: %v", events[0], want)
	}
	if !strings.Contains(events[0].Error(), "GET /x") {
		t.Errorf("event %v does not name the request", events[0])
	}
}

func TestAnErrorOfATaskHandlerIsLoggedByDefaultWithTheRequest(t *testing.T) {
	book := &logBook{}
	l, _ := startLoop(t, &eventloop.Config{Logger: book.logger()})
	s := serveHTTP(t, l, nil, eventloop.TaskHandler(func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
		return errors.New("no disk")
	}))
	if status, _ := dialRaw(t, s.Addr()).get("/file"); status != 500 {
		t.Errorf("status %d, want 500", status)
	}
	for _, want := range []string{"GET /file", "no disk"} {
		if !eventually(func() bool { return strings.Contains(book.String(), want) }) {
			t.Errorf("the log lacks %q: %s", want, book)
		}
	}
}

func TestTheContextOfATaskHandlerOutlastsTheResponse(t *testing.T) {
	l, _ := startLoop(t, nil)
	answered, during, after := make(chan struct{}), make(chan error, 2), make(chan error, 2)
	s := serveHTTP(t, l, nil, eventloop.TaskHandler(func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
		ctx := r.Context()
		context.AfterFunc(ctx, func() { after <- ctx.Err() })
		hai(r)
		_, err := eventloop.Block(k, func(ctx context.Context) (int, error) {
			<-answered
			during <- ctx.Err()
			return 0, nil
		})
		return err
	}))
	c := dialRaw(t, s.Addr())
	c.get("/")
	c.get("/") // so the first request is over for the connection
	close(answered)
	wantEqual(t, "context after the response", <-during, nil)
	wantEqual(t, "context after the task", <-after, context.Canceled)
}

func TestATaskHandlerWhoseClientLeavesEndsWithoutAWord(t *testing.T) {
	for name, leave := range map[string]func(c *net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		for what, wait := range map[string]func(k *eventloop.Task) error{
			"Sleep": func(k *eventloop.Task) error { return k.Sleep(time.Hour) },
			"Block": func(k *eventloop.Task) error {
				_, err := eventloop.Block(k, func(ctx context.Context) (int, error) {
					<-ctx.Done()
					return 0, ctx.Err()
				})
				return err
			},
		} {
			t.Run(name+" during "+what, func(t *testing.T) {
				book := &logBook{}
				l, _ := startLoop(t, &eventloop.Config{Logger: book.logger()})
				waiting, ended := make(chan struct{}), make(chan struct{})
				s := serveHTTP(t, l, nil, eventloop.TaskHandler(func(k *eventloop.Task, r *eventloop.HTTPRequest) error {
					defer close(ended)
					k.Loop().Post(func() { close(waiting) })
					return wait(k)
				}))
				c := dialRaw(t, s.Addr())
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				<-waiting
				leave(c.Conn.(*net.TCPConn))
				<-ended
				if !eventually(func() bool { return l.Stats().HTTPServer.Conns == 0 }) {
					t.Error("the connection stays")
				}
				if got := book.String(); got != "" {
					t.Errorf("logged: %s", got)
				}
			})
		}
	}
}

func TestNilHandlersAreRefusedAtOnce(t *testing.T) {
	l, _ := startLoop(t, nil)
	for name, f := range map[string]func(){
		"TaskHandler":     func() { eventloop.TaskHandler(nil) },
		"HTTPHandler":     func() { eventloop.HTTPHandler(l, nil) },
		"FastHTTPHandler": func() { eventloop.FastHTTPHandler(l, nil) },
	} {
		if v, _ := outcome(f); v == nil {
			t.Errorf("%s(nil) does not panic", name)
		}
	}
	if _, err := l.ListenTask("tcp", "127.0.0.1:0", nil, nil); err == nil {
		t.Error("ListenTask of nil returned nil")
	}
}

func TestRespondTextAndJSON(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		switch r.Path() {
		case "/text":
			r.RespondText(201, "grüß dich")
		case "/json":
			r.RespondJSON(202, map[string]any{"a": 1, "b": []string{"x"}})
		case "/bad":
			if err := r.RespondJSON(200, func() {}); err == nil {
				t.Error("RespondJSON of a function returned nil")
			}
			r.RespondText(400, "cannot be encoded")
		}
	})
	c := dialRaw(t, s.Addr())
	for _, v := range []struct{ path, kind, body string }{
		{"/text", "text/plain; charset=utf-8", "grüß dich"},
		{"/json", "application/json", `{"a":1,"b":["x"]}`},
		{"/bad", "text/plain; charset=utf-8", "cannot be encoded"},
	} {
		c.send("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", v.path)
		resp, body := c.response("GET")
		wantEqual(t, v.path+" type", resp.Header.Get("Content-Type"), v.kind)
		wantEqual(t, v.path+" body", body, v.body)
	}
}

func TestQueryAndFormValues(t *testing.T) {
	l, _ := startLoop(t, nil)
	type values struct {
		query, form url.Values
		err         error
	}
	seen := make(chan values, 1)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 100}, func(r *eventloop.HTTPRequest) {
		form, err := r.FormValues()
		seen <- values{r.QueryValues(), form, err}
		hai(r)
	})
	c := dialRaw(t, s.Addr())
	post := func(target, kind, body string) (query, form url.Values, formErr error) {
		c.send("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", target, kind, len(body), body)
		c.response("POST")
		v := <-seen
		return v.query, v.form, v.err
	}
	const urlencoded = "application/x-www-form-urlencoded"
	query, form, formErr := post("/?a=1&a=2&b=%20x&c=%zz", urlencoded+"; charset=utf-8", "name=J%C3%BCrgen&x=1+2&name=b")
	wantSlice(t, "a", query["a"], []string{"1", "2"})
	wantEqual(t, "b", query.Get("b"), " x")
	wantEqual(t, "malformed c", query.Has("c"), false)
	wantSlice(t, "name", form["name"], []string{"Jürgen", "b"})
	wantEqual(t, "x", form.Get("x"), "1 2")
	wantEqual(t, "form error", formErr, nil)

	query, form, formErr = post("/", urlencoded, "good=1&bad=%zz")
	wantEqual(t, "good", form.Get("good"), "1")
	wantEqual(t, "no query", len(query), 0)
	if formErr == nil {
		t.Error("a malformed form is no error")
	}
	for _, kind := range []string{"text/plain", "multipart/form-data; boundary=x", "/"} {
		if _, form, err := post("/", kind, "a=1"); err == nil || form != nil {
			t.Errorf("a body of type %q is taken for a form: %v", kind, form)
		}
	}
	if _, form, err := post("/", urlencoded, "a="+strings.Repeat("x", 200)); err == nil || form != nil {
		t.Errorf("a streamed body is taken for a form: %v", form)
	}
}

type ctxKey struct{}

func TestHTTPHandlerKeepsWhatNetHTTPKnows(t *testing.T) {
	l, _ := startLoop(t, nil)
	deadline := time.Now().Add(time.Hour)
	got := make(chan string, 1)
	mux := http.NewServeMux()
	mux.Handle("GET /rooms/{room}/{rest...}", eventloop.HTTPHandler(l, func(r *eventloop.HTTPRequest) {
		at, _ := r.Context().Deadline()
		got <- fmt.Sprint(r.PathValue("room"), " ", r.PathValue("rest"), " ", r.PathValue("none"), " ", r.HTTP().Pattern, " ",
			r.Context().Value(ctxKey{}), " ", at.Equal(deadline))
		hai(r)
	}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithDeadline(context.WithValue(req.Context(), ctxKey{}, "middleware"), deadline)
		defer cancel()
		mux.ServeHTTP(w, req.WithContext(ctx))
	}))
	defer srv.Close()
	c := dialRaw(t, srv.Listener.Addr())
	c.get("/rooms/den%20one/a/b")
	wantEqual(t, "seen by the handler", <-got, "den one a/b  GET /rooms/{room}/{rest...} middleware true")
	c.Close()
}

func TestARequestOfOurServerHasNoHTTPRequest(t *testing.T) {
	l, _ := startLoop(t, nil)
	got := make(chan bool, 1)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		got <- r.HTTP() == nil && r.PathValue("x") == ""
		hai(r)
	})
	dialRaw(t, s.Addr()).get("/")
	wantEqual(t, "HTTP is nil and PathValue empty", <-got, true)
}

func TestHTTPHandlerEndsTheContextWithTheClientTheDeadlineAndTheLoop(t *testing.T) {
	for _, v := range []struct {
		name  string
		bound time.Duration
		end   func(c *rawClient, l *eventloop.Loop)
		told  error // to OnAbort; nil: nothing
		cause error
	}{
		{"client", time.Hour, func(c *rawClient, _ *eventloop.Loop) { c.Close() }, io.EOF, context.Canceled},
		{"deadline", time.Millisecond, func(*rawClient, *eventloop.Loop) {}, eventloop.ErrTimeout, context.DeadlineExceeded},
		{"loop", time.Hour, func(_ *rawClient, l *eventloop.Loop) { l.Stop() }, nil, eventloop.ErrLoopClosed},
	} {
		t.Run(v.name, func(t *testing.T) {
			l, end := startLoop(t, nil)
			told, handled, causes := make(chan error, 1), make(chan struct{}), make(chan error, 1)
			h := eventloop.HTTPHandler(l, func(r *eventloop.HTTPRequest) {
				r.OnAbort(func(err error) { told <- err; hai(r) })
				ctx := r.Context()
				context.AfterFunc(ctx, func() { causes <- context.Cause(ctx) })
				close(handled)
			})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				ctx, cancel := context.WithTimeout(req.Context(), v.bound)
				defer cancel()
				h.ServeHTTP(w, req.WithContext(ctx))
			}))
			defer srv.Close()
			c := dialRaw(t, srv.Listener.Addr())
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-handled
			v.end(c, l)
			if v.told != nil {
				wantErr(t, "told", <-told, v.told)
			}
			wantErr(t, "cause", <-causes, v.cause)
			c.Close()
			end()
		})
	}
}

// bareWriter is what a middleware leaves of a ResponseWriter that it wraps without
// Unwrap.
type bareWriter struct{ http.ResponseWriter }

// openWriter is one with Unwrap.
type openWriter struct{ http.ResponseWriter }

func (w openWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestStreamThroughAResponseWriterThatCannotFlushIsAnError(t *testing.T) {
	l, _ := startLoop(t, nil)
	h := eventloop.HTTPHandler(l, func(r *eventloop.HTTPRequest) {
		w, err := r.RespondStream(200, nil)
		if err != nil {
			wantErr(t, "Stream", err, errors.ErrUnsupported)
			r.RespondText(501, "no stream")
			return
		}
		io.WriteString(w, "streamed")
		w.Close()
	})
	wrap := map[string]func(w http.ResponseWriter) http.ResponseWriter{
		"/plain":     func(w http.ResponseWriter) http.ResponseWriter { return w },
		"/open":      func(w http.ResponseWriter) http.ResponseWriter { return openWriter{openWriter{w}} },
		"/bare":      func(w http.ResponseWriter) http.ResponseWriter { return bareWriter{w} },
		"/open/bare": func(w http.ResponseWriter) http.ResponseWriter { return openWriter{bareWriter{w}} },
		"/bare/open": func(w http.ResponseWriter) http.ResponseWriter { return bareWriter{openWriter{w}} },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h.ServeHTTP(wrap[req.URL.Path](w), req)
	}))
	defer srv.Close()
	c := dialRaw(t, srv.Listener.Addr())
	for path := range wrap {
		want := "streamed"
		if strings.Contains(path, "bare") {
			want = "no stream"
		}
		if _, body := c.get(path); body != want {
			t.Errorf("%s: %q, want %q", path, body, want)
		}
	}
	c.Close()
}

func TestARequestThatStaysOpenAfterItsClientLeftIsLoggedAfterAMinute(t *testing.T) {
	for _, v := range []struct {
		name     string
		response time.Duration // after the client left
		logged   int
	}{{"answered in time", 59 * time.Second, 0}, {"open for longer", 3 * time.Minute, 1}} {
		t.Run(v.name, func(t *testing.T) {
			var book bytes.Buffer
			synctest.Test(t, func(t *testing.T) {
				logs := &logBook{}
				ln := pipelistener.New()
				eventloop.Run(t.Context(), &eventloop.Config{Logger: logs.logger()}, func(l *eventloop.Loop) error {
					s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) {
						r.OnAbort(func(err error) { l.AfterFunc(v.response, func() { hai(r) }) })
					}, nil)
					go func() {
						nc := ln.Dial()
						io.WriteString(nc, "GET /poll HTTP/1.1\r\nHost: x\r\n\r\n")
						synctest.Wait()
						nc.Close()
						s.Close()
					}()
					return err
				})
				book.WriteString(logs.String())
			})
			wantEqual(t, "lines", strings.Count(book.String(), "still open long after"), v.logged)
			wantEqual(t, "lines with the request", strings.Count(book.String(), "GET /poll"), v.logged)
		})
	}
}
