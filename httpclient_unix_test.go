//go:build unix

package eventloop_test

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
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
	const size, piece = 60_000, 1000
	var pause atomic.Int64
	lc := net.ListenConfig{Control: smallBuffers}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := serveHTTPPeer(t, ln, func(c net.Conn) {
		br := bufio.NewReaderSize(c, 512)
		readHTTPHead(br)
		for left := int64(size); left > 0; left -= piece {
			if _, err := io.CopyN(io.Discard, br, piece); err != nil {
				return
			}
			time.Sleep(time.Duration(pause.Load()))
		}
		io.WriteString(c, httpOK)
	})
	dialer := net.Dialer{Control: smallBuffers}
	patiently(t, 800*time.Millisecond, func(timeout time.Duration) error {
		pause.Store(int64(timeout / 20)) // all pauses together are three timeouts
		res, err := doHTTP(t, eventloop.HTTPClientConfig{Dial: dialer.DialContext, InactivityTimeout: timeout}, "POST", "http://"+p.addr,
			&eventloop.HTTPOptions{Body: make([]byte, size)})
		if err != nil {
			return err
		}
		wantEqual(t, "response", string(res.Body), "ok")
		return nil
	})
}
