package eventloop

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An HTTPServerConfig holds the settings of an HTTP server. It is copied. The
// zero HTTPServerConfig, and nil where a *HTTPServerConfig is asked for, mean
// the defaults, which are safe on the public internet: timeouts and limits are on.
type HTTPServerConfig struct {
	// TLS, if not nil, makes it a server of https. It is copied. In ALPN the
	// server offers http/1.1, http/1.0 and what else NextProtos has, but never h2, which it
	// does not speak: the tls.Config of golang.org/x/crypto/acme/autocert can be
	// used as it is. The same goes for what GetConfigForClient returns.
	TLS *tls.Config

	// ReadHeaderTimeout bounds the time from the first byte of a request to the
	// end of its header, the wait for the first byte on a new connection, and
	// the TLS handshake. A stalled header is answered with 408. Zero: 10 s.
	// Negative: no bound.
	ReadHeaderTimeout time.Duration

	// ReadTimeout bounds the time that the body takes to arrive, counted from
	// the end of the header; a stalled body is answered with 408. Of a body that
	// is taken as a stream it bounds each wait for more, and does not run while
	// the application wants none. Zero: 60 s. Negative: no bound.
	ReadTimeout time.Duration

	// WriteTimeout ends a connection when output is pending and the client took
	// none of it for so long. Zero: 30 s. Negative: no bound.
	WriteTimeout time.Duration

	// IdleTimeout closes a connection that sent no request for so long, or up to
	// a tenth longer. Zero: 75 s, because the load balancers in front keep an idle
	// connection for 60 s (AWS, and nginx as a proxy): whichever ends it second does
	// not lose a request. Negative: no bound.
	IdleTimeout time.Duration

	// ResponseTimeout bounds the time that the application takes to answer: a
	// request without an answer or a stream by then is answered with 503, and
	// OnEvent gets an [ErrTimeout]. Zero or negative: no bound.
	ResponseTimeout time.Duration

	// MaxHeaderBytes bounds the request line and the header fields together.
	// More is answered with 431, or 414 if it is the request line that does not
	// end. Zero or negative: 16 KB.
	MaxHeaderBytes int

	// MaxBodyBytes bounds the body of a request, also of one that is taken as a
	// stream. More is answered with 413. Zero: 4 MB. Negative: no bound.
	MaxBodyBytes int64

	// MaxInlineBody makes bodies longer than so many bytes streams: the handler
	// is called before they have arrived, and takes them with
	// [HTTPRequest.OnBody]. Zero or negative: all bodies are whole.
	MaxInlineBody int64

	// MaxConns bounds the open connections, upgraded ones included; while they
	// are all open nothing is accepted. Zero or negative: no bound but that of the
	// system.
	MaxConns int

	// MaxConnsPerIP bounds the open connections from one IP address, upgraded ones
	// included; those over it are closed, in the clear and on Linux after an answer of 429. Clients
	// without an IP address are not counted. Zero or negative: no bound.
	MaxConnsPerIP int

	// MaxRequestsPerConn closes a connection after so many requests. Zero or
	// negative: no bound.
	MaxRequestsPerConn int

	// HighWater and MaxBuffered are for streamed answers what they are for
	// connections in [ConnConfig]. Zero: 256 KB and 64 MB. Negative: no bound.
	HighWater, MaxBuffered int

	// AllowHalfOpen lets the context of a request go on when its client ends its own
	// side of the connection, as a client may do that still waits for the response.
	// By default that ends the context, as in net/http: a client that has closed its
	// connection altogether looks the same. Either way OnAbort is told io.EOF, and a
	// response is sent.
	AllowHalfOpen bool

	// Backlog and ReusePort are for ListenHTTP what they are in [ListenConfig].
	Backlog   int
	ReusePort bool

	// OnAcceptError is called on the loop with each failure to accept, an
	// [*OpError] with Op [OpAccept]. Accepting goes on after a pause, of 5 ms at
	// first and of a second at most. If nil the error goes to
	// Config.EventHandler.
	OnAcceptError func(s *HTTPServer, err error)

	// OnEvent is called on the loop with what went wrong with one connection or
	// request and has no callback of its own: a TLS handshake, an answer that
	// could not be written, a panic of the handler (with Config.CatchPanics) or of
	// one of net/http, a ResponseTimeout. If nil it goes to Config.EventHandler, which only logs it
	// by default.
	OnEvent func(s *HTTPServer, err error)
}

