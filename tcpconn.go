package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// A ConnConfig holds the callbacks and settings of a connection, or of all
// connections of a listener. It is copied. The zero ConnConfig, and nil where a
// *ConnConfig is asked for, drop what arrives and have no timeouts.
//
// All callbacks are called on the loop, one at a time. The order for each
// connection is: OnConnect, then any number of OnData, OnDrain and OnEvent, then
// OnClose, exactly once and last. A connection that could not be dialled gets
// OnEvent and OnClose only. Once Close or Abort has returned on the loop, only
// OnClose is still called.
type ConnConfig struct {
	// OnConnect is called once, when the connection is up: dialled, accepted or
	// adopted, and with TLS after the handshake (connect-cb).
	OnConnect func(c *Conn)

	// OnData is called each time bytes arrive (read-cb). data is valid until
	// OnData returns, which may change it; under the race detector it is then
	// overwritten, so that keeping it shows. If nil, what arrives is read and
	// dropped. While the loop has tasks, however, which may be about to ask for a
	// Stream, the first of it waits for them, for up to a second.
	OnData func(c *Conn, data []byte)

	// OnDrain is called each time that all that was written has been handed to
	// the kernel, or to TLS (write-cb). It belongs to the connection, not to a
	// Write: many writes may lead to one call. See Conn.Flushed for one write.
	OnDrain func(c *Conn)

	// OnEvent is called when the peer ended its side (io.EOF), reset the
	// connection ([ErrReset]), or when something failed; all but io.EOF are an
	// [*OpError] or a [*PanicError] (event-cb). The connection can still be
	// inspected then, and after io.EOF be written to. When OnEvent returns, the
	// connection is closed: after io.EOF as by Close, unless AllowHalfOpen is
	// set, otherwise as by Abort, so that the peer does not take what it has got
	// for all of it. At most one error is delivered. If OnEvent is nil the event
	// goes to Config.EventHandler.
	OnEvent func(c *Conn, err error)

	// OnClose is called once, last, when the descriptor is closed. Conn.Err says
	// why.
	OnClose func(c *Conn)

	// Task runs as a task of its own, after OnConnect, when the connection is up. It
	// reads and writes with [Conn.Stream], or writes with Conn.Write. When it returns,
	// the connection is closed as by Close, or if it panics (with Config.CatchPanics)
	// as by Abort. An error that it returns goes to OnEvent, or if the connection is
	// closed already to Config.EventHandler, as an [*OpError] with the address of the
	// peer. The ordinary ends of a connection, information (see [IsInfo]) and
	// net.ErrClosed, are not reported. The context of the task ends with the loop.
	Task func(t *Task, c *Conn) error

	// TLS, if not nil, makes the connection a TLS connection: a client when it
	// is dialled, a server when it is accepted. If ServerName is empty a client
	// uses the host that it dials. The peer is verified unless the tls.Config
	// says otherwise.
	TLS *tls.Config

	// ConnectTimeout bounds Dial, name lookup included, and each TLS handshake.
	// If zero, ReadTimeout is used; if that is zero too, a handshake gets 10 s
	// and Dial as long as the kernel tries. Negative: no bound.
	ConnectTimeout time.Duration

	// ReadTimeout ends the connection with [ErrTimeout] when nothing arrived for
	// so long. It does not run while reading is paused. Zero or negative: none.
	ReadTimeout time.Duration

	// WriteTimeout ends the connection with [ErrTimeout] when output is pending
	// and the peer took none of it for so long. It does not run while writing is
	// paused. Zero or negative: none. It also bounds the flush of Close, which
	// otherwise gets 5 s.
	WriteTimeout time.Duration

	// ReadBufferSize bounds the data of one OnData, in bytes; at most 64 KB,
	// which is also the default.
	ReadBufferSize int

	// HighWater is the number of pending bytes of output over which the
	// connection stops reading, until half of them are gone, so that a peer that
	// sends and never reads cannot fill the memory. Conn.NeedDrain tells of it.
	// Zero: 256 KB, or half of MaxBuffered if that is less. Negative: never.
	HighWater int

	// MaxBuffered bounds the pending bytes of output: a Write that would pass it
	// returns [ErrBufferFull], and a Pipe into the connection waits, whatever
	// HighWater is, when it has passed it by one read of its source. Zero: 64 MB.
	// Negative: no bound.
	MaxBuffered int

	// KeepAlive configures the probes of TCP. The zero value means those of
	// package net: every 15 s. To switch them off set Idle to a negative value.
	KeepAlive net.KeepAliveConfig

	// Delay leaves Nagle's algorithm on. By default small segments are sent at
	// once, as in package net.
	Delay bool

	// Server makes an adopted connection the server of TLS.
	Server bool

	// AllowHalfOpen keeps a connection open after io.EOF, until it is closed or
	// CloseWrite has ended the other direction too.
	AllowHalfOpen bool

	// LocalAddr is the address to dial from; nil: any.
	LocalAddr net.Addr
}

