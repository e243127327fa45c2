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
// connections of a listener. It is copied. The zero ConnConfig, and nil where a
// *ConnConfig is asked for, have no callbacks and no timeouts.
//
// All callbacks are called on the loop, one at a time. The order for each
// connection is: OnConnect, then any number of OnData, OnDrain and OnEvent, then
// OnClose, exactly once and last. A connection that could not be dialed gets
// OnEvent and OnClose only. Once Close or Abort has returned on the loop, only
// OnClose is still called.
type ConnConfig struct {
	// OnConnect is called once, when the connection is up: dialed, accepted or
	// adopted, and with TLS after the handshake (connect-cb).
	OnConnect func(c *Conn)

	// Task runs as a task of its own, after OnConnect, when the connection is up. It
	// reads and writes with [Conn.NetConn], or writes with Conn.Write. When it returns,
	// the connection is closed as by Close, or if it panics (with Config.CatchPanics)
	// as by Abort. An error that it returns goes to OnEvent, or if the connection is
	// closed already to Config.EventHandler, as an [*OpError] with the address of the
	// peer. The ordinary ends of a connection, information (see [IsInfo]) and
	// net.ErrClosed, are not reported. The context of the task ends with the loop.
	Task func(t *Task, c *Conn) error

	// OnData is called each time bytes arrive (read-cb). data is valid until
	// OnData returns, which may change it; under the race detector it is then
	// overwritten, so that keeping it shows. [Split] makes lines or other frames of
	// it.
	//
	// If nil, the connection holds what arrives and reads no further, until
	// SetCallbacks sets OnData, or NetConn or Pipe takes the connection; nothing
	// is dropped. If the peer ends its side meanwhile, and ReadTimeout, or 10 s
	// without one, pass and nothing has asked for the bytes, the connection ends
	// with [ErrNoReader]. [Discard] reads and drops.
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
	// for all of it. At most one error is delivered. A reset is an event in every
	// state; on Linux also while nothing is read, because reading is paused or
	// the peer has ended its side before. An end of TLS without its close_notify,
	// after bytes have arrived, is an error, io.ErrUnexpectedEOF: more may be
	// missing.
	//
	// If OnEvent is nil the event goes to a NetConn, Pipe or future that waits for
	// the connection, else to Config.EventHandler. While the loop has tasks, an
	// error is kept for a second for a task that asks for its NetConn.
	OnEvent func(c *Conn, err error)

	// OnClose is called once, last, when the descriptor is closed. Conn.Err says
	// why.
	OnClose func(c *Conn)

	// TLS, if not nil, makes the connection a TLS connection: a client when it
	// is dialed, a server when it is accepted. If ServerName is empty a client
	// uses the host that it dials. The peer is verified unless the tls.Config
	// says otherwise.
	TLS *tls.Config

	// ConnectTimeout bounds Dial, name lookup included, and each TLS handshake,
	// StartTLS with the output that is sent before it. If zero, ReadTimeout is
	// used; if that is zero too, a handshake gets 10 s and Dial as long as the
	// kernel tries. Negative: no bound.
	ConnectTimeout time.Duration

	// ReadTimeout ends the connection with [ErrTimeout] when no byte arrived for
	// so long; with TLS, bytes of an incomplete record count. It does not run
	// while reading is paused, or while bytes wait for a callback or a task.
	// Zero or negative: none.
	ReadTimeout time.Duration

	// WriteTimeout ends the connection with [ErrTimeout] when output is pending
	// and the peer took none of it for so long. On Linux and macOS that is measured by
	// what the peer's kernel acknowledges, on TCP and unix sockets, also below
	// TLS; elsewhere by what the connection accepts. A receiver acknowledges in steps
	// of up to 128 KB, so a slow peer is safe if it reads as much in that time.
	// It does not run while writing is paused. Zero: 60 s for connections that a
	// listener accepted, none for others. Negative: none. It also bounds the lack
	// of progress after Close, which otherwise is 5 s.
	WriteTimeout time.Duration

	// ReadBufferSize bounds the data of one OnData, in bytes; at most 64 KB,
	// which is also the default.
	ReadBufferSize int

	// HighWater is the number of pending bytes of output over which a producer
	// had better wait, see Conn.NeedDrain, until half of them are gone. A
	// connection with more pending output also stops reading, because reading may
	// be what makes its output grow: a peer that sends and never reads cannot fill
	// the memory. If the peer then takes nothing for 20 ms it may be waiting for
	// us to read first, so reading goes on until HighWater more is pending. The
	// 20 ms double each time in a row. Streams and pipes wait on their own
	// account. Zero: 256 KB, or half of MaxBuffered if that is less. Negative:
	// never.
	HighWater int

	// MaxBuffered bounds the pending bytes of output: a Write that would pass it
	// returns [ErrBufferFull], and a Pipe into the connection waits, whatever
	// HighWater is, when it has passed it by one read of its source. Bytes given
	// to Unread are bounded by it, too. Zero: 64 MB. Negative: no bound. See
	// Config.MaxBuffered for that of all connections together.
	MaxBuffered int

	// KeepAlive configures the probes of TCP. The zero value means those of
	// package net: every 15 s. To switch them off set Idle to a negative value.
	KeepAlive net.KeepAliveConfig

	// Nagle leaves Nagle's algorithm on. By default small segments are sent at
	// once, as in package net.
	Nagle bool

	// TLSServer makes an adopted connection the server of TLS.
	TLSServer bool

	// AllowHalfOpen keeps a connection open after io.EOF, until it is closed or
	// CloseWrite has ended the other direction too.
	AllowHalfOpen bool

	// LocalAddr is the address to dial from; nil: any.
	LocalAddr net.Addr

	// Dial connects for Loop.Dial, instead of the loop's own resolver and dialer: to
	// a proxy, or over a network in memory. It is called once, on a goroutine other
	// than the loop's, with the network and the address that Loop.Dial was given.
	//
	// ctx ends after ConnectTimeout, when the connection is closed, and when the loop
	// ends. The dial fails then, whether Dial returns or not, but Dial should return:
	// the end of the loop waits for it, for Config.WorkGrace at most. The connection
	// that it returns belongs to the loop; one that it returns after the end of ctx is
	// closed. Its error, Goexit, a nil connection or, with Config.CatchPanics, a panic
	// is the error of a failed dial; by default a panic ends the loop and leaves Run.
	//
	// TLS is made on top of the connection. LocalAddr does not apply; KeepAlive and
	// Nagle apply to a *net.TCPConn.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultHighWater    = 256 << 10
	defaultMaxBuffered  = 64 << 20
	handshakeTimeout    = 10 * time.Second
	acceptedTimeout     = time.Minute      // to write, of accepted connections
	lingerTimeout       = netcore.Linger   // for the peer's FIN, after ours
	flushTimeout        = 5 * time.Second  // of Close, without a WriteTimeout
	noReaderTimeout     = 10 * time.Second // without a ReadTimeout
	highWaterPatience   = 20 * time.Millisecond
	defaultTotalBuffers = 1 << 30 // of Config.MaxBuffered
)

