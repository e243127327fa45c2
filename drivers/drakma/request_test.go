package drakma

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// echoURI answers with the request target.
func echoURI(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) }

func TestQueryKeepsOrderAndEncodes(t *testing.T) {
	s := serve(t, echoURI)
	for _, c := range []struct{ encoding, want string }{
		{"", "/a%2Fb?z=1&b=%C3%BC+%26&a=&b=2"},
		{"iso-8859-1", "/a%2Fb?z=1&b=%FC+%26&a=&b=2"},
		{"utf-16be", "/a%2Fb?z=1&%00b=%00%FC%00+%00%26&%00a=&%00b=%002"},
	} {
		got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
			return d.Get(ctx, s.URL+"/a%2Fb?z=1").Query("b", "ü &").Query("a", "").Query("b", "2").Encoding(c.encoding).Text()
		})
		equal(t, c.encoding, got, c.want)
	}
}

func TestFormEncodes(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d %s", r.Header.Get("Content-Type"), r.ContentLength, p)
	})
	got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
		return d.Post(ctx, s.URL).Form(url.Values{"b": {"ü", "="}, "a": {"1"}}).Encoding("latin1").Text()
	})
	equal(t, "the form", got, "application/x-www-form-urlencoded 15 a=1&b=%FC&b=%3D")
}

func TestMistakesAreTheErrorOfTheFuture(t *testing.T) {
	for name, f := range map[string]func(ctx context.Context, d *Client) *Request{
		"url":      func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "http://%zz/") },
		"password": func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "ftp://u:secret@x/") },
		"control":  func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "http://u:secret@x/\x01") },
		"relative": func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "/x") },
		"scheme":   func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "ftp://x/") },
		"field":    func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "http://x/").Header("A B", "c") },
		"value":    func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "http://x/").Header("A", "c\r\nd: e") },
		"method":   func(ctx context.Context, d *Client) *Request { return d.Request(ctx, "G T", "http://x/") },
		"json":     func(ctx context.Context, d *Client) *Request { return d.Post(ctx, "http://x/").JSON(make(chan int)) },
		"user":     func(ctx context.Context, d *Client) *Request { return d.Get(ctx, "http://x/").BasicAuth("a:b", "c") },
		"body":     func(ctx context.Context, d *Client) *Request { return d.Post(ctx, "http://x/").Body("", nil) },
		"file": func(ctx context.Context, d *Client) *Request {
			return d.Post(ctx, "http://x/").BodyFile("", "no such file")
		},
		"folder": func(ctx context.Context, d *Client) *Request {
			return d.Post(ctx, "http://x/").Multipart(File("a", "."))
		},
		"part": func(ctx context.Context, d *Client) *Request {
			return d.Post(ctx, "http://x/").Multipart(Data("a", "a", "text/plain\r\nForged: yes", nil))
		},
		"charset": func(ctx context.Context, d *Client) *Request {
			return d.Get(ctx, "http://x/").Query("a", "b").Encoding("klingon")
		},
		"char": func(ctx context.Context, d *Client) *Request {
			return d.Post(ctx, "http://x/").Form(url.Values{"a": {"世"}}).Encoding("latin1")
		},
	} {
		_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return f(ctx, d).Do() })
		// An error of the lookup means that the request was taken for valid.
		if err == nil || strings.Contains(err.Error(), "secret") || errors.Is(err, eventloop.ErrDNS) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	for _, base := range []string{"example.com", "ftp://u:secret@x", "http://u:secret@x/\x01"} {
		_, err := result(t, Options{BaseURL: base}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return d.Get(ctx, "/").Do() })
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("BaseURL %s: the error is %v", base, err)
		}
	}
}

// A closer notes that it is closed.
type closer struct {
	io.Reader
	closed int
}

func (c *closer) Close() error { c.closed++; return nil }

func TestABodyIsClosedOnceAlsoIfItIsNotSent(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for _, target := range []string{s.URL, "no url"} {
		a, b := &closer{Reader: strings.NewReader("a")}, &closer{Reader: strings.NewReader("b")}
		onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
			d := New(l, Options{})
			d.Post(ctx, target).Body("", a).Do().Ignore()
			d.Post(ctx, target).Multipart(Reader("b", "b", "", b)).Do().Ignore()
		})
		equal(t, "closed", a.closed, 1)
		equal(t, "closed", b.closed, 1)
	}
}

func TestARequestIsSentOnce(t *testing.T) {
	s := serve(t, echoURI)
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		r := New(l, Options{}).Get(ctx, s.URL)
		r.Do().Then(func(_ *Response, err error) { equal(t, "the error", err, nil) })
		r.Text().Then(func(_ string, err error) { equal(t, "the error", err, ErrSent) })
		r.Into(new(int)).Then(func(_ *Response, err error) { equal(t, "the error", err, ErrSent) })
	})
}

