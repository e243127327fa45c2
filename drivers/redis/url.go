package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ParseURL returns the options that a URL describes:
//
//	redis://user:password@host:6379/3?timeout=2s&name=worker
//	rediss://host                       with TLS
//	unix://user:password@/run/redis.sock?db=3
//
// The host defaults to localhost and the port to 6379. The path is the number of the
// database. The parameters are db, name, timeout and connect_timeout (durations such as
// 500ms), protocol (2 or 3), and skip_verify (true disables the verification of the server's
// certificate). Other parameters are errors.
//
// Special characters of the user and the password must be percent-encoded.
// An error does not include parts of the URL that may belong to a password.
func ParseURL(s string) (*Options, error) {
	u, err := url.Parse(s)
	if err != nil || u.Fragment != "" {
		return nil, errURL // the error of url.Parse includes parts of the URL
	}
	o, err := parseURL(u)
	if err != nil && u.User == nil && strings.Contains(s, "@") {
		return nil, errURL // "/", "?" or "#" in a password has ended the host
	}
	return o, err
}

var errURL = errors.New("redis: malformed URL (special characters of a password have to be escaped)")

func parseURL(u *url.URL) (*Options, error) {
	o := &Options{}
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
		if o.Password == "" && o.Username != "" {
			return nil, fmt.Errorf("redis: URL with a user and no password")
		}
	}
	switch u.Scheme {
	case "redis", "rediss":
		if err := o.setHost(u); err != nil {
			return nil, err
		}
	case "unix":
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("redis: URL of a unix socket without an absolute path")
		}
		o.Network, o.Addr = "unix", u.Path
	default:
		return nil, fmt.Errorf("redis: URL with scheme %q, want redis, rediss or unix", u.Scheme)
	}
	if err := o.setParameters(u); err != nil {
		return nil, err
	}
	if _, err := o.withDefaults(); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Options) setHost(u *url.URL) error {
	host, port := u.Hostname(), u.Port()
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = "6379"
	}
	o.Network, o.Addr = "tcp", net.JoinHostPort(host, port)
	if u.Scheme == "rediss" {
		o.TLS = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		return o.setDB(path)
	}
	return nil
}

func (o *Options) setDB(s string) (err error) {
	o.DB, err = strconv.Atoi(s)
	if err != nil || o.DB < 0 {
		return fmt.Errorf("redis: URL with database %q", s)
	}
	return nil
}

func (o *Options) setParameters(u *url.URL) error {
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("redis: malformed parameters of URL: %w", err)
	}
	for name, values := range params {
		v, err := values[len(values)-1], error(nil)
		switch name {
		case "db":
			err = o.setDB(v)
		case "name":
			o.Name = v
		case "timeout":
			o.Timeout, err = time.ParseDuration(v)
		case "connect_timeout":
			o.ConnectTimeout, err = time.ParseDuration(v)
		case "protocol":
			o.RESP2 = v == "2"
			if v != "2" && v != "3" {
				err = fmt.Errorf("%q is neither 2 nor 3", v)
			}
		case "skip_verify":
			var skip bool
			skip, err = strconv.ParseBool(v)
			if o.TLS == nil {
				return fmt.Errorf("redis: URL with skip_verify and without TLS")
			}
			o.TLS.InsecureSkipVerify = skip
		default:
			return fmt.Errorf("redis: URL with unknown parameter %q", name)
		}
		if err != nil {
			return fmt.Errorf("redis: URL with parameter %s: %w", name, err)
		}
	}
	return nil
}
