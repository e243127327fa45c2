package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
)

// A ConnConfig holds the callbacks and settings of a connection, or of all
// connections of a listener. It is copied. The zero ConnConfig has no callbacks and
// no timeouts. A nil *ConnConfig is the same as the zero ConnConfig.
//
// All callbacks run on the loop, one at a time. The order for each connection is:
// OnConnect, then any number of OnData, OnDrain and OnEvent, then OnClose, exactly
// once and last. If dialing fails, only OnEvent and OnClose are called. After Close
// or Abort has returned on the loop, only OnClose is called.
type ConnConfig struct {
	// OnConnect is called once, when the connection is up: after it was dialed,
	// accepted or adopted, and with TLS after the handshake (connect-cb).
	OnConnect func(c *Conn)

	// Task runs as a separate task, after OnConnect, when the connection is up. It
	// reads and writes with [Conn.NetConn], or writes with Conn.Write. When Task
	// returns, the connection is closed as by Close. When Task panics (with
	// Config.CatchPanics), the connection is closed as by Abort. An error that Task
	// returns goes to OnEvent as an [*OpError] with the address of the peer, or to
	// Config.EventHandler if the connection is already closed. The ordinary ends of a
	// connection, which are informational errors (see [IsInfo]) and net.ErrClosed, are
	// not reported. The context of the task ends with the loop.
	Task func(t *Task, c *Conn) error

	// OnData is called each time bytes arrive (read-cb). data is valid until OnData
	// returns; OnData may modify it. Under the race detector, data is overwritten after
	// OnData returns, to expose code that keeps it. [Split] splits the bytes into lines
	// or other frames.
	//
	// If OnData is nil, the connection holds the bytes that arrived and stops reading
	// until SetCallbacks sets OnData, or NetConn or Pipe takes the connection. No byte
	// is dropped. If the peer ends its side meanwhile, and nothing reads the bytes
	// within ReadTimeout (10 s if there is none), the connection ends with
	// [ErrNoReader]. [Discard] reads and drops.
	OnData func(c *Conn, data []byte)

	// OnDrain is called each time the kernel, or TLS, has accepted all written bytes
	// (write-cb). It reports on the connection, not on a single Write: many writes may
	// lead to one call. To wait for one write, use Conn.Flushed.
	OnDrain func(c *Conn)

	// OnEvent is called when the peer ends its side (io.EOF) or resets the connection
	// ([ErrReset]), and when an operation fails (event-cb). Every error except io.EOF
	// is an [*OpError] or a [*PanicError]. OnEvent can still inspect the connection,
	// and after io.EOF write to it. When OnEvent returns, the connection is closed.
	// After io.EOF it is closed as by Close, unless AllowHalfOpen is set. After any
	// other error it is closed as by Abort, so that the peer cannot mistake a partial
	// stream for a complete one. At most one error is delivered. A reset is an event in
	// every state; on Linux this includes the time when nothing is read, because
	// reading is paused or the peer has already ended its side. If TLS ends without a
	// close_notify after bytes have arrived, the error is io.ErrUnexpectedEOF, because
	// more bytes may be missing.
	//
	// If OnEvent is nil, the event goes to a NetConn, Pipe or future that waits for the
	// connection, or else to Config.EventHandler. While the loop has tasks, the
	// connection keeps an error for one second, so that a task that calls NetConn
	// receives it.
	OnEvent func(c *Conn, err error)

	// OnClose is called once, last, when the descriptor is closed. Conn.Err returns
	// the reason.
	OnClose func(c *Conn)

	// TLS, if not nil, makes the connection a TLS connection: a client if it is
	// dialed, a server if it is accepted. If ServerName is empty, a client uses the
	// host that it dials. The peer is verified unless the tls.Config disables it.
	TLS *tls.Config

	// ConnectTimeout is the maximum time of Dial, including the name lookup, and of each
	// TLS handshake. For StartTLS it includes the output that is sent before the
	// handshake. If zero, ReadTimeout is used. If both are zero, a handshake may take
	// 10 s, and Dial takes as long as the kernel tries. Negative: no limit.
	ConnectTimeout time.Duration

	// ReadTimeout ends the connection with [ErrTimeout] when no byte has arrived for
	// this long; with TLS, bytes of an incomplete record count. It does not run while
	// reading is paused, or while bytes wait for a callback or a task. Zero or
	// negative: no timeout.
	ReadTimeout time.Duration

	// WriteTimeout ends the connection with [ErrTimeout] when output is pending and the
	// peer has received none of it for this long. On Linux and macOS, for TCP and unix
	// sockets, with or without TLS, progress is what the peer's kernel acknowledges;
	// elsewhere it is what the connection accepts. A receiver acknowledges in steps of
	// up to 128 KB, so a slow peer is safe if it reads 128 KB within WriteTimeout. The
	// timeout does not run while writing is paused. Zero: 60 s for connections that a
	// listener accepted, none for others. Negative: none. WriteTimeout also limits the
	// time without progress after Close, which is 5 s if there is no WriteTimeout.
	WriteTimeout time.Duration

	// ReadBufferSize is the maximum number of bytes of one OnData call. 64 KB is the
	// default, for zero and negative values, and the highest possible value.
	ReadBufferSize int

	// HighWater is the number of bytes of pending output above which a producer should
	// wait, until half of them are gone; see Conn.NeedDrain. Above HighWater the
	// connection also stops reading, because input may be the cause of the output: a
	// peer that sends and never reads cannot fill the memory. If the peer then receives
	// nothing for 20 ms, it may be waiting for us to read first, so reading continues
	// until HighWater more bytes are pending. The 20 ms double each time in a row.
	// Streams and pipes wait by themselves. Zero: 256 KB, or half of MaxBuffered if
	// that is less. Negative: no limit.
	HighWater int

	// MaxBuffered is the maximum number of bytes of pending output. A Write that would
	// exceed it returns [ErrBufferFull]. A Pipe into the connection may exceed it by one
	// read of its source, and then waits, whatever HighWater is. MaxBuffered also limits
	// the bytes given to Unread. Zero: 64 MB. Negative: no limit. Config.MaxBuffered
	// limits the pending output of all connections together.
	MaxBuffered int

	// KeepAlive configures TCP keep-alive probes. The zero value uses the defaults of
	// package net: every 15 s. To disable the probes, set Idle to a negative value.
	KeepAlive net.KeepAliveConfig

	// Nagle leaves Nagle's algorithm enabled. By default small segments are sent
	// immediately, as in package net.
	Nagle bool

	// TLSServer makes an adopted connection the server in its TLS handshake, of TLS or
	// of Conn.StartTLS. It has no effect on other connections.
	TLSServer bool

	// AllowHalfOpen keeps a connection open after io.EOF, until it is closed or
	// CloseWrite has ended the other direction as well.
	AllowHalfOpen bool

	// LocalAddr is the local address to dial from. Nil: any.
	LocalAddr net.Addr

	// Dial connects for Loop.Dial, in place of the loop's resolver and dialer: for
	// example through a proxy, or over an in-memory network. It is called once, on a
	// goroutine other than the loop's, with the network and the address that were
	// passed to Loop.Dial.
	//
	// ctx ends after ConnectTimeout, when the connection is closed, and when the loop
	// ends. The dial then fails, whether Dial returns or not. Dial should return,
	// because the end of the loop waits for it, for at most Config.WorkGrace. The
	// connection that Dial returns belongs to the loop; if ctx has ended, the loop
	// closes it. If Dial returns an error or a nil connection, calls Goexit or, with
	// Config.CatchPanics, panics, the dial fails with a corresponding error. Without
	// Config.CatchPanics, a panic ends the loop and propagates out of Run.
	//
	// TLS runs on top of the connection. LocalAddr does not apply; KeepAlive and Nagle
	// apply to a *net.TCPConn.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultHighWater    = 256 << 10
	defaultMaxBuffered  = 64 << 20
	handshakeTimeout    = 10 * time.Second
	acceptedTimeout     = time.Minute      // the WriteTimeout of accepted connections
	lingerTimeout       = netcore.Linger   // to wait for the peer's FIN, after ours
	flushTimeout        = 5 * time.Second  // for Close, without a WriteTimeout
	noReaderTimeout     = 10 * time.Second // if there is no ReadTimeout
	firstHighWaterDelay = 20 * time.Millisecond
	defaultTotalBuffers = 1 << 30 // of Config.MaxBuffered
)

