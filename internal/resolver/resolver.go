// Package resolver is a stub resolver: it looks up host names by the rules of the
// system (hosts file, nsswitch.conf, resolv.conf), and queries the name servers
// itself.
//
// Its results are those of the Go resolver in package net. It adds a cache, one
// query for identical concurrent lookups, cancellation at every stage, and a strict
// filter for replies. Messages are those of github.com/miekg/dns; this package
// itself exchanges them with the servers.
//
// It differs from package net deliberately in these points:
//   - localhost and names below it are never sent to a server (RFC 6761), and
//     .onion and .invalid are not found without a query, with and without the
//     search list;
//   - an address counts only if its record belongs to the name or an alias of it;
//   - a query with EDNS that is refused or lost leads to one without;
//   - when one family has addresses, the other family gets one more second, not
//     all remaining attempts;
//   - failed questions, and servers that do not reply, are remembered for a while;
//   - queries over TCP and TLS share connections;
//   - addresses of equal rank take turns at being first;
//   - IPv4 addresses are never in their IPv6-mapped form.
package resolver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	defaultCacheSize      = 1024
	defaultMaxTTL         = time.Hour
	defaultMaxNegativeTTL = 5 * time.Minute
	maxCachedSize         = 16 << 10

	// familyGrace is how long a lookup waits for the second family once the first
	// has addresses. Without it, a network that loses AAAA queries would delay
	// every lookup by all attempts together.
	familyGrace = time.Second

	// resolutionDelay is how long LookupEarly waits for IPv6 addresses once it has
	// IPv4 addresses (RFC 8305 section 8).
	resolutionDelay = 50 * time.Millisecond
)

