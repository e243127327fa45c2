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
	takeTimeout  = 10 * time.Second // for a client that takes nothing of what waits
	closeTimeout = 5 * time.Second  // for the client's answer to our close frame
)

// A socket is an end of a WebSocket (RFC 6455) on a connection of the loop: upgrade
// makes the server's, connect the client's. It is used on the loop only, where its
// callbacks run too.
//
// The codec is github.com/gobwas/ws, because it is nothing else: it knows frames
// and their rules, reads from any io.Reader and leaves waiting to its caller.
// Libraries that offer a connection with a blocking read want a goroutine for each
// client. Ours is the rest: frames that arrive in pieces, messages that come in
// fragments, and the ways to end.
type socket struct {
	conn    *eventloop.Conn
	onText  func(text string) // with each message, which is valid UTF-8
	onClose func()            // once, last, however it ended

	state   ws.State         // tells whether a message is half there
	partial []byte           // the beginning of a frame
	message []byte           // the fragments of a message so far
	ending  bool             // a close frame is sent: the last one
	overdue *eventloop.Timer // the client's close frame, if ours was the first
}

// upgrade makes a WebSocket of the connection of r (RFC 6455 section 4.2). If it
// cannot, it answers r and returns nil.
//
// Set the callbacks of the socket before you return to the loop, which calls none
// of them earlier. You may write at once, too: that is sent after the handshake.
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

// acceptOf returns the proof that a server has understood the handshake with that key.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// config returns what the connection of s is to do.
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
	r.Respond(status, headers, []byte(why+"\n")) // an error means that the client is gone
}

// sameOrigin reports whether r comes from a page of this server, or from no
// browser. Browsers let every page of the web open a WebSocket to every server,
// with the cookies of the user: it is the server that has to look.
func sameOrigin(r *eventloop.HTTPRequest) bool {
	origin := r.Header("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Header("Host"))
}

// send sends a frame, as textFrame makes it. It never waits: a client that reads
// more slowly than the others talk is cut off when too much waits for it.
func (s *socket) send(frame []byte) {
	if s.ending {
		return
	}
	if _, err := s.conn.Write(frame); errors.Is(err, eventloop.ErrBufferFull) {
		s.conn.Abort()
	} // after any other error onClose is on its way
}

// sendFrame sends a frame, which a client has to mask (RFC 6455 section 5.3).
func (s *socket) sendFrame(f ws.Frame) {
	if s.state.ClientSide() {
		f = ws.MaskFrame(f)
	}
	s.send(ws.MustCompileFrame(f))
}

// textFrame returns a message that can be sent to any number of sockets.
func textFrame(text string) []byte { return ws.MustCompileFrame(ws.NewTextFrame([]byte(text))) }

// end begins the closing handshake: the client answers with a close frame, too.
func (s *socket) end(code ws.StatusCode, reason string) {
	if s.ending {
		return
	}
	s.sendClose(ws.NewCloseFrameBody(code, reason))
	s.overdue = s.conn.Loop().AfterFunc(closeTimeout, func() { s.conn.Abort() })
}

// fail ends a connection to a client that breaks the rules. It is told why, and
// not waited for (RFC 6455 section 7.1.7).
func (s *socket) fail(code ws.StatusCode, reason string) {
	s.sendClose(ws.NewCloseFrameBody(code, reason))
	s.conn.Close() // after what was written is sent
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

// received handles the frames in what has arrived, and keeps the beginning of the
// one that is not complete.
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
	s.partial = append(s.partial[:0], data...) // which is not ours when we return
}

var errTooBig = errors.New("message too big")

// cut cuts the first frame off data, and unmasks it where it is. What is wrong
// with a frame is found out from its header, before the rest has arrived. The
// error is io.ErrUnexpectedEOF if more has to come.
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

// frame handles a frame. A client that has not seen our close frame yet is still
// heard, and not answered.
func (s *socket) frame(h ws.Header, payload []byte) {
	switch {
	case h.OpCode == ws.OpClose:
		s.closeFrame(payload)
	case h.OpCode == ws.OpPong: // that it came was enough: see silence
	case h.OpCode == ws.OpPing:
		s.sendFrame(ws.NewPongFrame(payload))
	case h.OpCode == ws.OpBinary:
		s.fail(ws.StatusUnsupportedData, "only text is spoken here")
	case !h.Fin:
		s.state = s.state.Set(ws.StateFragmented)
		s.message = append(s.message, payload...)
	default: // the whole of a message, or its last fragment
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

// closeFrame ends the connection: the client has answered our close frame, or it
// gets the same one back.
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
