// Package netcore moves the bytes of one connection: a TCP or unix socket, TLS on
// top of either, or any net.Conn. It knows no event loop and no protocol.
//
// Up to three parties work on a connection:
//
//   - its goroutine, the only one that reads, performs handshakes, and closes the
//     descriptor, so that no other party ever uses a descriptor that is closed.
//     While it waits for the peer it holds no buffer. On Linux a socket has it only
//     while it needs one: see Poller;
//   - a writer, which hands output to the kernel. It is a job of a pool that never
//     waits. When the kernel takes no more, a goroutine of its own, which may wait,
//     takes over until all is written. There is never more than one writer;
//   - other goroutines, which append output, leave orders, and call Wake.
//
// A connection is pulled from: its goroutine calls Read, which waits until there is
// input or until Wake. What the caller does with the input, parse it on the spot or
// hand it to another goroutine, is its own affair.
package netcore

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
	"github.com/onloop/eventloop/internal/writers"
)

// A Host is what connections need of their surroundings.
type Host interface {
	// Go runs f on a goroutine that the host waits for at its end.
	Go(f func())

	// Enqueue has the Flush of job called soon, by a goroutine that must not be
	// made to wait. Enqueue itself never waits.
	Enqueue(job writers.Job)

	// CloseAside closes a net.Conn on a goroutine of its own: it may wait.
	CloseAside(nc net.Conn)

	// Recovered turns what a panic of foreign code left into an error; nil means
	// that the code called runtime.Goexit.
	Recovered(v any) error

	// Poller returns what waits in the place of connections that are quiet, always
	// the same; nil lets connections keep their goroutines.
	Poller() *Poller
}

// A User is what a connection belongs to. It is told how output fares.
type User interface {
	Host

	// Sent is called by the writer, with the lock held, when the kernel has taken n
	// bytes of the user's output; all says that nothing is left to write. It reports
	// whether Report is to be called.
	Sent(n int, all bool) (report bool)

	// Report is called by the writer after Sent asked for it, without the lock. The
	// connection counts as being written meanwhile, so it cannot be closed.
	Report()

	// WriteFailed is called by the writer, once and without the lock, when output
	// cannot be written. What is left of it is dropped.
	WriteFailed(err error)

	// Serve is called on the goroutine of a connection that has been parked, or is
	// new, when there may be something to do. It looks at every order, and returns
	// when the connection is parked or at its end.
	Serve()
}

// Errors of Read, Watch and Handshake.
var (
	// ErrWoken is returned to the connection's goroutine after Wake.
	ErrWoken = errors.New("netcore: woken")

	// ErrTruncated says that a TLS peer ended the connection without close_notify,
	// so bytes may be missing (RFC 8446, section 6.1).
	ErrTruncated error = truncated{}

	// ErrFlood says that a TLS peer caused output of TLS itself, by KeyUpdates for
	// example, and did not read it.
	ErrFlood = errors.New("tls: the peer asks for replies and does not read them")
)

// outputState is what a writer is doing.
type outputState uint8

const (
	outputIdle    outputState = iota // nothing to do, or nothing may be done
	outputQueued                     // a job waits in the pool
	outputWriting                    // a writer of the pool has it
	outputBlocked                    // so has a goroutine that may wait
)

// streamState is how far the end of the stream to the peer is.
type streamState uint8

const (
	streamOpen   streamState = iota
	streamEnding             // EndOutput was called
	streamEnded              // and carried out
)

// closingState says whether the connection is about to be ended.
type closingState uint8

const (
	notClosing     closingState = iota
	closing                     // Closing was called
	closingQuietly              // ClosingQuietly was called, and the goroutine is left in Read
)

// A Conn is a connection. Init comes first, then Attach when there is something to
// be attached to. Its lock guards its output and may guard state of its user, too:
// methods that say so expect the caller to hold it, others take it themselves.
type Conn struct {
	sync.Mutex
	user User
	run  atomic.Pointer[runner] // nil: it is parked

	// Set by Attach, before anything is read or written.
	nc net.Conn
	rc syscall.RawConn // nil: nc is no socket of package net
	fd int32           // the descriptor, for writers, if no other code can close it; or -1

	unasked atomic.Bool   // Unasked was called, and nothing was written since; set with the lock held
	place   atomic.Uint32 // where the goroutine is
	woken   atomic.Bool   // Wake was called since the goroutine last heard of it

	// The order of the fields from here on leaves no gaps: idle connections are many.

	pokeMu   sync.Mutex    // guards the next four
	deadline time.Duration // for reading, since epoch; 0: none
	poked    bool          // a read deadline in the past is set
	alarm    bool          // so is that of wakeIn
	deaf     bool          // read deadlines have no effect

	// Guarded by the lock.
	up      bool // Open was called: the user's output may be sent
	paused  bool // PauseOutput
	cut     bool // output is discarded
	reset   bool // and the peer is to see a reset
	shut    bool // the socket's own side is shut down
	output  outputState
	stream  streamState
	closing closingState

	finished bool // the goroutine is done with the connection
	bounded  bool // nc has a write deadline
	hearing  bool // the goroutine reads what may be unasked: no writer may begin

	// Of the connection's goroutine, or of the one that resumes it.
	staysAwake bool   // never to be parked
	chunks     uint8  // that a worker has read since the last event
	slot       int32  // of the poller; -1: none
	lastEvent  uint32 // when the poller reported one, in ms since epoch

	// Guarded by the lock.
	out   sockio.Queue // bytes for the wire
	stall time.Duration
	x     *extra // nil: there is nothing of the kind
	sec   *secure
}

