package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestHTTPEachProxyVariableOfTheEnvironment(t *testing.T) {
	server := newHTTPPeer(t, answerAll(httpOK))
	secure := newHTTPPeer(t, withTLS(httpServerTLS(), answerAll(httpOK)))
	socks := func(lead string) (url string, asked func() []string) {
		p, asked := serveSOCKS(t, "ann", lead)
		return "socks5://ann:pw@" + p.addr, asked
	}
	plainURL, plainAsked := socks(server.addr)
	secureURL, secureAsked := socks(secure.addr)
	for _, test := range []struct {
		name  string
		env   map[string]string
		url   string
		asked func() []string // that got the request
	}{
		{"HTTP_PROXY", map[string]string{"HTTP_PROXY": plainURL}, "http://h.invalid", plainAsked},
		{"HTTPS_PROXY", map[string]string{"HTTPS_PROXY": secureURL}, "https://example.com", secureAsked},
		{"ALL_PROXY", map[string]string{"ALL_PROXY": plainURL}, "http://h.invalid", plainAsked},
		{"ALL_PROXY for https", map[string]string{"ALL_PROXY": secureURL}, "https://example.com", secureAsked},
		{"all_proxy", map[string]string{"all_proxy": plainURL}, "http://h.invalid", plainAsked},
		{"HTTP_PROXY before ALL_PROXY", map[string]string{"HTTP_PROXY": plainURL, "ALL_PROXY": "socks5://127.0.0.1:1"}, "http://h.invalid", plainAsked},
		{"HTTPS_PROXY before ALL_PROXY", map[string]string{"HTTPS_PROXY": secureURL, "ALL_PROXY": "socks5://127.0.0.1:1"}, "https://example.com", secureAsked},
		{"ALL_PROXY in CGI", map[string]string{"ALL_PROXY": plainURL, "REQUEST_METHOD": "GET"}, "http://h.invalid", plainAsked},
		{"NO_PROXY", map[string]string{"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}, "http://" + server.addr, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"} {
				t.Setenv(name, test.env[name])
			}
			before := 0
			if test.asked != nil {
				before = len(test.asked())
			}
			runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{TLS: httpClientTLS()}}, func(l *eventloop.Loop) {
				l.HTTP().Get(bg, test.url).Then(func(res *eventloop.HTTPResponse, err error) {
					if err != nil || string(res.Body) != "ok" {
						t.Errorf("%+v, %v", res, err)
					}
				})
			})
			if test.asked != nil {
				wantEqual(t, "requests to the proxy", len(test.asked())-before, 1)
			}
		})
	}
}

// What a SOCKS proxy says wrong is an error at once, and what it does not say ends with
// ConnectTimeout, at each step of the conversation.
func TestHTTPSOCKSProxyThatBreaksTheProtocol(t *testing.T) {
	const (
		connectTimeout = 7 * time.Second
		method         = "\x05\x02"
		granted        = "\x01\x00"
		connected      = "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	)
	for name, test := range map[string]struct {
		says []string // one after each message of the client
		ends bool     // the connection, after the last of them
		read bool     // and after one more message of the client
		text string   // in the error
	}{
		"silent at first":             {nil, false, false, ""},
		"ends at first":               {nil, true, false, "EOF"},
		"one byte":                    {[]string{"\x05"}, false, false, ""},
		"one byte and the end":        {[]string{"\x05"}, true, false, "EOF"},
		"other version":               {[]string{"\x04\x00"}, false, false, "version"},
		"no acceptable method":        {[]string{"\x05\xff"}, false, false, "method"},
		"an unknown method":           {[]string{"\x05\x80"}, false, false, "method"},
		"HTTP":                        {[]string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, false, false, "version"},
		"silent at the password":      {[]string{method}, false, false, ""},
		"half at the password":        {[]string{method, "\x01"}, true, false, "EOF"},
		"password refused":            {[]string{method, "\x01\x01"}, false, false, "authentication"},
		"password of other version":   {[]string{method, "\x05\x00"}, false, false, "version"},
		"silent at the target":        {[]string{method, granted}, false, false, ""},
		"half a reply":                {[]string{method, granted, connected[:5]}, false, false, ""},
		"half a reply and the end":    {[]string{method, granted, connected[:5]}, true, false, "EOF"},
		"reply of other version":      {[]string{method, granted, "\x04" + connected[1:]}, false, false, "version"},
		"refused":                     {[]string{method, granted, "\x05\x05" + connected[2:]}, false, false, "connection refused"},
		"an unknown code":             {[]string{method, granted, "\x05\x99" + connected[2:]}, false, false, "unknown"},
		"an unknown address":          {[]string{method, granted, "\x05\x00\x00\x09abcdef"}, false, false, "address"},
		"a reserved byte that is set": {[]string{method, granted, "\x05\x00\x01" + connected[3:]}, false, false, "reserved"},
		"silent after it":             {[]string{method, granted, connected}, true, true, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(func(c net.Conn) {
					b := make([]byte, 512)
					for _, say := range test.says {
						if _, err := c.Read(b); err != nil {
							return
						}
						io.WriteString(c, say)
					}
					if test.ends && len(test.says) > 0 && !test.read {
						return
					}
					if c.Read(b); !test.ends {
						io.Copy(io.Discard, c)
					}
				})
				defer p.stop()
				begun := time.Now()
				eventloop.Run(bg, nil, func(l *eventloop.Loop) error {
					cfg := &eventloop.HTTPClientConfig{Dial: dial, ConnectTimeout: connectTimeout, Proxy: func(*url.URL) (*url.URL, error) {
						return url.Parse("socks5://user:SECRET@proxy.example")
					}}
					eventloop.NewHTTPClient(l, cfg).Get(bg, "http://h.example").Then(func(_ *eventloop.HTTPResponse, err error) {
						if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "SECRET") {
							t.Errorf("error %v", err)
						}
						if late := test.text == ""; late != errors.Is(err, eventloop.ErrTimeout) || late != (time.Since(begun) == connectTimeout) {
							t.Errorf("after %v: %v", time.Since(begun), err)
						}
					})
					return nil
				})
			})
		})
	}
}

