package beanstalk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"
)

// Options are the settings of a [Client]. [New] copies them. The zero Options, or a nil
// *Options, mean a server on this machine.
type Options struct {
	// Addr is the address of the server: "host:port", or the path of a unix socket.
	// Empty: "127.0.0.1:11300".
	Addr string

	// Network is "tcp", "tcp4", "tcp6" or "unix". Empty: "unix" if Addr is an absolute
	// path, else "tcp".
	Network string

	// Dial connects instead of the loop's resolver and dialer, see
	// [github.com/onloop/eventloop.ConnConfig].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout is the maximum time from each call to its reply, including the time
	// without a connection. An overdue reply ends its connection. Zero: 5 s. Negative:
	// no limit.
	Timeout time.Duration

	// ConnectTimeout is the maximum time of an attempt to connect. Zero: 5 s. Negative:
	// no limit.
	ConnectTimeout time.Duration

	// MinBackoff is the time before the first attempt to reconnect. It doubles with
	// each failure, up to MaxBackoff, and is shortened by up to a half at random. Zero:
	// 50 ms and 5 s. Neither may be negative, and MinBackoff must not exceed MaxBackoff.
	MinBackoff, MaxBackoff time.Duration

	// MaxPending limits the number of commands without a reply, and MaxPendingBytes the
	// sum of their sizes. A command beyond these limits fails with
	// [github.com/onloop/eventloop.ErrBufferFull]. Zero: 64 K commands and 64 MB.
	// Negative: no limit.
	MaxPending, MaxPendingBytes int

	// MaxBodyBytes is the maximum size of the body of a reply, such as a job. A larger
	// body ends its connection with [ErrTooLarge]. Zero: 64 MB. Negative: no limit.
	MaxBodyBytes int

	// OnState, if not nil, is called on the loop when the connection for commands is
	// open, with a nil err, and when it is lost or an attempt to connect has failed,
	// with the reason. It is not called after the client has ended by Close, Abort or the
	// end of the loop, nor for that end itself. It is not called for the connections of
	// consumers.
	OnState func(up bool, err error)
}

// withDefaults returns a copy of o with the defaults set. In the copy, no limit is zero
// for a duration, and the greatest int for a number.
func (o *Options) withDefaults() (*Options, error) {
	c := Options{}
	if o != nil {
		c = *o
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:11300"
	}
	if c.Network == "" {
		c.Network = "tcp"
		if c.Addr[0] == '/' {
			c.Network = "unix"
		}
	}
	switch c.Network {
	case "unix":
	case "tcp", "tcp4", "tcp6":
		if _, _, err := net.SplitHostPort(c.Addr); err != nil && c.Dial == nil {
			return nil, fmt.Errorf("beanstalk: %w", err)
		}
	default:
		return nil, fmt.Errorf("beanstalk: %w", net.UnknownNetworkError(c.Network))
	}
	switch {
	case c.MinBackoff < 0 || c.MaxBackoff < 0:
		return nil, errors.New("beanstalk: negative backoff")
	case c.MaxBackoff > 0 && c.MinBackoff > c.MaxBackoff:
		return nil, fmt.Errorf("beanstalk: MinBackoff %v is more than MaxBackoff %v", c.MinBackoff, c.MaxBackoff)
	}
	c.Timeout = orDefault(c.Timeout, 5*time.Second, 0)
	c.ConnectTimeout = orDefault(c.ConnectTimeout, 5*time.Second, 0)
	c.MinBackoff = orDefault(c.MinBackoff, 50*time.Millisecond, 0)
	c.MaxBackoff = max(orDefault(c.MaxBackoff, 5*time.Second, 0), c.MinBackoff)
	c.MaxPending = orDefault(c.MaxPending, 64<<10, math.MaxInt)
	c.MaxPendingBytes = orDefault(c.MaxPendingBytes, 64<<20, math.MaxInt)
	c.MaxBodyBytes = orDefault(c.MaxBodyBytes, 64<<20, math.MaxInt)
	return &c, nil
}

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

// seconds converts d to the unit of the protocol, rounded up to whole seconds.
func seconds(what string, d time.Duration) (uint32, error) {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	if d < 0 || s > math.MaxUint32 {
		return 0, fmt.Errorf("beanstalk: %s %v is not between 0 and %d s", what, d, uint32(math.MaxUint32))
	}
	return uint32(s), nil
}
