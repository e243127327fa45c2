package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// streams is a server in a bubble that counts its streams.
type streams struct {
	t       *testing.T
	conns   atomic.Int64 // total
	open    atomic.Int64
	queries atomic.Int64
}

// resolver returns a resolver that queries s. serve serves each stream; its argument is
// the number of the stream.
func (s *streams) resolver(serve func(n int, c net.Conn)) *Resolver {
	cfg := testConfig(s.t, "192.0.2.53")
	cfg.UseTCP, cfg.NoEDNS, cfg.Timeout = true, true, 5*time.Second
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		n := int(s.conns.Add(1))
		s.open.Add(1)
		return streamPipe(s.t, func(c net.Conn) {
			serve(n, c)
			s.open.Add(-1)
		}), nil
	}
	return newResolver(s.t, cfg)
}

// next reads one query, or returns nil at the end.
func (s *streams) next(c net.Conn) *peer {
	b, err := readMessage(c)
	if err != nil {
		return nil
	}
	q := new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		s.t.Error(err)
		return nil
	}
	s.queries.Add(1)
	return &peer{network: "tcp", query: q, write: func(b []byte) { c.Write(frame(b)) }}
}

// echo replies with an address that depends on the name: the first label is the last
// byte of the address.
func echo(p *peer) {
	label, _, _ := strings.Cut(p.name(), ".")
	p.reply(0, fmt.Sprintf("%s 60 IN A 192.0.2.%s", p.name(), label))
}

func TestQueriesShareOneStreamAndRepliesMayComeInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		const n = 50
		r := s.resolver(func(_ int, c net.Conn) {
			for {
				var all []*peer
				for range n {
					p := s.next(c)
					if p == nil {
						return
					}
					all = append(all, p)
				}
				slices.Reverse(all)
				for _, p := range all {
					echo(p)
				}
			}
		})
		for round := range 3 {
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					wantAddrs(t, r, "ip4", fmt.Sprintf("%d.round%d.test", i+1, round), fmt.Sprintf("192.0.2.%d", i+1))
				})
			}
			wg.Wait()
		}
		if s.conns.Load() != 1 || s.queries.Load() != 3*n {
			t.Errorf("%d streams, %d queries, want 1 and %d", s.conns.Load(), s.queries.Load(), 3*n)
		}
	})
}

func TestBothFamiliesGoOverOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		r := s.resolver(func(_ int, c net.Conn) {
			for p := s.next(c); p != nil; p = s.next(c) {
				zone("a.test. 60 IN A 127.0.0.1", "a.test. 60 IN AAAA ::1")(*p)
			}
		})
		if addrs, err := r.LookupNetIP(t.Context(), "ip", "a.test"); len(addrs) != 2 || err != nil {
			t.Errorf("addresses = %v, %v", addrs, err)
		}
		if s.conns.Load() != 1 || s.queries.Load() != 2 {
			t.Errorf("%d streams, %d queries, want 1 and 2", s.conns.Load(), s.queries.Load())
		}
	})
}

func TestAStreamIsClosedWhenItIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		r := s.resolver(func(_ int, c net.Conn) {
			for p := s.next(c); p != nil; p = s.next(c) {
				echo(p)
			}
		})
		for i := range 5 {
			wantAddrs(t, r, "ip4", fmt.Sprintf("%d.test", i+1), fmt.Sprintf("192.0.2.%d", i+1))
			time.Sleep(linkIdle - 1)
			if s.open.Load() != 1 {
				t.Fatalf("%d streams are open after %v, want 1", s.open.Load(), linkIdle-1)
			}
		}
		time.Sleep(2*linkIdle + 1)
		synctest.Wait()
		if s.open.Load() != 0 || s.conns.Load() != 1 {
			t.Errorf("%d streams are open, of %d, want 0 of 1", s.open.Load(), s.conns.Load())
		}
		wantAddrs(t, r, "ip4", "6.test", "192.0.2.6")
		if s.conns.Load() != 2 {
			t.Errorf("streams = %d, want 2", s.conns.Load())
		}
	})
}