// Discard is an OnData that drops the data.
func Discard(*Conn, []byte) {}

// acceptedDefaults is withDefaults for accepted connections, whose clients may be slow
// on purpose.
func (cfg *ConnConfig) acceptedDefaults() *ConnConfig {
	if cfg == nil {
		cfg = &ConnConfig{}
	}
	c := cfg.withDefaults()
	if cfg.WriteTimeout == 0 {
		c.WriteTimeout = acceptedTimeout
	}
	return c
}

// withDefaults returns a copy of cfg with defaults resolved. A disabled timeout is zero
// in the copy.
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

// mark is the number of pending bytes above which producers should wait.
func (cfg *ConnConfig) mark() int { return min(cfg.HighWater, cfg.MaxBuffered) }

// limit resolves a limit: zero means byDefault, negative means no limit.
func limit(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return int(^uint(0) >> 1)
	}
	return n
}

var (
	longAgo    = time.Unix(1, 0)
	noDeadline time.Time
)

// A Conn is a connection of a loop: TCP or unix, plaintext or TLS, or any other
// net.Conn. [Loop.Dial], [Loop.Adopt] and listeners create it. It keeps the loop
// alive until OnClose, unless it is unref'd.
//
// All methods may be called from any goroutine and from any callback. No method
// waits for the network.
type Conn struct {
	handle

	// core moves the bytes. Its lock also guards the fields marked below.
	core netcore.Conn

	listener  *Listener                  // the listener that accepted it, or nil
	cfg       atomic.Pointer[ConnConfig] // replaced as a whole by SetCallbacks
	x         atomic.Pointer[connExtra]  // allocated under the lock when needed
	readTimer atomic.Pointer[readTimer]  // allocated under the lock when needed
	reasons   connReasons
	quit      atomic.Bool   // life is closing or closed: no callback except OnClose
	holding   atomic.Bool   // the dispatcher has the chunk
	bits      atomic.Uint32 // changed under the lock

	// The order of the fields below avoids padding: there are many idle connections.

	// Guarded by the lock of core.
	facts connFacts
	life  life

	// Only on the loop.
	failed bool // an error was delivered
	ending bool // the end is reported after the unread bytes are delivered

	// Owned by the connection's goroutine. The dispatcher takes its place in class while it
	// has borrowed the read, see borrowedRead, and does not use the other fields.
	class   uint8 // size of the next read, see nextRead
	endSent bool  // an endTask was sent
	sawEnd  bool  // the peer ended its side while bytes were held
	probed  bool  // sawEnd is set, and probe was called
	over    bool  // reading and watching are finished

	// Owned by the dispatcher while holding is set and after the closedTask was sent,
	// otherwise as class.
	chunk *sockio.Buffer

	// Guarded by the lock of core.
	unsent int // bytes of pending output, as counted in Stats
	data   any
}

