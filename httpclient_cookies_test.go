package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/onloop/eventloop"
)

// A cookieSite is a server for all hosts, which notes the Cookie fields it gets as
// "host/path: fields".
type cookieSite struct {
	*httpPeer
	mu  sync.Mutex
	got []string
}

// newCookieSite serves the responses that answers has for "host/path", or httpOK.
func newCookieSite(t *testing.T, answers map[string]string) *cookieSite {
	s := &cookieSite{}
	s.httpPeer = newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, r.Host+r.URL.Path+": "+strings.Join(r.Header["Cookie"], " | "))
			s.mu.Unlock()
			response, ok := answers[r.Host+r.URL.Path]
			if !ok {
				response = httpOK
			}
			if _, err := c.Write([]byte(response)); err != nil {
				return
			}
		}
	})
	return s
}

// config returns the settings of a client for which every host is s.
func (s *cookieSite) config(jar http.CookieJar) eventloop.HTTPClientConfig {
	return eventloop.HTTPClientConfig{
		Jar:   jar,
		Proxy: eventloop.NoProxy,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.addr)
		},
	}
}

// redirectTo is a response that leads to location, with more fields.
func redirectTo(status int, location, fields string) string {
	return fmt.Sprintf("HTTP/1.1 %d Go\r\nLocation: %s\r\n%sContent-Length: 0\r\n\r\n", status, location, fields)
}

func newJar(t testing.TB) *cookiejar.Jar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return jar
}

func TestHTTPCookiesOfAJar(t *testing.T) {
	type O = eventloop.HTTPOptions
	cookie := func(v string) eventloop.HTTPHeaders { return eventloop.HTTPHeaders{{Name: "Cookie", Value: v}} }
	answers := map[string]string{
		"a.test/login":   redirectTo(302, "/home", "Set-Cookie: sid=1; Path=/; HttpOnly\r\nSet-Cookie: theme=dark\r\n"),
		"a.test/away":    redirectTo(302, "http://b.test/in", "Set-Cookie: sid=1; Path=/\r\n"),
		"b.test/in":      redirectTo(302, "http://a.test/back", "Set-Cookie: other=2; Path=/\r\n"),
		"a.test/replace": redirectTo(307, "/home", "Set-Cookie: mine=new; Path=/\r\n"),
		"a.test/logout":  redirectTo(302, "/home", "Set-Cookie: sid=; Path=/; Max-Age=0\r\n"),
		"a.test/secure":  redirectTo(302, "/home", "Set-Cookie: s=1; Path=/; Secure\r\n"),
		"a.test/strange": redirectTo(302, "/home", "Set-Cookie: \r\nSet-Cookie: =x\r\nSet-Cookie: a b=c\r\nSet-Cookie: foreign=1; Domain=b.test\r\nSet-Cookie: ok=\"q\"\r\n"),
		"a.test/last":    "HTTP/1.1 404 Not Found\r\nSet-Cookie: sid=9; Path=/\r\nContent-Length: 0\r\n\r\n",
		"a.test/interim": "HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n" + httpOK,
	}
	for _, test := range []struct {
		name string
		urls []string
		opts O
		want []string
	}{
		{"set by a redirect", []string{"http://a.test/login"}, O{},
			[]string{"a.test/login: ", "a.test/home: sid=1; theme=dark"}},
		{"set by a response that is an error, sent later", []string{"http://a.test/last", "http://a.test/home", "http://a.test:81/home"}, O{},
			[]string{"a.test/last: ", "a.test/home: sid=9", "a.test:81/home: sid=9"}},
		{"not for another host", []string{"http://a.test/away"}, O{},
			[]string{"a.test/away: ", "b.test/in: ", "a.test/back: sid=1"}},
		{"the user's come first, in one field", []string{"http://a.test/last", "http://a.test/home"},
			O{Headers: eventloop.HTTPHeaders{{"cookie", "a=b"}, {"X", "y"}, {"Cookie", "c; d=\"e f\""}}},
			[]string{"a.test/last: a=b | c; d=\"e f\"", "a.test/home: a=b; c; d=\"e f\"; sid=9"}},
		{"the user's over a redirect", []string{"http://a.test/login"}, O{Headers: cookie("mine=1")},
			[]string{"a.test/login: mine=1", "a.test/home: mine=1; sid=1; theme=dark"}},
		{"the user's is set anew", []string{"http://a.test/replace"}, O{Headers: cookie("x=1;mine=old; y=2")},
			[]string{"a.test/replace: x=1;mine=old; y=2", "a.test/home: x=1; y=2; mine=new"}},
		{"the user's only one is set anew", []string{"http://a.test/replace"}, O{Headers: cookie("mine=old")},
			[]string{"a.test/replace: mine=old", "a.test/home: mine=new"}},
		{"the user's is deleted", []string{"http://a.test/logout"}, O{Headers: cookie("sid=1")},
			[]string{"a.test/logout: sid=1", "a.test/home: "}},
		{"the user's do not go to another host", []string{"http://a.test/away"}, O{Headers: cookie("mine=1")},
			[]string{"a.test/away: mine=1", "b.test/in: ", "a.test/back: sid=1"}},
		{"deleted", []string{"http://a.test/last", "http://a.test/logout"}, O{},
			[]string{"a.test/last: ", "a.test/logout: sid=9", "a.test/home: "}},
		{"secure, not in the clear", []string{"http://a.test/secure"}, O{},
			[]string{"a.test/secure: ", "a.test/home: "}},
		{"malformed and foreign ones", []string{"http://a.test/strange"}, O{},
			[]string{"a.test/strange: ", "a.test/home: ok=\"q\""}},
		{"interim responses set none", []string{"http://a.test/interim", "http://a.test/home"}, O{},
			[]string{"a.test/interim: ", "a.test/home: "}},
		{"the host is the one that is sent", []string{"http://other.test/last", "http://a.test/home"}, O{Host: "a.test"},
			[]string{"a.test/last: ", "a.test/home: sid=9"}},
		{"no user or password in the URL", []string{"http://u:p@a.test/last", "http://a.test/home"}, O{},
			[]string{"a.test/last: ", "a.test/home: sid=9"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			s := newCookieSite(t, answers)
			cfg := s.config(newJar(t))
			test.opts.MaxRedirects = 5
			runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
				l.Go(context.Background(), func(task *eventloop.Task) error {
					for _, u := range test.urls {
						if _, err := l.HTTP().Do(task.Context(), "GET", u, &test.opts).Await(task); err != nil {
							t.Error(err)
						}
					}
					return nil
				})
			})
			wantSlice(t, "cookies", s.got, test.want)
		})
	}
}

