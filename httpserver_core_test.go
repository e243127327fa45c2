package eventloop_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// WriteTimeout counts from when the client's kernel last took something, not from
// when our own kernel did: that takes megabytes at once, and then nothing for as long
// as a slow client needs for a third of them.
func TestHTTPServerWriteTimeoutSparesAClientThatReadsSteadily(t *testing.T) {
	if testing.Short() {
		t.Skip("the client reads slowly on purpose, which takes seconds")
	}
	const size, portion = 4 << 20, 64 << 10
	inBothWays(t, func(t *testing.T, server, client *tls.Config) {
		l, _ := startLoop(t, nil)
		patiently(t, 800*time.Millisecond, func(timeout time.Duration) error {
			cfg := &eventloop.HTTPServerConfig{TLS: server, WriteTimeout: timeout}
			s := serveHTTP(t, l, cfg, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, make([]byte, size)) })
			nc, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			nc.(*net.TCPConn).SetReadBuffer(128 << 10)
			if client != nil {
				nc = tls.Client(nc, client)
			}
			c := newRawClient(t, nc)
			c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			p := make([]byte, portion)
			for total := 0; total < size; time.Sleep(timeout / 12) { // five timeouts in all
				n, err := io.ReadFull(c, p)
				if total += n; err != nil && total < size {
					return fmt.Errorf("cut after %d of %d bytes: %w", total, size, err)
				}
			}
			return nil
		})
	})
}

// A client that takes nothing of a response is cut after WriteTimeout, also if the
// response was complete long before, and that is reported once.
func TestHTTPServerWriteTimeoutEndsAConnectionWithACompleteResponse(t *testing.T) {
	events := make(chan error, 10)
	l, _ := startLoop(t, nil)
	cfg := &eventloop.HTTPServerConfig{
		WriteTimeout: 50 * time.Millisecond,
		OnEvent:      func(_ *eventloop.HTTPServer, err error) { events <- err },
	}
	s := serveHTTP(t, l, cfg, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, make([]byte, 32<<20)) })
	c := dialRaw(t, s.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	err := wait(t, events, "event")
	if !isTimeoutEvent(err) {
		t.Errorf("event %v, want a timeout", err)
	}
	if !eventually(func() bool { return l.Stats().HTTPServer.Conns == 0 }) {
		t.Error("the connection is still open")
	}
	if len(events) > 0 {
		t.Errorf("another event: %v", <-events)
	}
	wantEqual(t, "Stats.Buffered", l.Stats().Conns.Buffered, 0)
}

// A connection that cannot be taken out of a read is closed when nothing more is to
// be read.
func TestHTTPServerClosesConnectionsWhoseDeadlinesHaveNoEffect(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"an error":  func(nc net.Conn) net.Conn { return deafConn{nc} },
		"no effect": func(nc net.Conn) net.Conn { return mumblingConn{nc} },
	} {
		for end, head := range map[string]string{"server": "", "response": "Connection: close\r\n"} {
			t.Run(name+", ended by the "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
						ln := pipelistener.New()
						s, err := l.ServeHTTP(wrappedListener{ln, wrap}, hai, nil)
						if err != nil {
							return err
						}
						go func() {
							defer s.Close()
							c := newRawClient(t, ln.Dial())
							c.send("GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", head)
							c.response("GET")
							if head == "" {
								s.Close()
							}
							c.SetReadDeadline(time.Now().Add(time.Minute))
							if _, err := c.Read(make([]byte, 1)); err != io.EOF {
								t.Errorf("Read = %v, want io.EOF", err)
							}
						}()
						return nil
					})
					if err != nil {
						t.Errorf("Run returned %v", err)
					}
				})
			})
		}
	}
}

// A wrappedListener wraps the connections that it accepts.
type wrappedListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (w wrappedListener) Accept() (net.Conn, error) {
	nc, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return w.wrap(nc), nil
}

// A client that sends requests and reads no responses is not read from without end.
func TestHTTPServerHoldsAClientBackThatDoesNotReadItsResponses(t *testing.T) {
	l, _ := startLoop(t, nil)
	s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, make([]byte, 64<<10)) })
	c := dialRaw(t, s.Addr())
	const requests = 20_000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range requests {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return
			}
		}
	}()
	const held = 256 << 10 // where reading stops; it goes on at half of that
	if !eventually(func() bool { return l.Stats().Conns.Buffered > held/2 }) {
		t.Fatal("the output is not held up")
	}
	for range 300 { // the server goes on while the client reads
		if n := l.Stats().Conns.Buffered; n > 2*held {
			t.Fatalf("%d bytes are buffered", n)
		}
		if _, body := c.response("GET"); len(body) != 64<<10 {
			t.Fatalf("a body of %d bytes", len(body))
		}
	}
	c.Close()
	<-sent
}
