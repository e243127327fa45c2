package resolver

import (
	"fmt"
	"strings"
)

// order defines where host names are looked up, and in which order.
type order uint8

const (
	orderFilesDNS order = iota // also the default
	orderDNSFiles
	orderFiles
	orderDNS
)

// hasFiles reports whether lookups use the hosts file.
func (o order) hasFiles() bool { return o != orderDNS }

// hasDNS reports whether lookups query servers.
func (o order) hasDNS() bool { return o != orderFiles }

// filesFirst reports whether lookups use the hosts file before any server.
func (o order) filesFirst() bool { return o == orderFilesDNS || o == orderFiles }

// parseNSSwitch returns the order in the "hosts" line of an nsswitch.conf file.
// Without such a line, or if it is malformed, the order is files and then DNS.
func parseNSSwitch(data string) (o order, problem string) {
	for line := range strings.Lines(data) {
		line, _, _ = strings.Cut(line, "#")
		database, sources, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(database) != "hosts" {
			continue
		}
		names, problem := nssSources(sources)
		if problem != "" {
			return orderFilesDNS, problem
		}
		return orderOf(names), ""
	}
	return orderFilesDNS, ""
}

// nssSources returns the names of the sources, without the criteria in brackets.
// Criteria decide whether to continue after a source has failed. They are ignored,
// because they concern sources that this package does not have.
func nssSources(s string) (names []string, problem string) {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if s[0] == '[' {
			end := strings.IndexByte(s, ']')
			if end < 0 {
				return nil, fmt.Sprintf("hosts line has an unclosed bracket: %.64q", s)
			}
			s = s[end+1:]
			continue
		}
		end := strings.IndexAny(s, " \t[")
		if end < 0 {
			end = len(s)
		}
		names = append(names, s[:end])
		s = s[end:]
	}
	return names, ""
}

// orderOf reduces sources to files and DNS. An unknown source (mdns, resolve,
// myhostname, ...) counts as DNS if the list has no dns: "hosts: files resolve"
// means a stub resolver on this machine, which is also the server in resolv.conf.
// Package net does the same.
func orderOf(sources []string) order {
	files, dns := -1, -1
	for i, s := range sources {
		switch {
		case s == "files" && files < 0:
			files = i
		case s == "dns" && dns < 0:
			dns = i
		}
	}
	for i, s := range sources {
		if s != "files" && dns < 0 {
			dns = i
		}
	}
	switch {
	case files < 0 && dns < 0:
		return orderFilesDNS
	case files < 0:
		return orderDNS
	case dns < 0:
		return orderFiles
	case dns < files:
		return orderDNSFiles
	}
	return orderFilesDNS
}
