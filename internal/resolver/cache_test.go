package resolver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// pipedResolver returns a resolver in a bubble of virtual time. Its server
// counts the queries.
func pipedResolver(t *testing.T, change func(c *Config), h handler) (*Resolver, *atomic.Int64) {
	queries := new(atomic.Int64)
	cfg := testConfig(t, "192.0.2.53")
	cfg.Timeout = 5 * time.Second
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		return packetPipe(t, func(p peer) {
			queries.Add(1)
			h(p)
		}), nil
	}
	if change != nil {
		change(&cfg)
	}
	return newResolver(t, cfg), queries
}

func TestAnswersAreCachedForTheirTTL(t *testing.T) {
	const negSOA = "ns test. %d IN SOA ns.test. host.test. 1 3600 600 86400 %d"
	answer := func(rcode int, records ...string) handler {
		return func(p peer) { p.reply(rcode, records...) }
	}
	tests := []struct {
		name   string
		change func(c *Config)
		handle handler
		want   time.Duration // 0: not cached
	}{
		{"an answer", nil, answer(0, "a.test. 30 IN A 192.0.2.1"), 30 * time.Second},
		{"the smallest TTL of the records", nil, answer(0, "a.test. 30 IN A 192.0.2.1", "a.test. 20 IN A 192.0.2.2"), 20 * time.Second},
		{"the smallest TTL of the aliases", nil, answer(0, "a.test. 10 IN CNAME b.test.", "b.test. 30 IN A 192.0.2.1"), 10 * time.Second},
		{"records that do not count", nil, answer(0, "a.test. 30 IN A 192.0.2.1", "b.test. 1 IN A 192.0.2.2"), 30 * time.Second},
		{"a TTL of zero", nil, answer(0, "a.test. 0 IN A 192.0.2.1"), 0},
		{"a negative TTL", nil, answer(0, "a.test. 2147483648 IN A 192.0.2.1"), 0},
		{"a TTL above the limit", nil, answer(0, "a.test. 999999 IN A 192.0.2.1"), time.Hour},
		{"a TTL above another limit", func(c *Config) { c.CacheMaxTTL = time.Minute }, answer(0, "a.test. 90 IN A 192.0.2.1"), time.Minute},
		{"answers not wanted", func(c *Config) { c.CacheMaxTTL = -1 }, answer(0, "a.test. 90 IN A 192.0.2.1"), 0},
		{"no cache", func(c *Config) { c.CacheSize = -1 }, answer(0, "a.test. 90 IN A 192.0.2.1"), 0},
		{"NXDOMAIN by the last field of SOA", nil, answer(dns.RcodeNameError, fmt.Sprintf(negSOA, 60, 30)), 30 * time.Second},
		{"NXDOMAIN by the TTL of SOA", nil, answer(dns.RcodeNameError, fmt.Sprintf(negSOA, 20, 30)), 20 * time.Second},
		{"NXDOMAIN of an alias", nil, answer(dns.RcodeNameError, "a.test. 10 IN CNAME b.test.", fmt.Sprintf(negSOA, 20, 30)), 10 * time.Second},
		{"NODATA", nil, answer(0, fmt.Sprintf(negSOA, 60, 30)), 30 * time.Second},
		{"NXDOMAIN without SOA", nil, answer(dns.RcodeNameError), 0},
		{"NODATA without SOA", nil, answer(0), 0},
		{"NXDOMAIN above the limit", nil, answer(dns.RcodeNameError, fmt.Sprintf(negSOA, 9999, 9999)), 5 * time.Minute},
		{"NXDOMAIN above another limit", func(c *Config) { c.CacheMaxNegativeTTL = time.Second }, answer(dns.RcodeNameError, soa), time.Second},
		{"NXDOMAIN not wanted", func(c *Config) { c.CacheMaxNegativeTTL = -1 }, answer(dns.RcodeNameError, soa), 0},
		{"SERVFAIL", nil, answer(dns.RcodeServerFailure, soa), failureTTL},
		{"REFUSED", nil, answer(dns.RcodeRefused, soa), failureTTL},
		{"NOTIMP", nil, answer(dns.RcodeNotImplemented), failureTTL},
		{"a loop of aliases", nil, answer(0, "a.test. 60 IN CNAME a.test."), failureTTL},
		{"silence", nil, func(peer) {}, failureTTL},
		{"silence above the limit", func(c *Config) { c.CacheMaxNegativeTTL = time.Second }, func(peer) {}, time.Second},
		{"SERVFAIL not wanted", func(c *Config) { c.CacheMaxNegativeTTL = -1 }, answer(dns.RcodeServerFailure), 0},
		{"silence without a cache", func(c *Config) { c.CacheSize = -1 }, func(peer) {}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, queries := pipedResolver(t, tt.change, tt.handle)
				want, wantErr := lookup(t, r, "ip4", "a.test")
				same := func(addrs []netip.Addr, err error) {
					t.Helper()
					slices.SortFunc(addrs, netip.Addr.Compare)
					if join(addrs) != want || errorFlags(err) != errorFlags(wantErr) {
						t.Errorf("got %v, %v, want %v, %v", addrs, err, want, wantErr)
					}
				}
				cached := func() bool {
					before := queries.Load()
					same(r.LookupNetIP(t.Context(), "ip4", "A.test"))
					if queries.Load() > before {
						return false
					}
					if addrs, err, ok := r.Cached("ip4", "a.test"); ok {
						same(addrs, err)
					} else {
						t.Error("a cached answer is not available at once")
					}
					return true
				}
				if tt.want == 0 {
					if cached() {
						t.Error("the answer is cached")
					}
					return
				}
				before := queries.Load()
				time.Sleep(tt.want - time.Nanosecond)
				if !cached() {
					t.Errorf("the answer is not cached for %v", tt.want)
				}
				if queries.Load() != before {
					t.Errorf("%d queries for what is cached", queries.Load()-before)
				}
				time.Sleep(time.Nanosecond)
				if cached() {
					t.Errorf("the answer is cached for more than %v", tt.want)
				}
			})
		})
	}
}

func TestBothFamiliesExpireWithTheFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		aaaa []string
		want time.Duration
	}{
		"both have addresses":     {[]string{"a.test. 20 IN AAAA 2001:db8::1"}, 20 * time.Second},
		"one has none":            {[]string{soa}, 30 * time.Second},
		"one has none and no SOA": {nil, 40 * time.Second},
		"one has a TTL of zero":   {[]string{"a.test. 0 IN AAAA 2001:db8::1"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, queries := pipedResolver(t, nil, func(p peer) {
					if p.qtype() == dns.TypeA {
						p.reply(0, "a.test. 40 IN A 192.0.2.1")
					} else {
						p.reply(0, tt.aaaa...)
					}
				})
				if _, err := lookup(t, r, "ip", "a.test"); err != nil {
					t.Fatal(err)
				}
				cached := func() bool {
					before := queries.Load()
					lookup(t, r, "ip", "a.test")
					return queries.Load() == before
				}
				if tt.want > 0 {
					time.Sleep(tt.want - time.Nanosecond)
					if !cached() {
						t.Error("not cached long enough")
					}
					time.Sleep(time.Nanosecond)
				}
				if cached() {
					t.Error("cached for too long")
				}
			})
		})
	}
}

func TestANegativeAnswerIsCachedOnlyIfAllRepliesSaySo(t *testing.T) {
	s := newServer(t, func(p peer) {
		if p.qtype() == dns.TypeA {
			p.reply(0, soa)
		} else {
			p.reply(0)
		}
	})
	r := resolverFor(t, s)
	for range 2 {
		_, err := lookup(t, r, "ip", "a.test")
		wantError(t, err, "a.test", "notfound nodata")
	}
	if want := []string{"a.test. A udp", "a.test. AAAA udp", "a.test. AAAA udp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("server was asked %q, want %q", s.queries(), want)
	}
}

func TestALookupFromBeforeAChangeDoesNotAffectLaterLookups(t *testing.T) {
	s := newServer(t, func(p peer) { p.reply(0, p.name()+" 60 IN MX 1 mail.test.") })
	cfg := testConfig(t, s.addr)
	cfg.HostsFile = writeFile(t, "hosts", "")
	r := newResolver(t, cfg)
	before := r.system.get()
	if err := os.WriteFile(cfg.HostsFile, []byte("192.0.2.1 b.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expired := *before
	expired.until = time.Time{}
	r.system.current.Store(&expired)
	after := r.system.get()
	for _, s := range []*settings{before, after, before, after} {
		if _, err := r.ask(t.Context(), s, "a.test.", dns.TypeMX); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.queries()); n != 2 {
		t.Errorf("queries = %d, want one under each configuration", n)
	}
}

func TestQuerySubtractsTheTimeInTheCacheFromTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, queries := pipedResolver(t, nil, zone("a.test. 60 IN MX 1 mail.test."))
		for _, want := range []uint32{60, 50, 40} {
			m, err := r.Query(t.Context(), "a.test", dns.TypeMX)
			if err != nil || m.Answer[0].Header().Ttl != want {
				t.Errorf("Query = %v, %v, want TTL %d", m, err, want)
			}
			time.Sleep(10 * time.Second)
		}
		if queries.Load() != 1 {
			t.Errorf("queries = %d, want 1", queries.Load())
		}
	})
}