// Defaults of HTTPServerConfig.
const (
	defaultReadHeaderTimeout = 10 * time.Second
	defaultReadTimeout       = 60 * time.Second
	defaultHTTPWriteTimeout  = 30 * time.Second
	defaultIdleTimeout       = 75 * time.Second
	defaultMaxHeaderBytes    = 16 << 10
	defaultMaxBodyBytes      = 4 << 20
)

// withDefaults returns a copy of cfg in which defaults are resolved and what is
// switched off is zero.
func (cfg *HTTPServerConfig) withDefaults() *HTTPServerConfig {
	c := HTTPServerConfig{}
	if cfg != nil {
		c = *cfg
	}
	c.ReadHeaderTimeout = timeLimit(c.ReadHeaderTimeout, defaultReadHeaderTimeout)
	c.ReadTimeout = timeLimit(c.ReadTimeout, defaultReadTimeout)
	c.WriteTimeout = timeLimit(c.WriteTimeout, defaultHTTPWriteTimeout)
	c.IdleTimeout = timeLimit(c.IdleTimeout, defaultIdleTimeout)
	c.ResponseTimeout = max(c.ResponseTimeout, 0)
	if c.MaxHeaderBytes <= 0 {
		c.MaxHeaderBytes = defaultMaxHeaderBytes
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = defaultMaxBodyBytes
	}
	c.HighWater = limit(c.HighWater, defaultHighWater)
	c.MaxBuffered = limit(c.MaxBuffered, defaultMaxBuffered)
	if c.TLS != nil {
		c.TLS = offerHTTP1(c.TLS)
	}
	return &c
}

// offerHTTP1 returns a copy of conf that negotiates http/1.1, http/1.0 and what else
// conf offers, such as acme-tls/1, but not h2.
func offerHTTP1(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.NextProtos = slices.DeleteFunc(slices.Clone(conf.NextProtos), func(p string) bool { return p == "h2" })
	for _, p := range []string{"http/1.1", "http/1.0"} { // curl -0 offers only the latter
		if !slices.Contains(conf.NextProtos, p) {
			conf.NextProtos = append(conf.NextProtos, p)
		}
	}
	if get := conf.GetConfigForClient; get != nil {
		conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := get(hello)
			if err != nil || own == nil {
				return nil, err
			}
			return offerHTTP1(own), nil
		}
	}
	return conf
}

// timeLimit resolves a timeout of which zero is the default and negative is
// none, which becomes zero.
func timeLimit(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return max(d, 0)
}

// An HTTPServer serves HTTP/1.1 and HTTP/1.0 to the clients of a listener, and
// calls its handler on the loop with each request. It keeps the loop alive until
// it is closed and the last answer is out, unless it is unref'd. All methods may
// be called from any goroutine and from any callback.
type HTTPServer struct {
	handle
	acceptor
	cfg     *HTTPServerConfig
	handler func(r *HTTPRequest)
	closing atomic.Bool // under mu when it is set

	mu      sync.Mutex // guards the following
	conns   map[*httpConn]struct{}
	perIP   map[netip.Addr]int
	stopped bool  // the acceptor has ended
	gone    bool  // so has the last connection
	forced  error // why connections were cut
	waiters []*Future[struct{}]
	graces  []*Timer // of Shutdown
}

// ListenHTTP listens on a local TCP address and calls h on the loop with each
// request (http-server). With an empty host it listens on 0.0.0.0; port 0 means
// any free one, see [HTTPServer.Addr]. What is wrong with the address, or that
// it is in use, comes back here.
//
// h answers with [HTTPRequest.Respond] or [HTTPRequest.RespondStream], before it
// returns or any time later.
func (l *Loop) ListenHTTP(address string, h func(r *HTTPRequest), cfg *HTTPServerConfig) (*HTTPServer, error) {
	lc := ListenConfig{}
	if cfg != nil {
		lc.Backlog, lc.ReusePort = cfg.Backlog, cfg.ReusePort
	}
	if h == nil {
		return nil, errNilFunc
	}
	fail := func(err error) (*HTTPServer, error) {
		return nil, &OpError{Op: OpListen, Net: "tcp", Addr: address, Err: err}
	}
	if err := checkAddress("tcp", address); err != nil {
		return fail(err)
	}
	if err := l.mayOpen(); err != nil {
		return nil, err
	}
	ln, err := lc.listen("tcp", address)
	if err != nil {
		return fail(err)
	}
	s, err := l.ServeHTTP(ln, h, cfg)
	if err != nil {
		ln.Close()
	}
	return s, err
}

