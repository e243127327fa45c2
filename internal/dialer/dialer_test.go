package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// network simulates the dialing of addresses in virtual time. It logs the beginning and
// the end of each attempt, and tracks the open connections.
type network struct {
	start time.Time
	hosts map[string]host

	mu   sync.Mutex // guards the following
	log  []string
	open map[*fakeConn]bool
}

// host says how an address behaves: it responds after a time, with err or a connection.
// It never responds if after is 0. If deaf, it ignores cancellation.
type host struct {
	after time.Duration
	err   error
	deaf  bool
}

type fakeConn struct {
	net.Conn
	n    *network
	addr string
}

func (c *fakeConn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	delete(c.n.open, c)
	return nil
}

func newNetwork(hosts map[string]host) *network {
	return &network{start: time.Now(), hosts: hosts, open: make(map[*fakeConn]bool)}
}

func (n *network) logf(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, fmt.Sprintf("%v ", time.Since(n.start))+fmt.Sprintf(format, args...))
}

func (n *network) connect(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	ip := addr.Addr().String()
	n.logf("%s", ip)
	h := n.hosts[ip]
	err := n.wait(ctx, h)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	c := &fakeConn{n: n, addr: ip}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[c] = true
	return c, nil
}

func (n *network) wait(ctx context.Context, h host) error {
	var answer <-chan time.Time
	if h.after > 0 {
		answer = time.After(h.after)
	}
	done := ctx.Done()
	if h.deaf {
		done = nil
	}
	select {
	case <-answer:
		return h.err
	case <-done:
		return ctxError(ctx.Err())
	}
}

func (n *network) dialer(delay time.Duration, addrs ...string) *Dialer {
	return &Dialer{attemptDelay: delay, Resolve: resolveTo(addrs...), connect: n.connect}
}

type (
	more    = func(context.Context) []netip.Addr
	resolve = func(context.Context, string, string) ([]netip.Addr, more, error)
)

func resolveTo(addrs ...string) resolve {
	return func(_ context.Context, network, _ string) (out []netip.Addr, _ more, _ error) {
		for _, a := range addrs {
			ip := netip.MustParseAddr(a)
			if network == "ip" || (network == "ip4") == ip.Is4() {
				out = append(out, ip)
			}
		}
		return out, nil, nil
	}
}

const (
	a4, b4, c4 = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	a6, b6     = "2001:db8::1", "2001:db8::2"
	ms         = time.Millisecond
)

