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

// A ResolverConfig says how a loop resolves names: for [Loop.LookupNetIP],
// [Loop.LookupAddr], [Loop.Query], [Loop.Dial] and the HTTP client. The zero
// ResolverConfig goes by the files of the system, as package net does; each field
// that is set takes the place of what they say. A mistake in it, such as a
// malformed server, is the error of every lookup that needs it.
type ResolverConfig struct {
	// Servers are the name servers to ask, in order: IP addresses with or
	// without a port, such as "192.0.2.1", "192.0.2.1:5353" or "[::1]:53". None
	// means those of ResolvConf.
	Servers []string

	// Search is the list of domains in which a name that is not complete is
	// looked for. Nil means that of ResolvConf; empty and not nil, none.
	Search []string

	// Ndots is how many dots a name needs to be tried as it is before it is
	// looked for in the domains of Search. Zero means that of ResolvConf, else 1.
	// Negative: every name is tried as it is first.
	Ndots int

	// Attempts is how often each server is asked. Zero means that of ResolvConf,
	// else 2. Negative is an error.
	Attempts int

	// Timeout bounds each time that a server is asked. Zero means that of
	// ResolvConf, else 5 s. Negative is an error. The context of a lookup bounds
	// the whole.
	//
	// A server that does not answer is asked after the others until it answers
	// again, so it costs its Timeout once. To find that out, it is sent a query in
	// addition, at first after a second, then ever more rarely, up to a minute.
	Timeout time.Duration

	// Rotate begins each lookup with another server. By default the first one
	// is asked as long as it answers.
	Rotate bool

	// UseTCP asks over TCP only. By default UDP is tried first. Queries to one
	// server share a connection (RFC 7766), which is closed when it was idle for
	// 10 to 20 s.
	UseTCP bool

	// NoEDNS sends queries without an OPT record (RFC 6891), as "options -edns0"
	// in ResolvConf does. By default they have one, but for 10 minutes after a
	// server lost or refused such a query and answered one without. So a network
	// that loses them costs one Timeout every 10 minutes, and with NoEDNS none.
	NoEDNS bool

	// Use0x20 mixes the case of letters in queries at random, and ignores
	// replies that do not repeat it, which makes them harder to forge
	// (draft-vixie-dnsext-dns0x20). Off by default, because there are servers
	// that do not repeat it.
	Use0x20 bool

	// ResolvConf, HostsFile and NSSwitch are the paths of the files resolv.conf,
	// hosts and nsswitch.conf. Empty means those of the system. They are read
	// again, and the cache is emptied, within 5 s of a change. What cannot be
	// read or makes no sense is told to Config.Logger, and defaults take its
	// place.
	ResolvConf, HostsFile, NSSwitch string

	// CacheSize bounds the answers in the cache. A name takes up to three: one
	// for each family, and one for both in order. Zero: 1024. Negative: no cache.
	CacheSize int

	// CacheMaxTTL bounds how long an answer is cached, and CacheMaxNegativeTTL
	// how long it is cached that there is none (RFC 2308), whatever their TTL
	// says. Zero: an hour, and 5 minutes. Negative: such answers are not cached.
	//
	// CacheMaxNegativeTTL also bounds how long it is remembered that no server
	// gave an answer, because they failed or were silent (RFC 9520): 5 s, and if a
	// name hangs again and again while others resolve, twice as long each time. An
	// error that the machine is to blame for, such as a lack of descriptors, is
	// not remembered.
	CacheMaxTTL, CacheMaxNegativeTTL time.Duration

	// TLS, if not nil, makes all queries go over TLS (RFC 7858), to port 853
	// where Servers names none. If ServerName is empty, the certificate must be
	// for the IP address of the server. Connections are shared as with UseTCP; if
	// ClientSessionCache is nil, the loop has its own, so that new connections
	// resume the session of an earlier one.
	TLS *tls.Config

	// Dial connects to a server; the network is "udp" or "tcp". It is called on
	// goroutines other than the loop's, many at a time, and must return when ctx
	// ends. A connection that is no net.PacketConn carries messages as over TCP.
	// If nil, a net.Dialer connects.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrDNSNoData matches the error of a lookup whose name exists but has no records of
// the type that was asked for. The [*net.DNSError] has IsNotFound set then, as it
// has for a name that does not exist.
var ErrDNSNoData = resolver.ErrNoData

// LookupNetIP returns a future of the addresses of host, best first (RFC 6724):
// at least one, or an error (dns-lookup). The network is "ip" for both families,
// "ip4" or "ip6". What is in the hosts file comes first, then, for names that are
// not complete, the search list; localhost and names below it are the loopback
// addresses, and no server is asked for them (RFC 6761). An address in place of a
// name is its own answer, and asks nobody.
//
// Addresses of equal rank take turns at being first, in answers from the cache and
// from the hosts file, too. If one family has addresses, the other is waited for
// for a second more.
//
// Answers are cached as long as they hold, failures for a short time (see
// ResolverConfig.CacheMaxNegativeTTL), and identical lookups at the same time are
// one. Lookups do not wait for one another, however many servers are silent. An
// error is an [*OpError] with Op [OpLookup] that matches [ErrDNS], around
// a [*net.DNSError], or around a [net.UnknownNetworkError].
//
// The end of ctx ends the lookup with an error that matches that of ctx and its
// cause. The lookup keeps the loop alive; the cache does not. Before Run the future fails with [ErrNotRunning].
func (l *Loop) LookupNetIP(ctx context.Context, network, host string) *Future[[]netip.Addr] {
	checkContext(ctx)
	if f := l.lookupCached(ctx, network, host); f != nil {
		return f
	}
	return startLookup(l, ctx, host, func(ctx context.Context, r *resolver.Resolver) ([]netip.Addr, error) {
		return r.LookupNetIP(ctx, network, host)
	})
}

// LookupAddr returns a future of the names of addr, with a dot at their end as in
// package net: those that the hosts file has, else those of its PTR records. If
// some of the latter are no host names, they are left out, and the future has the
// others together with an error. Otherwise it is as LookupNetIP.
func (l *Loop) LookupAddr(ctx context.Context, addr netip.Addr) *Future[[]string] {
	return startLookup(l, ctx, addr.String(), func(ctx context.Context, r *resolver.Resolver) ([]string, error) {
		return r.LookupAddr(ctx, addr)
	})
}

// Query returns a future of the answer to one question: the records of type qtype,
// such as dns.TypeMX, that name has. The name is absolute, with or without a dot
// at its end; neither the hosts file nor the search list applies.
//
// That there is no such name is an answer too, with Rcode dns.RcodeNameError, and
// so is one without records. It is an error if no server gave a final answer, or if
// name and type must not be asked for. The message belongs to the caller; if it
// comes from the cache, its TTLs are what is left of them. Otherwise it is as
// LookupNetIP.
func (l *Loop) Query(ctx context.Context, name string, qtype uint16) *Future[*dns.Msg] {
	return startLookup(l, ctx, name, func(ctx context.Context, r *resolver.Resolver) (*dns.Msg, error) {
		return r.Query(ctx, name, qtype)
	})
}

// lookupCached returns a future that is resolved, if the answer is at hand, which
// takes no goroutine; otherwise nil.
func (l *Loop) lookupCached(ctx context.Context, network, host string) *Future[[]netip.Addr] {
	if ctx.Err() != nil || l.mayLookup() != nil {
		return nil
	}
	r, err := l.names.get(l)
	if err != nil {
		return nil
	}
	addrs, err, ok := r.Cached(network, host)
	if !ok || err != nil && l.mayLookup() != nil {
		return nil // the loop has ended meanwhile, which is not the name's fault
	}
	f := looseFuture[[]netip.Addr](l)
	f.finish(futureResolved, addrs, lookupError(ctx, host, err))
	return f
}

// mayLookup returns the error of a lookup that the state of the loop forbids.
func (l *Loop) mayLookup() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable(false)
}

