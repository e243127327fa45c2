package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// delayed replies for both families of every name, after these times; negative means
// never.
func delayed(a, aaaa time.Duration) handler {
	return func(p peer) {
		after, rr := a, p.name()+" 3600 IN A 127.0.0.1"
		if p.qtype() == dns.TypeAAAA {
			after, rr = aaaa, p.name()+" 3600 IN AAAA ::1"
		}
		if after >= 0 {
			time.Sleep(after)
			p.reply(0, rr)
		}
	}
}

func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// The failed question is cached (RFC 9520), and so is the answer to the other one.
func TestAFamilyWithoutAReplyDelaysOnlyTheFirstLookup(t *testing.T) {
	for name, lost := range map[string]uint16{"127.0.0.1": dns.TypeAAAA, "::1": dns.TypeA} {
		h := func(p peer) {
			switch p.qtype() {
			case dns.TypeMX:
				p.reply(0, soa)
			case lost:
			default:
				delayed(0, 0)(p)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			r, queries := pipedResolver(t, nil, h)
			look := func(want time.Duration) {
				t.Helper()
				if d := took(func() { wantAddrs(t, r, "ip", "a.test", name) }); d != want {
					t.Errorf("took %v, want %v", d, want)
				}
			}
			look(familyGrace)
			look(0)
			time.Sleep(failureTTL - time.Nanosecond)
			look(0)
			if got := queries.Load(); got != 2 {
				t.Errorf("queries = %d, want 2", got)
			}
			// The server replies to other questions, so the cause is the name: it
			// is queried at growing intervals.
			for wait := failureTTL; wait <= 4*maxFailureTTL; wait *= 2 {
				time.Sleep(time.Nanosecond)
				r.Query(t.Context(), fmt.Sprint(wait, ".other.test"), dns.TypeMX)
				if _, _, ok := r.Cached("ip", "a.test"); ok {
					t.Error("the failure is cached for too long")
				}
				look(familyGrace)
				time.Sleep(min(2*wait, maxFailureTTL) - time.Nanosecond)
				look(0)
			}
		})
	}
}

func TestNamesResolveSoonAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		r, _ := pipedResolver(t, nil, func(p peer) {
			if up.Load() {
				delayed(0, 0)(p)
			}
		})
		for range 10 {
			if _, err := lookup(t, r, "ip", "a.test"); err == nil {
				t.Error("no error")
			}
			time.Sleep(failureTTL)
		}
		lookup(t, r, "ip", "a.test")
		up.Store(true)
		time.Sleep(failureTTL)
		if _, err := lookup(t, r, "ip", "a.test"); err != nil {
			t.Error(err)
		}
	})
}

func TestASilentSearchDomainDelaysOnlyTheFirstLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := pipedResolver(t, func(c *Config) { c.Search, c.Ndots = []string{"silent"}, 2 }, func(p peer) {
			if p.name() == "a.test." {
				delayed(0, 0)(p)
			}
		})
		for i := range 4 {
			want := time.Duration(0)
			if i == 0 {
				want = 10 * time.Second
			}
			if d := took(func() { lookup(t, r, "ip", "a.test") }); d != want {
				t.Errorf("lookup %d took %v, want %v", i+1, d, want)
			}
		}
	})
}

func TestFailuresAreCachedForEachKindOfLookup(t *testing.T) {
	for name, h := range map[string]handler{
		"silence":  func(peer) {},
		"SERVFAIL": func(p peer) { p.reply(dns.RcodeServerFailure) },
	} {
		synctest.Test(t, func(t *testing.T) {
			r, queries := pipedResolver(t, nil, h)
			for kind, ask := range map[string]func() error{
				"LookupAddr": func() error {
					_, err := r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.1"))
					return err
				},
				"Query": func() error {
					_, err := r.Query(t.Context(), "a.test", dns.TypeMX)
					return err
				},
				"LookupEarly": func() error {
					_, _, err := r.LookupEarly(t.Context(), "ip", "a.test")
					return err
				},
			} {
				first := ask()
				before := queries.Load()
				var second error
				d := took(func() { second = ask() })
				if first == nil || errorFlags(first) != errorFlags(second) || d != 0 || queries.Load() != before {
					t.Errorf("%s, %s: %v, then %v after %v and %d queries", name, kind, first, second, d, queries.Load()-before)
				}
			}
		})
	}
}