// Discard is an OnData that drops what arrives.
func Discard(*Conn, []byte) {}

// acceptedDefaults is withDefaults for connections of clients, which may be slow on
// purpose.
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

var (
	longAgo    = time.Unix(1, 0)
	noDeadline time.Time
)

// A Conn is a connection of a loop: TCP or unix, in the clear or with TLS, or any
// net.Conn. It is made by [Loop.Dial], by [Loop.Adopt] or by a listener, and
// keeps the loop alive until OnClose, unless it is unref'd.
//
// All methods may be called from any goroutine and from any callback; none of
// them waits for the network.
type Conn struct {
	handle

	// core moves the bytes. Its lock guards what is marked below, too.
	core netcore.Conn

	listener *Listener                  // that accepted it, or nil
	cfg      atomic.Pointer[ConnConfig] // replaced as a whole by SetCallbacks
	x        atomic.Pointer[connExtra]  // made under the lock when it is needed
	silence  atomic.Pointer[readTimer]  // the same
	reasons  connReasons
	quit     atomic.Bool   // life is closing or closed: no callback but OnClose
	holding  atomic.Bool   // the dispatcher has the chunk
	bits     atomic.Uint32 // changed under the lock

	// The order of the fields from here on leaves no gaps: idle connections are many.

	// Guarded by the lock of core.
	facts connFacts
	life  life

	// Only on the loop.
	failed bool // an error was delivered
	ending bool // the end is told when the unread bytes are delivered

	// Of the connection's goroutine; of the dispatcher while holding is set.
	class   uint8 // size of the next read, see nextRead
	endSent bool  // an endTask was sent
	sawEnd  bool  // the peer has ended its side behind bytes that are held
	probed  bool  // and probe was called
	over    bool  // there is nothing more to be noticed
	chunk   *sockio.Buffer

	// Guarded by the lock of core.
	unsent int // bytes of output that are pending, as far as Stats knows
	data   any
}

// connReasons are why a connection has ended. One that is open needs no room for them.
type connReasons struct{ p atomic.Pointer[endReasons] }

