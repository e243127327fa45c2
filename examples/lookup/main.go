// Lookup is a small host(1): it looks up names, addresses and records concurrently, and
// prints how long each lookup took and the statistics of the cache.
//
//	lookup example.org                    the addresses of a name
//	lookup 192.0.2.1                      the names of an address
//	lookup -t mx example.org example.net  records of any type, of each name
//	lookup -t TYPE65 example.org          a type that has no name here
//	lookup -server 127.0.0.1:5353 -n 3 a.test
//	lookup -server 9.9.9.9 -tls dns.quad9.net example.org
//
// The servers are those of the system unless -server names others. With -n every lookup
// is repeated that many times, one after another, to show the effect of the cache. With
// -tls the queries use TLS, and the servers must have a certificate for the given name.
// The exit status is 1 if anything was not found.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop"
)

// options holds the settings from the command line.
type options struct {
	qtype   uint16 // dns.TypeNone: addresses of names, and names of addresses
	repeats int
	names   []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "lookup:", err)
		os.Exit(2)
	case !ok:
		os.Exit(1)
	}
}

// run performs the lookups that args specify, and reports whether everything was found.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (ok bool, err error) {
	opts, cfg, err := parse(args, stderr)
	if err != nil {
		return false, err
	}
	ok = true
	err = eventloop.Run(ctx, cfg, func(l *eventloop.Loop) error {
		l.Go(ctx, func(t *eventloop.Task) error {
			// The lookups run concurrently; their output stays in order.
			results := make([]*result, len(opts.names))
			group := t.Group()
			for i, name := range opts.names {
				group.Go(func(t *eventloop.Task) error {
					results[i] = lookup(t, name, opts)
					return nil
				})
			}
			err := group.Wait()
			for _, r := range results {
				if r != nil {
					r.print(stdout)
					ok = ok && r.err == nil
				}
			}
			s := l.Stats()
			fmt.Fprintf(stdout, "; cache: %d hits, %d misses; queries: %d, failed: %d\n",
				s.DNS.CacheHitsTotal, s.DNS.CacheMissesTotal, s.DNS.QueriesTotal, s.DNS.FailuresTotal)
			return err
		})
		return nil
	})
	return ok, err
}

// parse reads the command line.
func parse(args []string, stderr io.Writer) (*options, *eventloop.Config, error) {
	flags := flag.NewFlagSet("lookup", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: lookup [flags] name|address ...")
		flags.PrintDefaults()
	}
	types := flags.String("t", "", "`type` of the records to ask for, such as mx, txt or TYPE65")
	servers := flags.String("server", "", "`addresses` of the servers to ask, with or without ports, separated by commas")
	repeats := flags.Int("n", 1, "do each lookup so `often`")
	tcp := flags.Bool("tcp", false, "ask over TCP")
	timeout := flags.Duration("timeout", 0, "of each try of a server")
	tlsName := flags.String("tls", "", "ask over TLS servers with a certificate for this `name`")
	caFile := flags.String("ca", "", "trust the certificates in this PEM `file` rather than those of the system")
	edns := flags.Bool("edns", true, "send queries with EDNS")
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	opts := &options{repeats: max(*repeats, 1), names: flags.Args()}
	if len(opts.names) == 0 {
		flags.Usage()
		return nil, nil, errors.New("no name")
	}
	if *types != "" {
		t, err := recordType(*types)
		if err != nil {
			return nil, nil, err
		}
		opts.qtype = t
	}
	cfg := &eventloop.Config{
		Name:     "lookup",
		Resolver: &eventloop.ResolverConfig{UseTCP: *tcp, Timeout: *timeout, NoEDNS: !*edns},
		Logger:   slog.New(slog.NewTextHandler(stderr, nil)),
	}
	if *servers != "" {
		cfg.Resolver.Servers = strings.Split(*servers, ",")
	}
	if *tlsName != "" {
		cfg.Resolver.TLS = &tls.Config{ServerName: *tlsName}
	}
	if *caFile != "" {
		if cfg.Resolver.TLS == nil {
			return nil, nil, errors.New("-ca without -tls")
		}
		pem, err := os.ReadFile(*caFile)
		if err != nil {
			return nil, nil, err
		}
		cfg.Resolver.TLS.RootCAs = x509.NewCertPool()
		if !cfg.Resolver.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("no certificates in %s", *caFile)
		}
	}
	return opts, cfg, nil
}