const (
	defaultHighWater   = 256 << 10
	defaultMaxBuffered = 64 << 20
	handshakeTimeout   = 10 * time.Second
	flushTimeout       = 5 * time.Second // of Close, without a WriteTimeout
	lingerTimeout      = time.Second     // for the peer's FIN, after ours
)

// withDefaults returns a copy of cfg in which defaults are resolved and what is
// switched off is zero.
func (cfg *ConnConfig) withDefaults() *ConnConfig {
	c := ConnConfig{}
	if cfg != nil {
		c = *cfg
	}
	c.ReadTimeout = max(c.ReadTimeout, 0)
	c.WriteTimeout = max(c.WriteTimeout, 0)
	if c.ReadBufferSize <= 0 || c.ReadBufferSize > sockio.MaxBuffer {
		c.ReadBufferSize = sockio.MaxBuffer
	}
	c.MaxBuffered = limit(c.MaxBuffered, defaultMaxBuffered)
	c.HighWater = limit(c.HighWater, min(defaultHighWater, c.MaxBuffered/2))
	return &c
}

// mark is the number of pending bytes over which producers are to wait.
func (cfg *ConnConfig) mark() int { return min(cfg.HighWater, cfg.MaxBuffered) }

// pausesReads reports whether a connection whose output is over the mark stops
// reading. If HighWater is not the mark, only a pipe can get there.
func (cfg *ConnConfig) pausesReads() bool { return cfg.HighWater <= cfg.MaxBuffered }

// limit resolves a limit of which zero is the default and negative is none.
func limit(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return int(^uint(0) >> 1)
	}
	return n
}

// A Conn is a connection of a loop: TCP or unix, in the clear or with TLS, or any
// net.Conn. It is made by [Loop.Dial], by [Loop.Adopt] or by a listener, and
// keeps the loop alive until OnClose, unless it is unref'd.
//
// All methods may be called from any goroutine and from any callback; none of
// them waits for the network.
type Conn struct {
	handle

	listener *Listener                  // that accepted it, or nil
	back     chan struct{}              // wakes the connection's goroutine; one slot
	cfg      atomic.Pointer[ConnConfig] // replaced as a whole by SetCallbacks
	quit     atomic.Bool                // closing: no callback but OnClose
	holding  atomic.Bool                // the dispatcher has the chunk
	waiting  atomic.Bool                // the goroutine waits on back
	pauses   atomic.Uint32              // pauseBits, changed under mu

	x atomic.Pointer[connExtra] // made under mu when it is needed

	// Set before the connection's goroutine starts, and by StartTLS.
	rc syscall.RawConn // nil: read and write through nc
	fd int32           // descriptor to write to directly, or -1

	// Of the connection's goroutine; of the dispatcher while holding is set.
	class   uint8 // size of the next read, see nextRead
	chunk   *sockio.Buffer
	readErr error // why reading ended

	// Only on the loop.
	why    error // for Err; written under mu too
	ended  bool  // readErr has arrived
	failed bool  // an error was delivered

	mu    sync.Mutex // guards the following
	flags connFlags
	nc    net.Conn // nil until the connection is up
	out   sockio.Queue
	werr  error // of a write
	data  any
}

// connFlags are the small facts about a connection.
type connFlags uint32

const (
	flagUp          connFlags = 1 << iota // nc is there
	flagWriting                           // a writer has the output, or will have it
	flagClosing                           // Close, Abort, or the library did
	flagCut                               // output is discarded
	flagShut                              // CloseWrite was called
	flagShutDone                          // and was carried out
	flagEOF                               // the peer's end has been read
	flagGate                              // output waits: TLS is being started
	flagDrainSent                         // a drainTask is on its way
	flagWrote                             // something was written since the last OnDrain
	flagHeld                              // a chunk waits for the end of a pause
	flagEndHeld                           // so does the end of reading
	flagReset                             // Abort: tell the peer by a reset
	flagDetach                            // hand out nc instead of closing it
	flagGone                              // the descriptor is closed
	flagSink                              // a sink has the data, see connExtra.sink
	flagBlocked                           // the writer is a goroutine that may block
	flagBounded                           // and nc has a write deadline for it
	flagDeaf                              // nc knows no deadlines
	flagLost                              // output was discarded
	flagAnnounced                         // a callback has been called, or would have been
	flagUnannounced                       // it was closed before, and none will be
)

