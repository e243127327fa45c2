package looptest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/ordering"
)

// A Net is a network in memory. Hosts are names; a host exists when it listens or dials.
// Connections behave like TCP: bytes arrive in order and in pieces, a limited number of
// bytes is in flight or unread, closing one direction is an end of file, and closing with
// unread input is a reset.
//
// The seed determines what the network does. The arrival times and the sizes of the pieces
// are random per connection and direction, and each delivery is an event that the policy
// orders like the callbacks of the loops.
//
// All methods may be called by any goroutine of the test, and by callbacks. Changes apply
// to data that is sent afterwards; Cut, Hold and Crash also stop data in flight.
type Net struct {
	fail func(error) // fails the test
	seed uint64
	gate *gate
	wake chan struct{} // one slot

	ctx     context.Context // ends with the test
	scripts sync.WaitGroup  // running

	mu         sync.Mutex // guards the following, and the connections
	minLatency time.Duration
	maxLatency time.Duration
	bandwidth  int
	split      int
	window     int
	links      map[[2]string]*netLink // by the names of the hosts, in order
	down       map[string]bool
	listeners  map[string]*netListener
	dials      map[string]dials // by host and address, or by host and name
	scripted   map[string]int   // clients by host
	piped      int              // number of connections that pipe made
	flows      []*flow          // with segments in flight
	conns      map[*netConn]struct{}
}

// A netLink is the state between two hosts.
type netLink struct {
	held bool
	cut  time.Time // when Cut was called; zero if the link is not cut
}

// dials counts the dials of one kind.
type dials struct {
	number int
	rests  int64 // conductor.resting at the last dial
}

// defaultWindow is the number of bytes of one direction that may be in flight or unread.
const defaultWindow = 64 << 10

// retransmitFor is how long a connection with bytes in flight survives while its hosts are
// cut off from each other, as with tcp_retries2 of Linux.
const retransmitFor = 15 * time.Minute

// NewNet returns a network for the test that t belongs to. t must be the *testing.T that
// Run, Loops, Seeds or Replay passed to the test function. By default the network has no
// latency and no bandwidth limit, and delivers the data of each Write at once.
func NewNet(t *testing.T) *Net {
	t.Helper()
	tr := trialOf(t)
	n := &Net{
		fail:      func(err error) { tr.conductor.failf("%v", err) },
		seed:      tr.seed,
		gate:      tr.conductor.gate(tr.netName()),
		wake:      make(chan struct{}, 1),
		window:    defaultWindow,
		links:     make(map[[2]string]*netLink),
		down:      make(map[string]bool),
		listeners: make(map[string]*netListener),
		dials:     make(map[string]dials),
		scripted:  make(map[string]int),
		conns:     make(map[*netConn]struct{}),
	}
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		n.deliver(n.ctx.Done())
	}()
	tr.beforeEnd = append(tr.beforeEnd, n.awaitScripts)
	tr.atEnd = append(tr.atEnd, func() {
		cancel()
		<-left
		n.closeAll()
		n.scripts.Wait()
	})
	return n
}

