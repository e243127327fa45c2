package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// A fakeServer is a server in virtual time with variable behavior.
type fakeServer struct {
	now   atomic.Value // string: its behavior
	asked atomic.Int64 // queries
}

func (s *fakeServer) mode() string { return s.now.Load().(string) }

// answers reports whether the server replies, even if only without EDNS.
func (s *fakeServer) answers() bool {
	switch s.mode() {
	case "silent", "refused", "unreachable", "garbage", "closing":
		return false
	}
	return true
}

// handle replies to every name with an address that identifies the server.
func (s *fakeServer) handle(p peer, number int) {
	good := fmt.Sprintf("%s 60 IN A 192.0.2.%d", p.name(), number)
	edns := p.query.IsEdns0() != nil
	switch s.mode() {
	case "up":
		m := p.message(0, good)
		if edns {
			m.SetEdns0(1232, false)
		}
		p.send(m)
	case "garbage":
		p.write([]byte("this is not a message of the DNS"))
	case "drops-edns":
		if !edns {
			p.reply(0, good)
		}
	case "servfail-edns", "refused-edns", "formerr-edns":
		if edns {
			p.reply(map[string]int{"servfail-edns": dns.RcodeServerFailure, "refused-edns": dns.RcodeRefused, "formerr-edns": dns.RcodeFormatError}[s.mode()])
		} else {
			p.reply(0, good)
		}
	}
}

// fakeServers returns a resolver in a bubble, and its n servers, which are up.
func fakeServers(t *testing.T, n int, change func(c *Config)) (*Resolver, []*fakeServer) {
	cfg := testConfig(t)
	cfg.Timeout = time.Second
	servers := make([]*fakeServer, n)
	byAddr := make(map[string]int)
	for i := range servers {
		servers[i] = new(fakeServer)
		servers[i].now.Store("up")
		addr := fmt.Sprintf("192.0.2.%d:53", i+1)
		byAddr[addr] = i
		cfg.Servers = append(cfg.Servers, addr)
	}
	cfg.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
		i := byAddr[addr]
		s := servers[i]
		switch s.mode() {
		case "refused":
			s.asked.Add(1)
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		case "unreachable":
			s.asked.Add(1)
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
		}
		h := func(p peer) {
			s.asked.Add(1)
			s.handle(p, i+1)
		}
		if network == "tcp" {
			return streamPipe(t, func(c net.Conn) {
				serveStream(c, func(network string, b []byte, write func([]byte)) {
					if s.mode() == "closing" {
						s.asked.Add(1)
						c.Close()
						return
					}
					q := new(dns.Msg)
					if q.Unpack(b) == nil {
						h(peer{network: network, query: q, write: write})
					}
				})
			}), nil
		}
		return packetPipe(t, h), nil
	}
	if change != nil {
		change(&cfg)
	}
	return newResolver(t, cfg), servers
}

func TestADeadServerCostsItsTimeoutOnceUntilItIsBack(t *testing.T) {
	for _, useTCP := range []bool{false, true} {
		for _, mode := range []string{"silent", "refused", "unreachable", "garbage", "closing"} {
			t.Run(fmt.Sprint(mode, useTCP), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, servers := fakeServers(t, 2, func(c *Config) { c.UseTCP = useTCP })
					n := 0
					look := func(want string) time.Duration {
						n++
						return took(func() { wantAddrs(t, r, "ip4", fmt.Sprintf("n%d.test", n), want) })
					}
					servers[0].now.Store(mode)
					cost := look("192.0.2.2")
					if cost > time.Second {
						t.Errorf("the first lookup took %v", cost)
					}
					for range 100 {
						if d := look("192.0.2.2"); d != 0 {
							t.Errorf("a later lookup took %v", d)
						}
						time.Sleep(time.Second)
					}
					// It is probed at growing intervals.
					if asked := servers[0].asked.Load(); asked < 4 || asked > 16 {
						t.Errorf("the dead server was asked %d times", asked)
					}
					servers[0].now.Store("up")
					time.Sleep(maxProbe)
					look("192.0.2.2") // finds out
					synctest.Wait()
					if d := look("192.0.2.1"); d != 0 {
						t.Errorf("a lookup after its recovery took %v", d)
					}
				})
			})
		}
	}
}