// ServeHTTP is ListenHTTP for a listener of an existing service, of any kind:
// unix sockets, TLS, and connections that are no sockets at all. The listener is
// closed with the server. On error ln is left alone.
func (l *Loop) ServeHTTP(ln net.Listener, h func(r *HTTPRequest), cfg *HTTPServerConfig) (*HTTPServer, error) {
	if ln == nil {
		return nil, errors.New("eventloop: ServeHTTP of a nil listener")
	}
	if h == nil {
		return nil, errNilFunc
	}
	s := &HTTPServer{
		cfg:     cfg.withDefaults(),
		handler: h,
		conns:   make(map[*httpConn]struct{}),
		perIP:   make(map[netip.Addr]int),
	}
	s.loop = l // for panicked
	s.acceptor.init(l, s, guardListener(ln, s.panicked), s.cfg.MaxConns)
	if err := l.register(&s.handle, s, kindHTTPServer, false); err != nil {
		return nil, err
	}
	l.wg.Add(1)
	go s.accept()
	return s, nil
}

// Addr returns the address that is listened on, with the port that was chosen.
func (s *HTTPServer) Addr() net.Addr { return s.addr }

// Close closes the server gracefully (close-http-server): it frees the address,
// closes idle connections, and closes the others as soon as their requests are
// answered, of which the answers tell the clients. It does not wait; see
// Shutdown for that. It returns net.ErrClosed if the server is closed already, by
// Close, by Shutdown or with the loop, and nil otherwise.
func (s *HTTPServer) Close() error {
	s.mu.Lock()
	if s.closing.Swap(true) {
		s.mu.Unlock()
		return net.ErrClosed
	}
	conns := s.connList()
	s.mu.Unlock()
	s.stop()
	for _, c := range conns {
		c.poke()
		c.announceLast()
	}
	return nil
}

// Shutdown is Close with a bound, and by the rule of [Loop.Shutdown]: the future
// succeeds when the last connection is closed. When grace is over before that,
// connections are cut, requests without a response are lost, and the future fails
// with an error that matches [ErrForced] and names the clients. A grace of zero
// cuts at once; with a negative one Shutdown waits without limit. After a second
// call the shorter remaining grace counts.
func (s *HTTPServer) Shutdown(grace time.Duration) *Future[struct{}] {
	f := newFuture[struct{}](s.loop, kindFuture)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		f.resolve(struct{}{}, nil)
		return f
	}
	s.waiters = append(s.waiters, f)
	if grace > 0 {
		t := s.loop.AfterFunc(grace, s.force)
		t.Unref()
		s.graces = append(s.graces, t)
	}
	s.mu.Unlock()
	s.Close()
	if grace == 0 {
		s.force()
	}
	return f
}

// force cuts the connections at the end of the grace period.
func (s *HTTPServer) force() {
	s.mu.Lock()
	var cut []string
	for c := range s.conns {
		if !c.isSpare() {
			cut = append(cut, c.name())
		}
	}
	s.mu.Unlock()
	var why error
	if len(cut) > 0 {
		slices.Sort(cut)
		why = fmt.Errorf("%w: %s", ErrForced, listed(cut))
	}
	s.cut(why)
}

// cut closes the server by force. why is nil if no response is lost by that.
func (s *HTTPServer) cut(why error) {
	s.Close()
	s.mu.Lock()
	if s.forced == nil {
		s.forced = why
	}
	conns := s.connList()
	s.mu.Unlock()
	for _, c := range conns {
		c.cut(cmp.Or(why, ErrForced))
	}
}

// connList returns the connections. The caller holds s.mu.
func (s *HTTPServer) connList() []*httpConn {
	conns := make([]*httpConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

func (s *HTTPServer) terminate()       { s.cut(ErrLoopClosed) }
func (s *HTTPServer) shutdown()        { s.Close() }
func (s *HTTPServer) describe() string { return addrName(s.addr) }

// isSpare implements spareable.
func (s *HTTPServer) isSpare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.isSpare() {
			return false
		}
	}
	return true
}

// accepted makes nc a connection of the server.
func (s *HTTPServer) accepted(nc net.Conn) {
	l := s.loop
	l.count.accepted.Add(1)
	c := newHTTPConn(s, nc)
	s.mu.Lock()
	closing, tooMany := s.closing.Load(), false
	if !closing {
		if tooMany = !s.countIP(c.ip(), 1); !tooMany {
			s.conns[c] = struct{}{}
			s.opened()
		}
	}
	s.mu.Unlock()
	switch {
	case closing:
		l.count.dropped.Add(1)
		l.closeConn(nc)
	case tooMany:
		l.count.dropped.Add(1)
		l.count.httpDropped.Add(1)
		s.turnAway(nc)
	default:
		l.count.httpConns.Add(1)
		c.core.Start()
	}
}

