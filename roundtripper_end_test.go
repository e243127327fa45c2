package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// tripPhases are those of httpPhases, and those that only a RoundTripper has.
var tripPhases = append(httpPhases[:len(httpPhases):len(httpPhases)],
	httpPhase{name: "body that nothing reads", url: "http://h", peer: func(c net.Conn) {
		readHTTPHead(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}},
	httpPhase{name: "looking at a body that may be empty", url: "http://h", peer: hang, opts: func() *eventloop.HTTPOptions {
		r, _ := io.Pipe()
		return &eventloop.HTTPOptions{BodyReader: r, Close: true} // Close: with the method GET
	}},
)

// Wherever a request is, it ends at the moment when its context, its time or its loop
// ends, and nothing of it is left.
func TestRoundTripEndsAtOnceInEveryPhase(t *testing.T) {
	for _, phase := range tripPhases {
		if phase.name == "paused" {
			continue // there is no PauseReading
		}
		for _, how := range []string{"cancel", "deadline", "timeout", "Request.Cancel", "stop", "end of the task's context"} {
			for _, where := range []string{"goroutine", "task"} {
				if how == "end of the task's context" && where != "task" {
					continue
				}
				t.Run(phase.name+"/"+how+"/"+where, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testTripEnd(t, phase, how, where, 700*time.Millisecond) })
					if strings.HasPrefix(phase.name, "looking") { // RoundTrip does not wait longer for the body
						synctest.Test(t, func(t *testing.T) { testTripEnd(t, phase, how, where, 100*time.Millisecond) })
					}
				})
			}
		}
	}
}

func testTripEnd(t *testing.T, phase httpPhase, how, where string, when time.Duration) {
	cfg := eventloop.HTTPClientConfig{}
	peer, pipe := newHTTPPipe(phase.peer)
	if cfg.Dial = pipe; phase.peer == nil {
		cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
	}
	if phase.cfg != nil {
		phase.cfg(&cfg)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	taskCtx, cancelTask := context.WithCancelCause(context.Background())
	defer cancelTask(nil)
	reason := errors.New("reason")
	var want error
	var abort chan struct{}
	switch how {
	case "cancel":
		want = reason
		time.AfterFunc(when, func() { cancel(reason) })
	case "deadline":
		var release func()
		ctx, release = context.WithTimeout(ctx, when)
		defer release()
		want = eventloop.ErrTimeout
	case "timeout":
		cfg.Timeout = when
		want = eventloop.ErrTimeout
	case "Request.Cancel":
		abort = make(chan struct{})
		want = context.Canceled
		time.AfterFunc(when, func() { close(abort) })
	case "end of the task's context":
		want = reason
		time.AfterFunc(when, func() { cancelTask(reason) })
	case "stop":
		want = eventloop.ErrLoopClosed
	}
	conf := &eventloop.Config{HTTPClient: &cfg}
	if phase.lookup {
		cfg.Dial = nil
		conf.Resolver = &eventloop.ResolverConfig{Servers: []string{"192.0.2.1"}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
	}
	began := time.Now()
	trip := func(l *eventloop.Loop, sleep func(time.Duration)) {
		method, body := "POST", io.Reader(nil)
		var opts eventloop.HTTPOptions
		if phase.opts != nil {
			opts = *phase.opts()
		}
		if body = opts.BodyReader; opts.Body != nil {
			body = bytes.NewReader(opts.Body)
		}
		if opts.Close {
			method = "GET"
		}
		counted := &closeCounter{}
		if body != nil {
			counted.Reader = body
			body = counted
		}
		req := newRequest(t, method, phase.url, body)
		req = req.WithContext(ctx)
		//lint:ignore SA1019 net/http obeys Cancel, and so does every RoundTripper
		req.Cancel = abort
		for _, h := range opts.Headers {
			req.Header.Set(h.Name, h.Value)
		}
		res, err := l.HTTP().RoundTripper().RoundTrip(req)
		if err == nil {
			if phase.name == "body that nothing reads" {
				sleep(when)
			}
			_, err = io.Copy(io.Discard, res.Body)
			// In a task, its end or that of the loop ends the wait: more may have arrived.
			n, again := res.Body.Read(make([]byte, 1))
			waited := where == "task" && (how == "stop" || how == "end of the task's context")
			if err == nil || again == nil && (n == 0 || !waited) {
				t.Errorf("the body ends with %v, then %v", err, again)
			}
			res.Body.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("error = %v, want %v", err, want)
		}
		if ne, ok := err.(net.Error); want != eventloop.ErrLoopClosed && want != reason && (!ok || ne.Timeout() != (want == eventloop.ErrTimeout)) {
			t.Errorf("Timeout of %v", err)
		}
		if d := time.Since(began); d != when {
			t.Errorf("ended after %v, want %v", d, when)
		}
		if body != nil {
			eventually(func() bool { return counted.closed.Load() > 0 })
			wantEqual(t, "Close of the body", counted.closed.Load(), 1)
		}
	}
	done := make(chan struct{}, 2)
	n := 1
	runHTTPLoop(t, conf, func(l *eventloop.Loop) {
		if how == "stop" {
			l.AfterFunc(when, l.Stop)
		}
		if cfg.MaxConnsPerHost == 1 {
			n = 2
		}
		for range n {
			if where == "task" {
				l.Go(taskCtx, func(task *eventloop.Task) error {
					defer func() { done <- struct{}{} }()
					trip(l, func(d time.Duration) { task.Sleep(d) })
					return nil
				})
				continue
			}
			release := l.Hold()
			go func() {
				defer func() { done <- struct{}{} }()
				trip(l, time.Sleep)
				release()
			}()
		}
	})
	for range n {
		<-done
	}
	peer.stop()
}

func TestRoundTripReturnsWhenTheHeadIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(func(c net.Conn) {
			readHTTPHead(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			time.Sleep(time.Minute)
			io.WriteString(c, "ok")
		})
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial, InactivityTimeout: -1}}, func(l *eventloop.Loop) {
			l.Go(bg, func(task *eventloop.Task) error {
				began := time.Now()
				res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, "GET", "http://h", nil))
				if err != nil || time.Since(began) != 0 {
					t.Errorf("%v after %v", err, time.Since(began))
					return nil
				}
				body, err := io.ReadAll(res.Body)
				if string(body) != "ok" || err != nil || time.Since(began) != time.Minute {
					t.Errorf("%q, %v after %v", body, err, time.Since(began))
				}
				return nil
			})
		})
		p.stop()
	})
}

