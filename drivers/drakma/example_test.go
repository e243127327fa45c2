package drakma_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/drakma"
)

// withServer runs f on a loop, with a client of a server.
func withServer(h http.HandlerFunc, opts drakma.Options, f func(ctx context.Context, d *drakma.Client)) {
	server := httptest.NewServer(h)
	defer server.Close()
	opts.BaseURL = server.URL
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(ctx, drakma.New(l, opts))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

// show answers with the method, the target and the body of the request.
func show(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
}

func printText(text string, err error) { fmt.Println(text, err) }

func Example() {
	server := httptest.NewServer(http.HandlerFunc(show))
	defer server.Close()
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		d := drakma.New(l, drakma.Options{})
		d.Get(ctx, server.URL).Query("q", "event loops").Text().Then(func(text string, err error) {
			fmt.Println(text, err)
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: GET /?q=event+loops  <nil>
}

func ExampleNew() {
	opts := drakma.Options{
		Headers: eventloop.HTTPHeaders{{Name: "User-Agent", Value: "example/1.0"}},
		Jar:     drakma.NewJar(),
		Retry:   drakma.Retry{Max: 3},
		Timeout: time.Minute,
	}
	withServer(show, opts, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/a").Text().Then(printText)
	})
	// Output: GET /a  <nil>
}

func ExampleNewJar() {
	login := func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("user"); err == nil {
			fmt.Fprint(w, "hello ", c.Value)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "user", Value: "nanook"})
		http.Redirect(w, r, "/home", http.StatusFound)
	}
	withServer(login, drakma.Options{Jar: drakma.NewJar()}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/login").Text().Then(printText)
	})
	// Output: hello nanook <nil>
}

func ExampleClient_Request() {
	withServer(show, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		for _, r := range []*drakma.Request{
			d.Head(ctx, "/a"), d.Post(ctx, "/a"), d.Put(ctx, "/a"), d.Patch(ctx, "/a"), d.Delete(ctx, "/a"), d.Request(ctx, "PROPFIND", "/a"),
		} {
			r.Do().Then(func(res *drakma.Response, err error) {
				if err != nil || res.Status != 200 {
					fmt.Println(res, err)
				}
			})
		}
	})
	// Output:
}

func ExampleRequest_Form() {
	withServer(show, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Form(url.Values{"city": {"Köln"}}).Encoding("iso-8859-1").Text().Then(printText)
	})
	// Output: POST / city=K%F6ln <nil>
}

func ExampleRequest_Header() {
	fields := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Host, r.UserAgent(), r.Header.Get("Accept"), r.Header.Get("X-Trace"), r.Header.Get("Authorization"))
	}
	withServer(fields, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Host("example.com").UserAgent("me").Accept("text/*").Header("X-Trace", "7").Bearer("t0ken").Text().Then(printText)
	})
	// Output:
	// example.com me text/* 7 Bearer t0ken
	//  <nil>
}

func ExampleRequest_BasicAuth() {
	server := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Authorization")) }
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").BasicAuth("nanook", "igloo").Text().Then(printText)
	})
	// Output: Basic bmFub29rOmlnbG9v <nil>
}

func ExampleRequest_DigestAuth() {
	server := func(w http.ResponseWriter, r *http.Request) {
		if credentials := r.Header.Get("Authorization"); credentials != "" { // which a real server checks
			fmt.Fprint(w, strings.Split(credentials, ",")[0])
			return
		}
		w.Header().Set("WWW-Authenticate", `Digest realm="north", nonce="77", qop="auth", algorithm=SHA-256`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").DigestAuth("nanook", "igloo").Text().Then(printText)
	})
	// Output: Digest username="nanook" <nil>
}

func ExampleRequest_Range() {
	server := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader("0123456789"))
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Range(2, 4).Do().Then(func(res *drakma.Response, err error) {
			fmt.Println(res.Status, res.Header("Content-Range"), string(res.Body))
		})
	})
	// Output: 206 bytes 2-4/10 234
}

func ExampleRequest_Into() {
	type point struct{ X, Y int }
	withServer(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		var p point
		d.Post(ctx, "/").JSON(point{3, 4}).Into(&p).Then(func(res *drakma.Response, err error) {
			fmt.Println(res.Status, p, err)
		})
	})
	// Output: 200 {3 4} <nil>
}

func ExampleRequest_Body() {
	withServer(show, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		r, w := io.Pipe()
		go func() { // or a task, or callbacks: see eventloop.NewPipe
			fmt.Fprint(w, "piece by piece")
			w.Close()
		}()
		d.Post(ctx, "/reader").Body("text/plain", r).Text().Then(func(text string, err error) {
			fmt.Println(text, err)
			d.Put(ctx, "/bytes").Data("text/plain", []byte("at once")).Text().Then(printText)
		})
	})
	// Output:
	// POST /reader piece by piece <nil>
	// PUT /bytes at once <nil>
}

// exampleFile makes a file and returns its path.
func exampleFile() (dir, path string) {
	dir, err := os.MkdirTemp("", "drakma")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(path, []byte("some notes"), 0o600); err != nil {
		log.Fatal(err)
	}
	return dir, path
}