func TestMultipartHasFilesAndAKnownLength(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.txt")
	os.WriteFile(path, bytes.Repeat([]byte("x"), 300_000), 0o600)
	empty := filepath.Join(dir, "empty.bin")
	os.WriteFile(empty, nil, 0o600)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		length := r.ContentLength
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(w, "known=%t %s", length > 0, r.FormValue("na%22me"))
		for _, name := range []string{"f", "e", "d", "r"} {
			for _, h := range r.MultipartForm.File[name] {
				fmt.Fprintf(w, "; %s %s %d", h.Filename, h.Header.Get("Content-Type"), h.Size)
			}
		}
	})
	for _, stream := range []bool{false, true} {
		parts := []Part{Field("na\"me", "välue"), File("f", path), File("e", empty), Data("d", "d.json", "", []byte("{}"))}
		want := "known=true välue; a.txt text/plain; charset=utf-8 300000; empty.bin application/octet-stream 0; d.json application/json 2"
		if stream {
			parts = append(parts, Reader("r", "r", "a/b", strings.NewReader("123")))
			want = strings.Replace(want, "true", "false", 1) + "; r a/b 3"
		}
		got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
			return d.Post(ctx, s.URL).Multipart(parts...).Text()
		})
		equal(t, "the form", got, want)
	}
}

func TestTheMediaTypeOfAPartIsSentAsItIs(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		m, err := r.MultipartReader()
		if err != nil {
			t.Error(err)
			return
		}
		for p, err := m.NextPart(); err == nil; p, err = m.NextPart() {
			fmt.Fprintf(w, "%s %s\n", p.Header.Get("Content-Disposition"), p.Header.Get("Content-Type"))
		}
	})
	got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
		return d.Post(ctx, s.URL).Multipart(
			Data("a", "b\"\r\nc", `text/plain; charset="utf-8"`, nil),
			Reader("d", "e", `a/b; c="d\"e"`, strings.NewReader(""))).Text()
	})
	equal(t, "the parts", got, `form-data; name="a"; filename="b%22%0D%0Ac" text/plain; charset="utf-8"`+"\n"+
		`form-data; name="d"; filename="e" a/b; c="d\"e"`+"\n")
}

// A file that another program writes to while it is sent.
func TestAFileThatChangesIsAnError(t *testing.T) {
	const size = 1 << 20
	for name, change := range map[string]func(path string) error{
		"grows":    func(path string) error { return os.WriteFile(path, make([]byte, size+1), 0o600) },
		"shrinks":  func(path string) error { return os.Truncate(path, size/2) },
		"vanishes": func(path string) error { return os.Remove(path) },
		"rewritten": func(path string) error {
			return errors.Join(os.WriteFile(path, make([]byte, size), 0o600), os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
		},
	} {
		for _, multi := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "f")
			os.WriteFile(path, make([]byte, size), 0o600)
			whole := false
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				whole = err == nil
			})
			_, err := result(t, Options{Retry: Retry{Max: 2, MinWait: 1}}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
				r := d.Put(ctx, s.URL).BodyFile("", path)
				if multi {
					r.Multipart(File("a", path), Field("b", "c"))
				}
				// Between stat and open, which is the part of the race that a test can decide.
				b := r.body
				r.body = changing{b, func() error { return change(path) }}
				return r.Do()
			})
			if name == "vanishes" && !errors.Is(err, os.ErrNotExist) || name != "vanishes" && !errors.Is(err, ErrFileChanged) {
				t.Errorf("%s: the error is %v", name, err)
			}
			s.Close()
			if whole {
				t.Errorf("%s: the server got the whole request", name)
			}
		}
	}
}

// changing changes a file once its length is known.
type changing struct {
	body
	change func() error
}

func (c changing) prepare() error { return errors.Join(c.body.prepare(), c.change()) }

func TestAFileThatChangesDuringTheLastReadIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, []byte("1234"), 0o600)
	p := File("", path)
	if err := p.stat(); err != nil {
		t.Fatal(err)
	}
	r := p.open()
	defer r.Close()
	if n, err := r.Read(make([]byte, 2)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	os.WriteFile(path, []byte("12345"), 0o600)
	if n, err := r.Read(make([]byte, 9)); n != 0 || !errors.Is(err, ErrFileChanged) {
		t.Errorf("Read returns %d, %v", n, err)
	}
}

func TestIntoDecodesJSON(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/error":
			w.WriteHeader(http.StatusTeapot)
		case "/bad":
			p = []byte("<html>")
		case "/large":
			p = []byte(`{"A":"` + strings.Repeat("x", 2*maxInline) + `"}`)
		}
		w.Header().Set("X-Got", r.Header.Get("Content-Type")+" "+r.Header.Get("Accept"))
		w.Write(p)
	})
	type doc struct{ A string }
	send := func(path string) (string, *Response, error) {
		var v doc
		res, err := result(t, Options{BaseURL: s.URL}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Post(ctx, path).JSON(doc{"ü"}).Into(&v)
		})
		return v.A, res, err
	}
	a, res, err := send("/")
	if a != "ü" || err != nil || res.Header("X-Got") != "application/json application/json" {
		t.Errorf("Into: %q, %v", a, err)
	}
	if a, _, err := send("/large"); len(a) != 2*maxInline || err != nil {
		t.Errorf("large: %d bytes, %v", len(a), err)
	}
	_, _, err = send("/error")
	if e, ok := errors.AsType[*StatusError](err); !ok || e.Response.Status != 418 || string(e.Response.Body) != `{"A":"ü"}` {
		t.Errorf("error: %v", err)
	}
	_, _, err = send("/bad")
	if e, ok := errors.AsType[*DecodeError](err); !ok || string(e.Response.Body) != "<html>" || e.Unwrap() == nil {
		t.Errorf("bad: %v", err)
	}
}

