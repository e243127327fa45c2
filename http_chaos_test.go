package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A hostileServer answers a request in one of many ways, most of them wrong. What it
// says to a request begins with the path of that, so that a response to another one, or
// to none, is recognized.
type hostileServer struct{ net.Conn }

// cut writes p in pieces.
func (c hostileServer) cut(p string) {
	for len(p) > 0 {
		n := min(len(p), 1+rand.IntN(2000))
		if _, err := io.WriteString(c, p[:n]); err != nil {
			return
		}
		p = p[n:]
	}
}

// response returns a right response to a request for path.
func (hostileServer) response(path string) string {
	body := path + ";" + strings.Repeat("x", rand.IntN(9000))
	if rand.IntN(2) == 0 {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}

func (c hostileServer) serve() {
	for br := bufio.NewReader(c); ; {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		way := rand.IntN(14)
		if way != 0 { // early otherwise
			io.Copy(io.Discard, req.Body)
		}
		response := c.response(req.URL.Path)
		switch way {
		case 0, 1, 2, 3, 4:
			c.cut(response)
		case 5:
			io.WriteString(c, response+c.response("/evil")) // at once, or it is a race
			io.Copy(io.Discard, br)
			return
		case 6:
			c.cut("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + response)
		case 7:
			c.cut(response[:rand.IntN(len(response))])
			return
		case 8:
			c.cut(response[:rand.IntN(len(response))])
			if t, ok := c.Conn.(*net.TCPConn); ok {
				t.SetLinger(0)
			}
			return
		case 9:
			c.cut("HTTP/9 what?\r\n\r\n" + response)
		case 10:
			io.Copy(io.Discard, br) // says nothing
			return
		case 11:
			c.cut(strings.Replace(response, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			return
		case 12:
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			c.cut(response)
		case 13:
			return
		}
	}
}

// Requests of every kind are sent to a server that does everything wrong, and are
// canceled at any time. Each ends once, with its own response or an error, and nothing
// is left.
func TestHTTPClientSurvivesAHostileServer(t *testing.T) {
	plain := func(s func(net.Conn)) func(net.Conn) { return s }
	secure := func(s func(net.Conn)) func(net.Conn) { return withTLS(httpServerTLS(), s) }
	for name, kind := range map[string]struct {
		scheme string
		dial   func(ctx context.Context, network, address string) (net.Conn, error)
		wrap   func(s func(net.Conn)) func(net.Conn)
	}{
		"plaintext": {"http", nil, plain},
		"TLS":       {"https", nil, secure},
		"wrapped":   {"http", dialHidden, plain},
	} {
		t.Run(name, func(t *testing.T) {
			for until := time.Now().Add(chaosTime(t) / 3); time.Now().Before(until); {
				var ended, asked atomic.Int32
				p := newHTTPPeer(t, kind.wrap(func(c net.Conn) { hostileServer{c}.serve() }))
				cfg := &eventloop.HTTPClientConfig{
					TLS: httpClientTLS(), Dial: kind.dial, Proxy: eventloop.NoProxy,
					MaxConnsPerHost: 4, Timeout: 200 * time.Millisecond, InactivityTimeout: 100 * time.Millisecond,
				}
				runHTTPLoop(t, &eventloop.Config{HTTPClient: cfg}, func(l *eventloop.Loop) {
					for i := range 8 {
						l.Go(bg, func(k *eventloop.Task) error {
							for j := range 20 {
								path := fmt.Sprintf("/%d-%d", i, j)
								asked.Add(1)
								f := hostileRequest(k, l.HTTP(), kind.scheme+"://"+p.addr+path)
								f.Then(func(*eventloop.HTTPResponse, error) { ended.Add(1) })
								res, err := f.Await(k)
								if err == nil && kind.dial == nil && !strings.HasPrefix(string(res.Body), path+";") {
									t.Errorf("the response to %s is that to %.20q", path, res.Body)
								}
							}
							return nil
						})
					}
				})
				p.stop()
				wantEqual(t, "requests that have ended", ended.Load(), asked.Load())
			}
		})
	}
}

// hostileRequest sends a request of a random kind.
func hostileRequest(k *eventloop.Task, c *eventloop.HTTPClient, url string) *eventloop.Future[*eventloop.HTTPResponse] {
	ctx := context.Context(k.Context())
	if rand.IntN(4) == 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
		time.AfterFunc(time.Second, cancel)
	}
	body := make([]byte, rand.IntN(200_000))
	switch rand.IntN(5) {
	case 0:
		return c.Do(ctx, "PUT", url, &eventloop.HTTPOptions{Body: body})
	case 1:
		return c.Do(ctx, "POST", url, &eventloop.HTTPOptions{BodyReader: io.NopCloser(bytes.NewReader(body))})
	case 2:
		return c.Do(ctx, "POST", url, &eventloop.HTTPOptions{Body: body, Headers: eventloop.HTTPHeaders{{"Expect", "100-continue"}}})
	}
	return c.Get(ctx, url)
}

// Clients that do everything wrong upload to a server that echoes bodies while they
// come. Those that do it right get their own bytes, and nothing is left.
func TestHTTPServerSurvivesHostileClients(t *testing.T) {
	for name, mount := range allServers {
		t.Run(name, func(t *testing.T) {
			l, _ := startLoop(t, &eventloop.Config{EventHandler: func(error) {}})
			addr := mount(t, l, &eventloop.HTTPServerConfig{MaxInlineBody: 1000}, func(r *eventloop.HTTPRequest) {
				if rand.IntN(2) == 0 {
					echoStream(r)
				} else {
					r.ServeHTTP(http.HandlerFunc(echoBody))
				}
			}).String()
			until := time.Now().Add(chaosTime(t) / 3)
			var clients sync.WaitGroup
			for range 8 {
				clients.Go(func() {
					for time.Now().Before(until) {
						hostileClient(t, addr)
					}
				})
			}
			clients.Wait()
			if !eventually(func() bool { return l.Stats().HTTPServer.Requests == 0 }) {
				t.Errorf("%d requests are left", l.Stats().HTTPServer.Requests)
			}
			if !eventually(func() bool { return l.Stats().Conns.Buffered == 0 }) {
				t.Errorf("%d bytes are counted as pending, of no connection", l.Stats().Conns.Buffered)
			}
		})
	}
}

// echoStream answers with the body, no faster than the client takes it.
func echoStream(r *eventloop.HTTPRequest) {
	w, err := r.RespondStream(200, nil)
	if err != nil {
		return // the client was quicker
	}
	r.OnBody(func(p []byte) {
		w.Write(p)
		if w.NeedDrain() {
			r.PauseReading()
			w.OnDrain(r.ResumeReading)
		}
	}, func(err error) {
		if err != nil {
			w.Abort()
		} else {
			w.Close()
		}
	})
}

// echoBody is echoStream for net/http.
func echoBody(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).EnableFullDuplex()
	if _, err := io.Copy(w, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// hostileClient sends one request, and does something with the connection.
func hostileClient(t *testing.T, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(watchdogTime))
	body := strings.Repeat("b", rand.IntN(100_000))
	req := fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if rand.IntN(2) == 0 {
		req = fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	if body == "" {
		return
	}
	way := rand.IntN(5)
	if way > 1 && rand.IntN(2) == 0 {
		c.(*net.TCPConn).SetLinger(0)
	}
	switch way {
	case 0, 1: // nothing
		sent := make(chan struct{})
		go func() { defer close(sent); hostileServer{c}.cut(req) }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Error(err)
			return
		}
		if got, err := io.ReadAll(res.Body); err != nil || string(got) != body {
			t.Errorf("%d bytes of %d, %v", len(got), len(body), err)
		}
		<-sent
	case 2: // half, and gone
		hostileServer{c}.cut(req[:rand.IntN(len(req))])
	case 3: // all, and gone
		io.WriteString(c, req)
	case 4:
		io.WriteString(c, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n"+strings.Repeat("b", 2000)+"\r\nzz\r\n")
		io.Copy(io.Discard, c)
	}
}
