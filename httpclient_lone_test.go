package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// lonePeer is a server that answers each request as the test says.
type lonePeer struct {
	*httpPeer
	got      chan struct{} // a request has arrived
	response chan string   // the bytes to send then
}

func newLonePeer(t *testing.T) *lonePeer {
	p := &lonePeer{got: make(chan struct{}, 1), response: make(chan string, 1)}
	stop := make(chan struct{})
	p.httpPeer = newHTTPPeer(t, func(c net.Conn) {
		for br := bufio.NewReader(c); ; {
			if readHTTPHead(br) == "" {
				return
			}
			p.got <- struct{}{}
			select {
			case a := <-p.response:
				io.WriteString(c, a)
				if !strings.HasSuffix(a, "ok") {
					return
				}
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() { close(stop) })
	return p
}

const loneResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// kept calls next on the loop after a request whose connection is kept.
func (p *lonePeer) kept(t *testing.T, l *eventloop.Loop, next func()) {
	p.response <- loneResponse
	l.HTTP().Get(bg, "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
		<-p.got
		if err != nil || string(res.Body) != "ok" {
			t.Error(res, err)
		}
		next()
	})
}

// While a request waits for its response, the loop does everything else, and then the
// request gets its response.
func TestHTTPLoneRequestHoldsNothingUp(t *testing.T) {
	for name, disturb := range map[string]func(t *testing.T, l *eventloop.Loop, done func()){
		"a post": func(t *testing.T, l *eventloop.Loop, done func()) { go l.Post(done) },
		"a timer": func(t *testing.T, l *eventloop.Loop, done func()) {
			began := time.Now()
			l.AfterFunc(20*time.Millisecond, func() {
				if d := time.Since(began); d < 20*time.Millisecond {
					t.Errorf("the timer fired after %v", d)
				}
				done()
			})
		},
		"a timer at once": func(t *testing.T, l *eventloop.Loop, done func()) { l.AfterFunc(0, done) },
		"work": func(t *testing.T, l *eventloop.Loop, done func()) {
			eventloop.Work(bg, l, func(context.Context) (int, error) { return 1, nil }).Then(func(int, error) { done() })
		},
		"a channel": func(t *testing.T, l *eventloop.Loop, done func()) {
			c := make(chan int, 1)
			eventloop.Receive(l, c, func(int, bool) { done() })
			go func() { time.Sleep(10 * time.Millisecond); c <- 1; close(c) }()
		},
		"a task": func(t *testing.T, l *eventloop.Loop, done func()) {
			l.Go(bg, func(k *eventloop.Task) error { defer done(); return k.Sleep(10 * time.Millisecond) })
		},
		"a name": func(t *testing.T, l *eventloop.Loop, done func()) {
			l.LookupNetIP(bg, "ip", "localhost").Then(func(_ []netip.Addr, err error) { done() })
		},
		"another request": func(t *testing.T, l *eventloop.Loop, done func()) {
			other := newHTTPPeer(t, answerAll(loneResponse))
			l.HTTP().Get(bg, "http://"+other.addr).Then(func(*eventloop.HTTPResponse, error) { done() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := newLonePeer(t)
			answered := false
			runHTTPLoop(t, nil, func(l *eventloop.Loop) {
				p.kept(t, l, func() {
					l.HTTP().Get(bg, "http://"+p.addr).Then(func(res *eventloop.HTTPResponse, err error) {
						answered = true
						if err != nil || string(res.Body) != "ok" {
							t.Error(res, err)
						}
					})
					var times atomic.Int32
					disturb(t, l, func() {
						if times.Add(1) == 1 {
							if answered {
								t.Error("it came after the response")
							}
							p.response <- loneResponse
						}
					})
				})
			})
			if !answered {
				t.Error("no response")
			}
		})
	}
}

// A loop that never sleeps never waits for the response, but gets it.
func TestHTTPLoneRequestCompletesThoughTheLoopNeverSleeps(t *testing.T) {
	p := newLonePeer(t)
	answered := false
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		var again func()
		again = func() {
			if !answered {
				l.Post(again)
			}
		}
		p.kept(t, l, func() {
			p.response <- loneResponse
			l.HTTP().Get(bg, "http://"+p.addr).Then(func(_ *eventloop.HTTPResponse, err error) {
				answered = true
				if err != nil {
					t.Error(err)
				}
			})
			again()
		})
	})
}

// A slow callback does not make a timeout of a response that arrived in time.
func TestHTTPLoneRequestIsNotLateBecauseTheLoopIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(answerAll(loneResponse))
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
			l.HTTP().Get(bg, "http://h").Then(func(_ *eventloop.HTTPResponse, err error) {
				wantEqual(t, "error of the first request", err, nil)
				l.HTTP().Do(bg, "GET", "http://h", &eventloop.HTTPOptions{Timeout: time.Second}).Then(func(res *eventloop.HTTPResponse, err error) {
					if err != nil || !res.Reused {
						t.Errorf("%+v, %v", res, err)
					}
				})
				l.Post(func() { time.Sleep(2 * time.Second) }) // when it is sent; the response arrives meanwhile
			})
		})
		p.stop()
	})
}

