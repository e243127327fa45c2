//go:build unix

package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// A request whose body is the standard input of a pipeline, or a terminal, ends although a
// Read of the file does not, and so does the loop.
func TestALoopEndsAlthoughAReadOfARequestBodyDoesNot(t *testing.T) {
	apis := map[string]struct {
		reader string // the function that reads the file
		do     func(ctx context.Context, l *eventloop.Loop, url string, in *os.File) error
	}{
		"Do": {"eventloop.(*uploadBody).Read", func(ctx context.Context, l *eventloop.Loop, url string, in *os.File) error {
			_, err := l.HTTP().Do(ctx, "POST", url, &eventloop.HTTPOptions{BodyReader: in}).Wait(context.Background())
			return err
		}},
		"RoundTripper": {"eventloop.(*uploadBody).Read", func(ctx context.Context, l *eventloop.Loop, url string, in *os.File) error {
			return tripOnce(ctx, l, "POST", url, in)
		}},
		"RoundTripper, NopCloser": {"eventloop.(*uploadBody).Read", func(ctx context.Context, l *eventloop.Loop, url string, in *os.File) error {
			return tripOnce(ctx, l, "POST", url, io.NopCloser(in))
		}},
		"RoundTripper, the first byte": {"eventloop.(*probedBody).look", func(ctx context.Context, l *eventloop.Loop, url string, in *os.File) error {
			return tripOnce(ctx, l, "GET", url, in)
		}},
	}
	for name, api := range apis {
		for _, how := range []string{"response", "context", "Loop.Stop"} {
			t.Run(name+", "+how, func(t *testing.T) {
				checkLeaks(t)
				in, w := blockingPipe(t)
				reading := func() bool { return isInRead(api.reader) }
				server := newHTTPPeer(t, func(c net.Conn) {
					if how == "response" {
						if !eventually(reading) {
							t.Error("nothing reads the body")
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
					}
					io.Copy(io.Discard, c)
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan error, 1)
				err := runLoop(t, &eventloop.Config{WorkGrace: time.Millisecond}, func(l *eventloop.Loop) {
					release := l.Hold()
					go func() {
						defer release()
						result <- api.do(ctx, l, "http://"+server.addr, in)
					}()
					go func() {
						if how != "response" && !eventually(reading) {
							t.Error("nothing reads the body")
						}
						switch how {
						case "context":
							cancel()
						case "Loop.Stop":
							l.Stop()
						}
					}()
				})
				wantEqual(t, "Run", err, nil)
				switch err := <-result; how {
				case "response":
					wantEqual(t, "error of the request", err, nil)
				case "context":
					wantEqual(t, "error of the request matches context.Canceled", errors.Is(err, context.Canceled), true)
				case "Loop.Stop":
					wantEqual(t, "error of the request", err, eventloop.ErrLoopClosed)
				}
				wantEqual(t, "the Read still waits", reading(), true)
				w.WriteString("lost\n") // ends the Read
				w.Close()
			})
		}
	}
}

func tripOnce(ctx context.Context, l *eventloop.Loop, method, url string, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	res, err := l.HTTP().RoundTripper().RoundTrip(req)
	if err == nil {
		res.Body.Close()
	}
	return err
}
