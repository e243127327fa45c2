package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gobwas/ws"
	"github.com/onloop/eventloop"
)

// connect opens a WebSocket to url, ws or wss (RFC 6455 section 4.1), and calls ready on
// the loop when it is open, or with an error. Set the callbacks of the socket before that:
// none of them is called earlier. If connect fails, none is called at all, except onClose
// if the server accepted the upgrade with an invalid response.
func connect(ctx context.Context, l *eventloop.Loop, url string, s *socket, ready func(err error)) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	s.state = ws.StateClientSide
	l.HTTP().Do(ctx, "GET", url, &eventloop.HTTPOptions{
		Headers: eventloop.HTTPHeaders{
			{Name: "Upgrade", Value: "websocket"},
			{Name: "Sec-WebSocket-Version", Value: "13"},
			{Name: "Sec-WebSocket-Key", Value: key},
		},
		Upgrade: s.config(),
	}).Then(func(res *eventloop.HTTPResponse, err error) {
		switch {
		case err != nil:
		case res.Conn == nil:
			err = fmt.Errorf("%s: %d %s: %s", url, res.Status, res.Reason, bytes.TrimSpace(res.Body))
		case !strings.EqualFold(res.Header("Upgrade"), "websocket"), res.Header("Sec-WebSocket-Accept") != acceptOf(key),
			res.Header("Sec-WebSocket-Extensions") != "", res.Header("Sec-WebSocket-Protocol") != "": // we asked for none
			res.Conn.Abort()
			err = errors.New(url + ": no WebSocket handshake")
		default:
			s.conn = res.Conn
		}
		ready(err)
	})
}

// member joins a room until the end of in. It sends each line of in as a message, and writes
// the messages that it receives to out.
func member(url string, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	var failed error
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s := &socket{}
		var input *eventloop.Reader
		s.onText = func(text string) { fmt.Fprintln(out, text) }
		s.onClose = func() {
			if input != nil {
				input.Stop()
			}
		}
		connect(ctx, l, url, s, func(err error) {
			if failed = err; err == nil {
				input = s.sayLines(in)
			}
		})
		return nil
	})
	return errors.Join(err, failed)
}

// sayLines sends each line of in as a message, and leaves at its end.
func (s *socket) sayLines(in io.Reader) *eventloop.Reader {
	var partial []byte
	return eventloop.ReadFrom(s.conn.Loop(), in, func(data []byte) {
		partial = append(partial, data...)
		for {
			line, rest, whole := bytes.Cut(partial, []byte("\n"))
			if !whole {
				return
			}
			s.sendFrame(ws.NewTextFrame(bytes.Clone(line)))
			partial = rest
		}
	}, func(error) { s.end(ws.StatusNormalClosure, "") })
}
