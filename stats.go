package eventloop

import (
	"reflect"
	"sync/atomic"
	"time"
)

// Stats is a snapshot of the figures of a loop, in groups. A figure whose name ends in
// Total counts from the beginning; the others are current. The names in parentheses are
// those of cl-async.
type Stats struct {
	// Loop has the figures of the loop itself, and of handles that have no group of their
	// own.
	Loop struct {
		Handles     int // open handles of every kind, as in Loop.Handles (data-registry-count)
		Callbacks   int // waiting callbacks: queued posts and armed timers (fn-registry-count)
		Queued      int // posts and tasks that wait for the dispatcher; exact on the loop
		Timers      int // armed timers and intervals
		Signals     int // signal handlers
		Tasks       int // tasks that have not ended
		Work        int // functions of Work and WorkOn that have not ended
		WorkWaiting int // functions of Work and WorkOn that wait for a free worker
		Futures     int // pending futures that are handles, and unused results of Detach
		Receivers   int // receivers that have not ended
		Senders     int // senders with waiting values
		Readers     int // readers that have not ended
		Pipes       int // pipes that have not ended
		Owners      int // owners, such as the clients of drivers; see Owner

		QueuePeak int           // largest number of posts that waited for one turn
		Busy      time.Duration // time since Run in which the dispatcher worked
		Idle      time.Duration // time since Run in which the dispatcher waited
		LagP50    time.Duration // median lag: how late timers fire, and how long a turn delays later events
		LagP99    time.Duration // 99th percentile of the lag
		LagMax    time.Duration // largest lag

		IterationsTotal uint64 // turns of the loop
		ErrorsTotal     uint64 // events that are errors, not information
		SlowTotal       uint64 // callbacks that took longer than Config.SlowCallback
	}

	// Conns has the figures of listeners and connections. It includes those of HTTP
	// servers only where a comment says so.
	Conns struct {
		Listeners int   // open listeners, including HTTP servers
		Incoming  int   // open connections that were accepted or adopted (incoming-tcp-connections)
		Outgoing  int   // open or connecting dialed connections (outgoing-tcp-connections)
		Parked    int   // open connections that are idle and have no goroutine; only on Linux
		Buffered  int64 // bytes that wait to be written, including HTTP servers

		AcceptedTotal     uint64 // accepted connections, including HTTP servers
		DialedTotal       uint64 // dialed connections, including failed ones
		DroppedTotal      uint64 // connections accepted and closed at once, because the loop ended
		ParkFailuresTotal uint64 // times the kernel had no room to watch an idle connection, which kept its goroutine
		BytesInTotal      uint64 // bytes read, after TLS
		BytesOutTotal     uint64 // bytes written, before TLS
		BytesLostTotal    uint64 // undelivered bytes, except those that Abort discarded, including HTTP servers
	}

	// HTTPServer has the figures of all HTTP servers of the loop.
	HTTPServer struct {
		Conns    int // open connections
		Requests int // requests without a response yet (incoming-http-connections)

		RequestsTotal  uint64 // requests passed to a handler
		Status1xxTotal uint64 // responses with a 1xx status: upgrades
		Status2xxTotal uint64 // responses with a 2xx status: successes
		Status3xxTotal uint64 // responses with a 3xx status: redirects
		Status4xxTotal uint64 // responses with a 4xx status, including requests that the server rejected
		Status5xxTotal uint64 // responses with a 5xx status
		AbortsTotal    uint64 // clients that disconnected before the response was complete
		DroppedTotal   uint64 // connections over HTTPServerConfig.MaxConnsPerIP
		BytesInTotal   uint64 // bytes read, after TLS
		BytesOutTotal  uint64 // bytes written, before TLS
	}

	// HTTPClient has the figures of all HTTP clients of the loop.
	HTTPClient struct {
		Requests int // requests without a response yet (outgoing-http-connections)

		RequestsTotal uint64 // requests
		ReusedTotal   uint64 // requests, including redirected ones, sent on an idle connection
		RetriedTotal  uint64 // requests sent again, because the idle connection was closed
	}

	// DNS has the figures of the resolver.
	DNS struct {
		Lookups      int // names being looked up, including lookups for dials (open-dns-queries)
		CacheEntries int // answers in the cache

		CacheHitsTotal   uint64 // lookups that the cache answered
		CacheMissesTotal uint64 // lookups that neither the cache, nor a file, nor a rule answered
		QueriesTotal     uint64 // queries sent to servers; a lookup may take several
		FailuresTotal    uint64 // queries that got no reply
	}
}

