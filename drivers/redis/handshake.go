package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A handshake prepares a connection: the version of the protocol, the user, the name and
// the database. Until it is complete, the connection carries no other commands.
//
// The first write contains HELLO and SELECT. If the server does not know HELLO, or version
// 3 of the protocol, a second write contains the commands that replace HELLO, and SELECT
// again.
type handshake struct {
	link    *link
	missing int   // the number of missing replies
	done    bool  // all replies have arrived
	old     error // the reply to HELLO of a server that does not know it
	err     error // the first other failure, a *refusal
}

// A step is a command of a handshake. It waits for its reply.
type step struct {
	*handshake
	hello, sel bool
}

func (h *handshake) begin() {
	if h.link.o.RESP2 {
		h.beginOld()
		return
	}
	o := h.link.o
	hello := []any{"HELLO", 3}
	if o.Password != "" {
		hello = append(hello, "AUTH", o.user(), o.Password)
	}
	if o.Name != "" {
		hello = append(hello, "SETNAME", o.Name)
	}
	var out []byte
	out = h.add(out, step{h, true, false}, hello...)
	if o.DB != 0 {
		out = h.add(out, step{h, false, true}, "SELECT", o.DB)
	}
	h.link.conn.Write(out)
}

func (o *Options) user() string {
	if o.Username == "" {
		return "default"
	}
	return o.Username
}

// beginOld is like begin, for version 2 of the protocol.
func (h *handshake) beginOld() {
	o := h.link.o
	h.old, h.err = nil, nil
	var out []byte
	switch {
	case o.Username != "":
		out = h.add(out, step{handshake: h}, "AUTH", o.Username, o.Password)
	case o.Password != "":
		out = h.add(out, step{handshake: h}, "AUTH", o.Password)
	}
	if o.Name != "" {
		out = h.add(out, step{handshake: h}, "CLIENT", "SETNAME", o.Name)
	}
	if o.DB != 0 {
		out = h.add(out, step{handshake: h}, "SELECT", o.DB)
	}
	if h.missing == 0 { // a failure must show in the handshake, not at the first command
		out = h.add(out, step{handshake: h}, "PING")
	}
	h.link.conn.Write(out)
}

func (h *handshake) add(out []byte, s step, args ...any) []byte {
	out, _ = resp.AppendCommand(out, args...)
	h.missing++
	h.link.inFlight.push(request{to: s, replies: 1})
	return out
}

// answer handles the reply to a step.
func (s step) answer(v resp.Value) {
	h := s.handshake
	h.missing--
	if want := s.wants(); v.Kind != resp.Error && v.Kind != want {
		h.link.end(&badReply{fmt.Errorf("a reply of type %v in the handshake, not %v", Kind(v.Kind), Kind(want)), ErrMalformed})
		return
	}
	if v.Kind == resp.Error {
		err := &Error{h.link.o.withoutPassword(v.Str)}
		switch {
		case s.hello && isUnknownHello(err):
			h.old = err
		case h.old != nil && s.sel: // SELECT preceded the authentication
		case h.err == nil:
			h.err = &refusal{err}
		}
	}
	switch {
	case h.missing > 0:
	case h.err != nil:
		h.link.end(h.err)
	case h.old != nil:
		h.beginOld()
	default:
		h.done = true
	}
}

// withoutPassword removes the password from an error reply: a server that does not know
// a command repeats its arguments.
func (o *Options) withoutPassword(reply string) string {
	if o.Password == "" {
		return reply
	}
	return strings.ReplaceAll(reply, o.Password, "***")
}

func (s step) fail(error) {}

// wants returns the expected type of the reply. The type exposes a peer that echoes its
// input, such as a connection to itself.
func (s step) wants() resp.Kind {
	if s.hello {
		return resp.Map
	}
	return resp.Simple
}

// isUnknownHello reports whether err is the reply to HELLO 3 of a server that supports only
// version 2 of the protocol.
func isUnknownHello(err *Error) bool {
	return err.Code() == "NOPROTO" || err.Code() == "ERR" && strings.Contains(strings.ToLower(err.Text), "unknown command")
}

// A refusal is an error reply of the server to the handshake.
type refusal struct{ reply *Error }

func (e *refusal) Error() string { return "the server refuses the connection: " + e.reply.Text }
func (e *refusal) Unwrap() error { return e.reply }

// isPermanent reports whether a retry after err cannot succeed: the error is caused by the
// options, not by the network or the state of the server.
func isPermanent(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return false
	}
	switch r.reply.Code() {
	case "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN":
		return false
	}
	return !strings.Contains(r.reply.Text, "max number of clients")
}