// A server that sends without end is stopped when nothing reads.
func TestRoundTripReadsAheadByABoundedAmount(t *testing.T) {
	for _, piece := range []int{1, 100, 5000, 64 << 10} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent atomic.Int64
				p, dial := newHTTPPipe(func(c net.Conn) {
					readHTTPHead(bufio.NewReader(c))
					io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
					chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", piece, strings.Repeat("x", piece))
					for sent.Load() < 1<<20 {
						if _, err := c.Write(chunk); err != nil {
							return
						}
						sent.Add(int64(piece))
					}
					io.WriteString(c, "0\r\n\r\n")
				})
				runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial, InactivityTimeout: time.Second}}, func(l *eventloop.Loop) {
					release := l.Hold()
					go func() {
						defer release()
						res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, "GET", "http://h", nil))
						if err != nil {
							t.Error(err)
							return
						}
						defer res.Body.Close()
						time.Sleep(time.Minute) // which does not count as silence of the server
						if n := sent.Load(); n < 200<<10 || n > 400<<10 {
							t.Errorf("the server sent %d bytes", n)
						}
						body, err := io.ReadAll(res.Body)
						if int64(len(body)) != sent.Load() || err != nil {
							t.Errorf("%d bytes of %d, %v", len(body), sent.Load(), err)
						}
					}()
				})
				p.stop()
			})
		})
	}
}

func TestRoundTripStreamsALongBodyUpAndDownWithBoundedMemory(t *testing.T) {
	size := int64(64 << 20)
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	for _, where := range []string{"goroutine", "task"} {
		t.Run(where, func(t *testing.T) {
			rt, l, _ := startTransport(t, nil)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var most uint64
			do := func() {
				body := io.LimitReader(readerFunc(func(p []byte) (int, error) {
					for i := range p {
						p[i] = byte(i)
					}
					return len(p), nil
				}), size)
				res, err := rt.RoundTrip(newRequest(t, "POST", s.URL, body))
				if err != nil {
					t.Error(err)
					return
				}
				n, p := int64(0), make([]byte, 64<<10)
				for err == nil {
					var m int
					m, err = res.Body.Read(p)
					if n += int64(m); n/(16<<20) != (n-int64(m))/(16<<20) {
						runtime.GC()
						runtime.ReadMemStats(&after)
						most = max(most, after.HeapAlloc)
					}
				}
				if n != size || err != io.EOF {
					t.Errorf("%d bytes of %d, %v", n, size, err)
				}
				res.Body.Close()
			}
			if where == "task" {
				l.Go(bg, func(*eventloop.Task) error { do(); return nil }).Wait(bg)
			} else {
				do()
			}
			if most > before.HeapAlloc+8<<20 {
				t.Errorf("%d bytes in use, %d before", most, before.HeapAlloc)
			}
		})
	}
}

