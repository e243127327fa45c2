package drakma

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/onloop/eventloop"
)

// The example of RFC 7616 section 3.9.1.
func TestDigestComputesTheExamplesOfTheRFC(t *testing.T) {
	field := []string{
		`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
		`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
	}
	for i, want := range []string{"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", "8ca523f5e9506fed4657c9700eebdbec"} {
		d, err := newDigest(field[i:])
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.authorization("Mufasa", "Circle of Life", "GET", "/dir/index.html", nil, 1, "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
		if err != nil || !strings.Contains(got, `response="`+want+`"`) || !strings.Contains(got, "nc=00000001") {
			t.Errorf("the answer is %s, %v", got, err)
		}
	}
}

// The example of RFC 7616 section 3.9.2, as its erratum 4897 corrects it.
func TestDigestHashesTheUser(t *testing.T) {
	d, err := newDigest([]string{`Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="x", charset=UTF-8, userhash=true`})
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.authorization("Jäsøn Doe", "Secret, or not?", "GET", "/doe.json", nil, 1, "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v")
	if err != nil || !strings.Contains(got, `username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"`) ||
		!strings.Contains(got, `response="3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"`) || !strings.HasSuffix(got, "userhash=true") {
		t.Errorf("the answer is %s, %v", got, err)
	}
}

// The example of RFC 2617 section 3.5, and that without qop of RFC 2069, with its erratum.
func TestDigestSupportsOlderServers(t *testing.T) {
	d, err := newDigest([]string{`Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"`})
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.authorization("Mufasa", "CircleOfLife", "GET", "/dir/index.html", nil, 1, "c")
	if err != nil || !strings.Contains(got, `response="1949323746fe6a43ef61f9606e7febea"`) || strings.Contains(got, "nc=") {
		t.Errorf("the answer is %s, %v", got, err)
	}
}

func TestParseChallenges(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{``, `[]`},
		{`, ,`, `[]`},
		{`Negotiate`, `[{negotiate map[]}]`},
		{`Negotiate, Basic realm=x`, `[{negotiate map[]} {basic map[realm:x]}]`},
		{`NTLM abc/+==, Basic realm="a, \"b\""`, `[{ntlm map[]} {basic map[realm:a, "b"]}]`},
		{`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`, `[{newauth map[realm:apps title:Login to "apps" type:1]} {basic map[realm:simple]}]`},
		{`Basic realm = "x" , , charset=UTF-8`, `[{basic map[charset:UTF-8 realm:x]}]`},
	} {
		got, err := parseChallenges([]string{c.in})
		if fmt.Sprint(got) != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.in, got, err)
		}
	}
	for _, in := range []string{`Digest realm="x`, `Digest realm="x\`, `Digest realm="x" nonce="y"`, `Digest a=1, a=2`, `="x"`, `Digest realm=,x=y`, `Digest a=b, =c`, `Di"gest`} {
		if got, err := parseChallenges([]string{in}); err == nil {
			t.Errorf("%s: no error: %v", in, got)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf", Basic realm="x"`)
	f.Add(`NTLM abc/+==, , x`)
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseChallenges([]string{s})
		if err == nil && len(list) == 0 && strings.Trim(s, " \t,") != "" {
			t.Errorf("%q has no challenge and no error", s)
		}
		if d, err := newDigest([]string{s}); err == nil && d != nil {
			if _, err := d.authorization("u", "p", "GET", "/", &[]byte{}, 1, "c"); err != nil {
				t.Errorf("%q cannot be answered: %v", s, err)
			}
		}
	})
}

// A digestServer checks digest authorization by MD5, on its own.
type digestServer struct {
	mu     sync.Mutex
	nonce  string
	uses   int // of the nonce
	expire int // the nonce is stale after so many uses
	qop    string
	next   bool     // use nextnonce
	log    []string // what happened
}

func md5hex(s string) string {
	h := md5.Sum([]byte(s))
	return hex.EncodeToString(h[:])
}

