package netcore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/leaktest"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/onloop/eventloop/internal/writers"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// watchdog is when something that should have happened is taken to hang.
const watchdog = 20 * time.Second

// A testHost is a Host with a pool of writers.
type testHost struct {
	wg     sync.WaitGroup
	pool   writers.Pool[writers.Job]
	poller Poller
}

func newHost(t testing.TB) *testHost {
	h := &testHost{}
	h.pool.Init(2)
	t.Cleanup(func() {
		h.pool.Close()
		ended := make(chan struct{})
		go func() { h.wg.Wait(); close(ended) }()
		wait(t, ended, "end of the host's goroutines")
		h.poller.Close()
	})
	return h
}

func (h *testHost) Go(f func()) { h.wg.Go(f) }

func (h *testHost) Aside(f func() error) error {
	done := make(chan error, 1)
	h.Go(func() {
		err := h.Recovered(nil) // unless f returns
		defer func() {
			if v := recover(); v != nil {
				err = h.Recovered(v)
			}
			done <- err
		}()
		err = f()
	})
	return <-done
}

func (h *testHost) Enqueue(job writers.Job) { h.pool.Add(job) }
func (h *testHost) CloseAside(nc net.Conn, reset bool) {
	h.Go(func() {
		if reset {
			SetReset(nc)
		}
		nc.Close()
	})
}

func (h *testHost) Recovered(v any) error { return fmt.Errorf("recovered: %v", v) }

// A testConn is a connection whose user notes what it is told.
type testConn struct {
	Conn
	*testHost
	failed chan error // by WriteFailed
	told   chan struct{}

	sentAll bool // guarded by the lock
	sent    int

	serve func() // of a connection that may be parked
	over  bool   // nothing more is to be read. Of its goroutine

	quit, upgrade, detach atomic.Bool // orders
}

func (c *testConn) Sent(n int, all bool) bool {
	c.sent += n
	c.sentAll = all
	return all
}

func (c *testConn) Report() {
	select {
	case c.told <- struct{}{}:
	default:
	}
}

func (c *testConn) WriteFailed(err error) { c.failed <- err }

// failure returns what WriteFailed was called with, or nil if it was not.
func (c *testConn) failure() error {
	select {
	case err := <-c.failed:
		return err
	default:
		return nil
	}
}

func (c *testConn) Serve() { c.serve() }

func (c *testConn) Poller() *Poller {
	if c.serve == nil {
		return nil
	}
	return &c.poller
}

// newConn returns a connection on nc that is open, unless it is to be secured first.
func newConn(t testing.TB, nc net.Conn, ours bool) *testConn {
	t.Helper()
	return newConnOf(newHost(t), nc, ours)
}

func newConnOf(h *testHost, nc net.Conn, ours bool) *testConn {
	c := &testConn{testHost: h, failed: make(chan error, 1), told: make(chan struct{}, 1)}
	c.Init(c)
	c.Attach(nc, ours)
	return c
}

func (c *testConn) write(p string) {
	c.Lock()
	defer c.Unlock()
	c.Queue().AppendString(p)
	c.Send()
}

// order does something under the lock and wakes the goroutine.
func (c *testConn) order(f func()) {
	c.Lock()
	defer c.Unlock()
	f()
	c.Wake()
}

func (c *testConn) pending() int {
	c.Lock()
	defer c.Unlock()
	return c.Pending()
}

// readString reads n bytes on the connection's goroutine.
func (c *testConn) readString(t testing.TB, n int) string {
	t.Helper()
	var got []byte
	for len(got) < n {
		b, err := c.Read(min(n-len(got), sockio.MaxBuffer))
		if err == ErrWoken {
			continue
		}
		if err != nil {
			t.Errorf("Read after %d of %d bytes: %v", len(got), n, err)
			break
		}
		got = append(got, b.Bytes()...)
		b.Release()
	}
	return string(got)
}

// readEnd reads to the end.
func (c *testConn) readEnd() (string, error) {
	var got []byte
	for {
		b, err := c.Read(sockio.MaxBuffer)
		switch {
		case err == ErrWoken:
		case err != nil:
			return string(got), err
		default:
			got = append(got, b.Bytes()...)
			b.Release()
		}
	}
}

