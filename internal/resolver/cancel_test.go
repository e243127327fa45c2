package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// prompt is how soon a lookup must return after its context has ended: 10 ms on a
// machine with nothing else to do, which a test cannot expect. One that waits for
// its timeout takes a minute.
const prompt = 20 * time.Second

func TestCancellationIsPromptAtEveryStage(t *testing.T) {
	silent := newServer(t, func(p peer) {
		if m := p.message(0); p.udp() && p.name() == "truncated.test." {
			m.Truncated = true
			p.send(m)
		}
	})
	dialing := make(chan struct{}, 8)
	tests := []struct {
		name   string
		host   string
		change func(c *Config)
		ready  func(r *Resolver) bool
	}{
		{"waiting for a packet", "a.test", nil, func(r *Resolver) bool { return r.Stats().Open > 0 }},
		{"waiting over TCP", "a.test", func(c *Config) { c.UseTCP = true }, func(r *Resolver) bool { return r.Stats().Open > 0 }},
		{"waiting after truncation", "truncated.test", nil, func(r *Resolver) bool { return r.Stats().Queries >= 4 }},
		{"in dial", "a.test", func(c *Config) {
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				dialing <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, func(*Resolver) bool { return len(dialing) == 2 }},
		{"in a TLS handshake", "a.test", func(c *Config) { c.TLS = &tls.Config{ServerName: "dns.test"} }, func(r *Resolver) bool { return r.Stats().Open > 0 }},
	}
	for _, tt := range tests {
		for _, end := range []string{"cancel", "close"} {
			t.Run(tt.name+", "+end, func(t *testing.T) {
				for len(dialing) > 0 {
					<-dialing
				}
				cfg := testConfig(t, silent.addr)
				cfg.Timeout = time.Minute
				if tt.change != nil {
					tt.change(&cfg)
				}
				r := newResolver(t, cfg)
				ctx, cancel := context.WithCancelCause(t.Context())
				result := make(chan error, 1)
				go func() {
					_, err := r.LookupNetIP(ctx, "ip", tt.host)
					result <- err
				}()
				waitFor(t, func() bool { return tt.ready(r) })
				start := time.Now()
				want := "canceled"
				if end == "cancel" {
					cancel(errors.New("another cause"))
				} else {
					want = "closed"
					r.Close()
				}
				wantError(t, <-result, tt.host, want)
				if d := time.Since(start); d > prompt {
					t.Errorf("took %v", d)
				}
				waitFor(t, func() bool { return r.Stats().Open == 0 })
				cancel(nil)
			})
		}
	}
}

func TestACanceledCallerDoesNotAffectOthers(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, func(p peer) {
		<-release
		p.reply(0, p.name()+" 60 IN A 192.0.2.1")
	})
	r := resolverFor(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := r.LookupNetIP(ctx, "ip4", "a.test"); left <- err }()
	go func() { _, err := r.LookupNetIP(t.Context(), "ip4", "a.test"); stayed <- err }()
	waitFor(t, func() bool { return r.Stats().Misses == 2 && len(s.queries()) == 1 })
	cancel()
	wantError(t, <-left, "a.test", "canceled")
	close(release)
	if err := <-stayed; err != nil {
		t.Errorf("the other lookup: %v", err)
	}
	if len(s.queries()) != 1 {
		t.Errorf("queries = %q", s.queries())
	}
}

func TestCancelingTheLastCallerEndsTheWork(t *testing.T) {
	s := newServer(t, func(peer) {})
	r := resolverFor(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { r.LookupNetIP(ctx, "ip", "a.test") })
	}
	waitFor(t, func() bool { return r.Stats().Misses == 10 && r.Stats().Open == 2 })
	cancel()
	wg.Wait()
	waitFor(t, func() bool { return r.Stats().Open == 0 })
	if st := r.Stats(); st.Queries != 2 {
		t.Errorf("stats = %+v", st)
	}
}

func TestAQueryAfterACanceledOneStartsAnew(t *testing.T) {
	s := newServer(t, func(p peer) {
		if p.nth > 1 {
			p.reply(0, p.name()+" 60 IN MX 1 mail.test.")
		}
	})
	r := resolverFor(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Query(ctx, "a.test", dns.TypeMX); close(done) }()
	waitFor(t, func() bool { return len(s.queries()) == 1 })
	cancel()
	<-done
	start := time.Now()
	if m, err := r.Query(t.Context(), "a.test", dns.TypeMX); err != nil || len(m.Answer) != 1 {
		t.Errorf("Query = %v, %v", m, err)
	}
	if d := time.Since(start); d >= r.cfg.Timeout {
		t.Errorf("took %v: it joined the canceled query", d)
	}
}

func TestAnEndedContextSendsNoQuery(t *testing.T) {
	s := refuseAll(t)
	r := resolverFor(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.LookupNetIP(ctx, "ip", "a.test")
	wantError(t, err, "a.test", "canceled")
	_, err = r.LookupAddr(ctx, netip.MustParseAddr("192.0.2.1"))
	wantError(t, err, "192.0.2.1", "canceled")
	_, err = r.Query(ctx, "a.test", dns.TypeMX)
	wantError(t, err, "a.test", "canceled")
	if len(s.queries()) > 0 {
		t.Errorf("queries = %q", s.queries())
	}
}

func TestCloseEndsEverythingAndIsIdempotent(t *testing.T) {
	s := newServer(t, func(peer) {})
	r := resolverFor(t, s)
	const n = 50
	results := make(chan error, n)
	for i := range n {
		go func() {
			_, err := r.LookupNetIP(t.Context(), "ip", fmt.Sprintf("n%d.test", i))
			results <- err
		}()
	}
	waitFor(t, func() bool { return r.Stats().Open == 2*n })
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(r.Close)
	}
	wg.Wait()
	if st := r.Stats(); st.Open != 0 || st.Entries != 0 {
		t.Errorf("after Close: %+v", st)
	}
	for range n {
		if err := <-results; !errors.Is(err, net.ErrClosed) {
			t.Errorf("lookup cut short: %v", err)
		}
	}
	for _, host := range []string{"a.test", "192.0.2.1", "localhost"} {
		_, err := r.LookupNetIP(t.Context(), "ip", host)
		wantError(t, err, host, "closed")
		if _, err, ok := r.Cached("ip", host); !ok || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Cached(%q) after Close = %v, %v", host, err, ok)
		}
	}
	_, err := r.Query(t.Context(), "a.test", dns.TypeA)
	wantError(t, err, "a.test", "closed")
	_, err = r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.1"))
	wantError(t, err, "192.0.2.1", "closed")
	r.Close()
}

func TestLookupsDuringCloseReturn(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN A 192.0.2.1"))
	for range 20 {
		r := resolverFor(t, s)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				addrs, err := r.LookupNetIP(t.Context(), "ip", fmt.Sprintf("%c.test", 'a'+i%2))
				if err == nil && join(addrs) != "192.0.2.1" {
					t.Errorf("addresses = %v", addrs)
				}
			})
		}
		r.Close()
		wg.Wait()
	}
}
