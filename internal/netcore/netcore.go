// Package netcore moves the bytes of one connection: a TCP or unix socket, TLS on top of
// either, or any other net.Conn. It depends on no event loop and no protocol.
//
// Up to three parties work on a connection:
//
//   - Its goroutine. Only this goroutine reads, performs handshakes, and closes the
//     descriptor, so no other party ever uses a closed descriptor. While it waits for
//     the peer it holds no buffer. On Linux, an idle socket has no goroutine: see Poller.
//   - A writer, which passes output to the kernel. It is a job of a pool whose goroutines
//     never wait. When the kernel accepts no more, a separate goroutine, which may wait,
//     takes over until everything is written. There is never more than one writer.
//   - Other goroutines, which append output, leave requests for the connection's
//     goroutine, and call Wake.
//
// The connection's goroutine calls Read, which waits until there is input or until Wake.
// It may parse the input itself or pass it to another goroutine.
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

// A Host provides the services that connections need, such as goroutines.
type Host interface {
	// Go runs f on a new goroutine. The host waits for it when it ends.
	Go(f func())

	// Aside calls f, which may run foreign code, on a separate goroutine, and returns its
	// error. A panic or runtime.Goexit is an error, too. When the host ends, Aside may
	// return an error before f has returned.
	Aside(f func() error) error

	// Enqueue arranges for Flush of job to be called soon, on a goroutine that must
	// not wait. Enqueue itself never waits.
	Enqueue(job writers.Job)

	// CloseAside closes a net.Conn on a separate goroutine, because Close may wait. With
	// reset, it calls SetReset first.
	CloseAside(nc net.Conn, reset bool)

	// Recovered converts the value of a recovered panic of foreign code into an
	// error. Nil means that the code called runtime.Goexit.
	Recovered(v any) error

	// Poller returns the poller for idle connections, always the same one. With nil,
	// idle connections keep their goroutines.
	Poller() *Poller
}

// A User is the owner of a connection. It is notified of the progress of output.
type User interface {
	Host

	// Sent is called by the writer, with the lock held, when the kernel has accepted n
	// bytes of the user's output. all means that no output is left. Sent returns true if
	// the writer must call Report.
	Sent(n int, all bool) (report bool)

	// Report is called by the writer, without the lock, after Sent has returned true.
	// The state of the output is still writing, so the connection cannot be closed
	// meanwhile.
	Report()

	// WriteFailed is called by the writer, once and without the lock, when output
	// cannot be written. The unsent output is dropped.
	WriteFailed(err error)

	// Serve is called on the goroutine of a connection that is new or was parked, when
	// it may have work to do. Serve checks all requests for the goroutine, and returns
	// when the connection is parked or has ended.
	Serve()
}

// Errors of Read, Watch and Handshake.
var (
	// ErrWoken is returned to the connection's goroutine after Wake.
	ErrWoken = errors.New("netcore: woken")

	// ErrTruncated reports that a TLS peer ended the connection without close_notify,
	// so bytes may be missing (RFC 8446, section 6.1).
	ErrTruncated error = truncated{}

	// ErrFlood reports that a TLS peer caused output of the TLS layer, for example by
	// KeyUpdates, and did not read it.
	ErrFlood = errors.New("tls: the peer asks for replies and does not read them")
)

// outputState is the state of the output.
type outputState uint8

const (
	outputIdle    outputState = iota // no output, or sending is not allowed
	outputQueued                     // a job waits in the pool
	outputWriting                    // a writer of the pool owns it
	outputBlocked                    // a goroutine that may wait owns it
)

// streamState is the state of the stream to the peer.
type streamState uint8

const (
	streamOpen   streamState = iota
	streamEnding             // EndOutput was called
	streamEnded              // the end was sent
)

// closingState is the state of closing the connection.
type closingState uint8

const (
	notClosing     closingState = iota
	closing                     // Closing was called
	closingQuietly              // ClosingQuietly was called, and the goroutine stays in Read
)

// A Conn is a connection. The user calls Init first, and Attach when it has a net.Conn.
// The lock guards the output, and may also guard state of the user. The comment of a
// method states if the caller must hold the lock; other methods take it themselves.
type Conn struct {
	sync.Mutex
	user User
	run  atomic.Pointer[runner] // nil: the connection is parked

	// Set by Attach, before anything is read or written.
	nc net.Conn
	rc syscall.RawConn // nil: nc is not a socket of package net
	fd int32           // the descriptor, for writers, if no other code can close it; or -1

	expectsNoInput atomic.Bool   // ExpectNoInput was called, and nothing was written since; set with the lock held
	place          atomic.Uint32 // where the goroutine waits, see placeRunning
	woken          atomic.Bool   // Wake was called, and the goroutine has not noticed it yet

	// The order of the fields below avoids padding: there are many idle connections.

	deadlineMu       sync.Mutex    // guards the next four
	deadline         time.Duration // for reading, since epoch; 0: none
	interrupted      bool          // a read deadline in the past is set
	alarm            bool          // the read deadline of wakeIn is set
	ignoresDeadlines bool          // read deadlines have no effect

	// Guarded by the lock.
	up      bool // Open was called: the user's output may be sent
	paused  bool // PauseOutput
	cut     bool // output is discarded
	reset   bool // closing resets the connection
	shut    bool // the socket's own side is shut down
	output  outputState
	stream  streamState
	closing closingState

	finished       bool // the goroutine no longer uses the connection
	bounded        bool // nc has a write deadline
	writersBlocked bool // the goroutine reads input that may be unsolicited: no writer may start

	// Owned by the connection's goroutine, or by the goroutine that resumes the
	// connection.
	staysAwake bool   // the connection is never parked
	chunks     uint8  // number of chunks that a worker has read since the last event
	slot       int32  // in the poller; -1: none. Changed with the poller's lock held, for bound
	lastEvent  uint32 // time of the poller's last event, in ms since epoch

	// Guarded by the lock.
	out   sockio.Queue // bytes for the wire
	stall time.Duration
	x     *extra // nil if none of its fields is needed
	sec   *secure
}