func TestReadAfterCloseOfTheBodyReturnsErrBodyReadAfterClose(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	rt, _, _ := startTransport(t, nil)
	for _, read := range []bool{false, true} {
		res, err := rt.RoundTrip(newRequest(t, "GET", s.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		if read {
			io.ReadAll(res.Body)
		}
		for range 2 {
			wantEqual(t, "Close", res.Body.Close(), nil)
			_, err = res.Body.Read(make([]byte, 1))
			wantEqual(t, "Read", err, http.ErrBodyReadAfterClose)
		}
	}
}

func TestCloseOfTheBodyFromAnotherGoroutineEndsRead(t *testing.T) {
	unblock := make(chan struct{})
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-unblock
	})
	defer close(unblock)
	rt, l, _ := startTransport(t, nil)
	do := func() {
		res, err := rt.RoundTrip(newRequest(t, "GET", s.URL, nil))
		if err != nil {
			t.Error(err)
			return
		}
		time.AfterFunc(10*time.Millisecond, func() { res.Body.Close() })
		_, err = res.Body.Read(make([]byte, 1))
		wantEqual(t, "Read", err, http.ErrBodyReadAfterClose)
	}
	do()
	l.Go(bg, func(*eventloop.Task) error { do(); return nil }).Wait(bg)
}

// A body that is closed early costs the connection only if the rest of it is long.
func TestEarlyCloseOfAShortBodyKeepsTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		response string
		rest     string // comes after Close
		kept     bool
	}{
		"all there":     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", true},
		"short":         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "abc", true},
		"short, chunks": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "3\r\nabc\r\n0\r\n\r\n", true},
		"long":          {"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\nok", strings.Repeat("x", 9998), false},
		"long, chunks":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "2710\r\n" + strings.Repeat("x", 10000) + "\r\n0\r\n\r\n", false},
		"late":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "", false},
		"until the end": {"HTTP/1.1 200 OK\r\n\r\nok", "abc", false},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http.Client %v", name, client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					closed := make(chan struct{})
					p, dial := newHTTPPipe(func(c net.Conn) {
						br := bufio.NewReader(c)
						readHTTPHead(br)
						io.WriteString(c, test.response)
						<-closed
						if _, err := io.WriteString(c, test.rest); err == nil && test.rest == "" && !test.kept {
							time.Sleep(time.Second)
						}
						if readHTTPHead(br) != "" {
							io.WriteString(c, httpOK)
						}
					})
					runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
						release := l.Hold()
						go func() {
							defer release()
							rt := l.HTTP().RoundTripper()
							c := &http.Client{Transport: rt}
							if client {
								c.Timeout = time.Minute
							}
							res, err := c.Get("http://h")
							if err != nil {
								t.Error(err)
								return
							}
							io.ReadFull(res.Body, make([]byte, 1))
							began := time.Now()
							res.Body.Close()
							if time.Since(began) != 0 {
								t.Errorf("Close took %v", time.Since(began))
							}
							close(closed)
							synctest.Wait()
							time.Sleep(100 * time.Millisecond)
							wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 0)
							closed = make(chan struct{})
							close(closed)
							res, err = c.Get("http://h")
							if err != nil {
								t.Error(err)
								return
							}
							res.Body.Close()
						}()
					})
					p.stop()
					want := int32(2)
					if test.kept {
						want = 1
					}
					wantEqual(t, "connections", p.conns.Load(), want)
				})
			})
		}
	}
}

// The loop ends at once, although the rest of the body is waited for.
func TestEarlyCloseOfTheBodyDoesNotKeepTheLoopAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(hangAfter("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"))
		began := time.Now()
		runHTTPLoop(t, &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial}}, func(l *eventloop.Loop) {
			l.Go(bg, func(*eventloop.Task) error {
				res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, "GET", "http://h", nil))
				if err != nil {
					return err
				}
				return res.Body.Close()
			})
		})
		wantEqual(t, "duration", time.Since(began), 0)
		p.stop()
	})
}