// Config has the fields of eventloop.ResolverConfig, which documents them. The zero Config
// uses the files of the system.
type Config struct {
	Servers                          []string
	Search                           []string
	Ndots                            int
	Attempts                         int
	Timeout                          time.Duration
	Rotate                           bool
	UseTCP                           bool
	NoEDNS                           bool
	Use0x20                          bool
	ResolvConf, HostsFile, NSSwitch  string
	CacheSize                        int
	CacheMaxTTL, CacheMaxNegativeTTL time.Duration
	TLS                              *tls.Config

	// Dial connects to a server. It must return when its context ends.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Guard calls f, which may run code of the application, that is Dial, its connections and
// the callbacks of TLS, and returns its error. If f panics or exits the goroutine, the Guard
// also returns an error. It may return an error while f still runs, to give it up.
type Guard func(f func() error) error

// Stats counts what a resolver does.
type Stats struct {
	Open    int // exchanges with servers in flight
	Entries int // answers in the cache, including expired ones

	Hits     uint64 // lookups that the cache answered
	Misses   uint64 // lookups that required a query
	Queries  uint64 // queries sent to servers
	Failures uint64 // attempts that brought no reply
}

// A Resolver resolves names. All methods may be called from any goroutine. A
// Resolver must be created with [New] and should be closed after use.
type Resolver struct {
	cfg    Config
	guards Guard // or nil
	system *system
	table  *table
	// sockets has an element per query with its own UDP socket.
	sockets chan struct{}

	lastReply                       atomic.Int64 // of any server: nanoseconds of Unix time
	rotation                        atomic.Uint32
	hits, misses, queries, failures atomic.Uint64
	open                            atomic.Int64
}

// New returns a resolver. It does not read files or send queries yet. It returns an error
// if cfg is invalid. Without a guard, functions are called directly. The errors found in the
// configuration files go to log, once per version of a file.
func New(cfg Config, guard Guard, log *slog.Logger) (*Resolver, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Servers = slices.Clone(cfg.Servers)
	cfg.Search = slices.Clone(cfg.Search)
	cfg.CacheSize = orDefault(cfg.CacheSize, defaultCacheSize)
	cfg.CacheMaxTTL = orDefault(cfg.CacheMaxTTL, defaultMaxTTL)
	cfg.CacheMaxNegativeTTL = orDefault(cfg.CacheMaxNegativeTTL, defaultMaxNegativeTTL)
	if cfg.TLS != nil && cfg.TLS.ClientSessionCache == nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	r := &Resolver{
		cfg:     cfg,
		guards:  guard,
		table:   newTable(cfg.CacheSize),
		sockets: make(chan struct{}, maxSockets),
	}
	r.system = newSystem(&r.cfg, log, r.Flush)
	return r, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (c *Config) check() error {
	for _, s := range c.Servers {
		if _, err := serverAddress(s, "53"); err != nil {
			return err
		}
	}
	for _, s := range c.Search {
		if !isDomainName(s) || s == "." {
			return fmt.Errorf("resolver: search %q is not a domain name", s)
		}
	}
	if c.Attempts < 0 {
		return fmt.Errorf("resolver: negative Attempts %d", c.Attempts)
	}
	if c.Timeout < 0 {
		return fmt.Errorf("resolver: negative Timeout %v", c.Timeout)
	}
	return nil
}

// LookupNetIP returns the addresses of host, best first (RFC 6724). The network
// is "ip" for both families, "ip4" or "ip6".
//
// An error is a [net.UnknownNetworkError] or a [*net.DNSError]. It unwraps to the
// error of ctx if ctx ended the lookup, to [ErrNoData] if the name exists without
// such addresses, and to [net.ErrClosed] after Close.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	l, addrs, err := r.beginLookup(ctx, network, host)
	if l == nil {
		return addrs, err
	}
	return l.wait(ctx)
}

// LookupEarly is LookupNetIP for a caller that can start with some of the
// addresses. If the servers reply for one family and are late with the other,
// LookupEarly returns the addresses of the first family: IPv6 addresses at once, if
// there is a route to them, and IPv4 addresses after 50 ms (RFC 8305 section 3).
// Then more is not nil. The caller must call it once; it returns the other
// addresses, or none, when they are known or its context ends.
func (r *Resolver) LookupEarly(ctx context.Context, network, host string) (addrs []netip.Addr, more func(context.Context) []netip.Addr, err error) {
	l, addrs, err := r.beginLookup(ctx, network, host)
	if l == nil {
		return addrs, nil, err
	}
	if early := l.early(ctx); early != nil {
		return early, func(ctx context.Context) []netip.Addr {
			all, _ := l.wait(ctx)
			return slices.DeleteFunc(all, func(a netip.Addr) bool { return slices.Contains(early, a) })
		}, nil
	}
	addrs, err = l.wait(ctx)
	return addrs, nil, err
}

// early waits until all or some of the result is known, or ctx ends. It returns the
// addresses if they are only some of the result. It does not return IPv6 addresses
// without a route, because it is no gain to start with unreachable addresses.
func (l *hostLookup) early(ctx context.Context) []netip.Addr {
	if l.call.isDone() {
		return nil
	}
	select {
	case <-l.call.early:
	case <-l.call.done:
		return nil
	case <-ctx.Done():
		return nil
	}
	q := l.call.part.msg.Question[0]
	part := &addrSet{addrs: addresses(l.call.part.msg, q.Name, q.Qtype)}
	if q.Qtype == dns.TypeAAAA && !part.reachable() {
		return nil
	}
	addrs, _ := part.take(l.network, false)
	return addrs
}

// A hostLookup is a lookup of a host that needs a query.
type hostLookup struct {
	r             *Resolver
	s             *settings
	network, host string
	call          *call
}

// beginLookup begins the lookup of a host. If no query is needed, the lookup is
// complete at once, and the returned hostLookup is nil; otherwise the caller must
// call wait.
func (r *Resolver) beginLookup(ctx context.Context, network, host string) (*hostLookup, []netip.Addr, error) {
	if err := r.ready(ctx, host); err != nil {
		return nil, nil, err
	}
	s := r.system.get()
	res := r.local(s, network, host, false)
	if !res.open {
		return nil, res.addrs, res.err
	}
	c := r.begin(res.key, func(ctx context.Context, c *call) *answer {
		return r.lookupHost(ctx, s, network, c)
	})
	return &hostLookup{r: r, s: s, network: network, host: host, call: c}, nil, nil
}

// wait returns the result.
func (l *hostLookup) wait(ctx context.Context) ([]netip.Addr, error) {
	ans, err := l.r.table.wait(ctx, l.call)
	if err != nil {
		return nil, dnsError(err, l.host, "")
	}
	if ans.err != nil {
		if addrs, ok := lateHosts(l.s, l.network, l.host); ok {
			return addrs, nil
		}
		return nil, named(ans.err, l.host)
	}
	addrs, _ := ans.addrs.take(l.network, false)
	return addrs, nil
}

// Cached returns the result of LookupNetIP if that requires neither waiting nor
// reading files nor a query: for addresses, names in the hosts file, localhost,
// names that cannot exist, and answers in the cache, including negative ones.
// Otherwise ok is false. If ok is true, the lookup counts as a hit; otherwise
// LookupNetIP counts it.
func (r *Resolver) Cached(network, host string) (addrs []netip.Addr, err error, ok bool) {
	if err := r.ready(context.Background(), host); err != nil {
		return nil, err, true
	}
	s := r.system.quick()
	if s == nil {
		// An address needs no settings.
		if _, isAddr := literal(host); !isAddr {
			return nil, nil, false
		}
	}
	res := r.local(s, network, host, true)
	if !res.open {
		return res.addrs, res.err, true
	}
	if res.unknown {
		return nil, nil, false
	}
	ans, ok := r.table.get(res.key)
	if !ok || ans.err != nil && s.order == orderDNSFiles {
		return nil, nil, false
	}
	if ans.err == nil {
		if addrs, ok = ans.addrs.take(network, true); !ok {
			return nil, nil, false
		}
	}
	r.hits.Add(1)
	if ans.err != nil {
		return nil, named(ans.err, host), true
	}
	return addrs, nil, true
}

// LookupAddr returns the names of addr: those in the hosts file, else those in its
// PTR records. Names that are not host names are left out; the others are then
// returned together with an error.
func (r *Resolver) LookupAddr(ctx context.Context, addr netip.Addr) ([]string, error) {
	host := addr.String()
	if err := r.ready(ctx, host); err != nil {
		return nil, err
	}
	arpa, err := dns.ReverseAddr(addr.WithZone("").Unmap().String())
	if err != nil {
		return nil, dnsError(errBadName, host, "")
	}
	s := r.system.get()
	var inFile []string
	if s.order.hasFiles() {
		inFile = s.hosts.names(addr.Unmap())
	}
	if len(inFile) > 0 && s.order.filesFirst() {
		return inFile, nil
	}
	if !s.order.hasDNS() {
		return nil, dnsError(errNoSuchHost, host, "")
	}
	ans, err := r.ask(ctx, s, arpa, dns.TypePTR)
	switch {
	case err != nil:
		return nil, dnsError(err, host, "")
	case ans.err == nil:
		return pointers(ans, arpa, host)
	case ans.err.IsNotFound && len(inFile) > 0:
		return inFile, nil
	}
	return nil, named(ans.err, host)
}

// Query returns the records of name with the type qtype (see the constants of
// github.com/miekg/dns). The name is absolute, with or without a trailing dot:
// neither the search list nor the hosts file applies.
//
// As with the client of miekg/dns, the reply that the name does not exist is a
// message with Rcode NXDOMAIN, not an error, and so is a reply without records.
// Query returns an error, always a [*net.DNSError], if no server gave a final
// reply, or if the name must not be queried. The message belongs to the caller. If
// it comes from the cache, its TTLs are reduced by the time that it spent there.
func (r *Resolver) Query(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	if err := r.ready(ctx, name); err != nil {
		return nil, err
	}
	fqdn, err := queryName(name)
	if err == nil && !isQueryType(qtype) {
		err = errBadType
	}
	if err != nil {
		return nil, dnsError(err, name, "")
	}
	ans, err := r.ask(ctx, r.system.get(), fqdn, qtype)
	if err != nil {
		return nil, dnsError(err, name, "")
	}
	if ans.msg == nil {
		return nil, named(ans.err, name)
	}
	return ans.aged(fqdn, time.Now()), nil
}

// Stats returns the counters.
func (r *Resolver) Stats() Stats {
	return Stats{
		Open:     int(r.open.Load()),
		Entries:  r.table.entries(),
		Hits:     r.hits.Load(),
		Misses:   r.misses.Load(),
		Queries:  r.queries.Load(),
		Failures: r.failures.Load(),
	}
}

// Flush empties the cache. Lookups in flight continue; no later lookup joins them.
func (r *Resolver) Flush() { r.table.flush() }

// Close cancels all lookups and waits until every goroutine of r has ended. Later
// lookups fail with an error that matches [net.ErrClosed]. A second call has no
// further effect.
func (r *Resolver) Close() { r.table.close() }

// ready returns an error if a lookup of host cannot succeed.
func (r *Resolver) ready(ctx context.Context, host string) error {
	if r.table.isClosed() {
		return dnsError(errClosed, host, "")
	}
	if err := ctx.Err(); err != nil {
		return dnsError(err, host, "")
	}
	return nil
}

// localResult is the part of a lookup's result that is known without a query.
type localResult struct {
	addrs []netip.Addr
	err   error

	open    bool // not decided: query for key
	unknown bool // not decided, because that would need system calls
	key     key
}

// local resolves as much as possible without a server. If quick is set, it makes no system
// calls, and may therefore leave the result open.
func (r *Resolver) local(s *settings, network, host string, quick bool) localResult {
	kind, ok := kindOf(network)
	if !ok {
		return localResult{err: net.UnknownNetworkError(network)}
	}
	if a, ok := literal(host); ok {
		if !admits(network, a) {
			return localResult{err: dnsError(errNoSuitable, host, "")}
		}
		return localResult{addrs: []netip.Addr{a}}
	}
	// A localhost entry in the file takes precedence over the rule, whatever the order
	// is: no server is queried for it.
	if s.order.filesFirst() || s.order.hasFiles() && isLocalhost(host) {
		addrs, found, done := s.hosts.lookup(network, host, quick)
		if !done {
			return localResult{open: true, unknown: true}
		}
		switch {
		case len(addrs) > 0:
			return localResult{addrs: addrs}
		case found && !isLocalhost(host):
			// The file is final: a user who maps a name to 127.0.0.1 does not want
			// a lookup to find its IPv6 addresses elsewhere.
			return localResult{err: dnsError(ErrNoData, host, "")}
		}
	}
	if isLocalhost(host) {
		return localResult{addrs: filterFamily(network, s.loopback)}
	}
	name, err := toASCII(host)
	if err != nil || !isDomainName(name) || isNeverAsked(name) || !s.order.hasDNS() {
		// Package net reports a malformed name in the same way: as a host that does
		// not exist.
		return localResult{err: dnsError(errNoSuchHost, host, "")}
	}
	return localResult{open: true, key: key{lowerName(name), kind, s.version}}
}

// kindOf returns the kind of key for a network, and whether there is one.
func kindOf(network string) (kind, bool) {
	switch network {
	case "ip":
		return kindIP, true
	case "ip4":
		return kindIP4, true
	case "ip6":
		return kindIP6, true
	}
	return 0, false
}

// literal returns the address in host, if host is an address. The check of the
// first and last bytes avoids the error that netip.ParseAddr allocates for a name.
func literal(host string) (netip.Addr, bool) {
	if host == "" || !strings.Contains(host, ":") && !(isDigit(host[0]) && isDigit(host[len(host)-1])) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err == nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// lateHosts looks in the hosts file after DNS, if that is the order.
func lateHosts(s *settings, network, host string) ([]netip.Addr, bool) {
	if s.order != orderDNSFiles {
		return nil, false
	}
	addrs, _, _ := s.hosts.lookup(network, host, false)
	return addrs, len(addrs) > 0
}

// begin calls begin of the table, and counts hits and misses.
func (r *Resolver) begin(k key, work func(context.Context, *call) *answer) *call {
	c, hit := r.table.begin(k, work)
	if hit {
		r.hits.Add(1)
	} else {
		r.misses.Add(1)
	}
	return c
}

// ask returns the answer to one question. An error is that of ctx.
func (r *Resolver) ask(ctx context.Context, s *settings, fqdn string, qtype uint16) (*answer, error) {
	return r.table.wait(ctx, r.begin(questionKey(s, fqdn, qtype), r.questionWork(s, fqdn, qtype)))
}

func questionKey(s *settings, fqdn string, qtype uint16) key {
	return key{lowerName(fqdn), kind(qtype), s.version}
}

func (r *Resolver) questionWork(s *settings, fqdn string, qtype uint16) func(context.Context, *call) *answer {
	return func(ctx context.Context, c *call) *answer { return r.query(ctx, s, fqdn, qtype, c) }
}

// pointers returns the names in the answer to a PTR question.
func pointers(ans *answer, arpa, host string) ([]string, error) {
	records, _, _ := follow(ans.msg, arpa, dns.TypePTR)
	names := make([]string, 0, len(records))
	for _, rr := range records {
		// The owner of the address controls these names (CVE-2021-33195).
		if ptr, ok := rr.(*dns.PTR); ok && isDomainName(ptr.Ptr) {
			names = append(names, ptr.Ptr)
		}
	}
	if len(names) < len(records) {
		return names, &net.DNSError{Err: "answer contains names that are not host names", Name: host, Server: ans.server}
	}
	return names, nil
}

// queryName returns name as an absolute name, in the form in which miekg/dns prints
// it, so that it can be compared with the question of a reply.
func queryName(name string) (string, error) {
	ascii, err := toASCII(name)
	if err != nil || name == "" {
		return "", errBadName
	}
	if isNeverAsked(ascii) || isLocalhost(ascii) {
		return "", errNeverAsked
	}
	var wire [255]byte
	n, err := dns.PackDomainName(dns.Fqdn(ascii), wire[:], 0, nil, false)
	if err != nil {
		return "", errBadName
	}
	fqdn, _, err := dns.UnpackDomainName(wire[:n], 0)
	if err != nil {
		return "", errBadName
	}
	return fqdn, nil
}

// isQueryType reports whether a single message can answer a question for qtype.
// Zone transfers take many messages; OPT, TSIG and similar types are not in zones
// (RFC 6895 section 3.1).
func isQueryType(qtype uint16) bool {
	switch qtype {
	case dns.TypeNone, dns.TypeOPT, dns.TypeTKEY, dns.TypeTSIG, dns.TypeIXFR, dns.TypeAXFR:
		return false
	}
	return true
}

// aged returns a copy of the message for a caller of Query. It contains the name as
// the caller spelled it, without the random case of 0x20.
func (a *answer) aged(fqdn string, now time.Time) *dns.Msg {
	m := a.msg.Copy()
	for i := range m.Question {
		m.Question[i].Name = fqdn
	}
	spent := uint32(max(now.Sub(a.made), 0) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue // the TTL field of OPT has another meaning
			}
			h.Ttl -= min(h.Ttl, spent)
			if equalFold(h.Name, fqdn) {
				h.Name = fqdn
			}
		}
	}
	return m
}