func TestTheCacheKeepsTheMostRecentlyUsed(t *testing.T) {
	c := newLRU(3)
	now := time.Now()
	k := func(i int) key { return key{name: fmt.Sprint(i)} }
	for i := range 3 {
		c.put(k(i), new(answer), now.Add(time.Hour))
	}
	c.get(k(0), now)
	c.put(k(3), new(answer), now.Add(time.Hour)) // evicts 1
	c.put(k(3), new(answer), now.Add(time.Hour)) // not a second time
	for i, want := range []bool{true, false, true, true} {
		if _, ok := c.get(k(i), now); ok != want {
			t.Errorf("entry %d is there: %v, want %v", i, ok, want)
		}
	}
	if c.get(k(2), now.Add(time.Hour)); c.len() != 2 {
		t.Errorf("len = %d after one has expired, want 2", c.len())
	}
	c.clear()
	c.put(k(4), new(answer), now.Add(time.Hour))
	if _, ok := c.get(k(4), now); !ok || c.len() != 1 {
		t.Errorf("after clear: len = %d", c.len())
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	s := newServer(t, func(p peer) { p.reply(0, p.name()+" 60 IN A 192.0.2.1") })
	cfg := testConfig(t, s.addr)
	cfg.CacheSize = 20
	r := newResolver(t, cfg)
	for i := range 100 {
		wantAddrs(t, r, "ip4", fmt.Sprintf("n%d.test", i), "192.0.2.1")
		if n := r.Stats().Entries; n > 20 {
			t.Fatalf("entries = %d", n)
		}
	}
	if n := r.Stats().Entries; n != 20 {
		t.Errorf("entries = %d, want 20", n)
	}
}

func TestLargeAnswersAreNotCached(t *testing.T) {
	s := newServer(t, func(p peer) {
		if p.udp() {
			m := p.message(0)
			m.Truncated = true
			p.send(m)
			return
		}
		var rrs []string
		for range 100 {
			rrs = append(rrs, p.name()+` 60 IN TXT "`+strings.Repeat("x", 250)+`"`)
		}
		p.reply(0, rrs...)
	})
	r := resolverFor(t, s)
	for range 2 {
		if m, err := r.Query(t.Context(), "a.test", dns.TypeTXT); err != nil || len(m.Answer) != 100 {
			t.Fatalf("Query = %v", err)
		}
	}
	if n := r.Stats().Entries; n != 0 {
		t.Errorf("entries = %d, want 0", n)
	}
}

func TestAThousandLookupsOfOneNameSendOneQueryPerFamily(t *testing.T) {
	const n = 1000
	release := make(chan struct{})
	s := newServer(t, func(p peer) {
		<-release
		zone("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN AAAA 2001:db8::1")(p)
	})
	r := resolverFor(t, s)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range n {
		host := []string{"a.test", "A.TEST", "a.Test"}[i%3]
		wg.Go(func() {
			if addrs, err := r.LookupNetIP(t.Context(), "ip", host); len(addrs) != 2 || err != nil {
				failed.Add(1)
			}
		})
	}
	waitFor(t, func() bool { return r.Stats().Misses == n })
	close(release)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d lookups failed", failed.Load())
	}
	if want := []string{"a.test. A udp", "a.test. AAAA udp"}; !slices.Equal(s.queries(), want) {
		t.Errorf("server was asked %q, want %q", s.queries(), want)
	}
	lookup(t, r, "ip", "a.test")
	if st := r.Stats(); st.Hits != 1 || st.Misses != n || st.Queries != 2 || st.Entries != 3 || st.Failures != 0 {
		t.Errorf("stats = %+v", st)
	}
}

