package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX: y\r\n\r\n"

var echoProtocol = eventloop.HTTPHeaders{{Name: "Upgrade", Value: "echo"}}

// A server may respond before the client's Write has returned.
func TestAnUpgradeWaitsForTheWriter(t *testing.T) {
	checkLeaks(t)
	server := newHTTPPeer(t, echoAfter(switching))
	cfg := eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return slowWriteConn{c}, err
	}}
	opened := 0
	runHTTPLoop(t, &eventloop.Config{HTTPClient: &cfg}, func(l *eventloop.Loop) {
		l.HTTP().Upgrade(bg, "http://"+server.addr, echoProtocol, nil).Then(func(c *eventloop.Conn, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			opened++
			c.Close()
		})
	})
	wantEqual(t, "opened", opened, 1)
}

// echoAfter answers a request with head, and then sends back what comes.
func echoAfter(head string) func(c net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		readHTTPHead(br)
		io.WriteString(c, head)
		io.Copy(c, br)
	}
}

// A client speaks the other protocol on each way to a server. The first bytes come
// together with the head of the response.
func TestHTTPUpgradeMakesTheConnectionAConn(t *testing.T) {
	plain := newHTTPPeer(t, echoAfter(switching+"early "))
	secure := newHTTPPeer(t, withTLS(httpServerTLS(), echoAfter(switching+"early ")))
	const tunnel = "HTTP/1.1 200 OK\r\n\r\n"
	plainProxy, _ := newHTTPProxy(t, plain.addr, tunnel)
	secureProxy, _ := newHTTPProxy(t, secure.addr, tunnel)
	plainSOCKS, _ := serveSOCKS(t, "", plain.addr)
	through := func(scheme string, p *httpPeer) func(*url.URL) (*url.URL, error) {
		return func(*url.URL) (*url.URL, error) { return &url.URL{Scheme: scheme, Host: p.addr}, nil }
	}
	for _, test := range []struct {
		name, url string
		cfg       eventloop.HTTPClientConfig
	}{
		{"http", "http://" + plain.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}},
		{"ws", "WS://" + plain.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}},
		{"https", "https://" + secure.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}},
		{"wss", "wss://" + secure.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}},
		{"Dial", "http://" + plain.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, Dial: dialHidden}},
		{"Dial and TLS", "https://" + secure.addr, eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, Dial: dialHidden}},
		{"proxy", "http://h.example/", eventloop.HTTPClientConfig{Proxy: through("http", plainProxy)}},
		{"proxy and TLS", "https://example.com/", eventloop.HTTPClientConfig{Proxy: through("http", secureProxy)}},
		{"SOCKS", "http://h.example/", eventloop.HTTPClientConfig{Proxy: through("socks5", plainSOCKS)}},
	} {
		for _, ways := range []string{"OnData", "task", "Detach"} {
			t.Run(test.name+", "+ways, func(t *testing.T) {
				checkLeaks(t)
				test.cfg.TLS = httpClientTLS()
				test.cfg.MaxConnsPerHost = 1
				conf := &eventloop.Config{HTTPClient: &test.cfg}
				const want = "early hello"
				order, got := "", ""
				cfg := &eventloop.ConnConfig{}
				switch ways {
				case "OnData":
					cfg.OnConnect = func(c *eventloop.Conn) { order += "connect " }
					cfg.OnData = func(c *eventloop.Conn, p []byte) {
						order += "data "
						if got += string(p); got == want {
							c.Close()
						}
					}
					cfg.OnClose = func(c *eventloop.Conn) { order += "close" }
				}
				if strings.HasPrefix(test.url, "https") || strings.HasPrefix(test.url, "wss") {
					test.url = strings.Replace(test.url, "127.0.0.1", "example.com", 1)
					dial := test.cfg.Dial
					if dial == nil && test.cfg.Proxy != nil && test.name != "proxy and TLS" {
						test.cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
							return new(net.Dialer).DialContext(ctx, network, secure.addr)
						}
					} else if dial != nil {
						test.cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
							return dial(ctx, network, secure.addr)
						}
					}
				}
				runHTTPLoop(t, conf, func(l *eventloop.Loop) {
					f := l.HTTP().Upgrade(bg, test.url, echoProtocol, cfg)
					if ways == "OnData" {
						f.Then(func(c *eventloop.Conn, err error) {
							if order += "future "; err != nil {
								t.Error(err)
								return
							}
							c.Write([]byte("hello"))
						})
						return
					}
					l.Go(bg, func(k *eventloop.Task) error {
						c, err := f.Await(k)
						if err != nil {
							t.Error(err)
							return nil
						}
						var nc net.Conn
						if ways == "task" {
							nc = c.NetConn(k)
							io.WriteString(nc, "hello")
							b := make([]byte, len(want))
							io.ReadFull(nc, b)
							got = string(b)
							return nc.Close()
						}
						if _, err := c.Connected().Await(k); err != nil {
							t.Error(err)
						}
						if nc, err = c.Detach().Await(k); err != nil {
							t.Error(err)
							return nil
						}
						got, err = eventloop.Block(k, func(context.Context) (string, error) {
							defer nc.Close()
							io.WriteString(nc, "hello")
							b := make([]byte, len(want))
							_, err := io.ReadFull(nc, b)
							return string(b), err
						})
						return err
					})
				})
				wantEqual(t, "input", got, want)
				if ways == "OnData" && (!strings.HasPrefix(order, "future connect data ") || !strings.HasSuffix(order, "data close")) {
					t.Errorf("order: %s", order)
				}
			})
		}
	}
}