// The same requests through net/http's client send the same cookies.
func TestHTTPCookiesAreThoseOfNetHTTP(t *testing.T) {
	answers := map[string]string{
		"a.test/1": redirectTo(302, "/2", "Set-Cookie: a=1; Path=/\r\nSet-Cookie: mine=2; Path=/\r\n"),
		"a.test/2": redirectTo(307, "http://b.test/3", "Set-Cookie: b=1; Path=/2\r\nSet-Cookie: c=1; Path=/4\r\n"),
		"b.test/3": redirectTo(303, "https://a.test/4", "Set-Cookie: a=9; Domain=a.test\r\n"),
	}
	for _, given := range []string{"", "mine=1", "mine=1; other=2"} {
		s := newCookieSite(t, answers)
		req, _ := http.NewRequest("GET", "http://a.test/1", nil)
		opts := &eventloop.HTTPOptions{MaxRedirects: 2}
		if given != "" {
			req.Header.Set("Cookie", given)
			opts.Headers.Add("Cookie", given)
		}
		cfg := s.config(newJar(t))
		client := http.Client{Jar: newJar(t), Transport: &http.Transport{DialContext: cfg.Dial}}
		client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
			if len(via) > 2 {
				return http.ErrUseLastResponse
			}
			return nil
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		client.CloseIdleConnections()
		want := s.got
		s.got = nil
		doHTTP(t, cfg, "GET", "http://a.test/1", opts)
		wantSlice(t, fmt.Sprintf("cookies with %q", given), s.got, want)
	}
}

func TestHTTPJarOfARequestReplacesThatOfTheClient(t *testing.T) {
	s := newCookieSite(t, map[string]string{"a.test/in": "HTTP/1.1 200 OK\r\nSet-Cookie: who=me\r\nContent-Length: 0\r\n\r\n"})
	mine := &eventloop.HTTPOptions{Jar: newJar(t)}
	cfg := s.config(newJar(t))
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(task *eventloop.Task) error {
			for _, opts := range []*eventloop.HTTPOptions{mine, nil, mine} {
				if _, err := l.HTTP().Do(task.Context(), "GET", "http://a.test/in", opts).Await(task); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
	})
	wantSlice(t, "cookies", s.got, []string{"a.test/in: ", "a.test/in: ", "a.test/in: who=me"})
	wantEqual(t, "connections", s.conns.Load(), 1)
}

// A brokenJar does what f does.
type brokenJar struct{ cookies, set func() }

func (j brokenJar) Cookies(*url.URL) []*http.Cookie     { j.cookies(); return nil }
func (j brokenJar) SetCookies(*url.URL, []*http.Cookie) { j.set() }

func TestHTTPJarThatFailsIsTheErrorOfTheRequest(t *testing.T) {
	response := "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok"
	fine := func() {}
	for name, jar := range map[string]brokenJar{
		"Cookies panics":    {func() { panic("jar") }, fine},
		"Cookies exits":     {runtime.Goexit, fine},
		"SetCookies panics": {fine, func() { panic("jar") }},
		"SetCookies exits":  {fine, runtime.Goexit},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := newHTTPPeer(t, answerAll(response))
			_, err := doHTTP(t, eventloop.HTTPClientConfig{Jar: jar}, "GET", "http://"+p.addr, nil)
			var pe *eventloop.PanicError
			if !errors.Is(err, eventloop.ErrHTTP) || errors.As(err, &pe) != strings.HasSuffix(name, "panics") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func ExampleHTTPClientConfig_jar() {
	// A server that knows its users by a cookie.
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: "ann", Path: "/"})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("user"); err == nil {
			fmt.Fprintf(w, "hello %s", c.Value)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	ctx := context.Background()
	jar, _ := cookiejar.New(nil)
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Jar: jar, Proxy: eventloop.NoProxy})
		l.Go(ctx, func(t *eventloop.Task) error {
			res, err := client.Do(t.Context(), "POST", server.URL+"/login", &eventloop.HTTPOptions{MaxRedirects: 3}).Await(t)
			if err != nil {
				return err
			}
			fmt.Printf("%s, after %d redirect\n", res.Body, res.Redirects)
			return nil
		})
		return nil
	})
	// Output:
	// hello ann, after 1 redirect
}
