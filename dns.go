package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop/internal/dialer"
	"github.com/onloop/eventloop/internal/resolver"
)

// A ResolverConfig configures how a loop resolves names: for [Loop.LookupNetIP],
// [Loop.LookupAddr], [Loop.Query], [Loop.Dial] and the HTTP client. The zero
// ResolverConfig uses the configuration files of the system, as package net does. Each
// field that is set replaces the corresponding setting of these files. If a field is
// invalid, such as a malformed server, every lookup that needs it fails.
type ResolverConfig struct {
	// Servers are the name servers to query, in order: IP addresses with or without a
	// port, such as "192.0.2.1", "192.0.2.1:5353" or "[::1]:53". Empty means those of
	// ResolvConf.
	Servers []string

	// Search is the list of domains in which an incomplete name is looked up. Nil means
	// the list of ResolvConf; empty and not nil means none.
	Search []string

	// Ndots is the minimum number of dots in a name that is tried as an absolute name
	// before it is looked up in the domains of Search. Zero means the value of
	// ResolvConf, else 1. Negative means that every name is first tried as an absolute
	// name.
	Ndots int

	// Attempts is how often each server is queried. Zero means the value of ResolvConf,
	// else 2. Negative is an error.
	Attempts int

	// Timeout is the maximum time of each query to a server. Zero means the value of
	// ResolvConf, else 5 s. Negative is an error. The context of a lookup limits the time
	// of the whole lookup.
	//
	// A server that does not reply is queried after the others until it replies again,
	// so it costs its Timeout only once. To find out when it replies again, the
	// resolver sends it additional queries, the first after a second and then at
	// growing intervals of up to a minute.
	Timeout time.Duration

	// Rotate starts each lookup with a different server. By default the first server is
	// queried as long as it replies.
	Rotate bool

	// UseTCP sends queries over TCP only. By default UDP is tried first. Queries to the
	// same server share a connection (RFC 7766), which is closed after 10 to 20 s of
	// idleness.
	UseTCP bool

	// NoEDNS sends queries without an OPT record (RFC 6891), as "options -edns0" in
	// ResolvConf does. By default queries have one, except for 10 minutes after a
	// server dropped or refused such a query and replied to one without. A network that
	// drops such queries therefore costs one Timeout per 10 minutes, and none with
	// NoEDNS.
	NoEDNS bool

	// Use0x20 randomizes the case of the letters in queries, and ignores replies that
	// do not repeat it, which makes replies harder to forge
	// (draft-vixie-dnsext-dns0x20). It is off by default, because some servers do not
	// repeat the case.
	Use0x20 bool

	// ResolvConf, HostsFile and NSSwitch are the paths of the files resolv.conf, hosts
	// and nsswitch.conf. Empty means those of the system. Within 5 s of a change, the
	// files are read again and the cache is emptied. A missing file counts as empty.
	// Problems are logged to Config.Logger: a setting that is invalid has its default
	// value, and a file that cannot be read keeps its last contents and is tried again
	// within 5 s.
	ResolvConf, HostsFile, NSSwitch string

	// CacheSize limits the number of answers in the cache. A name takes up to three:
	// one per family, and one for both in order. Zero means 1024. Negative means no
	// cache.
	CacheSize int

	// CacheMaxTTL is the maximum time for which an answer is cached, and
	// CacheMaxNegativeTTL that of a negative answer (RFC 2308), whatever their TTL. Zero
	// means an hour for CacheMaxTTL and 5 minutes for CacheMaxNegativeTTL. Negative means
	// that such answers are not cached.
	//
	// CacheMaxNegativeTTL also limits how long the failure of all servers is cached,
	// whether they returned errors or did not reply (RFC 9520). This time is 5 s. If a
	// name repeatedly times out while others resolve, the time doubles with each
	// failure. Local errors, such as a lack of descriptors, are not cached.
	CacheMaxTTL, CacheMaxNegativeTTL time.Duration

	// TLS, if not nil, makes all queries go over TLS (RFC 7858), to port 853 unless
	// Servers names another. If ServerName is empty, the certificate must be valid for
	// the IP address of the server. Connections are shared as with UseTCP. If
	// ClientSessionCache is nil, the loop uses its own, so that new connections resume
	// earlier sessions.
	TLS *tls.Config

	// Dial connects to a server; the network is "udp" or "tcp". It is called on
	// goroutines other than the loop's, possibly on many at the same time. If the
	// connection is not a net.PacketConn, messages are framed as over TCP. If Dial is
	// nil, a net.Dialer connects.
	//
	// When ctx ends, the query continues without waiting for Dial. Dial should return,
	// because Run waits for it, for at most Config.WorkGrace. A connection that it
	// returns after the end of ctx is closed. If Dial returns an error or a nil
	// connection, calls Goexit or, with Config.CatchPanics, panics, the query fails with a
	// corresponding error. Without Config.CatchPanics, a panic ends the loop and
	// propagates out of Run.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrDNSNoData matches the error of a lookup whose name exists but has no records of
// the requested type. The [*net.DNSError] then has IsNotFound set, as for a name that
// does not exist.
var ErrDNSNoData = resolver.ErrNoData

// LookupNetIP returns a future of the addresses of host, best first (RFC 6724): at
// least one address, or an error (dns-lookup). The network is "ip" for both families,
// "ip4" or "ip6". The hosts file takes precedence. Incomplete names are then looked up
// in the search list. localhost and the names below it resolve to the loopback
// addresses without a query (RFC 6761). If host is an IP address, the result is this
// address, without a query.
//
// Addresses of equal rank take turns at being first, including in results from the
// cache and from the hosts file. When one family has addresses, LookupNetIP waits for
// the other family for at most one more second.
//
// Answers are cached for their TTL, failures for a short time (see
// ResolverConfig.CacheMaxNegativeTTL), and identical concurrent lookups share one
// query. Lookups do not wait for one another, however many servers do not reply. An
// error is an [*OpError] with Op [OpLookup] that matches [ErrDNS], around a
// [*net.DNSError] or a [net.UnknownNetworkError].
//
// If ctx ends first, the lookup fails with an error that matches the error of ctx and
// its cause. The lookup keeps the loop alive; the cache does not. Before Run the future
// fails with [ErrNotRunning].
func (l *Loop) LookupNetIP(ctx context.Context, network, host string) *Future[[]netip.Addr] {
	checkContext(ctx)
	if f := l.lookupCached(ctx, network, host); f != nil {
		return f
	}
	return startLookup(l, ctx, host, func(ctx context.Context, r *resolver.Resolver) ([]netip.Addr, error) {
		return r.LookupNetIP(ctx, network, host)
	})
}

// LookupAddr returns a future of the names of addr, with a trailing dot as in package
// net: those of the hosts file, else those of its PTR records. PTR records that are not
// host names are left out; the future then has the other names together with an error.
// Otherwise LookupAddr behaves like LookupNetIP.
func (l *Loop) LookupAddr(ctx context.Context, addr netip.Addr) *Future[[]string] {
	return startLookup(l, ctx, addr.String(), func(ctx context.Context, r *resolver.Resolver) ([]string, error) {
		return r.LookupAddr(ctx, addr)
	})
}

// Query returns a future of the answer to one question: the records of name with the
// type qtype, such as dns.TypeMX. The name is absolute, with or without a trailing dot;
// neither the hosts file nor the search list applies.
//
// A reply that the name does not exist is also a result, with Rcode dns.RcodeNameError,
// and so is a reply without records. Query fails if no server gave a final reply, or if
// the name or type must not be queried. The message belongs to the caller. If it comes
// from the cache, its TTLs are the remaining TTLs. Otherwise Query behaves like
// LookupNetIP.
func (l *Loop) Query(ctx context.Context, name string, qtype uint16) *Future[*dns.Msg] {
	return startLookup(l, ctx, name, func(ctx context.Context, r *resolver.Resolver) (*dns.Msg, error) {
		return r.Query(ctx, name, qtype)
	})
}

// lookupCached returns a resolved future if the answer is available without a
// goroutine; otherwise nil.
func (l *Loop) lookupCached(ctx context.Context, network, host string) *Future[[]netip.Addr] {
	if ctx.Err() != nil || l.mayOpen() != nil {
		return nil
	}
	r, err := l.names.get(l)
	if err != nil {
		return nil
	}
	addrs, err, ok := r.Cached(network, host)
	if !ok || err != nil && l.mayOpen() != nil {
		return nil // the loop has ended in the meantime; the error does not come from the name
	}
	f := unregisteredFuture[[]netip.Addr](l)
	f.finish(futureResolved, addrs, lookupError(ctx, host, err))
	return f
}

// A lookup is a lookup in progress. It embeds its future, so that Unref of the future
// is Unref of the handle.
type lookup[T any] struct {
	Future[T]
	handle handle
	name   string
	cancel context.CancelFunc

	// Owned by the lookup's goroutine until it sends the lookup as a task.
	answer  T
	failure error
}

// lookupTask is a lookup with its result.
type lookupTask[T any] lookup[T]

// startLookup calls ask on a new goroutine.
func startLookup[T any](l *Loop, ctx context.Context, name string, ask func(ctx context.Context, r *resolver.Resolver) (T, error)) *Future[T] {
	checkContext(ctx)
	q := &lookup[T]{name: name}
	q.loop, q.own, q.handle.loop = l, &q.handle, l
	ctx, q.cancel = context.WithCancel(ctx)
	if err := l.register(&q.handle, q, kindLookup, false); err != nil {
		q.cancel()
		q.fail(err)
		return &q.Future
	}
	l.wg.Add(1)
	go q.run(ctx, ask)
	return &q.Future
}

// run is the body of the goroutine. It leaves resolving the future to the dispatcher,
// which has to unregister the handle anyway, so the dispatcher is woken only once.
func (q *lookup[T]) run(ctx context.Context, ask func(ctx context.Context, r *resolver.Resolver) (T, error)) {
	defer q.loop.wg.Done()
	defer q.cancel()
	q.loop.worksFor(&q.handle)
	r, err := q.loop.names.get(q.loop)
	if err == nil {
		q.answer, err = ask(ctx, r)
	}
	q.failure = lookupError(ctx, q.name, err)
	q.loop.send((*lookupTask[T])(q))
}

func (t *lookupTask[T]) run() {
	q := (*lookup[T])(t)
	q.resolve(q.answer, q.failure)
}

// terminate ends the lookup at the end of the loop. The canceled context ends the
// goroutine, whose task unregisters the handle.
func (q *lookup[T]) terminate() {
	q.finish(futureClosed, *new(T), ErrLoopClosed)
	q.cancel()
}

func (q *lookup[T]) describe() string { return q.name }

// lookupError returns the error of a lookup of name for err. The end of ctx may be the
// cause.
func lookupError(ctx context.Context, name string, err error) error {
	if err == nil {
		return nil
	}
	var de *net.DNSError
	var unknown net.UnknownNetworkError
	switch {
	case errors.As(err, &de):
		de.UnwrapErr = endedBy(ctx, de.UnwrapErr)
	case !errors.As(err, &unknown): // the configuration is invalid, or the resolver is closed
		err = &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err}
	}
	return &OpError{Op: OpLookup, Addr: name, Err: err}
}

