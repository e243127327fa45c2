package resolver

import (
	"net/netip"
	"slices"
	"strings"
)

// hosts is the content of a hosts file. It is immutable once it is parsed.
type hosts struct {
	byName map[string]*addrSet // lower case, without a trailing dot
	byAddr map[netip.Addr][]string
}

// parseHosts parses a hosts file. Each line has an address and then its names. All
// lines of a name count, in order, not only the first. Lines without a valid
// address are ignored, as in other resolvers: such lines are common in files that
// block advertisements.
func parseHosts(data string) *hosts {
	h := &hosts{byName: make(map[string]*addrSet), byAddr: make(map[netip.Addr][]string)}
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
		e = new(addrSet)
		h.byName[key] = e
	}
	e.add(addr)
	h.byAddr[addr] = append(h.byAddr[addr], absoluteName(name))
}

// lookup returns the addresses of name that network admits, best first, and whether
// the file has the name at all. Sorting takes system calls: if the addresses must
// be sorted first and quick is set, done is false.
func (h *hosts) lookup(network, name string, quick bool) (addrs []netip.Addr, found, done bool) {
	e := h.byName[hostsKey(name)]
	if e == nil {
		return nil, false, true
	}
	addrs, done = e.take(network, quick)
	return addrs, true, done
}

// names returns the names of addr in the order of the file.
func (h *hosts) names(addr netip.Addr) []string { return slices.Clone(h.byAddr[addr]) }

func hostsKey(name string) string { return strings.TrimSuffix(lowerName(name), ".") }

// absoluteName adds a trailing dot to a name of several labels, as in DNS answers.
// A name without dots, such as localhost, is local and stays unchanged. Package net
// does the same.
func absoluteName(name string) string {
	if strings.Contains(name, ".") {
		return rooted(name)
	}
	return name
}

// filterFamily returns a copy of the addresses that network admits.
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
