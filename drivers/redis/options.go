package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"time"
)

// Options are the settings of a [Client]. They are copied. The zero Options, and nil
// where an *Options is asked for, are a server on this machine.
type Options struct {
	// Addr is the address of the server: "host:port", or the path of a unix socket.
	// Empty: "127.0.0.1:6379".
	Addr string

	// Network is "tcp", "tcp4", "tcp6" or "unix". Empty: "unix" if Addr is an absolute
	// path, else "tcp".
	Network string

	// Username and Password authenticate each connection. With a Password alone the
	// user is "default".
	Username, Password string

	// Name names each connection, see CLIENT LIST. It is printable ASCII without spaces.
	// Empty: none.
	Name string

	// DB is the number of the database.
	DB int

	// TLS, if not nil, makes each connection a TLS connection. If ServerName is empty,
	// it is the host of Addr.
	TLS *tls.Config

	// Dial connects instead of the loop's resolver and dialer, see
	// [eventloop.ConnConfig].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// RESP2 uses version 2 of the protocol. By default version 3 is tried first.
	RESP2 bool

	// Timeout bounds each command, from the call to its reply, including the time in
	// which there is no connection. A command that waits at the server, such as BLPOP,
	// has the time that it may wait in addition; if it may wait without end, it has no
	// bound. In a Session those behind it have that time, too. The context of a command
	// can only make it shorter. Zero: 5 s. Negative: none.
	Timeout time.Duration

	// ConnectTimeout bounds connecting, together with the handshakes of TLS and of
	// Redis. Zero: 5 s. Negative: none.
	ConnectTimeout time.Duration

	// MinBackoff is the time between the first attempts to connect that fail. It
	// doubles with each attempt, up to MaxBackoff, and each time is made up to a half
	// shorter at random. Zero: 50 ms and 5 s. Neither may be negative, nor MinBackoff
	// more than MaxBackoff.
	MinBackoff, MaxBackoff time.Duration

	// MaxPending bounds the commands that have no reply yet, and MaxPendingBytes the
	// sum of their sizes. More commands fail with [eventloop.ErrBufferFull]. Zero:
	// 128 K commands and 64 MB. Negative: no bound.
	MaxPending, MaxPendingBytes int

	// MaxReplyBytes bounds the memory of one reply. A larger one ends the connection
	// with [ErrTooLarge]. An element of an array counts 64 bytes in addition to its
	// text. Zero: 64 MB. Negative: no bound.
	MaxReplyBytes int

	// MaxBlocking bounds the connections of blocking commands such as BLPOP, each of
	// which has one to itself while it waits. More blocking commands wait for a
	// connection, each within its time. Zero: 16. It must not be negative.
	MaxBlocking int

	// OnState, if not nil, is called on the loop each time that the client's
	// connection is up, which means that its handshake is complete, with a nil err;
	// and each time that it is lost or an attempt to connect has failed, with the
	// reason.
	OnState func(up bool, err error)

	// OnSendError, if not nil, is called on the loop with the failure of a command
	// that was given to Client.Send: an error reply, or an error of the connection,
	// once for all commands that it concerns. If nil, such failures are dropped.
	OnSendError func(err error)
}

const (
	defaultAddr            = "127.0.0.1:6379"
	defaultTimeout         = 5 * time.Second
	defaultMinBackoff      = 50 * time.Millisecond
	defaultMaxBackoff      = 5 * time.Second
	defaultMaxPending      = 128 << 10
	defaultMaxPendingBytes = 64 << 20
	defaultMaxReplyBytes   = 64 << 20
	defaultMaxBlocking     = 16
)

// withDefaults returns a copy of o in which defaults are resolved. What is switched off
// is the greatest int, or a zero duration.
func (o *Options) withDefaults() (*Options, error) {
	c := Options{}
	if o != nil {
		c = *o
	}
	if c.Addr == "" {
		c.Addr = defaultAddr
	}
	if c.Network == "" {
		c.Network = "tcp"
		if c.Addr[0] == '/' {
			c.Network = "unix"
		}
	}
	switch {
	case c.Network != "tcp" && c.Network != "tcp4" && c.Network != "tcp6" && c.Network != "unix":
		return nil, fmt.Errorf("redis: %w", net.UnknownNetworkError(c.Network))
	case c.DB < 0:
		return nil, fmt.Errorf("redis: database %d", c.DB)
	case c.Username != "" && c.Password == "":
		return nil, errors.New("redis: a username without a password")
	case c.MinBackoff < 0 || c.MaxBackoff < 0 || c.MaxBlocking < 0:
		return nil, errors.New("redis: negative backoff or MaxBlocking")
	case c.MaxBackoff > 0 && c.MinBackoff > c.MaxBackoff:
		return nil, fmt.Errorf("redis: MinBackoff %v is more than MaxBackoff %v", c.MinBackoff, c.MaxBackoff)
	case strings.ContainsFunc(c.Name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("redis: name %q of a connection, want printable ASCII without spaces", c.Name)
	}
	if c.Network != "unix" && c.Dial == nil {
		if _, _, err := net.SplitHostPort(c.Addr); err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
	}
	c.Timeout = min(bound(c.Timeout, defaultTimeout, 0), longest)
	c.ConnectTimeout = min(bound(c.ConnectTimeout, defaultTimeout, 0), longest)
	c.MinBackoff = bound(c.MinBackoff, defaultMinBackoff, 0)
	c.MinBackoff = min(c.MinBackoff, longest)
	c.MaxBackoff = min(max(bound(c.MaxBackoff, defaultMaxBackoff, 0), c.MinBackoff), longest)
	const none = int(^uint(0) >> 1)
	c.MaxPending = bound(c.MaxPending, defaultMaxPending, none)
	c.MaxPendingBytes = bound(c.MaxPendingBytes, defaultMaxPendingBytes, none)
	c.MaxReplyBytes = bound(c.MaxReplyBytes, defaultMaxReplyBytes, none)
	c.MaxBlocking = bound(c.MaxBlocking, defaultMaxBlocking, none)
	return &c, nil
}

// longest is the longest timeout. Sums of a few do not overflow.
const longest time.Duration = math.MaxInt64 / 8

// bound resolves a setting: zero is byDefault, and what is negative is none.
func bound[T int | time.Duration](n, byDefault, none T) T {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return none
	}
	return n
}