func (f connFlags) has(g connFlags) bool { return f&g != 0 }

// Reasons for not reading, a bit each.
const (
	pauseUser  uint32 = 1 << iota
	pauseHigh         // output over the high-water mark
	pausePipe         // so is the output of what the connection is piped to
	pauseClaim        // nobody takes the data yet

	pauseReads = pauseUser | pauseHigh | pausePipe | pauseClaim
)

// connExtra is what few connections need.
type connExtra struct {
	network, address string   // as dialled
	local, remote    net.Addr // if hasAddrs is set; see Conn.addrs
	hasAddrs         bool
	foreign          net.Conn // nc, or what is below TLS, if it is foreign
	cancel           context.CancelFunc
	connected        *Future[*Conn]
	flushed          []flushWaiter
	written, sent    uint64       // bytes, counted from the first Flushed on
	after            sockio.Queue // output for after StartTLS, see flagGate
	upgrade          *tlsUpgrade
	detached         *Future[net.Conn]
	lastRead         atomic.Int64 // since Run
	timed            atomic.Bool  // there is a readTimer
	readTimer        *Timer
	closeTimer       *Timer        // see boundClose
	readTimeout      time.Duration // of SetTimeouts
	writeTimeout     time.Duration
	ownTimeouts      bool      // SetTimeouts was called
	sink             sink      // takes the data instead of OnData; changed under mu
	onLow            []*onLow  // when the output falls to half of HighWater, and at the end
	unclaimed        *Timer    // ends the wait for somebody to take the data
	write            *rawWrite // of adopted connections
	release          func()    // gives the place in an HTTP server back
}

// An onLow is a function to be posted. It has an identity, so that it can be
// taken away again.
type onLow struct{ f func() }

// A flushWaiter is resolved when pos bytes have been sent.
type flushWaiter struct {
	pos uint64
	f   *Future[struct{}]
}

// A sink takes what arrives instead of the callbacks. On the loop.
type sink interface {
	// chunk takes b over and must lead to Conn.consumed.
	chunk(b *sockio.Buffer)

	// end is told how reading ended, and reports whether it took the event.
	end(err error) bool
}

// setSink changes what takes the data; nil gives it back to the callbacks. The
// caller holds c.mu.
func (c *Conn) setSink(s sink) {
	c.extra().sink = s
	high := c.NeedDrain()
	if s == nil {
		c.flags &^= flagSink
		if high && c.cfg.Load().pausesReads() {
			c.pauses.Store(c.pauses.Load()&^outputHigh | pauseHigh)
		}
		return
	}
	c.flags |= flagSink
	if high {
		c.setPause(outputHigh)
		c.clearPause(pauseHigh)
	}
	c.claim()
}

// sink returns what takes the data, or nil. On the loop.
func (c *Conn) sink() sink {
	x := c.x.Load()
	if x == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return x.sink
}

// removeLow undoes an addition to x.onLow. The caller holds the connection's mu.
func (x *connExtra) removeLow(low *onLow) {
	if i := slices.Index(x.onLow, low); i >= 0 {
		x.onLow = slices.Delete(x.onLow, i, i+1)
	}
}

// postLow tells those who wait for room. The caller holds the connection's mu.
func (x *connExtra) postLow(l *Loop) {
	for _, low := range x.onLow {
		l.Post(low.f)
	}
}

var _ io.StringWriter = (*Conn)(nil)
var _ io.WriteCloser = (*Conn)(nil)

var errUnsupported = errors.ErrUnsupported

// newConn returns a connection that is registered with the loop.
func (l *Loop) newConn(cfg *ConnConfig, k kind, from *Listener) (*Conn, error) {
	c := &Conn{listener: from, back: make(chan struct{}, 1), fd: -1}
	c.cfg.Store(cfg)
	if err := l.register(&c.handle, c, k, false); err != nil {
		return nil, err
	}
	return c, nil
}

