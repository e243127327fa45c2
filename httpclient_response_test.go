package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestHTTPOnResponseComesOnceWithTheHeadBeforeTheBody(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
	for name, test := range map[string]struct {
		method, response string
		body             string
		opts             eventloop.HTTPOptions
	}{
		"whole body":         {"GET", chunked, "abc", eventloop.HTTPOptions{}},
		"after an interim":   {"GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + chunked, "abc", eventloop.HTTPOptions{}},
		"status 500":         {"GET", "HTTP/1.1 500 No\r\nX: y\r\nContent-Length: 1\r\n\r\nz", "z", eventloop.HTTPOptions{}},
		"empty body":         {"GET", "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n", "", eventloop.HTTPOptions{}},
		"HEAD":               {"HEAD", "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 9\r\n\r\n", "", eventloop.HTTPOptions{}},
		"redirect":           {"GET", "HTTP/1.1 302 Found\r\nX: y\r\nLocation: /\r\nContent-Length: 1\r\n\r\nr", "r", eventloop.HTTPOptions{}},
		"no place to go":     {"GET", "HTTP/1.1 302 Found\r\nX: y\r\nContent-Length: 1\r\n\r\nr", "r", eventloop.HTTPOptions{MaxRedirects: 3}},
		"body that is coded": {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nX: y\r\nContent-Encoding: gzip\r\n\r\n%s", gzipped("abc")), "abc", eventloop.HTTPOptions{Decompress: true}},
	} {
		for _, pieces := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, OnBody %v", name, pieces), func(t *testing.T) {
				p := newHTTPPeer(t, func(c net.Conn) {
					readHTTPHead(bufio.NewReader(c))
					io.WriteString(c, test.response)
				})
				var got string
				var head *eventloop.HTTPResponse
				opts := test.opts
				opts.OnResponse = func(res *eventloop.HTTPResponse) {
					if head != nil || got != "" || res.Body != nil || res.Header("X") != "y" || res.Status == 0 || len(res.Trailers) > 0 {
						t.Errorf("OnResponse(%+v) after %+v, %q", res, head, got)
					}
					head = res
				}
				if pieces {
					opts.OnBody = func(res *eventloop.HTTPResponse, data []byte) {
						if head != res {
							t.Error("OnBody before OnResponse")
						}
						got += string(data)
					}
				}
				res, err := doHTTP(t, eventloop.HTTPClientConfig{}, test.method, "http://"+p.addr, &opts)
				if !pieces && err == nil {
					got = string(res.Body)
				}
				if err != nil || res != head || got != test.body {
					t.Errorf("%+v, %v, OnResponse had %+v, body %q", res, err, head, got)
				}
			})
		}
	}
}

func TestHTTPOnResponseIsNotCalledForARedirectThatIsFollowed(t *testing.T) {
	p := newHTTPPeer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for i := range 3 {
			if readHTTPHead(br) == "" {
				return
			}
			if i < 2 {
				io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")
			} else {
				io.WriteString(c, httpOK)
			}
		}
	})
	for _, max := range []int{1, 2} {
		calls := 0
		res, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
			MaxRedirects: max,
			OnResponse: func(res *eventloop.HTTPResponse) {
				calls++
				wantEqual(t, "status", res.Status, 200)
				wantEqual(t, "redirects", res.Redirects, 2)
			},
		})
		if max == 1 {
			if calls != 0 || !errors.Is(err, eventloop.ErrHTTPRedirects) {
				t.Errorf("one redirect: %d calls, %+v, %v", calls, res, err)
			}
		} else if calls != 1 || err != nil {
			t.Errorf("two redirects: %d calls, %+v, %v", calls, res, err)
		}
	}
}

// The first request on a kept connection that the server has ended is sent again.
func TestHTTPOnResponseIsCalledOnceForARequestThatIsSentTwice(t *testing.T) {
	var mu sync.Mutex
	conns := 0
	p := newHTTPPeer(t, func(c net.Conn) {
		mu.Lock()
		conns++
		first := conns == 1
		mu.Unlock()
		br := bufio.NewReader(c)
		readHTTPHead(br)
		io.WriteString(c, httpOK)
		if readHTTPHead(br); !first {
			io.WriteString(c, httpOK)
		}
	})
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(task *eventloop.Task) error {
			for i := range 2 {
				_, err := l.HTTP().Do(task.Context(), "GET", "http://"+p.addr, &eventloop.HTTPOptions{
					OnResponse: func(*eventloop.HTTPResponse) { calls++ },
				}).Await(task)
				if err != nil || calls != i+1 {
					t.Errorf("request %d: %v, %d calls", i, err, calls)
				}
			}
			return nil
		})
	})
	wantEqual(t, "connections", conns, 2)
}