// Servers may close a stream at any time (RFC 7766 section 6.2.4).
func TestAQueryIsSentAgainIfTheServerClosesAStreamThatHadWorked(t *testing.T) {
	for name, tt := range map[string]struct {
		serve   func(s *streams, c net.Conn)
		atOnce  int
		streams int
	}{
		"when it is idle": {func(s *streams, c net.Conn) { echo(s.next(c)) }, 1, 5},
		"instead of the second reply": {func(s *streams, c net.Conn) {
			if p := s.next(c); p != nil {
				echo(p)
				s.next(c)
			}
		}, 1, 5},
		"after each reply": {func(s *streams, c net.Conn) {
			if p := s.next(c); p != nil {
				echo(p)
			}
		}, 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &streams{t: t}
				r := s.resolver(func(_ int, c net.Conn) { tt.serve(s, c) })
				start := time.Now()
				for round := range 5 {
					var wg sync.WaitGroup
					for i := range tt.atOnce {
						wg.Go(func() {
							wantAddrs(t, r, "ip4", fmt.Sprintf("%d.round%d.test", i+1, round), fmt.Sprintf("192.0.2.%d", i+1))
						})
					}
					wg.Wait()
					synctest.Wait()
				}
				if tt.streams > 0 && int(s.conns.Load()) != tt.streams {
					t.Errorf("streams = %d, want %d", s.conns.Load(), tt.streams)
				}
				if d := time.Since(start); d != 0 || r.Stats().Failures != 0 {
					t.Errorf("took %v, stats %+v", d, r.Stats())
				}
			})
		})
	}
}

// A name that times out blocks a server that processes one query after the other.
func TestANameThatBlocksAStreamDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		r := s.resolver(func(_ int, c net.Conn) {
			for p := s.next(c); p != nil; p = s.next(c) {
				if strings.HasPrefix(p.name(), "hang") {
					time.Sleep(time.Hour)
					return
				}
				echo(p)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { r.LookupNetIP(ctx, "ip4", fmt.Sprintf("hang%d.test", i)) })
			time.Sleep(linkStall + 1)
			if d := took(func() { wantAddrs(t, r, "ip4", fmt.Sprintf("%d.test", i+1), fmt.Sprintf("192.0.2.%d", i+1)) }); d != 0 {
				t.Errorf("name %d took %v", i+1, d)
			}
		}
		cancel()
		wg.Wait()
		if s.conns.Load() > 12 {
			t.Errorf("streams = %d", s.conns.Load())
		}
	})
}

// A connection may die silently, for example behind a NAT that has dropped its state.
func TestASilentStreamIsNotReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		r := s.resolver(func(n int, c net.Conn) {
			for i := 0; ; i++ {
				p := s.next(c)
				if p == nil {
					return
				}
				if n > 1 || i == 0 {
					echo(p)
				}
			}
		})
		wantAddrs(t, r, "ip4", "1.test", "192.0.2.1")
		if d := took(func() { wantAddrs(t, r, "ip4", "2.test", "192.0.2.2") }); d != r.cfg.Timeout {
			t.Errorf("took %v, want one timeout", d)
		}
		if d := took(func() { wantAddrs(t, r, "ip4", "3.test", "192.0.2.3") }); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

func TestTheReplyToACanceledQueryDoesNotAffectOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{t: t}
		r := s.resolver(func(_ int, c net.Conn) {
			late := s.next(c)
			for p := s.next(c); p != nil; p = s.next(c) {
				if late != nil {
					echo(late)
					late = nil
				}
				echo(p)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := r.LookupNetIP(ctx, "ip4", "1.test"); err == nil {
			t.Error("no error")
		}
		for i := 2; i < 5; i++ {
			wantAddrs(t, r, "ip4", fmt.Sprintf("%d.test", i), fmt.Sprintf("192.0.2.%d", i))
		}
		if s.conns.Load() != 1 {
			t.Errorf("streams = %d, want 1", s.conns.Load())
		}
	})
}

func TestADialWithoutWaitingQueriesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, "192.0.2.53")
		cfg.UseTCP = true
		var dials atomic.Int64
		cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			defer dials.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		r := newResolver(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { _, err := r.LookupNetIP(ctx, "ip4", "a.test"); first <- err }()
		second := make(chan error, 1)
		go func() { _, err := r.LookupNetIP(t.Context(), "ip4", "b.test"); second <- err }()
		synctest.Wait()
		if dials.Load() != 1 {
			t.Errorf("dials = %d, want 1", dials.Load())
		}
		cancel()
		wantError(t, <-first, "a.test", "canceled")
		synctest.Wait()
		if dials.Load() != 1 {
			t.Error("a canceled query ended the dial of another query")
		}
		wantError(t, <-second, "b.test", "timeout temporary try")
		synctest.Wait()
		if dials.Load() != 0 {
			t.Errorf("dials = %d, want 0", dials.Load())
		}
	})
}

// Whatever a server does, every query ends in time, with its own reply or an error, and
// nothing is left.
func TestAStreamUnderARandomServer(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type action struct {
			do   string
			wait time.Duration
		}
		actions := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) action {
			return action{
				rapid.SampledFrom([]string{"reply", "reply", "reply", "reply later", "ignore", "close", "garbage", "wrong id", "wrong name", "half", "twice"}).Draw(rt, "do"),
				rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, linkStall + 1, 3 * time.Second}).Draw(rt, "wait"),
			}
		}), 1, 30).Draw(rt, "actions")
		waits := rapid.SliceOfN(rapid.SampledFrom([]time.Duration{0, 0, 0, time.Millisecond, time.Second, 2 * linkIdle}), 1, 40).Draw(rt, "lookups")
		hasty := rapid.Bool().Draw(rt, "patience of callers is short")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			s := &streams{t: t}
			var next atomic.Int64
			r := s.resolver(func(_ int, c net.Conn) {
				var later []*peer
				for p := s.next(c); p != nil; p = s.next(c) {
					a := actions[int(next.Add(1)-1)%len(actions)]
					time.Sleep(a.wait)
					switch a.do {
					case "reply":
						echo(p)
					case "twice":
						echo(p)
						echo(p)
					case "reply later":
						later = append(later, p)
						continue
					case "close":
						return
					case "garbage":
						c.Write([]byte("garbage, whatever its length may be"))
					case "wrong id":
						p.query.Id++
						echo(p)
					case "wrong name":
						p.query.Question[0].Name = "other.test."
						p.reply(0, "other.test. 60 IN A 192.0.2.66")
					case "half":
						c.Write([]byte{0, 50, 1})
						return
					}
					for _, p := range later {
						echo(p)
					}
					later = nil
				}
			})
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i, wait := range waits {
				time.Sleep(wait)
				wg.Go(func() {
					ctx, patience := t.Context(), 2*r.cfg.Timeout
					if hasty && i%2 == 0 {
						var cancel context.CancelFunc
						patience = time.Duration(i) * time.Millisecond
						ctx, cancel = context.WithTimeout(ctx, patience)
						defer cancel()
					}
					var addrs string
					var err error
					d := took(func() {
						a, e := r.LookupNetIP(ctx, "ip4", fmt.Sprintf("%d.test", i+1))
						addrs, err = join(a), e
					})
					if err == nil && addrs != fmt.Sprintf("192.0.2.%d", i+1) || d > patience {
						mu.Lock()
						problems = append(problems, fmt.Sprintf("name %d: %s, %v after %v", i+1, addrs, err, d))
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			time.Sleep(3*linkIdle + r.cfg.Timeout)
			synctest.Wait()
			if st := r.Stats(); st.Open != 0 || s.open.Load() != 0 {
				problems = append(problems, fmt.Sprintf("%d streams, %+v are left", s.open.Load(), st))
			}
		})
		if len(problems) > 0 {
			rt.Fatal(strings.Join(problems, "\n"))
		}
	})
}

