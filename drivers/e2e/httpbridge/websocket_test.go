package httpbridge

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/onloop/eventloop"
)

// The library waits for goroutines of its own, so it is not for tasks.
func TestWebSocketClientWorksOverTheRoundTripper(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(2 << 20)
		for {
			kind, message, err := c.Read(bg)
			if err != nil {
				return
			}
			c.Write(bg, kind, message)
		}
	}))
	defer server.Close()
	run(t, nil, func(l *eventloop.Loop) *eventloop.Future[struct{}] {
		return eventloop.Work(bg, l, func(context.Context) (struct{}, error) {
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			c, _, err := websocket.Dial(ctx, server.URL, &websocket.DialOptions{HTTPClient: &http.Client{Transport: l.HTTP().RoundTripper()}})
			cancel() // it is for the handshake
			if err != nil {
				return struct{}{}, err
			}
			c.SetReadLimit(2 << 20)
			for _, size := range []int{1, 1000, 1 << 20} {
				message := bytes.Repeat([]byte{'x'}, size)
				if err := c.Write(bg, websocket.MessageBinary, message); err != nil {
					return struct{}{}, err
				}
				_, got, err := c.Read(bg)
				if err != nil || !bytes.Equal(got, message) {
					t.Errorf("%d bytes of %d, %v", len(got), size, err)
				}
			}
			return struct{}{}, c.Close(websocket.StatusNormalClosure, "bye")
		})
	})
}
