package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/onloop/eventloop/drivers/smtp/internal/smtpwire"
)

// Security determines whether and how a session is encrypted.
type Security uint8

const (
	// StartTLS begins in plaintext and requires STARTTLS (RFC 3207). It is the default,
	// and is common on port 587.
	StartTLS Security = iota

	// ImplicitTLS begins with TLS (RFC 8314), as on port 465.
	ImplicitTLS

	// Opportunistic uses STARTTLS if the server offers it. An attacker on the network path
	// can remove the offer. The certificate is verified as Options.TLS says.
	Opportunistic

	// NoTLS never encrypts.
	NoTLS
)

// Options are the settings of a client. Addr is required. A negative number or duration
// is an error, unless its field says what it means.
type Options struct {
	// Addr is the server: "mail.example.com:587", or the path of a unix socket.
	Addr string

	// Network is "tcp", "tcp4", "tcp6" or "unix". Empty: "tcp".
	Network string

	// Security is StartTLS if it is not set.
	Security Security

	// TLS configures TLS. Nil: the defaults of crypto/tls. An empty ServerName means the
	// host of Addr.
	TLS *tls.Config

	// Auth authenticates each session. Nil: no authentication.
	Auth Auth

	// PlaintextAuth permits Auth on a connection without TLS. If it is false, Auth without
	// TLS is permitted only if Addr is a unix socket, "localhost" or a loopback address.
	PlaintextAuth bool

	// LocalName is the name that the client sends in EHLO: its host name, or an address
	// literal. Empty: the address literal of the connection's local address.
	LocalName string

	// LMTP selects LMTP (RFC 2033), for a server that delivers to mailboxes.
	LMTP bool

	// Dial replaces the loop's dialer, see [eventloop.ConnConfig.Dial].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// ConnectTimeout is the maximum time of dialing, and of each TLS handshake. Zero: 30 s.
	ConnectTimeout time.Duration

	// ReplyTimeout is the maximum time of the wait for each reply, and the maximum time
	// for which a write may make no progress. The reply to a complete mail may take twice
	// as long. Zero: 5 min, as RFC 5321, section 4.5.3.2, recommends.
	ReplyTimeout time.Duration

	// QueueTimeout is the maximum time that a mail waits for a session. After it the mail
	// fails with an error that matches [eventloop.ErrTimeout] and the last connect error,
	// if there was one. Zero: 1 min. Negative: no limit.
	QueueTimeout time.Duration

	MaxConns    int           // sessions at a time. Zero: 5
	MaxMessages int           // mails per session. Zero: 100. Negative: no limit
	IdleTimeout time.Duration // how long a session without mails stays open. Zero: 30 s

	MaxQueue      int // mails that wait for a session. Zero: 1,000
	MaxQueueBytes int // total size of their []byte bodies. Zero: 64 MB
	MaxReplyBytes int // size of one reply. Zero: 64 KB

	// Rate limits the mails that begin per second, evenly spaced. It must be at least one
	// mail per year. Zero: no limit.
	Rate float64

	// MinBackoff is the delay after the first failure to connect. The delay doubles with
	// each further failure, up to MaxBackoff, and is shortened by up to a half at random.
	// Zero: 500 ms and 30 s. If only one of them is set, the default of the other adapts
	// to it. Neither may be negative, and MinBackoff must not exceed MaxBackoff.
	MinBackoff, MaxBackoff time.Duration
}

// minRate is one mail per year. At a much lower rate, the time between two mails would
// overflow a time.Duration.
const minRate = 1.0 / (365 * 24 * 3600)

// withDefaults returns a copy with the defaults set. It fails if the options are invalid.
func (in *Options) withDefaults() (o Options, err error) {
	if in != nil {
		o = *in
	}
	if o.Network == "" {
		o.Network = "tcp"
	}
	set(&o.ConnectTimeout, 30*time.Second)
	set(&o.ReplyTimeout, 5*time.Minute)
	set(&o.QueueTimeout, time.Minute)
	set(&o.IdleTimeout, 30*time.Second)
	if o.MaxBackoff > 0 {
		set(&o.MinBackoff, min(500*time.Millisecond, o.MaxBackoff))
	}
	set(&o.MinBackoff, 500*time.Millisecond)
	set(&o.MaxBackoff, max(30*time.Second, o.MinBackoff))
	set(&o.MaxConns, 5)
	set(&o.MaxMessages, 100)
	set(&o.MaxQueue, 1000)
	set(&o.MaxQueueBytes, 64<<20)
	set(&o.MaxReplyBytes, 64<<10)
	if o.TLS == nil {
		o.TLS = &tls.Config{}
	}
	return o, o.check()
}

func set[T int | time.Duration](v *T, byDefault T) {
	if *v == 0 {
		*v = byDefault
	}
}

func (o *Options) check() error {
	switch o.Network {
	case "tcp", "tcp4", "tcp6":
		host, port, err := net.SplitHostPort(o.Addr)
		if err != nil || host == "" || port == "" {
			return fmt.Errorf("smtp: address %q: want host:port", o.Addr)
		}
	case "unix":
		if o.Addr == "" {
			return errors.New("smtp: no path of a unix socket")
		}
	default:
		return fmt.Errorf("smtp: network %q", o.Network)
	}
	if o.Security > NoTLS {
		return fmt.Errorf("smtp: unknown security %d", o.Security)
	}
	if o.LocalName != "" {
		if err := smtpwire.CheckDomain(o.LocalName); err != nil {
			return fmt.Errorf("smtp: %w", err)
		}
	}
	for name, v := range map[string]int64{
		"ConnectTimeout": int64(o.ConnectTimeout), "ReplyTimeout": int64(o.ReplyTimeout), "IdleTimeout": int64(o.IdleTimeout),
		"MinBackoff": int64(o.MinBackoff), "MaxBackoff": int64(o.MaxBackoff),
		"MaxConns": int64(o.MaxConns), "MaxQueue": int64(o.MaxQueue), "MaxQueueBytes": int64(o.MaxQueueBytes), "MaxReplyBytes": int64(o.MaxReplyBytes),
	} {
		if v < 0 {
			return fmt.Errorf("smtp: %s is negative", name)
		}
	}
	if o.MinBackoff > o.MaxBackoff {
		return fmt.Errorf("smtp: MinBackoff %v is more than MaxBackoff %v", o.MinBackoff, o.MaxBackoff)
	}
	if o.Rate < 0 || math.IsNaN(o.Rate) || math.IsInf(o.Rate, 0) {
		return fmt.Errorf("smtp: rate %v", o.Rate)
	}
	if o.Rate > 0 && o.Rate < minRate {
		return fmt.Errorf("smtp: rate %v, less than one mail per year", o.Rate)
	}
	return nil
}

// isLocal reports whether the server is on this host.
func (o *Options) isLocal() bool {
	if o.Network == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(o.Addr)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
