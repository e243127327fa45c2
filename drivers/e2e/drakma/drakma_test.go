package drakma_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	auth "github.com/abbot/go-http-auth"
	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/drakma"
)

// random returns bytes that look random.
func random(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

func TestBasicAuthorization(t *testing.T) {
	s := start(t, nil)
	s.write(t, "private/file", []byte("treasure"))
	hash := sha1.Sum([]byte("ig:loo")) // a colon would end a {PLAIN} one
	line := "nanook:{SHA}" + base64.StdEncoding.EncodeToString(hash[:]) + "\n"
	if err := os.WriteFile(filepath.Join(s.dir, "passwords"), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	text := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[string] {
		return d.Get(ctx, "/private/file").BasicAuth("nanook", "ig:loo").Text()
	})
	equal(t, "the text", text, "treasure")
	_, err := result(t, s, drakma.Options{}, func(ctx context.Context, d *drakma.Client) *eventloop.Future[string] {
		return d.Get(ctx, "/private/file").BasicAuth("nanook", "wrong").Text()
	})
	e, ok := errors.AsType[*drakma.StatusError](err)
	if !ok || e.Response.Status != 401 || !strings.Contains(string(e.Response.Body), "401 Authorization Required") {
		t.Errorf("the error is %v", err)
	}
}

// Digest authorization as another library checks it, through a proxy that passes the request
// target on.
func TestDigestAuthorization(t *testing.T) {
	digest := auth.NewDigestAuthenticator("north", func(user, realm string) string {
		if user == "nanook" && realm == "north" {
			return auth.H("nanook:north:igloo")
		}
		return ""
	})
	upstream := httptest.NewServer(digest.Wrap(func(w http.ResponseWriter, r *auth.AuthenticatedRequest) {
		body, err := io.ReadAll(r.Body)
		if uri := auth.DigestAuthParams(r.Header.Get("Authorization"))["uri"]; uri != r.RequestURI || err != nil {
			t.Errorf("the digest is for %s, the request for %s; %v", uri, r.RequestURI, err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Username, r.RequestURI, body)
	}))
	defer upstream.Close()
	s := start(t, upstream)
	onLoop(t, s, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		send := func(password string) *eventloop.Future[*drakma.Response] {
			return d.Put(ctx, "/behind/a%2F|b?q=ü|{}").DigestAuth("nanook", password).Data("text/plain", []byte("body")).Do()
		}
		check := func(res *drakma.Response, err error, attempts int) {
			if err != nil {
				t.Error(err)
				return
			}
			equal(t, "the answer", string(res.Body), "nanook /behind/a%2F%7Cb?q=%C3%BC%7C%7B%7D body")
			equal(t, "Attempts", res.Attempts, attempts)
		}
		send("igloo").Then(func(res *drakma.Response, err error) {
			check(res, err, 2)
			send("igloo").Then(func(res *drakma.Response, err error) {
				check(res, err, 1) // the nonce is known
				send("wrong").Then(func(res *drakma.Response, err error) {
					if err != nil || res.Status != 401 {
						t.Errorf("a wrong password: %+v, %v", res, err)
					}
				})
			})
		})
	})
}

func TestMultipartUpload(t *testing.T) {
	content := random(5 << 20)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			t.Error(err)
			return
		}
		defer r.MultipartForm.RemoveAll()
		f, head, err := r.FormFile("file")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		got, err := io.ReadAll(f)
		fmt.Fprintf(w, "%s %s %s %t %v", r.FormValue("title"), head.Filename, head.Header.Get("Content-Type"), bytes.Equal(got, content), err)
	}))
	defer upstream.Close()
	s := start(t, upstream)
	path := filepath.Join(t.TempDir(), "a b.png")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	text := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[string] {
		return d.Post(ctx, "/behind/form").Multipart(drakma.Field("title", "Grüße"), drakma.File("file", path)).Text()
	})
	equal(t, "the form", text, "Grüße a b.png image/png true <nil>")
}

func TestUploadOfAFile(t *testing.T) {
	s := start(t, nil)
	content := random(5 << 20)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	res := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Put(ctx, "/uploads/new/f").BodyFile("application/octet-stream", path).Check().Do()
	})
	equal(t, "the status", res.Status, 201)
	got, err := os.ReadFile(filepath.Join(s.dir, "www/uploads/new/f"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the server has %d bytes, %v", len(got), err)
	}
}

