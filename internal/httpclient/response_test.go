package httpclient_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/httpclient"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/writers"
)

// fed is a connection from which given bytes are read, piece by piece.
type fed struct {
	net.Conn
	rest  []byte
	piece int
	eof   error
}

func (f *fed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, f.eof
	}
	n := copy(p, f.rest[:min(f.piece, len(f.rest))])
	f.rest = f.rest[n:]
	if len(f.rest) == 0 && f.piece%2 == 0 {
		return n, f.eof // as TLS may: the error together with the last bytes
	}
	return n, nil
}

func (f *fed) SetReadDeadline(time.Time) error { return nil }
func (f *fed) RemoteAddr() net.Addr            { return nil }

// host is the surroundings of connections that write nothing.
type host struct{}

func (host) Go(f func())                    { go f() }
func (host) Aside(f func() error) error     { return f() }
func (host) Poller() *netcore.Poller        { return nil }
func (host) Enqueue(writers.Job)            {}
func (host) CloseAside(nc net.Conn, _ bool) { nc.Close() }
func (host) Recovered(v any) error          { return fmt.Errorf("panic: %v", v) }

// read reads one answer.
func read(method string, raw []byte, piece int) (r *httpclient.Response, fields []string, body []byte, reusable bool, err error) {
	c := httpclient.NewConn(host{}, &httpclient.Key{})
	c.Attach(&fed{rest: raw, piece: piece, eof: io.EOF}, false)
	c.Begin(time.Time{}, 0)
	r = &httpclient.Response{}
	if err = r.ReadHead(c, method, 8<<10, nil); err == nil {
		f := r.Fields
		for name, value, ok := f.Next(); ok; name, value, ok = f.Next() {
			fields = append(fields, name+": "+value)
		}
		if len(fields) > r.Fields.Count() {
			err = errors.New("Count is too small")
			return
		}
		body, err = r.ReadAll(1 << 20)
	}
	reusable = r.Reusable()
	reusable = c.End(reusable)
	return r, fields, body, reusable, err
}

// FuzzResponse feeds any bytes as a response. However they are cut into pieces the
// outcome is the same, and where package net/http accepts a response too, both agree
// about what it says.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200\r\nA: b\r\n c\r\n\r\nbody",
		"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n",
		"HTTP/1.1 304 N\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length : 2\r\nconnection: keep-alive\r\n\r\nokHTTP/1.1",
	} {
		f.Add([]byte(s), 7, false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, piece int, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		r, fields, body, reusable, err := read(method, bytes.Clone(raw), len(raw)+1)
		if piece = 1 + (piece&0xff)%64; true {
			r2, fields2, body2, _, err2 := read(method, bytes.Clone(raw), piece)
			if (err == nil) != (err2 == nil) || err == nil && (r.Status != r2.Status || !bytes.Equal(body, body2) || len(fields) != len(fields2)) {
				t.Fatalf("at once: %d %q %q, %v; in pieces of %d: %d %q %q, %v", r.Status, fields, body, err, piece, r2.Status, fields2, body2, err2)
			}
		}
		if err != nil {
			if !errors.Is(err, httpclient.ErrMalformed) && !errors.Is(err, httpclient.ErrTooLarge) && err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatalf("error %v", err)
			}
			return
		}
		compare(t, method, raw, r, body, reusable)
	})
}

// compare asks net/http about an answer that was taken.
func compare(t *testing.T, method string, raw []byte, r *httpclient.Response, body []byte, reusable bool) {
	if bytes.Contains(raw, []byte(" :")) || bytes.Contains(raw, []byte("\t:")) {
		return // a name with a space behind it: net/http does not know it, as the name of a length too
	}
	br := bufio.NewReader(bytes.NewReader(raw))
	for {
		std, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return // it is stricter in places
		}
		if std.StatusCode < 200 && std.StatusCode != 101 {
			continue
		}
		stdBody, err := io.ReadAll(std.Body)
		if err != nil {
			return
		}
		if std.StatusCode != r.Status || r.Status != 101 && !bytes.Equal(stdBody, body) {
			t.Fatalf("got %d %q, net/http has %d %q", r.Status, body, std.StatusCode, stdBody)
		}
		if reusable && std.Close {
			t.Fatal("net/http would close the connection")
		}
		return
	}
}

// The bound of a body is met to the byte, however its length is told.
func TestResponseBodyOfItsBoundIsReadAndNoByteMore(t *testing.T) {
	const max = 1 << 20 // as read has it
	for extra := range 3 {
		n := max - 1 + extra
		body := string(bytes.Repeat([]byte("x"), n))
		for _, raw := range []string{
			fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body),
			fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n, body),
			"HTTP/1.1 200 OK\r\n\r\n" + body,
		} {
			for _, piece := range []int{len(raw), len(raw) + 1, 1000, 4096} {
				_, _, got, _, err := read("GET", []byte(raw), piece)
				if n > max && !errors.Is(err, httpclient.ErrTooLarge) || n <= max && (err != nil || len(got) != n) {
					t.Errorf("%d bytes: %d, %v", n, len(got), err)
				}
			}
		}
	}
}