func TestRace(t *testing.T) {
	refused := host{after: 10 * ms, err: syscall.ECONNREFUSED}
	tests := []struct {
		name  string
		delay time.Duration
		addrs []string
		hosts map[string]host
		want  string // the address that wins, "" for an error
		log   string // attempts
		took  time.Duration
	}{
		{"the first answers in time", 0, []string{a6, a4}, map[string]host{a6: {after: 249 * ms}, a4: {after: ms}},
			a6, "0s " + a6, 249 * ms},
		{"a dead address costs one delay", 0, []string{a6, a4}, map[string]host{a4: {after: 10 * ms}},
			a4, "0s " + a6 + ",250ms " + a4, 260 * ms},
		{"a slow address may still win", 0, []string{a6, a4}, map[string]host{a6: {after: 300 * ms}, a4: {after: 100 * ms}},
			a6, "0s " + a6 + ",250ms " + a4, 300 * ms},
		{"a refusal costs nothing", 0, []string{a6, a4}, map[string]host{a6: refused, a4: {after: 10 * ms}},
			a4, "0s " + a6 + ",10ms " + a4, 20 * ms},
		{"the delay begins anew with each attempt", 0, []string{a6, a4, b6}, map[string]host{a6: refused, b6: {after: ms}},
			b6, "0s " + a6 + ",10ms " + a4 + ",260ms " + b6, 261 * ms},
		{"families take turns", 100 * ms, []string{a6, b6, a4, b4, c4}, map[string]host{c4: {after: ms}},
			c4, "0s " + a6 + ",100ms " + a4 + ",200ms " + b6 + ",300ms " + b4 + ",400ms " + c4, 401 * ms},
		{"the first family is that of the first address", 100 * ms, []string{a4, b4, a6}, map[string]host{b4: {after: ms}},
			b4, "0s " + a4 + ",100ms " + a6 + ",200ms " + b4, 201 * ms},
		{"all refuse", 0, []string{a6, a4}, map[string]host{a6: refused, a4: refused},
			"", "0s " + a6 + ",10ms " + a4, 20 * ms},
		{"the last is slow to refuse", 0, []string{a6, a4}, map[string]host{a6: {after: time.Second, err: syscall.ECONNREFUSED}, a4: {after: 2 * time.Second, err: syscall.EHOSTUNREACH}},
			"", "0s " + a6 + ",250ms " + a4, 2250 * ms},
		{"a loser that connects late is closed", 0, []string{a6, a4}, map[string]host{a6: {after: time.Second, deaf: true}, a4: {after: ms}},
			a4, "0s " + a6 + ",250ms " + a4, time.Second},
		{"two at the same time are one connection", 0, []string{a6, a4}, map[string]host{a6: {after: 260 * ms, deaf: true}, a4: {after: 10 * ms, deaf: true}},
			"any", "0s " + a6 + ",250ms " + a4, 260 * ms},
		{"a single address", 0, []string{a4}, map[string]host{a4: {after: ms}}, a4, "0s " + a4, ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tt.hosts)
				c, err := n.dialer(tt.delay, tt.addrs...).Dial(t.Context(), "tcp", "host.test:80")
				if d := time.Since(n.start); d != tt.took {
					t.Errorf("took %v, want %v", d, tt.took)
				}
				if got := strings.Join(n.log, ","); got != tt.log {
					t.Errorf("attempts = %s, want %s", got, tt.log)
				}
				if tt.want == "" {
					if err == nil || len(n.open) != 0 {
						t.Errorf("error = %v, %d connections open", err, len(n.open))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := c.(*fakeConn); tt.want != "any" && got.addr != tt.want || len(n.open) != 1 || !n.open[got] {
					t.Errorf("connected to %s with %d connections open, want %s alone", got.addr, len(n.open), tt.want)
				}
			})
		})
	}
}

func TestAddressesThatArriveLaterAreAlsoTried(t *testing.T) {
	refused := host{after: 10 * ms, err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name        string
		local       net.Addr
		first, late []string
		at          time.Duration // when late is known; 0: never
		hosts       map[string]host
		want        string // the address that wins, "" for an error
		log         string
		took        time.Duration
	}{
		{"they are not waited for", nil, []string{a4}, []string{a6}, 0, map[string]host{a4: {after: ms}}, a4, "0s " + a4, ms},
		{"they are tried when the first fails", nil, []string{a6}, []string{a4}, 40 * ms, map[string]host{a6: refused, a4: {after: ms}}, a4, "0s " + a6 + ",40ms " + a4, 41 * ms},
		{"they are next in turn", nil, []string{a4, b4}, []string{a6}, 40 * ms, map[string]host{a6: {after: ms}}, a6, "0s " + a4 + ",250ms " + a6, 251 * ms},
		{"at once if their turn has come", nil, []string{a4}, []string{a6}, 400 * ms, map[string]host{a6: {after: ms}}, a6, "0s " + a4 + ",400ms " + a6, 401 * ms},
		{"there may be none", nil, []string{a4}, nil, 40 * ms, map[string]host{a4: refused}, "", "0s " + a4, 40 * ms},
		{"none before may be suitable", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)}, []string{a6}, []string{a4}, 40 * ms, map[string]host{a4: {after: ms}}, a4, "40ms " + a4, 41 * ms},
		{"nor any at all", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)}, []string{a6}, []string{b6}, 40 * ms, nil, "", "", 40 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tt.hosts)
				d := n.dialer(0)
				d.LocalAddr = tt.local
				calls := 0
				d.Resolve = func(ctx context.Context, network, host string) ([]netip.Addr, more, error) {
					addrs, _, err := resolveTo(tt.first...)(ctx, network, host)
					return addrs, func(ctx context.Context) []netip.Addr {
						calls++
						var known <-chan time.Time
						if tt.at > 0 {
							known = time.After(tt.at)
						}
						select {
						case <-known:
							addrs, _, _ := resolveTo(tt.late...)(ctx, network, host)
							return addrs
						case <-ctx.Done():
							return nil
						}
					}, err
				}
				c, err := d.Dial(t.Context(), "tcp", "host.test:80")
				if d := time.Since(n.start); d != tt.took {
					t.Errorf("took %v, want %v", d, tt.took)
				}
				if got := strings.Join(n.log, ","); got != tt.log {
					t.Errorf("attempts = %s, want %s", got, tt.log)
				}
				if calls != 1 {
					t.Errorf("more was called %d times", calls)
				}
				var op *net.OpError
				if tt.want == "" {
					if !errors.As(err, &op) || len(n.open) != 0 {
						t.Errorf("error = %v, %d connections open", err, len(n.open))
					}
				} else if err != nil || c.(*fakeConn).addr != tt.want || len(n.open) != 1 {
					t.Errorf("connected to %v, %v, with %d connections open, want %s alone", c, err, len(n.open), tt.want)
				}
			})
		})
	}
}

func TestEveryAddressIsTriedBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]host{c4: {after: ms}})
		ctx, cancel := context.WithTimeout(t.Context(), 200*ms)
		defer cancel()
		if _, err := n.dialer(0, a4, b4, c4).Dial(ctx, "tcp", "host.test:80"); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(n.log, ","), "0s 192.0.2.1,66.666666ms 192.0.2.2,133.333333ms 192.0.2.3"; got != want {
			t.Errorf("attempts = %s, want %s", got, want)
		}
	})
}

// checkError checks which of these an error of Dial is: "refused", "timeout",
// "canceled", "deadline".
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("error = %#v, want a *net.OpError", err)
		return
	}
	var got []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{errors.Is(err, syscall.ECONNREFUSED), "refused"},
		{op.Timeout(), "timeout"},
		{errors.Is(err, context.Canceled), "canceled"},
	} {
		if f.set {
			got = append(got, f.name)
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("error %q is %q, want %q", err, got, want)
	}
}

func TestTheErrorListsAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]host{a6: {after: ms, err: syscall.ENETUNREACH}, a4: {after: ms, err: syscall.ECONNREFUSED}})
		_, err := n.dialer(0, a6, a4).Dial(t.Context(), "tcp", "host.test:80")
		checkError(t, err, "refused")
		want := "dial tcp host.test:80: [2001:db8::1]:80: network is unreachable; 192.0.2.1:80: connection refused"
		if err.Error() != want || !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("error = %q, want %q", err, want)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.hosts[a6] = host{}
		_, err = n.dialer(0, a6, a4).Dial(ctx, "tcp", "host.test:80")
		checkError(t, err, "refused timeout")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v does not match DeadlineExceeded", err)
		}
	})
}

func TestCancellationEndsADialAtEveryStage(t *testing.T) {
	for name, d := range map[string]func(n *network) *Dialer{
		"resolving": func(n *network) *Dialer {
			d := n.dialer(0)
			d.Resolve = func(ctx context.Context, _, _ string) ([]netip.Addr, more, error) {
				<-ctx.Done()
				return nil, nil, &net.DNSError{Err: "canceled", UnwrapErr: ctx.Err()}
			}
			return d
		},
		"single": func(n *network) *Dialer { return n.dialer(0, a4) },
		"race":   func(n *network) *Dialer { return n.dialer(0, a4, b4, a6) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(nil)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(300*ms, cancel)
				_, err := d(n).Dial(ctx, "tcp", "host.test:80")
				checkError(t, err, "canceled")
				if took := time.Since(n.start); took != 300*ms {
					t.Errorf("took %v", took)
				}
				_, err = d(n).Dial(ctx, "tcp", a4+":80")
				checkError(t, err, "canceled")
			})
		})
	}
}