func TestHTTPUpgradeOnTheWire(t *testing.T) {
	type H = eventloop.HTTPHeaders
	for _, test := range []struct {
		cfg  eventloop.HTTPClientConfig
		opts H
		want string
	}{
		{eventloop.HTTPClientConfig{}, H{{"Upgrade", "a, b/2"}, {"Connection", "X"}, {"X", "y"}},
			"GET /p?q HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nConnection: Upgrade\r\nUpgrade: a, b/2\r\nX: y\r\n\r\n"},
		{eventloop.HTTPClientConfig{DisableKeepAlives: true}, H{{"upgrade", "a"}},
			"GET /p?q HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nConnection: Upgrade\r\nupgrade: a\r\n\r\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			got := ""
			p, dial := newHTTPPipe(func(c net.Conn) {
				got = readHTTPHead(bufio.NewReader(c))
				io.WriteString(c, strings.Replace(switching, "echo", "a", 1))
				io.Copy(io.Discard, c)
			})
			test.cfg.Dial, test.cfg.Proxy, test.cfg.UserAgent = dial, eventloop.NoProxy, "u"
			eventloop.Run(bg, nil, func(l *eventloop.Loop) error {
				eventloop.NewHTTPClient(l, &test.cfg).Upgrade(bg, "ws://h/p?q", test.opts, nil).Then(func(c *eventloop.Conn, err error) {
					if err != nil {
						t.Error(err)
						return
					}
					c.Close()
				})
				return nil
			})
			p.stop()
			wantEqual(t, "request", got, test.want)
		})
	}
}