func TestRange(t *testing.T) {
	s := start(t, nil)
	s.write(t, "files/digits", []byte("0123456789"))
	for _, c := range []struct {
		first, last int64
		status      int
		want        string
	}{{2, 4, 206, "234"}, {7, -1, 206, "789"}, {-2, -1, 206, "89"}, {20, -1, 416, ""}} {
		res := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
			return d.Get(ctx, "/files/digits").Range(c.first, c.last).Do()
		})
		equal(t, "the status", res.Status, c.status)
		if c.status == 206 {
			equal(t, "the part", string(res.Body), c.want)
		}
	}
}

func TestGzip(t *testing.T) {
	s := start(t, nil)
	content := strings.Repeat("one text ", 100_000)
	s.write(t, "gzip/text", []byte(content))
	text := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[string] {
		return d.Get(ctx, "/gzip/text").Text()
	})
	equal(t, "the text is whole", text == content, true)

	streamed := 0
	res := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/gzip/text").Stream(func(_ *drakma.Response, p []byte) { streamed += len(p) })
	})
	equal(t, "the stream", streamed, len(content))
	equal(t, "Content-Encoding", res.Header("Content-Encoding"), "")

	res = must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/gzip/text").Decompress(false).Header("Accept-Encoding", "gzip").Do()
	})
	if res.Header("Content-Encoding") != "gzip" || len(res.Body) > len(content)/10 {
		t.Errorf("%d bytes, %v", len(res.Body), res.Headers)
	}
}

func TestCharset(t *testing.T) {
	s := start(t, nil)
	s.write(t, "koi8/text", []byte("\xf0\xd2\xc9\xd7\xc5\xd4"))
	res := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/koi8/text").Do()
	})
	equal(t, "Content-Type", res.Header("Content-Type"), "text/plain; charset=koi8-r")
	text, err := res.Text()
	equal(t, "the error", err, nil)
	equal(t, "the text", text, "Привет")
}

func TestRedirect(t *testing.T) {
	s := start(t, nil)
	s.write(t, "files/small", []byte("small"))
	res := must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/old").Do()
	})
	equal(t, "the body", string(res.Body), "small")
	equal(t, "Redirects", res.Redirects, 1)
	equal(t, "the connection is used again", res.Reused, true)
}

func TestSave(t *testing.T) {
	s := start(t, nil)
	content := random(20 << 20)
	s.write(t, "files/large", content)
	dir := t.TempDir()
	path := filepath.Join(dir, "saved")
	must(t, s, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/files/large").Save(path)
	})
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file has %d bytes, %v", len(got), err)
	}
	_, err = result(t, s, drakma.Options{}, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/files/none").Save(path)
	})
	if e, ok := errors.AsType[*drakma.StatusError](err); !ok || e.Response.Status != 404 || !strings.Contains(string(e.Response.Body), "404 Not Found") {
		t.Errorf("the error is %v", err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("the directory has %v, %v", list, err)
	}
}

// A readier is a log that makes the server ready after its first 503.
type readier func()

func (f readier) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 503 ")) {
		f()
	}
	return len(p), nil
}

func TestRetryAfter503(t *testing.T) {
	s := start(t, nil)
	refused := 0
	opts := drakma.Options{Retry: drakma.Retry{Max: 5}, Log: readier(func() {
		refused++
		s.write(t, "ready", nil)
	})}
	res, err := result(t, s, opts, func(ctx context.Context, d *drakma.Client) *eventloop.Future[*drakma.Response] {
		return d.Get(ctx, "/busy").Do()
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the body", string(res.Body), "ready")
	equal(t, "Attempts", res.Attempts, 2)
	equal(t, "how often the server refused", refused, 1)
}

func TestAHundredRequestsAtATime(t *testing.T) {
	s := start(t, nil)
	results := 0
	onLoop(t, s, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		for i := range 100 {
			d.Get(ctx, fmt.Sprintf("/number/%d", i)).Text().Then(func(text string, err error) {
				results++
				equal(t, "the text", text, fmt.Sprintf("number %d", i))
				equal(t, "the error", err, nil)
			})
		}
	})
	equal(t, "the number of results", results, 100)
}
