package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/onloop/eventloop"
)

const (
	maxMessage   = 4 << 10          // bytes of a message, however many frames it has
	maxPending   = 256 << 10        // bytes that wait for a client that reads slowly
	silence      = 75 * time.Second // without even a pong: the client is gone
	takeTimeout  = 10 * time.Second // for a client that accepts none of the pending output
	closeTimeout = 5 * time.Second  // for the client's reply to our close frame
)

// A socket is one end of a WebSocket (RFC 6455) on a connection of the loop: upgrade
// makes the server's end, connect the client's. It is used only on the loop, where its
// callbacks also run.
//
// The codec is github.com/gobwas/ws, because it is only a codec: it parses and checks
// frames, reads from any io.Reader and leaves waiting to its caller. Libraries that offer
// a connection with a blocking read need a goroutine per client. This file adds the rest:
// frames that arrive in pieces, messages in fragments, and the ways to end a connection.
type socket struct {
	conn    *eventloop.Conn
	onText  func(text string) // with each message, which is valid UTF-8
	onClose func()            // called once, last, however the connection ended

	state   ws.State         // tells whether a message is incomplete
	partial []byte           // the beginning of a frame
	message []byte           // the fragments of a message so far
	ending  bool             // a close frame was sent, which is the last frame
	overdue *eventloop.Timer // waits for the client's close frame, if ours was first
}

// upgrade makes a WebSocket of the connection of r (RFC 6455 section 4.2). If it
// cannot, it responds to r with an error and returns nil.
//
// Set the callbacks of the socket before you return to the loop, which calls none of
// them earlier. You may also write at once: the output is sent after the handshake.
func upgrade(r *eventloop.HTTPRequest) *socket {
	key := r.Header("Sec-WebSocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	switch {
	case r.Header("Sec-WebSocket-Version") != "13":
		refuse(r, 426, "this is a WebSocket",
			eventloop.HTTPHeader{Name: "Upgrade", Value: "websocket"},
			eventloop.HTTPHeader{Name: "Connection", Value: "Upgrade"},
			eventloop.HTTPHeader{Name: "Sec-WebSocket-Version", Value: "13"})
		return nil
	case r.Method() != "GET", !strings.EqualFold(r.Header("Upgrade"), "websocket"), err != nil, len(nonce) != 16:
		refuse(r, 400, "not a WebSocket handshake")
		return nil
	case !sameOrigin(r):
		refuse(r, 403, "this page may not come here")
		return nil
	}
	s := &socket{state: ws.StateServerSide}
	s.conn, err = r.Upgrade(eventloop.HTTPHeaders{
		{Name: "Upgrade", Value: "websocket"},
		{Name: "Sec-WebSocket-Accept", Value: acceptOf(key)},
	}, s.config())
	if err != nil { // HTTP/1.0, or no "Connection: Upgrade"
		refuse(r, 400, err.Error())
		return nil
	}
	return s
}

// acceptOf returns the value with which a server accepts a handshake with the given key.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// config returns the configuration of the connection of s.
func (s *socket) config() *eventloop.ConnConfig {
	return &eventloop.ConnConfig{
		OnData:       func(_ *eventloop.Conn, data []byte) { s.received(data) },
		OnClose:      func(*eventloop.Conn) { s.closed() },
		ReadTimeout:  silence,
		WriteTimeout: takeTimeout,
		MaxBuffered:  maxPending,
	}
}

func refuse(r *eventloop.HTTPRequest, status int, why string, headers ...eventloop.HTTPHeader) {
	r.Respond(status, headers, []byte(why+"\n")) // an error means that the client has disconnected
}

