package dialer

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

var errMissingAddress = errors.New("missing address")

// ports looks up service names without the C library, which would need a thread
// that no context can stop.
var ports = &net.Resolver{PreferGo: true}

// resolve returns the addresses to dial, in the order of the resolver. There may be
// none. If more is not nil, it returns further addresses.
func (d *Dialer) resolve(ctx context.Context, network, address string) (addrs []netip.AddrPort, more func(context.Context) []netip.AddrPort, err error) {
	if address == "" {
		return nil, nil, errMissingAddress
	}
	if _, ok := d.LocalAddr.(*net.TCPAddr); d.LocalAddr != nil && !ok {
		return nil, nil, &net.AddrError{Err: "mismatched local address type", Addr: d.LocalAddr.String()}
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	port, err := ports.LookupPort(ctx, network, service)
	if err != nil {
		return nil, nil, err
	}
	ips, moreIPs, err := d.lookup(ctx, network, host)
	if err != nil {
		return nil, nil, err
	}
	if moreIPs != nil {
		more = func(ctx context.Context) []netip.AddrPort { return d.suitable(network, moreIPs(ctx), port) }
	}
	return d.suitable(network, ips, port), more, nil
}

// suitable returns the addresses that can be dialed, with the port.
func (d *Dialer) suitable(network string, ips []netip.Addr, port int) (addrs []netip.AddrPort) {
	for _, ip := range ips {
		if ip = ip.Unmap(); d.suits(network, ip) {
			addrs = append(addrs, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	return addrs
}

// noSuitable returns the error of an address whose host has no suitable address.
func noSuitable(address string) error {
	host, _, _ := net.SplitHostPort(address)
	return &net.AddrError{Err: "no suitable address found", Addr: host}
}

// lookup returns the addresses of host. An empty host means the local machine.
func (d *Dialer) lookup(ctx context.Context, network, host string) (addrs []netip.Addr, more func(context.Context) []netip.Addr, err error) {
	if host == "" {
		if network == "tcp6" {
			return []netip.Addr{netip.IPv6Loopback()}, nil, nil
		}
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil, nil
	}
	return d.Resolve(ctx, "ip"+network[len("tcp"):], host)
}

// suits reports whether ip can be dialed on network from the local address.
func (d *Dialer) suits(network string, ip netip.Addr) bool {
	if network == "tcp4" && !ip.Is4() || network == "tcp6" && ip.Is4() {
		return false
	}
	if d.LocalAddr == nil {
		return true
	}
	local, ok := d.LocalAddr.(*net.TCPAddr)
	if !ok {
		return false
	}
	from := local.AddrPort().Addr().Unmap()
	return !from.IsValid() || from.IsUnspecified() || ip.IsUnspecified() || from.Is4() == ip.Is4()
}
