package eventloop_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
)

func TestHTTPTrailersOnTheWire(t *testing.T) {
	type H = eventloop.HTTPHeaders
	type O = eventloop.HTTPOptions
	const start = "PUT / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nTransfer-Encoding: chunked\r\n"
	for _, test := range []struct {
		name string
		opts *O
		want string
	}{
		{"Body", &O{Body: []byte("abc"), Trailers: H{{"X-A", "1"}, {"x-b", ""}, {"X-A", "2"}}},
			"Trailer: X-A, x-b\r\n\r\n3\r\nabc\r\n0\r\nX-A: 1\r\nx-b: \r\nX-A: 2\r\n\r\n"},
		{"no body", &O{Trailers: H{{"A", "1"}}}, "Trailer: A\r\n\r\n0\r\nA: 1\r\n\r\n"},
		{"reader of known length", &O{BodyReader: strings.NewReader("abc"), Trailers: H{{"A", "1"}}}, "Trailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n\r\n"},
		{"file", &O{BodyReader: fileWith(t, "abc"), Trailers: H{{"A", "1"}}}, "Trailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n\r\n"},
		{"announced by the user", &O{Body: []byte("abc"), Headers: H{{"Trailer", "a"}}, Trailers: H{{"A", "1"}}}, "Trailer: a\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n\r\n"},
		{"long", &O{BodyReader: io.MultiReader(strings.NewReader("abc")), Trailers: H{{"A", strings.Repeat("x", 64<<10)}}},
			"Trailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, body, _ := strings.Cut(test.want, "\r\n\r\n")
			wantEqual(t, "request", wire(t, "http://h", "PUT", test.opts, len(body)), start+test.want)
		})
	}
}

// A checksum gives its sum to a trailer field at the end of what it reads.
type checksum struct {
	io.ReadSeeker
	sum   hash.Hash
	field *eventloop.HTTPHeader
}

func (c *checksum) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.sum.Write(p[:n])
	if err == io.EOF {
		c.field.Value = fmt.Sprintf("%x", c.sum.Sum(nil))
	}
	return n, err
}

func (c *checksum) Seek(offset int64, whence int) (int64, error) {
	c.sum.Reset()
	return c.ReadSeeker.Seek(offset, whence)
}

// trailerServer answers with the body's checksum and the one in the trailer. /redirect
// sends requests to /, with the status in the query.
func trailerServer(t testing.TB) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.URL.Path == "/redirect" {
			status := 0
			fmt.Sscan(r.URL.RawQuery, &status)
			http.Redirect(w, r, "/", status)
			return
		}
		fmt.Fprintf(w, "%s %d %x %s", r.Method, len(body), sha256.Sum256(body), r.Trailer.Get("X-Sum"))
	}))
	t.Cleanup(s.Close)
	return s
}

func TestHTTPTrailersMayBeSetWhileTheBodyIsRead(t *testing.T) {
	s := trailerServer(t)
	for _, size := range []int{0, 1, 100 << 10, 1 << 20} {
		for _, path := range []string{"/", "/redirect?307", "/redirect?303"} {
			t.Run(fmt.Sprint(size, path), func(t *testing.T) {
				checkLeaks(t)
				data := bytesOf(size)
				trailers := eventloop.HTTPHeaders{{Name: "X-Sum"}}
				opts := &eventloop.HTTPOptions{
					BodyReader: &checksum{bytes.NewReader(data), sha256.New(), &trailers[0]}, Trailers: trailers, MaxRedirects: 1,
				}
				res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", s.URL+path, opts)
				if err != nil {
					t.Fatal(err)
				}
				want := fmt.Sprintf("PUT %d %x %[2]x", size, sha256.Sum256(data))
				if path == "/redirect?303" {
					want = fmt.Sprintf("GET 0 %x ", sha256.Sum256(nil))
				}
				wantEqual(t, "result", string(res.Body), want)
			})
		}
	}
}

func TestHTTPTrailersThatCannotBeSent(t *testing.T) {
	type H = eventloop.HTTPHeaders
	checkLeaks(t)
	p := newHTTPPeer(t, answerAll(httpOK))
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"name":             {Trailers: H{{"a b", "1"}}},
		"empty name":       {Trailers: H{{"", "1"}}},
		"value":            {Trailers: H{{"A", "1\r\nB: 2"}}},
		"framing":          {Trailers: H{{"content-length", "1"}}},
		"credentials":      {Trailers: H{{"AUTHORIZATION", "1"}}},
		"trailer":          {Trailers: H{{"Trailer", "1"}}},
		"transfer coding":  {Trailers: H{{"Transfer-Encoding", "chunked"}}},
		"and a set length": {Trailers: H{{"A", "1"}}, BodyReader: strings.NewReader("ab"), ContentLength: 2},
	} {
		_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", "http://"+p.addr, opts)
		if !errors.Is(err, eventloop.ErrHTTP) || opts.ContentLength == 0 && !errors.Is(err, eventloop.ErrHTTPHeader) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantEqual(t, "connections", p.conns.Load(), 0)
}

// A value that became invalid while the body was read is found out before it is sent.
func TestHTTPTrailerThatBecomesInvalidIsAnError(t *testing.T) {
	checkLeaks(t)
	whole := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		whole = err == nil
	}))
	trailers := eventloop.HTTPHeaders{{Name: "A"}}
	opts := &eventloop.HTTPOptions{Trailers: trailers, BodyReader: &watchedBody{r: io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) {
		trailers[0].Value = "x\r\nContent-Length: 1"
		return 0, io.EOF
	}))}}
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", s.URL, opts)
	s.Close()
	if !errors.Is(err, eventloop.ErrHTTPHeader) || !errors.Is(err, eventloop.ErrHTTP) || whole {
		t.Errorf("%v; the server got all: %v", err, whole)
	}
}

func ExampleHTTPOptions_trailers() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sum := fmt.Sprintf("%x", sha256.Sum256(body))
		fmt.Fprintf(w, "%d bytes, right: %v", len(body), sum == r.Trailer.Get("X-Checksum"))
	}))
	defer server.Close()
	trailers := eventloop.HTTPHeaders{{Name: "X-Checksum"}} // the value comes last
	sum := sha256.New()
	body := io.TeeReader(strings.NewReader("the whole body"), sum)
	end := readerFunc(func([]byte) (int, error) {
		trailers[0].Value = fmt.Sprintf("%x", sum.Sum(nil))
		return 0, io.EOF
	})
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		l.HTTP().Do(ctx, "PUT", server.URL, &eventloop.HTTPOptions{
			BodyReader: io.MultiReader(body, end),
			Trailers:   trailers,
		}).Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s\n", res.Body)
		})
		return nil
	})
	// Output:
	// 14 bytes, right: true
}