// secure performs a handshake and opens the connection.
func (c *testConn) secure(ctx context.Context, conf *tls.Config, client bool, early string) error {
	c.Lock()
	c.Secure()
	c.Unlock()
	if err := c.Handshake(ctx, conf, client, []byte(early)); err != nil {
		return err
	}
	c.Open()
	return nil
}

// A kind is a kind of connection.
type kind struct {
	name string
	ours bool
	raw  bool
	pair func(t testing.TB) (ours, peer net.Conn)
}

type hidden struct{ net.Conn }

func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

var kinds = []kind{
	{"tcp", true, sockio.Raw, tcpPair},
	{"adopted", false, sockio.Raw, tcpPair},
	{"unix", true, sockio.Raw, unixPair},
	{"wrapped", false, false, func(t testing.TB) (net.Conn, net.Conn) {
		a, b := tcpPair(t)
		return hidden{a}, b
	}},
	{"pipe", false, false, func(t testing.TB) (net.Conn, net.Conn) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		b.SetDeadline(time.Now().Add(watchdog))
		return a, b
	}},
}

// each runs f with each kind of connection.
func each(t *testing.T, f func(t *testing.T, k kind)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

// eachSocket is each without net.Pipe, which buffers nothing and has no half-close.
func eachSocket(t *testing.T, f func(t *testing.T, k kind)) {
	each(t, func(t *testing.T, k kind) {
		if k.name != "pipe" {
			f(t, k)
		}
	})
}

// eachProbed runs f with each way to tell what was acknowledged: of a socket that is
// read and written raw, and as on macOS of one that is used through net.Conn.
func eachProbed(t *testing.T, f func(t *testing.T, open func(nc net.Conn) *testConn)) {
	for _, raw := range []bool{true, false} {
		t.Run(fmt.Sprintf("raw %t", raw), func(t *testing.T) {
			if raw && !sockio.Raw {
				t.Skip("sockets are not read raw on this system")
			}
			f(t, func(nc net.Conn) *testConn {
				if _, ok := sockio.Probe(nc); !ok {
					t.Skip("this system does not tell what was acknowledged")
				}
				c := newConn(t, nc, true)
				if !raw && sockio.Raw {
					c.extra().slow, c.rc, c.fd = &slowPath{probe: c.rc}, nil, -1
				}
				c.Open()
				return c
			})
		})
	}
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return socketPair(t, ln)
}

func unixPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return socketPair(t, ln)
}

func socketPair(t testing.TB, ln net.Listener) (a, b net.Conn) {
	t.Helper()
	defer ln.Close()
	a, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	b.SetDeadline(time.Now().Add(watchdog))
	return a, b
}

// resetBy closes a TCP peer by a reset.
func resetBy(peer net.Conn) {
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
}

// beside runs f on a goroutine that the test waits for.
func beside(t testing.TB, f func()) (done <-chan struct{}) {
	ch := make(chan struct{})
	go func() { defer close(ch); f() }()
	t.Cleanup(func() { wait(t, ch, "end of a goroutine") })
	return ch
}

func wait[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(watchdog):
		t.Fatalf("no %s after %v", what, watchdog)
	}
	return v
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(watchdog); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// patiently calls f with a time in which a peer, or the test itself, has to do something,
// until f returns nil. A busy machine may take longer, so after an error f is called again
// with more time. A fault of this package is there with every time.
func patiently(t testing.TB, d time.Duration, f func(d time.Duration) error) {
	t.Helper()
	const tries = 4
	for try := 1; ; try++ {
		err := f(d)
		if err == nil {
			return
		}
		if try == tries {
			t.Errorf("with %v: %v", d, err)
			return
		}
		t.Logf("with %v: %v; trying a longer time", d, err)
		d *= 3
	}
}

// finish ends a connection as its user does.
func (c *testConn) finish(over bool) int64 {
	c.Lock()
	c.Closing()
	c.Unlock()
	return c.Finish(over)
}

// abort ends it at once.
func (c *testConn) abort() {
	c.Lock()
	c.Cut(true)
	c.Closing()
	c.Unlock()
	c.Finish(false)
}

func text(n int) string { return string(bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]) }

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("the peer read %d bytes and then %v", len(b), err)
	}
	return string(b)
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func serverTLS() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{certificate()}} }
func clientTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"} }

var errDeaf = errors.New("no deadlines")