func TestABodyThatNothingReadsKeepsTheLoopAliveAndIsAHandle(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 4<<20)) })
	rt, l, end := startTransport(t, nil)
	res, err := rt.RoundTrip(newRequest(t, "GET", s.URL+"/a", nil))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for h := range l.Handles() {
		if h.Kind == eventloop.KindHTTPClientRequest && h.Ref {
			names = append(names, h.Name)
		}
	}
	wantSlice(t, "handles", names, []string{s.URL + "/a"})
	n, err := io.Copy(io.Discard, res.Body)
	if n != 4<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 0)
	wantEqual(t, "Run", end(), nil)
	_, err = res.Body.Read(make([]byte, 1))
	wantEqual(t, "Read after the end", err, io.EOF)
}

// What a request body does wrong is the error of the request, unless the response has
// come before.
func TestRoundTripWithABodyThatFails(t *testing.T) {
	failure := errors.New("failure")
	p := newHTTPPeer(t, hang)
	early := newHTTPPeer(t, hangAfter(httpOK))
	for name, test := range map[string]struct {
		body   io.Reader
		length int64
		is     error
		value  any
	}{
		"an error":         {io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, failure })), -1, failure, nil},
		"a panic":          {readerFunc(func([]byte) (int, error) { panic("body") }), -1, nil, "body"},
		"Goexit":           {readerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil }), -1, nil, nil},
		"nothing forever":  {readerFunc(func([]byte) (int, error) { return 0, nil }), -1, io.ErrNoProgress, nil},
		"a wrong count":    {readerFunc(func(p []byte) (int, error) { return len(p) + 1, nil }), -1, nil, nil},
		"too short":        {strings.NewReader("abc"), 5, eventloop.ErrHTTPBodyLength, nil},
		"too long":         {strings.NewReader("abcdefg"), 5, eventloop.ErrHTTPBodyLength, nil},
		"too short, plain": {io.MultiReader(strings.NewReader("abc")), 5, eventloop.ErrHTTPBodyLength, nil},
	} {
		for _, method := range []string{"POST", "GET"} {
			t.Run(name+"/"+method, func(t *testing.T) {
				rt, l, _ := startTransport(t, nil)
				do := func() {
					body := &closeCounter{Reader: test.body}
					req := newRequest(t, method, "http://"+p.addr, body)
					if !strings.HasSuffix(name, "plain") && test.length > 0 {
						req.Body = io.NopCloser(test.body.(*strings.Reader))
						test.body.(*strings.Reader).Seek(0, 0)
					}
					req.ContentLength = test.length
					res, err := rt.RoundTrip(req)
					if res != nil || err == nil || test.is != nil && !errors.Is(err, test.is) || !errors.Is(err, eventloop.ErrHTTP) {
						t.Errorf("%v, %v", res, err)
					}
					if pe := new(eventloop.PanicError); test.value != nil && (!errors.As(err, &pe) || pe.Value != test.value) {
						t.Errorf("%v", err)
					}
					if req.Body == body {
						eventually(func() bool { return body.closed.Load() > 0 })
						wantEqual(t, "Close", body.closed.Load(), 1)
					}
				}
				do()
				_ = l
			})
		}
	}
	rt, _, _ := startTransport(t, nil)
	r, w := io.Pipe()
	res, err := rt.RoundTrip(newRequest(t, "POST", "http://"+early.addr, r)) // a body that never ends
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if string(body) != "ok" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if !eventually(func() bool { _, err := w.Write(nil); return err == io.ErrClosedPipe }) {
		t.Error("the body was not closed")
	}
}

// A panic in Close is reported once: by RoundTrip if that returns an error, and else as
// an event. The response cannot tell, since its body may be empty, or not be read.
func TestRoundTripWithABodyWhoseClosePanics(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/body" {
			io.WriteString(w, "hi")
		}
	})
	refused := newHTTPPeer(t, func(c net.Conn) { readHTTPHead(bufio.NewReader(c)) })
	for name, url := range map[string]string{"no body": s.URL, "body": s.URL + "/body", "no response": "http://" + refused.addr, "not sent": "ftp://h"} {
		for _, method := range []string{"GET", "POST"} {
			for _, content := range []string{"", "x"} {
				for _, read := range []bool{false, true} {
					for _, where := range []string{"goroutine", "task"} {
						t.Run(fmt.Sprintf("%s/%s %q/read %v/%s", name, method, content, read, where), func(t *testing.T) {
							testPanicInClose(t, url, method, content, read, where)
						})
					}
				}
			}
		}
	}
}