// RFC 8305 section 3.
func TestAnEarlyLookupWaitsForIPv6OnlyForAShortTime(t *testing.T) {
	const ms = time.Millisecond
	const v4, v6, both = "127.0.0.1", "::1", "::1 127.0.0.1"
	for _, tt := range []struct {
		a, aaaa time.Duration
		early   string
		at      time.Duration
		more    string
		moreAt  time.Duration
	}{
		{1 * ms, 1*ms + 1, both, 1*ms + 1, "", 0},
		{0, 49 * ms, both, 49 * ms, "", 0},
		{0, 51 * ms, v4, 50 * ms, v6, 51 * ms},
		{0, 999 * ms, v4, 50 * ms, v6, 999 * ms},
		{0, 1001 * ms, v4, 50 * ms, "", time.Second},
		{0, -1, v4, 50 * ms, "", time.Second},
		{10 * ms, -1, v4, 60 * ms, "", 1010 * ms},
		{1 * ms, 0, v6, 0, v4, 1 * ms},
		{51 * ms, 0, v6, 0, v4, 51 * ms},
		{-1, 0, v6, 0, "", time.Second},
		{-1, 20 * ms, v6, 20 * ms, "", 1020 * ms},
	} {
		t.Run(fmt.Sprint(tt.a, tt.aaaa), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := pipedResolver(t, nil, delayed(tt.a, tt.aaaa))
				start := time.Now()
				addrs, more, err := r.LookupEarly(t.Context(), "ip", "a.test")
				if join(addrs) != tt.early || err != nil || time.Since(start) != tt.at {
					t.Errorf("%q, %v after %v, want %q after %v", join(addrs), err, time.Since(start), tt.early, tt.at)
				}
				if (more != nil) != (tt.moreAt > 0) {
					t.Fatalf("more to come: %v", more != nil)
				}
				if more != nil {
					if got := join(more(t.Context())); got != tt.more || time.Since(start) != tt.moreAt {
						t.Errorf("then %q after %v, want %q after %v", got, time.Since(start), tt.more, tt.moreAt)
					}
				}
				// From then on the answer is known.
				d := took(func() {
					if addrs, more, err := r.LookupEarly(t.Context(), "ip", "a.test"); more != nil || err != nil || len(addrs) == 0 {
						t.Errorf("the second time: %v, %v, %v", addrs, more != nil, err)
					}
				})
				if d != 0 {
					t.Errorf("the second time took %v", d)
				}
			})
		})
	}
}

// A dial with a connection leaves the lookup. The result is cached anyway, because
// otherwise each dial would wait again.
func TestAnEarlyLookupContinuesWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, queries := pipedResolver(t, nil, delayed(0, -1))
		for i := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			d := took(func() {
				_, more, err := r.LookupEarly(ctx, "ip", "a.test")
				if err != nil {
					t.Fatal(err)
				}
				cancel()
				if more != nil {
					if rest := more(ctx); rest != nil {
						t.Errorf("after the end of its context: %v", rest)
					}
				}
			})
			if want := []time.Duration{resolutionDelay, 0, 0, 0, 0}[i]; d != want {
				t.Errorf("lookup %d took %v, want %v", i+1, d, want)
			}
			time.Sleep(time.Second)
		}
		if queries.Load() != 2 {
			t.Errorf("queries = %d, want 2", queries.Load())
		}
		synctest.Wait()
		if st := r.Stats(); st.Open != 0 {
			t.Errorf("stats = %+v", st)
		}
	})
}

func TestIPv6AddressesWithoutARouteAreNotReturnedEarly(t *testing.T) {
	const unreachable = "64:ff9b:1::1"
	if (&addrSet{addrs: []netip.Addr{netip.MustParseAddr(unreachable)}}).reachable() {
		t.Skip("this machine has a route to " + unreachable)
	}
	synctest.Test(t, func(t *testing.T) {
		r, _ := pipedResolver(t, nil, func(p peer) {
			if p.qtype() == dns.TypeA {
				time.Sleep(300 * time.Millisecond)
				p.reply(0, p.name()+" 60 IN A 127.0.0.1")
			} else {
				p.reply(0, p.name()+" 60 IN AAAA "+unreachable)
			}
		})
		var addrs []netip.Addr
		var more func(context.Context) []netip.Addr
		d := took(func() { addrs, more, _ = r.LookupEarly(t.Context(), "ip", "a.test") })
		if join(addrs) != "127.0.0.1 "+unreachable || more != nil || d != 300*time.Millisecond {
			t.Errorf("%v, more to come: %v, after %v", addrs, more != nil, d)
		}
	})
}

func TestWithNoAAAAThereAreNoAAAAQueries(t *testing.T) {
	s := newServer(t, zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1"))
	cfg := testConfig(t, s.addr)
	cfg.ResolvConf = writeFile(t, "resolv.conf", "options no-aaaa\n")
	r := newResolver(t, cfg)
	wantAddrs(t, r, "ip", "a.test", "192.0.2.1")
	_, err := lookup(t, r, "ip6", "a.test")
	wantError(t, err, "a.test", "notfound nodata")
	if m, err := r.Query(t.Context(), "a.test", dns.TypeAAAA); err != nil || len(m.Answer) != 1 {
		t.Errorf("Query = %v, %v", m, err)
	}
	if want := []string{"a.test. A udp", "a.test. AAAA udp"}; !slices.Equal(s.inOrder(), want) {
		t.Errorf("server was asked %q, want %q", s.inOrder(), want)
	}
}
