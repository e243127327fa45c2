package eventloop

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onloop/eventloop/internal/http1"
)

// An HTTPHeader is one field of an HTTP message.
type HTTPHeader struct {
	Name, Value string
}

// HTTPHeaders holds the fields of an HTTP message in order, including duplicates. Names
// are compared without regard to the case of ASCII letters (RFC 9110, section 5.1). Nil
// HTTPHeaders are empty and ready to use.
type HTTPHeaders []HTTPHeader

// ErrHTTPHeader matches the error of a call with a field that must not be sent: its name
// is not a token, or its value contains CR, LF, NUL or another control character except
// the tab (RFC 9110, section 5.5).
var ErrHTTPHeader = errors.New("eventloop: invalid header field")

// Get returns the value of the first field with that name, or "".
func (h HTTPHeaders) Get(name string) string {
	v, _ := h.lookup(name)
	return v
}

// lookup is Get, but also reports whether there is such a field.
func (h HTTPHeaders) lookup(name string) (value string, ok bool) {
	for i := range h {
		if http1.EqualFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

// Values returns the values of all fields with that name, in order, or nil if there are
// none. It does not split values at commas.
func (h HTTPHeaders) Values(name string) []string {
	var values []string
	for i := range h {
		if http1.EqualFold(h[i].Name, name) {
			values = append(values, h[i].Value)
		}
	}
	return values
}

// Add appends a field.
func (h *HTTPHeaders) Add(name, value string) {
	*h = append(*h, HTTPHeader{name, value})
}

// Set replaces the first field with that name and removes the others. If there is none,
// Set appends the field.
func (h *HTTPHeaders) Set(name, value string) {
	for i := range *h {
		if http1.EqualFold((*h)[i].Name, name) {
			rest := (*h)[i+1:]
			rest.Del(name)
			*h = (*h)[:i+1+len(rest)]
			(*h)[i] = HTTPHeader{name, value}
			return
		}
	}
	h.Add(name, value)
}

// Del removes all fields with that name.
func (h *HTTPHeaders) Del(name string) {
	*h = slices.DeleteFunc(*h, func(f HTTPHeader) bool { return http1.EqualFold(f.Name, name) })
}

// names returns the names of the fields, each once, separated by commas.
func (h HTTPHeaders) names() string {
	var names []string
	for i, f := range h {
		if _, before := h[:i].lookup(f.Name); !before {
			names = append(names, f.Name)
		}
	}
	return strings.Join(names, ", ")
}

// validate returns an error that matches ErrHTTPHeader for the first field that must not
// be sent.
func (h HTTPHeaders) validate() error {
	for i := range h {
		if !http1.IsToken(h[i].Name) {
			return fmt.Errorf("%w: name %q", ErrHTTPHeader, h[i].Name)
		}
		if !http1.IsFieldValue(h[i].Value) {
			return fmt.Errorf("%w: value of %s: %q", ErrHTTPHeader, h[i].Name, h[i].Value)
		}
	}
	return nil
}

// hasToken reports whether one of the fields with that name contains token as a list
// element, as in "Connection: close, TE".
func (h HTTPHeaders) hasToken(name, token string) bool {
	for i := range h {
		if http1.EqualFold(h[i].Name, name) && http1.HasElement(h[i].Value, token) {
			return true
		}
	}
	return false
}

// appendTo appends the lines of the fields to b.
func (h HTTPHeaders) appendTo(b []byte) []byte {
	for i := range h {
		b = append(append(append(append(b, h[i].Name...), ": "...), h[i].Value...), "\r\n"...)
	}
	return b
}