func testPanicInClose(t *testing.T, url, method, content string, read bool, where string) {
	checkLeaks(t)
	var events []error
	var failure error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		tripIn(l, where, func() {
			res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, method, url, panicsInClose{io.MultiReader(strings.NewReader(content))}))
			if err != nil {
				failure = err
				return
			}
			if read {
				if _, err := io.ReadAll(res.Body); err != nil {
					t.Errorf("Read = %v", err)
				}
			}
			res.Body.Close()
		})
	})
	reports := 0
	for _, err := range append(events, failure) {
		if pe := new(eventloop.PanicError); errors.As(err, &pe) && pe.Value == "close" {
			reports++
		}
	}
	if reports != 1 {
		t.Errorf("reported %d times, in the events %v and the error %v", reports, events, failure)
	}
}

// tripIn calls f on a goroutine, or in a task, and keeps the loop alive meanwhile. f may
// panic or call runtime.Goexit.
func tripIn(l *eventloop.Loop, where string, f func()) {
	if where == "task" {
		l.Go(bg, func(*eventloop.Task) error { f(); return nil }).Ignore()
		return
	}
	release := l.Hold()
	go func() {
		defer release()
		defer func() { recover() }()
		f()
	}()
}

// A badContext is a context with a method that does not return.
type badContext struct {
	context.Context
	done func()
}

func (c badContext) Done() <-chan struct{} { c.done(); return nil }

// Whatever the code of the application does, the loop ends when its work is done.
func TestARequestThatDoesNotReachTheConnectionLeavesNothing(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	const goes, fails, leaves = "goes", "fails", "leaves"
	for name, test := range map[string]struct {
		change func(r *http.Request)
		how    string
	}{
		"Read of a short body that is nil": {func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser((*bytes.Reader)(nil)), 5 }, fails},
		"Read of a long body that is nil":  {func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser((*strings.Reader)(nil)), 1<<20 }, fails},
		"Read of a buffer that is nil":     {func(r *http.Request) { r.Body = io.NopCloser((*bytes.Buffer)(nil)) }, fails},
		"Close of an empty body, Goexit":   {func(r *http.Request) { r.Method, r.Body = "GET", closes{strings.NewReader(""), runtime.Goexit} }, goes},
		"Close of a body, Goexit":          {func(r *http.Request) { r.Body = closes{strings.NewReader("x"), runtime.Goexit} }, ""}, // which comes first
		"Close of a refused body, Goexit":  {func(r *http.Request) { r.URL.Scheme = "ftp"; r.Body = closes{strings.NewReader("x"), runtime.Goexit} }, ""},
		"Done of the context, Goexit":      {func(r *http.Request) { *r = *r.WithContext(badContext{bg, runtime.Goexit}) }, leaves},
		"Done of the context, panic":       {func(r *http.Request) { *r = *r.WithContext(badContext{bg, func() { panic("done") }}) }, leaves},
	} {
		for _, where := range []string{"goroutine", "task"} {
			if where == "task" && name == "Done of the context, Goexit" {
				continue // the goroutine that ends is the loop's
			}
			t.Run(name+"/"+where, func(t *testing.T) {
				checkLeaks(t)
				how := leaves
				mustRun(t, &eventloop.Config{CatchPanics: true, EventHandler: func(error) {}}, func(l *eventloop.Loop) {
					req := newRequest(t, "POST", s.URL, io.MultiReader(strings.NewReader("hello")))
					test.change(req)
					tripIn(l, where, func() {
						res, err := l.HTTP().RoundTripper().RoundTrip(req)
						if how = fails; err == nil {
							how = goes
							res.Body.Close()
						} else if !errors.Is(err, eventloop.ErrHTTP) {
							t.Errorf("error = %v", err)
						}
					})
				})
				if test.how != "" {
					wantEqual(t, "RoundTrip", how, test.how)
				}
			})
		}
	}
}