func TestHTTPUpgradeThatIsRefusedTellsTheResponse(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for name, test := range map[string]struct {
		response string
		status   int
		body     string
		wait     time.Duration
	}{
		"403":            {"HTTP/1.1 403 Forbidden\r\nX: y\r\nContent-Length: 2\r\n\r\nno", 403, "no", 0},
		"200":            {"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 0},
		"redirect":       {"HTTP/1.1 302 Found\r\nX: y\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302, "", 0},
		"no reason":      {"HTTP/1.1 426\r\nX: y\r\nContent-Length: 0\r\n\r\n", 426, "", 0},
		"long body":      {"HTTP/1.1 500 No\r\nX: y\r\n\r\n" + long, 500, long[:4096], 0},
		"chunked":        {"HTTP/1.1 500 No\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 500, "abc", 0},
		"bad chunk":      {"HTTP/1.1 500 No\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nz\r\n", 500, "ab", 0},
		"body stops":     {"HTTP/1.1 500 No\r\nX: y\r\nContent-Length: 9\r\n\r\nhalf", 500, "half", time.Second},
		"body never":     {"HTTP/1.1 500 No\r\nX: y\r\nContent-Length: 9\r\n\r\n", 500, "", time.Second},
		"after interims": {"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 404 Not Found\r\nX: y\r\nContent-Length: 0\r\n\r\n", 404, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, dial := newHTTPPipe(func(c net.Conn) {
					readHTTPHead(bufio.NewReader(c))
					io.WriteString(c, test.response)
					io.Copy(io.Discard, c)
				})
				defer p.stop()
				begun := time.Now()
				eventloop.Run(bg, nil, func(l *eventloop.Loop) error {
					client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Dial: dial, Proxy: eventloop.NoProxy})
					client.Upgrade(bg, "ws://h/", echoProtocol, nil).Then(func(c *eventloop.Conn, err error) {
						var se *eventloop.HTTPStatusError
						if !errors.As(err, &se) || !errors.Is(err, eventloop.ErrHTTP) {
							t.Fatalf("%v, %v", c, err)
						}
						if se.Status != test.status || se.Proxy || se.Headers.Get("X") != "y" || string(se.Body) != test.body {
							t.Errorf("%+v", se)
						}
						if !strings.Contains(err.Error(), fmt.Sprintf("an upgrade got the response %d", test.status)) || strings.HasSuffix(err.Error(), " ") {
							t.Errorf("message %q", err)
						}
					})
					return nil
				})
				wantEqual(t, "time", time.Since(begun), test.wait)
			})
		})
	}
}

func TestHTTPUpgradeThatCannotBegin(t *testing.T) {
	checkLeaks(t)
	p := newHTTPPeer(t, answerAll(httpOK))
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		fails := func(url string, headers eventloop.HTTPHeaders, text string) {
			l.HTTP().Upgrade(bg, url, headers, nil).Then(func(_ *eventloop.Conn, err error) {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%s with %v: %v", url, headers, err)
				}
			})
		}
		fails("ws://"+p.addr, nil, "without the field Upgrade")
		fails("ws://"+p.addr, eventloop.HTTPHeaders{{Name: "Upgrade"}}, "without the field Upgrade")
		fails("ws://"+p.addr, eventloop.HTTPHeaders{{Name: "Upgrade", Value: "a\r\nb"}}, "value of Upgrade")
		fails("ftp://"+p.addr, echoProtocol, "scheme")
		fails("", echoProtocol, "scheme")
	})
	wantEqual(t, "connections", p.conns.Load(), 0)
}

// What kind of failure it is can be told as with any request.
func TestHTTPUpgradeThatFails(t *testing.T) {
	canceled, cancel := context.WithCancel(bg)
	for name, test := range map[string]struct {
		ctx    context.Context
		script func(c net.Conn)
		is     error
	}{
		"the server is silent": {bg, func(c net.Conn) { io.Copy(io.Discard, c) }, eventloop.ErrTimeout},
		"the server ends":      {bg, func(c net.Conn) { readHTTPHead(bufio.NewReader(c)) }, io.EOF},
		"garbage":              {bg, answerOnce("SSH-2.0-x\r\n"), eventloop.ErrHTTPMalformed},
		"half a head":          {bg, answerOnce("HTTP/1.1 101 Sw"), io.ErrUnexpectedEOF},
		"canceled":             {canceled, func(c net.Conn) { readHTTPHead(bufio.NewReader(c)); cancel(); io.Copy(io.Discard, c) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := newHTTPPeer(t, test.script)
			cfg := &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, Timeout: 100 * time.Millisecond}
			if name != "the server is silent" {
				cfg.Timeout = 0
			}
			runHTTPLoop(t, &eventloop.Config{HTTPClient: cfg}, func(l *eventloop.Loop) {
				l.HTTP().Upgrade(test.ctx, "http://"+p.addr, echoProtocol, nil).Then(func(_ *eventloop.Conn, err error) {
					if !errors.Is(err, test.is) || !errors.Is(err, eventloop.ErrHTTP) {
						t.Error(err)
					}
				})
			})
		})
	}
}