type endReasons struct {
	read error // why reading ended. Of the connection's goroutine until the endTask is sent
	why  error // for Err. Guarded by the lock of core
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
		r.p.CompareAndSwap(nil, &endReasons{}) // two parties have reasons
	}
	return r.p.Load()
}

// Three parties work on a connection, and other goroutines call it. Each of the
// parties has its methods under a type of its own, so that it can be seen who calls
// what. A Conn's own methods may be called by all; those that say so expect their
// caller to hold the lock.
type (
	connReader Conn // for the connection's goroutine, which reads and closes
	connLoop   Conn // for the dispatcher, which runs the callbacks
	connUser   Conn // for the writer; see netcore.User
)

func (c *Conn) readerSide() *connReader { return (*connReader)(c) }
func (c *Conn) loopSide() *connLoop     { return (*connLoop)(c) }

// life is where a connection is between its beginning and its end. Output has a
// state of its own, see netcore.
type life uint8

const (
	lifeConnecting life = iota // being dialed, or in its first handshake
	lifeOpen
	lifeClosing // Close, Abort, Detach, or the end of the loop
	lifeClosed  // the descriptor is closed, or handed out
)

// connFacts are what else is to be remembered about a connection.
type connFacts uint16

const (
	factUp          connFacts = 1 << iota // it was open
	factHeld                              // a chunk waits until it may be delivered
	factEndHeld                           // so does the end of reading
	factEnded                             // the end of the peer's side was told
	factWrote                             // something was written since the last OnDrain
	factDrainSent                         // a drainTask is on its way
	factDiscarded                         // output was discarded, and accounted for
	factCut                               // it is being closed without a flush
	factAborted                           // by the application
	factFailed                            // it will never be up
	factDetach                            // Detach was called
	factSink                              // a sink has the data, see connExtra.sink
	factAnnounced                         // a callback has been called, or would have been
	factUnannounced                       // it was closed before, and none will be
	factRest                              // the unread bytes were put back by a splitter, to be delivered
)

func (f connFacts) has(g connFacts) bool { return f&g != 0 }

// Bits of Conn.bits: reasons for not reading, and what is asked too often to take
// the lock for it.
const (
	pauseUser uint32 = 1 << iota
	pauseHigh        // reading makes the output grow
	pausePipe        // so does the output of what the connection is piped to
	pauseGate        // the callbacks of a future come first

	bitNoReader // nothing takes what arrives
	bitUpgrade  // StartTLS: the connection's goroutine is to start TLS
	bitHigh     // output is over the mark, see NeedDrain
	bitUnread   // there are unread bytes

	pauseReads = pauseUser | pauseHigh | pausePipe | pauseGate
)

func (c *Conn) is(bits uint32) bool { return c.bits.Load()&bits != 0 }

// set and unset change bits. The caller holds the lock.
func (c *Conn) set(bits uint32)   { c.bits.Store(c.bits.Load() | bits) }
func (c *Conn) unset(bits uint32) { c.bits.Store(c.bits.Load() &^ bits) }

// A readTimer bounds the silence of a peer. It is apart from connExtra because many
// connections have it and nothing else.
type readTimer struct {
	timer Timer
	last  atomic.Int64 // when something was read, since Run
}

