package eventloop

import (
	"io"

	"github.com/onloop/eventloop/internal/httpclient"
)

// This file decides whether a request is sent again. depart asks, and httpSlot.conclude
// then has the slot dial a new connection. Whether a body can be read again: see
// canSendAgain.

// shouldRetry reports whether the request may be sent again after err: it was never
// sent, or it is idempotent and the server has ended a connection that was kept
// without a byte of a response.
func (c *httpCall) shouldRetry(conn *httpclient.Conn, err error) bool {
	switch {
	case c.isAborted():
		return false
	case err == httpclient.ErrStale:
		return true
	}
	return !c.retried && conn.Reused() && !conn.Answered() && idempotent(c.method) &&
		(err == io.EOF || isReset(err)) && c.canSendAgain()
}

// idempotent reports whether a method is, by RFC 9110 section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
