//go:build !windows

package resolver

import "net/netip"

const (
	defaultResolvConf = "/etc/resolv.conf"
	defaultNSSwitch   = "/etc/nsswitch.conf"
	defaultHostsFile  = "/etc/hosts"
)

// platformServers returns the servers that the system configures outside
// resolv.conf. On these systems there are none.
func platformServers() []netip.Addr { return nil }