// endedBy returns err, the error of an operation under ctx. If the end of ctx ended the
// operation, the result also matches the error of ctx and its cause.
func endedBy(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	end, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case !errors.Is(err, end) && !(end == context.DeadlineExceeded && isTimeout(err)):
		return err // another cause
	case errors.Is(err, end) && errors.Is(err, cause):
		return err
	}
	return &endError{err, end, cause}
}

// An endError is an error that also matches the end of a context and its cause.
type endError struct{ err, end, cause error }

func (e *endError) Error() string {
	if e.cause == e.end {
		return e.err.Error()
	}
	return e.err.Error() + ": " + e.cause.Error()
}

func (e *endError) Unwrap() []error { return []error{e.err, e.end, e.cause} }

// Timeout and Temporary are for [net.OpError], which only checks its direct cause.
func (e *endError) Timeout() bool   { return e.end == context.DeadlineExceeded }
func (e *endError) Temporary() bool { return e.Timeout() }

// A nameService is the part of the resolver that a loop needs even if it never looks up
// a name. If the field had the type of the resolver, the linker would keep the resolver
// and all of miekg/dns in programs that only listen: half a megabyte.
type nameService interface {
	Close()
	Stats() resolver.Stats
}

// names is the resolver of a loop.
type names struct {
	r       atomic.Pointer[nameService] // a *resolver.Resolver; nil until it is needed
	dialing atomic.Int64                // lookups for dials

	mu     sync.Mutex // held while r is set; guards the following
	closed bool
}