// An attacker can own a name whose servers are silent.
func TestANameThatTimesOutDoesNotMakeAServerDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := pipedResolver(t, func(c *Config) { c.Servers = []string{"192.0.2.1", "192.0.2.2"} }, func(p peer) {
			if p.name() != "hang.test." {
				p.reply(0, p.name()+" 60 IN A 192.0.2.1")
			}
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			lookup(t, r, "ip4", "hang.test")
		}()
		for i := range 300 { // until the name has failed everywhere
			wantAddrs(t, r, "ip4", fmt.Sprintf("n%d.test", i), "192.0.2.1")
			time.Sleep(100 * time.Millisecond)
			if srv := r.system.get().servers[0]; srv.isDead() {
				t.Fatal("the server is taken for dead")
			}
		}
		<-done
	})
}

func TestTheOnlyServerIsQueriedEvenIfItIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, servers := fakeServers(t, 1, nil)
		servers[0].now.Store("silent")
		for i := range 3 {
			if _, err := lookup(t, r, "ip4", fmt.Sprintf("n%d.test", i)); err == nil {
				t.Error("no error")
			}
		}
		servers[0].now.Store("up")
		if d := took(func() { wantAddrs(t, r, "ip4", "n4.test", "192.0.2.1") }); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

func TestAServerThatLosesEDNSCostsItsTimeoutOnce(t *testing.T) {
	for _, attempts := range []int{1, 2, 3} {
		for _, useTCP := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r, servers := fakeServers(t, 1, func(c *Config) { c.Attempts, c.UseTCP = attempts, useTCP })
				servers[0].now.Store("drops-edns")
				for i := range 5 {
					want := time.Duration(0)
					if i == 0 {
						want = time.Second
					}
					if d := took(func() { wantAddrs(t, r, "ip4", fmt.Sprintf("n%d.test", i), "192.0.2.1") }); d != want {
						t.Errorf("with %d attempts, lookup %d took %v, want %v", attempts, i+1, d, want)
					}
				}
				// It may have recovered.
				servers[0].now.Store("up")
				time.Sleep(ednsPause)
				before := servers[0].asked.Load()
				wantAddrs(t, r, "ip4", "last.test", "192.0.2.1")
				if srv := r.system.get().servers[0]; srv.edns.accepted.IsZero() || servers[0].asked.Load() != before+1 {
					t.Errorf("EDNS is not tried again: %+v, %d queries", &srv.edns, servers[0].asked.Load()-before)
				}
			})
		}
	}
}

func TestAServerThatRefusesEDNSIsQueriedWithoutIt(t *testing.T) {
	for _, mode := range []string{"servfail-edns", "refused-edns", "formerr-edns"} {
		for _, useTCP := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r, servers := fakeServers(t, 1, func(c *Config) { c.UseTCP = useTCP })
				servers[0].now.Store(mode)
				for i := range 5 {
					wantAddrs(t, r, "ip4", fmt.Sprintf("n%d.test", i), "192.0.2.1")
				}
				if servers[0].asked.Load() != 6 {
					t.Errorf("%s: %d queries for 5 names, want 6", mode, servers[0].asked.Load())
				}
			})
		}
	}
}

