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
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/onloop/eventloop"
)

// A watchedBody counts what is done to it. It is an io.Seeker only as a seekReader.
type watchedBody struct {
	r             io.Reader
	reads, closed atomic.Int32
}

func (r *watchedBody) Read(p []byte) (int, error) { r.reads.Add(1); return r.r.Read(p) }
func (r *watchedBody) Close() error               { r.closed.Add(1); return nil }

type seekReader struct {
	watchedBody
	seek func(offset int64, whence int) (int64, error)
}

func (r *seekReader) Seek(offset int64, whence int) (int64, error) { return r.seek(offset, whence) }

func newSeekReader(data string) *seekReader {
	r := strings.NewReader(data)
	return &seekReader{watchedBody{r: r}, r.Seek}
}

func fileWith(t testing.TB, data string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// hops is a server that answers /0 to /n-1 with a redirect of that status, once it has
// read the whole body or before, and then with the body that it got.
func hops(t testing.TB, n, status int, early bool) (url string, bodies func() []string) {
	var mu sync.Mutex
	var all []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, _ := strconv.Atoi(r.URL.Path[1:])
		if i < n && early {
			http.Redirect(w, r, fmt.Sprintf("/%d", i+1), status)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		mu.Lock()
		all = append(all, fmt.Sprintf("%d %s", r.ContentLength, body))
		mu.Unlock()
		if i < n {
			http.Redirect(w, r, fmt.Sprintf("/%d", i+1), status)
			return
		}
		w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/0", func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

func TestHTTPBodiesThatCanBeReadAgainAreSentAgain(t *testing.T) {
	const data = "the whole body"
	from4 := func(r io.Reader) io.Reader { io.CopyN(io.Discard, r, 4); return r }
	for name, test := range map[string]struct {
		opts func(t *testing.T) *eventloop.HTTPOptions
		want string
	}{
		"Body": {func(*testing.T) *eventloop.HTTPOptions { return &eventloop.HTTPOptions{Body: []byte(data)} }, "14 " + data},
		"strings.Reader": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: strings.NewReader(data)}
		}, "14 " + data},
		"bytes.Reader from 4": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: from4(bytes.NewReader([]byte(data)))}
		}, "10 whole body"},
		"bytes.Buffer from 4": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: from4(bytes.NewBufferString(data))}
		}, "10 whole body"},
		"os.File": {func(t *testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: fileWith(t, data)}
		}, "14 " + data},
		"os.File from 4": {func(t *testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: from4(fileWith(t, data))}
		}, "10 whole body"},
		"Seeker of unknown length": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: newSeekReader(data)}
		}, "-1 " + data},
		"Seeker of known length": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: newSeekReader(data), ContentLength: 14}
		}, "14 " + data},
		"GetBody": {func(*testing.T) *eventloop.HTTPOptions {
			return &eventloop.HTTPOptions{BodyReader: io.MultiReader(strings.NewReader(data)), GetBody: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(data)), nil
			}}
		}, "-1 " + data},
		"empty file": {func(t *testing.T) *eventloop.HTTPOptions { return &eventloop.HTTPOptions{BodyReader: fileWith(t, "")} }, "0 "},
	} {
		for _, status := range []int{307, 308} {
			for _, early := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %d, early %v", name, status, early), func(t *testing.T) {
					checkLeaks(t)
					url, bodies := hops(t, 2, status, early)
					opts := test.opts(t)
					opts.MaxRedirects = 5
					res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
					if err != nil || res.Redirects != 2 || res.Status != 200 {
						t.Fatalf("%+v, %v", res, err)
					}
					want := []string{test.want, test.want, test.want}
					if early {
						want = want[:1]
					}
					wantSlice(t, "bodies", bodies(), want)
				})
			}
		}
	}
}