// get returns the resolver, and creates it on the first call. It returns an error if the
// configuration is invalid or the loop has ended.
func (n *names) get(l *Loop) (*resolver.Resolver, error) {
	if r := n.r.Load(); r != nil {
		return (*r).(*resolver.Resolver), nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.r.Load(); r != nil {
		return (*r).(*resolver.Resolver), nil
	}
	if n.closed {
		return nil, ErrLoopClosed
	}
	var cfg resolver.Config
	if c := l.cfg.Resolver; c != nil {
		cfg = resolver.Config(*c)
	}
	cfg.Dial = l.guardDial(cfg.Dial)
	r, err := resolver.New(cfg, l.guardLookup, l.logger())
	if err != nil {
		return nil, err
	}
	var service nameService = r
	n.r.Store(&service)
	return r, nil
}

// close ends the operations of the resolver, and waits for them. Later lookups fail.
func (n *names) close() {
	n.mu.Lock()
	n.closed = true
	r := n.r.Load()
	n.mu.Unlock()
	if r != nil {
		(*r).Close()
	}
}

// stats adds the figures of the resolver to s.
func (n *names) stats(s *Stats) {
	s.DNS.Lookups += int(n.dialing.Load())
	if r := n.r.Load(); r != nil {
		rs := (*r).Stats()
		s.DNS.CacheEntries = rs.Entries
		s.DNS.CacheHitsTotal = rs.Hits
		s.DNS.CacheMissesTotal = rs.Misses
		s.DNS.QueriesTotal = rs.Queries
		s.DNS.FailuresTotal = rs.Failures
	}
}

// dialContext connects for Dial and for the HTTP client, as RFC 8305 describes.
func (l *Loop) dialContext(ctx context.Context, network, address string, cfg *ConnConfig) (net.Conn, error) {
	d := dialer.Dialer{Resolve: l.lookupForDial, LocalAddr: cfg.LocalAddr}
	nc, err := d.Dial(ctx, network, address)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	setTCPOptions(nc, cfg)
	return nc, nil
}

// lookupForDial looks up the addresses for a dial.
func (l *Loop) lookupForDial(ctx context.Context, network, host string) (addrs []netip.Addr, more func(context.Context) []netip.Addr, err error) {
	l.names.dialing.Add(1)
	defer l.names.dialing.Add(-1)
	defer recordLookup(ctx, time.Now())
	r, err := l.names.get(l)
	if err != nil {
		return nil, nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err}
	}
	return r.LookupEarly(ctx, network, host)
}

// dialError adds the error of ctx and its cause to the error of a dial, if ctx ended
// the dial. The error keeps the failures of earlier attempts.
func dialError(ctx context.Context, err error) error {
	// The socket has its own timer for the deadline. It may fire slightly before the
	// timer of the context.
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		op.Err = endedBy(ctx, op.Err)
	}
	return err
}