// Latency sets the time that each piece takes to arrive: a random time from min to max.
// Connecting takes a round trip. Latency panics if min is negative or above max.
func (n *Net) Latency(min, max time.Duration) {
	if min < 0 || min > max {
		panic("looptest: Latency needs 0 <= min <= max")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.minLatency, n.maxLatency = min, max
}

// Bandwidth limits each direction of each connection to bytesPerSecond. Zero or less means
// no limit.
func (n *Net) Bandwidth(bytesPerSecond int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bandwidth = max(bytesPerSecond, 0)
}

// Split splits written data into pieces of 1 to max bytes, which arrive one by one. Zero
// or less means that the data of one Write arrives in one piece.
func (n *Net) Split(max int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.split = max
}

// Window sets how many bytes of one direction may be in flight or unread before Write
// waits. It applies to connections that are made afterwards. Zero or less means 64 KB.
func (n *Net) Window(bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.window = bytes; bytes <= 0 {
		n.window = defaultWindow
	}
}

// Cut separates two hosts: no data arrives, and no connection is made, until Heal. After
// Heal everything continues, because lost data is retransmitted. But a connection with bytes
// in flight fails with ETIMEDOUT if the cut lasts fifteen minutes.
func (n *Net) Cut(a, b string) {
	n.change(func() {
		if link := n.link(a, b); link.cut.IsZero() {
			link.cut = time.Now()
		}
	})
}

// Heal ends a Cut.
func (n *Net) Heal(a, b string) { n.change(func() { n.link(a, b).cut = time.Time{} }) }

// Hold delays all data between two hosts until Release, without a limit of time.
func (n *Net) Hold(a, b string) { n.change(func() { n.link(a, b).held = true }) }

// Release ends a Hold: the delayed data arrives.
func (n *Net) Release(a, b string) { n.change(func() { n.link(a, b).held = false }) }

// Crash turns a host off. Its listeners end, and its connections fail with ECONNRESET on
// its own side. The peers are not notified. After Restart, the host replies with a reset to
// data that they send.
func (n *Net) Crash(host string) {
	n.change(func() {
		n.down[host] = true
		for key, ln := range n.listeners {
			if ln.addr.host == host {
				ln.end()
				delete(n.listeners, key)
			}
		}
		for c := range n.conns {
			if c.local.host == host {
				c.dead = true
				c.fail(syscall.ECONNRESET)
			}
		}
	})
}

// Restart turns a host on again after Crash. The host then has no listeners.
func (n *Net) Restart(host string) { n.change(func() { delete(n.down, host) }) }

func (n *Net) change(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	n.wakeUp()
}

// link returns the state between two hosts. The caller holds n.mu.
func (n *Net) link(a, b string) *netLink {
	key := [2]string{min(a, b), max(a, b)}
	if n.links[key] == nil {
		n.links[key] = &netLink{}
	}
	return n.links[key]
}

// wakeUp wakes deliver, which then looks for due segments again.
func (n *Net) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// A netAddr is a host and a port.
type netAddr struct {
	host string
	port string
}

func (a netAddr) Network() string { return "tcp" }
func (a netAddr) String() string  { return net.JoinHostPort(a.host, a.port) }

// Listen listens on "host:port". The port is any text that is not empty. The port "0" has no
// special meaning.
func (n *Net) Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && (host == "" || port == "") {
		err = &net.AddrError{Err: "needs a host and a port", Addr: address}
	}
	addr := netAddr{host, port}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.down[host]:
		err = syscall.ENETDOWN
	case n.listeners[addr.String()] != nil:
		err = syscall.EADDRINUSE
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: addr, Err: os.NewSyscallError("bind", err)}
	}
	ln := &netListener{n: n, addr: addr}
	ln.changed.L = &n.mu
	n.listeners[addr.String()] = ln
	return ln, nil
}

type netListener struct {
	n       *Net
	addr    netAddr
	changed sync.Cond // uses n.mu
	queue   []*netConn
	closed  bool
}

func (ln *netListener) Addr() net.Addr { return ln.addr }

func (ln *netListener) Accept() (net.Conn, error) {
	ln.n.mu.Lock()
	defer ln.n.mu.Unlock()
	for len(ln.queue) == 0 && !ln.closed {
		ln.changed.Wait()
	}
	if ln.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: ln.addr, Err: net.ErrClosed}
	}
	c := ln.queue[0]
	ln.queue = ln.queue[1:]
	return c, nil
}

func (ln *netListener) Close() error {
	ln.n.mu.Lock()
	defer ln.n.mu.Unlock()
	if ln.closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: ln.addr, Err: net.ErrClosed}
	}
	ln.end()
	delete(ln.n.listeners, ln.addr.String())
	return nil
}

// end closes the listener. The caller holds n.mu.
func (ln *netListener) end() {
	ln.closed = true
	for _, c := range ln.queue {
		c.abort()
	}
	ln.queue = nil
	ln.changed.Broadcast()
}

// Dialer returns a dial function for programs on host. It can be the field Dial of
// [eventloop.ConnConfig] and [eventloop.HTTPClientConfig], or http.Transport.DialContext. A
// dial takes a round trip. It fails with ECONNREFUSED if nothing listens on the address. If
// the remote host is down or cut off, the dial waits for the end of its context.
func (n *Net) Dialer(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := n.dial(ctx, host, address)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr(address), Err: err}
		}
		return c, nil
	}
}

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

var errHostDown = errors.New("the host is down")

