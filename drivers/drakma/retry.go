package drakma

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

const (
	defaultMinWait = 100 * time.Millisecond
	defaultMaxWait = 30 * time.Second
)

// Retry configures the retries of a request. The zero Retry adds no retries to those of the
// HTTP client of the loop: see [eventloop.HTTPClient.Do].
//
// A request can be repeated if its method is idempotent (RFC 9110 section 9.2.2) or it has
// the field Idempotency-Key, and if its body can be sent again. The client repeats it if the
// response has status 429 or 503, if the server could not be reached (a failed lookup,
// [eventloop.ErrRefused], [eventloop.ErrReset], [eventloop.ErrTimeout] of the client's
// settings), or if the server ended the connection too early. The client does not repeat a
// request after [Request.Stream] has delivered data.
type Retry struct {
	// Max is the maximum number of retries of a request. Zero or negative: none.
	Max int

	// MinWait is the delay before the first retry. It doubles with each retry, up to
	// MaxWait, and is shortened by up to a half at random. Zero or negative: 100 ms.
	MinWait time.Duration

	// MaxWait is the maximum delay before a retry. If the field Retry-After of a response
	// requests a longer delay, the response is the result at once. Otherwise the request is
	// repeated after exactly the requested delay. Zero or negative: 30 s.
	MaxWait time.Duration
}

// backoff returns the delay before retry n, counted from 0.
func (r Retry) backoff(n int) time.Duration {
	wait, limit := r.MinWait, r.MaxWait
	if wait <= 0 {
		wait = defaultMinWait
	}
	if limit <= 0 {
		limit = defaultMaxWait
	}
	for ; n > 0 && wait < limit; n-- {
		wait *= 2
	}
	wait = min(wait, limit)
	return wait/2 + rand.N(wait/2+1)
}

// after returns the delay that a response requests in Retry-After, or else the backoff, and
// whether that delay is allowed.
func (r Retry) after(value string, n int, now time.Time) (time.Duration, bool) {
	wait, ok := retryAfter(value, now)
	if !ok {
		return r.backoff(n), true
	}
	limit := r.MaxWait
	if limit <= 0 {
		limit = defaultMaxWait
	}
	return wait, wait <= limit
}

// retryAfter parses the field Retry-After: seconds or a date.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			seconds = 1<<31 - 1 // longer than any limit
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(date.Sub(now), 0), true
}

// isTransient reports whether another attempt may succeed.
func isTransient(err error) bool {
	if _, ok := errors.AsType[*eventloop.PanicError](err); ok {
		return false // even if its value is one of the errors below
	}
	for _, e := range []error{eventloop.ErrTimeout, eventloop.ErrRefused, eventloop.ErrReset, eventloop.ErrDNS, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isIdempotent reports whether a request may be sent twice.
func isIdempotent(method string, headers eventloop.HTTPHeaders) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND", "SEARCH", "REPORT":
		return true
	}
	return headers.Get("Idempotency-Key") != ""
}
