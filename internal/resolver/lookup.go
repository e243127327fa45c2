package resolver

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
)

// lookupHost resolves the addresses of a host name with DNS. It tries the names of
// the search list until one has addresses. As soon as it knows some addresses with
// which a caller can start, it publishes them as a part of c.
func (r *Resolver) lookupHost(ctx context.Context, s *settings, network string, c *call) *answer {
	var (
		life   lifetime
		final  *net.DNSError
		noData *net.DNSError
	)
	name := c.key.name
	asIs := rooted(name)
	for _, fqdn := range nameList(name, s.search, s.ndots) {
		addrs, err := r.lookupName(ctx, s, network, fqdn, &life, c)
		if len(addrs) > 0 {
			set := &addrSet{addrs: addrs}
			if len(addrs) > 1 { // sorted here, so that the dispatcher need not sort them
				set.sort(time.Now())
			}
			return &answer{addrs: set, expires: life.expires(true)}
		}
		if ctx.Err() != nil {
			return &answer{err: dnsError(ctxError(ctx), name, "")}
		}
		if err.UnwrapErr == ErrNoData {
			noData = err
		}
		// The error of the name that the caller wrote is more useful than the
		// errors of the names derived from it.
		if final == nil || fqdn == asIs {
			final = err
		}
	}
	// If the name exists under one suffix, the result is not that it does not exist.
	if noData != nil && final.IsNotFound {
		final = noData
	}
	return &answer{err: final, expires: life.expires(false)}
}

// lookupName queries the addresses of one absolute name.
func (r *Resolver) lookupName(ctx context.Context, s *settings, network, fqdn string, life *lifetime, c *call) ([]netip.Addr, *net.DNSError) {
	types := []uint16{dns.TypeA, dns.TypeAAAA}
	switch {
	case network == "ip6" && s.noAAAA:
		return nil, dnsError(ErrNoData, fqdn, "")
	case network == "ip6":
		types = types[1:]
	case network == "ip4", s.noAAAA:
		types = types[:1]
	}
	var addrs []netip.Addr
	var err *net.DNSError
	for i, ans := range r.families(ctx, s, fqdn, types, c) {
		life.add(ans)
		if ans.err != nil {
			err = worse(err, ans.err)
			continue
		}
		found := filterFamily(network, addresses(ans.msg, fqdn, types[i]))
		if len(found) == 0 { // IPv4 addresses in IPv6 form
			err = worse(err, dnsError(errNoSuitable, fqdn, ""))
		}
		addrs = append(addrs, found...)
	}
	return addrs, err
}

// families returns the answers for each type. It queries them at the same time
// unless the settings forbid it. Some routers lose the second of two simultaneous
// queries from one host; the option single-request is for them.
func (r *Resolver) families(ctx context.Context, s *settings, fqdn string, types []uint16, whole *call) []*answer {
	begin := func(qtype uint16) *call {
		c, _ := r.table.begin(questionKey(s, fqdn, qtype), r.questionWork(s, fqdn, qtype))
		return c
	}
	if len(types) == 1 {
		return []*answer{r.await(ctx, begin(types[0]), fqdn)}
	}
	if s.singleRequest {
		first := r.await(ctx, begin(types[0]), fqdn)
		return []*answer{first, r.awaitSecond(ctx, s, first, begin(types[1]), whole, fqdn)}
	}
	a, b := begin(types[0]), begin(types[1])
	select {
	case <-a.done:
	case <-b.done:
		second := r.await(ctx, b, fqdn)
		return []*answer{r.awaitSecond(ctx, s, second, a, whole, fqdn), second}
	case <-ctx.Done():
	}
	first := r.await(ctx, a, fqdn)
	return []*answer{first, r.awaitSecond(ctx, s, first, b, whole, fqdn)}
}

// await returns the answer of c, or an answer that contains an error.
func (r *Resolver) await(ctx context.Context, c *call, fqdn string) *answer {
	ans, err := r.table.wait(ctx, c)
	if err != nil {
		return &answer{err: dnsError(err, fqdn, "")}
	}
	return ans
}

// awaitSecond is await with a shorter wait if the first family has addresses. Then
// it publishes that answer as a part of whole: IPv6 addresses at once, IPv4
// addresses when the others are late (RFC 8305 section 3).
func (r *Resolver) awaitSecond(ctx context.Context, s *settings, first *answer, c, whole *call, fqdn string) *answer {
	if first.err != nil {
		return r.await(ctx, c, fqdn)
	}
	patience := min(familyGrace, s.timeout)
	delay := min(resolutionDelay, patience)
	if first.msg.Question[0].Qtype == dns.TypeAAAA {
		delay = 0
	}
	ended := c.endsWithin(ctx, delay)
	if !ended {
		r.table.publish(whole, first)
		ended = c.endsWithin(ctx, patience-delay)
	}
	if ended {
		return r.await(ctx, c, fqdn)
	}
	late := r.failure(os.ErrDeadlineExceeded, fqdn, "", c)
	r.table.giveUp(c, late)
	return late
}

// worse returns the error with more information about a name. If a name does not exist,
// it has no records of any type. If it has no records of one type, nothing follows for the
// other type, whose result is unknown.
func worse(a, b *net.DNSError) *net.DNSError {
	rank := func(e *net.DNSError) int {
		switch {
		case e == nil:
			return 0
		case e.UnwrapErr == ErrNoData:
			return 1
		case !e.IsNotFound:
			return 2
		}
		return 3
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// lifetime computes how long an answer made of several answers is valid: until the
// first of them expires.
type lifetime struct {
	first time.Time
	some  bool
	noSOA bool
}

func (l *lifetime) add(ans *answer) {
	if ans.noSOA {
		l.noSOA = true
		return
	}
	if !l.some || ans.expires.Before(l.first) {
		l.first = ans.expires
	}
	l.some = true
}

// expires returns when the answer expires, or zero if it must not be cached. Many
// small servers leave out the SOA record when they have no address of one family;
// this does not keep an answer with addresses out of the cache. A negative answer
// is cached only if all replies say so (RFC 2308 section 5).
func (l *lifetime) expires(positive bool) time.Time {
	if !l.some || l.noSOA && !positive {
		return time.Time{}
	}
	return l.first
}