// Dial begins to connect to address and returns at once; OnConnect tells when
// the connection is up, OnEvent if it fails (tcp-send). The network is "tcp",
// "tcp4", "tcp6" or "unix". Host names are resolved by the loop's resolver, and
// all their addresses are tried (RFC 8305). Data may be written at once; it is
// sent, in order, when the connection is up. ctx cancels the attempt and has no
// meaning once the connection is up; nil means context.Background.
//
// An unknown network, a malformed address, or a loop that does not run is
// reported by the returned error, and then no callback is called.
func (l *Loop) Dial(ctx context.Context, network, address string, cfg *ConnConfig) (*Conn, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	if err := checkAddress(network, address); err != nil {
		return nil, &OpError{Op: "dial", Net: network, Addr: address, Err: err}
	}
	conf := cfg.withDefaults()
	c, err := l.newConn(conf, kindConnOut, nil)
	if err != nil {
		return nil, err
	}
	l.count.dialed.Add(1)
	ctx, cancel := connectContext(ctx, conf)
	c.mu.Lock()
	x := c.extra()
	x.network, x.address, x.cancel = network, address, cancel
	if c.flags.has(flagClosing) {
		cancel() // the loop ended meanwhile, and found nothing to cancel
	}
	c.mu.Unlock()
	l.wg.Add(1)
	go c.connect(ctx, cancel, network, address)
	return c, nil
}

// checkAddress finds what is wrong with an address without asking anyone.
func checkAddress(network, address string) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "unix":
		if address == "" {
			return &net.AddrError{Err: "missing path", Addr: address}
		}
		return nil
	default:
		return net.UnknownNetworkError(network)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	_, err = ports.LookupPort(context.Background(), network, port)
	return err
}

// ports finds service names without the C library, which may ask a server.
var ports = &net.Resolver{PreferGo: true}

// connectContext bounds a dial by the timeouts of the configuration and by the
// life of the loop's caller.
func connectContext(ctx context.Context, cfg *ConnConfig) (context.Context, context.CancelFunc) {
	d := cfg.ConnectTimeout
	if d == 0 {
		d = cfg.ReadTimeout
	}
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// Adopt takes over nc, a ready connection of an existing service, which must not
// be used by anybody else from then on. OnConnect is called in a later turn. With
// ConnConfig.TLS set, a handshake comes first, as a client unless Server is set.
// On error nc is left alone.
func (l *Loop) Adopt(nc net.Conn, cfg *ConnConfig) (*Conn, error) {
	if nc == nil {
		return nil, errors.New("eventloop: Adopt of a nil connection")
	}
	conf := cfg.withDefaults()
	c, err := l.newConn(conf, kindConnIn, nil)
	if err != nil {
		return nil, err
	}
	if !isForeign(nc) {
		c.setAddrs(nc.LocalAddr(), nc.RemoteAddr())
	}
	l.wg.Add(1)
	go c.handshakeAndServe(nc, conf.TLS, !conf.Server, false)
	return c, nil
}

// extra returns c.x, which it makes if need be. The caller holds c.mu.
func (c *Conn) extra() *connExtra {
	x := c.x.Load()
	if x == nil {
		x = &connExtra{}
		c.x.Store(x)
	}
	return x
}

// Write queues a copy of p to be sent and returns len(p). It never waits: what
// is written in one callback leaves together afterwards. It may be called before
// the connection is up.
//
// After Close, Abort or CloseWrite, or after an error, it returns net.ErrClosed;
// if more than MaxBuffered bytes would be pending, [ErrBufferFull], and nothing
// of p is taken.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if err := c.beginWrite(len(p)); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	c.queue().Append(p)
	c.endWrite(len(p))
	return len(p), nil
}

// WriteString is Write of the bytes of s, without converting it first.
func (c *Conn) WriteString(s string) (int, error) {
	c.mu.Lock()
	if err := c.beginWrite(len(s)); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	c.queue().AppendString(s)
	c.endWrite(len(s))
	return len(s), nil
}

// Writev is Write of all bufs in order, as one: all of them are taken or none.
func (c *Conn) Writev(bufs ...[]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	c.mu.Lock()
	if err := c.beginWrite(n); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	for _, b := range bufs {
		c.queue().Append(b)
	}
	c.endWrite(n)
	return n, nil
}

