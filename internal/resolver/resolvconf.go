package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Limits and defaults of resolv.conf(5).
const (
	maxServers      = 3
	maxNdots        = 15
	maxTimeout      = 30 * time.Second
	maxAttempts     = 5
	defaultNdots    = 1
	defaultTimeout  = 5 * time.Second
	defaultAttempts = 2
)

// resolvConf is the content of a resolv.conf file.
type resolvConf struct {
	servers       []netip.Addr
	search        []string // absolute, that is with a trailing dot
	searchSet     bool     // by the file: do not derive it from the host name
	ndots         int
	timeout       time.Duration
	attempts      int
	rotate        bool
	singleRequest bool
	useTCP        bool
	trustAD       bool
	noReload      bool
	noEDNS        bool
	noAAAA        bool
}

// parseResolvConf parses a resolv.conf file. It never fails: invalid lines and
// options are left out and reported in problems. Unknown lines and options are left
// out silently, as in every resolver, because each system has its own.
func parseResolvConf(data string) (c resolvConf, problems []string) {
	c = resolvConf{ndots: defaultNdots, timeout: defaultTimeout, attempts: defaultAttempts}
	for line := range strings.Lines(data) {
		// Comments start only in the first column: "search a ;b" has two names.
		if line[0] == ';' || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if p := c.directive(f[0], f[1:]); p != "" {
			problems = append(problems, p)
		}
	}
	return c, problems
}

// directive applies one line. It returns a description of what is wrong with the
// line, if anything.
func (c *resolvConf) directive(keyword string, args []string) (problem string) {
	switch keyword {
	case "nameserver":
		return c.nameserver(args)
	case "domain": // the older form of search; the last of both wins
		if len(args) == 0 {
			return "domain without a name"
		}
		return c.setSearch(args[:1])
	case "search":
		return c.setSearch(args)
	case "options":
		for _, option := range args {
			if p := c.option(option); p != "" {
				problem = p
			}
		}
	}
	return problem
}

func (c *resolvConf) nameserver(args []string) (problem string) {
	if len(args) == 0 {
		return "nameserver without an address"
	}
	// A host name would need a name server to resolve it.
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return fmt.Sprintf("nameserver %.64q is not an address", args[0])
	}
	if len(c.servers) < maxServers {
		c.servers = append(c.servers, addr)
	}
	return ""
}

func (c *resolvConf) setSearch(names []string) (problem string) {
	c.search, c.searchSet = nil, true
	for _, name := range names {
		if name == "." {
			continue // the root adds nothing to a name
		}
		if !isDomainName(name) {
			problem = fmt.Sprintf("search %.64q is not a domain name", name)
			continue
		}
		c.search = append(c.search, rooted(name))
	}
	return problem
}

func (c *resolvConf) option(s string) (problem string) {
	key, value, hasValue := strings.Cut(s, ":")
	switch key {
	case "ndots", "timeout", "attempts":
		n, err := strconv.Atoi(value)
		// If the number is out of range, n is the nearest int, which number then
		// limits. The size of an int must not affect the result.
		if !hasValue || err != nil && !errors.Is(err, strconv.ErrRange) {
			return fmt.Sprintf("option %.64q has no number", s)
		}
		c.number(key, n)
	default:
		c.flag(s)
	}
	return ""
}

// flag sets an option without a value, or clears it if the name has a leading
// hyphen, as in glibc.
func (c *resolvConf) flag(s string) {
	name, off := strings.CutPrefix(s, "-")
	switch name {
	case "rotate":
		c.rotate = !off
	case "single-request", "single-request-reopen":
		c.singleRequest = !off
	case "use-vc", "usevc", "tcp": // the names on Linux, FreeBSD and OpenBSD
		c.useTCP = !off
	case "trust-ad":
		c.trustAD = !off
	case "no-reload":
		c.noReload = !off
	case "no-aaaa":
		c.noAAAA = !off
	case "edns0": // on unless it is cleared
		c.noEDNS = off
	case "no-edns0":
		c.noEDNS = !off
	}
}

// number sets a numeric option within the limits of the manual page, so that no
// file can make a lookup take hours.
func (c *resolvConf) number(key string, n int) {
	switch key {
	case "ndots":
		c.ndots = min(max(n, 0), maxNdots)
	case "timeout":
		// Limit the seconds first, because a large number of seconds does not fit
		// into a Duration.
		c.timeout = time.Duration(min(max(n, 1), int(maxTimeout/time.Second))) * time.Second
	case "attempts":
		c.attempts = min(max(n, 1), maxAttempts)
	}
}

// defaultSearch returns the domain of the host, which is the search list of a file
// without one according to resolv.conf(5).
func defaultSearch() []string {
	host, err := os.Hostname()
	if err != nil {
		return nil
	}
	_, domain, _ := strings.Cut(host, ".")
	if !isDomainName(domain) || domain == "." {
		return nil
	}
	return []string{rooted(domain)}
}

func rooted(name string) string {
	if strings.HasSuffix(name, ".") {
		return name
	}
	return name + "."
}