// The first two servers respond before the first upload has returned from Seek.
func TestHTTPRedirectsThatOvertakeTheUploadKeepTheBody(t *testing.T) {
	checkLeaks(t)
	var conns atomic.Int32
	returned := make(chan struct{})
	peer, dial := newHTTPPipe(func(c net.Conn) {
		n := conns.Add(1)
		br := bufio.NewReader(c)
		readHTTPHead(br)
		if n <= 2 {
			io.WriteString(c, "HTTP/1.1 307 Temporary Redirect\r\nLocation: /next\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			io.Copy(io.Discard, br)
			return
		}
		close(returned)
		b := make([]byte, 4)
		io.ReadFull(br, b)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%s", b)
	})
	defer peer.stop()
	r := newSeekReader("data")
	seek := r.seek
	var seeks atomic.Int32
	r.seek = func(offset int64, whence int) (int64, error) {
		if seeks.Add(1) == 1 {
			<-returned
		}
		wantEqual(t, "closed before Seek", r.closed.Load(), 0)
		return seek(offset, whence)
	}
	opts := &eventloop.HTTPOptions{BodyReader: r, ContentLength: 4, MaxRedirects: 5}
	res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "PUT", "http://h/", opts)
	if err != nil || string(res.Body) != "data" {
		t.Fatalf("%+v, %v", res, err)
	}
	wantEqual(t, "closed", r.closed.Load(), 1)
}

func TestHTTPBodyThatWasNotReadIsSentToTheNextPlace(t *testing.T) {
	checkLeaks(t)
	url, bodies := hops(t, 2, 307, true)
	r := &watchedBody{r: io.MultiReader(strings.NewReader("once"))}
	opts := &eventloop.HTTPOptions{BodyReader: r, MaxRedirects: 5, Headers: eventloop.HTTPHeaders{{Name: "Expect", Value: "100-continue"}}}
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
	if err != nil || res.Redirects != 2 || string(res.Body) != "once" {
		t.Errorf("%+v, %v", res, err)
	}
	wantSlice(t, "bodies", bodies(), []string{"-1 once"})
	wantEqual(t, "closed", r.closed.Load(), 1)
}

func TestHTTPBodyThatCannotBeReadAgainMakesTheRedirectTheResult(t *testing.T) {
	pipe := func() (int64, error) { return 0, errors.New("illegal seek") }
	for name, body := range map[string]io.Reader{
		"reader": &watchedBody{r: strings.NewReader("once")},
		"pipe":   &seekReader{watchedBody{r: strings.NewReader("once")}, func(int64, int) (int64, error) { return pipe() }},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			url, bodies := hops(t, 1, 308, false)
			opts := &eventloop.HTTPOptions{BodyReader: body, MaxRedirects: 5, CheckRedirect: nil}
			res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
			if err != nil || res.Status != 308 || res.Redirects != 0 {
				t.Errorf("%+v, %v", res, err)
			}
			wantSlice(t, "bodies", bodies(), []string{"-1 once"})
			switch r := body.(type) {
			case *watchedBody:
				wantEqual(t, "closed", r.closed.Load(), 1)
			case *seekReader:
				wantEqual(t, "closed", r.closed.Load(), 1)
			}
		})
	}
}

// Each body is closed once: a Seeker when the request is over, others when they were sent.
func TestHTTPBodiesAreClosedOnceWhenTheyAreSentAgain(t *testing.T) {
	t.Run("Seeker", func(t *testing.T) {
		checkLeaks(t)
		url, _ := hops(t, 3, 307, false)
		r := newSeekReader("data")
		opts := &eventloop.HTTPOptions{BodyReader: r, MaxRedirects: 5}
		opts.CheckRedirect = nil
		doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
		wantEqual(t, "closed", r.closed.Load(), 1)
	})
	t.Run("GetBody", func(t *testing.T) {
		checkLeaks(t)
		url, _ := hops(t, 3, 307, false)
		all := []*watchedBody{{r: strings.NewReader("data")}}
		opts := &eventloop.HTTPOptions{BodyReader: all[0], MaxRedirects: 5, GetBody: func() (io.ReadCloser, error) {
			for i, r := range all {
				wantEqual(t, fmt.Sprint("closed before, ", i), r.closed.Load(), 1)
			}
			all = append(all, &watchedBody{r: strings.NewReader("data")})
			return all[len(all)-1], nil
		}}
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
		if err != nil || string(res.Body) != "data" {
			t.Errorf("%+v, %v", res, err)
		}
		wantEqual(t, "bodies", len(all), 4)
		for i, r := range all {
			wantEqual(t, fmt.Sprint("closed ", i), r.closed.Load(), 1)
		}
	})
}