func (s *digestServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	list, err := parseChallenges(r.Header["Authorization"])
	challenge := func(stale bool) {
		s.nonce, s.uses = s.nonce+"n", 0
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Digest realm="r", nonce=%q, opaque="o", qop=%q, stale=%t`, s.nonce, s.qop, stale))
		w.WriteHeader(http.StatusUnauthorized)
	}
	if err != nil || len(list) == 0 {
		s.log = append(s.log, "no credentials")
		challenge(false)
		return
	}
	p := list[0].params
	a2 := r.Method + ":" + r.RequestURI
	if p["qop"] == "auth-int" {
		a2 += ":" + md5hex(string(body))
	}
	want := md5hex(md5hex("nanook:r:igloo") + ":" + p["nonce"] + ":" + p["nc"] + ":" + p["cnonce"] + ":" + p["qop"] + ":" + md5hex(a2))
	switch {
	case p["response"] != want || p["uri"] != r.RequestURI || p["opaque"] != "o" || p["username"] != "nanook":
		s.log = append(s.log, "wrong")
		challenge(false)
	case p["nonce"] != s.nonce || s.uses >= s.expire:
		s.log = append(s.log, "stale")
		challenge(true)
	default:
		s.uses++
		s.log = append(s.log, "ok "+p["qop"]+" "+p["nc"])
		if p["nc"] != fmt.Sprintf("%08x", s.uses) {
			s.log = append(s.log, "bad count")
		}
		if s.next {
			s.nonce, s.uses = s.nonce+"x", 0
			w.Header().Set("Authentication-Info", fmt.Sprintf(`qop=auth, nextnonce=%q`, s.nonce))
		}
		if r.URL.Path == "/from" {
			http.Redirect(w, r, "/to?x=y", http.StatusTemporaryRedirect)
			return
		}
		w.Write(body)
	}
}

// inTurn sends requests one after the other, and returns their bodies or errors.
func inTurn(t *testing.T, fs ...func(ctx context.Context, d *Client) *Request) string {
	var got []string
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		d := New(l, Options{})
		l.Go(ctx, func(task *eventloop.Task) error {
			for _, f := range fs {
				text, err := f(ctx, d).Text().Await(task)
				if e, ok := errors.AsType[*StatusError](err); ok {
					text = fmt.Sprint(e.Response.Status)
				} else if err != nil {
					text = err.Error()
				}
				got = append(got, text)
			}
			return nil
		})
	})
	return strings.Join(got, ", ")
}

func TestDigestAuthorization(t *testing.T) {
	for name, c := range map[string]struct {
		server  *digestServer
		want    string
		wantLog string
	}{
		"counts the uses of a nonce": {&digestServer{qop: "auth,auth-int", expire: 9}, "a, b, c", "no credentials; ok auth 00000001; ok auth 00000002; ok auth 00000003"},
		"hashes the body":            {&digestServer{qop: "auth-int", expire: 9}, "a, b, c", "no credentials; ok auth-int 00000001; ok auth-int 00000002; ok auth-int 00000003"},
		"replaces a stale nonce":     {&digestServer{qop: "auth", expire: 1}, "a, b, c", "no credentials; ok auth 00000001; stale; ok auth 00000001; stale; ok auth 00000001"},
		"takes the next nonce":       {&digestServer{qop: "auth", expire: 9, next: true}, "a, b, c", "no credentials; ok auth 00000001; ok auth 00000001; ok auth 00000001"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.server.ServeHTTP)
			req := func(body string) func(ctx context.Context, d *Client) *Request {
				return func(ctx context.Context, d *Client) *Request {
					return d.Put(ctx, s.URL+"/x?y=z").DigestAuth("nanook", "igloo").Data("text/plain", []byte(body))
				}
			}
			equal(t, "the bodies", inTurn(t, req("a"), req("b"), req("c")), c.want)
			equal(t, "the log", strings.Join(c.server.log, "; "), c.wantLog)
		})
	}
}

func TestDigestAuthorizationFollowsRedirects(t *testing.T) {
	server := digestServer{qop: "auth", expire: 9}
	s := serve(t, server.ServeHTTP)
	got := inTurn(t, func(ctx context.Context, d *Client) *Request {
		return d.Post(ctx, s.URL+"/from").DigestAuth("nanook", "igloo").Data("", []byte("a"))
	})
	equal(t, "the body", got, "a")
	equal(t, "the log", strings.Join(server.log, "; "), "no credentials; ok auth 00000001; ok auth 00000002")
}

func TestDigestAuthorizationWithAWrongPassword(t *testing.T) {
	server := digestServer{qop: "auth", expire: 9}
	s := serve(t, server.ServeHTTP)
	req := func(ctx context.Context, d *Client) *Request {
		return d.Get(ctx, s.URL).DigestAuth("nanook", "wrong")
	}
	equal(t, "the results", inTurn(t, req, req), "401, 401")
	equal(t, "the log", strings.Join(server.log, "; "), "no credentials; wrong; wrong; wrong")
}

func TestDigestChallengesThatCannotBeAnswered(t *testing.T) {
	for _, c := range []struct{ field, reason string }{
		{`Digest realm="x`, "malformed"},
		{`Digest realm="x", realm="y", nonce="z"`, "malformed"},
		{`Digest nonce="x"`, "no realm"},
		{`Digest realm="x"`, "no nonce"},
		{`Digest`, "no realm"},
		{`Digest realm="x", nonce="y", algorithm=ROT13`, `"ROT13" is unknown`},
		{`Digest realm="x", nonce="y", algorithm=-sess`, `"-sess" is unknown`},
		{`Digest realm="x", nonce="y", qop="auth-more"`, `"auth-more" is unknown`},
		{`Digest realm="x", nonce="y", qop="auth-int"`, "in memory"},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", c.field)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "why")
		})
		send := map[string]func(r *Request) *eventloop.Future[*Response]{
			"do": (*Request).Do,
			"stream": func(r *Request) *eventloop.Future[*Response] {
				return r.Stream(func(*Response, []byte) { t.Error("data") })
			},
		}
		for name, f := range send {
			_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
				return f(d.Post(ctx, s.URL).DigestAuth("u", "p").BodyFile("text/plain", "digest.go"))
			})
			e, ok := errors.AsType[*ChallengeError](err)
			if !ok || !strings.Contains(e.Error(), c.reason) || string(e.Response.Body) != "why" {
				t.Errorf("%s: %s: the error is %v", name, c.field, err)
			}
		}
	}
}

func TestChallengesOfOtherSchemesAreTheResult(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	equal(t, "the result", inTurn(t, func(ctx context.Context, d *Client) *Request {
		return d.Get(ctx, s.URL).DigestAuth("u", "p")
	}), "401")
}

func TestCredentialsStayWithTheirOrigin(t *testing.T) {
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Digest realm="r", nonce="n"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, len(r.Header["Authorization"])+len(r.Header["Cookie"]))
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	opts := Options{Headers: eventloop.HTTPHeaders{{Name: "Authorization", Value: "Bearer x"}}}
	for _, digest := range []bool{false, true} {
		res := must(t, opts, func(ctx context.Context, d *Client) *eventloop.Future[*Response] {
			r := d.Get(ctx, s.URL).Header("Cookie", "a=b")
			if digest {
				r.DigestAuth("u", "p")
			}
			return r.Do()
		})
		equal(t, "the number of credentials", string(res.Body), "0")
		equal(t, "Attempts", res.Attempts, 2)
	}
}
