package eventloop

import (
	"io"

	"github.com/onloop/eventloop/internal/httpclient"
)

// This file decides whether to retry a request. endExchange calls shouldRetry, and then
// httpSlot.conclude makes the slot dial a new connection. canSendAgain decides whether the
// body can be read again.

// shouldRetry reports whether the request may be sent again after err. It may if it was
// never sent, or if it is idempotent and the server has ended a reused connection before
// the first byte of a response.
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

// idempotent reports whether a method is idempotent by RFC 9110 section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
