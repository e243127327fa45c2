package eventloop_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/goid"
)

// The laws where HTTP, and what it shares with connections, could break them.

func TestLaw2NoCallOfTheHTTPClientRunsUserCode(t *testing.T) {
	p := newHTTPPeer(t, answerAll(httpOK))
	for name, proxy := range map[string]func(u *url.URL) (*url.URL, error){"no proxy": eventloop.NoProxy, "a Proxy": nil} {
		t.Run(name, func(t *testing.T) {
			var dispatcher uint64
			inCall, calls, asked := false, 0, atomic.Int32{}
			if proxy == nil {
				proxy = func(*url.URL) (*url.URL, error) {
					asked.Add(1)
					if uint64(goid.Current()) == dispatcher {
						t.Error("Proxy was called on the loop")
					}
					return nil, nil
				}
			}
			cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: proxy}}
			mustRun(t, cfg, func(l *eventloop.Loop) {
				dispatcher = uint64(goid.Current())
				callback := func() {
					calls++
					if inCall {
						t.Error("a callback ran inside Do")
					}
				}
				left := 5 // the first connects, the others find its connection
				var next func()
				next = func() {
					if left--; left < 0 {
						return
					}
					inCall = true
					l.HTTP().Do(context.Background(), "GET", "http://"+p.addr, &eventloop.HTTPOptions{
						OnBody: func(*eventloop.HTTPResponse, []byte) { callback() },
					}).Then(func(_ *eventloop.HTTPResponse, err error) {
						if err != nil {
							t.Error(err)
						}
						callback()
						next()
					})
					inCall = false
				}
				next()
			})
			wantEqual(t, "callbacks", calls, 10)
			if name != "no proxy" {
				wantEqual(t, "calls of Proxy", asked.Load(), 5)
			}
		})
	}
}

// A server and a client on one loop, with connections in every state: one that is
// idle, one whose request waits for its answer, one whose answer is a stream, one
// that is kept by the client.
func TestLaw6NothingOfHTTPIsLeftWhenRunReturns(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop, s *eventloop.HTTPServer, cancel context.CancelFunc){
		"Stop":     func(l *eventloop.Loop, _ *eventloop.HTTPServer, _ context.CancelFunc) { l.Stop() },
		"context":  func(_ *eventloop.Loop, _ *eventloop.HTTPServer, cancel context.CancelFunc) { cancel() },
		"deadline": func(l *eventloop.Loop, _ *eventloop.HTTPServer, _ context.CancelFunc) { l.Shutdown(0) },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var futures []*eventloop.Future[*eventloop.HTTPResponse]
			cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}}
			eventloop.Run(ctx, logged(t, cfg), func(l *eventloop.Loop) error {
				watch(t, l)
				var s *eventloop.HTTPServer
				var err error
				waiting := 0
				s, err = l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
					switch r.Path() {
					case "/waits":
						waiting++
					case "/streams":
						w, err := r.RespondStream(200, nil)
						if err != nil {
							t.Error(err)
							return
						}
						w.Write([]byte("some"))
						waiting++
					default:
						hai(r)
					}
					if waiting == 2 {
						l.Post(func() { end(l, s, cancel) })
					}
				}, nil)
				if err != nil {
					return err
				}
				get := func(path string) *eventloop.Future[*eventloop.HTTPResponse] {
					f := l.HTTP().Get(context.Background(), "http://"+s.Addr().String()+path)
					futures = append(futures, f)
					f.Then(nil)
					return f
				}
				eventloop.All(l, get("/"), get("/"), get("/")).Then(func([]*eventloop.HTTPResponse, error) {
					get("/waits")
					get("/streams")
				})
				return nil
			})
			for i, f := range futures {
				if _, err := f.Result(); err == eventloop.ErrPending {
					t.Errorf("request %d did not end", i)
				}
			}
			wantEqual(t, "requests", len(futures), 5)
		})
	}
}

// What is due when the connection is closed - data, the end, word of output - is
// queued already: the loop was in a callback meanwhile.
func TestLaw8AfterCloseOrAbortOfAConnectionHasReturnedNoCallbackRunsButOnClose(t *testing.T) {
	for name, finish := range map[string]func(c *eventloop.Conn){
		"Close": func(c *eventloop.Conn) { c.Close() },
		"Abort": func(c *eventloop.Conn) { c.Abort() },
	} {
		for event, cause := range map[string]func(c *eventloop.Conn, peer net.Conn){
			"data":   func(_ *eventloop.Conn, peer net.Conn) { io.WriteString(peer, "data") },
			"EOF":    func(_ *eventloop.Conn, peer net.Conn) { peer.Close() },
			"output": func(c *eventloop.Conn, peer net.Conn) { io.CopyN(io.Discard, peer, 4) },
		} {
			t.Run(name+", "+event, func(t *testing.T) {
				inBubble(t, func(t *testing.T, l *eventloop.Loop) {
					closed, after := 0, 0
					done := false
					callback := func() {
						if done {
							after++
						}
					}
					c, peer := adoptPipe(t, l, &eventloop.ConnConfig{
						OnData:  func(*eventloop.Conn, []byte) { callback() },
						OnEvent: func(*eventloop.Conn, error) { callback() },
						OnDrain: func(*eventloop.Conn) { callback() },
						OnClose: func(*eventloop.Conn) { closed++ },
					})
					defer peer.Close()
					if event == "output" {
						c.WriteString("some")
					}
					synctest.Wait()
					ended := make(chan struct{})
					l.Post(func() {
						go cause(c, peer)
						time.Sleep(time.Millisecond) // everything that happens has happened
						finish(c)
						done = true
						l.AfterFunc(time.Minute, func() { close(ended) })
					})
					<-ended
					wantEqual(t, "callbacks afterwards", after, 0)
					wantEqual(t, "OnClose", closed, 1)
				})
			})
		}
	}
}

