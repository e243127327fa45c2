package eventloop

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of a loop. The first seven figures are those of cl-async.
type Stats struct {
	OpenDNSQueries int // names being looked up, on behalf of dials too
	Callbacks      int // callbacks that wait to be called: queued posts and armed timers
	Handles        int // what is open: everything that Loop.Handles gives
	IncomingTCP    int // open connections that were accepted or adopted
	OutgoingTCP    int // open connections that were dialled, connecting ones too
	IncomingHTTP   int // requests of clients without an answer yet
	OutgoingHTTP   int // requests of our own without an answer yet

	Listeners int
	Timers    int // armed timers and intervals
	Signals   int // signal handlers
	Tasks     int // tasks that have not ended
	Work      int // functions of Work that have not ended
	Futures   int // pending ones that are handles themselves, and results of Detach not taken yet
	Receivers int
	Senders   int   // with values that wait
	Queued    int   // posts and tasks that wait for the dispatcher; exact on the loop
	Buffered  int64 // bytes that wait to be written, of all connections

	DNSCacheEntries int // answers in the cache of the resolver

	QueuePeak       int           // the most posts that waited for one turn
	Busy, Idle      time.Duration // since Run: of the dispatcher at work, and waiting
	LagP50          time.Duration // how late timers fired, and how long turns
	LagP99          time.Duration // took that others had to wait for
	LagMax          time.Duration
	IterationsTotal uint64 // turns
	BytesInTotal    uint64 // read from connections, after TLS
	BytesOutTotal   uint64 // written to connections, before TLS
	LostBytesTotal  uint64 // of output that was not delivered, but for what Abort discarded
	AcceptedTotal   uint64 // connections, of HTTP servers too
	DialedTotal     uint64 // connections, failed ones too
	DroppedTotal    uint64 // connections that were accepted and closed at once: the loop ended
	ErrorsTotal     uint64 // events that are errors, not information
	SlowTotal       uint64 // callbacks over Config.SlowCallback

	HTTPConns         int    // open connections of HTTP servers
	HTTPRequestsTotal uint64 // that clients sent and the handler got
	HTTP1xxTotal      uint64 // answers by class of status: upgrades,
	HTTP2xxTotal      uint64 // successes,
	HTTP3xxTotal      uint64 // redirections,
	HTTP4xxTotal      uint64 // faults of clients, requests refused by the server included,
	HTTP5xxTotal      uint64 // and our own
	HTTPAbortsTotal   uint64 // clients that went away before they had the answer
	HTTPDroppedTotal  uint64 // connections over HTTPServerConfig.MaxConnsPerIP
	HTTPBytesInTotal  uint64 // of HTTP servers, which the figures for connections leave out
	HTTPBytesOutTotal uint64

	DNSCacheHitsTotal   uint64 // lookups that the cache answered
	DNSCacheMissesTotal uint64 // lookups that it did not, and that neither a file nor a rule did
	DNSQueriesTotal     uint64 // queries sent to servers; a lookup may take several
	DNSFailuresTotal    uint64 // times that a server was asked and gave no answer

	OutgoingHTTPTotal uint64 // requests of our own
	ReusedHTTPTotal   uint64 // how often one, or what it was redirected to, went out on a kept connection
	RetriedHTTPTotal  uint64 // how often one was sent again, because that connection was gone
}

// counters are written by many goroutines and read by Stats. Those that an echo
// changes on the dispatcher lie apart from the one that the writers change, so
// that the cores do not fight for a cache line.
type counters struct {
	accepted  atomic.Uint64
	dialed    atomic.Uint64
	dropped   atomic.Uint64
	errors    atomic.Uint64
	slow      atomic.Uint64
	discarded atomic.Uint64 // bytes that were written and not sent
	lost      atomic.Uint64 // bytes that were not delivered
	bytesIn   atomic.Uint64
	written   atomic.Uint64 // bytes
	_         [64]byte
	bytesOut  atomic.Uint64
	_         [64]byte

	httpConns     atomic.Int64
	httpAborts    atomic.Uint64
	httpDropped   atomic.Uint64
	httpDiscarded atomic.Uint64 // bytes that were written and not sent
	_             [64]byte
	httpAnswers   [6]atomic.Uint64
	httpSettled   atomic.Uint64 // requests that need no answer any more
	httpWritten   atomic.Uint64 // bytes
	_             [64]byte
	httpRequests  atomic.Uint64
	httpBytesIn   atomic.Uint64
	_             [64]byte
	httpBytesOut  atomic.Uint64
	_             [64]byte

	// Of the client.
	httpSent    atomic.Uint64 // requests
	httpReused  atomic.Uint64
	httpRetried atomic.Uint64
}