// connReasons holds the reasons why a connection ended. An open connection allocates
// no space for them.
type connReasons struct{ p atomic.Pointer[endReasons] }

type endReasons struct {
	// read is the reason why reading ended. It is owned by the connection's goroutine, or
	// by the dispatcher while it has borrowed the read, until an endTask, failedTask or
	// closedTask is sent. It does not change afterwards.
	read error

	why error // for Err; guarded by the lock of core
}

func (r *connReasons) read() error {
	if p := r.p.Load(); p != nil {
		return p.read
	}
	return nil
}

func (r *connReasons) why() error {
	if p := r.p.Load(); p != nil {
		return p.why
	}
	return nil
}

func (r *connReasons) setRead(err error) { r.room().read = err }
func (r *connReasons) setWhy(err error)  { r.room().why = err }

func (r *connReasons) room() *endReasons {
	if r.p.Load() == nil {
		r.p.CompareAndSwap(nil, &endReasons{}) // two parties set reasons
	}
	return r.p.Load()
}

// Three parties work on a connection, and other goroutines call it. The methods of
// each party belong to a separate type, which shows which party calls a method. All
// parties may call the methods of Conn itself; the comment of a method states if its
// caller must hold the lock.
type (
	connReader Conn // the connection's goroutine, which reads and closes
	connLoop   Conn // the dispatcher, which runs the callbacks
	connUser   Conn // the writer; see netcore.User
)