func (n *Net) dial(ctx context.Context, from, address string) (*netConn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	if n.down[from] {
		n.mu.Unlock()
		return nil, errHostDown
	}
	c := n.pair(netAddr{from, n.dialName(ctx, from, address)}, netAddr{host, port})
	c.out.push(segment{kind: segmentSYN}, 0)
	n.mu.Unlock()
	n.wakeUp()

	stop := context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for !c.open && c.err == nil && ctx.Err() == nil {
		c.changed.Wait()
	}
	switch {
	case c.err != nil:
		return nil, os.NewSyscallError("connect", c.err)
	case !c.open:
		c.abort()
		return nil, context.Cause(ctx)
	}
	return c, nil
}

// dialName returns the port of a client. The goroutines of several dials run in any order,
// so the port is named after the operation that dials, if the operation has a name. A number
// distinguishes dials with the same name: loops that share a host may have operations of the
// same name, and one operation may dial several times, one dial after the other. The caller
// holds n.mu.
func (n *Net) dialName(ctx context.Context, from, address string) string {
	name := ordering.Name(ctx)
	key := from + ">" + cmp.Or(name, address)
	d := n.dials[key]
	d.number++
	if rests := n.gate.c.resting.Load(); d.number > 1 && d.rests == rests {
		n.gate.Alike("dial from " + key)
	} else {
		d.rests = rests
	}
	n.dials[key] = d
	switch {
	case name == "":
		return strconv.Itoa(d.number)
	case d.number == 1:
		return name
	}
	return name + "." + strconv.Itoa(d.number)
}

// pipe returns both ends of a connection that is already open.
func (n *Net) pipe() [2]*netConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.piped++
	port := strconv.Itoa(n.piped)
	c := n.pair(netAddr{"pipe", port + "a"}, netAddr{"pipe", port + "b"})
	c.open, c.peer.open = true, true
	return [2]*netConn{c, c.peer}
}

// pair creates both ends of a connection. The caller holds n.mu.
func (n *Net) pair(client, server netAddr) *netConn {
	name := client.String() + "-" + server.String()
	c := &netConn{n: n, local: client, remote: server}
	s := &netConn{n: n, local: server, remote: client}
	c.peer, s.peer = s, c
	c.out = n.newFlow(name+" >", c, s)
	s.out = n.newFlow(name+" <", s, c)
	for _, e := range []*netConn{c, s} {
		e.changed.L = &n.mu
		n.conns[e] = struct{}{}
	}
	return c
}

// A flow is one direction of a connection, with its segments in flight.
type flow struct {
	n        *Net
	name     string
	from, to *netConn
	rand     *rand.Rand
	window   int
	segments []segment
	bytes    int       // in flight
	last     time.Time // when the last segment arrives
	busy     time.Time // when the bandwidth is available again
	queued   bool      // in n.flows
	since    int       // step at which the first segment was ready, or 0
}

type segmentKind uint8

const (
	segmentData segmentKind = iota
	segmentSYN
	segmentAccepted
	segmentFIN
	segmentRST
	segmentRefused
)

type segment struct {
	kind segmentKind
	data []byte
	at   time.Time
}

func (s segment) String() string {
	switch s.kind {
	case segmentSYN:
		return "connect"
	case segmentAccepted:
		return "connected"
	case segmentFIN:
		return "end"
	case segmentRST:
		return "reset"
	case segmentRefused:
		return "refused"
	}
	return fmt.Sprintf("%d bytes", len(s.data))
}

func (n *Net) newFlow(name string, from, to *netConn) *flow {
	h := fnv.New64a()
	h.Write([]byte(name))
	return &flow{n: n, name: name, from: from, to: to, window: n.window,
		rand: rand.New(rand.NewPCG(n.seed, h.Sum64()))}
}

// push sends a segment. The caller holds n.mu.
func (f *flow) push(s segment, size int) {
	n := f.n
	now := time.Now()
	if f.busy.Before(now) {
		f.busy = now
	}
	if n.bandwidth > 0 {
		f.busy = f.busy.Add(time.Duration(size) * time.Second / time.Duration(n.bandwidth))
	}
	s.at = f.busy.Add(n.minLatency)
	if spread := n.maxLatency - n.minLatency; spread > 0 {
		s.at = s.at.Add(time.Duration(f.rand.Int64N(int64(spread) + 1)))
	}
	if s.at.Before(f.last) {
		s.at = f.last // segments stay in order
	}
	f.last = s.at
	f.segments = append(f.segments, s)
	f.bytes += size
	if !f.queued {
		f.queued = true
		n.flows = append(n.flows, f)
	}
}

