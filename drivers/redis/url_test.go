package redis_test

import (
	"crypto/tls"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

func TestURLsAreParsed(t *testing.T) {
	for url, want := range map[string]redis.Options{
		"redis://":                              {Network: "tcp", Addr: "localhost:6379"},
		"redis://example.com":                   {Network: "tcp", Addr: "example.com:6379"},
		"redis://[::1]:7000/3":                  {Network: "tcp", Addr: "[::1]:7000", DB: 3},
		"redis://:secret@h/":                    {Network: "tcp", Addr: "h:6379", Password: "secret"},
		"redis://me:s%40cret@h:1/0?db=5&name=x": {Network: "tcp", Addr: "h:1", Username: "me", Password: "s@cret", DB: 5, Name: "x"},
		"redis://h?timeout=2s&connect_timeout=300ms&protocol=2": {
			Network: "tcp", Addr: "h:6379", Timeout: 2 * time.Second, ConnectTimeout: 300 * time.Millisecond, RESP2: true},
		"rediss://h:7000": {Network: "tcp", Addr: "h:7000", TLS: &tls.Config{ServerName: "h", MinVersion: tls.VersionTLS12}},
		"rediss://h?skip_verify=true&protocol=3": {
			Network: "tcp", Addr: "h:6379", TLS: &tls.Config{ServerName: "h", MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}},
		"unix:///run/redis.sock":              {Network: "unix", Addr: "/run/redis.sock"},
		"unix://me:pass@/run/redis.sock?db=2": {Network: "unix", Addr: "/run/redis.sock", Username: "me", Password: "pass", DB: 2},
	} {
		got, err := redis.ParseURL(url)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", url, got, err, want)
		}
	}
}

func TestBadURLsAreRefusedWithoutThePassword(t *testing.T) {
	for _, url := range []string{
		"", "http://h", "h:6379", "redis://h/x", "redis://h/-1", "redis://me@h", "redis://h?db=x", "redis://h?unknown=1", "redis://h?timeout=5",
		"redis://h?protocol=4", "redis://h?skip_verify=true", "rediss://h?skip_verify=maybe", "unix://", "unix://h/path", "redis://h?%zz",
		"redis://me:hidden@h:port", "redis://me:hidden@h\x00", "redis://me:hidden@h/x",
		"redis://me:hidden/x@h", "redis://me:12/hidden@h", "redis://me:12?hidden@h", "redis://me:12#hidden@h", "redis://me:12?hidden=1@h",
		"redis://me:%zhidden@h", "redis://me:hi dden@h[", "redis://h?name=two%20words",
	} {
		o, err := redis.ParseURL(url)
		if err == nil {
			t.Errorf("%q: got %+v", url, o)
		} else if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: the error shows the password: %v", url, err)
		}
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	l := eventloop.New(nil)
	for _, o := range []redis.Options{
		{Network: "udp"}, {Addr: "host"}, {DB: -1}, {Username: "me"}, {MinBackoff: -1}, {MaxBackoff: -1}, {MaxBlocking: -1},
		{MinBackoff: 2, MaxBackoff: 1}, {Name: "two words"}, {Name: "line\r\nfeed"}, {Name: "ä"},
	} {
		if _, err := redis.New(l, &o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	if _, err := redis.New(nil, nil); err == nil {
		t.Error("a nil loop is taken")
	}
	if _, err := redis.New(l, nil); err != nil {
		t.Errorf("nil options: %v", err)
	}
	l.Stop()
	if err := l.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := redis.New(l, nil); err != eventloop.ErrLoopClosed {
		t.Errorf("after the end of the loop: %v", err)
	}
}
