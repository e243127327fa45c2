package looptest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// website is an HTTP server with requests of every kind: answered at once, by a timer,
// by Work, by a task, by a handler of net/http, with a body that streams in or out. Its clients are scripted.
func website(clients int) func(t *testing.T, l *eventloop.Loop) error {
	return func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 3*time.Millisecond)
		n.Split(40)
		ln, err := n.Listen("web:80")
		if err != nil {
			return err
		}
		visits := 0
		handler := func(r *eventloop.HTTPRequest) {
			visits++
			switch r.Path() {
			case "/now":
				r.RespondText(200, "now")
			case "/later":
				l.AfterFunc(time.Millisecond, func() { r.RespondText(200, "later") })
			case "/task":
				l.Go(r.Context(), func(t *eventloop.Task) error {
					if err := t.Sleep(time.Millisecond); err != nil {
						return err
					}
					return r.RespondText(200, "task")
				})
			case "/mux":
				r.ServeHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					eventloop.Call(req.Context(), l, func() (int, error) { visits++; return 0, nil })
					io.Copy(w, req.Body)
				}))
			case "/body":
				size := 0
				r.OnBody(func(p []byte) { size += len(p) }, func(err error) {
					if err != nil {
						t.Error(err)
					}
					r.RespondText(200, strconv.Itoa(size))
				})
			}
		}
		s, err := l.ServeHTTP(ln, handler, &eventloop.HTTPServerConfig{MaxInlineBody: 1})
		if err != nil {
			return err
		}
		for i := range clients {
			n.ScriptClient(fmt.Sprintf("client%d", i), "web:80",
				looptest.Request("GET", "/now", ""),
				looptest.ExpectResponse(200, "now"),
				looptest.Request("GET", "/later", ""), // two in a pipeline
				looptest.Request("GET", "/task", ""),
				looptest.ExpectResponse(200, "later"),
				looptest.ExpectResponse(200, "task"),
				looptest.Delay(time.Millisecond),
				looptest.Request("POST", "/body", fmt.Sprintf("%0100d", i)),
				looptest.ExpectResponse(200, "100"),
				looptest.Request("POST", "/mux", fmt.Sprintf("%020d", i)),
				looptest.ExpectResponse(200, fmt.Sprintf("%020d", i)),
			)
		}
		l.AfterFunc(time.Second, func() {
			if visits != 6*clients {
				t.Errorf("%d visits", visits)
			}
			s.Close()
		})
		return nil
	}
}

func TestASeedHasOneOrderWithAnHTTPServer(t *testing.T) { repeats(t, website(5)) }

func TestAnHTTPServerRespondsInEveryOrder(t *testing.T) { looptest.Seeds(t, orders, website(4)) }

// browser has requests of every kind to two scripted servers, over as few connections
// as MaxConnsPerHost allows: some wait, some are given a kept connection, and some find
// that it has ended.
func browser(requests int) func(t *testing.T, l *eventloop.Loop) error {
	return func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 3*time.Millisecond)
		n.Split(60)
		for _, address := range []string{"a:80", "b:80"} {
			if err := n.Script(address, looptest.Repeat(answer)); err != nil {
				return err
			}
		}
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			Dial: n.Dialer("client"), MaxConnsPerHost: 2, IdleTimeout: 5 * time.Millisecond, Proxy: eventloop.NoProxy,
		})
		left := 2 * requests
		done := func(want string) func(*eventloop.HTTPResponse, error) {
			return func(r *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Error(err)
				} else if got := r.Header("X-Path"); got != want {
					t.Errorf("got the response for %q, want %q", got, want)
				}
				if left--; left == 0 {
					client.CloseIdle()
				}
			}
		}
		for i := range requests {
			path := fmt.Sprintf("/%d", i)
			client.Get(t.Context(), "http://a:80"+path).Then(done(path))
			l.AfterFunc(time.Duration(i)*time.Millisecond, func() {
				client.Do(t.Context(), "POST", "http://b:80"+path, &eventloop.HTTPOptions{
					Body:   []byte(path),
					OnBody: func(*eventloop.HTTPResponse, []byte) {},
				}).Then(done(path))
			})
		}
		return nil
	}
}

// answer answers one request after a while, with its target in the header and a body.
func answer(c net.Conn, in *bufio.Reader) error {
	r, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	time.Sleep(time.Millisecond)
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Path: %s\r\nContent-Length: 100\r\n\r\n%0100d", r.RequestURI, 0)
	return err
}

func TestASeedHasOneOrderWithAnHTTPClient(t *testing.T) { repeats(t, browser(8)) }

func TestAnHTTPClientGetsItsResponsesInEveryOrder(t *testing.T) {
	looptest.Seeds(t, orders, browser(6))
}

// Requests that end together: by a context, by their timeouts, or while they wait for a
// connection.
func TestRequestsThatEndTogetherAreOrderedByTheSeed(t *testing.T) {
	repeats(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		if err := n.Script("slow:80", looptest.Expect("* * HTTP/1.1"), looptest.Delay(time.Hour)); err != nil {
			return err
		}
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			Dial: n.Dialer("client"), MaxConnsPerHost: 3, Proxy: eventloop.NoProxy,
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		l.OnExit(cancel)
		for i := range 6 {
			client.Get(ctx, fmt.Sprintf("http://slow:80/%d", i)).Then(func(*eventloop.HTTPResponse, error) {})
			client.Do(t.Context(), "GET", fmt.Sprintf("http://slow:80/%d", i), &eventloop.HTTPOptions{Timeout: 2 * time.Second}).
				Then(func(*eventloop.HTTPResponse, error) {})
		}
		return nil
	})
}