func TestCallersDoNotShareAddresses(t *testing.T) {
	r := resolverFor(t, newServer(t, zone("a.test. 60 IN A 192.0.2.1")))
	for range 3 {
		addrs, _ := r.LookupNetIP(t.Context(), "ip4", "a.test")
		addrs[0] = netip.Addr{}
		addrs, _, _ = r.Cached("ip4", "a.test")
		addrs[0] = netip.Addr{}
	}
	wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
	local, _, _ := r.Cached("ip4", "localhost")
	local[0] = netip.Addr{}
	wantAddrs(t, r, "ip4", "localhost", "127.0.0.1")
}

func TestFlushDropsAnswersIncludingThoseInFlight(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, func(p peer) {
		if p.nth == 2 {
			<-release
		}
		p.reply(0, fmt.Sprintf("%s 60 IN A 192.0.2.%d", p.name(), p.nth))
	})
	r := resolverFor(t, s)
	wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
	r.Flush()
	if st := r.Stats(); st.Entries != 0 {
		t.Errorf("entries after Flush = %d", st.Entries)
	}
	var wg sync.WaitGroup
	wg.Go(func() { wantAddrs(t, r, "ip4", "a.test", "192.0.2.2") })
	waitFor(t, func() bool { return len(s.queries()) == 2 })
	r.Flush()
	wantAddrs(t, r, "ip4", "a.test", "192.0.2.3") // does not join the previous lookup
	close(release)
	wg.Wait()
	wantAddrs(t, r, "ip4", "a.test", "192.0.2.3") // the previous lookup has not overwritten it
}

func TestChangedFilesAreSeenAfterFiveSecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		resolvConf := writeFile(t, "resolv.conf", "nameserver 192.0.2.53\n")
		hostsFile := writeFile(t, "hosts", "192.0.2.1 inhosts.test\n")
		nsswitch := writeFile(t, "nsswitch.conf", "hosts: files dns\n")
		r, queries := pipedResolver(t, func(c *Config) {
			c.Servers, c.ResolvConf, c.HostsFile, c.NSSwitch = nil, resolvConf, hostsFile, nsswitch
			dial := c.Dial
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				asked = append(asked, address)
				return dial(ctx, network, address)
			}
		}, func(p peer) { p.reply(0, p.name()+" 3600 IN A 192.0.2.2") })
		write := func(path, data string) {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
			// Virtual time does not move the clock of the file system.
			at := time.Now().Add(time.Duration(len(data)) * time.Hour)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		wantAddrs(t, r, "ip4", "a.test", "192.0.2.2")
		wantAddrs(t, r, "ip4", "inhosts.test", "192.0.2.1")

		write(resolvConf, "nameserver 192.0.2.54\nsearch x\n")
		write(hostsFile, "192.0.2.3 inhosts.test new.test\n")
		time.Sleep(checkInterval - time.Nanosecond)
		wantAddrs(t, r, "ip4", "a.test", "192.0.2.2")
		wantAddrs(t, r, "ip4", "inhosts.test", "192.0.2.1")
		if len(asked) != 1 {
			t.Errorf("servers asked = %q, want one", asked)
		}
		time.Sleep(time.Nanosecond)
		if _, _, ok := r.Cached("ip4", "a.test"); ok {
			t.Error("Cached returns an answer although a check of the files is due")
		}
		wantAddrs(t, r, "ip4", "inhosts.test", "192.0.2.3")
		wantAddrs(t, r, "ip4", "new.test", "192.0.2.3")
		wantAddrs(t, r, "ip4", "a.test", "192.0.2.2")
		if want := []string{"192.0.2.53:53", "192.0.2.54:53"}; !slices.Equal(asked, want) {
			t.Errorf("servers asked = %q, want %q", asked, want)
		}

		time.Sleep(checkInterval) // nothing has changed
		n := queries.Load()
		wantAddrs(t, r, "ip4", "a.test", "192.0.2.2")
		if queries.Load() != n {
			t.Error("the cache was flushed although nothing has changed")
		}

		write(nsswitch, "hosts: files\n")
		time.Sleep(checkInterval)
		_, err := lookup(t, r, "ip4", "a.test")
		wantError(t, err, "a.test", "notfound")

		write(nsswitch, "hosts: files dns \n")
		write(resolvConf, "nameserver 192.0.2.55\noptions no-reload\n")
		time.Sleep(checkInterval)
		wantAddrs(t, r, "ip4", "b.test", "192.0.2.2")
		write(resolvConf, "nameserver 192.0.2.56\n")
		time.Sleep(2 * checkInterval)
		wantAddrs(t, r, "ip4", "c.test", "192.0.2.2")
		if got := asked[len(asked)-1]; got != "192.0.2.55:53" {
			t.Errorf("with no-reload %s was asked", got)
		}
	})
}

