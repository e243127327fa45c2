package eventloop_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/onloop/eventloop"
)

// Clients ask, and reset the connection at any moment around that of the response.
// Whichever comes first, everything that belongs to the request ends.
func TestHTTPEverythingOfARequestEndsWhenItsClientResetsAroundTheResponse(t *testing.T) {
	tests := map[string]struct {
		request  string
		within   time.Duration // of the request, the reset
		response func(r *eventloop.HTTPRequest)
	}{
		"a response": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 150 * time.Microsecond, func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, make([]byte, 100))
		}},
		"a stream": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1500 * time.Microsecond, func(r *eventloop.HTTPRequest) {
			w, err := r.RespondStream(200, nil)
			if err != nil {
				return // the client was quicker
			}
			go func() {
				for range 40 {
					w.Write(make([]byte, 64<<10))
					time.Sleep(time.Duration(rand.IntN(20)) * time.Microsecond)
				}
				w.Close()
			}()
		}},
		"an upgrade": {"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n", 150 * time.Microsecond,
			func(r *eventloop.HTTPRequest) { r.Upgrade(nil, nil) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, nil)
			var contexts []context.Context // on the loop
			s := serveHTTP(t, l, &eventloop.HTTPServerConfig{OnEvent: func(*eventloop.HTTPServer, error) {}}, func(r *eventloop.HTTPRequest) {
				contexts = append(contexts, r.Context())
				test.response(r)
			})
			resetAround(t, s.Addr(), test.request, test.within)
			left := func() (open int) {
				onLoop(t, l, func() {
					for _, ctx := range contexts {
						if ctx.Err() == nil {
							open++
						}
					}
				})
				return open
			}
			var open int
			var stats eventloop.Stats
			eventually(func() bool { // and may be false again, if a connection is accepted late
				open, stats = left(), l.Stats()
				return open == 0 && stats.HTTPServer.Conns == 0 && stats.Conns.Incoming == 0 && stats.Conns.Buffered == 0
			})
			wantEqual(t, "contexts that did not end", open, 0)
			wantEqual(t, "HTTP connections", stats.HTTPServer.Conns, 0)
			wantEqual(t, "connections after an upgrade", stats.Conns.Incoming, 0)
			wantEqual(t, "bytes pending", stats.Conns.Buffered, 0)
		})
	}
}

// resetAround sends request on many connections and resets each after a random
// time.
func resetAround(t *testing.T, addr net.Addr, request string, within time.Duration) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				c, err := net.Dial("tcp", addr.String())
				if err != nil {
					t.Error(err)
					return
				}
				c.(*net.TCPConn).SetLinger(0)
				io.WriteString(c, request)
				for began, d := time.Now(), rand.N(within); time.Since(began) < d; {
					runtime.Gosched() // sleeping is not that exact
				}
				c.Close()
			}
		})
	}
	wg.Wait()
}

func TestHTTPIdleConnectionHoldsNoRequest(t *testing.T) {
	l, _ := startLoop(t, nil)
	for _, size := range []int{10, 1 << 20} {
		t.Run(fmt.Sprint("body of ", size), func(t *testing.T) {
			last := make(chan weak.Pointer[eventloop.HTTPRequest], 1)
			s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) {
				last <- weak.Make(r)
				hai(r)
			})
			c := dialRaw(t, s.Addr())
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, bytes.Repeat([]byte("x"), size))
			if resp, _ := c.response("POST"); resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status)
			}
			r := <-last
			released := eventually(func() bool {
				runtime.GC()
				return r.Value() == nil
			})
			wantEqual(t, "released", released, true)
		})
	}
}
