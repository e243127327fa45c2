package resolver

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// If the process was suspended for that long, the wait for the second family may be over
// although its reply is already there.
func TestAReplyForTheSecondFamilyCountsAfterThePauseOfTheProcess(t *testing.T) {
	r := newResolver(t, Config{Servers: []string{"127.0.0.1:1"}})
	first := &answer{msg: question{name: "a.test.", qtype: dns.TypeA}.msg(false, false)}
	want := &answer{addrs: &addrSet{addrs: []netip.Addr{netip.IPv6Loopback()}}}
	for range 1000 {
		got := r.awaitSecond(context.Background(), &settings{resolvConf: resolvConf{timeout: time.Nanosecond}}, first, finished(want), nil, "a.test.")
		if got != want {
			t.Fatalf("got %+v, want the answer", got)
		}
	}
}

// On a 32-bit system the counter of queries does not fit into an int.
func TestRotationContinuesWhenItsCounterWrapsAround(t *testing.T) {
	r := newResolver(t, Config{Servers: []string{"127.0.0.1:1"}})
	for _, asked := range []uint32{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		r.rotation.Store(asked)
		if got, want := r.nextServer(3), int(asked%3); got != want {
			t.Errorf("after %d queries: server %d, want %d", asked, got, want)
		}
	}
}