func TestWithoutEDNSNoQueryHasIt(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"Config":      func(c *Config) { c.NoEDNS = true },
		"resolv.conf": func(c *Config) { c.ResolvConf = writeFile(t, "resolv.conf", "options -edns0\n") },
	} {
		synctest.Test(t, func(t *testing.T) {
			r, servers := fakeServers(t, 1, change)
			servers[0].now.Store("drops-edns")
			if d := took(func() { wantAddrs(t, r, "ip4", "a.test", "192.0.2.1") }); d != 0 || servers[0].asked.Load() != 1 {
				t.Errorf("%s: took %v and %d queries", name, d, servers[0].asked.Load())
			}
		})
	}
}

// A lack of descriptors says nothing about servers and names.
func TestALackOfDescriptorsIsNotCached(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			var short atomic.Bool
			short.Store(true)
			r, _ := fakeServers(t, 2, func(c *Config) {
				dial := c.Dial
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if short.Load() {
						return nil, &net.OpError{Op: "dial", Net: network, Err: errno}
					}
					return dial(ctx, network, addr)
				}
			})
			if _, err := lookup(t, r, "ip4", "a.test"); !errors.Is(err, errno) {
				t.Errorf("error = %v, want %v", err, errno)
			}
			short.Store(false)
			wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
		})
	}
}

// Servers change their behavior at random. As long as one of them replies, every name
// resolves within one timeout per other server and per way to query it. When nothing has
// changed for a while, every name resolves at once, except for one timeout per server.
func TestNamesResolveWhileAnyServerReplies(t *testing.T) {
	all := []string{"up", "silent", "refused", "unreachable", "garbage", "closing", "drops-edns", "servfail-edns", "refused-edns", "formerr-edns"}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(rt, "servers")
		attempts := rapid.IntRange(1, 3).Draw(rt, "attempts")
		useTCP := rapid.Bool().Draw(rt, "TCP")
		rotate := rapid.Bool().Draw(rt, "rotate")
		type step struct {
			modes []string
			wait  time.Duration
			n     int
		}
		var steps []step
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			s := step{wait: rapid.SampledFrom([]time.Duration{0, time.Second, failureTTL, maxProbe, ednsPause, time.Hour}).Draw(rt, "wait"), n: rapid.IntRange(1, 4).Draw(rt, "lookups")}
			for range n {
				s.modes = append(s.modes, rapid.SampledFrom(all).Draw(rt, "mode"))
			}
			steps = append(steps, s)
		}
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			r, servers := fakeServers(t, n, func(c *Config) { c.Attempts, c.UseTCP, c.Rotate = attempts, useTCP, rotate })
			name := 0
			look := func() (time.Duration, error) {
				name++
				var err error
				d := took(func() { _, err = r.LookupNetIP(t.Context(), "ip4", fmt.Sprintf("n%d.test", name)) })
				return d, err
			}
			for i, s := range steps {
				answering := false
				for j, srv := range servers {
					srv.now.Store(s.modes[j])
					answering = answering || srv.answers()
				}
				time.Sleep(s.wait)
				// Each server may take one timeout with EDNS, and one without.
				limit := time.Duration(2*n) * time.Second * time.Duration(max(attempts, 2))
				for range s.n {
					d, err := look()
					if (err == nil) != answering || d > limit {
						problems = append(problems, fmt.Sprintf("step %d, %v: %v after %v", i, s.modes, err, d))
					}
				}
				if !answering {
					continue
				}
				for range (maxEDNSLosses + 2) * n { // enough lookups to learn the state of each server
					look()
					time.Sleep(maxProbe)
					synctest.Wait()
				}
				// From time to time the resolver checks whether a server still loses EDNS.
				slow := 0
				for range 10 * n {
					d, err := look()
					if d != 0 {
						slow++
					}
					if err != nil {
						problems = append(problems, fmt.Sprintf("step %d, %v: %v though nothing has changed", i, s.modes, err))
					}
				}
				if slow > n {
					problems = append(problems, fmt.Sprintf("step %d, %v: %d lookups are slow though nothing has changed", i, s.modes, slow))
				}
			}
		})
		if len(problems) > 0 {
			rt.Fatal(problems)
		}
	})
}

