package resolver

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A key names something that can be asked: the records of one type that an
// absolute name has, or the addresses that a host name has after the search
// list, the families and their order are worked out.
type key struct {
	name string // lower case
	kind kind
	// version is that of the settings, so that a lookup that began before a
	// change of configuration cannot leave its answer to those after it.
	version uint32
}

// kind is a record type, or one of the kinds above all record types.
type kind uint32

const (
	kindIP kind = 1<<16 + iota
	kindIP4
	kindIP6
)

// An answer is the outcome of working out a key. It is shared by the cache and
// all who wait for it, and never changed once it is there.
type answer struct {
	err    *net.DNSError
	cause  error     // that err was made of, if no server gave a final answer
	addrs  *addrSet  // of a host name
	msg    *dns.Msg  // of a question
	server string    // that sent msg
	made   time.Time // when msg came, or when a question was asked that failed
	// expires is when the cache must let go of it; never cached if zero.
	expires time.Time
	// noSOA says that this is a negative answer without the record that tells
	// how long it holds (RFC 2308 section 5).
	noSOA bool
	// silences is how often the question was not answered again, though others were.
	silences int
}

// table holds the answers that are known and the calls that will give more.
// One mutex guards both, so that nobody can ask a question between the moment
// that its answer comes and the moment that it is in the cache: a thousand
// lookups of one name are one question.
type table struct {
	root   context.Context // ends with the table
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // goroutines of calls

	mu     sync.Mutex // guards the following
	cache  lru
	calls  map[key]*call
	closed bool
}

// A call works out one key for all who want it.
type call struct {
	key    key
	cancel context.CancelFunc
	began  time.Time
	before *answer       // that has expired, if there was one
	done   chan struct{} // closed when ans is set
	ans    *answer
	early  chan struct{} // closed when part is set; nil if that never happens
	part   *answer       // for one family, when that for the other is late

	// Guarded by table.mu.
	waiters int
	stale   bool // begun before the last flush: not for the cache
	kept    bool // goes on when nobody waits
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

// begin arranges for k to be worked out, unless the answer is known (then hit
// is true) or on its way. work runs in a goroutine of its own; its context ends when nobody waits
// any more, or when the table closes, then with errClosed for a cause.
// Every call that begin returns must be given to wait or to leave, exactly once.
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

// finish publishes the outcome of c.
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

// wait returns the outcome of c, or the error of ctx as soon as it ends. The
// last that leaves in this way takes the work with it.
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

// leave says that one that began c does not want it any more.
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
	// Nobody may join work that is being cancelled.
	if t.calls[c.key] == c {
		delete(t.calls, c.key)
	}
	c.cancel()
}

// giveUp is leave, and has failure remembered as the answer of c, unless that
// comes after all.
func (t *table) giveUp(c *call, failure *answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !c.stale && !t.closed && failure.expires.After(time.Now()) {
		t.cache.put(c.key, failure, failure.expires)
	}
	t.leaveLocked(c)
}

// publish makes the answer for one family known. From then on c goes on to its end
// though nobody waits, since that is how it is found out that there is no more,
// which must not cost every lookup its patience.
func (t *table) publish(c *call, part *answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.kept, c.part = true, part
	close(c.early)
}

// flush forgets every answer. Calls in flight go on for those who wait, but
// nobody joins them and their answers are not cached: they may be as old as
// what is being forgotten.
func (t *table) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cache.clear()
	for k, c := range t.calls {
		c.stale = true
		delete(t.calls, k)
	}
}

// close cancels every call and waits until their goroutines are gone.
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

// finished returns a call that is over.
func finished(ans *answer) *call {
	return &call{done: closedChan, ans: ans, cancel: func() {}}
}

// endsWithin waits until c is over or ctx ends, and reports whether that takes no
// longer than d.
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
	return ctx.Err() != nil || c.isDone() // after a pause of the process, all may be the case
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