func (c *Conn) readerSide() *connReader { return (*connReader)(c) }
func (c *Conn) loopSide() *connLoop     { return (*connLoop)(c) }

// life is the state of a connection. Its output has a separate state, see netcore.
type life uint8

const (
	lifeConnecting life = iota // being dialed, or in its first handshake
	lifeOpen
	lifeClosing // after Close, Abort, Detach, or the end of the loop
	lifeClosed  // the descriptor is closed or detached
)

// connFacts are flags: what has happened to a connection.
type connFacts uint32

const (
	factUp          connFacts = 1 << iota // it was open
	factHeld                              // a chunk waits until it may be delivered
	factEndHeld                           // the end of reading waits as well
	factEnded                             // the end of the peer's side was reported
	factWrote                             // bytes were written since the last OnDrain
	factDrainSent                         // a drainTask was sent and has not run
	factDiscarded                         // output was discarded, and accounted for
	factCut                               // it is being closed without a flush
	factAborted                           // the application called Abort
	factFailed                            // dialing or the handshake failed
	factDetach                            // Detach was called
	factSink                              // a sink receives the data, see connExtra.sink
	factAnnounced                         // a callback ran, or would have run had it been set
	factUnannounced                       // it was closed before that: no callback will run
	factRest                              // a splitter put the unread bytes back, to be delivered
	factPeerLeft                          // the peer ended its side while bytes were held for a reader
	factEndAtUp                           // the output ends when the connection is up, see endOrClose
)

func (f connFacts) has(g connFacts) bool { return f&g != 0 }

// The bits of Conn.bits are reasons for not reading, and state that is read too often
// to take the lock for it.
const (
	pauseUser uint32 = 1 << iota
	pauseHigh        // output is over HighWater
	pausePipe        // the output of the pipe's destination is over HighWater
	pauseGate        // the callbacks of a future come first

	bitNoReader // nothing consumes the input
	bitUpgrade  // StartTLS: asks the connection's goroutine to start TLS
	bitHigh     // output is over the mark, see NeedDrain
	bitUnread   // there are unread bytes

	pauseReads = pauseUser | pauseHigh | pausePipe | pauseGate
)

func (c *Conn) is(bits uint32) bool { return c.bits.Load()&bits != 0 }

// set and unset change bits. The caller holds the lock.
func (c *Conn) set(bits uint32)   { c.bits.Store(c.bits.Load() | bits) }
func (c *Conn) unset(bits uint32) { c.bits.Store(c.bits.Load() &^ bits) }

// A readTimer limits how long a peer may send nothing. It is separate from connExtra
// because many connections need only the timer.
type readTimer struct {
	timer Timer
	last  atomic.Int64 // the time of the last read, since Run
}

// connExtra holds the fields that few connections need. The lock guards them, except
// where a comment names another owner.
type connExtra struct {
	network, address string   // as dialed
	local, remote    net.Addr // if hasAddrs is set; see Conn.addrs
	hasAddrs         bool
	foreign          net.Conn           // the attached net.Conn, or the one below its TLS, if foreign
	cancel           context.CancelFunc // ends a dial or a handshake
	connected        *Future[*Conn]
	detached         *Future[net.Conn]
	upgrade          *tlsUpgrade
	sink             sink   // receives the data instead of OnData
	release          func() // releases the slot in an HTTP server
	unread           []byte // bytes given to Unread
	failure          error  // found while nothing was read; for failureTask

	flushed       []flushWaiter
	written, sent uint64     // bytes, counted since the first Flushed
	onLow         []*onLow   // called when the output falls to half of the mark, and at the end
	high          *highWater // while output is over HighWater

	closeTimer   *Timer // see boundClose
	readerTimer  *Timer // see noReader
	readTimeout  time.Duration
	writeTimeout time.Duration
	ownTimeouts  bool // SetTimeouts was called

	next       *sockio.Buffer    // read by probe; owned by the connection's goroutine, then by closedTask
	released   net.Conn          // owned by the connection's goroutine, then by closedTask
	unreported *Future[struct{}] // an error that a task may still claim; only on the loop
}