// send sends p in pieces. The caller holds n.mu.
func (f *flow) send(p []byte) {
	for len(p) > 0 {
		size := len(p)
		if f.n.split > 0 {
			size = min(size, 1+f.rand.IntN(f.n.split))
		}
		f.push(segment{data: slices.Clone(p[:size])}, size)
		p = p[size:]
	}
}

// deliver is the body of the network's goroutine.
func (n *Net) deliver(quit <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, next := n.due(n.gate.Rest())
		if len(due) > 0 {
			candidates := make([]ordering.Candidate, len(due))
			for i, f := range due {
				candidates[i] = ordering.Candidate{Name: f.name + " " + f.segments[0].String(), Since: f.since}
			}
			n.mu.Unlock()
			if i := n.gate.Choose(candidates); i >= 0 {
				n.arrive(due[i])
			}
			select {
			case <-quit:
				return
			default:
			}
			continue
		}
		n.mu.Unlock()
		var alarm <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			alarm = timer.C
		}
		select {
		case <-quit:
			return
		case <-n.wake:
		case <-alarm:
		}
	}
}

// due returns the flows whose first segment arrives now, in the order in which they became
// ready, and the time when the next one arrives. It locks n.mu and does not unlock it.
func (n *Net) due(step int) (due []*flow, next time.Time) {
	n.mu.Lock()
	now := time.Now()
	n.flows = slices.DeleteFunc(n.flows, func(f *flow) bool {
		f.queued = len(f.segments) > 0
		return !f.queued
	})
	for _, f := range n.flows {
		at := f.segments[0].at
		link := n.link(f.from.local.host, f.to.local.host)
		switch {
		case link.held:
			continue
		case !link.cut.IsZero():
			if at = link.cut.Add(retransmitFor); f.segments[0].kind == segmentSYN {
				continue // until the context of Dial ends
			}
		case n.down[f.to.local.host] && !f.to.dead:
			continue
		}
		switch {
		case !at.After(now):
			if f.since == 0 {
				f.since = step
			}
			due = append(due, f)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	slices.SortFunc(due, func(a, b *flow) int {
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.name, b.name))
	})
	return due, next
}

// arrive delivers the first segment of f.
func (n *Net) arrive(f *flow) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(f.segments) == 0 {
		return
	}
	if cut := n.link(f.from.local.host, f.to.local.host).cut; !cut.IsZero() {
		f.drop()
		f.from.fail(syscall.ETIMEDOUT)
		return
	}
	s := f.segments[0]
	f.segments, f.since = f.segments[1:], 0
	to := f.to
	switch {
	case to.dead && n.down[to.local.host]:
		f.bytes -= len(s.data)
		return // lost with the host
	case s.kind == segmentSYN:
		n.connect(to)
	case s.kind == segmentAccepted:
		to.open = true
	case s.kind == segmentRefused:
		to.fail(syscall.ECONNREFUSED)
	case s.kind == segmentRST:
		to.fail(syscall.ECONNRESET)
	case to.closed || to.dead:
		f.bytes -= len(s.data)
		if s.kind == segmentData || to.dead {
			to.sendReset()
		}
	case s.kind == segmentFIN:
		to.eof = true
	default:
		f.bytes -= len(s.data)
		to.in = append(to.in, s.data...)
	}
	to.changed.Broadcast()
}

// connect passes the server's end s to its listener, or refuses the connection.
func (n *Net) connect(s *netConn) {
	ln := n.listeners[s.local.String()]
	if ln == nil {
		s.out.push(segment{kind: segmentRefused}, 0)
		s.forget()
		return
	}
	s.open = true
	ln.queue = append(ln.queue, s)
	ln.changed.Broadcast()
	s.out.push(segment{kind: segmentAccepted}, 0)
}

// closeAll closes the listeners and connections that the test left open, so that no
// goroutine of the test waits forever.
func (n *Net) closeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ln := range n.listeners {
		ln.end()
	}
	for c := range n.conns {
		c.fail(net.ErrClosed)
	}
}