func TestStatusIsAnErrorOnDemand(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		w.Write(bytes.Repeat([]byte("n"), maxErrorBody+1))
	})
	send := func(f func(r *Request) *eventloop.Future[*Response]) (*Response, error) {
		return result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return f(d.Get(ctx, s.URL)) })
	}
	got := 0
	count := func(_ *Response, p []byte) { got += len(p) }
	if res, err := send((*Request).Do); err != nil || res.Status != 404 {
		t.Errorf("Do: %v", err)
	}
	if _, err := send(func(r *Request) *eventloop.Future[*Response] { return r.Stream(count) }); err != nil || got != maxErrorBody+1 {
		t.Errorf("Stream: %d bytes, %v", got, err)
	}
	got = 0
	_, err := send(func(r *Request) *eventloop.Future[*Response] { return r.Check().Stream(count) })
	if e, ok := errors.AsType[*StatusError](err); !ok || len(e.Response.Body) != maxErrorBody || got != 0 {
		t.Errorf("Check and Stream: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		var status int
		if fmt.Sscanf(r.URL.Path, "/%d", &status); status > 0 {
			w.Header().Set("Location", r.URL.Query().Get("to"))
			w.WriteHeader(status)
			return
		}
		fmt.Fprintf(w, "%s %s%s", r.Method, p, r.Header.Get("Content-Type"))
	})
	for _, c := range []struct {
		method, path, want string
	}{
		{"POST", "/301?to=/", "200 GET "},
		{"PUT", "/302?to=/", "200 GET "},
		{"POST", "/303?to=/", "200 GET "},
		{"POST", "/307?to=/", "200 POST bodya/b"},
		{"POST", "/308?to=/", "200 POST bodya/b"},
		{"POST", "/307?to=", "307 "},
		{"POST", "/307?to=ftp://x/", "307 "},
		{"POST", "/307?to=http://%255B/", "307 "},
		{"POST", "/300?to=/", "300 "},
	} {
		res := must(t, Options{BaseURL: s.URL}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Request(ctx, c.method, c.path).Data("a/b", []byte("body")).Do()
		})
		equal(t, c.method+" "+c.path, fmt.Sprintf("%d %s", res.Status, res.Body), c.want)
	}
	for n, want := range []string{"302", "too many redirects", "too many redirects"} {
		res, err := result(t, Options{BaseURL: s.URL}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return d.Get(ctx, "/302?to=/302%3Fto=/302%3Fto=/302%3Fto=/").Redirects(n).Do()
		})
		if n == 0 && (err != nil || res.Status != 302) || n > 0 && !errors.Is(err, eventloop.ErrHTTPRedirects) {
			t.Errorf("%d redirects: %v, want %s", n, err, want)
		}
	}
	res := must(t, Options{BaseURL: s.URL}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Post(ctx, "/307?to=/").Body("a/b", io.MultiReader(strings.NewReader("once"))).Do()
	})
	equal(t, "the status for a body that cannot be sent again", res.Status, 307)
}

func TestCookiesOfForeignDomainsAreDropped(t *testing.T) {
	cookies := ""
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		cookies = r.Header.Get("Cookie")
		for _, c := range []string{"a=1; Domain=evil.example", "b=1; Domain=co.uk", "c=1; Domain=com", "d=1; Domain=.other.co.uk", "own=1", "sub=1; Domain=example.co.uk", "e=1; Path=/other", "bad"} {
			w.Header().Add("Set-Cookie", c)
		}
	})
	jar := NewJar()
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{Jar: jar})
		l.Go(ctx, func(task *eventloop.Task) error {
			for _, want := range []string{"", "own=1; sub=1"} {
				res, err := d.Get(ctx, s.URL).Host("www.example.co.uk").Do().Await(task)
				if err != nil {
					return err
				}
				equal(t, "Cookie", cookies, want)
				equal(t, "the number of cookies", len(res.Cookies()), 7)
			}
			return nil
		})
	})
}

func TestDecompressIsTheDefault(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Accept-Encoding") != "") })
	for _, on := range []bool{true, false} {
		got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] {
			return d.Get(ctx, s.URL).Decompress(on).Text()
		})
		equal(t, "compression", got, fmt.Sprint(on))
	}
}

func TestTheLastBodyCounts(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for want, f := range map[string]func(r *Request) *Request{
		"1":   func(r *Request) *Request { return r.Form(url.Values{"a": {"b"}}).JSON(1) },
		"a=b": func(r *Request) *Request { return r.JSON(1).Form(url.Values{"a": {"b"}}) },
	} {
		got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] { return f(d.Post(ctx, s.URL)).Text() })
		equal(t, "the body", got, want)
	}
}