func TestTLSConnectionsAreReusedAndSessionsResumed(t *testing.T) {
	cert, pool := selfSigned(t, "dns.test")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}}
	var conns, resumed atomic.Int64
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			c := tls.Server(raw, conf)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if c.Handshake() == nil && c.ConnectionState().DidResume {
					resumed.Add(1)
				}
				serveStream(c, func(_ string, b []byte, write func([]byte)) {
					q := new(dns.Msg)
					if q.Unpack(b) == nil {
						echo(&peer{network: "tcp", query: q, write: write})
					}
				})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	cfg := testConfig(t, ln.Addr().String())
	cfg.TLS = &tls.Config{RootCAs: pool, ServerName: "dns.test"}
	r := newResolver(t, cfg)
	for round := range 3 {
		for i := 1; i <= 20; i++ {
			wantAddrs(t, r, "ip4", fmt.Sprintf("%d.round%d.test", i, round), fmt.Sprintf("192.0.2.%d", i))
		}
		mu.Lock()
		for _, c := range open { // the idle timeout of the server
			c.Close()
		}
		mu.Unlock()
	}
	if conns.Load() != 3 || resumed.Load() != 2 {
		t.Errorf("%d connections, of which %d were resumed, want 3 and 2", conns.Load(), resumed.Load())
	}
	if cfg.TLS.ClientSessionCache != nil {
		t.Error("the Config of the caller was changed")
	}
}

// FuzzStream makes a link read a stream of arbitrary bytes. The link must deliver only
// well-formed replies to its queries, and must end.
func FuzzStream(f *testing.F) {
	q := question{id: 1, name: "1.test.", qtype: dns.TypeA}
	var buf bytes.Buffer
	echo(&peer{query: q.msg(true, false), write: func(b []byte) { buf.Write(frame(b)) }})
	f.Add(buf.Bytes())
	f.Add(append(slices.Clone(buf.Bytes()), buf.Bytes()...))
	f.Add(buf.Bytes()[:20])
	f.Add([]byte{0, 0})
	f.Add([]byte("\x00\x0c\x00\x01\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, srv := net.Pipe()
		go func() {
			srv.Write(b)
			srv.Close()
		}()
		l := &link{srv: newNameServer("192.0.2.53:53"), conn: client, state: linkOpen, flights: make(map[uint16]*flight), end: func() {}}
		flights := []*flight{l.add(q, time.Now()), l.add(q, time.Now())} // the second gets another id
		err := l.read()
		client.Close()
		if err == nil {
			t.Error("the end of the stream is no error")
		}
		l.finish("tcp", err)
		for _, f := range flights {
			end := <-f.done
			if (end.err == nil) != (end.m != nil) || end.m != nil && !f.q.isOf(end.m) {
				t.Errorf("landing = %+v", end)
			}
		}
		if len(l.flights) != 0 {
			t.Errorf("%d flights are left", len(l.flights))
		}
	})
}

// hanging replies to every name, except those that begin with "hang".
func hanging(p peer) {
	switch {
	case strings.HasPrefix(p.name(), "hang"), strings.HasSuffix(p.name(), ".7.in-addr.arpa."):
	case p.qtype() == dns.TypeA:
		p.reply(0, p.name()+" 0 IN A 127.0.0.1")
	default:
		p.reply(0)
	}
}