func TestASuccessAtTheTimeOfTheCancellationIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]host{a4: {after: 300 * ms, deaf: true}})
		ctx, cancel := context.WithTimeout(t.Context(), 300*ms)
		defer cancel()
		c, err := n.dialer(0, a4, b4).Dial(ctx, "tcp", "host.test:80")
		if open := len(n.open); (err == nil) != (open == 1) || (c != nil) != (err == nil) {
			t.Errorf("Dial = %v, %v with %d connections open", c, err, open)
		}
	})
}

func TestTheLookupIsForTheFamilyOfTheNetwork(t *testing.T) {
	for network, want := range map[string]string{"tcp": "ip", "tcp4": "ip4", "tcp6": "ip6"} {
		var got string
		failure := &net.DNSError{Err: "no such host", Name: "host.test", IsNotFound: true}
		d := &Dialer{Resolve: func(_ context.Context, network, host string) ([]netip.Addr, more, error) {
			got = network + " " + host
			return nil, nil, failure
		}}
		_, err := d.Dial(t.Context(), network, "host.test:http")
		var dnsErr *net.DNSError
		if !errors.As(err, &dnsErr) || dnsErr != failure {
			t.Errorf("error = %v", err)
		}
		checkError(t, err, "")
		if got != want+" host.test" {
			t.Errorf("%s asks for %q", network, got)
		}
	}
}

func TestInvalidAddressesAreErrorsAtOnceAsInPackageNet(t *testing.T) {
	d := &Dialer{Resolve: func(_ context.Context, _, host string) ([]netip.Addr, more, error) {
		t.Errorf("%q was looked up", host)
		return nil, nil, nil
	}}
	oracle := &net.Dialer{Resolver: &net.Resolver{PreferGo: true}}
	for _, tt := range []struct{ network, address string }{
		{"", "a:1"}, {"udp", "a:1"}, {"tcp5", "a:1"}, {"ip", "192.0.2.1"}, {"unixgram", "x"},
		{"tcp", ""}, {"tcp", "host"}, {"tcp", "::1:80"}, {"tcp", "[::1]"}, {"tcp", "[::1:80"}, {"tcp", "a:b:c"},
		{"tcp", "192.0.2.1:65536"}, {"tcp", "192.0.2.1:-1"}, {"tcp", "host:99999"}, {"tcp", "host:no-such-service"},
		{"tcp4", "[::1]:80"}, {"tcp6", "127.0.0.1:80"},
	} {
		_, err := d.Dial(t.Context(), tt.network, tt.address)
		checkError(t, err, "")
		if tt.network == "udp" || tt.network == "ip" || tt.network == "unixgram" {
			if !errors.Is(err, net.UnknownNetworkError(tt.network)) {
				t.Errorf("Dial(%s, %s): %v", tt.network, tt.address, err)
			}
			continue // package net has these
		}
		_, want := oracle.DialContext(t.Context(), tt.network, tt.address)
		if fmt.Sprintf("%v %T", err, errors.Unwrap(err)) != fmt.Sprintf("%v %T", want, errors.Unwrap(want)) {
			t.Errorf("Dial(%s, %q)\ngot  %v\nwant %v", tt.network, tt.address, err, want)
		}
	}
}

func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln
}

