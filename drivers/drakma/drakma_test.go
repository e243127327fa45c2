package drakma

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// This file has the examples of the documentation of Drakma, in its order.

func TestLogHeadersToAStream(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=secret")
		w.Header().Set("X-Test", "yes")
		w.WriteHeader(http.StatusNoContent)
	})
	var b bytes.Buffer
	must(t, Options{Log: &b}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL+"/a?b=c").BasicAuth("nanook", "igloo").Header("Cookie", "x=secret").Header("X-Auth-Token", "secret").Accept("*/*").Do()
	})
	got := b.String()
	for _, want := range []string{"GET /a?b=c HTTP/1.1\nHost: " + s.Listener.Addr().String() + "\n", "Authorization: Basic ***\n", "Cookie: ***\n", "X-Auth-Token: ***\n", "Accept: */*\n", "HTTP/1.1 204 No Content\n", "Set-Cookie: ***\n", "X-Test: yes\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if strings.Contains(got, "secret") || strings.Contains(got, "bmFub29r") {
		t.Errorf("the log has credentials:\n%s", got)
	}
}

func TestRequestAPageWithRedirection(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/lisp/", http.StatusMovedPermanently)
			return
		}
		fmt.Fprint(w, "welcome ", r.Referer())
	})
	res := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL+"/#part").AutoReferer().Do()
	})
	equal(t, "the body", string(res.Body), "welcome "+s.URL+"/")
	equal(t, "the URL", strings.TrimSuffix(res.URL, "#part"), s.URL+"/lisp/")
	equal(t, "Redirects", res.Redirects, 1)
	equal(t, "Attempts", res.Attempts, 2)
}

func TestRequestAPageWithNonASCIICharacters(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=iso-8859-1")
		w.Write([]byte("Gr\xfc\xdfe"))
	})
	text := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
		return d.Get(ctx, s.URL).Text()
	})
	equal(t, "the text", text, "Grüße")
}

func TestRequestBinaryData(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-16")
		w.Write([]byte("\x89PNG\r\n\x00\xff"))
	})
	p := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[[]byte] {
		return d.Get(ctx, s.URL).Bytes()
	})
	equal(t, "the body", string(p), "\x89PNG\r\n\x00\xff")
}

func TestChunkedTransferOverHTTPS(t *testing.T) {
	var encoding []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		encoding = r.TransferEncoding
		p, _ := io.ReadAll(r.Body)
		w.(http.Flusher).Flush() // so that the response is chunked
		w.Write(bytes.ToUpper(p))
	}))
	defer s.Close()
	cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{Client: eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{TLS: cfg})})
		d.Post(ctx, s.URL).Body("text/plain", io.MultiReader(strings.NewReader("over "), strings.NewReader("tls"))).Text().Then(func(text string, err error) {
			equal(t, "the text", text, "OVER TLS")
			equal(t, "the error", err, nil)
		})
	})
	equal(t, "the encoding", fmt.Sprint(encoding), "[chunked]")
}

func TestSendAnotherUserAgent(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.UserAgent()) })
	text := must(t, Options{Headers: eventloop.HTTPHeaders{{Name: "User-Agent", Value: "no"}}}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
		return d.Get(ctx, s.URL).UserAgent("Mozilla/4.0 (compatible)").Text()
	})
	equal(t, "the user agent", text, "Mozilla/4.0 (compatible)")
}

func TestPostDataAndUseCookies(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			if r.FormValue("user") != "nanook" || r.FormValue("password") != "i&g=loo" || r.Method != "POST" {
				t.Errorf("the form is %v", r.Form)
			}
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "77"})
			http.Redirect(w, r, "/home", http.StatusFound)
		default:
			c, err := r.Cookie("session")
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(w, r.Method, " ", c.Value)
		}
	})
	jar := NewJar()
	for _, path := range []string{"/login", "/again"} {
		text := must(t, Options{Jar: jar, BaseURL: s.URL}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
			if path == "/again" {
				return d.Get(ctx, path).Text()
			}
			return d.Post(ctx, path).Form(map[string][]string{"user": {"nanook"}, "password": {"i&g=loo"}}).Text()
		})
		equal(t, "the text", text, "GET 77")
	}
}

func TestReuseAConnection(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{})
		d.Get(ctx, s.URL).Do().Then(func(res *Response, err error) {
			if err != nil || res.Reused {
				t.Errorf("first: %+v, %v", res, err)
			}
			d.Get(ctx, s.URL).Do().Then(func(res *Response, err error) {
				if err != nil || !res.Reused {
					t.Errorf("second: %+v, %v", res, err)
				}
			})
		})
	})
}

func TestBasicAuthorization(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "nanook" || p != "ig:loo" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	for password, want := range map[string]int{"ig:loo": 200, "wrong": 401} {
		res := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Get(ctx, s.URL).BasicAuth("nanook", password).Do()
		})
		equal(t, "the status", res.Status, want)
	}
}

func TestReadTheResponseFromAStream(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 100 {
			w.Write(bytes.Repeat([]byte("x"), 1<<14))
		}
	})
	n := 0
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		f := New(l, Options{}).Get(ctx, s.URL).Stream(func(res *Response, p []byte) {
			n += len(p)
			equal(t, "the status", res.Status, 200)
			res.PauseReading() // back-pressure
			l.Post(res.ResumeReading)
		})
		f.Then(func(res *Response, err error) {
			equal(t, "the error", err, nil)
			equal(t, "the number of bytes", n, 100<<14)
		})
	})
}

func TestAssembleTheRequestPieceByPiece(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		w, r := eventloop.NewPipe(l, 0)
		New(l, Options{}).Post(ctx, s.URL).Body("text/plain", r).Text().Then(func(text string, err error) {
			equal(t, "the text", text, "one two three")
			equal(t, "the error", err, nil)
		})
		io.WriteString(w, "one ")
		l.Post(func() {
			io.WriteString(w, "two ")
			l.Post(func() { io.WriteString(w, "three"); w.Close() })
		})
	})
}

func TestPartialTransfers(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader("0123456789"))
	})
	for _, c := range []struct {
		first, last int64
		want        string
	}{{2, 4, "234"}, {7, -1, "789"}, {-2, -1, "89"}, {0, 0, "0"}} {
		res := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Get(ctx, s.URL).Range(c.first, c.last).Do()
		})
		equal(t, "the status", res.Status, 206)
		equal(t, "the part", string(res.Body), c.want)
	}
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Get(ctx, s.URL).Range(4, 2).Do()
	})
	if err == nil {
		t.Error("an empty range is no error")
	}
}
