package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

const switchesToEcho = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

// upgrade asks for another protocol.
func upgrade(t testing.TB, ctx context.Context, rt http.RoundTripper, url string) io.ReadWriteCloser {
	t.Helper()
	req := newRequest(t, "GET", url, nil).WithContext(ctx)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	rw, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != 101 || !ok || res.Header.Get("Upgrade") != "echo" {
		t.Errorf("%v with a %T", res, res.Body)
	}
	return rw
}

// switchTo agrees to the other protocol, which is f.
func switchTo(t *testing.T, f func(c net.Conn, br *bufio.Reader)) func(c net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		if head := readHTTPHead(br); !strings.Contains(head, "Connection: Upgrade\r\n") || !strings.Contains(head, "Upgrade: echo\r\n") {
			t.Errorf("head %q", head)
		}
		io.WriteString(c, switchesToEcho+"first;")
		f(c, br)
	}
}

func echoBytes(c net.Conn, br *bufio.Reader) { io.Copy(c, br) }

func TestBodyOfSwitchingProtocolsIsTheConnection(t *testing.T) {
	for _, where := range []string{"goroutine", "task"} {
		t.Run(where, func(t *testing.T) {
			p := newHTTPPeer(t, switchTo(t, echoBytes))
			rt, l, _ := startTransport(t, nil)
			do := func() {
				rw := upgrade(t, bg, rt, "http://"+p.addr)
				br := bufio.NewReader(rw)
				first, _ := br.ReadString(';')
				wantEqual(t, "first", first, "first;")
				big := strings.Repeat("x", 60_000) + ";"
				for _, s := range []string{"hello;", "", big} {
					n, err := io.WriteString(rw, s)
					if n != len(s) || err != nil {
						t.Errorf("Write = %d, %v", n, err)
					}
					if s != "" {
						got, err := br.ReadString(';')
						if got != s || err != nil {
							t.Errorf("%d bytes, %v", len(got), err)
						}
					}
				}
				wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 1)
				wantEqual(t, "Close", rw.Close(), nil)
				_, err := rw.Write([]byte("x"))
				wantEqual(t, "Write after Close", err, net.ErrClosed)
				_, err = rw.Read(make([]byte, 1))
				wantEqual(t, "Read after Close", err, http.ErrBodyReadAfterClose)
			}
			if where == "task" {
				l.Go(bg, func(*eventloop.Task) error { do(); return nil }).Wait(bg)
			} else {
				do()
			}
			eventually(func() bool { return l.Stats().HTTPClient.Requests == 0 })
			wantEqual(t, "requests", l.Stats().HTTPClient.Requests, 0)
		})
	}
}

// Neither the context of the request nor the timeouts of the client end it.
func TestNothingButItsUserEndsAConnectionAfterSwitchingProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, dial := newHTTPPipe(switchTo(t, echoBytes))
		cfg := &eventloop.HTTPClientConfig{Dial: dial, Timeout: time.Second, InactivityTimeout: time.Second}
		runHTTPLoop(t, &eventloop.Config{HTTPClient: cfg}, func(l *eventloop.Loop) {
			l.Go(bg, func(task *eventloop.Task) error {
				ctx, cancel := context.WithTimeout(bg, 500*time.Millisecond)
				rw := upgrade(t, ctx, l.HTTP().RoundTripper(), "http://h")
				task.Sleep(time.Minute)
				cancel()
				io.WriteString(rw, "hello")
				got := make([]byte, len("first;hello"))
				_, err := io.ReadFull(rw, got)
				wantEqual(t, "bytes", string(got), "first;hello")
				wantEqual(t, "error", err, nil)
				return rw.Close()
			})
		})
		p.stop()
	})
}

func TestAfterTheEndOfItsPeerAnUpgradedConnectionCanBeWritten(t *testing.T) {
	got := make(chan string, 1)
	p := newHTTPPeer(t, switchTo(t, func(c net.Conn, br *bufio.Reader) {
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(br)
		got <- string(b)
	}))
	rt, _, _ := startTransport(t, nil)
	rw := upgrade(t, bg, rt, "http://"+p.addr)
	b, err := io.ReadAll(rw)
	if string(b) != "first;" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if n, err := io.WriteString(rw, "bye"); n != 3 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	rw.Close()
	wantEqual(t, "the peer has", <-got, "bye")
}

