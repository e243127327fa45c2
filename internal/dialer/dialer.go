// Package dialer connects to hosts that have several addresses, as RFC 8305 ("happy
// eyeballs") describes: it alternates between the families, starts the next attempt
// after a short delay in parallel with a slow one, and takes the first connection
// that comes up.
package dialer

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// defaultDelay is the Connection Attempt Delay of RFC 8305 section 5.
const defaultDelay = 250 * time.Millisecond

// A Dialer connects to addresses. Its methods may be called from any goroutine; its
// fields must not change after the first call.
type Dialer struct {
	// Resolve returns the addresses of host, best first. The network is "ip",
	// "ip4" or "ip6".
	//
	// If more is not nil, there may be more addresses that are not known yet. Dial
	// calls more once, on a new goroutine. more must return these addresses, or
	// none, before or when its context ends.
	Resolve func(ctx context.Context, network, host string) (addrs []netip.Addr, more func(context.Context) []netip.Addr, err error)

	LocalAddr net.Addr // as in [net.Dialer]

	// Tests set these. attemptDelay replaces defaultDelay, and connect the dialing of one
	// address.
	attemptDelay time.Duration
	connect      func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
}

// Dial connects to address. The network is "tcp", "tcp4" or "tcp6", with an
// address as in [net.Dial], or "unix".
//
// Dial tries all addresses of a host until one connects or ctx ends. It cancels the
// other attempts and waits for them; if one of them has connected anyway, Dial
// closes the connection. When Dial returns, nothing but the connection is left.
//
// An error is a [*net.OpError]. If several addresses have failed, it unwraps to the
// errors of all of them. It matches [context.Canceled] if ctx was canceled. Timeout
// reports whether the deadline of ctx has passed, or any attempt has timed out.
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "unix":
		nd := net.Dialer{LocalAddr: d.LocalAddr}
		return nd.DialContext(ctx, network, address)
	default:
		return nil, opError(network, nil, net.UnknownNetworkError(network))
	}
	if err := ctx.Err(); err != nil {
		return nil, opError(network, hostAddr{network, address}, ctxError(err))
	}
	// Most dials of a program with a fixed peer need no resolver and no goroutine.
	// Addresses that look like names are not parsed, because that allocates.
	if looksLiteral(address) {
		if ap, err := netip.ParseAddrPort(address); err == nil && d.suits(network, ap.Addr().Unmap()) {
			return d.dialOne(ctx, network, unmap(ap))
		}
	}
	addrs, more, err := d.resolve(ctx, network, address)
	if err != nil {
		return nil, opError(network, nil, err)
	}
	switch {
	case more == nil && len(addrs) == 0:
		return nil, opError(network, nil, noSuitable(address))
	case more == nil && len(addrs) == 1:
		return d.dialOne(ctx, network, addrs[0])
	}
	return d.race(ctx, network, address, interleave(addrs), more)
}

// dialOne connects to one address.
func (d *Dialer) dialOne(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	if d.connect != nil {
		return d.connect(ctx, network, addr)
	}
	// Not DialTCP: even without a local address it binds to port 0, and a bound
	// port serves only one connection, instead of one per destination.
	nd := net.Dialer{LocalAddr: d.LocalAddr}
	return nd.DialContext(ctx, network, addr.String())
}

// race implements RFC 8305 section 5. It runs on the goroutine of the caller and
// makes all decisions; the attempts only report their results. Addresses from more
// are tried before the remaining ones, because they belong to the family that had
// no turn yet.
func (d *Dialer) race(ctx context.Context, network, address string, addrs []netip.AddrPort, more func(context.Context) []netip.AddrPort) (net.Conn, error) {
	attempts, cancel := context.WithCancel(ctx)
	late := waitFor(attempts, more) // nil when there is nothing to wait for
	defer func() {
		cancel()
		if late != nil {
			<-late
		}
	}()
	results := make(chan result) // every result is received: see drain
	pending := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	start := func() {
		go d.attempt(attempts, network, addrs[0], results)
		addrs = addrs[1:]
		pending++
		timer.Reset(d.delay(ctx, len(addrs)))
	}
	if len(addrs) > 0 {
		start()
	}
	var failed []error
	for pending > 0 || late != nil {
		var due <-chan time.Time
		if len(addrs) > 0 {
			due = timer.C
		}
		select {
		case <-due:
			start()
		case found := <-late:
			late = nil
			if addrs = interleave(append(found, addrs...)); pending == 0 && len(addrs) > 0 {
				start()
			}
		case res := <-results:
			pending--
			if res.err == nil {
				cancel()
				drain(results, pending)
				return res.conn, nil
			}
			failed = append(failed, res.err)
			if len(addrs) > 0 {
				start() // the next one at once
			}
		case <-ctx.Done():
			failed = append(failed, drain(results, pending)...)
			return nil, d.failure(ctx, network, address, failed)
		}
	}
	if len(failed) == 0 {
		failed = append(failed, noSuitable(address))
	}
	return nil, d.failure(ctx, network, address, failed)
}

// waitFor returns a channel that receives the addresses from more once, or nil if
// more is nil.
func waitFor(ctx context.Context, more func(context.Context) []netip.AddrPort) <-chan []netip.AddrPort {
	if more == nil {
		return nil
	}
	late := make(chan []netip.AddrPort, 1)
	go func() { late <- more(ctx) }()
	return late
}

// result is the result of one attempt.
type result struct {
	conn net.Conn
	err  error
}

func (d *Dialer) attempt(ctx context.Context, network string, addr netip.AddrPort, results chan<- result) {
	c, err := d.dialOne(ctx, network, addr)
	results <- result{c, err}
}

// drain waits for n canceled attempts. It closes the connections of those that
// connected before the cancellation, and returns the errors of the others.
func drain(results <-chan result, n int) (failed []error) {
	for range n {
		res := <-results
		if res.err == nil {
			res.conn.Close()
			continue
		}
		failed = append(failed, res.err)
	}
	return failed
}

// delay returns how long to wait before the next of the remaining attempts. If time
// is short, the delay is an equal share of it, so that every address is tried. In
// contrast to package net, where addresses of one family share the time, started
// attempts keep all of it, because here they run in parallel.
func (d *Dialer) delay(ctx context.Context, remaining int) time.Duration {
	delay := cmp.Or(d.attemptDelay, defaultDelay)
	if deadline, ok := ctx.Deadline(); ok {
		delay = min(delay, time.Until(deadline)/time.Duration(remaining+1))
	}
	return max(delay, 0)
}

// failure returns the error of a dial that tried several addresses. If ctx has
// ended, the error matches that of ctx, even if no attempt in progress reported it.
func (d *Dialer) failure(ctx context.Context, network, address string, failed []error) error {
	if err := over(ctx); err != nil {
		if !errors.Is(errors.Join(failed...), err) {
			failed = append(failed, ctxError(err))
		}
	}
	return opError(network, hostAddr{network, address}, attemptErrors(failed))
}

// over returns the error of ctx if it has ended, or if its deadline has passed: the
// timer of the context may fire slightly later than that of an attempt.
func over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// interleave orders addresses as RFC 8305 section 4 describes: the families
// alternate, starting with that of the first address, and each family keeps its
// order.
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	if len(addrs) == 0 {
		return nil
	}
	var families [2][]netip.AddrPort
	first := addrs[0].Addr().Is4()
	for _, a := range addrs {
		i := 0
		if a.Addr().Is4() != first {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out
}

func looksLiteral(address string) bool {
	return address != "" && (address[0] == '[' || '0' <= address[0] && address[0] <= '9') &&
		!strings.HasSuffix(address, ":")
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