// A closes is a body whose Close is a function.
type closes struct {
	io.Reader
	f func()
}

func (c closes) Close() error { c.f(); return nil }

// Close of the request body may take any time, so it never runs on the loop.
func TestCloseOfTheRequestBodyDoesNotHoldUpTheLoop(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for name, test := range map[string]struct{ method, url, content, where string }{
		"sent":               {"POST", s.URL, "x", "task"},
		"empty":              {"GET", s.URL, "", "task"},
		"refused":            {"POST", "ftp://h", "x", "task"},
		"too late":           {"POST", s.URL, "x", "task that has ended"},
		"in a callback":      {"POST", s.URL, "x", "callback"},
		"at the end of loop": {"POST", s.URL, "x", "exit"},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			closed := make(chan struct{})
			mustRun(t, nil, func(l *eventloop.Loop) {
				do := func() {
					body := closes{io.MultiReader(strings.NewReader(test.content)), func() {
						turned := make(chan struct{})
						if l.Post(func() { close(turned) }) == nil {
							<-turned
						}
						close(closed)
					}}
					res, err := l.HTTP().RoundTripper().RoundTrip(newRequest(t, test.method, test.url, body))
					if err == nil {
						res.Body.Close()
					}
				}
				ctx, cancel := context.WithCancel(bg)
				switch test.where {
				case "callback":
					do()
				case "exit":
					l.OnExit(do)
				case "task that has ended":
					l.Go(ctx, func(*eventloop.Task) error { cancel(); do(); return nil }).Ignore()
				default:
					l.Go(ctx, func(*eventloop.Task) error { do(); return nil }).Ignore()
				}
				l.OnExit(cancel)
			})
			wait(t, closed, "Close")
		})
	}
}

type panicsInClose struct{ io.Reader }

func (panicsInClose) Close() error { panic("close") }

// The code of the application that does not return is named in the error of Run, and
// does not keep Run from returning.
func TestRoundTripWithABodyThatNeverReturns(t *testing.T) {
	for _, what := range []string{"Read", "Close"} {
		t.Run(what, func(t *testing.T) {
			p := newHTTPPeer(t, hang)
			unblock := make(chan struct{})
			gone := make(chan struct{}, 1)
			l := eventloop.New(logged(t, &eventloop.Config{WorkGrace: -1}))
			block := func() { l.Stop(); <-unblock; gone <- struct{}{} }
			result := make(chan error)
			l.Post(func() {
				go func() {
					body := &stubbornBody{read: what == "Read", block: block}
					l.HTTP().RoundTripper().RoundTrip(newRequest(t, "POST", "http://"+p.addr, body))
					result <- nil
				}()
			})
			release := l.Hold()
			err := l.Run(bg)
			release()
			if !errors.Is(err, eventloop.ErrWorkLeft) || !strings.Contains(err.Error(), what+" of ") {
				t.Errorf("Run = %v", err)
			}
			<-result
			close(unblock)
			<-gone
		})
	}
}

type stubbornBody struct {
	read  bool
	block func()
}

func (b *stubbornBody) Read(p []byte) (int, error) {
	if b.read {
		b.block()
	}
	return 0, errors.New("read")
}

func (b *stubbornBody) Close() error {
	if !b.read {
		b.block()
	}
	return nil
}

func TestRoundTripsOfManyGoroutinesWhileTheLoopEnds(t *testing.T) {
	s, _ := serveHandler(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for i := range 20 {
		l := eventloop.New(logged(t, nil))
		release := l.Hold()
		rt := l.HTTP().RoundTripper()
		done := make(chan error, 16)
		l.Post(func() {
			for range cap(done) {
				go func() {
					var err error
					for err == nil {
						var res *http.Response
						res, err = rt.RoundTrip(newRequest(t, "POST", s.URL, io.MultiReader(strings.NewReader("hello"))))
						if err == nil {
							_, err = io.ReadAll(res.Body)
							res.Body.Close()
						}
					}
					done <- err
				}()
			}
			l.AfterFunc(time.Duration(i)*2*time.Millisecond, l.Stop)
		})
		checkLeaks(t)
		if err := l.Run(bg); err != nil {
			t.Errorf("Run = %v", err)
		}
		release()
		for range cap(done) {
			if err := <-done; !errors.Is(err, eventloop.ErrLoopClosed) {
				t.Errorf("RoundTrip = %v", err)
			}
		}
	}
}
