package dialer

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

var errMissingAddress = errors.New("missing address")

// ports finds service names without the C library, which would need a thread
// that no context can stop.
var ports = &net.Resolver{PreferGo: true}

// resolve returns the addresses to dial, in the order of the resolver.
func (d *Dialer) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	if address == "" {
		return nil, errMissingAddress
	}
	if _, ok := d.LocalAddr.(*net.TCPAddr); d.LocalAddr != nil && !ok {
		return nil, &net.AddrError{Err: "mismatched local address type", Addr: d.LocalAddr.String()}
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := ports.LookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	ips, err := d.lookup(ctx, network, host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.AddrPort
	for _, ip := range ips {
		if ip = ip.Unmap(); d.suits(network, ip) {
			addrs = append(addrs, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: host}
	}
	return addrs, nil
}

// lookup returns the addresses of host. An empty host is the local machine.
func (d *Dialer) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == "" {
		if network == "tcp6" {
			return []netip.Addr{netip.IPv6Loopback()}, nil
		}
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	resolve := d.Resolve
	if resolve == nil {
		resolve = net.DefaultResolver.LookupNetIP
	}
	return resolve(ctx, "ip"+network[len("tcp"):], host)
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
