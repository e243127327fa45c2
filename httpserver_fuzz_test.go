package eventloop

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"
)

// FuzzCheckHead looks for headers that our check lets pass and that net/http
// frames in another way: a difference is what request smuggling is made of.
func FuzzCheckHead(f *testing.F) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"POST / HTTP/1.0\r\nConnection: keep-alive, close\r\nContent-Length: 05\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		info, status := checkHead(head)
		if status != 0 {
			if status < 400 || status > 599 {
				t.Fatalf("refused with status %d", status)
			}
			return
		}
		if info.chunked && info.hasLength {
			t.Fatalf("accepted both a length and chunks")
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			return // stricter than we are
		}
		want := info.length
		if info.chunked {
			want = -1
		}
		if req.ContentLength != want {
			t.Errorf("length %d for net/http, %d here (-1: chunked)", req.ContentLength, want)
		}
		if got := req.ProtoAtLeast(1, 1); got != info.http11 {
			t.Errorf("HTTP/1.1: %v for net/http, %v here", got, info.http11)
		}
	})
}