// A lookup is a question to the resolver that is under way. It is its own future,
// so that Unref of the future is that of the handle.
type lookup[T any] struct {
	Future[T]
	name   string
	cancel context.CancelFunc

	// Of the lookup's goroutine, until it sends the lookup as a task.
	answer  T
	failure error
}

// lookupTask is a lookup that has its answer.
type lookupTask[T any] lookup[T]

// startLookup has ask called on a goroutine of its own.
func startLookup[T any](l *Loop, ctx context.Context, name string, ask func(ctx context.Context, r *resolver.Resolver) (T, error)) *Future[T] {
	checkContext(ctx)
	q := &lookup[T]{name: name}
	q.loop = l
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

// run is the goroutine. It leaves resolving the future to the dispatcher, which
// has to unregister the handle anyway: so it is woken once.
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

// terminate ends the lookup at the end of the loop. The goroutine, which hears of
// it by its context, unregisters the handle.
func (q *lookup[T]) terminate() {
	q.finish(futureClosed, *new(T), ErrLoopClosed)
	q.cancel()
}

func (q *lookup[T]) describe() string { return q.name }

// lookupError makes err the error of a lookup of name, which ctx may have ended.
func lookupError(ctx context.Context, name string, err error) error {
	if err == nil {
		return nil
	}
	var de *net.DNSError
	var unknown net.UnknownNetworkError
	switch {
	case errors.As(err, &de):
		de.UnwrapErr = endedBy(ctx, de.UnwrapErr)
	case !errors.As(err, &unknown): // the configuration is wrong, or the resolver closed
		err = &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err}
	}
	return &OpError{Op: OpLookup, Addr: name, Err: err}
}

