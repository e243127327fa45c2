package resolver

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A key identifies something to resolve: the records of one type of an absolute
// name, or the addresses of a host name, after the search list has been applied and
// the addresses have been sorted.
type key struct {
	name string // lower case
	kind kind
	// version is that of the settings, so that a lookup from before a configuration
	// change does not store its answer for lookups after the change.
	version uint32
}

// kind is a record type, or one of the kinds above all record types.
type kind uint32

const (
	kindIP kind = 1<<16 + iota
	kindIP4
	kindIP6
)

// An answer is the result for a key. The cache and all waiting lookups share it, so
// it is immutable once it is published.
type answer struct {
	err    *net.DNSError
	cause  error     // the cause of err, if no server gave a final answer
	addrs  *addrSet  // of a host name
	msg    *dns.Msg  // of a question
	server string    // the server that sent msg
	made   time.Time // when msg arrived, or when a failed question was asked
	// expires is when the cache must drop the answer; zero: it is never cached.
	expires time.Time
	// noSOA says that this is a negative answer without the SOA record that
	// contains its TTL (RFC 2308 section 5).
	noSOA bool
	// silences is how often the question timed out again while others got replies.
	silences int
}

// table holds the known answers and the calls that will produce more. One mutex
// guards both, so that no lookup asks a question again between the arrival of its
// answer and its storage in the cache: a thousand lookups of one name are one
// question.
type table struct {
	root   context.Context // ends with the table
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // goroutines of calls

	mu     sync.Mutex // guards the following
	cache  lru
	calls  map[key]*call
	closed bool
}

// A call resolves one key for all lookups of that key.
type call struct {
	key    key
	cancel context.CancelFunc
	began  time.Time
	before *answer       // the expired answer, if there was one
	done   chan struct{} // closed when ans is set
	ans    *answer
	early  chan struct{} // closed when part is set; nil if that never happens
	part   *answer       // for one family, when the other is late

	// Guarded by table.mu.
	waiters int
	stale   bool // begun before the last flush: not for the cache
	kept    bool // continues when no lookup waits
}

func newTable(size int) *table {
	t := &table{cache: newLRU(size), calls: make(map[key]*call)}
	t.root, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// get returns the answer to k if it is cached.
func (t *table) get(k key) (*answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cache.get(k, time.Now())
}

// begin arranges for k to be resolved, unless the answer is known (then hit is
// true) or a call for k is in progress. work runs on a new goroutine. Its context
// ends when no lookup waits any more, or when the table closes, then with the cause
// errClosed. Every call that begin returns must be passed to wait or to leave,
// exactly once.
func (t *table) begin(k key, work func(context.Context, *call) *answer) (c *call, hit bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return finished(&answer{err: dnsError(errClosed, k.name, "")}), false
	}
	now := time.Now()
	ans, ok := t.cache.get(k, now)
	if ok {
		return finished(ans), true
	}
	if c := t.calls[k]; c != nil {
		c.waiters++
		return c, false
	}
	ctx, cancel := context.WithCancel(t.root)
	c = &call{key: k, cancel: cancel, began: now, before: ans, done: make(chan struct{}), waiters: 1}
	if k.kind == kindIP {
		c.early = make(chan struct{})
	}
	t.calls[k] = c
	t.wg.Go(func() {
		defer cancel()
		t.finish(c, work(ctx, c))
	})
	return c, false
}

// finish publishes the answer of c.
func (t *table) finish(c *call, ans *answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls[c.key] == c {
		delete(t.calls, c.key)
	}
	if !c.stale && !t.closed && ans.expires.After(time.Now()) {
		t.cache.put(c.key, ans, ans.expires)
	}
	c.ans = ans
	close(c.done)
}

// wait returns the answer of c, or the error of ctx as soon as ctx ends. When the
// last waiting lookup leaves in this way, the work is canceled.
func (t *table) wait(ctx context.Context, c *call) (*answer, error) {
	select {
	case <-c.done:
		return c.ans, nil
	default:
	}
	select {
	case <-c.done:
		return c.ans, nil
	case <-ctx.Done():
		t.leave(c)
		return nil, ctxError(ctx)
	}
}

// leave records that a lookup no longer needs c.
func (t *table) leave(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaveLocked(c)
}

func (t *table) leaveLocked(c *call) {
	c.waiters--
	if c.waiters > 0 || c.kept {
		return
	}
	// No lookup may join work that is being canceled.
	if t.calls[c.key] == c {
		delete(t.calls, c.key)
	}
	c.cancel()
}

// giveUp is leave for a lookup that stops waiting early. It caches failure as the
// answer of c, unless c still gets an answer.
func (t *table) giveUp(c *call, failure *answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !c.stale && !t.closed && failure.expires.After(time.Now()) {
		t.cache.put(c.key, failure, failure.expires)
	}
	t.leaveLocked(c)
}

// publish makes the answer for one family known. From then on c continues to its
// end even if no lookup waits, because only then the cache learns that the other
// family has no answer. Otherwise every lookup would wait for the other family
// again.
func (t *table) publish(c *call, part *answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.kept, c.part = true, part
	close(c.early)
}

// flush drops every answer. Calls in flight continue for the lookups that wait, but
// no lookup joins them, and their answers are not cached, because they may be as
// old as the dropped ones.
func (t *table) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cache.clear()
	for k, c := range t.calls {
		c.stale = true
		delete(t.calls, k)
	}
}

// close cancels every call and waits until their goroutines have ended.
func (t *table) close() {
	t.mu.Lock()
	t.closed = true
	t.cache.clear()
	t.mu.Unlock()
	t.cancel(errClosed)
	t.wg.Wait()
}

func (t *table) isClosed() bool { return t.root.Err() != nil }

func (t *table) entries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cache.len()
}

// finished returns a call that has ended.
func finished(ans *answer) *call {
	return &call{done: closedChan, ans: ans, cancel: func() {}}
}

// endsWithin waits until c has ended or ctx ends, and reports whether one of them
// happens within d.
func (c *call) endsWithin(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return ctx.Err() != nil || c.isDone() // after a pause of the process, all cases may be ready
}

func (c *call) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