// A server may choose one of the requested protocols, and no other.
func TestHTTPUpgradeToAProtocolThatWasNotAskedForIsMalformed(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		asked, got []string
		ok         bool
	}{
		{[]string{"echo"}, []string{"echo"}, true},
		{[]string{"Echo"}, []string{"eCHO"}, true},
		{[]string{"a, echo/2"}, []string{"echo/2"}, true},
		{[]string{"a", " echo ,"}, []string{"echo"}, true},
		{[]string{"echo"}, []string{"TLS/1.2, echo"}, true},
		{[]string{"echo"}, []string{"TLS/1.2", "echo"}, true},
		{[]string{"echo"}, []string{"tcp"}, false},
		{[]string{"echo"}, []string{"echo/2"}, false},
		{[]string{"echo"}, []string{"echoes"}, false},
		{[]string{"echo,"}, []string{","}, false},
		{[]string{"echo"}, nil, false},
	} {
		head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
		for _, value := range test.got {
			head += "Upgrade: " + value + "\r\n"
		}
		var asked eventloop.HTTPHeaders
		for _, value := range test.asked {
			asked.Add("Upgrade", value)
		}
		p := newHTTPPeer(t, echoAfter(head+"\r\n"))
		check := func(c *eventloop.Conn, err error) {
			switch {
			case test.ok && err == nil:
				c.Close()
			case !test.ok && c == nil && errors.Is(err, eventloop.ErrHTTPMalformed) && errors.Is(err, eventloop.ErrHTTP):
				if want := fmt.Sprintf("101 for the protocol %q, requested %q", strings.Join(test.got, ", "), test.asked[0]); !strings.Contains(err.Error(), want) {
					t.Errorf("message %q, want %q", err, want)
				}
			default:
				t.Errorf("asked for %q, got %q: %v, %v", test.asked, test.got, c, err)
			}
		}
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			heads := 0
			l.HTTP().Upgrade(bg, "ws://"+p.addr, asked, nil).Then(check)
			l.HTTP().Do(bg, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
				Headers: asked, Upgrade: &eventloop.ConnConfig{}, OnResponse: func(*eventloop.HTTPResponse) { heads++ },
			}).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil {
					check(nil, err)
				} else {
					check(res.Conn, nil)
				}
				wantEqual(t, "OnResponse", heads > 0, test.ok)
			})
		})
	}
}

func TestHTTPUpgradeFreesItsPlaceAmongTheConnectionsOfTheHost(t *testing.T) {
	checkLeaks(t)
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for head := readHTTPHead(br); head != ""; head = readHTTPHead(br) {
			if strings.Contains(head, "Upgrade: echo") {
				io.WriteString(c, switching)
				io.Copy(c, br)
				return
			}
			io.WriteString(c, httpOK)
		}
	})
	cfg := &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, MaxConnsPerHost: 1}
	runHTTPLoop(t, &eventloop.Config{HTTPClient: cfg}, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			var conns []*eventloop.Conn
			for range 3 { // the second is upgraded on a connection that was kept
				c, err := l.HTTP().Upgrade(bg, "http://"+p.addr, echoProtocol, nil).Await(k)
				if err != nil {
					t.Error(err)
					return nil
				}
				conns = append(conns, c)
				if res, err := l.HTTP().Get(bg, "http://"+p.addr).Await(k); err != nil || string(res.Body) != "ok" {
					t.Errorf("%+v, %v", res, err)
				}
			}
			wantEqual(t, "connections", p.conns.Load(), 4)
			for _, c := range conns {
				c.Close()
			}
			return nil
		})
	})
}

func TestHTTPUpgradeIsSentAgainWhenAKeptConnectionHasEnded(t *testing.T) {
	checkLeaks(t)
	first := true
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		readHTTPHead(br)
		if first {
			first = false
			io.WriteString(c, httpOK)
			readHTTPHead(br)
			return
		}
		io.WriteString(c, switching)
		io.Copy(c, br)
	})
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			if _, err := l.HTTP().Get(bg, "http://"+p.addr).Await(k); err != nil {
				t.Error(err)
			}
			c, err := l.HTTP().Upgrade(bg, "http://"+p.addr, echoProtocol, nil).Await(k)
			if err != nil {
				t.Error(err)
				return nil
			}
			c.Close()
			return nil
		})
	})
}

