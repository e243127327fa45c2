//go:build unix

package eventloop_test

import (
	"bufio"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// smallBuffers gives a socket the smallest buffers there are.
func smallBuffers(_, _ string, rc syscall.RawConn) error {
	return rc.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1)
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 1)
	})
}

// As long as the server takes bytes, however few, the request goes on.
func TestHTTPInactivityTimeoutDoesNotEndAnUploadThatMakesProgress(t *testing.T) {
	const size = 60_000
	lc := net.ListenConfig{Control: smallBuffers}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := serveHTTPPeer(t, ln, func(c net.Conn) {
		br := bufio.NewReaderSize(c, 512)
		readHTTPHead(br)
		for left := int64(size); left > 0; left -= 1000 {
			if _, err := io.CopyN(io.Discard, br, 1000); err != nil {
				return
			}
			time.Sleep(40 * time.Millisecond)
		}
		io.WriteString(c, httpOK)
	})
	dialer := net.Dialer{Control: smallBuffers}
	res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dialer.DialContext, InactivityTimeout: 800 * time.Millisecond}, "POST", "http://"+p.addr,
		&eventloop.HTTPOptions{Body: make([]byte, size)})
	if err != nil || string(res.Body) != "ok" {
		t.Errorf("%+v, %v", res, err)
	}
}