// countIP counts a connection of addr, or with -1 the end of one, and reports
// whether it may be open. The caller holds s.mu.
func (s *HTTPServer) countIP(addr netip.Addr, by int) bool {
	if s.cfg.MaxConnsPerIP <= 0 || !addr.IsValid() {
		return true
	}
	n := s.perIP[addr] + by
	switch {
	case by > 0 && n > s.cfg.MaxConnsPerIP:
		return false
	case n <= 0:
		delete(s.perIP, addr)
	default:
		s.perIP[addr] = n
	}
	return true
}

// remove forgets a connection that is closed, or has left the server by Upgrade.
func (s *HTTPServer) remove(c *httpConn) {
	s.loop.count.httpConns.Add(-1)
	s.mu.Lock()
	delete(s.conns, c)
	last := s.isGone()
	s.mu.Unlock()
	if !c.upgraded {
		s.release(c.ip())
	}
	if last {
		s.loop.send((*httpServerGoneTask)(s))
	}
}

// release gives the place of a connection back that counted for MaxConns and
// MaxConnsPerIP.
func (s *HTTPServer) release(ip netip.Addr) {
	s.mu.Lock()
	s.countIP(ip, -1)
	s.mu.Unlock()
	s.connGone()
}

// isGone reports, once, whether nothing of the server is left. The caller holds
// s.mu.
func (s *HTTPServer) isGone() bool {
	if s.gone || !s.stopped || len(s.conns) > 0 {
		return false
	}
	s.gone = true
	return true
}

func (s *HTTPServer) acceptFailed(err error) {
	s.loop.send(httpAcceptErrTask{s, s.acceptError(err)})
}

func (s *HTTPServer) acceptEnded() {
	s.Close() // the listener may have ended by itself
	s.mu.Lock()
	s.stopped = true
	last := s.isGone()
	s.mu.Unlock()
	if last {
		s.loop.send((*httpServerGoneTask)(s))
	}
}

// maxAhead is how much of further requests is read while one is being answered.
func (s *HTTPServer) maxAhead() int { return max(s.cfg.MaxHeaderBytes, headRead) }

// Tasks of a server.
type (
	httpServerGoneTask HTTPServer
	httpAcceptErrTask  struct {
		s   *HTTPServer
		err error
	}
	httpErrTask struct {
		c   *httpConn
		err error
	}
)

func (t *httpServerGoneTask) run() {
	s := (*HTTPServer)(t)
	s.mu.Lock()
	waiters, graces, err := s.waiters, s.graces, s.forced
	s.waiters, s.graces = nil, nil
	s.mu.Unlock()
	for _, t := range graces {
		t.Stop()
	}
	for _, f := range waiters {
		if err != nil {
			f.fail(err)
		} else {
			f.resolve(struct{}{}, nil)
		}
	}
	s.loop.unregister(&s.handle)
}

// panicked reports a panic of a foreign listener outside Accept.
func (s *HTTPServer) panicked(op string, err error) {
	s.loop.stray(func() { httpAcceptErrTask{s, &OpError{Op: op, Err: err}}.run() })
}

func (t httpAcceptErrTask) run() {
	s, l := t.s, t.s.loop
	if l.tookPanic(t.err, s.closing.Load()) {
		return
	}
	l.count.errors.Add(1)
	switch f := s.cfg.OnAcceptError; {
	case l.ended.Load():
	case f != nil:
		l.callEvent(func() { f(s, t.err) })
	default:
		l.event(t.err, true)
	}
}

func (t httpErrTask) run() { t.c.s.event(t.err) }

// event delivers what went wrong with a connection or a request. On the loop.
func (s *HTTPServer) event(err error) {
	if !s.loop.tookPanic(err, false) {
		s.tell(err)
	}
}

// tell is event for a panic that is no concern of the loop.
func (s *HTTPServer) tell(err error) {
	l := s.loop
	if !IsInfo(err) {
		l.count.errors.Add(1)
	}
	switch f := s.cfg.OnEvent; {
	case l.ended.Load():
	case f != nil:
		l.callEvent(func() { f(s, err) })
	default:
		l.event(err, true)
	}
}

// addrIP returns the IP address of a, or the zero Addr if it has none.
func addrIP(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