func TestRealConnections(t *testing.T) {
	ln := listen(t, "tcp4", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	unix := filepath.Join(t.TempDir(), "s")
	listen(t, "unix", unix)
	d := &Dialer{Resolve: resolveTo("::1", "127.0.0.1")}
	tests := []struct{ network, address, remote string }{
		{"tcp", "127.0.0.1:" + port, "127.0.0.1:" + port},
		{"tcp4", "127.0.0.1:" + port, "127.0.0.1:" + port},
		{"tcp", "[::ffff:127.0.0.1]:" + port, "127.0.0.1:" + port},
		{"tcp4", "[::ffff:127.0.0.1]:" + port, "127.0.0.1:" + port},
		{"tcp", "host.test:" + port, "127.0.0.1:" + port}, // ::1 has no listener
		{"tcp4", "host.test:" + port, "127.0.0.1:" + port},
		{"tcp", ":" + port, "127.0.0.1:" + port},
		{"tcp", "0.0.0.0:" + port, "127.0.0.1:" + port},
		{"unix", unix, unix},
	}
	for _, tt := range tests {
		c, err := d.Dial(t.Context(), tt.network, tt.address)
		if err != nil {
			t.Errorf("Dial(%s, %s): %v", tt.network, tt.address, err)
			continue
		}
		if got := c.RemoteAddr().String(); got != tt.remote {
			t.Errorf("Dial(%s, %s) connected to %s", tt.network, tt.address, got)
		}
		c.Close()
	}
	ln.Close()
	for _, address := range []string{"127.0.0.1:" + port, "host.test:" + port, ":" + port} {
		_, err := d.Dial(t.Context(), "tcp4", address)
		checkError(t, err, "refused")
	}
	if _, err := d.Dial(t.Context(), "unix", unix+"none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

func TestLocalAddrChoosesTheFamily(t *testing.T) {
	ln := listen(t, "tcp4", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	d := &Dialer{Resolve: resolveTo("::1", "127.0.0.1"), LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := d.Dial(t.Context(), "tcp", "host.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.2" {
		t.Errorf("local address = %s", got)
	}
	for _, local := range []net.Addr{&net.TCPAddr{IP: net.IPv6loopback}, &net.UDPAddr{}} {
		d.LocalAddr = local
		_, err := d.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		var addrErr *net.AddrError
		if !errors.As(err, &addrErr) {
			t.Errorf("from %v: %v, want a *net.AddrError", local, err)
		}
	}
}

func TestALiteralNeedsNoGoroutineAndNoMoreAllocationsThanPackageNet(t *testing.T) {
	// Nothing accepts: that would allocate, too, more or less meanwhile.
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := ln.Addr().String()
	allocs := func(dial func(context.Context, string, string) (net.Conn, error)) float64 {
		return testing.AllocsPerRun(50, func() {
			c, err := dial(context.Background(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
	ours, gos := allocs(new(Dialer).Dial), allocs(new(net.Dialer).DialContext)
	if ours > gos+3 {
		t.Errorf("allocations = %v, package net has %v", ours, gos)
	}
}

func TestConnectionsOfARaceDoNotLeak(t *testing.T) {
	_, port, _ := net.SplitHostPort(listen(t, "tcp4", "0.0.0.0:0").Addr().String())
	var opened atomic.Int64
	d := &Dialer{
		// Attempts begin at once and all connect.
		attemptDelay: time.Nanosecond,
		Resolve:      resolveTo("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"),
		connect: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			opened.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr.String())
		},
	}
	before := descriptors(t)
	for range 50 {
		c, err := d.Dial(t.Context(), "tcp", "host.test:"+port)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if opened.Load() <= 50 {
		t.Error("there was no race")
	}
	// The server may close its side of the last connections later.
	for end := time.Now().Add(30 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("descriptors: %d before, %d after", before, descriptors(t))
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	return len(fds)
}

func BenchmarkDial(b *testing.B) {
	ln := listen(b, "tcp4", "127.0.0.1:0")
	address := ln.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	run := func(name string, dial func(context.Context, string, string) (net.Conn, error), address string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := dial(b.Context(), "tcp", address)
				if err != nil {
					b.Fatal(err)
				}
				c.(*net.TCPConn).SetLinger(0) // leaves no port in TIME-WAIT
				c.Close()
			}
		})
	}
	run("literal/dialer", new(Dialer).Dial, address)
	run("literal/net", new(net.Dialer).DialContext, address)
	run("name", (&Dialer{Resolve: resolveTo("127.0.0.1")}).Dial, "host.test:"+port)
	run("first-refused", (&Dialer{Resolve: resolveTo("::1", "127.0.0.1")}).Dial, "host.test:"+port)
	// A dead address: its socket does not connect until the race is over.
	dead := &Dialer{
		Resolve: resolveTo("127.0.0.9", "127.0.0.1"),
		connect: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			if addr.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 9}) {
				<-ctx.Done()
			}
			return new(net.Dialer).DialContext(ctx, network, addr.String())
		},
	}
	run("first-dead", dead.Dial, "host.test:"+port)
}