// beginWrite checks whether n bytes may be queued. The caller holds c.mu.
func (c *Conn) beginWrite(n int) error {
	switch {
	case c.flags.has(flagClosing|flagShut) || c.werr != nil || c.why != nil:
		return net.ErrClosed
	case n > c.cfg.Load().MaxBuffered-c.pending():
		return ErrBufferFull
	}
	return nil
}

// queue returns where output goes. The caller holds c.mu.
func (c *Conn) queue() *sockio.Queue {
	if c.flags.has(flagGate) {
		return &c.extra().after
	}
	return &c.out
}

// pending returns how many bytes of output are not with the kernel. The caller
// holds c.mu.
func (c *Conn) pending() int {
	if x := c.x.Load(); x != nil {
		return c.out.Len() + x.after.Len()
	}
	return c.out.Len()
}

// endWrite accounts for n queued bytes, releases c.mu, and has them written.
func (c *Conn) endWrite(n int) {
	if n == 0 {
		c.mu.Unlock()
		return
	}
	c.flags |= flagWrote
	c.loop.count.written.Add(uint64(n))
	if x := c.x.Load(); x != nil {
		x.written += uint64(n)
	}
	if cfg := c.cfg.Load(); c.pending() > cfg.mark() {
		// Streams and pipes wait for room when they write. Were reading paused as
		// well, two peers that both write before they read would wait for each
		// other.
		if c.flags.has(flagSink) || !cfg.pausesReads() {
			c.setPause(outputHigh)
		} else {
			c.setPause(pauseHigh)
		}
	}
	c.startWriting()
	c.mu.Unlock()
}

// Close sends what was written and closes the connection: after a flush of at
// most WriteTimeout, or 5 s, the other side sees the end of the stream, and the
// descriptor is closed as soon as it ends its own side, or after a second. A
// connection that is not up yet connects first if something was written, and
// gives up otherwise. OnClose tells when it is over.
//
// A second call returns net.ErrClosed.
func (c *Conn) Close() error {
	if !c.closeWith(0) {
		return net.ErrClosed
	}
	return nil
}

// Abort closes the connection at once and discards what was not sent yet. The
// peer sees a reset where the network has such a thing. It cuts a Close short;
// otherwise a second call returns net.ErrClosed.
func (c *Conn) Abort() error {
	if !c.closeWith(flagCut | flagReset) {
		return net.ErrClosed
	}
	return nil
}

// closeWith begins to close the connection, and reports whether that changed
// anything. how is 0 to flush, or flagCut to discard.
func (c *Conn) closeWith(how connFlags) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeLocked(how)
}

// closeUnannounced closes the connection unless a callback of it has been called.
// Then none ever is.
func (c *Conn) closeUnannounced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.has(flagAnnounced | flagUnannounced) {
		return
	}
	c.flags |= flagUnannounced
	c.loop.count.dropped.Add(1)
	c.closeLocked(flagCut | flagReset)
}

// closeLocked is closeWith for callers that hold c.mu.
func (c *Conn) closeLocked(how connFlags) bool {
	if c.flags.has(flagGone|flagCut) || c.flags.has(flagClosing) && how == 0 {
		return false
	}
	if x := c.x.Load(); x != nil && !c.flags.has(flagClosing) {
		x.postLow(c.loop) // who waits to write, or a stream to read, waits in vain
	}
	c.flags |= flagClosing | how
	if c.flags.has(flagCut) {
		c.discard()
	}
	c.quit.Store(true)
	c.boundWrite() // from now on the flush as a whole is bounded
	c.kick()
	return true
}

// discard drops the output. What a writer has in its hands is safe: it took
// views, and buffers go back to their pool only when no writer is active. The
// caller holds c.mu.
func (c *Conn) discard() {
	if c.flags.has(flagWriting) || c.pending() == 0 {
		return
	}
	c.flags |= flagLost
	c.loop.count.discarded.Add(uint64(c.pending()))
	c.out.Reset()
	if x := c.x.Load(); x != nil {
		x.after.Reset()
	}
}

// kick makes the connection's goroutine look at its orders, wherever it waits.
// The caller holds c.mu.
func (c *Conn) kick() {
	if c.owes() {
		c.boundClose()
	} else {
		if x := c.x.Load(); x != nil && x.cancel != nil {
			x.cancel() // a dial or a handshake; it does nothing once they are over
		}
		if c.flags.has(flagUp) {
			c.interrupt()
		}
	}
	c.token()
}