// connExtra is what few connections need. Guarded by the lock unless it says
// something else.
type connExtra struct {
	network, address string   // as dialed
	local, remote    net.Addr // if hasAddrs is set; see Conn.addrs
	hasAddrs         bool
	foreign          net.Conn           // what was attached, or is below its TLS, if it is foreign
	cancel           context.CancelFunc // ends a dial or a handshake
	connected        *Future[*Conn]
	detached         *Future[net.Conn]
	upgrade          *tlsUpgrade
	sink             sink   // takes the data instead of OnData
	release          func() // gives the place in an HTTP server back
	unread           []byte // given back by Unread
	failure          error  // of a connection that is not being read; for failureTask

	flushed       []flushWaiter
	written, sent uint64     // bytes, counted from the first Flushed on
	onLow         []*onLow   // called when the output falls to half of the mark, and at the end
	high          *highWater // while output is over HighWater

	closeTimer   *Timer // see boundClose
	readerTimer  *Timer // see noReader
	readTimeout  time.Duration
	writeTimeout time.Duration
	ownTimeouts  bool // SetTimeouts was called

	next     *sockio.Buffer    // read by probe. Only of the goroutine
	released net.Conn          // of the goroutine, then of goneTask
	untold   *Future[struct{}] // an error that a task may come for. Only on the loop
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

// Dial begins to connect to address and returns at once; OnConnect tells when
// the connection is up, OnEvent if it fails (tcp-send). The network is "tcp",
// "tcp4", "tcp6" or "unix". Host names are resolved by the loop's resolver, and
// all their addresses are tried (RFC 8305). Data may be written at once; it is
// sent, in order, when the connection is up. ctx cancels the attempt and has no
// meaning once the connection is up.
//
// An unknown network, a malformed address, or a loop that does not run is
// reported by the returned error, and then no callback is called.
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
		cancel() // the loop ended meanwhile, and found nothing to cancel
	}
	c.core.Unlock()
	l.wg.Add(1)
	go c.readerSide().dial(ctx, cancel, network, address)
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
// be used by other code from then on. OnConnect is called in a later turn. With
// ConnConfig.TLS set, a handshake comes first, as a client unless TLSServer is set.
// On error nc is left alone.
func (l *Loop) Adopt(nc net.Conn, cfg *ConnConfig) (*Conn, error) {
	if isNilConn(nc) {
		return nil, errors.New("eventloop: Adopt of a nil connection")
	}
	conf := cfg.withDefaults()
	c, err := l.newConn(conf, kindConnIn, nil)
	if err != nil {
		return nil, err
	}
	if !isForeign(nc) { // its addresses can be asked for at once
		c.core.Attach(nc, false)
	}
	l.wg.Add(1)
	go c.readerSide().adopted(nc, conf.TLS, !conf.TLSServer, false)
	return c, nil
}

// dial connects and then lets serve run on a goroutine of its own: dialing needs
// a deep stack, and a goroutine keeps the stack that it has grown.
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
	if asks := cr.noteForeign(nc); needsTLS(nc, conf) || asks {
		err = cr.prepare(ctx, nc, conf, true, asks)
	}
	cr.up(err)
}

// connect connects for Dial, by ConnConfig.Dial if there is one.
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
	nc.SetDeadline(noDeadline) // of its life before
	return nc, nil
}