// endedBy returns err, the error of an operation under ctx, such that it matches the
// error of ctx and its cause if ctx ended the operation.
func endedBy(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	end, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case !errors.Is(err, end) && !(end == context.DeadlineExceeded && isTimeout(err)):
		return err // it was something else
	case errors.Is(err, end) && errors.Is(err, cause):
		return err
	}
	return &endError{err, end, cause}
}

// An endError adds to an error what the end of a context has to say.
type endError struct{ err, end, cause error }

func (e *endError) Error() string {
	if e.cause == e.end {
		return e.err.Error()
	}
	return e.err.Error() + ": " + e.cause.Error()
}

func (e *endError) Unwrap() []error { return []error{e.err, e.end, e.cause} }

// Timeout and Temporary are for [net.OpError], which looks for them in its own
// cause only.
func (e *endError) Timeout() bool   { return e.end == context.DeadlineExceeded }
func (e *endError) Temporary() bool { return e.Timeout() }

// A nameService is what a loop needs of its resolver even if it never asks for a
// name. Were its type that of the resolver, the linker would keep the resolver, and
// with it all of miekg/dns, in programs that only listen: half a megabyte.
type nameService interface {
	Close()
	Stats() resolver.Stats
}

// names is the resolver of a loop.
type names struct {
	r       atomic.Pointer[nameService] // a *resolver.Resolver; nil until it is needed
	dialing atomic.Int64                // lookups on behalf of dials

	mu     sync.Mutex // held while r is set; guards the following
	closed bool
}

// get returns the resolver, which it makes when it is first asked for. An error
// says what is wrong with the configuration.
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
	r, err := resolver.New(l.cfg.Resolver.internal(l))
	if err != nil {
		return nil, err
	}
	var service nameService = r
	n.r.Store(&service)
	return r, nil
}

// close ends what the resolver still does, and waits for it. Lookups fail from
// then on.
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

// internal returns the configuration of the resolver of l.
func (c *ResolverConfig) internal(l *Loop) resolver.Config {
	if c == nil {
		c = new(ResolverConfig)
	}
	return resolver.Config{
		Servers:             c.Servers,
		Search:              c.Search,
		Ndots:               c.Ndots,
		Attempts:            c.Attempts,
		Timeout:             c.Timeout,
		Rotate:              c.Rotate,
		UseTCP:              c.UseTCP,
		NoEDNS:              c.NoEDNS,
		Use0x20:             c.Use0x20,
		ResolvConf:          c.ResolvConf,
		HostsFile:           c.HostsFile,
		NSSwitch:            c.NSSwitch,
		CacheSize:           c.CacheSize,
		CacheMaxTTL:         c.CacheMaxTTL,
		CacheMaxNegativeTTL: c.CacheMaxNegativeTTL,
		TLS:                 c.TLS,
		Dial:                l.guardDial(c.Dial),
		Guard:               l.guardLookup,
		Logger:              l.logger(),
	}
}

// dialContext connects for Dial and for the HTTP client, by RFC 8305.
func (l *Loop) dialContext(ctx context.Context, network, address string, cfg *ConnConfig) (net.Conn, error) {
	d := dialer.Dialer{Resolve: l.lookupForDial, LocalAddr: cfg.LocalAddr}
	nc, err := d.Dial(ctx, network, address)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	setTCPOptions(nc, cfg)
	return nc, nil
}

// lookupForDial finds the addresses for a dial.
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

// dialError adds to the error of a dial what ctx has to say, if it ended the dial.
// What was tried until then stays in it.
func dialError(ctx context.Context, err error) error {
	// The socket has a timer of its own for the deadline, which may be a little
	// ahead of that of the context.
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		op.Err = endedBy(ctx, op.Err)
	}
	return err
}