func TestHTTPOnResponseIsNotCalledForARequestWithoutAResponse(t *testing.T) {
	for name, response := range map[string]string{
		"none":      "",
		"half":      "HTTP/1.1 200 OK\r\nX:",
		"malformed": "HTTP/1.1 200 OK\r\nX\r\n\r\n",
	} {
		p := newHTTPPeer(t, func(c net.Conn) {
			readHTTPHead(bufio.NewReader(c))
			io.WriteString(c, response)
		})
		_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
			OnResponse: func(res *eventloop.HTTPResponse) { t.Errorf("%s: OnResponse(%+v)", name, res) },
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHTTPRequestMayFailAfterOnResponse(t *testing.T) {
	p := newHTTPPeer(t, func(c net.Conn) {
		readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
	})
	calls := 0
	_, err := doHTTP(t, eventloop.HTTPClientConfig{}, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
		OnResponse: func(res *eventloop.HTTPResponse) { calls++ },
	})
	if calls != 1 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// A response without an end: what comes of it is decided by its head.
func TestHTTPCancelInOnResponseEndsTheRequest(t *testing.T) {
	p := newHTTPPeer(t, hangAfter("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nab"))
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(context.Background())
		l.HTTP().Do(ctx, "GET", "http://"+p.addr, &eventloop.HTTPOptions{
			OnResponse: func(res *eventloop.HTTPResponse) { cancel() },
			OnBody:     func(*eventloop.HTTPResponse, []byte) { t.Error("OnBody after the end of ctx") },
		}).Then(func(_ *eventloop.HTTPResponse, err error) {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	})
}

func TestHTTPPauseInOnResponseDelaysTheBody(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		paused := false
		l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, &eventloop.HTTPOptions{
			OnResponse: func(res *eventloop.HTTPResponse) {
				paused = true
				res.PauseReading()
				l.AfterFunc(20*time.Millisecond, func() {
					paused = false
					res.ResumeReading()
				})
			},
			OnBody: func(*eventloop.HTTPResponse, []byte) {
				if paused {
					t.Error("OnBody while reading is paused")
				}
			},
		}).Then(func(_ *eventloop.HTTPResponse, err error) {
			if err != nil || paused {
				t.Errorf("%v, paused %v", err, paused)
			}
		})
	})
}

func TestHTTPPanicInOnResponse(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	opts := &eventloop.HTTPOptions{OnResponse: func(*eventloop.HTTPResponse) { panic("head") }}
	runHTTPLoop(t, &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) {
		l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, opts).Then(func(res *eventloop.HTTPResponse, err error) {
			if pe := new(eventloop.PanicError); !errors.As(err, &pe) || pe.Value != "head" {
				t.Errorf("caught: %v, %v", res, err)
			}
		})
	})
	defer func() {
		if pe, ok := recover().(*eventloop.PanicError); !ok || pe.Value != "head" {
			t.Errorf("Run panicked with %v", pe)
		}
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, opts)
		return nil
	})
}

// The server is silent for a second at a time, but what the application makes of a
// piece takes longer than a server may be silent.
func TestHTTPInactivityTimeoutDoesNotCountTheTimeOfTheApplication(t *testing.T) {
	for _, how := range []string{"paused in OnResponse", "paused in OnBody"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pieces := make(chan struct{})
				p, dial := newHTTPPipe(func(c net.Conn) {
					readHTTPHead(bufio.NewReader(c))
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
					for range 2 {
						<-pieces
						time.Sleep(time.Second)
						io.WriteString(c, "x")
					}
				})
				cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial, InactivityTimeout: 2 * time.Second}}
				runHTTPLoop(t, cfg, func(l *eventloop.Loop) {
					n := 0
					pause := func(res *eventloop.HTTPResponse) {
						res.PauseReading()
						l.AfterFunc(time.Minute, func() {
							res.ResumeReading()
							pieces <- struct{}{}
						})
					}
					l.HTTP().Do(context.Background(), "GET", "http://h", &eventloop.HTTPOptions{
						OnResponse: func(res *eventloop.HTTPResponse) {
							if how == "paused in OnResponse" {
								pause(res)
							} else {
								go func() { pieces <- struct{}{} }()
							}
						},
						OnBody: func(res *eventloop.HTTPResponse, data []byte) {
							if n += len(data); n == 1 {
								pause(res)
							}
						},
					}).Then(func(_ *eventloop.HTTPResponse, err error) {
						if err != nil || n != 2 {
							t.Errorf("%d bytes, %v", n, err)
						}
					})
				})
				p.stop()
			})
		})
	}
}