// adopted brings up a connection that was accepted or adopted. ours says that
// no other code has nc.
func (cr *connReader) adopted(nc net.Conn, conf *tls.Config, client, ours bool) {
	c := (*Conn)(cr)
	defer c.loop.wg.Done()
	nc = guardConn(unguarded(nc), c.panicked)
	if !ours {
		nc.SetDeadline(noDeadline) // of its life before
	}
	c.core.Lock()
	attached := c.core.NetConn() != nil
	c.core.Unlock()
	if !attached {
		c.core.Attach(nc, ours)
	}
	asks := cr.noteForeign(nc)
	if !asks && !needsTLS(nc, conf) {
		cr.up(nil)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.core.Lock()
	if c.life >= lifeClosing && !c.owes() {
		cancel()
	}
	c.extra().cancel = cancel
	c.core.Unlock()
	cr.up(cr.prepare(ctx, nc, conf, client, asks))
}

// noteForeign remembers that nc is foreign, if it is, and reports whether it has to
// be asked for its addresses.
func (cr *connReader) noteForeign(nc net.Conn) (asks bool) {
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

// needsTLS reports whether nc is up only after a handshake.
func needsTLS(nc net.Conn, conf *tls.Config) bool {
	_, isTLS := nc.(*tls.Conn)
	return isTLS || conf != nil
}

// prepare does what comes between the connection and OnConnect.
func (cr *connReader) prepare(ctx context.Context, nc net.Conn, conf *tls.Config, client, asks bool) error {
	if asks {
		if err := cr.askAddrs(ctx, nc); err != nil {
			return err
		}
	}
	if !needsTLS(nc, conf) {
		return nil
	}
	return cr.handshake(ctx, conf, client, nil)
}

// askAddrs asks a foreign connection for its addresses, with the bound of a
// handshake: its RemoteAddr may wait for the peer, as where it comes from the header
// of the PROXY protocol.
func (cr *connReader) askAddrs(ctx context.Context, nc net.Conn) error {
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
	if err != nil { // of what is below TLS
		c.panicked(OpAddr, err)
	}
	cr.setAddrs(local, remote)
	return nil
}

// up starts the goroutine of a connection that is open now, unless its handshake
// has failed.
func (cr *connReader) up(err error) {
	c := (*Conn)(cr)
	if err != nil {
		cr.connectFailed(OpHandshake, err)
		return
	}
	c.core.Lock()
	c.facts |= factUp
	if c.life == lifeConnecting {
		c.life = lifeOpen
	}
	c.core.Unlock()
	c.loop.send((*upTask)(c))
	c.core.Open()  // only now: no OnDrain before OnConnect
	c.core.Start() // and it may end the connection, when what was written is sent
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
		c.core.Cut(false) // there is no alert to be sent
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
		c.loop.send((*goneTask)(c))
	}
}

// extra returns c.x, which it makes if need be. The caller holds the lock.
func (c *Conn) extra() *connExtra {
	x := c.x.Load()
	if x == nil {
		x = &connExtra{}
		c.x.Store(x)
	}
	return x
}

// SetCallbacks replaces the callbacks of c by those of cfg that are not nil,
// from the next event on. Its other fields are ignored. With a new OnData, bytes
// that were held or given back by Unread are delivered in a later turn.
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

// Connected returns a future that succeeds when the connection is up, and fails
// if it cannot be, or is closed before. Its callbacks, and tasks that wait for it,
// run after OnConnect and before any data is delivered. The future reports a failure,
// so without OnEvent the failure is not reported otherwise.
func (c *Conn) Connected() *Future[*Conn] {
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	if x.connected == nil {
		x.connected = looseFuture[*Conn](c.loop)
		switch {
		case c.life >= lifeClosing || c.reasons.why() != nil:
			x.connected.resolve(nil, c.closedError())
		case c.life == lifeOpen:
			x.connected.resolve(c, nil)
		}
	}
	return x.connected
}

// closedError is the error for who asks something of a connection that is gone.
// The caller holds the lock.
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

// Err returns why the connection ended: nil while it is open and after Close or
// Abort, io.EOF if the peer ended it, otherwise the error that OnEvent was told. In
// OnClose and afterwards it matches [ErrLost], and is a [*LostError], if the
// connection was closed otherwise than by Abort or an error and output could not
// be delivered: the peer took too long or reset the connection, or the loop was
// stopped. On Linux and macOS delivered means acknowledged by the peer's kernel;
// elsewhere it means accepted by our own.
func (c *Conn) Err() error {
	c.core.Lock()
	defer c.core.Unlock()
	return c.reasons.why()
}

// Data returns what SetData stored, nil before (socket-data).
func (c *Conn) Data() any {
	c.core.Lock()
	defer c.core.Unlock()
	return c.data
}

// SetData stores a value of the application with the connection.
func (c *Conn) SetData(v any) {
	c.core.Lock()
	defer c.core.Unlock()
	c.data = v
}

// addrs returns the addresses, or nil. Those of a foreign net.Conn are asked once,
// before OnConnect, and kept. The caller holds the lock.
func (c *Conn) addrs() (local, remote net.Addr) {
	if x := c.x.Load(); x != nil && (x.hasAddrs || x.foreign != nil) {
		return x.local, x.remote
	}
	if nc := c.core.NetConn(); nc != nil {
		return nc.LocalAddr(), nc.RemoteAddr()
	}
	return nil, nil
}

// setAddrs keeps addresses for addrs.
func (cr *connReader) setAddrs(local, remote net.Addr) {
	c := (*Conn)(cr)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	x.local, x.remote, x.hasAddrs = local, remote, true
}

// LocalAddr returns the local address, or nil if the connection is not up yet. That
// of an adopted connection of package net is there at once.
func (c *Conn) LocalAddr() net.Addr {
	c.core.Lock()
	defer c.core.Unlock()
	local, _ := c.addrs()
	return local
}

// RemoteAddr returns the address of the peer, or nil if the connection is not up
// yet. That of an adopted connection of package net is there at once. It is still
// there in OnClose. Of any other net.Conn, RemoteAddr and LocalAddr are called once,
// on a goroutine of the connection and before OnConnect; they may wait for the peer
// for as long as a TLS handshake may.
func (c *Conn) RemoteAddr() net.Addr {
	c.core.Lock()
	defer c.core.Unlock()
	_, remote := c.addrs()
	return remote
}

// TLS returns the state of TLS; ok is false if the connection has none, or its
// handshake is not over.
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

// SyscallConn returns access to the descriptor, to set socket options for
// example. Reading and writing with it takes bytes away from the connection.
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

// peer describes the other end in errors. The caller holds the lock.
func (c *Conn) peer() (network, address string) {
	if x := c.x.Load(); x != nil && x.network != "" {
		return x.network, x.address
	}
	if _, remote := c.addrs(); remote != nil {
		return remote.Network(), remote.String()
	}
	return "", ""
}

// opError wraps err as the error of an operation of c, once.
func (c *Conn) opError(op string, err error) error {
	var oe *OpError
	if errors.As(err, &oe) {
		return err
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.opErrorLocked(op, err)
}

// opErrorLocked returns err as the error of an operation of c. The caller holds the
// lock.
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