// An extra holds the fields that few connections need: connections that wait for the
// peer to receive output, have failed, are being closed, or need a slowPath. The lock of
// the connection guards it.
type extra struct {
	blocked  *blockedWriter // the writer in the state outputBlocked
	slow     *slowPath      // set by Attach
	since    time.Duration  // since epoch, when ClosingQuietly began to wait for the peer's end
	patience time.Duration  // see SetPatience
	lost     int64          // bytes of the user's output that were dropped
	cause    error          // why output that the kernel had accepted was lost
	werr     error          // why writing failed
}

// A runner holds the fields that only a connection with a goroutine needs.
type runner struct {
	c    *Conn
	wake chan struct{} // one slot
	try  func(fd uintptr) bool

	// Guarded by the lock of the poller.
	list          *runnerList // nil: sweeps ignore the connection
	after, before *runner
	quiet         int // number of sweeps in a row that found it in the same wait

	// Owned by the connection's goroutine.
	worker  *worker // serves the connection briefly, and must not wait; or nil
	tls     *tls.Conn
	sec     *secure
	watch   bool  // try looks for a failure and does not read
	forEnd  bool  // try also looks for the peer's end
	skipped int64 // bytes that Finish has dropped
	readErr error // why Finish stopped reading, if not io.EOF
	size    int   // of the next read
	buf     *sockio.Buffer
	err     error
}

// A slowPath holds the fields that a connection needs if nc is not a socket of package
// net, or if other code can close it.
type slowPath struct {
	probe syscall.RawConn         // asks for acknowledgements, if there is no Conn.rc
	guard *time.Timer             // closes nc if its deadlines have no effect
	idle  int                     // ticks of the guard without output
	space [sockio.MaxViews][]byte // for rawWrite
	views int
	n     int
	errno syscall.Errno
	write func(fd uintptr) bool
}

// Init prepares a connection. Output may be appended afterwards; it is sent once the
// connection is open.
func (c *Conn) Init(user User) {
	c.user, c.fd, c.slot = user, -1, -1
	c.run.Store(newRunner(c))
}

func newRunner(c *Conn) *runner {
	r := &runner{c: c, wake: make(chan struct{}, 1)}
	r.try = r.tryFD
	return r
}

// Attach gives the connection its net.Conn. ours means that no other code can close nc,
// so writers may use the descriptor directly.
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
	c.start() // sends output of TLS; the user's output waits for Open
}

// Open starts to send the user's output. It is called after Attach, or with TLS after
// Handshake.
func (c *Conn) Open() {
	c.Lock()
	defer c.Unlock()
	c.up = true
	if c.sec != nil {
		c.sec.open = c.sec.tls != nil
	}
	c.start()
}

// NetConn returns the attached net.Conn, or nil. The caller holds the lock.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Raw reports whether reads and writes use the descriptor directly. Otherwise a reset is
// not noticed while nothing is read.
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

// CanEndOutput reports whether the connection supports half-close. The caller holds the
// lock.
func (c *Conn) CanEndOutput() bool {
	_, ok := c.nc.(closeWriter)
	return ok || c.sec != nil
}

type closeWriter interface{ CloseWrite() error }

// control calls f with the descriptor. It returns false if there is none or it is closed.
func (c *Conn) control(f func(fd uintptr)) bool {
	return c.rc != nil && c.rc.Control(f) == nil
}

// probe returns the number of bytes of output that the peer's kernel has not
// acknowledged. ok is false if the number is unknown.
func (c *Conn) probe() (n int, ok bool) {
	told := c.probeFD(func(fd uintptr) { n, ok = unacked(fd) })
	return n, ok && told
}

// slow returns the slowPath, or nil. The caller holds the lock.
func (c *Conn) slow() *slowPath {
	if c.x == nil {
		return nil
	}
	return c.x.slow
}

// probeFD is control for calls that only ask for acknowledgements. The caller holds the
// lock.
func (c *Conn) probeFD(f func(fd uintptr)) bool {
	rc := c.rc
	if s := c.slow(); s != nil && s.probe != nil {
		rc = s.probe
	}
	return rc != nil && rc.Control(f) == nil
}

// HasInput reports whether there is input to read: bytes, an end or an error. It returns
// false if that is unknown.
func (c *Conn) HasInput() (has bool) {
	c.control(func(fd uintptr) { has = hasInput(fd) })
	return has
}

// LastReceived returns when bytes last arrived below TLS; the zero time without TLS.
// The caller holds the lock.
func (c *Conn) LastReceived() time.Time {
	if c.sec == nil {
		return time.Time{}
	}
	return epoch.Add(time.Duration(c.sec.lastReceived.Load()))
}

var epoch = time.Now()

var (
	longAgo    = time.Unix(1, 0)
	noDeadline time.Time
)

// isTimeout reports whether err means that a deadline has passed. ETIMEDOUT does not: it
// means that the peer is gone.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var errno syscall.Errno
	var ne net.Error
	return !errors.As(err, &errno) && errors.As(err, &ne) && ne.Timeout()
}