var _ io.StringWriter = (*Conn)(nil)
var _ io.WriteCloser = (*Conn)(nil)

var errUnsupported = errors.ErrUnsupported

// newConn returns a connection that is registered with the loop.
func (l *Loop) newConn(cfg *ConnConfig, k kind, from *Listener) (*Conn, error) {
	c := &Conn{listener: from}
	c.core.Init((*connUser)(c))
	c.core.SetStall(cfg.WriteTimeout)
	if cfg.TLS != nil {
		c.core.Secure()
	}
	c.cfg.Store(cfg)
	if err := l.register(&c.handle, c, k, false); err != nil {
		return nil, err
	}
	return c, nil
}

// Dial starts to connect to address and returns immediately. OnConnect is called when
// the connection is up, OnEvent if dialing fails (tcp-send). The network is "tcp",
// "tcp4", "tcp6" or "unix". The loop's resolver resolves host names, and all their
// addresses are tried (RFC 8305). Data may be written immediately; it is sent, in
// order, when the connection is up. ctx cancels the attempt and has no effect once the
// connection is up.
//
// Dial returns an error, and no callback is called, if the network is unknown or the
// address is malformed (an [*OpError]), before Run ([ErrNotRunning]), and after the end
// of the loop ([ErrLoopClosed]).
func (l *Loop) Dial(ctx context.Context, network, address string, cfg *ConnConfig) (*Conn, error) {
	checkContext(ctx)
	if err := checkAddress(network, address); err != nil {
		return nil, &OpError{Op: OpDial, Net: network, Addr: address, Err: err}
	}
	conf := cfg.withDefaults()
	c, err := l.newConn(conf, kindConnOut, nil)
	if err != nil {
		return nil, err
	}
	l.count.dialed.Add(1)
	ctx, cancel := connectContext(ctx, conf)
	c.core.Lock()
	x := c.extra()
	x.network, x.address, x.cancel = network, address, cancel
	if c.life >= lifeClosing {
		cancel() // the loop has ended since newConn, and x.cancel was nil then
	}
	c.core.Unlock()
	l.wg.Add(1)
	go c.readerSide().dial(ctx, cancel, network, address)
	return c, nil
}

// checkAddress checks the syntax of an address, without a lookup.
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

// ports resolves service names without the C library, which may query a server.
var ports = &net.Resolver{PreferGo: true}

// connectContext returns ctx with the timeout ConnectTimeout or, if that is zero, by
// ReadTimeout.
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

// Adopt takes over nc, an established connection. Other code must not use nc
// afterwards. OnConnect is called in a later turn. If ConnConfig.TLS is set, a
// handshake comes first, as a client unless TLSServer is set. Adopt returns an error if
// nc is nil, before Run ([ErrNotRunning]), and after the end of the loop
// ([ErrLoopClosed]). Then it has not changed nc.
func (l *Loop) Adopt(nc net.Conn, cfg *ConnConfig) (*Conn, error) {
	if isNil(nc) {
		return nil, errors.New("eventloop: Adopt of a nil connection")
	}
	conf := cfg.withDefaults()
	c, err := l.newConn(conf, kindConnIn, nil)
	if err != nil {
		return nil, err
	}
	if !isForeign(nc) { // its LocalAddr and RemoteAddr do not block
		c.core.Attach(nc, false)
	}
	l.wg.Add(1)
	go c.readerSide().adopted(nc, conf.TLS, !conf.TLSServer, false)
	return c, nil
}