func TestNamesThatTimeOutDoNotDelayOthers(t *testing.T) {
	for _, hang := range []int{maxSockets/2 - 1, maxSockets / 2, maxSockets, 1000, 4000} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := pipedResolver(t, nil, hanging)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range hang {
				wg.Go(func() { r.LookupNetIP(ctx, "ip", fmt.Sprintf("hang%d.test", i)) })
			}
			for i := range 30 { // until the last timeout
				name := fmt.Sprintf("n%d.test", i)
				d := took(func() {
					wantAddrs(t, r, "ip", name, "127.0.0.1")
					if _, err := r.Query(t.Context(), name, dns.TypeMX); err != nil {
						t.Error(err)
					}
				})
				if d != 0 {
					t.Errorf("with %d names that time out, another one takes %v", hang, d)
				}
				time.Sleep(time.Second / 2)
			}
			cancel()
			wg.Wait()
			synctest.Wait()
			if st := r.Stats(); st.Open != 0 || len(r.sockets) != 0 || len(r.system.get().servers[0].links["udp"]) != 0 {
				t.Errorf("left: %+v, %d sockets", st, len(r.sockets))
			}
		})
	}
}

func TestDescriptorsAreBoundedIfManyNamesTimeOut(t *testing.T) {
	descriptors := func() int {
		all, _ := os.ReadDir("/proc/self/fd")
		return len(all)
	}
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc")
	}
	s := newServer(t, hanging)
	r := resolverFor(t, s)
	before := descriptors()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const n = 2000
	for i := range n {
		wg.Go(func() { r.LookupNetIP(ctx, "ip", fmt.Sprintf("hang%d.test", i)) })
	}
	waitFor(t, func() bool { return r.Stats().Open == 2*n })
	if got, most := descriptors()-before, maxSockets+2*n/maxFlights+2; got > most {
		t.Errorf("%d descriptors for %d queries, want %d at most", got, 2*n, most)
	}
	cancel()
	wg.Wait()
	waitFor(t, func() bool { return r.Stats().Open == 0 && descriptors() <= before })
}

// Ids are unique on a link, and cannot be guessed from one another.
func TestQueriesOnALinkHaveDistinctIDs(t *testing.T) {
	l := &link{srv: newNameServer("192.0.2.53:53"), flights: make(map[uint16]*flight), end: func() {}}
	seen := make(map[uint16]bool)
	inOrder := 0
	last := uint16(0)
	for range maxFlights {
		f := l.add(question{id: 7}, time.Now())
		if seen[f.q.id] {
			t.Fatalf("id %d twice", f.q.id)
		}
		seen[f.q.id] = true
		if f.q.id == last+1 {
			inOrder++
		}
		last = f.q.id
	}
	if inOrder > 10 {
		t.Errorf("%d of %d ids follow the one before", inOrder, maxFlights)
	}
}

func TestTooManyQueriesAreAnErrorAtOnce(t *testing.T) {
	srv := newNameServer("192.0.2.53:53")
	for range maxLinks {
		l := &link{srv: srv, flights: make(map[uint16]*flight), end: func() {}}
		for range maxFlights {
			l.add(question{}, time.Now())
		}
		srv.links["udp"] = append(srv.links["udp"], l)
	}
	r := newResolver(t, testConfig(t, "192.0.2.53"))
	if _, _, err := r.join("udp", srv, question{}, time.Now(), false); err != errBusy {
		t.Errorf("error = %v, want %v", err, errBusy)
	}
	wantError(t, dnsError(errBusy, "a.test", ""), "a.test", "temporary")
}

// The query that times out ends its stream. How the stream ends must not be what the
// lookup is told.
func TestEveryQueryThatTimesOutOnAStreamFailsWithATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, servers := fakeServers(t, 1, func(c *Config) { c.UseTCP, c.NoEDNS, c.Attempts = true, true, 1 })
		servers[0].now.Store("silent")
		for i := range 1000 {
			_, err := lookup(t, r, "ip4", fmt.Sprintf("n%d.test", i))
			wantError(t, err, fmt.Sprintf("n%d.test", i), "timeout temporary try")
		}
	})
}
