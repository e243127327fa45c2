package eventloop_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// TestHTTPServerRefusesWhatItMust sends requests that a strict server refuses,
// each followed by a request that must not be answered: the connection is closed.
func TestHTTPServerRefusesWhatItMust(t *testing.T) {
	const host = "Host: x\r\n"
	chunked := func(body string) string {
		return "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + body
	}
	for _, v := range []struct {
		name, request string
		status        int
	}{
		{"no version", "GET /\r\n" + host + "\r\n", 400},
		{"HTTP/0.9", "GET / HTTP/0.9\r\n" + host + "\r\n", 505},
		{"HTTP/3.0", "GET / HTTP/3.0\r\n" + host + "\r\n", 505},
		{"HTTP/2.0", "GET / HTTP/2.0\r\n" + host + "\r\n", 505},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"lower-case version", "GET / http/1.1\r\n" + host + "\r\n", 400},
		{"long version", "GET / HTTP/1.10\r\n" + host + "\r\n", 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", 400},
		{"tabs between", "GET\t/\tHTTP/1.1\r\n" + host + "\r\n", 400},
		{"relative target", "GET x HTTP/1.1\r\n" + host + "\r\n", 400},
		{"control byte in the target", "GET /\x01 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"NUL in the target", "GET /\x00 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bad method", "G(T / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"leading space", " GET / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bytes of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"Host with two ports", "GET / HTTP/1.1\r\nHost: a:80:90\r\n\r\n", 400},
		{"Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
		{"address without brackets", "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400},
		{"Host with a broken escape", "GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n", 400},
		{"only a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400},
		{"absolute target without a host", "GET http:///a HTTP/1.1\r\n" + host + "\r\n", 400},
		{"CONNECT without a port", "CONNECT a HTTP/1.1\r\n" + host + "\r\n", 400},
		{"CONNECT of a query", "CONNECT ?abc HTTP/1.1\r\n" + host + "\r\n", 400},
		{"asterisk of a GET", "GET * HTTP/1.1\r\n" + host + "\r\n", 400},
		{"broken escape in the path", "GET /%zz HTTP/1.1\r\n" + host + "\r\n", 400},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", 400},
		{"Host with a space", "GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400},
		{"Host with a path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
		{"folded line", "GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", 400},
		{"folded line with tab", "GET / HTTP/1.1\r\n" + host + "A: b\r\n\tc\r\n\r\n", 400},
		{"folded first line", "GET / HTTP/1.1\r\n " + host + "\r\n", 400},
		{"space before colon", "GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", 400},
		{"space in a name", "GET / HTTP/1.1\r\n" + host + "A b: c\r\n\r\n", 400},
		{"no colon", "GET / HTTP/1.1\r\n" + host + "A\r\n\r\n", 400},
		{"no name", "GET / HTTP/1.1\r\n" + host + ": a\r\n\r\n", 400},
		{"NUL in a value", "GET / HTTP/1.1\r\n" + host + "A: b\x00\r\n\r\n", 400},
		{"control byte in a value", "GET / HTTP/1.1\r\n" + host + "A: \x02\r\n\r\n", 400},
		{"DEL in a value", "GET / HTTP/1.1\r\n" + host + "A: \x7f\r\n\r\n", 400},
		{"bare CR in a value", "GET / HTTP/1.1\r\n" + host + "A: b\rc\r\n\r\n", 400},
		{"bare LF between lines", "GET / HTTP/1.1\r\n" + host + "A: b\nC: d\r\n\r\n", 400},
		{"bare LF at the end", "GET / HTTP/1.1\r\n" + host + "A: b\r\n\n", 400},
		{"bare LF everywhere", "GET / HTTP/1.1\nHost: x\n\n", 400},
		{"CR CR LF", "GET / HTTP/1.1\r\r\n" + host + "\r\n", 400},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		{"equal lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\ncontent-length: 1\r\n\r\na", 400},
		{"list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\na", 400},
		{"signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\na", 400},
		{"negative length", "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\na", 400},
		{"hexadecimal length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n\r\na", 400},
		{"empty length", "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\na", 400},
		{"endless length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551617\r\n\r\na", 400},
		{"length and coding", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"coding and length", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400},
		{"identity", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", 501},
		{"identity and length", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\na", 400},
		{"unknown coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
		{"gzip", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		{"chunked twice", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501},
		{"two codings", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"empty coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 501},
		{"vertical tab in the coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"chunk size with 0x", chunked("0x1\r\na\r\n0\r\n\r\n"), 400},
		{"signed chunk size", chunked("+1\r\na\r\n0\r\n\r\n"), 400},
		{"negative chunk size", chunked("-1\r\na\r\n0\r\n\r\n"), 400},
		{"no chunk size", chunked("\r\na\r\n0\r\n\r\n"), 400},
		{"only an extension", chunked(";a\r\na\r\n0\r\n\r\n"), 400},
		{"space before a chunk size", chunked(" 1\r\na\r\n0\r\n\r\n"), 400},
		{"space after a chunk size", chunked("1 \r\na\r\n0\r\n\r\n"), 400},
		{"endless chunk size", chunked("10000000000000001\r\na\r\n0\r\n\r\n"), 400},
		{"bare LF after a chunk size", chunked("1\na\r\n0\r\n\r\n"), 400},
		{"bare LF in an extension", chunked("1;a\nb\r\na\r\n0\r\n\r\n"), 400},
		{"bare CR in an extension", chunked("1;a\rb\r\na\r\n0\r\n\r\n"), 400},
		{"control byte in an extension", chunked("1;\x01\r\na\r\n0\r\n\r\n"), 400},
		{"long extension", chunked("1;" + strings.Repeat("a", 1000) + "\r\na\r\n0\r\n\r\n"), 400},
		{"chunk longer than its size", chunked("1\r\nab\r\n0\r\n\r\n"), 400},
		{"bare LF after a chunk", chunked("1\r\na\n0\r\n\r\n"), 400},
		{"folded trailer", chunked("0\r\nA: b\r\n c\r\n\r\n"), 400},
		{"malformed trailer", chunked("0\r\nA\r\n\r\n"), 400},
		{"long trailers", chunked("0\r\n" + strings.Repeat("A: b\r\n", 10_000) + "\r\n"), 400},
		{"unknown expectation", "GET / HTTP/1.1\r\n" + host + "Expect: magic\r\n\r\n", 417},
		{"unknown expectation before a body", "POST / HTTP/1.1\r\n" + host + "Expect: magic\r\nContent-Length: 5\r\n\r\n", 417},
		{"long target", "GET /" + strings.Repeat("a", 20_000) + " HTTP/1.1\r\n" + host + "\r\n", 414},
		{"long field", "GET / HTTP/1.1\r\n" + host + "A: " + strings.Repeat("a", 20_000) + "\r\n\r\n", 431},
		{"many fields", "GET / HTTP/1.1\r\n" + host + strings.Repeat("A: b\r\n", 5000) + "\r\n", 431},
		{"long body", "POST / HTTP/1.1\r\n" + host + "Content-Length: 4194305\r\n\r\n", 413},
		{"long chunk", chunked("400001\r\n"), 413},
		{"many chunks", chunked(strings.Repeat("100000\r\n"+strings.Repeat("a", 1<<20)+"\r\n", 4) + "1\r\na\r\n"), 413},
	} {
		t.Run(v.name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			var served atomic.Int64
			s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
				served.Add(1)
				hai(r)
			})
			c := dialRaw(t, s.Addr())
			go c.Write([]byte(v.request + "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"))
			resp, body := c.response("GET")
			if resp.StatusCode != v.status || !resp.Close {
				t.Errorf("status %d, close %v; want %d and close", resp.StatusCode, resp.Close, v.status)
			}
			if body == "" || body == "hai" {
				t.Errorf("body %q, want that of a refusal", body)
			}
			c.mustClose()
			if got := served.Load(); got != 0 {
				t.Errorf("the handler got %d requests, want none", got)
			}
			stats := l.Stats()
			if got := map[int]uint64{4: stats.HTTPServer.Status4xxTotal, 5: stats.HTTPServer.Status5xxTotal}[v.status/100]; got != 1 {
				t.Errorf("%d answers of the class counted, want 1", got)
			}
			// The server goes on.
			if status, _ := dialRaw(t, s.Addr()).get("/"); status != 200 {
				t.Errorf("the next client gets %d", status)
			}
		})
	}
}

func TestHTTPServerTakesWhatIsUnusualButLegal(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, hai)
	for _, request := range []string{
		"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nhOST:x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nA: \xe4\t\"b\"\r\n\r\n",
		"BREW! / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost:\r\n\r\n",
		"GET http://a:80?b HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nExpect:\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1 ;a\r\nb\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0003\r\n\r\nabc",
		"GET /" + strings.Repeat("a", 15_000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n",
	} {
		c := dialRaw(t, s.Addr())
		c.send("%s", request)
		if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "hai" {
			t.Errorf("%.60q: %d %q, want 200", request, resp.StatusCode, body)
		}
	}
}

func TestHTTPServerTimesOutStalledClients(t *testing.T) {
	for _, v := range []struct {
		name, sent, want string
		after            time.Duration
	}{
		{"nothing", "", "", 10 * time.Second},
		{"part of a header", "GET / HT", "408", 10 * time.Second},
		{"header without end", "GET / HTTP/1.1\r\nHost: x\r\n", "408", 10 * time.Second},
		{"part of a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", "408", 60 * time.Second},
		{"part of a chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "408", 60 * time.Second},
		{"nothing after a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200", 82500 * time.Millisecond},
	} {
		t.Run(v.name, func(t *testing.T) {
			inVirtualTime(t, nil, hai, func(c *rawClient) {
				start := time.Now()
				c.Write([]byte(v.sent))
				var got strings.Builder
				for b := make([]byte, 1); ; { // net.Pipe has no buffer
					if _, err := c.Read(b); err != nil {
						break
					}
					got.Write(b)
				}
				_, after, _ := strings.Cut(got.String(), "HTTP/1.1 ")
				if status, _, _ := strings.Cut(after, " "); status != v.want {
					t.Errorf("response %q, want %q", got.String(), v.want)
				}
				if took := time.Since(start); took != v.after {
					t.Errorf("closed after %v, want %v", took, v.after)
				}
			})
		})
	}
}

func TestHTTPServerDoesNotWaitForAByteASecond(t *testing.T) {
	inVirtualTime(t, nil, hai, func(c *rawClient) {
		start := time.Now()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			request := "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 100)
			for _, b := range []byte(request) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		if resp, _ := c.response("GET"); resp.StatusCode != 408 {
			t.Errorf("status %d, want 408", resp.StatusCode)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("answered after %v, want 10s from the first byte", took)
		}
	})
}

func TestLaw11AnHTTPServerGivesUpOnClientsThatNeverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan error, 1)
		cfg := &eventloop.HTTPServerConfig{OnEvent: func(s *eventloop.HTTPServer, err error) { events <- err }}
		start := time.Now()
		serveInBubble(t, cfg, hai, func(c *rawClient) {
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if err := <-events; !isTimeoutEvent(err) {
				t.Errorf("event %v, want a timeout", err)
			}
			if took := time.Since(start); took != 30*time.Second {
				t.Errorf("after %v, want 30s", took)
			}
		})
	})
}

func isTimeoutEvent(err error) bool {
	oe, ok := err.(*eventloop.OpError)
	return ok && oe.Timeout() && oe.Op == "write"
}

// inVirtualTime runs a loop with a server and one client in a bubble.
func inVirtualTime(t *testing.T, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest), client func(c *rawClient)) {
	synctest.Test(t, func(t *testing.T) { serveInBubble(t, cfg, h, client) })
}

func serveInBubble(t *testing.T, cfg *eventloop.HTTPServerConfig, h func(r *eventloop.HTTPRequest), client func(c *rawClient)) {
	t.Helper()
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		ln := pipelistener.New()
		s, err := l.ServeHTTP(ln, h, cfg)
		if err != nil {
			return err
		}
		go func() {
			defer s.Close()
			c := newRawClient(t, ln.Dial())
			defer c.Close()
			client(c)
		}()
		return nil
	})
	if err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestHTTPServerLimitsConnectionsPerAddress(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxConnsPerIP: 2}, hai)
	first, second := dialRaw(t, s.Addr()), dialRaw(t, s.Addr())
	first.get("/")
	second.get("/")
	third := dialRaw(t, s.Addr())
	if resp, _ := third.response("GET"); resp.StatusCode != 429 {
		t.Errorf("status %d, want 429", resp.StatusCode)
	}
	third.mustClose()
	if got := l.Stats().HTTPServer.DroppedTotal; got != 1 {
		t.Errorf("DroppedTotal = %d, want 1", got)
	}
	first.Close()
	served := eventually(func() bool { // once the end of the first connection has been noticed
		c := dialRaw(t, s.Addr())
		defer c.Close()
		c.SetDeadline(time.Now().Add(watchdogTime))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // fails if the server has refused already
		resp, err := http.ReadResponse(c.br, nil)
		return err == nil && resp.StatusCode == 200
	})
	wantEqual(t, "served when there is room", served, true)
}

func TestHTTPServerLimitsConnectionsInAll(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxConns: 2}, hai)
	clients := make([]*rawClient, 4)
	for i := range clients {
		clients[i] = dialRaw(t, s.Addr())
	}
	clients[0].get("/")
	clients[1].get("/")
	if got := l.Stats().HTTPServer.Conns; got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
	clients[0].Close()
	clients[1].Close()
	for _, c := range clients[2:] { // they waited in the kernel
		if status, _ := c.get("/"); status != 200 {
			t.Errorf("status %d, want 200", status)
		}
	}
}

func TestHTTPServerHeaderLimitIsConfigurable(t *testing.T) {
	l, _ := startLoop(t, nil)
	for _, limit := range []int{100, 100_000} {
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxHeaderBytes: limit}, hai)
		for size, want := range map[int]int{limit: 200, limit + 1: 431} {
			request := "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
			request = strings.Replace(request, "A: ", "A: "+strings.Repeat("a", size-len(request)), 1)
			c := dialRaw(t, s.Addr())
			go fmt.Fprint(c, request)
			if resp, _ := c.response("GET"); resp.StatusCode != want {
				t.Errorf("limit %d, header of %d bytes: %d, want %d", limit, size, resp.StatusCode, want)
			}
		}
	}
}
