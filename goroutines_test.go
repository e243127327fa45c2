package eventloop_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// Each of these handles gets the call of another goroutine at a random point of the
// loop's end: when the handle has ended, while Run returns, and afterwards.
func TestCallsFromOtherGoroutinesMayMeetTheEndOfRun(t *testing.T) {
	for name, open := range map[string]func(l *eventloop.Loop) (call func()){
		"Reader.Stop": func(l *eventloop.Loop) func() {
			return eventloop.ReadFrom(l, strings.NewReader("x"), func([]byte) {}, nil).Stop
		},
		"Receiver.Stop": func(l *eventloop.Loop) func() {
			ch := make(chan int, 1)
			ch <- 1
			close(ch)
			r := eventloop.Receive(l, ch, func(int, bool) {})
			return func() { r.Stop() }
		},
		"Sender.Send": func(l *eventloop.Loop) func() {
			s := eventloop.SendTo(l, make(chan int)) // which nothing receives from
			s.Unref()
			return func() { s.Send(1) }
		},
		"Sender.Stop": func(l *eventloop.Loop) func() {
			s := eventloop.SendTo(l, make(chan int, 1))
			s.Send(1)
			return func() { s.Stop() }
		},
		"WorkOn": func(l *eventloop.Loop) func() {
			w := eventloop.NewWorkers(l, 2, "w")
			return func() {
				eventloop.WorkOn(context.Background(), w, func(context.Context) (int, error) { return 1, nil })
			}
		},
		"Listener.Close": func(l *eventloop.Loop) func() {
			ln, err := l.Serve(pipelistener.New(), nil)
			if err != nil {
				t.Error(err)
			}
			ln.Unref()
			return func() { ln.Close() }
		},
		"Conn.Close": func(l *eventloop.Loop) func() {
			near, _ := net.Pipe()
			c, err := l.Adopt(struct{ net.Conn }{near}, nil)
			if err != nil {
				t.Error(err)
			}
			c.Unref()
			return func() { c.Close() }
		},
		"Dial": func(l *eventloop.Loop) func() {
			return func() { l.Dial(context.Background(), "tcp", "127.0.0.1:1", nil) }
		},
		"LookupNetIP": func(l *eventloop.Loop) func() {
			return func() { l.LookupNetIP(context.Background(), "ip", "127.0.0.1") }
		},
		"RoundTrip": func(l *eventloop.Loop) func() {
			rt := l.HTTP().RoundTripper()
			return func() {
				req, _ := http.NewRequest("POST", "http://127.0.0.1:1", io.NopCloser(strings.NewReader("x")))
				rt.RoundTrip(req)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 1000 {
				l := eventloop.New(quiet())
				ready := make(chan func(), 1)
				l.Post(func() { ready <- open(l) })
				called := background(t, func() {
					call := <-ready
					for began := time.Now(); time.Since(began) < time.Duration(i%100)*time.Microsecond; {
					}
					call()
				})
				l.Run(context.Background()) // it may report that a dial has failed
				<-called
			}
		})
	}
}
