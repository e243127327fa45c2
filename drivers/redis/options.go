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

// Options are the settings of a [Client]. [New] copies them. The zero Options, or a nil
// *Options, mean a server on this machine.
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

	// TLS, if not nil, makes each connection a TLS connection. An empty ServerName means
	// the host of Addr.
	TLS *tls.Config

	// Dial connects instead of the loop's resolver and dialer, see
	// [eventloop.ConnConfig].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// RESP2 selects version 2 of the protocol. By default the client tries version 3 first.
	RESP2 bool

	// Timeout is the maximum time from each call to its reply, including the time without
	// a connection. For a blocking command, such as BLPOP, the time that it may wait at
	// the server is added; if it may wait without end, it has no timeout. In a Session,
	// that time is also added for the commands behind it. The context of a command can
	// only shorten the timeout. Zero: 5 s. Negative: none.
	Timeout time.Duration

	// ConnectTimeout is the maximum time of an attempt to connect, including the
	// handshakes of TLS and of Redis. Zero: 5 s. Negative: none.
	ConnectTimeout time.Duration

	// MinBackoff is the delay after the first failed attempt to connect. It doubles with
	// each attempt, up to MaxBackoff, and is shortened by up to a half at random. Zero:
	// 50 ms and 5 s. Neither may be negative, and MinBackoff must not exceed MaxBackoff.
	MinBackoff, MaxBackoff time.Duration

	// MaxPending limits the number of commands without a reply, and MaxPendingBytes the sum
	// of their sizes. A command beyond these limits fails with [eventloop.ErrBufferFull].
	// Zero: 128 K commands and 64 MB. Negative: no limit.
	MaxPending, MaxPendingBytes int

	// MaxReplyBytes is the maximum memory of one reply. A larger one ends the connection
	// with [ErrTooLarge]. An element of an array counts 64 bytes in addition to its
	// text. Zero: 64 MB. Negative: no limit.
	MaxReplyBytes int

	// MaxBlocking limits the number of connections for blocking commands such as BLPOP.
	// Each blocking command has its own connection while it waits at the server. Further
	// blocking commands wait for a connection, within their timeouts. Zero: 16. It must not be negative.
	MaxBlocking int

	// OnState, if not nil, is called on the loop each time the client's connection goes up
	// (its handshake is complete), with a nil err, and each time the connection is lost or
	// an attempt to connect has failed, with the reason. It is not called after the client
	// has ended by Close, Abort or the end of the loop, nor for that end itself. It is not
	// called for the connections of blocking commands, sessions and subscriptions.
	OnState func(up bool, err error)

	// OnSendError, if not nil, is called on the loop with the failure of a Client.Send
	// command: an error reply, or a connection error, which is reported once for all
	// commands that it affects. If OnSendError is nil, such failures are dropped.
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

// withDefaults returns a copy of o with the defaults set. In the copy, no limit is zero for
// a duration, and the greatest int for a number.
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
	c.Timeout = min(orDefault(c.Timeout, defaultTimeout, 0), longest)
	c.ConnectTimeout = min(orDefault(c.ConnectTimeout, defaultTimeout, 0), longest)
	c.MinBackoff = orDefault(c.MinBackoff, defaultMinBackoff, 0)
	c.MinBackoff = min(c.MinBackoff, longest)
	c.MaxBackoff = min(max(orDefault(c.MaxBackoff, defaultMaxBackoff, 0), c.MinBackoff), longest)
	const none = int(^uint(0) >> 1)
	c.MaxPending = orDefault(c.MaxPending, defaultMaxPending, none)
	c.MaxPendingBytes = orDefault(c.MaxPendingBytes, defaultMaxPendingBytes, none)
	c.MaxReplyBytes = orDefault(c.MaxReplyBytes, defaultMaxReplyBytes, none)
	c.MaxBlocking = orDefault(c.MaxBlocking, defaultMaxBlocking, none)
	return &c, nil
}

// longest is the longest timeout. The sum of a few timeouts does not overflow.
const longest time.Duration = math.MaxInt64 / 8

// orDefault resolves a setting: zero means byDefault, and a negative value means none.
func orDefault[T int | time.Duration](n, byDefault, none T) T {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return none
	}
	return n
}
