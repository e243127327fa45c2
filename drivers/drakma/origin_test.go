package drakma

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
)

// targets are request targets as applications and servers write them.
func targets() []string {
	list := []string{"", "/", "/?", "?a=b", "/a%2Fb", "/a%2F|b", "/%7Bx%7D/{y}", "/a?x=%zz", "//a//b", "/a;b=c,d", "/ä/%C3%A4?ü=ü", "/a b?c d", "/.%2e/x"}
	for c := ' '; c <= 0xff; c++ {
		if !strings.ContainsRune("#%?\x7f", c) {
			list = append(list, "/"+string(byte(c))+"%2F?"+string(byte(c))+"=%2F")
		}
	}
	return list
}

// A server refuses a digest for another target than that of the request line.
func TestDigestAuthorizationIsForTheTargetThatIsSent(t *testing.T) {
	list := targets()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n := r.Header.Get("X-Redirect"); n != "" && r.URL.Path == "/redirect" {
			var i int
			fmt.Sscan(n, &i)
			w.Header().Set("Location", "http://"+r.Host+list[i])
			w.WriteHeader(http.StatusFound)
			return
		}
		a := r.Header.Get("Authorization")
		if a == "" && r.Header.Get("X-Plain") == "" {
			w.Header().Set("WWW-Authenticate", `Digest realm="r", nonce="n", qop="auth"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, uri, _ := strings.Cut(a, `uri="`)
		uri, _, _ = strings.Cut(uri, `"`)
		fmt.Fprintf(w, "%s %s", r.RequestURI, uri)
	})
	for i, target := range list {
		var direct string
		got := make(map[string]string)
		onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
			l.HTTP().Do(ctx, "GET", s.URL+target, &eventloop.HTTPOptions{Headers: eventloop.HTTPHeaders{{Name: "X-Plain", Value: "x"}}}).
				Then(func(res *eventloop.HTTPResponse, err error) {
					if err != nil {
						t.Fatalf("%q: %v", target, err)
					}
					direct = strings.TrimSpace(string(res.Body))
				})
			d := New(l, Options{})
			send := func(name string, r *Request) {
				r.DigestAuth("u", "p").Text().Then(func(text string, err error) {
					if err != nil {
						t.Fatalf("%q, %s: %v", target, name, err)
					}
					got[name] = text
				})
			}
			send("absolute", d.Get(ctx, s.URL+target))
			send("redirected", d.Get(ctx, s.URL+"/redirect").Header("X-Redirect", fmt.Sprint(i)))
			// A path that begins with two slashes, or with dots, is another link.
			if !strings.HasPrefix(target, "//") && !strings.HasPrefix(target, "/.") {
				send("relative", New(l, Options{BaseURL: s.URL}).Get(ctx, target))
			}
		})
		for name, text := range got {
			if name == "redirected" && strings.HasPrefix(target, "/.") {
				continue // dots in a Location are resolved
			}
			equal(t, fmt.Sprintf("%s %q", name, target), text, direct+" "+direct)
		}
	}
}

// showPrivate shows what a server is sent that only another one may know.
func showPrivate(w http.ResponseWriter, r *http.Request) {
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
		if v := r.Header.Get(name); v != "" {
			fmt.Fprintf(w, "%s=%s ", name, v)
		}
	}
	if r.Host == "virtual.example" {
		fmt.Fprint(w, "Host")
	}
}

func TestPrivateFieldsStayWithTheirOrigin(t *testing.T) {
	const all = "Authorization=a Cookie=c Proxy-Authorization=p Host"
	other := serve(t, showPrivate)
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/other":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/own":
			w.Header().Set("Location", "/show")
			w.WriteHeader(http.StatusFound)
		default:
			showPrivate(w, r)
		}
	})
	private := eventloop.HTTPHeaders{{Name: "authorization", Value: "a"}, {Name: "Cookie", Value: "c"}, {Name: "Proxy-Authorization", Value: "p"}, {Name: "HOST", Value: "virtual.example"}}
	ofRequest := func(r *Request) *Request {
		for _, f := range private {
			r.Header(f.Name, f.Value)
		}
		return r
	}
	ofHost := func(r *Request) *Request { return r.Host("virtual.example") }
	none := func(r *Request) *Request { return r }
	for name, c := range map[string]struct {
		opts Options
		url  string
		add  func(r *Request) *Request
		want string
	}{
		"request, own":                     {Options{}, first.URL + "/own", ofRequest, all},
		"request, other":                   {Options{}, first.URL + "/other", ofRequest, ""},
		"Host, own":                        {Options{}, first.URL + "/own", ofHost, "Host"},
		"Host, other":                      {Options{}, first.URL + "/other", ofHost, ""},
		"options, own":                     {Options{Headers: private}, first.URL + "/own", none, all},
		"options, other":                   {Options{Headers: private}, first.URL + "/other", none, ""},
		"options, base":                    {Options{Headers: private, BaseURL: first.URL}, "/own", none, all},
		"options, base, other":             {Options{Headers: private, BaseURL: first.URL}, "/other", none, ""},
		"options, absolute URL of another": {Options{Headers: private, BaseURL: first.URL}, other.URL, none, ""},
		"options, redirected to the base":  {Options{Headers: private, BaseURL: other.URL}, first.URL + "/other", none, ""},
		"request, absolute URL of another": {Options{BaseURL: first.URL}, other.URL, ofRequest, all},
	} {
		got := must(t, c.opts, func(ctx context.Context, d *Client) *eventloop.Future[string] { return c.add(d.Get(ctx, c.url)).Text() })
		equal(t, name, strings.TrimSpace(got), c.want)
	}
}

