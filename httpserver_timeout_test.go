package eventloop_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/netcore"
)

// A connection that is parked while it waits, and wakes up for another reason, waits no
// longer than its timeout in all. The timeouts are those on either side of what makes a
// connection quiet, and of how early it is resumed.
func TestHTTPServerTimeoutsHoldForConnectionsThatAreParked(t *testing.T) {
	const sweep = 20 * time.Millisecond
	t.Cleanup(netcore.Hasten(sweep, 0))
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
	for _, test := range []struct {
		name  string
		first string // a request that is answered before
		send  string
		want  string // in the response
	}{
		{"new", "", "", ""},
		{"idle", get, "", ""},
		{"new with a part of a header", "", "GET /", " 408 "},
		{"idle with a part of a header", get, "GET /", " 408 "},
		{"a part of a body", "", post + "x", " 408 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBothWays(t, func(t *testing.T, server, client *tls.Config) {
				l, _ := startLoop(t, nil)
				done := make(chan error)
				timeouts := []time.Duration{sweep / 4, sweep - 1, sweep, 2*sweep - 1, 2 * sweep, 2*sweep + 1, 3 * sweep, 5 * sweep, 20 * sweep}
				for _, d := range timeouts {
					cfg := &eventloop.HTTPServerConfig{TLS: server, ReadHeaderTimeout: d, IdleTimeout: d, ReadTimeout: d}
					// What comes before has ample time to arrive.
					switch {
					case test.send == "GET /":
						cfg.ReadHeaderTimeout = max(d, 2*time.Second)
					case test.first != "" || test.want != "":
						cfg.ReadHeaderTimeout = watchdogTime
					}
					if test.want != "" {
						cfg.IdleTimeout = watchdogTime
					}
					s := serveHTTP(t, l, cfg, hai)
					go func() { done <- timesOut(t, s, client, test.first, test.send, test.want, d) }()
				}
				for range timeouts {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// The largest timeouts are as good as none.
func TestHTTPServerTimeoutsMayBeAsLongAsADuration(t *testing.T) {
	l, _ := startLoop(t, nil)
	const most = time.Duration(math.MaxInt64)
	for _, inline := range []int64{0, 1} { // whole bodies, and streams
		s := serveHTTP(t, l, &eventloop.HTTPServerConfig{
			ReadHeaderTimeout: most, ReadTimeout: most, WriteTimeout: most, IdleTimeout: most, ResponseTimeout: most, MaxInlineBody: inline,
		}, func(r *eventloop.HTTPRequest) {
			r.OnBody(nil, func(err error) {
				if err != nil {
					t.Error(err)
				}
				l.Post(func() { hai(r) })
			})
		})
		c := dialRaw(t, s.Addr())
		for n := range uint64(2) {
			for _, part := range []string{"POST / HT", "TP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nab", "c", "def"} {
				before := l.Stats().HTTPServer.BytesInTotal
				c.send("%s", part)
				if !eventually(func() bool { return l.Stats().HTTPServer.BytesInTotal > before }) {
					t.Fatalf("request %d: the server does not read %q", n, part)
				}
			}
			if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "hai" {
				t.Errorf("request %d: %d %q", n, resp.StatusCode, body)
			}
		}
	}
}

// timesOut opens a connection to s. It sends first, waits for the response if first is not
// empty, sends send, and then nothing. It returns an error unless the server responds with
// want and ends the connection, and not before d has passed.
func timesOut(t testing.TB, s *eventloop.HTTPServer, client *tls.Config, first, send, want string, d time.Duration) error {
	began := time.Now()
	c := dialRaw(t, s.Addr())
	if client != nil {
		tc := tls.Client(c.Conn, client)
		c = newRawClient(t, tc)
		tc.SetDeadline(began.Add(watchdogTime))
		if err := tc.Handshake(); err != nil {
			if time.Since(began) >= d && first == "" && want == "" {
				return nil // the handshake has taken all of the time
			}
			return fmt.Errorf("timeout %v: handshake: %w", d, err)
		}
	}
	if first != "" {
		io.WriteString(c, first)
		began = time.Now()
		if status, err := c.br.ReadString('\n'); err != nil || !strings.Contains(status, " 200 ") {
			return fmt.Errorf("timeout %v: response %q, %w", d, status, err)
		}
	}
	io.WriteString(c, send)
	rest, err := c.rest()
	if err != nil || want != "" && !strings.Contains(rest, want) {
		return fmt.Errorf("timeout %v: it ends with %q, %w after %v", d, rest, err, time.Since(began))
	}
	if passed := time.Since(began); passed < d {
		return fmt.Errorf("timeout %v: it ends after %v", d, passed)
	}
	return nil
}
