package resolver

import (
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// sources finds the source address that the kernel would use for each destination,
// by connecting a UDP socket to the destination. Connecting sends nothing, and the
// port does not matter. A destination without a route has no source.
//
// A net.UDPConn would work too, but needs twice the system calls; the poller is not
// needed here.
func sources(addrs []netip.Addr) []netip.Addr {
	srcs := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		srcs[i] = source(a)
	}
	return srcs
}

func source(dst netip.Addr) netip.Addr {
	family := unix.AF_INET6
	if dst.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return netip.Addr{} // a family that the kernel does not support
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(dst)); err != nil {
		return netip.Addr{}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	const port = 53
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16(), ZoneId: zoneID(a.Zone())}
}

// zoneID returns the index of the interface of a zone.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}