// owes reports whether Close has to let a dial or a handshake go on, because
// there is output that waits for it. The caller holds c.mu.
func (c *Conn) owes() bool {
	switch {
	case c.flags.has(flagCut):
		return false
	case !c.flags.has(flagUp):
		return c.out.Len() > 0
	}
	return c.flags.has(flagGate) && c.x.Load().after.Len() > 0
}

// boundClose ends a Close by force if it takes longer than a flush may, where
// more is to be done for it than to write. The caller holds c.mu.
func (c *Conn) boundClose() {
	x := c.extra()
	if x.closeTimer == nil {
		x.closeTimer = c.loop.AfterFunc(c.flushTime(), func() { c.closeWith(flagCut | flagReset) })
		x.closeTimer.Unref()
	}
}

// flushTime is how long Close may take to write. The caller holds c.mu.
func (c *Conn) flushTime() time.Duration {
	if _, d := c.timeouts(); d > 0 {
		return d
	}
	return flushTimeout
}

// interrupt ends reading, and if the output is to be cut, writing. The caller
// holds c.mu.
func (c *Conn) interrupt() {
	deaf := c.nc.SetReadDeadline(longAgo) != nil && c.rc == nil
	switch {
	case !c.flags.has(flagCut) && deaf:
		// Nothing but Close wakes the reader, and Close has to wait for the
		// writer, see stopWriting.
		c.flags |= flagDeaf
		c.pauses.Store(c.pauses.Load() &^ pauseWrite)
		c.boundClose()
		c.startWriting()
		if !c.flags.has(flagWriting) {
			c.hangUp()
		}
	case !c.flags.has(flagCut):
	case c.rc != nil:
		c.nc.SetWriteDeadline(longAgo)
	default:
		c.hangUp()
	}
}

// hangUp closes nc, or what is below TLS, which would try to say goodbye first.
// It must not be a socket that is written to by its number. It is done on another
// goroutine because nobody knows what the Close of a foreign connection does.
// The caller holds c.mu.
func (c *Conn) hangUp() {
	c.setReset()
	c.loop.closeAside(c.lowest())
}

// lowest returns nc, or the connection below if nc is TLS.
func (c *Conn) lowest() net.Conn {
	nc := c.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if p, ok := nc.(*prefixConn); ok {
		nc = p.Conn // see tlsUpgrade.early
	}
	return nc
}

// setReset has the descriptor closed by a reset if that is wanted. The caller
// holds c.mu.
func (c *Conn) setReset() {
	if t, ok := c.lowest().(*net.TCPConn); ok && c.flags.has(flagReset) {
		t.SetLinger(0)
	}
}

var (
	longAgo    = time.Unix(1, 0)
	noDeadline time.Time
)

// token wakes the connection's goroutine if it waits on c.back, or keeps it from
// waiting the next time. It then finds out why.
func (c *Conn) token() {
	select {
	case c.back <- struct{}{}:
	default:
	}
}

// CloseWrite ends the stream to the peer once all that was written is sent; what
// the peer sends is still received. Afterwards Write returns net.ErrClosed, and
// so does a second CloseWrite. A connection that cannot do it, net.Pipe for one,
// returns an error that matches errors.ErrUnsupported.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.has(flagClosing|flagShut) || c.werr != nil || c.why != nil {
		return net.ErrClosed
	}
	if _, ok := c.nc.(closeWriter); c.flags.has(flagUp) && !ok {
		return &OpError{Op: "close", Net: c.network(), Addr: c.remote(), Err: errUnsupported, Conn: c}
	}
	c.flags |= flagShut
	c.startWriting()
	return nil
}

type closeWriter interface{ CloseWrite() error }

// SetCallbacks replaces the callbacks of c by those of cfg that are not nil,
// from the next event on. Its other fields are ignored.
func (c *Conn) SetCallbacks(cfg *ConnConfig) {
	if cfg == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	conf := *c.cfg.Load()
	if cfg.OnConnect != nil {
		conf.OnConnect = cfg.OnConnect
	}
	if cfg.OnData != nil {
		conf.OnData = cfg.OnData
		defer c.claim()
	}
	if cfg.OnDrain != nil {
		conf.OnDrain = cfg.OnDrain
	}
	if cfg.OnEvent != nil {
		conf.OnEvent = cfg.OnEvent
	}
	if cfg.OnClose != nil {
		conf.OnClose = cfg.OnClose
	}
	c.cfg.Store(&conf)
}

