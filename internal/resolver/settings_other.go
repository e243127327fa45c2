//go:build !windows

package resolver

import "net/netip"

const (
	defaultResolvConf = "/etc/resolv.conf"
	defaultNSSwitch   = "/etc/nsswitch.conf"
	defaultHostsFile  = "/etc/hosts"
)

// platformServers returns the servers that the system names elsewhere than in
// resolv.conf: on these systems, none.
func platformServers() []netip.Addr { return nil }
