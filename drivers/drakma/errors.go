package drakma

import (
	"fmt"
)

// A StatusError says that the status of a response is 400 or more: see [Request.Check].
type StatusError struct {
	// Response is the response. Its Body is complete. After Save and Stream it is the
	// beginning, at most 64 KB.
	Response *Response

	// Err is the error of reading the body, or nil. After an error Body is nil; after Save
	// and Stream it is the part that arrived.
	Err error
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("drakma: %s: status %d %s", e.Response.URL, e.Response.Status, e.Response.Reason)
	if e.Err != nil {
		s += ", body: " + e.Err.Error()
	}
	return s
}

func (e *StatusError) Unwrap() error { return e.Err }

// A CharsetError says that a text could not be converted: its encoding is unknown, the text
// is not valid in the declared encoding, or the encoding lacks a character of a parameter.
type CharsetError struct {
	Charset  string // as named by the response or the caller
	Reason   string
	Response *Response // with its Body; nil if the error concerns the request
}

func (e *CharsetError) Error() string {
	return fmt.Sprintf("drakma: charset %q: %s", e.Charset, e.Reason)
}

// A DecodeError says that the body of a response could not be decoded as JSON.
type DecodeError struct {
	Err      error // of encoding/json
	Response *Response
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("drakma: %s: %v", e.Response.URL, e.Err)
}

func (e *DecodeError) Unwrap() error { return e.Err }

// A ChallengeError says that the client cannot respond to the server's challenge for digest
// authorization: it is malformed, has an unknown algorithm, or requires auth-int for a body
// that is not in memory.
type ChallengeError struct {
	Reason   string
	Response *Response // with status 401
}

func (e *ChallengeError) Error() string {
	return fmt.Sprintf("drakma: %s: digest authorization: %s", e.Response.URL, e.Reason)
}