// dial connects and then starts serve on a new goroutine: dialing needs a deep stack,
// and a goroutine keeps the stack that it has grown.
func (cr *connReader) dial(ctx context.Context, cancel context.CancelFunc, network, address string) {
	c := (*Conn)(cr)
	defer c.loop.wg.Done()
	defer cancel()
	cfg := c.cfg.Load()
	nc, err := cr.connect(ctx, network, address)
	if err != nil {
		cr.connectFailed(OpDial, err)
		return
	}
	conf := cfg.TLS
	if conf != nil {
		conf = clientTLS(conf, address)
	}
	c.core.Attach(nc, cfg.Dial == nil)
	if noAddrs := cr.noteForeign(nc); needsTLS(nc, conf) || noAddrs {
		err = cr.prepare(ctx, nc, conf, true, noAddrs)
	}
	cr.up(err)
}

// connect connects for Dial, with ConnConfig.Dial if it is set.
func (cr *connReader) connect(ctx context.Context, network, address string) (net.Conn, error) {
	c := (*Conn)(cr)
	cfg := c.cfg.Load()
	if cfg.Dial == nil {
		return c.loop.dialContext(ctx, network, address, cfg)
	}
	nc, err := c.loop.callDial(c.loop.named(ctx, &c.handle), "ConnConfig.Dial", cfg.Dial, network, address)
	if err != nil {
		return nil, endedBy(ctx, err)
	}
	setTCPOptions(nc, cfg)
	nc = guardConn(nc, c.panicked)
	if ctx.Err() != nil {
		c.loop.closeAside(nc)
		return nil, contextError(ctx)
	}
	nc.SetDeadline(noDeadline) // clear a deadline that its previous owner set
	return nc, nil
}

// adopted brings up a connection that was accepted or adopted. ours means that no
// other code has a reference to nc.
func (cr *connReader) adopted(nc net.Conn, conf *tls.Config, client, ours bool) {
	c := (*Conn)(cr)
	defer c.loop.wg.Done()
	nc = guardConn(unguarded(nc), c.panicked)
	if !ours {
		nc.SetDeadline(noDeadline) // clear a deadline that its previous owner set
	}
	c.core.Lock()
	attached := c.core.NetConn() != nil
	c.core.Unlock()
	if !attached {
		c.core.Attach(nc, ours)
	}
	noAddrs := cr.noteForeign(nc)
	if !noAddrs && !needsTLS(nc, conf) {
		cr.up(nil)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.core.Lock()
	if c.life >= lifeClosing && !c.closeDeferred() {
		cancel()
	}
	c.extra().cancel = cancel
	c.core.Unlock()
	cr.up(cr.prepare(ctx, nc, conf, client, noAddrs))
}

// noteForeign records nc in connExtra if it is foreign, and reports whether its
// addresses are still unknown.
func (cr *connReader) noteForeign(nc net.Conn) (noAddrs bool) {
	if !isForeign(nc) {
		return false
	}
	c := (*Conn)(cr)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	x.foreign = unguarded(nc)
	return !x.hasAddrs
}

// needsTLS reports whether nc needs a handshake before it is up.
func needsTLS(nc net.Conn, conf *tls.Config) bool {
	_, isTLS := nc.(*tls.Conn)
	return isTLS || conf != nil
}

// prepare runs the steps between connecting and OnConnect: the addresses of a foreign
// net.Conn, and the TLS handshake.
func (cr *connReader) prepare(ctx context.Context, nc net.Conn, conf *tls.Config, client, noAddrs bool) error {
	if noAddrs {
		if err := cr.readAddrs(ctx, nc); err != nil {
			return err
		}
	}
	if !needsTLS(nc, conf) {
		return nil
	}
	return cr.handshake(ctx, conf, client, nil)
}

// readAddrs calls LocalAddr and RemoteAddr of a foreign connection, with the timeout of
// a handshake: RemoteAddr may wait for the peer, for example if the address comes from
// a PROXY protocol header.
func (cr *connReader) readAddrs(ctx context.Context, nc net.Conn) error {
	c := (*Conn)(cr)
	ctx, cancel := cr.handshakeContext(ctx)
	defer cancel()
	c.loop.wg.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer c.loop.wg.Done()
		c.loop.closeAside(nc)
	})
	var local, remote net.Addr
	err := aside(func() error { local, remote = nc.LocalAddr(), nc.RemoteAddr(); return nil })
	if !stop() {
		return contextError(ctx)
	}
	c.loop.wg.Done()
	if err != nil { // a panic in the connection below TLS
		c.panicked(OpAddr, err)
	}
	cr.setAddrs(local, remote)
	return nil
}