// The end of the loop finds the connection at any step of the hand-over.
func TestHTTPUpgradeAtTheEndOfTheLoop(t *testing.T) {
	p := newHTTPPeer(t, echoAfter(switching+"early"))
	secure := newHTTPPeer(t, withTLS(httpServerTLS(), echoAfter(switching+"early")))
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, secure.addr)
	}
	for _, url := range []string{"ws://" + p.addr, "wss://example.com"} {
		for _, at := range []string{"future", "connect", "data", "OnResponse"} {
			t.Run(url[:3]+" "+at, func(t *testing.T) {
				checkLeaks(t)
				closed := 0
				hc := &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, TLS: httpClientTLS()}
				if url[:3] == "wss" {
					hc.Dial = dial
				}
				err := eventloop.Run(bg, logged(t, &eventloop.Config{HTTPClient: hc}), func(l *eventloop.Loop) error {
					stop := func(here string) {
						if here == at {
							l.Stop()
						}
					}
					cfg := &eventloop.ConnConfig{
						OnConnect: func(*eventloop.Conn) { stop("connect") },
						OnData:    func(*eventloop.Conn, []byte) { stop("data") },
						OnClose:   func(*eventloop.Conn) { closed++ },
					}
					if at == "OnResponse" {
						opts := &eventloop.HTTPOptions{Headers: echoProtocol, Upgrade: cfg, OnResponse: func(*eventloop.HTTPResponse) { stop(at) }}
						l.HTTP().Do(bg, "GET", url, opts).Then(func(*eventloop.HTTPResponse, error) { stop("future") })
					} else {
						l.HTTP().Upgrade(bg, url, echoProtocol, cfg).Then(func(*eventloop.Conn, error) { stop("future") })
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if want := 1; at != "OnResponse" {
					wantEqual(t, "OnClose", closed, want)
				}
			})
		}
	}
}

func TestHTTPUpgradeByDo(t *testing.T) {
	t.Run("a POST with a body over a unix socket, and the headers of the response", func(t *testing.T) {
		checkLeaks(t)
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		serveHTTPPeer(t, ln, func(c net.Conn) {
			br := bufio.NewReader(c)
			head := readHTTPHead(br)
			body := make([]byte, 4)
			io.ReadFull(br, body)
			if !strings.HasPrefix(head, "POST /exec ") || string(body) != "body" {
				t.Errorf("%q, %q", head, body)
			}
			io.WriteString(c, switching)
			io.Copy(c, br)
		})
		heads := 0
		opts := &eventloop.HTTPOptions{
			UnixSocket: path, Headers: echoProtocol, Body: []byte("body"),
			Upgrade:    echo(),
			OnResponse: func(res *eventloop.HTTPResponse) { heads++; wantEqual(t, "Conn", res.Conn, nil) },
		}
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			l.HTTP().Do(bg, "POST", "http://docker/exec", opts).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil || res.Status != 101 || res.Header("X") != "y" || res.Conn == nil {
					t.Fatalf("%+v, %v", res, err)
				}
				res.Conn.Close()
			})
		})
		wantEqual(t, "OnResponse", heads, 1)
	})
	t.Run("a response that refuses is a result, and its connection is kept", func(t *testing.T) {
		p := newHTTPPeer(t, answerAll("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"))
		opts := &eventloop.HTTPOptions{Headers: echoProtocol, Upgrade: &eventloop.ConnConfig{}}
		runHTTPLoop(t, nil, func(l *eventloop.Loop) {
			l.Go(bg, func(k *eventloop.Task) error {
				for i := range 2 {
					res, err := l.HTTP().Do(bg, "GET", "http://"+p.addr, opts).Await(k)
					if err != nil || res.Status != 404 || string(res.Body) != "no" || res.Conn != nil || res.Reused != (i > 0) {
						t.Errorf("%+v, %v", res, err)
					}
				}
				return nil
			})
		})
	})
	t.Run("101 before the body was sent is an error", func(t *testing.T) {
		checkLeaks(t)
		p := newHTTPPeer(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			readHTTPHead(br)
			io.WriteString(c, switching)
			io.Copy(io.Discard, br)
		})
		r, w, err := os.Pipe() // gives nothing, and knows no end
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		opts := &eventloop.HTTPOptions{Headers: echoProtocol, Upgrade: &eventloop.ConnConfig{}, BodyReader: r}
		_, err = doHTTP(t, eventloop.HTTPClientConfig{}, "POST", "http://"+p.addr, opts)
		if !errors.Is(err, eventloop.ErrHTTPMalformed) {
			t.Error(err)
		}
	})
}