// A reply may name the proxy's side of the connection by a domain name, and come byte by
// byte; what follows it belongs to the server.
func TestHTTPSOCKSProxyThatRepliesByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(func(c net.Conn) {
			b := make([]byte, 512)
			for _, say := range []string{"\x05\x00", "\x05\x00\x00\x03\x09localhost\x00\x50", httpOK} {
				if _, err := c.Read(b); err != nil {
					return
				}
				for i := range len(say) {
					time.Sleep(time.Second)
					io.WriteString(c, say[i:i+1])
				}
			}
		})
		defer p.stop()
		eventloop.Run(bg, nil, func(l *eventloop.Loop) error {
			cfg := &eventloop.HTTPClientConfig{Dial: dial, Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("socks5h://proxy.example") }}
			eventloop.NewHTTPClient(l, cfg).Get(bg, "http://h.example").Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || string(res.Body) != "ok" {
					t.Errorf("%+v, %v", res, err)
				}
			})
			return nil
		})
	})
}

// RFC 1929 has one byte for the length of each.
func TestHTTPSOCKSUserOrPasswordThatCannotBeSent(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, user := range map[string]*url.Userinfo{
		"long user":     url.UserPassword(long, "pw"),
		"long password": url.UserPassword("u", long),
		"no user":       url.UserPassword("", "pw"),
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p, _ := serveSOCKS(t, "u", "")
			cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) {
				return &url.URL{Scheme: "socks5", User: user, Host: p.addr}, nil
			}}
			_, err := doHTTP(t, cfg, "GET", "http://h.example", nil)
			if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), "proxy: ") || strings.Contains(err.Error(), long) {
				t.Error(err)
			}
		})
	}
}

func TestHTTPSOCKSTargetThatIsTooLong(t *testing.T) {
	checkLeaks(t)
	p, _ := serveSOCKS(t, "", "")
	cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("socks5://" + p.addr) }}
	_, err := doHTTP(t, cfg, "GET", "http://"+strings.Repeat("x", 256), nil)
	if !errors.Is(err, eventloop.ErrHTTP) || !strings.Contains(err.Error(), "proxy: ") {
		t.Error(err)
	}
}

// The end of the loop does not wait for a proxy.
func TestHTTPSOCKSProxyAtTheEndOfTheLoop(t *testing.T) {
	checkLeaks(t)
	asked := make(chan struct{})
	p := newHTTPPeer(t, func(c net.Conn) {
		c.Read(make([]byte, 1))
		close(asked)
		io.Copy(io.Discard, c)
	})
	cfg := &eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("socks5://" + p.addr) }}
	err := eventloop.Run(context.Background(), logged(t, &eventloop.Config{HTTPClient: cfg}), func(l *eventloop.Loop) error {
		l.HTTP().Get(bg, "http://h.example").Then(func(*eventloop.HTTPResponse, error) { t.Error("called") })
		go func() {
			<-asked
			l.Stop()
		}()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