// up opens the connection and starts its goroutine. err is the error of the
// handshake; if it is not nil, up ends the connection.
func (cr *connReader) up(err error) {
	c := (*Conn)(cr)
	if err != nil {
		cr.connectFailed(OpHandshake, err)
		return
	}
	c.core.Lock()
	c.facts |= factUp
	switch c.life {
	case lifeConnecting:
		c.life = lifeOpen
	case lifeClosing:
		c.core.Closing() // before Open: the writer must know why the stream ends
	}
	c.core.Unlock()
	c.loop.send((*upTask)(c))
	c.core.Open()  // only now: no OnDrain before OnConnect
	c.core.Start() // after Open: it may end the connection once the output is sent
}

// connectFailed ends a connection that never came up.
func (cr *connReader) connectFailed(op string, err error) {
	c := (*Conn)(cr)
	c.reasons.setRead(c.opError(op, err))
	c.loop.send((*failedTask)(c))
	c.core.Lock()
	attached := c.core.NetConn() != nil
	c.facts |= factFailed
	if c.pending() > 0 {
		c.discard()
	}
	if attached && (c.life >= lifeClosing || errors.Is(err, ErrTimeout) || errors.Is(err, context.Canceled)) {
		c.core.Cut(false) // no alert is to be sent
	}
	if attached {
		c.core.DropUnsealed()
		c.core.SetStall(min(c.flushTime(), flushTimeout))
		c.core.Closing()
	}
	c.core.Unlock()
	if attached {
		cr.finish(isUncaught(err))
	} else {
		c.loop.send((*closedTask)(c))
	}
}

// extra returns c.x and allocates it if needed. The caller holds the lock.
func (c *Conn) extra() *connExtra {
	x := c.x.Load()
	if x == nil {
		x = &connExtra{}
		c.x.Store(x)
	}
	return x
}