func TestHTTPBodyThatFailsToBeReadAgainIsTheError(t *testing.T) {
	mine := errors.New("mine")
	failing := newSeekReader("data")
	failing.seek = func(_ int64, whence int) (int64, error) {
		if whence == io.SeekStart {
			return 0, mine
		}
		return 0, nil
	}
	panicking := newSeekReader("data")
	panicking.seek = func(_ int64, whence int) (int64, error) {
		if whence == io.SeekStart {
			panic(mine)
		}
		return 0, nil
	}
	get := func(f func() (io.ReadCloser, error)) *eventloop.HTTPOptions {
		return &eventloop.HTTPOptions{BodyReader: &watchedBody{r: strings.NewReader("data")}, GetBody: f}
	}
	broken := &watchedBody{r: &errReader{mine}}
	for name, opts := range map[string]*eventloop.HTTPOptions{
		"Seek fails":            {BodyReader: failing},
		"Seek panics":           {BodyReader: panicking},
		"GetBody fails":         get(func() (io.ReadCloser, error) { return nil, mine }),
		"GetBody panics":        get(func() (io.ReadCloser, error) { panic(mine) }),
		"GetBody returns nil":   get(func() (io.ReadCloser, error) { return nil, nil }),
		"what GetBody returned": get(func() (io.ReadCloser, error) { return broken, nil }),
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			url, _ := hops(t, 2, 307, false)
			opts.MaxRedirects = 5
			_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, opts)
			var pe *eventloop.PanicError
			switch {
			case !errors.Is(err, eventloop.ErrHTTP):
				t.Error(err)
			case strings.HasSuffix(name, "panics"):
				if !errors.As(err, &pe) || pe.Value != mine {
					t.Error(err)
				}
			case name == "GetBody returns nil":
				if !strings.Contains(err.Error(), "GetBody returned nil") {
					t.Error(err)
				}
			case !errors.Is(err, mine) || !strings.Contains(err.Error(), "request body: "):
				t.Error(err)
			}
			if r, ok := opts.BodyReader.(*watchedBody); ok {
				wantEqual(t, "closed", r.closed.Load(), 1)
			} else {
				wantEqual(t, "closed", opts.BodyReader.(*seekReader).closed.Load(), 1)
			}
		})
	}
	wantEqual(t, "closed what GetBody returned", broken.closed.Load(), 1)
}

func TestHTTPGetBodyNeedsABodyReader(t *testing.T) {
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", "http://127.0.0.1:1", &eventloop.HTTPOptions{
		GetBody: func() (io.ReadCloser, error) { panic("called") }})
	if err == nil || !strings.Contains(err.Error(), "GetBody without BodyReader") {
		t.Error(err)
	}
}