// SetTimeouts replaces ReadTimeout and WriteTimeout (set-socket-timeouts); both
// start anew. Zero or negative means none. On a closed connection it returns
// net.ErrClosed.
func (c *Conn) SetTimeouts(read, write time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.has(flagClosing) {
		return net.ErrClosed
	}
	x := c.extra()
	x.readTimeout, x.writeTimeout, x.ownTimeouts = max(read, 0), max(write, 0), true
	if c.flags.has(flagUp) {
		c.armReadTimer()
		c.boundWrite()
	}
	return nil
}

// timeouts returns the timeouts in force. The caller holds c.mu.
func (c *Conn) timeouts() (read, write time.Duration) {
	if x := c.x.Load(); x != nil && x.ownTimeouts {
		return x.readTimeout, x.writeTimeout
	}
	cfg := c.cfg.Load()
	return cfg.ReadTimeout, cfg.WriteTimeout
}

// PauseReading stops OnData, and soon reading itself, so that the peer has to
// wait (disable-socket). If it is called on the loop, no OnData comes after it.
// The end of the stream, too, is told only after ResumeReading.
func (c *Conn) PauseReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setPause(pauseUser)
}

// ResumeReading undoes PauseReading (enable-socket).
func (c *Conn) ResumeReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearPause(pauseUser)
}

// setPause adds a reason not to read. The caller holds c.mu.
func (c *Conn) setPause(reason uint32) {
	c.pauses.Store(c.pauses.Load() | reason)
}

// clearPause takes a reason not to read away; with the last, what was held back
// is delivered. The caller holds c.mu.
func (c *Conn) clearPause(reason uint32) {
	old := c.pauses.Load()
	if old&reason == 0 {
		return
	}
	c.pauses.Store(old &^ reason)
	if old&^reason&pauseReads != 0 || c.flags.has(flagClosing) {
		return
	}
	if x := c.x.Load(); x != nil && x.readTimer != nil {
		c.armReadTimer() // the time of the pause does not count
	}
	if c.flags.has(flagHeld | flagEndHeld) {
		c.loop.Post(c.deliverHeld)
	}
	c.wakeReader()
}

// PauseWriting keeps what is written from being sent (disable-socket), but for
// what is being handed to the kernel at that moment.
func (c *Conn) PauseWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.has(flagClosing) {
		return
	}
	c.pauses.Store(c.pauses.Load() | pauseWrite)
	c.boundWrite()
}

// ResumeWriting undoes PauseWriting (enable-socket). So do Close and StartTLS,
// which flush.
func (c *Conn) ResumeWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resumeWriting()
}

// What is kept with the reasons not to read, but is none.
const (
	pauseWrite   uint32 = 1 << 31
	orderUpgrade uint32 = 1 << 30 // the connection's goroutine is to start TLS
	outputHigh   uint32 = 1 << 29 // pauseHigh, but reading goes on
)

func (c *Conn) resumeWriting() {
	c.pauses.Store(c.pauses.Load() &^ pauseWrite)
	c.boundWrite()
	c.startWriting()
}

func (c *Conn) readPaused() bool { return c.pauses.Load()&pauseReads != 0 }

// Connected returns a future that succeeds when the connection is up, and fails
// if it cannot be, or is closed before. With it somebody knows of a failure, so
// without OnEvent the failure is not reported otherwise.
func (c *Conn) Connected() *Future[*Conn] {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extra()
	if x.connected == nil {
		x.connected = looseFuture[*Conn](c.loop)
		switch {
		case c.flags.has(flagClosing) || c.why != nil:
			x.connected.resolve(nil, c.closedError())
		case c.flags.has(flagUp):
			x.connected.resolve(c, nil)
		}
	}
	return x.connected
}

// Flushed returns a future that succeeds when all that has been written so far
// is with the kernel, or with TLS, and fails if the connection ends before. It may
// be asked after Close too, and when OnClose has been called.
func (c *Conn) Flushed() *Future[struct{}] {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := looseFuture[struct{}](c.loop)
	switch {
	case c.werr != nil || c.flags.has(flagCut|flagLost):
		f.resolve(struct{}{}, c.closedError())
	case c.pending() == 0:
		f.resolve(struct{}{}, nil)
	default:
		x := c.extra()
		if len(x.flushed) == 0 { // the counters only matter while somebody waits
			x.written, x.sent = uint64(c.pending()), 0
		}
		x.flushed = append(x.flushed, flushWaiter{x.written, f})
	}
	return f
}

