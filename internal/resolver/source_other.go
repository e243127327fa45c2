//go:build !linux

package resolver

import (
	"net"
	"net/netip"
)

// sources finds the source address that the kernel would use for each destination,
// by connecting a UDP socket to the destination. Connecting sends nothing, and the
// port does not matter. A destination without a route has no source.
func sources(addrs []netip.Addr) []netip.Addr {
	srcs := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53)))
		if err != nil {
			continue
		}
		if la, ok := c.LocalAddr().(*net.UDPAddr); ok {
			srcs[i] = la.AddrPort().Addr().Unmap().WithZone("")
		}
		c.Close()
	}
	return srcs
}
