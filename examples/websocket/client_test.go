package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/onloop/eventloop"
)

// echoServer is a WebSocket server by gobwas/ws and net/http.
func echoServer(t *testing.T, start func(http.Handler) *httptest.Server) string {
	s := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		ws.WriteFrame(c, ws.NewPingFrame([]byte("at once"))) // may come with the response
		for {
			data, op, err := wsutil.ReadClientData(c)
			if err != nil {
				return
			}
			if wsutil.WriteServerMessage(c, op, data) != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http", "ws", 1)
}

func TestAClientHearsItsEchoes(t *testing.T) {
	for _, start := range []func(http.Handler) *httptest.Server{httptest.NewServer, httptest.NewTLSServer} {
		url := echoServer(t, start)
		var heard []string
		closed := 0
		cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy, TLS: &tls.Config{InsecureSkipVerify: true}}}
		err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
			s := &socket{onClose: func() { closed++ }}
			long := strings.Repeat("x", maxMessage)
			s.onText = func(text string) {
				heard = append(heard, fmt.Sprintf("%.9s %d", text, len(text)))
				switch len(heard) {
				case 1:
					s.sendFrame(ws.NewTextFrame([]byte(long)))
				case 2:
					s.end(ws.StatusNormalClosure, "")
				}
			}
			connect(context.Background(), l, url, s, func(err error) {
				if err != nil {
					t.Error(err)
					return
				}
				s.sendFrame(ws.NewTextFrame([]byte("hello")))
			})
			return nil
		})
		if err != nil || closed != 1 || fmt.Sprint(heard) != "[hello 5 xxxxxxxxx 4096]" {
			t.Errorf("%s: heard %q, closed %d times, %v", url, heard, closed, err)
		}
	}
}

func TestAMemberInATerminal(t *testing.T) {
	s := serveTCP(t)
	bob := enter(t, s, "bob")
	in, lines := io.Pipe()
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- member("ws://"+s.ln.Addr().String()+"/chat?name=ann", in, &out) }()
	bob.hears("* ann is here")
	io.WriteString(lines, "hello\nhow are")
	bob.hears("ann: hello")
	io.WriteString(lines, " you\n")
	bob.hears("ann: how are you")
	lines.Close()
	bob.hears("* ann has left")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if want := "* ann is here\nann: hello\nann: how are you\n"; out.String() != want {
		t.Errorf("ann heard %q, want %q", out.String(), want)
	}
}

func TestAClientRejectsInvalidHandshakeResponses(t *testing.T) {
	switching := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, answer := range map[string]string{
		"refused":          "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
		"no proof":         switching + "\r\n",
		"a wrong proof":    switching + "Sec-WebSocket-Accept: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		"another protocol": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
		"no HTTP":          "hello\r\n\r\n",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(c, answer)
			c.Close()
		}))
		if err := member(strings.Replace(s.URL, "http", "ws", 1), strings.NewReader("x\n"), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
		s.Close()
	}
}