// A process without free descriptors can look at a file but not open it.
func TestAFileThatCannotBeReadKeepsItsContentsAndIsTriedAgain(t *testing.T) {
	for _, atFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			short := atFirst
			cfg := testConfig(t)
			cfg.HostsFile = writeFile(t, "hosts", "192.0.2.1 inhosts.test\n")
			cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ENETUNREACH }
			r := newLogging(t, cfg, slog.New(slog.NewTextHandler(&log, nil)))
			r.system.hosts.open = func(path string) ([]byte, error) {
				if short {
					return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
				}
				return os.ReadFile(path)
			}
			found := func() bool {
				addrs, err := lookup(t, r, "ip4", "inhosts.test")
				return err == nil && addrs == "192.0.2.1"
			}
			if found() == atFirst {
				t.Errorf("found = %v", !atFirst)
			}
			short = true
			at := time.Now().Add(time.Hour)
			if err := os.Chtimes(cfg.HostsFile, at, at); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(checkInterval)
				if found() == atFirst {
					t.Errorf("without descriptors, found = %v", !atFirst)
				}
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), syscall.EMFILE.Error()) {
				t.Errorf("log = %s, want one warning", &log)
			}
			short = false
			time.Sleep(checkInterval)
			if !found() {
				t.Error("the file was not read again")
			}
			if err := os.Remove(cfg.HostsFile); err != nil {
				t.Fatal(err)
			}
			time.Sleep(checkInterval)
			if found() {
				t.Error("a missing file is not empty")
			}
		})
	}
}

func TestCachedIsQuickAndAllocatesOnlyTheCopy(t *testing.T) {
	cfg := testConfig(t, newServer(t, zone("a.test. 60 IN A 192.0.2.1",
		"three.test. 60 IN A 192.0.2.1", "three.test. 60 IN A 192.0.2.2", "three.test. 60 IN A 192.0.2.3")).addr)
	cfg.HostsFile = writeFile(t, "hosts", "192.0.2.1 inhosts.test twice.test\n192.0.2.2 twice.test\n")
	r := newResolver(t, cfg)
	for _, host := range []string{"a.test", "three.test", "twice.test"} {
		if _, err := lookup(t, r, "ip4", host); err != nil {
			t.Fatal(err)
		}
	}
	_, err := lookup(t, r, "ip4", "none.test")
	wantError(t, err, "none.test", "notfound")
	for _, host := range []string{"a.test", "three.test", "none.test", "192.0.2.1", "localhost", "inhosts.test", "twice.test"} {
		n := testing.AllocsPerRun(100, func() {
			if _, _, ok := r.Cached("ip4", host); !ok {
				t.Errorf("Cached(%q) has no answer", host)
			}
		})
		if n > 1 {
			t.Errorf("Cached(%q) allocates %v times, want 1", host, n)
		}
	}
}

func TestTimeoutsFollowTheConfiguration(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c *Config)
		want   time.Duration
	}{
		"the defaults":    {func(c *Config) { c.Timeout = 0 }, 10 * time.Second},
		"two servers":     {func(c *Config) { c.Timeout, c.Servers = 0, []string{"192.0.2.1", "192.0.2.2"} }, 20 * time.Second},
		"those of Config": {func(c *Config) { c.Timeout, c.Attempts = time.Second, 3 }, 3 * time.Second},
		"of resolv.conf":  {func(c *Config) { c.Timeout, c.ResolvConf = 0, writeFile(t, "r", "options timeout:2 attempts:4") }, 8 * time.Second},
		"over TCP":        {func(c *Config) { c.Timeout, c.UseTCP = time.Second, true }, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := pipedResolver(t, tt.change, func(peer) {})
				start := time.Now()
				_, err := lookup(t, r, "ip", "a.test")
				wantError(t, err, "a.test", "timeout temporary try")
				if got := time.Since(start); got != tt.want {
					t.Errorf("took %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestTheDeadlineOfTheCallerTakesPrecedence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := pipedResolver(t, nil, func(peer) {})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.LookupNetIP(ctx, "ip", "a.test")
		wantError(t, err, "a.test", "timeout temporary deadline")
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("took %v", got)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v", err)
		}
	})
}
