package resolver

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func BenchmarkCached(b *testing.B) {
	cfg := testConfig(b, newServer(b, zone("a.test. 3600 IN A 192.0.2.1", "a.test. 3600 IN AAAA 2001:db8::1")).addr)
	cfg.ResolvConf = writeFile(b, "resolv.conf", "options no-reload\n")
	cfg.HostsFile = writeFile(b, "hosts", "192.0.2.1 inhosts.test\n")
	r := newResolver(b, cfg)
	lookup(b, r, "ip", "a.test")
	lookup(b, r, "ip", "none.test")
	for _, bb := range []struct{ name, host string }{
		{"answer", "a.test"}, {"notfound", "none.test"}, {"literal", "192.0.2.1"}, {"hosts", "inhosts.test"}, {"localhost", "localhost"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := r.Cached("ip", bb.host); !ok {
					r.system.get() // the check of the files, which happens every five seconds
				}
			}
		})
	}
}

// BenchmarkUncached compares lookups of both families, each of a new name,
// with the Go resolver of package net, against one server in this process.
func BenchmarkUncached(b *testing.B) {
	addr := fastServer(b)
	cfg := testConfig(b, addr)
	cfg.CacheSize = -1
	ours := newResolver(b, cfg)
	gos := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	for _, inFlight := range []int{1, 100} {
		for _, bb := range []struct {
			name   string
			lookup func(context.Context, string, string) ([]netip.Addr, error)
		}{{"resolver", ours.LookupNetIP}, {"net", gos.LookupNetIP}} {
			b.Run(strconv.Itoa(inFlight)+"/"+bb.name, func(b *testing.B) {
				b.ReportAllocs()
				benchLookups(b, inFlight, bb.lookup)
			})
		}
	}
}

func benchLookups(b *testing.B, inFlight int, lookup func(context.Context, string, string) ([]netip.Addr, error)) {
	var next atomic.Int64
	done := make(chan error, inFlight)
	for range inFlight {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					done <- nil
					return
				}
				addrs, err := lookup(context.Background(), "ip", "n"+strconv.FormatInt(i, 10)+".test.")
				if err != nil || len(addrs) != 2 {
					done <- err
					return
				}
			}
		}()
	}
	for range inFlight {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
}

// fastServer replies to every question with one address, at little cost, with a codec
// that neither tested resolver uses.
func fastServer(b *testing.B) string {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	c.(*net.UDPConn).SetReadBuffer(4 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, out := make([]byte, 4096), make([]byte, 0, 4096)
		for {
			n, from, err := c.(*net.UDPConn).ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			c.(*net.UDPConn).WriteToUDPAddrPort(fastReply(buf[:n], out), from)
		}
	}()
	b.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String()
}

func fastReply(query, out []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	m := dnsmessage.NewBuilder(out, dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: true, RecursionAvailable: true})
	m.StartQuestions()
	m.Question(q)
	m.StartAnswers()
	rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	if q.Type == dnsmessage.TypeA {
		m.AResource(rh, dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	} else {
		m.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: [16]byte{15: 1}})
	}
	reply, _ := m.Finish()
	return reply
}

// BenchmarkCancel measures the time from the end of the context of a lookup that waits
// for a silent server, first to the return of LookupNetIP, and then until both sockets
// are closed.
func BenchmarkCancel(b *testing.B) {
	s := newServer(b, func(peer) {})
	r := resolverFor(b, s)
	var returned, gone time.Duration
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.LookupNetIP(ctx, "ip", "a.test")
		}()
		for r.open.Load() < 2 {
			runtime.Gosched()
		}
		start := time.Now()
		cancel()
		<-done
		returned = max(returned, time.Since(start))
		for r.open.Load() > 0 {
			runtime.Gosched()
		}
		gone = max(gone, time.Since(start))
	}
	b.ReportMetric(float64(returned.Microseconds()), "us-max-return")
	b.ReportMetric(float64(gone.Microseconds()), "us-max-gone")
}