// SetCallbacks replaces the callbacks of c by the callbacks of cfg that are not nil,
// starting with the next event. The other fields of cfg are ignored. If cfg.OnData is
// set, bytes that were held, or returned with Unread, are delivered in a later turn.
func (c *Conn) SetCallbacks(cfg *ConnConfig) {
	if cfg == nil {
		return
	}
	c.core.Lock()
	defer c.core.Unlock()
	conf := *c.cfg.Load()
	if cfg.OnConnect != nil {
		conf.OnConnect = cfg.OnConnect
	}
	if cfg.OnData != nil {
		conf.OnData = cfg.OnData
		defer c.readerChanged()
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

// Connected returns a future that succeeds when the connection is up, and fails if the
// connection fails or is closed first. The future's callbacks, and tasks that wait for
// it, run after OnConnect and before any data is delivered. If OnEvent is nil, only the
// future reports the failure.
func (c *Conn) Connected() *Future[*Conn] {
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	if x.connected == nil {
		x.connected = unregisteredFuture[*Conn](c.loop)
		switch {
		case c.life >= lifeClosing || c.reasons.why() != nil:
			x.connected.resolve(nil, c.closedError())
		case c.life == lifeOpen:
			x.connected.resolve(c, nil)
		}
	}
	return x.connected
}

// closedError is the error of a call on a connection that has ended. The caller holds
// the lock.
func (c *Conn) closedError() error {
	switch err := c.core.WriteError(); {
	case c.reasons.why() != nil:
		return c.reasons.why()
	case err != nil:
		return c.opErrorLocked(OpWrite, err)
	}
	return net.ErrClosed
}

// Closed reports whether the connection is closed or being closed
// (socket-closed-p).
func (c *Conn) Closed() bool { return c.quit.Load() }

// Err returns the reason why the connection ended: nil while it is open and after Close
// or Abort, io.EOF if the peer ended it, otherwise the error that OnEvent received.
//
// If the connection was closed, but not by Abort or an error, and output could not be
// delivered, because the peer took too long or reset the connection, or because the
// loop was stopped, then in OnClose and afterwards the error matches [ErrLost] and is a
// [*LostError]. On Linux and macOS, delivered means acknowledged by the peer's kernel;
// elsewhere it means accepted by the local kernel.
func (c *Conn) Err() error {
	c.core.Lock()
	defer c.core.Unlock()
	return c.reasons.why()
}

// Data returns the value that SetData stored, or nil (socket-data).
func (c *Conn) Data() any {
	c.core.Lock()
	defer c.core.Unlock()
	return c.data
}

// SetData stores a value of the application in the connection.
func (c *Conn) SetData(v any) {
	c.core.Lock()
	defer c.core.Unlock()
	c.data = v
}

// addrs returns the addresses, or nil. The addresses of a foreign net.Conn are read
// once, before OnConnect, and stored. The caller holds the lock.
func (c *Conn) addrs() (local, remote net.Addr) {
	if x := c.x.Load(); x != nil && (x.hasAddrs || x.foreign != nil) {
		return x.local, x.remote
	}
	if nc := c.core.NetConn(); nc != nil {
		return nc.LocalAddr(), nc.RemoteAddr()
	}
	return nil, nil
}

// setAddrs stores addresses for addrs.
func (cr *connReader) setAddrs(local, remote net.Addr) {
	c := (*Conn)(cr)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	x.local, x.remote, x.hasAddrs = local, remote, true
}

// LocalAddr returns the local address, or nil if the connection is not up yet. The
// address of an adopted connection of package net is available immediately.
func (c *Conn) LocalAddr() net.Addr {
	c.core.Lock()
	defer c.core.Unlock()
	local, _ := c.addrs()
	return local
}

// RemoteAddr returns the address of the peer, or nil if the connection is not up yet.
// The address of an adopted connection of package net is available immediately. The
// address is still available in OnClose. The loop calls the RemoteAddr and LocalAddr
// methods of any other net.Conn once, on a goroutine of the connection and before
// OnConnect; these methods may wait for the peer for as long as a TLS handshake may.
func (c *Conn) RemoteAddr() net.Addr {
	c.core.Lock()
	defer c.core.Unlock()
	_, remote := c.addrs()
	return remote
}

// TLS returns the TLS state. ok is false if the connection does not use TLS, or its
// handshake is not complete.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	c.core.Lock()
	t := c.core.TLS()
	ok = t != nil && c.facts.has(factUp)
	c.core.Unlock()
	if !ok {
		return tls.ConnectionState{}, false
	}
	return t.ConnectionState(), true
}

// Loop returns the loop of the connection.
func (c *Conn) Loop() *Loop { return c.loop }

// SyscallConn returns access to the descriptor, for example to set socket options.
// Do not read or write with it: the connection would miss bytes.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	c.core.Lock()
	nc, closing := c.core.NetConn(), c.life >= lifeClosing
	c.core.Unlock()
	if closing || nc == nil {
		return nil, net.ErrClosed
	}
	if t, ok := nc.(*tls.Conn); ok {
		nc = netcore.Below(t)
	}
	sc, ok := unguarded(nc).(syscall.Conn)
	if !ok {
		return nil, errUnsupported
	}
	return sc.SyscallConn()
}

// peer returns the network and address of the peer, for errors. The caller holds the
// lock.
func (c *Conn) peer() (network, address string) {
	if x := c.x.Load(); x != nil && x.network != "" {
		return x.network, x.address
	}
	if _, remote := c.addrs(); remote != nil {
		return remote.Network(), remote.String()
	}
	return "", ""
}

// opError wraps err in an OpError, unless it already contains one.
func (c *Conn) opError(op string, err error) error {
	var oe *OpError
	if errors.As(err, &oe) {
		return err
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.opErrorLocked(op, err)
}

// opErrorLocked wraps err in an OpError. The caller holds the lock.
func (c *Conn) opErrorLocked(op string, err error) error {
	network, address := c.peer()
	return &OpError{Op: op, Net: network, Addr: address, Err: err, Conn: c}
}

func (c *Conn) describe() string {
	c.core.Lock()
	defer c.core.Unlock()
	network, address := c.peer()
	return strings.TrimSpace(network + " " + address)
}