// However a lone request ends without a response, it ends at once and only once.
func TestLaw6NothingOfALoneHTTPRequestIsLeftHoweverItEnds(t *testing.T) {
	cause := errors.New("enough")
	for _, test := range []struct {
		name string
		end  func(l *eventloop.Loop, p *lonePeer, cancel func())
		opts eventloop.HTTPOptions
		want error // nil: no result, the loop was stopped
	}{
		{"by its context", func(_ *eventloop.Loop, _ *lonePeer, cancel func()) { cancel() }, eventloop.HTTPOptions{}, cause},
		{"by its timeout", func(*eventloop.Loop, *lonePeer, func()) {}, eventloop.HTTPOptions{Timeout: 30 * time.Millisecond}, eventloop.ErrTimeout},
		{"by the server", func(_ *eventloop.Loop, p *lonePeer, _ func()) { p.stop() }, eventloop.HTTPOptions{}, eventloop.ErrRefused}, // the second time
		{"by a part of a response", func(_ *eventloop.Loop, p *lonePeer, _ func()) { p.response <- loneResponse[:20] }, eventloop.HTTPOptions{}, io.ErrUnexpectedEOF},
		{"by no response", func(_ *eventloop.Loop, p *lonePeer, _ func()) { p.response <- "SSH-2.0-no\r\n" }, eventloop.HTTPOptions{}, eventloop.ErrHTTPMalformed},
		{"by Stop", func(l *eventloop.Loop, _ *lonePeer, _ func()) { l.Stop() }, eventloop.HTTPOptions{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			p := newLonePeer(t)
			results := 0
			runHTTPLoop(t, nil, func(l *eventloop.Loop) {
				p.kept(t, l, func() {
					ctx, cancel := context.WithCancelCause(bg)
					ended := make(chan struct{})
					l.OnExit(func() { cancel(nil); close(ended) })
					l.HTTP().Do(ctx, "GET", "http://"+p.addr, &test.opts).Then(func(res *eventloop.HTTPResponse, err error) {
						results++
						if test.want == nil || !errors.Is(err, test.want) || !errors.Is(err, eventloop.ErrHTTP) {
							t.Errorf("result %v, %v, want %v", res, err, test.want)
						}
					})
					go func() {
						select {
						case <-p.got:
							test.end(l, p, func() { cancel(cause) })
						case <-ended: // a timeout may be over before the request is sent
						}
					}()
				})
			})
			want := 1
			if test.want == nil {
				want = 0
			}
			if results != want {
				t.Errorf("results = %d, want %d", results, want)
			}
		})
	}
}

// A request is sent after a few callbacks, however many there are in the turn.
func TestHTTPLoneRequestIsSentBeforeALongTurnEnds(t *testing.T) {
	p := newLonePeer(t)
	posts := 0
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		p.kept(t, l, func() {
			l.Post(func() {
				l.HTTP().Do(bg, "GET", "http://"+p.addr, &eventloop.HTTPOptions{Timeout: 2 * watchdogTime}).Then(func(_ *eventloop.HTTPResponse, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			})
			for range 100 {
				l.Post(func() {
					if posts++; posts == 50 {
						select {
						case <-p.got:
						case <-time.After(watchdogTime):
							t.Error("the request is not sent")
						}
						p.response <- loneResponse
					}
				})
			}
		})
	})
	if posts != 100 {
		t.Errorf("posts = %d, want 100", posts)
	}
}

func TestHTTPProxyMayChangeTheURLThatItGets(t *testing.T) {
	p := newHTTPPeer(t, answerAll(loneResponse))
	asked := 0
	cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: func(u *url.URL) (*url.URL, error) {
		asked++
		if u.Host != p.addr || u.Path != "/a" {
			t.Errorf("Proxy is asked about %v", u)
		}
		u.Host, u.Path, u.Scheme = "elsewhere.invalid", "/b", "ftp"
		return nil, nil
	}}}
	runHTTPLoop(t, cfg, func(l *eventloop.Loop) {
		get := func() *eventloop.Future[*eventloop.HTTPResponse] { return l.HTTP().Get(bg, "http://"+p.addr+"/a") }
		get().Then(func(res *eventloop.HTTPResponse, err error) {
			if err != nil || res.URL != "http://"+p.addr+"/a" {
				t.Error(res, err)
			}
			get().Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		})
	})
	if asked != 2 {
		t.Errorf("Proxy was asked %d times, want 2", asked)
	}
}

// A post that was missed would wait for the response, which waits for the post.
func TestLaw4EveryPostRunsWhileALoneHTTPRequestWaits(t *testing.T) {
	const rounds = 30
	checkLeaks(t)
	p := newLonePeer(t)
	posts, left := 0, rounds
	runHTTPLoop(t, nil, func(l *eventloop.Loop) {
		var round func()
		round = func() {
			if left--; left < 0 {
				return
			}
			l.HTTP().Get(bg, "http://"+p.addr).Then(func(_ *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Error(err)
				}
				round()
			})
			go func() {
				<-p.got
				if err := l.Post(func() { posts++; p.response <- loneResponse }); err != nil {
					t.Error(err)
				}
			}()
		}
		p.kept(t, l, round)
	})
	if posts != rounds {
		t.Errorf("posts = %d, want %d", posts, rounds)
	}
}