// sameOrigin reports whether r comes from a page of this server, or not from a browser.
// Browsers let every page of the web open a WebSocket to every server, with the cookies
// of the user, so the server must check.
func sameOrigin(r *eventloop.HTTPRequest) bool {
	origin := r.Header("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Header("Host"))
}

// send sends a frame that textFrame returned. It never waits: a client that reads more
// slowly than the others send is cut off when too much output is pending.
func (s *socket) send(frame []byte) {
	if s.ending {
		return
	}
	if _, err := s.conn.Write(frame); errors.Is(err, eventloop.ErrBufferFull) {
		s.conn.Abort()
	} // after any other error, the loop will call onClose
}

// sendFrame sends a frame. A client must mask its frames (RFC 6455 section 5.3).
func (s *socket) sendFrame(f ws.Frame) {
	if s.state.ClientSide() {
		f = ws.MaskFrame(f)
	}
	s.send(ws.MustCompileFrame(f))
}

// textFrame returns a message that can be sent to any number of sockets.
func textFrame(text string) []byte { return ws.MustCompileFrame(ws.NewTextFrame([]byte(text))) }

// end begins the closing handshake: the client responds with a close frame, too.
func (s *socket) end(code ws.StatusCode, reason string) {
	if s.ending {
		return
	}
	s.sendClose(ws.NewCloseFrameBody(code, reason))
	s.overdue = s.conn.Loop().AfterFunc(closeTimeout, func() { s.conn.Abort() })
}

// fail ends a connection to a client that violates the protocol. It sends the reason, and
// does not wait for the client (RFC 6455 section 7.1.7).
func (s *socket) fail(code ws.StatusCode, reason string) {
	s.sendClose(ws.NewCloseFrameBody(code, reason))
	s.conn.Close() // sends the pending output first
}

func (s *socket) sendClose(body []byte) {
	s.sendFrame(ws.NewCloseFrame(body))
	s.ending = true
}

func (s *socket) closed() {
	if s.overdue != nil {
		s.overdue.Stop()
	}
	s.onClose()
}

// received handles the frames in the input, and keeps the beginning of an incomplete
// frame.
func (s *socket) received(data []byte) {
	if len(s.partial) > 0 {
		s.partial = append(s.partial, data...)
		data = s.partial
	}
	for !s.conn.Closed() { // a frame may be the last
		h, payload, rest, err := s.cut(data)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			s.fail(codeOf(err), err.Error())
			return
		}
		s.frame(h, payload)
		data = rest
	}
	if len(data) == 0 {
		s.partial = nil // a client that is silent holds no memory
		return
	}
	s.partial = append(s.partial[:0], data...) // data is valid only during the callback
}

var errTooBig = errors.New("message too big")

// cut cuts the first frame off data, and unmasks it in place. It detects an invalid frame
// by its header, before the rest has arrived. It returns io.ErrUnexpectedEOF if the frame
// is incomplete.
func (s *socket) cut(data []byte) (h ws.Header, payload, rest []byte, err error) {
	r := bytes.NewReader(data)
	h, err = ws.ReadHeader(r)
	if err == io.EOF { // between the parts of a header
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = ws.CheckHeader(h, s.state) // masked, in sequence, known, ...
	}
	switch {
	case err != nil:
	case h.Length > int64(maxMessage-len(s.message)) && h.OpCode.IsData():
		err = errTooBig
	case h.Length > int64(r.Len()):
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return h, nil, nil, err
	}
	data = data[len(data)-r.Len():]
	payload, rest = data[:h.Length], data[h.Length:]
	ws.Cipher(payload, h.Mask, 0)
	return h, payload, rest, nil
}

func codeOf(err error) ws.StatusCode {
	if err == errTooBig {
		return ws.StatusMessageTooBig
	}
	return ws.StatusProtocolError
}

// frame handles a frame. Frames of a client that has not received our close frame yet are
// still handled, but get no reply.
func (s *socket) frame(h ws.Header, payload []byte) {
	switch {
	case h.OpCode == ws.OpClose:
		s.closeFrame(payload)
	case h.OpCode == ws.OpPong: // its arrival was enough: see silence
	case h.OpCode == ws.OpPing:
		s.sendFrame(ws.NewPongFrame(payload))
	case h.OpCode == ws.OpBinary:
		s.fail(ws.StatusUnsupportedData, "only text is spoken here")
	case !h.Fin:
		s.state = s.state.Set(ws.StateFragmented)
		s.message = append(s.message, payload...)
	default: // a whole message, or its last fragment
		text := string(s.message) + string(payload)
		s.state = s.state.Clear(ws.StateFragmented)
		s.message = nil
		if !utf8.ValidString(text) { // as a whole: a fragment may end within a character
			s.fail(ws.StatusInvalidFramePayloadData, "text is UTF-8")
			return
		}
		s.onText(text)
	}
}

// closeFrame ends the connection: the client has responded to our close frame, or it gets
// its own close frame back.
func (s *socket) closeFrame(body []byte) {
	if len(body) > 0 {
		if err := ws.CheckCloseFrameData(ws.ParseCloseFrameData(body)); err != nil {
			s.fail(ws.StatusProtocolError, err.Error())
			return
		}
	}
	s.sendClose(body)
	s.conn.Close()
}