// A kept connection that ends after the whole of an idempotent request, without a byte
// of a response, has it sent once more.
func TestHTTPRequestsWhoseBodyCanBeReadAgainAreRetried(t *testing.T) {
	const data = "the whole body"
	for name, test := range map[string]struct {
		body  func(t *testing.T) io.Reader
		retry bool
	}{
		"file":   {func(t *testing.T) io.Reader { return fileWith(t, data) }, true},
		"reader": {func(t *testing.T) io.Reader { return strings.NewReader(data) }, true},
		"buffer": {func(t *testing.T) io.Reader { return bytes.NewBufferString(data) }, true},
		"other":  {func(t *testing.T) io.Reader { return io.MultiReader(strings.NewReader(data)) }, false},
	} {
		for _, method := range []string{"PUT", "POST"} {
			t.Run(name+" "+method, func(t *testing.T) {
				checkLeaks(t)
				var mu sync.Mutex
				var got []string
				first := true
				p := newHTTPPeer(t, func(c net.Conn) {
					br := bufio.NewReader(c)
					for i := 0; ; i++ {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						b, _ := io.ReadAll(r.Body)
						mu.Lock()
						got = append(got, string(b))
						end := i == 1 && first
						first = first && !end
						mu.Unlock()
						if end {
							return
						}
						io.WriteString(c, httpOK)
					}
				})
				runHTTPLoop(t, nil, func(l *eventloop.Loop) {
					l.Go(bg, func(k *eventloop.Task) error {
						l.HTTP().Get(bg, "http://"+p.addr).Await(k)
						res, err := l.HTTP().Do(bg, method, "http://"+p.addr, &eventloop.HTTPOptions{BodyReader: test.body(t)}).Await(k)
						if again := test.retry && method == "PUT"; again != (err == nil) {
							t.Errorf("%+v, %v", res, err)
						}
						return nil
					})
				})
				want := []string{"", data, data}
				if !test.retry || method == "POST" {
					want = want[:2]
				}
				p.stop()
				wantSlice(t, "bodies", got, want)
			})
		}
	}
}

func TestHTTPLengthOfKnownBodies(t *testing.T) {
	type O = eventloop.HTTPOptions
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	file := func(data string, from int64) *os.File {
		f := fileWith(t, data)
		f.Seek(from, io.SeekStart)
		return f
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "pipe")
	w.Close()
	for _, test := range []struct {
		name, method string
		opts         *O
		want         string // after the other fields
	}{
		{"file", "PUT", &O{BodyReader: file("0123", 0)}, length(4) + "\r\n0123"},
		{"file from its offset", "PUT", &O{BodyReader: file("0123", 3)}, length(1) + "\r\n3"},
		{"file at its end", "PUT", &O{BodyReader: file("0123", 4)}, length(0) + "\r\n"},
		{"file beyond its end", "PUT", &O{BodyReader: file("0123", 9)}, length(0) + "\r\n"},
		{"empty file", "PUT", &O{BodyReader: file("", 0)}, length(0) + "\r\n"},
		{"empty file with GET", "GET", &O{BodyReader: file("", 0)}, "\r\n"},
		{"file with a length", "PUT", &O{BodyReader: file("0123", 0), ContentLength: 4}, length(4) + "\r\n0123"},
		{"pipe", "PUT", &O{BodyReader: r}, "Transfer-Encoding: chunked\r\n\r\n4\r\npipe\r\n0\r\n\r\n"},
		{"NoBody", "POST", &O{BodyReader: http.NoBody}, length(0) + "\r\n"},
		{"NoBody with GET", "GET", &O{BodyReader: http.NoBody}, "\r\n"},
		{"NoBody with GetBody", "POST", &O{BodyReader: http.NoBody, GetBody: func() (io.ReadCloser, error) { return http.NoBody, nil }}, length(0) + "\r\n"},
		{"buffer", "PUT", &O{BodyReader: bytes.NewBufferString("ab")}, length(2) + "\r\nab"},
		{"bytes", "PUT", &O{BodyReader: bytes.NewReader([]byte("ab"))}, length(2) + "\r\nab"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, body, _ := strings.Cut(test.want, "\r\n\r\n")
			want := test.method + " / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n" + test.want
			wantEqual(t, "request", wire(t, "http://h", test.method, test.opts, len(body)), want)
		})
	}
}