func TestTheEndOfTheLoopClosesAnUpgradedConnection(t *testing.T) {
	for _, waits := range []string{"Read", "Write", "nothing"} {
		for _, end := range []bool{false, true} { // of the peer's side
			t.Run(waits, func(t *testing.T) {
				closed := make(chan struct{})
				p := newHTTPPeer(t, switchTo(t, func(c net.Conn, br *bufio.Reader) {
					if end {
						c.(*net.TCPConn).CloseWrite()
					}
					if waits == "Write" {
						<-closed
						return
					}
					io.Copy(io.Discard, br)
					close(closed)
				}))
				l := eventloop.New(logged(t, nil))
				result := make(chan error, 1)
				upgraded := make(chan struct{})
				release := l.Hold()
				l.Post(func() {
					go func() {
						rw := upgrade(t, bg, l.HTTP().RoundTripper(), "http://"+p.addr)
						close(upgraded)
						var err error
						switch waits {
						case "Read":
							if _, err = io.Copy(io.Discard, rw); err == nil {
								err = eventloop.ErrLoopClosed // the peer has ended its side
							}
						case "Write":
							for err == nil {
								_, err = rw.Write(make([]byte, 64<<10))
							}
						default:
							<-l.Done()
							_, err = rw.Write([]byte("x"))
						}
						result <- err
					}()
					eventloop.Receive(l, upgraded, func(struct{}, bool) { l.AfterFunc(20*time.Millisecond, l.Stop) })
				})
				checkLeaks(t)
				if err := l.Run(bg); err != nil {
					t.Errorf("Run = %v", err)
				}
				release()
				if err := <-result; !errors.Is(err, eventloop.ErrLoopClosed) && !(end && errors.Is(err, eventloop.ErrHTTP)) {
					t.Errorf("error = %v", err)
				}
				if waits == "Write" {
					close(closed)
				}
				<-closed
			})
		}
	}
}

func TestWriteToAnUpgradedConnectionInACallbackReturnsErrOnLoop(t *testing.T) {
	p := newHTTPPeer(t, switchTo(t, echoBytes))
	rt, l, _ := startTransport(t, nil)
	rw := upgrade(t, bg, rt, "http://"+p.addr)
	defer rw.Close()
	onLoop(t, l, func() {
		_, err := rw.Write([]byte("x"))
		wantEqual(t, "Write", err, eventloop.ErrOnLoop)
	})
}

func TestAFailureOfAnUpgradedConnectionIsTheErrorOfReadAndWrite(t *testing.T) {
	p := newHTTPPeer(t, switchTo(t, func(c net.Conn, br *bufio.Reader) {
		br.ReadString(';')
		c.(*net.TCPConn).SetLinger(0)
	}))
	rt, _, _ := startTransport(t, nil)
	rw := upgrade(t, bg, rt, "http://"+p.addr)
	defer rw.Close()
	io.WriteString(rw, "go;")
	_, err := io.ReadAll(rw)
	if !errors.Is(err, eventloop.ErrReset) || !errors.Is(err, eventloop.ErrHTTP) {
		t.Errorf("Read = %v", err)
	}
	for err = nil; err == nil; {
		_, err = rw.Write([]byte("x"))
	}
	if !errors.Is(err, eventloop.ErrReset) {
		t.Errorf("Write = %v", err)
	}
}

// A Write that fails returns how many bytes the kernel has taken.
func TestWriteToAnUpgradedConnectionThatFailsReturnsWhatWasSent(t *testing.T) {
	const size = 64 << 20 // more than the kernel takes
	for _, how := range []string{"Close", "stop", "end of the peer"} {
		t.Run(how, func(t *testing.T) {
			full, failed := make(chan struct{}), make(chan struct{})
			got := make(chan int64, 1)
			p := newHTTPPeer(t, switchTo(t, func(c net.Conn, br *bufio.Reader) {
				io.ReadFull(br, make([]byte, 1<<20))
				close(full) // Write has begun and is not at its end
				if how == "end of the peer" {
					c.(*net.TCPConn).SetLinger(0)
					return
				}
				<-failed
				n, _ := io.Copy(io.Discard, br)
				got <- 1<<20 + n
			}))
			rt, l, _ := startTransport(t, nil)
			rw := upgrade(t, bg, rt, "http://"+p.addr)
			defer rw.Close()
			var want error
			switch how {
			case "Close":
				want = net.ErrClosed
				go func() { <-full; rw.Close() }()
			case "stop":
				want = eventloop.ErrLoopClosed
				go func() { <-full; l.Stop() }()
			default:
				want = eventloop.ErrReset
			}
			n, err := rw.Write(make([]byte, size))
			close(failed)
			const piece = 64 << 10 // the last one may not be known to be sent
			if n < 1<<20-piece || n >= size || !errors.Is(err, want) {
				t.Errorf("Write = %d, %v, want %v", n, err, want)
			}
			if how == "Close" {
				if got := <-got; got < int64(n) {
					t.Errorf("the peer has %d bytes, Write returned %d", got, n)
				}
			}
			n, err = rw.Write([]byte("x"))
			if n != 0 || err == nil {
				t.Errorf("Write = %d, %v", n, err)
			}
		})
	}
}