func ExampleRequest_BodyFile() {
	dir, path := exampleFile()
	defer os.RemoveAll(dir)
	withServer(show, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Put(ctx, "/notes").BodyFile("text/plain", path).Text().Then(printText)
	})
	// Output: PUT /notes some notes <nil>
}

// printForm answers with the parts of a form.
func printForm(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseMultipartForm(1 << 20); err != nil {
		log.Print(err)
		return
	}
	fmt.Fprint(w, r.Form.Encode())
	for _, h := range r.MultipartForm.File["file"] {
		fmt.Fprintf(w, " %s: %d bytes of %s", h.Filename, h.Size, h.Header.Get("Content-Type"))
	}
}

func ExampleRequest_Multipart() {
	dir, path := exampleFile()
	defer os.RemoveAll(dir)
	withServer(printForm, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Multipart(drakma.Field("title", "x"), drakma.File("file", path)).Text().Then(printText)
	})
	// Output: title=x notes.txt: 10 bytes of text/plain; charset=utf-8 <nil>
}

func ExampleField() {
	withServer(printForm, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Multipart(drakma.Field("a", "1"), drakma.Field("b", "2")).Text().Then(printText)
	})
	// Output: a=1&b=2 <nil>
}

func ExampleFile() {
	dir, path := exampleFile()
	defer os.RemoveAll(dir)
	withServer(printForm, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Multipart(drakma.File("file", path)).Bytes().Then(func(p []byte, err error) {
			fmt.Println(string(p), err)
		})
	})
	// Output: notes.txt: 10 bytes of text/plain; charset=utf-8 <nil>
}

func ExampleData() {
	withServer(printForm, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Multipart(drakma.Data("file", "a.json", "", []byte("[1]"))).Text().Then(printText)
	})
	// Output: a.json: 3 bytes of application/json <nil>
}

func ExampleReader() {
	withServer(printForm, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Post(ctx, "/").Multipart(drakma.Reader("file", "a", "text/plain", strings.NewReader("text"))).Text().Then(printText)
	})
	// Output: a: 4 bytes of text/plain <nil>
}

func ExampleRequest_Charset() {
	server := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8") // which is not true
		w.Write([]byte("K\xf6ln"))
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Text().Then(func(_ string, err error) {
			fmt.Println(err)
			d.Get(ctx, "/").Charset("iso-8859-1").Text().Then(printText)
		})
	})
	// Output:
	// drakma: charset "utf-8": the text is not valid in this encoding
	// Köln <nil>
}

func ExampleRequest_Redirects() {
	server := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusMovedPermanently)
			return
		}
		u, _ := url.Parse(r.Referer())
		fmt.Fprint(w, "from ", u.Path)
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/old").AutoReferer().Do().Then(func(res *drakma.Response, err error) {
			fmt.Println(res.Status, res.Redirects, string(res.Body))
			d.Get(ctx, "/old").Redirects(0).Do().Then(func(res *drakma.Response, err error) {
				fmt.Println(res.Status, res.Header("Location"))
			})
		})
	})
	// Output:
	// 200 1 from /old
	// 301 /new
}

func ExampleRequest_Retry() {
	var attempts atomic.Int32
	server := func(w http.ResponseWriter, r *http.Request) {
		if attempts.Add(1) < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Retry(drakma.Retry{Max: 5}).Timeout(time.Minute).Do().Then(func(res *drakma.Response, err error) {
			fmt.Println(res.Status, res.Attempts)
		})
	})
	// Output: 200 3
}

func ExampleRequest_Check() {
	withServer(http.NotFound, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Decompress(false).Check().Do().Then(func(_ *drakma.Response, err error) {
			if e, ok := errors.AsType[*drakma.StatusError](err); ok {
				fmt.Printf("%d %s", e.Response.Status, e.Response.Body)
			}
		})
	})
	// Output: 404 404 page not found
}

func ExampleRequest_Save() {
	dir, path := exampleFile()
	defer os.RemoveAll(dir)
	withServer(show, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/new").Save(path).Then(func(res *drakma.Response, err error) {
			fmt.Println(res.Status, err)
		})
	})
	p, err := os.ReadFile(path)
	fmt.Println(string(p), err)
	// Output:
	// 200 <nil>
	// GET /new  <nil>
}

func ExampleRequest_Stream() {
	server := func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1_000_000)) }
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		n := 0
		d.Get(ctx, "/").Stream(func(res *drakma.Response, data []byte) { n += len(data) }).
			Then(func(res *drakma.Response, err error) { fmt.Println(n, err) })
	})
	// Output: 1000000 <nil>
}

func ExampleResponse() {
	server := func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		fmt.Fprint(w, `"text"`)
	}
	withServer(server, drakma.Options{}, func(ctx context.Context, d *drakma.Client) {
		d.Get(ctx, "/").Do().Then(func(res *drakma.Response, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			text, err := res.Text()
			fmt.Println(text, err)
			var v string
			err = res.JSON(&v)
			fmt.Println(v, err, res.Cookies())
		})
	})
	// Output:
	// "text" <nil>
	// text <nil> [a=b]
}