// add adds the figures of another loop. For the peaks and the lags, the larger value
// counts.
func (s *Stats) add(o *Stats) {
	peak, p50 := max(s.Loop.QueuePeak, o.Loop.QueuePeak), max(s.Loop.LagP50, o.Loop.LagP50)
	p99, most := max(s.Loop.LagP99, o.Loop.LagP99), max(s.Loop.LagMax, o.Loop.LagMax)
	sum, other := reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem()
	for i := range sum.NumField() {
		for j := range sum.Field(i).NumField() {
			f, of := sum.Field(i).Field(j), other.Field(i).Field(j)
			if f.CanUint() {
				f.SetUint(f.Uint() + of.Uint())
			} else {
				f.SetInt(f.Int() + of.Int())
			}
		}
	}
	s.Loop.QueuePeak, s.Loop.LagP50, s.Loop.LagP99, s.Loop.LagMax = peak, p50, p99, most
}

// counters are written by many goroutines and read by Stats. The counters that an echo
// changes on the dispatcher are not on the same cache line as the one that the writers
// change, so the cores do not contend for it.
type counters struct {
	accepted    atomic.Uint64
	dialed      atomic.Uint64
	dropped     atomic.Uint64
	errors      atomic.Uint64
	slow        atomic.Uint64
	workWaiting atomic.Int64
	discarded   atomic.Uint64 // bytes that were passed to Write and not sent
	lost        atomic.Uint64 // bytes that were not delivered
	bytesIn     atomic.Uint64
	written     atomic.Uint64 // bytes
	_           [64]byte
	bytesOut    atomic.Uint64
	_           [64]byte

	httpConns     atomic.Int64
	httpAborts    atomic.Uint64
	httpDropped   atomic.Uint64
	httpDiscarded atomic.Uint64 // bytes that were passed to Write and not sent
	_             [64]byte
	httpResponses [6]atomic.Uint64
	httpSettled   atomic.Uint64 // requests that need no response any more
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

// buffered returns the number of bytes that wait to be written.
func (c *counters) buffered() int64 {
	out := c.bytesOut.Load() + c.discarded.Load() // loaded first, so it does not exceed written
	httpOut := c.httpBytesOut.Load() + c.httpDiscarded.Load()
	return int64(c.written.Load() - out + c.httpWritten.Load() - httpOut)
}

// responded counts a response of an HTTP server.
func (c *counters) responded(status int) {
	if class := status / 100; class < len(c.httpResponses) {
		c.httpResponses[class].Add(1)
	}
}

// Stats returns a snapshot of the loop's figures (stats). It may be called from any
// goroutine at any time. It takes a few microseconds, most of them for the lag.
func (l *Loop) Stats() Stats {
	c := &l.count
	lag := l.lag.Quantiles(0.5, 0.99)
	var s Stats
	s.Loop.LagP50, s.Loop.LagP99, s.Loop.LagMax = lag[0], lag[1], l.lag.Max()
	s.Loop.ErrorsTotal = c.errors.Load()
	s.Loop.SlowTotal = c.slow.Load()
	s.Loop.WorkWaiting = int(c.workWaiting.Load())
	s.Conns.Buffered = c.buffered()
	s.Conns.BytesInTotal = c.bytesIn.Load()
	s.Conns.BytesOutTotal = c.bytesOut.Load()
	s.Conns.BytesLostTotal = c.lost.Load()
	s.Conns.AcceptedTotal = c.accepted.Load()
	s.Conns.DialedTotal = c.dialed.Load()
	s.Conns.DroppedTotal = c.dropped.Load()
	s.Conns.Parked, s.Conns.ParkFailuresTotal = l.poller.Parked(), l.poller.Failed()
	s.HTTPClient.RequestsTotal = c.httpSent.Load()
	s.HTTPClient.ReusedTotal = c.httpReused.Load()
	s.HTTPClient.RetriedTotal = c.httpRetried.Load()
	c.addHTTP(&s)
	l.names.stats(&s)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Loop.Timers = l.timers.Len()
	for range l.dueTimers {
		s.Loop.Timers++
	}
	posts := l.queuedPosts()
	s.Loop.Queued = posts + len(l.tasks)
	s.Loop.Callbacks = posts + s.Loop.Timers
	s.Loop.Handles = l.handles.len + s.Loop.Timers
	s.Conns.Incoming = l.kinds[kindConnIn]
	s.Conns.Outgoing = l.kinds[kindConnOut]
	s.DNS.Lookups += l.kinds[kindLookup]
	s.HTTPClient.Requests = l.kinds[kindHTTPClient]
	s.Conns.Listeners = l.kinds[kindListener] + l.kinds[kindHTTPServer]
	s.Loop.Signals = l.kinds[kindSignal]
	s.Loop.Tasks = l.kinds[kindTask]
	s.Loop.Work = l.kinds[kindWork]
	s.Loop.Futures = l.kinds[kindFuture]
	s.Loop.Receivers = l.kinds[kindReceiver]
	s.Loop.Senders = l.kinds[kindSender]
	s.Loop.Readers = l.kinds[kindReader]
	s.Loop.Pipes = l.kinds[kindPipe]
	s.Loop.Owners = l.kinds[kindOwner]
	s.Loop.Busy, s.Loop.Idle = l.busy, l.idle
	s.Loop.QueuePeak, s.Loop.IterationsTotal = l.queuePeak, l.turns
	l.addCurrent(&s)
	return s
}

func (c *counters) addHTTP(s *Stats) {
	settled := c.httpSettled.Load() // loaded first, so it does not exceed the requests
	s.HTTPServer.RequestsTotal = c.httpRequests.Load()
	s.HTTPServer.Requests = int(s.HTTPServer.RequestsTotal - settled)
	s.HTTPServer.Conns = int(c.httpConns.Load())
	s.HTTPServer.Status1xxTotal = c.httpResponses[1].Load()
	s.HTTPServer.Status2xxTotal = c.httpResponses[2].Load()
	s.HTTPServer.Status3xxTotal = c.httpResponses[3].Load()
	s.HTTPServer.Status4xxTotal = c.httpResponses[4].Load()
	s.HTTPServer.Status5xxTotal = c.httpResponses[5].Load()
	s.HTTPServer.AbortsTotal = c.httpAborts.Load()
	s.HTTPServer.DroppedTotal = c.httpDropped.Load()
	s.HTTPServer.BytesInTotal = c.httpBytesIn.Load()
	s.HTTPServer.BytesOutTotal = c.httpBytesOut.Load()
}

// queuedPosts returns the number of posts that have not run yet. On the loop the number is
// exact; elsewhere it includes the posts that have already run in the current turn. The
// caller holds l.mu.
func (l *Loop) queuedPosts() int {
	if l.onLoop() {
		return l.posts.Len() + l.batch.Len()
	}
	return l.posts.Len() + l.taken
}

// dueTimers yields the timers that are due in this turn and have not fired yet. Off the
// loop it yields none, because l.due belongs to the loop. The caller holds l.mu.
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

// addCurrent adds the time since the dispatcher went to sleep or woke up, so that a loop in
// a long callback does not look idle. The caller holds l.mu.
func (l *Loop) addCurrent(s *Stats) {
	if l.state != stateRunning {
		return
	}
	now := l.now()
	if since := now - s.Loop.Busy - s.Loop.Idle; since > 0 {
		if l.sleeping {
			s.Loop.Idle += since
		} else {
			s.Loop.Busy += since
		}
	}
}