// The state of a server is a function of its history.
func TestHealthFollowsFromTheHistory(t *testing.T) {
	type event struct {
		reply     bool
		began, at time.Time
	}
	rapid.Check(t, func(t *rapid.T) {
		var s nameServer
		now := time.Unix(1_000_000, 0)
		var history []event
		var pending []time.Time // queries in flight
		probing := false
		// dead evaluates the history from the beginning.
		dead := func() (losses int, last time.Time) {
			var replied time.Time
			for _, e := range history {
				switch {
				case e.reply:
					replied, losses = e.at, 0
				case replied.After(e.began): // the cause is the name
				case losses > 0 && e.began.Before(last): // one outage counts once
				default:
					losses++
					last = e.at
				}
			}
			return losses, last
		}
		take := func(t *rapid.T) time.Time {
			if len(pending) == 0 {
				t.Skip("no query")
			}
			i := rapid.IntRange(0, len(pending)-1).Draw(t, "query")
			began := pending[i]
			pending = append(pending[:i:i], pending[i+1:]...)
			return began
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{0, 1, time.Millisecond, firstProbe, 5 * time.Second, maxProbe, time.Hour}).Draw(t, "time"))
			},
			"ask": func(*rapid.T) { pending = append(pending, now) },
			"reply": func(t *rapid.T) {
				history = append(history, event{true, take(t), now})
				s.onReply(now, false, nil)
			},
			"fail": func(t *rapid.T) {
				began := take(t)
				history = append(history, event{false, began, now})
				s.onFailure(began, now)
			},
			"probe": func(t *rapid.T) {
				losses, last := dead()
				wait := firstProbe
				for i := 1; i < losses && wait < maxProbe; i++ {
					wait *= 2
				}
				want := losses > 0 && !probing && now.Sub(last) >= min(wait, maxProbe)
				if got := s.beginProbe(now); got != want {
					t.Fatalf("beginProbe = %v, want %v", got, want)
				}
				probing = probing || want
			},
			"end probe": func(t *rapid.T) {
				if !probing {
					t.Skip("no probe")
				}
				probing = false
				s.endProbe()
			},
			"": func(t *rapid.T) {
				if losses, _ := dead(); s.isDead() != (losses > 0) {
					t.Fatalf("dead = %v after %v", s.isDead(), history)
				}
			},
		})
	})
}

func TestEDNSIsDisabledOnlyAfterSeveralLosses(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	answer := new(dns.Msg)
	refusal := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
	var s nameServer
	s.onReply(now, true, answer)
	for i := range maxEDNSLosses - 1 {
		if s.onEDNSLoss(now); !s.knowsEDNS(now) {
			t.Errorf("EDNS is disabled after %d losses, although it works", i+1)
		}
	}
	s.onReply(now, true, answer)
	for range maxEDNSLosses - 1 {
		s.onEDNSLoss(now)
	}
	if !s.knowsEDNS(now) || s.mayRefuseEDNS(now, refusal) {
		t.Error("a reply to a query with EDNS does not count")
	}
	if s.onEDNSLoss(now); s.knowsEDNS(now.Add(ednsPause-1)) || !s.knowsEDNS(now.Add(ednsPause)) {
		t.Errorf("not given up for %v", ednsPause)
	}
	if !s.edns.accepted.IsZero() || !s.mayRefuseEDNS(now, refusal) {
		t.Error("the state from before the pause still counts")
	}
	if s.onEDNSLoss(now); s.knowsEDNS(now) {
		t.Error("EDNS is not disabled at once, although it is not known to work")
	}
	if s.edns = (ednsState{}); !s.suspectsEDNS(now) {
		t.Error("the first query is not suspected")
	}
	if s.onReply(now, true, refusal); s.suspectsEDNS(now.Add(-1)) || !s.edns.accepted.IsZero() {
		t.Errorf("after an error in reply: %+v", &s.edns)
	}
}