func TestLaw8AfterTheResponseToAnHTTPRequestNoCallbackOfItRuns(t *testing.T) {
	l, _ := startLoop(t, nil)
	after := make(chan string, 8)
	answered := make(chan struct{})
	s := serveHTTP(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1}, func(r *eventloop.HTTPRequest) {
		done := false
		note := func(what string) {
			if done {
				after <- what
			}
		}
		r.OnAbort(func(error) { note("OnAbort") })
		r.OnBody(func([]byte) { note("onData") }, func(error) { note("onEnd") })
		l.Post(func() {
			time.Sleep(5 * time.Millisecond) // a piece of the body waits for its turn
			r.Respond(200, nil, nil)
			done = true
			close(answered)
		})
	})
	c := dialRaw(t, s.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome")
	c.send("%s", bytesOf(1000))
	wait(t, answered, "answer")
	c.Close()
	s.Close()
	eventually(func() bool { return l.Stats().HTTPServer.Conns == 0 })
	onLoop(t, l, func() {}) // what was on its way to the loop has come
	wantEqual(t, "Stats.Buffered", l.Stats().Conns.Buffered, 0)
	if len(after) > 0 {
		t.Errorf("%s ran after the answer", <-after)
	}
}

func TestLaw13EveryMethodOfHTTPMayBeCalledFromAnyGoroutine(t *testing.T) {
	// For the race detector, and for what hangs.
	l, end := startLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy}})
	var mu sync.Mutex
	var requests []*eventloop.HTTPRequest
	var writers []*eventloop.HTTPResponseWriter
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
		w, err := r.RespondStream(200, nil)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		requests, writers = append(requests, r), append(writers, w)
	})
	url := "http://" + s.Addr().String()
	var responses []*eventloop.HTTPResponse
	got := make(chan struct{}, 4)
	for range 4 {
		var once sync.Once
		l.HTTP().Do(context.Background(), "POST", url, &eventloop.HTTPOptions{Body: []byte("body"), OnBody: func(res *eventloop.HTTPResponse, _ []byte) {
			once.Do(func() {
				responses = append(responses, res)
				got <- struct{}{}
			})
		}}).Then(nil)
	}
	arrived := func() bool { mu.Lock(); defer mu.Unlock(); return len(writers) == 4 }
	if !eventually(arrived) {
		t.Fatal("the requests did not arrive")
	}
	for i := range writers {
		writers[i].Write([]byte("first"))
	}
	for range 4 {
		wait(t, got, "piece of an answer")
	}
	var methods []func()
	for i := range 4 {
		r, w, res := requests[i], writers[i], responses[i]
		methods = append(methods,
			func() {
				r.Method()
				r.URI()
				r.Path()
				r.Query()
				r.Headers()
				r.Header("Host")
				r.Body()
			},
			func() { _, _, _ = r.RemoteAddr(), r.TLS(), r.Loop() },
			func() { r.Context(); _ = r.String(); r.FastHTTP(); r.HasBodyStream() },
			func() { r.HTTP(); r.PathValue("x"); r.QueryValues(); r.FormValues() },
			func() {
				if err := r.RespondText(200, ""); err != eventloop.ErrHTTPResponded {
					t.Errorf("RespondText = %v, want ErrHTTPResponded", err)
				}
				if err := r.RespondJSON(200, ""); err != eventloop.ErrHTTPResponded {
					t.Errorf("RespondJSON = %v, want ErrHTTPResponded", err)
				}
			},
			func() { r.OnAbort(func(error) {}) },
			func() { r.PauseReading(); r.ResumeReading() },
			func() {
				if err := r.Respond(200, nil, nil); err != eventloop.ErrHTTPResponded {
					t.Errorf("Respond = %v, want ErrHTTPResponded", err)
				}
			},
			func() { w.Write([]byte("more")); w.Flush(); w.Buffered(); w.NeedDrain(); w.OnDrain(func() {}) },
			func() { res.PauseReading(); res.ResumeReading(); res.Header("Date") },
		)
	}
	methods = append(methods,
		func() { s.Addr(); s.Ref(); s.Unref(); s.Ref() },
		func() { l.HTTP().CloseIdle() },
		func() { l.Stats(); handleNames(l) },
	)
	var wg sync.WaitGroup
	for _, method := range methods {
		for range 2 {
			wg.Go(func() {
				for range 20 {
					method()
				}
			})
		}
		l.Post(method)
	}
	wg.Wait()
	for _, w := range writers {
		wg.Go(func() { w.Close(); w.Abort() })
	}
	wg.Go(func() { s.Close() })
	wg.Go(func() { s.Shutdown(-1) })
	wg.Wait()
	if err := end(); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}
