package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/onloop/eventloop"
)

func init() {
	kernels[ours]["dns"] = loopLookups
	kernels[netResolver] = map[string]kernel{"dns": netLookups}
}

const (
	netResolver = "net.Resolver"
	lookups     = 50 // on their way at a time
)

// startDNS runs a name server that knows an address for every name. It is in the
// process of the kernel: its share of the time is the same for all.
func startDNS() (addr string, stop func()) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	address := net.IPv4(192, 0, 2, 1)
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
			A:   address,
		}}
		w.WriteMsg(m)
	})}
	go s.ActivateAndServe()
	return pc.LocalAddr().String(), func() { s.Shutdown() }
}

func name(i int) string { return fmt.Sprintf("host%d.example.com.", i) }

func loopLookups(n int) {
	addr, stop := startDNS()
	defer stop()
	cfg := &eventloop.Config{Resolver: eventloop.ResolverConfig{Servers: []string{addr}}}
	err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		asked := 0
		var next func()
		next = func() {
			if asked == n {
				return
			}
			asked++
			l.LookupNetIP(context.Background(), "ip4", name(asked)).Then(func(_ []netip.Addr, err error) {
				if err != nil {
					panic(err)
				}
				next()
			})
		}
		for range lookups {
			next()
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
}

func netLookups(n int) {
	addr, stop := startDNS()
	defer stop()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "udp", addr)
	}}
	names := make(chan int)
	var wg sync.WaitGroup
	for range lookups {
		wg.Go(func() {
			for i := range names {
				if _, err := r.LookupNetIP(context.Background(), "ip4", name(i)); err != nil {
					panic(err)
				}
			}
		})
	}
	for i := range n {
		names <- i
	}
	close(names)
	wg.Wait()
}