// net/http's server switches protocols by Hijack, and our own by HTTPRequest.Upgrade.
func TestHTTPUpgradeWithOtherServers(t *testing.T) {
	upper := func(p []byte) []byte { return []byte(strings.ToUpper(string(p))) }
	std := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, switching)
		for {
			b := make([]byte, 100)
			n, err := rw.Read(b)
			if err != nil {
				return
			}
			c.Write(upper(b[:n]))
		}
	}))
	defer std.Close()
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			_, err := r.Upgrade(nil, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(upper(p)) }})
			if err != nil {
				t.Error(err)
			}
		}, nil)
		if err != nil {
			t.Error(err)
			return
		}
		left := 2
		for _, addr := range []string{std.Listener.Addr().String(), s.Addr().String()} {
			l.HTTP().Upgrade(bg, "ws://"+addr, echoProtocol, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, p []byte) {
					wantEqual(t, addr, string(p), "HELLO")
					c.Close()
				},
				OnClose: func(*eventloop.Conn) {
					if left--; left == 0 {
						s.Close()
					}
				},
			}).Then(func(c *eventloop.Conn, err error) {
				if err != nil {
					t.Error(err)
					s.Close()
					return
				}
				c.Write([]byte("hello"))
			})
		}
	})
}

func TestHTTPProxyThatRefusesTellsTheResponse(t *testing.T) {
	checkLeaks(t)
	const response = "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"a\"\r\n" +
		"Proxy-Authenticate: Negotiate\r\nContent-Length: 9\r\n\r\nlog in!!!"
	p, _ := newHTTPProxy(t, "", response)
	cfg := eventloop.HTTPClientConfig{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://user:SECRET@" + p.addr) }}
	_, err := doHTTP(t, cfg, "GET", "https://example.com/", nil)
	var se *eventloop.HTTPStatusError
	if !errors.As(err, &se) || !errors.Is(err, eventloop.ErrHTTP) || strings.Contains(err.Error(), "SECRET") {
		t.Fatal(err)
	}
	if !se.Proxy || se.Status != 407 || se.Reason != "Proxy Authentication Required" || string(se.Body) != "log in!!!" {
		t.Errorf("%+v", se)
	}
	wantSlice(t, "Proxy-Authenticate", se.Headers.Values("Proxy-Authenticate"), []string{`Basic realm="a"`, "Negotiate"})
	if want := "proxy: CONNECT got the response 407 Proxy Authentication Required"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("message %q", err)
	}
}

func ExampleHTTPClient_Upgrade() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		shout := eventloop.HTTPHeaders{{Name: "Upgrade", Value: "shout"}}
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.Upgrade(nil, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
				c.Write([]byte(strings.ToUpper(string(p))))
			}})
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Upgrade(ctx, "http://"+s.Addr().String(), shout, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, p []byte) {
				fmt.Printf("%s\n", p)
				c.Close()
				s.Close()
			},
		}).Then(func(c *eventloop.Conn, err error) {
			if err != nil {
				fmt.Println(err) // an *HTTPStatusError says what the server answered
				s.Close()
				return
			}
			c.Write([]byte("is anyone there?"))
		})
		return nil
	})
	// Output:
	// IS ANYONE THERE?
}