// An extra is what only connections need that wait for the peer to take output, have
// failed, are being ended, or are not wholly ours. Guarded by the lock of the connection.
type extra struct {
	blocked  *blockedWriter // of the writer in the state outputBlocked
	slow     *slowPath      // set by Attach
	since    time.Duration  // since epoch, when ClosingQuietly began to wait for the peer's end
	patience time.Duration  // see SetPatience
	lost     int64          // bytes of the user's output that were dropped
	cause    error          // of the loss of what the kernel had taken
	werr     error          // why writing failed
}

// A runner is what only a connection with a goroutine needs.
type runner struct {
	c    *Conn
	wake chan struct{} // one slot
	try  func(fd uintptr) bool

	// Guarded by the lock of the poller.
	list          *runnerList // nil: sweeps do not look at it
	after, before *runner
	quiet         int // sweeps in a row that found it in the same wait

	// Of the connection's goroutine.
	worker  *worker // that has the connection for a moment, and must not wait; or nil
	tls     *tls.Conn
	sec     *secure
	watch   bool  // try is to look for a failure, not to read
	forEnd  bool  // and for the peer's end
	skipped int64 // bytes that Finish has dropped
	broke   error // why they ended, other than io.EOF
	size    int   // of the next read
	buf     *sockio.Buffer
	err     error
}

// A slowPath is what only connections need that are not wholly ours.
type slowPath struct {
	probe syscall.RawConn         // of nc for acknowledgements, if there is no Conn.rc
	guard *time.Timer             // ends what deadlines do not
	idle  int                     // ticks of the guard without output
	space [sockio.MaxViews][]byte // for rawWrite
	views int
	n     int
	errno syscall.Errno
	write func(fd uintptr) bool
}

// Init prepares a connection, for output that is to be sent once it is up.
func (c *Conn) Init(user User) {
	c.user, c.fd, c.slot = user, -1, -1
	c.run.Store(newRunner(c))
}

func newRunner(c *Conn) *runner {
	r := &runner{c: c, wake: make(chan struct{}, 1)}
	r.try = r.tryFD
	return r
}

// Attach gives the connection what it is to move bytes with. ours says that no
// other code can close nc, so that its descriptor may be written to without asking.
func (c *Conn) Attach(nc net.Conn, ours bool) {
	c.Lock()
	defer c.Unlock()
	c.nc = nc
	rc, ok := sockio.Descriptor(nc)
	switch {
	case !ok:
		s := &slowPath{}
		s.probe, _ = sockio.Probe(nc)
		c.extra().slow = s
	case ours:
		c.rc = rc
		rc.Control(func(fd uintptr) { c.fd = int32(fd) })
	default:
		c.rc = rc
		c.extra().slow = newSlowPath()
	}
	c.start() // of TLS: the user's own output waits for Open
}

// Open lets the user's output go: after Attach, or with TLS after Handshake.
func (c *Conn) Open() {
	c.Lock()
	defer c.Unlock()
	c.up = true
	if c.sec != nil {
		c.sec.open = c.sec.tls != nil
	}
	c.start()
}

// NetConn returns what was attached, or nil. The caller holds the lock.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Raw reports whether reads and writes go to the descriptor. Only then are resets
// noticed while nothing is read.
func (c *Conn) Raw() bool { return c.rc != nil }

// TLS returns the TLS connection once the handshake is done, or nil. The caller
// holds the lock.
func (c *Conn) TLS() *tls.Conn {
	if c.sec != nil {
		return c.sec.tls
	}
	t, _ := c.nc.(*tls.Conn)
	return t
}

// CanEndOutput reports whether the connection has a half-close. The caller holds
// the lock.
func (c *Conn) CanEndOutput() bool {
	_, ok := c.nc.(closeWriter)
	return ok || c.sec != nil
}

type closeWriter interface{ CloseWrite() error }

// control calls f with the descriptor, and reports whether it could.
func (c *Conn) control(f func(fd uintptr)) bool {
	return c.rc != nil && c.rc.Control(f) == nil
}

// probe returns how many bytes of output the peer's kernel has not acknowledged; ok is
// false if that cannot be told.
func (c *Conn) probe() (n int, ok bool) {
	told := c.probeFD(func(fd uintptr) { n, ok = unacked(fd) })
	return n, ok && told
}

// slow returns what a connection needs that is not wholly ours, or nil. The caller holds
// the lock.
func (c *Conn) slow() *slowPath {
	if c.x == nil {
		return nil
	}
	return c.x.slow
}

// probeFD is control for what only asks for acknowledgements. The caller holds the lock.
func (c *Conn) probeFD(f func(fd uintptr)) bool {
	rc := c.rc
	if s := c.slow(); s != nil && s.probe != nil {
		rc = s.probe
	}
	return rc != nil && rc.Control(f) == nil
}

// HasInput reports whether something is there to be read: bytes, an end or an
// error. It is false if that cannot be told.
func (c *Conn) HasInput() (has bool) {
	c.control(func(fd uintptr) { has = !sockio.Quiet(fd) })
	return has
}

// LastHeard returns when bytes last arrived below TLS; the zero time without TLS.
// The caller holds the lock.
func (c *Conn) LastHeard() time.Time {
	if c.sec == nil {
		return time.Time{}
	}
	return epoch.Add(time.Duration(c.sec.heard.Load()))
}

var epoch = time.Now()

var (
	longAgo    = time.Unix(1, 0)
	noDeadline time.Time
)

// isTimeout reports whether err is that of a deadline. ETIMEDOUT is not: the peer
// is gone.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var errno syscall.Errno
	var ne net.Error
	return !errors.As(err, &errno) && errors.As(err, &ne) && ne.Timeout()
}