// A file that is not as long any more as when the request was sent off is an error, and
// never a whole request for the server.
func TestHTTPFileThatChangesWhileItIsSentIsAnError(t *testing.T) {
	for name, change := range map[string]func(path string, w *os.File){
		"grows":          func(_ string, w *os.File) { w.WriteAt([]byte("x"), 1<<20) },
		"grows much":     func(_ string, w *os.File) { w.WriteAt(make([]byte, 1<<20), 1<<20) },
		"shrinks":        func(path string, _ *os.File) { os.Truncate(path, 1<<20-1) },
		"shrinks to 0":   func(path string, _ *os.File) { os.Truncate(path, 0) },
		"does not":       func(string, *os.File) {},
		"is overwritten": func(_ string, w *os.File) { w.WriteAt([]byte("x"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			path := filepath.Join(t.TempDir(), "f")
			os.WriteFile(path, make([]byte, 1<<20), 0o600)
			r, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			w, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			whole := false
			s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				whole = err == nil && n == 1<<20
			}))
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				change(path, w) // the length is known by now, and nothing is sent yet
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			_, err = doHTTP(t, eventloop.HTTPClientConfig{Dial: dial}, "PUT", s.URL, &eventloop.HTTPOptions{BodyReader: r})
			s.Close()
			if fine := name == "does not" || name == "is overwritten"; fine != whole || fine != (err == nil) || !fine && !errors.Is(err, eventloop.ErrHTTPBodyLength) {
				t.Errorf("whole %v, error %v", whole, err)
			}
			if _, err := r.Stat(); !errors.Is(err, os.ErrClosed) {
				t.Error("the file was not closed")
			}
		})
	}
}

func TestHTTPFileOfTheKernelIsSentAsAWhole(t *testing.T) {
	f, err := os.Open("/proc/self/status") // which says that it is empty
	if err != nil {
		t.Skip(err)
	}
	url, bodies := hops(t, 1, 307, false)
	res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "PUT", url, &eventloop.HTTPOptions{BodyReader: f, MaxRedirects: 1})
	if err != nil || !strings.HasPrefix(string(res.Body), "Name:") {
		t.Errorf("%+v, %v", res, err)
	}
	wantEqual(t, "bodies", len(bodies()), 2)
}

// The request can end at any time while a body is being read again.
func TestHTTPRequestEndsWhileItsBodyIsToBeReadAgain(t *testing.T) {
	checkLeaks(t)
	url, _ := hops(t, 1, 307, false)
	ctx, cancel := context.WithCancel(bg)
	late := &watchedBody{r: strings.NewReader("late")}
	opts := &eventloop.HTTPOptions{MaxRedirects: 5, BodyReader: io.MultiReader(strings.NewReader("a")), GetBody: func() (io.ReadCloser, error) {
		cancel()
		return late, nil
	}}
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.HTTP().Do(ctx, "PUT", url, opts).Then(func(_ *eventloop.HTTPResponse, err error) {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	})
	wantEqual(t, "closed", late.closed.Load(), 1)
}

func ExampleHTTPOptions_bodyReader() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusPermanentRedirect) // send it again, there
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "Content-Length %d, got %d bytes", r.ContentLength, n)
	}))
	defer server.Close()
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f, err := os.Open("LICENSE") // its length is known, and it can be read again
		if err != nil {
			return err
		}
		info, _ := f.Stat()
		l.HTTP().Do(ctx, "PUT", server.URL+"/old", &eventloop.HTTPOptions{BodyReader: f, MaxRedirects: 1}).Then(
			func(res *eventloop.HTTPResponse, err error) {
				if err != nil {
					fmt.Println(err)
					return
				}
				want := fmt.Sprintf("Content-Length %d, got %[1]d bytes", info.Size())
				fmt.Println("the whole file, after", res.Redirects, "redirect:", string(res.Body) == want)
			})
		return nil
	})
	// Output:
	// the whole file, after 1 redirect: true
}
