package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestAddressesOfEqualRankTakeTurnsAtBeingFirst(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN A 127.0.0.1", "a.test. 60 IN A 127.0.0.2", "a.test. 60 IN A 127.0.0.3", "a.test. 60 IN AAAA ::1"))
	cfg := testConfig(t, s.addr)
	cfg.HostsFile = writeFile(t, "hosts", "127.0.0.1 f.test\n127.0.0.2 f.test\n127.0.0.3 f.test\n::1 f.test\n")
	r := newResolver(t, cfg)
	for _, host := range []string{"a.test", "f.test"} {
		for round := range 2 {
			for i, want := range []string{"127.0.0.1 127.0.0.2 127.0.0.3", "127.0.0.2 127.0.0.3 127.0.0.1", "127.0.0.3 127.0.0.1 127.0.0.2"} {
				addrs, err := r.LookupNetIP(t.Context(), "ip", host)
				if err != nil {
					t.Fatal(err)
				}
				// Without IPv6, ::1 has no source address and comes last.
				six := slices.Index(addrs, netip.IPv6Loopback())
				if six != 0 && six != 3 {
					t.Errorf("%s: ::1 is in the middle of %s", host, join(addrs))
				}
				if got := join(slices.Delete(addrs, six, six+1)); got != want {
					t.Errorf("%s, lookup %d of round %d: %s, want %s", host, i+1, round+1, got, want)
				}
			}
		}
	}
	if n := len(s.queries()); n != 2 {
		t.Errorf("queries = %d, want 2", n)
	}
}

func TestLookupsOfOneNameAtTheSameTimeRotateToo(t *testing.T) {
	const n = 300
	release := make(chan struct{})
	s := newServer(t, func(p peer) {
		<-release
		p.reply(0, p.name()+" 60 IN A 127.0.0.1", p.name()+" 60 IN A 127.0.0.2", p.name()+" 60 IN A 127.0.0.3")
	})
	r := resolverFor(t, s)
	var mu sync.Mutex
	first := make(map[string]int)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.test")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			first[addrs[0].String()]++
			mu.Unlock()
		})
	}
	waitFor(t, func() bool { return r.Stats().Misses == n })
	close(release)
	wg.Wait()
	if want := fmt.Sprint(map[string]int{"127.0.0.1": n / 3, "127.0.0.2": n / 3, "127.0.0.3": n / 3}); fmt.Sprint(first) != want {
		t.Errorf("first addresses: %v, want %v", first, want)
	}
}

// The order was computed with other routes: ::1 was unreachable.
func TestAddressesAreSortedAgainWhenRoutesMayHaveChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
		old := &sortedAddrs{addrs: []netip.Addr{addrs[0], addrs[1]}, ends: []int{1, 2}, until: time.Now().Add(checkInterval)}
		if slices.Equal(sortAddrs(slices.Clone(addrs)), old.addrs) {
			old.addrs[0], old.addrs[1] = old.addrs[1], old.addrs[0] // a machine without IPv6
		}
		s := &addrSet{addrs: addrs}
		s.sorted.Store(old)
		time.Sleep(checkInterval - 1)
		if got, ok := s.take("ip", true); !ok || !slices.Equal(got, old.addrs) {
			t.Errorf("before it is time: %v, %v", got, ok)
		}
		time.Sleep(time.Nanosecond)
		if _, ok := s.take("ip", true); ok {
			t.Error("a quick take returned the old order")
		}
		if got, ok := s.take("ip", false); !ok || slices.Equal(got, old.addrs) {
			t.Errorf("when it is time: %v, %v", got, ok)
		}
		if _, ok := s.take("ip", true); !ok {
			t.Error("the new order is not remembered")
		}
	})
}

// Whatever the routes, each lookup returns all addresses, none of them comes before one
// of better rank, and each address is the first of its rank equally often.
func TestRotationIsFairAndKeepsTheRanks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := []string{"192.0.2.1", "192.0.2.2", "10.1.1.1", "127.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db9::1", "fd00::1", "::1", "2002::1", "169.254.1.1"}
		picked := rapid.SliceOfNDistinct(rapid.SampledFrom(pool), 1, len(pool), rapid.ID[string]).Draw(t, "addresses")
		sources := []string{"192.0.2.9", "127.0.0.1", "2001:db8::9", "fd00::9", "::1", ""}
		var addrs, srcs []netip.Addr
		for _, a := range picked {
			addrs = append(addrs, netip.MustParseAddr(a))
			src, _ := netip.ParseAddr(rapid.SampledFrom(sources).Draw(t, "source"))
			srcs = append(srcs, src)
		}
		order := slices.Clone(addrs)
		ends := sortWithSources(order, slices.Clone(srcs))
		s := &addrSet{addrs: addrs}
		s.sorted.Store(&sortedAddrs{addrs: order, ends: ends, until: time.Now().Add(time.Hour)})
		s.turn.Store(rapid.SampledFrom([]uint32{0, 1, 1<<31 - 1, 1<<32 - 1}).Draw(t, "turn"))
		info := make(map[netip.Addr]addrInfo)
		for i, a := range addrs {
			info[a] = addrInfo{addr: a, addrAttr: attrOf(a), src: srcs[i], srcAttr: attrOf(srcs[i])}
		}
		network := rapid.SampledFrom([]string{"ip", "ip4", "ip6"}).Draw(t, "network")
		for range 12 {
			got, ok := s.take(network, true)
			if !ok {
				t.Fatal("not at hand")
			}
			want := filterFamily(network, addrs)
			sorted := slices.SortedFunc(slices.Values(got), netip.Addr.Compare)
			slices.SortFunc(want, netip.Addr.Compare)
			if !slices.Equal(sorted, want) {
				t.Fatalf("took %s of %s", join(got), join(want))
			}
			for i := 1; i < len(got); i++ {
				if compareAddrs(info[got[i-1]], info[got[i]]) > 0 && len(addrs) > 1 {
					t.Fatalf("%s is before %s in %s", got[i-1], got[i], join(got))
				}
			}
		}
	})
}

func TestAHostsFileHasEachAddressOfANameOnce(t *testing.T) {
	h := parseHosts(strings.Repeat("127.0.0.1 a.test\n", 3) + "127.0.0.2 a.test\n")
	addrs, found, done := h.lookup("ip", "a.test", false)
	if len(addrs) != 2 || !found || !done {
		t.Errorf("lookup = %v, %v, %v", addrs, found, done)
	}
}