// closedError is the error for who asks something of a connection that is gone.
// The caller holds c.mu.
func (c *Conn) closedError() error {
	switch {
	case c.why != nil:
		return c.why
	case c.werr != nil:
		return c.werr
	}
	return net.ErrClosed
}

// Closed reports whether the connection is closed or being closed
// (socket-closed-p).
func (c *Conn) Closed() bool { return c.quit.Load() }

// Err returns why the connection ended: nil while it is open and after Close or
// Abort, io.EOF if the peer ended it, otherwise the error that OnEvent was told.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// Buffered returns the number of bytes that were written and are not with the
// kernel yet.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending()
}

// NeedDrain reports whether more than HighWater bytes were pending, or MaxBuffered
// if that is less, and half of it still are: a producer had better wait for
// OnDrain.
func (c *Conn) NeedDrain() bool { return c.pauses.Load()&(pauseHigh|outputHigh) != 0 }

// Data returns what SetData stored, nil before (socket-data).
func (c *Conn) Data() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data
}

// SetData stores a value of the application with the connection.
func (c *Conn) SetData(v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = v
}

// addrs returns the addresses, or nil. The caller holds c.mu. Those of a foreign
// net.Conn are asked once, before OnConnect, and kept: its RemoteAddr may wait for
// the peer, as where it comes from the header of the PROXY protocol.
func (c *Conn) addrs() (local, remote net.Addr) {
	if x := c.x.Load(); x != nil && x.hasAddrs {
		return x.local, x.remote
	}
	if c.nc == nil {
		return nil, nil
	}
	return c.nc.LocalAddr(), c.nc.RemoteAddr()
}

// setAddrs keeps addresses for addrs.
func (c *Conn) setAddrs(local, remote net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extra()
	x.local, x.remote, x.hasAddrs = local, remote, true
}

// LocalAddr returns the local address, or nil if the connection is not up yet. That
// of an adopted connection of package net is there at once.
func (c *Conn) LocalAddr() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	local, _ := c.addrs()
	return local
}

// RemoteAddr returns the address of the peer, or nil if the connection is not up
// yet. That of an adopted connection of package net is there at once. It is still
// there in OnClose. Of any other net.Conn, RemoteAddr and LocalAddr are called once,
// on a goroutine of the connection and before OnConnect; they may wait for the peer
// for as long as a TLS handshake may.
func (c *Conn) RemoteAddr() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, remote := c.addrs()
	return remote
}

// TLS returns the state of TLS; ok is false if the connection has none.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	c.mu.Lock()
	nc, ok := c.nc.(*tls.Conn)
	c.mu.Unlock()
	if !ok {
		return tls.ConnectionState{}, false
	}
	return nc.ConnectionState(), true
}

// Loop returns the loop of the connection.
func (c *Conn) Loop() *Loop { return c.loop }

// SyscallConn returns access to the descriptor, to set socket options for
// example. Reading and writing with it takes bytes away from the connection.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	nc, closing := c.lowest(), c.flags.has(flagClosing)
	c.mu.Unlock()
	if closing || nc == nil {
		return nil, net.ErrClosed
	}
	sc, ok := unguarded(nc).(syscall.Conn)
	if !ok {
		return nil, errUnsupported
	}
	return sc.SyscallConn()
}

// network and remote describe the connection in errors. The caller holds c.mu.
func (c *Conn) network() string {
	if x := c.x.Load(); x != nil && x.network != "" {
		return x.network
	}
	if _, remote := c.addrs(); remote != nil {
		return remote.Network()
	}
	return ""
}

func (c *Conn) remote() string {
	if x := c.x.Load(); x != nil && x.address != "" {
		return x.address
	}
	if _, remote := c.addrs(); remote != nil {
		return remote.String()
	}
	return ""
}

// opError wraps err as the error of an operation of c, once.
func (c *Conn) opError(op string, err error) error {
	var oe *OpError
	if errors.As(err, &oe) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &OpError{Op: op, Net: c.network(), Addr: c.remote(), Err: err, Conn: c}
}

func (c *Conn) describe() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := []string{c.network(), c.remote()}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// terminate closes c at the end of the loop. The peer of a connection with nothing
// to send keeps what it was sent; that of one whose output is cut sees a reset.
func (c *Conn) terminate() {
	how := flagCut
	c.mu.Lock()
	if c.pending() > 0 {
		how |= flagReset
	}
	c.mu.Unlock()
	c.closeWith(how)
}
