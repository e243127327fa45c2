package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// hosts is what a hosts file says. It does not change once it is parsed.
type hosts struct {
	byName map[string]*hostEntry // lower case, without a dot at the end
	byAddr map[netip.Addr][]string
}

// A hostEntry has the addresses of one name, in the order of the file.
type hostEntry struct {
	addrs  []netip.Addr
	sorted atomic.Pointer[sortedAddrs]
}

// sortedAddrs remembers an order of RFC 6724. It is kept for a short time
// only, because it depends on the routes that the machine has.
type sortedAddrs struct {
	addrs []netip.Addr
	until time.Time
}

// parseHosts reads a hosts file: an address, then its names. All lines count,
// in order, not only the first that has a name. What is no address is left
// out, as everywhere: such lines are common in the files that block
// advertisements.
func parseHosts(data string) *hosts {
	h := &hosts{byName: make(map[string]*hostEntry), byAddr: make(map[netip.Addr][]string)}
	for line := range strings.Lines(data) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			h.add(addr.Unmap(), name)
		}
	}
	return h
}

func (h *hosts) add(addr netip.Addr, name string) {
	key := hostsKey(name)
	if key == "" || strings.HasSuffix(key, ".") {
		return // only dots, or too many
	}
	e := h.byName[key]
	if e == nil {
		e = new(hostEntry)
		h.byName[key] = e
	}
	if !slices.Contains(e.addrs, addr) {
		e.addrs = append(e.addrs, addr)
	}
	h.byAddr[addr] = append(h.byAddr[addr], absoluteName(name))
}

// lookup returns the addresses of name that network lets through, in the order
// of RFC 6724, and whether the file has the name at all. If they would first
// have to be sorted, which takes system calls, and quick is set, done is false.
func (h *hosts) lookup(network, name string, quick bool) (addrs []netip.Addr, found, done bool) {
	e := h.byName[hostsKey(name)]
	if e == nil {
		return nil, false, true
	}
	all := e.addrs
	if len(all) > 1 {
		s := e.sorted.Load()
		if s == nil || time.Now().After(s.until) {
			if quick {
				return nil, false, false
			}
			s = &sortedAddrs{addrs: sortAddrs(slices.Clone(all)), until: time.Now().Add(checkInterval)}
			e.sorted.Store(s)
		}
		all = s.addrs
	}
	return filterFamily(network, all), true, true
}

// names returns the names of addr in the order of the file.
func (h *hosts) names(addr netip.Addr) []string { return slices.Clone(h.byAddr[addr]) }

func hostsKey(name string) string { return strings.TrimSuffix(lowerName(name), ".") }

// absoluteName ends a name of several labels with a dot, as answers of DNS
// have it. A name without dots, such as localhost, is local and stays as it
// is. Package net does the same.
func absoluteName(name string) string {
	if strings.Contains(name, ".") {
		return rooted(name)
	}
	return name
}

// filterFamily returns a copy of the addresses that network lets through.
func filterFamily(network string, addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if admits(network, a) {
			out = append(out, a)
		}
	}
	return out
}

// admits reports whether an address may be in an answer for network.
func admits(network string, a netip.Addr) bool {
	switch network {
	case "ip4":
		return a.Is4()
	case "ip6":
		return !a.Is4()
	}
	return true
}
