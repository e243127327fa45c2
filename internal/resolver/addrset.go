package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An addrSet holds the addresses of one name and returns them in the order of RFC
// 6724. Addresses of equal rank take turns at being first, so that a cached answer
// does not send every connection of the process to the same machine. All methods
// may be called from any goroutine.
type addrSet struct {
	addrs  []netip.Addr // in the order of the server or the file; immutable
	turn   atomic.Uint32
	sorted atomic.Pointer[sortedAddrs]
	mu     sync.Mutex // held while the addresses are sorted again
}

// sortedAddrs is an order of RFC 6724. It depends on the routes of the machine, so
// it is computed again after checkInterval.
type sortedAddrs struct {
	addrs []netip.Addr
	ends  []int // the end of each run of addresses of equal rank
	until time.Time
}

// add appends an address, unless the set already has it. It must not be called once
// the set is in use.
func (s *addrSet) add(a netip.Addr) {
	if !slices.Contains(s.addrs, a) {
		s.addrs = append(s.addrs, a)
	}
}

// take returns a copy of the addresses that network admits, best first. Sorting
// takes system calls: if the addresses must be sorted first and quick is set, ok is
// false.
func (s *addrSet) take(network string, quick bool) (addrs []netip.Addr, ok bool) {
	if len(s.addrs) == 1 {
		return filterFamily(network, s.addrs), true
	}
	now := time.Now()
	o := s.sorted.Load()
	if o == nil || !now.Before(o.until) {
		if quick {
			return nil, false
		}
		o = s.sort(now)
	}
	turn := s.turn.Add(1) - 1
	addrs = make([]netip.Addr, 0, len(o.addrs))
	start := 0
	for _, end := range o.ends {
		run := o.addrs[start:end]
		first := int(turn % uint32(len(run))) // an int may have 32 bits
		for i := range run {
			if a := run[(first+i)%len(run)]; admits(network, a) {
				addrs = append(addrs, a)
			}
		}
		start = end
	}
	return addrs, true
}

// sort returns the current order. While one goroutine computes it, the others use
// the old order.
func (s *addrSet) sort(now time.Time) *sortedAddrs {
	if s.sorted.Load() == nil {
		s.mu.Lock()
	} else if !s.mu.TryLock() {
		return s.sorted.Load()
	}
	defer s.mu.Unlock()
	if o := s.sorted.Load(); o != nil && now.Before(o.until) {
		return o
	}
	addrs := slices.Clone(s.addrs)
	o := &sortedAddrs{addrs: addrs, ends: sortWithSources(addrs, sources(addrs)), until: now.Add(checkInterval)}
	s.sorted.Store(o)
	return o
}

// reachable reports whether there is a route to any of the addresses.
func (s *addrSet) reachable() bool {
	return slices.ContainsFunc(sources(s.addrs), netip.Addr.IsValid)
}
