package looptest_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// website is an HTTP server with requests of every kind: answered at once, by a timer,
// by Work, by a task, with a body that streams in or out. Its clients are scripted.
func website(clients int) func(t *testing.T, l *eventloop.Loop) error {
	return func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(time.Millisecond, 3*time.Millisecond)
		n.Split(40)
		ln, err := n.Listen("web:80")
		if err != nil {
			return err
		}
		visits := 0
		handler := func(r *eventloop.HTTPRequest) {
			visits++
			switch r.Path() {
			case "/now":
				r.RespondText(200, "now")
			case "/later":
				l.AfterFunc(time.Millisecond, func() { r.RespondText(200, "later") })
			case "/task":
				l.Go(r.Context(), func(t *eventloop.Task) error {
					if err := t.Sleep(time.Millisecond); err != nil {
						return err
					}
					return r.RespondText(200, "task")
				})
			case "/body":
				size := 0
				r.OnBody(func(p []byte) { size += len(p) }, func(err error) {
					if err != nil {
						t.Error(err)
					}
					r.RespondText(200, strconv.Itoa(size))
				})
			}
		}
		s, err := l.ServeHTTP(ln, handler, &eventloop.HTTPServerConfig{MaxInlineBody: 1})
		if err != nil {
			return err
		}
		for i := range clients {
			n.ScriptClient(fmt.Sprintf("client%d", i), "web:80",
				looptest.Request("GET", "/now", ""),
				looptest.ExpectResponse(200, "now"),
				looptest.Request("GET", "/later", ""), // two in a pipeline
				looptest.Request("GET", "/task", ""),
				looptest.ExpectResponse(200, "later"),
				looptest.ExpectResponse(200, "task"),
				looptest.Delay(time.Millisecond),
				looptest.Request("POST", "/body", fmt.Sprintf("%0100d", i)),
				looptest.ExpectResponse(200, "100"),
			)
		}
		l.AfterFunc(time.Second, func() {
			if visits != 4*clients {
				t.Errorf("%d visits", visits)
			}
			s.Close()
		})
		return nil
	}
}

func TestASeedHasOneOrderWithAnHTTPServer(t *testing.T) { repeats(t, website(5)) }

func TestAnHTTPServerAnswersInEveryOrder(t *testing.T) { looptest.Seeds(t, orders, website(4)) }
