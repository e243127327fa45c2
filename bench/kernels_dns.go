package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/onloop/eventloop"
)

func init() {
	kernels[ours]["dns"] = func(n int) { loopLookups(n, 0) }
	kernels[ours]["dns-hang"] = func(n int) { loopLookups(n, hanging) }
	kernels[netResolver] = map[string]kernel{
		"dns":      func(n int) { netLookups(n, 0) },
		"dns-hang": func(n int) { netLookups(n, hanging) },
	}
}

const (
	netResolver = "net.Resolver"
	lookups     = 50   // in flight
	hanging     = 1000 // beside them, if any
)

// hangPace is the time between two names that hang: the server's socket has room
// for some 250 queries, and what does not fit is lost.
const hangPace = 50 * time.Microsecond

// startDNS runs a name server that knows an address for every name, but for those
// that begin with "hang", which it does not answer. It is in the process of the
// kernel: its share of the time is the same for all.
func startDNS() (addr string, stop func()) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	address := net.IPv4(192, 0, 2, 1)
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "hang") {
			return
		}
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

func name(i int) string     { return fmt.Sprintf("host%d.example.com.", i) }
func hangName(i int) string { return fmt.Sprintf("hang%d.example.com.", i) }

func loopLookups(n, hang int) {
	addr, stop := startDNS()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{Servers: []string{addr}}}
	err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		for i := range hang {
			l.LookupNetIP(ctx, "ip4", hangName(i)).Then(func([]netip.Addr, error) {})
			time.Sleep(hangPace)
		}
		asked, answered := 0, 0
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
				if answered++; answered == n {
					cancel()
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

func netLookups(n, hang int) {
	addr, stop := startDNS()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "udp", addr)
	}}
	var hung sync.WaitGroup
	for i := range hang {
		hung.Go(func() { r.LookupNetIP(ctx, "ip4", hangName(i)) })
		time.Sleep(hangPace)
	}
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
	cancel()
	hung.Wait()
}