// buffered returns how many bytes wait to be written.
func (c *counters) buffered() int64 {
	out := c.bytesOut.Load() + c.discarded.Load() // first, so as not to exceed written
	httpOut := c.httpBytesOut.Load() + c.httpDiscarded.Load()
	return int64(c.written.Load() - out + c.httpWritten.Load() - httpOut)
}

// answered counts an answer of an HTTP server.
func (c *counters) answered(status int) {
	if class := status / 100; class < len(c.httpAnswers) {
		c.httpAnswers[class].Add(1)
	}
}

// Stats returns a snapshot (stats). It may be called from any goroutine at any
// time and takes a few microseconds, most of them for the lag.
func (l *Loop) Stats() Stats {
	c := &l.count
	lag := l.lag.Quantiles(0.5, 0.99)
	s := Stats{
		Buffered:       c.buffered(),
		LagP50:         lag[0],
		LagP99:         lag[1],
		LagMax:         l.lag.Max(),
		BytesInTotal:   c.bytesIn.Load(),
		BytesOutTotal:  c.bytesOut.Load(),
		LostBytesTotal: c.lost.Load(),
		AcceptedTotal:  c.accepted.Load(),
		DialedTotal:    c.dialed.Load(),
		DroppedTotal:   c.dropped.Load(),
		ErrorsTotal:    c.errors.Load(),
		SlowTotal:      c.slow.Load(),

		OutgoingHTTPTotal: c.httpSent.Load(),
		ReusedHTTPTotal:   c.httpReused.Load(),
		RetriedHTTPTotal:  c.httpRetried.Load(),
	}
	c.addHTTP(&s)
	l.names.stats(&s)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Timers = l.timers.Len()
	for range l.dueTimers {
		s.Timers++
	}
	posts := l.queuedPosts()
	s.Queued = posts + len(l.tasks)
	s.Callbacks = posts + s.Timers
	s.Handles = l.handles.len + s.Timers
	s.IncomingTCP = l.kinds[kindConnIn]
	s.OutgoingTCP = l.kinds[kindConnOut]
	s.OpenDNSQueries += l.kinds[kindLookup]
	s.OutgoingHTTP = l.kinds[kindHTTPClient]
	s.Listeners = l.kinds[kindListener] + l.kinds[kindHTTPServer]
	s.Signals = l.kinds[kindSignal]
	s.Tasks = l.kinds[kindTask]
	s.Work = l.kinds[kindWork]
	s.Futures = l.kinds[kindFuture]
	s.Receivers = l.kinds[kindReceiver]
	s.Senders = l.kinds[kindSender]
	s.Busy, s.Idle = l.busy, l.idle
	s.QueuePeak, s.IterationsTotal = l.queuePeak, l.turns
	l.addCurrent(&s)
	return s
}

func (c *counters) addHTTP(s *Stats) {
	settled := c.httpSettled.Load() // first, so as not to exceed the requests
	s.HTTPRequestsTotal = c.httpRequests.Load()
	s.IncomingHTTP = int(s.HTTPRequestsTotal - settled)
	s.HTTPConns = int(c.httpConns.Load())
	s.HTTP1xxTotal = c.httpAnswers[1].Load()
	s.HTTP2xxTotal = c.httpAnswers[2].Load()
	s.HTTP3xxTotal = c.httpAnswers[3].Load()
	s.HTTP4xxTotal = c.httpAnswers[4].Load()
	s.HTTP5xxTotal = c.httpAnswers[5].Load()
	s.HTTPAbortsTotal = c.httpAborts.Load()
	s.HTTPDroppedTotal = c.httpDropped.Load()
	s.HTTPBytesInTotal = c.httpBytesIn.Load()
	s.HTTPBytesOutTotal = c.httpBytesOut.Load()
}

// queuedPosts returns how many posts have not run yet. On the loop that is exact;
// elsewhere those of the turn that goes on count as if it had just begun. The
// caller holds l.mu.
func (l *Loop) queuedPosts() int {
	if l.onLoop() {
		return l.posts.Len() + l.batch.Len()
	}
	return l.posts.Len() + l.taken
}

// dueTimers calls yield for the timers that are still to be fired in this turn.
// Only the loop itself can see them. The caller holds l.mu.
func (l *Loop) dueTimers(yield func(t *Timer) bool) {
	if !l.onLoop() {
		return
	}
	for _, t := range l.due {
		if t != nil && t.state == timerDue && !yield(t) {
			return
		}
	}
}

// addCurrent adds the time since the dispatcher went to sleep or woke up, so
// that a loop in a long callback does not look idle. The caller holds l.mu.
func (l *Loop) addCurrent(s *Stats) {
	if l.state != stateRunning {
		return
	}
	now := l.now()
	if since := now - s.Busy - s.Idle; since > 0 {
		if l.sleeping {
			s.Idle += since
		} else {
			s.Busy += since
		}
	}
}
