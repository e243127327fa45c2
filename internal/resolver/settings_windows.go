package resolver

import (
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Windows has a hosts file, and stores the other settings in its registry.
const (
	defaultResolvConf = ""
	defaultNSSwitch   = ""
)

var defaultHostsFile = os.Getenv("SystemRoot") + `\System32\drivers\etc\hosts`

// platformServers returns the servers of every network adapter that is up and has a
// gateway, as package net does. They are read once, because there is no file whose
// changes could be detected. Flush does not read them again either.
func platformServers() []netip.Addr {
	var servers []netip.Addr
	for a := adapters(); a != nil; a = a.Next {
		if a.OperStatus != windows.IfOperStatusUp || a.FirstGatewayAddress == nil {
			continue
		}
		for d := a.FirstDnsServerAddress; d != nil; d = d.Next {
			addr, ok := netip.AddrFromSlice(d.Address.IP())
			// Windows fills in addresses of fec0::/10 when no IPv6 server is set.
			// Such addresses are deprecated (RFC 3879), and no server has them.
			if ok && !netip.MustParsePrefix("fec0::/10").Contains(addr) {
				servers = append(servers, addr.Unmap())
			}
		}
	}
	return servers
}

// adapters returns the list of network adapters, or nil if the system call fails.
func adapters() *windows.IpAdapterAddresses {
	const flags = windows.GAA_FLAG_INCLUDE_PREFIX | windows.GAA_FLAG_INCLUDE_GATEWAYS
	// The list may grow between two calls, but not endlessly.
	for size, tries := uint32(15000), 0; tries < 5; tries++ {
		buf := make([]byte, size)
		list := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, list, &size)
		if err == nil && size > 0 {
			return list
		}
		if err != windows.ERROR_BUFFER_OVERFLOW || size <= uint32(len(buf)) {
			return nil
		}
	}
	return nil
}