// recordType returns the number of a record type, given by name or as in RFC 3597.
func recordType(s string) (uint16, error) {
	s = strings.ToUpper(s)
	if t, ok := dns.StringToType[s]; ok {
		return t, nil
	}
	if n, ok := strings.CutPrefix(s, "TYPE"); ok {
		if t, err := strconv.ParseUint(n, 10, 16); err == nil {
			return uint16(t), nil
		}
	}
	return 0, fmt.Errorf("unknown record type %q", s)
}

// A result holds the records of one name, or why there are none.
type result struct {
	name  string
	lines []string
	err   error
	took  []time.Duration // duration of each repeat
}

// lookup looks up one name, as often as -n says.
func lookup(t *eventloop.Task, name string, opts *options) *result {
	r := &result{name: name}
	for range opts.repeats {
		began := time.Now()
		r.lines, r.err = ask(t, name, opts.qtype)
		r.took = append(r.took, time.Since(began))
		if errors.Is(r.err, context.Canceled) {
			break
		}
	}
	return r
}

// ask does one lookup and returns the lines to print.
func ask(t *eventloop.Task, name string, qtype uint16) ([]string, error) {
	addr, err := netip.ParseAddr(name)
	switch {
	case err == nil && qtype == dns.TypeNone:
		return askAddr(t, addr)
	case qtype == dns.TypeNone:
		return askHost(t, name)
	case err == nil: // the records of an address belong to its name in the arpa domain
		name, _ = dns.ReverseAddr(addr.WithZone("").String())
	}
	return askRecords(t, name, qtype)
}

func askHost(t *eventloop.Task, host string) (lines []string, err error) {
	addrs, err := t.Loop().LookupNetIP(t.Context(), "ip", host).Await(t)
	for _, a := range addrs {
		kind := "address"
		if a.Is6() {
			kind = "IPv6 address"
		}
		lines = append(lines, fmt.Sprintf("%s has %s %v", host, kind, a))
	}
	return lines, err
}

func askAddr(t *eventloop.Task, addr netip.Addr) (lines []string, err error) {
	names, err := t.Loop().LookupAddr(t.Context(), addr).Await(t)
	for _, n := range names {
		lines = append(lines, fmt.Sprintf("%v has name %s", addr, n))
	}
	return lines, err
}

func askRecords(t *eventloop.Task, name string, qtype uint16) (lines []string, err error) {
	m, err := t.Loop().Query(t.Context(), name, qtype).Await(t)
	if err != nil {
		return nil, err
	}
	for _, rr := range m.Answer {
		lines = append(lines, rr.String())
	}
	switch {
	case m.Rcode == dns.RcodeNameError:
		err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	case len(lines) == 0:
		err = &net.DNSError{Err: "has no records of type " + dns.Type(qtype).String(), Name: name, IsNotFound: true}
	}
	return lines, err
}

// print writes the records, or why there are none, and how long each lookup took.
func (r *result) print(w io.Writer) {
	for _, line := range r.lines {
		fmt.Fprintln(w, line)
	}
	if r.err != nil {
		fmt.Fprintln(w, r.err)
	}
	fmt.Fprintf(w, "; %s: %v", r.name, r.took[0].Round(time.Microsecond))
	if again := r.took[1:]; len(again) > 0 {
		var sum time.Duration
		for _, d := range again {
			sum += d
		}
		fmt.Fprintf(w, ", then %d times in %v on average", len(again), sum/time.Duration(len(again)))
	}
	fmt.Fprintln(w)
}