// The user of the URL stays with its origin, but is not lost there.
func TestTheUserOfTheURLIsSentAfterARedirectToTheSameOrigin(t *testing.T) {
	other := serve(t, showPrivate)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/other":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/own":
			http.Redirect(w, r, "http://"+r.Host+"/show", http.StatusFound)
		default:
			showPrivate(w, r)
		}
	})
	base := strings.Replace(s.URL, "http://", "http://u:p@", 1)
	for path, want := range map[string]string{"/own": "Authorization=Basic dTpw ", "/other": ""} {
		got := must(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[string] { return d.Get(ctx, base+path).Text() })
		equal(t, path, got, want)
	}
}

func TestTheLogHasNoCredentials(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/show" {
			return
		}
		for _, name := range []string{"Set-Cookie", "Set-Cookie2", "X-Csrf-Token"} {
			w.Header().Set(name, "s3cret")
		}
		w.Header().Set("WWW-Authenticate", "Basic realm=\"shown\"")
		w.Header().Set("Location", "http://user:s3cret@"+r.Host+"/show")
		w.WriteHeader(http.StatusFound)
	})
	var b bytes.Buffer
	must(t, Options{Log: &b}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		r := d.Get(ctx, strings.Replace(s.URL, "://", "://user:s3cret@", 1)+"/x").AutoReferer()
		for _, name := range []string{"Proxy-Authorization", "COOKIE", "X-Auth-Key", "X-Api-Key", "ApiKey", "Ocp-Apim-Subscription-Key", "X-Access-Key", "X-Signature", "X-Amz-Security-Token", "X-Password", "X-Credential", "X-Session-Id"} {
			r.Header(name, "s3cret")
		}
		r.Header("Authorization", "s3cret and s3cret").Header("X-Forwarded-Uri", "https://u:s3cret@example.com/")
		return r.Do()
	})
	got := b.String()
	if strings.Contains(got, "s3cret") {
		t.Errorf("the log has credentials:\n%s", got)
	}
	for _, want := range []string{"Authorization: ***\n", "Proxy-Authorization: ***\n", "COOKIE: ***\n", "Set-Cookie: ***\n", `realm="shown"`, "/show\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log has no %q:\n%s", want, got)
		}
	}
	for in, want := range map[string]string{
		"Basic QQ==": "Basic ***", "bearer x": "bearer ***", "Digest username=x": "Digest ***", "Secret x": "***", "Secret": "***", "Basic": "***", "": "***",
	} {
		equal(t, in, redact("Proxy-Authorization", in), want)
	}
}

// A value that is not valid must not look like other lines.
func TestTheLogHasOneLinePerField(t *testing.T) {
	var b bytes.Buffer
	_, err := result(t, Options{Log: &b}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
		return d.Request(ctx, "GET", "http://127.0.0.1/").Header("A", "b\r\nForged: yes").Do()
	})
	if err == nil || strings.Contains(b.String(), "\nForged") {
		t.Errorf("%v, the log is\n%s", err, b.String())
	}
}

func TestIntoKeepsTheAcceptOfTheClient(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", r.Header["Accept"]) })
	ofClient := eventloop.HTTPHeaders{{Name: "accept", Value: "application/vnd.x+json"}}
	for _, c := range []struct {
		opts Options
		add  func(r *Request) *Request
		want string
	}{
		{Options{}, func(r *Request) *Request { return r }, `["application/json"]`},
		{Options{Headers: ofClient}, func(r *Request) *Request { return r }, `["application/vnd.x+json"]`},
		{Options{Headers: ofClient}, func(r *Request) *Request { return r.Accept("a/b") }, `["a/b"]`},
	} {
		var got []string
		res := must(t, c.opts, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			return c.add(d.Get(ctx, s.URL)).Into(&got)
		})
		equal(t, "Accept", string(res.Body), c.want)
	}
}
