package eventloop

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An HTTPServerConfig holds the settings of an HTTP server. The server copies it. The zero
// HTTPServerConfig and a nil *HTTPServerConfig select the defaults. They are safe on the
// public internet: timeouts and limits are on.
type HTTPServerConfig struct {
	// TLS, if not nil, makes the server an HTTPS server. The server copies it. In ALPN
	// the server offers http/1.1, http/1.0 and the other protocols of NextProtos, but
	// never h2, which it does not support. So the tls.Config of
	// golang.org/x/crypto/acme/autocert works unchanged. The configs that
	// GetConfigForClient returns are treated in the same way.
	TLS *tls.Config

	// ReadHeaderTimeout limits the time from the first byte of a request to the end of
	// its header, the wait for the first byte on a new connection, and the TLS handshake.
	// If the header is late, the client gets a 408. Zero: 10 s. Negative: no limit.
	ReadHeaderTimeout time.Duration

	// ReadTimeout limits the time from the end of the header to the end of the body. If
	// the body is late, the client gets a 408. For a streamed body it limits each wait for
	// more, and does not run while the application wants no more; see [HTTPRequest.OnBody]
	// for other responses. Zero: 60 s. Negative: no limit.
	ReadTimeout time.Duration

	// WriteTimeout closes a connection if output is pending and the client has taken none
	// of it for WriteTimeout. Zero: 30 s. Negative: no limit.
	WriteTimeout time.Duration

	// IdleTimeout closes a connection on which no request has arrived for IdleTimeout, or
	// up to a tenth longer. Zero: 75 s. Load balancers keep an idle connection for 60 s
	// (AWS, and nginx as a proxy), and no request is lost if the load balancer closes the
	// connection first. Negative: no limit.
	IdleTimeout time.Duration

	// ResponseTimeout limits the time until the application begins a response. If it has
	// neither responded nor begun a stream by then, the client gets a 503, and OnEvent
	// gets an error that matches [ErrTimeout]. Zero or negative: no limit.
	ResponseTimeout time.Duration

	// MaxHeaderBytes limits the size of the request line and the header fields together.
	// If they are longer, the client gets a 431, or a 414 if the request line alone is too
	// long. Zero or negative: 16 KB.
	MaxHeaderBytes int

	// MaxBodyBytes limits the size of a request body, streamed or not. If the body is
	// longer, the client gets a 413, unless the application responds to a streamed body in
	// another way: see [HTTPRequest.OnBody]. Zero: 4 MB. Negative: no limit.
	MaxBodyBytes int64

	// MaxInlineBody makes streams of the bodies that are longer than MaxInlineBody bytes:
	// the handler is called before the body has arrived, and reads it with
	// [HTTPRequest.OnBody]. Zero or negative: no body is a stream.
	MaxInlineBody int64

	// MaxConns limits the number of open connections, including upgraded ones. At the
	// limit, the server accepts no connections. Zero or negative: only the limit of the
	// system.
	MaxConns int

	// MaxConnsPerIP limits the number of open connections per IP address, including
	// upgraded ones. Connections above the limit are closed; on Linux and without TLS,
	// the client first gets a 429. Clients without an IP address are not counted. Zero or
	// negative: no limit.
	MaxConnsPerIP int

	// MaxRequestsPerConn closes a connection after MaxRequestsPerConn requests. Zero or
	// negative: no limit.
	MaxRequestsPerConn int

	// HighWater and MaxBuffered apply to streamed responses as the fields of [ConnConfig]
	// apply to connections. Zero: 256 KB and 64 MB. Negative: no limit.
	HighWater, MaxBuffered int

	// AllowHalfOpen keeps the context of a request alive when its client ends its own
	// side of the connection. A client that still waits for the response may do that. By
	// default the context ends, as in net/http, because a client that has closed its
	// connection looks the same. With either setting, OnAbort gets io.EOF, and the
	// response is sent.
	AllowHalfOpen bool

	// Backlog and ReusePort have the meaning of the fields in [ListenConfig], for
	// ListenHTTP.
	Backlog   int
	ReusePort bool

	// OnAcceptError is called on the loop with each accept error, an [*OpError] with Op
	// [OpAccept]. The server accepts again after a pause of 5 ms at first, and of one
	// second at most. If OnAcceptError is nil, the error goes to Config.EventHandler.
	OnAcceptError func(s *HTTPServer, err error)

	// OnEvent is called on the loop with each error of a connection or request that no
	// other callback gets: a failed TLS handshake, a response that could not be written, a
	// panic in the handler or in a callback of a request or its response (with
	// Config.CatchPanics), a panic in an http.Handler, a ResponseTimeout. If OnEvent is
	// nil, the error goes to Config.EventHandler, which by default only logs it.
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

// withDefaults returns a copy of cfg with the defaults filled in. Timeouts and byte limits
// that are off become zero.
func (cfg *HTTPServerConfig) withDefaults() *HTTPServerConfig {
	c := HTTPServerConfig{}
	if cfg != nil {
		c = *cfg
	}
	c.ReadHeaderTimeout = timeLimit(c.ReadHeaderTimeout, defaultReadHeaderTimeout)
	c.ReadTimeout = timeLimit(c.ReadTimeout, defaultReadTimeout)
	c.WriteTimeout = timeLimit(c.WriteTimeout, defaultHTTPWriteTimeout)
	c.IdleTimeout = timeLimit(c.IdleTimeout, defaultIdleTimeout)
	c.ResponseTimeout = timeLimit(c.ResponseTimeout, 0)
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

// offerHTTP1 returns a copy of conf that negotiates http/1.1, http/1.0 and the other
// protocols of conf, such as acme-tls/1, but not h2.
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

// maxTimeLimit is the longest timeout, so that a deadline, which is a time plus a timeout
// and perhaps a tenth of it, does not overflow.
const maxTimeLimit = 100 * 365 * 24 * time.Hour

// timeLimit resolves a timeout setting. Zero selects the default. A negative d means no
// timeout, and becomes zero.
func timeLimit(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return min(max(d, 0), maxTimeLimit)
}

// An HTTPServer serves HTTP/1.1 and HTTP/1.0 to the clients of a listener. It calls its
// handler on the loop with each request. It keeps the loop alive until it is closed and
// the last response is sent, unless it is unref'd. All methods may be called from any
// goroutine and from any callback.
type HTTPServer struct {
	handle
	acceptor
	cfg     *HTTPServerConfig
	handler func(r *HTTPRequest)
	closing atomic.Bool // set with mu held

	mu      sync.Mutex // guards the fields below
	conns   map[*httpConn]struct{}
	perIP   map[netip.Addr]int
	stopped bool  // the acceptor has ended
	gone    bool  // the acceptor and the last connection have ended
	forced  error // why connections were closed by force
	waiters []*Future[struct{}]
	graces  []*Timer // of Shutdown
}

// ListenHTTP listens on a local TCP address and calls h on the loop with each request
// (http-server). With an empty host it listens on 0.0.0.0. Port 0 selects a free port;
// see [HTTPServer.Addr]. ListenHTTP returns an [*OpError] if the address is invalid or
// in use, [ErrNotRunning] before Run, [ErrLoopClosed] after the end of the loop, and an
// error if h is nil.
//
// h responds with [HTTPRequest.Respond] or [HTTPRequest.RespondStream], before it returns
// or at any later time.
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

// ServeHTTP is like ListenHTTP for an existing listener of any kind: unix sockets, TLS,
// and connections that are not sockets. The listener is closed with the server. If
// ServeHTTP returns an error, ln stays open.
func (l *Loop) ServeHTTP(ln net.Listener, h func(r *HTTPRequest), cfg *HTTPServerConfig) (*HTTPServer, error) {
	if isNil(ln) {
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

// Addr returns the listener's address, with the actual port.
func (s *HTTPServer) Addr() net.Addr { return s.addr }

// Close closes the server gracefully (close-http-server): it frees the address, closes
// idle connections, and closes the other connections when the responses to their requests
// are complete. These responses announce it with "Connection: close". Close does not
// wait; see Shutdown for that. It returns net.ErrClosed if the server is closed already,
// by Close, by Shutdown or with the loop, and nil otherwise.
func (s *HTTPServer) Close() error {
	s.mu.Lock()
	if s.closing.Swap(true) {
		s.mu.Unlock()
		return net.ErrClosed
	}
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	s.stop()
	for _, c := range conns {
		c.endIdleWait()
		c.announceLast()
	}
	return nil
}

// Shutdown is like Close, with a time limit, as in [Loop.Shutdown]. The future succeeds
// when the last connection is closed. If grace ends before that, the remaining
// connections are closed by force, requests without a response are lost, and the future
// fails with an error that matches [ErrForced] and names the clients. If grace is zero,
// connections are closed by force at once. If grace is negative, there is no limit. After
// a second call, the shorter remaining grace applies.
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

// force closes the remaining connections by force at the end of the grace period.
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

// cut closes the server by force. why is nil if no response is lost.
func (s *HTTPServer) cut(why error) {
	s.Close()
	s.mu.Lock()
	if s.forced == nil {
		s.forced = why
	}
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.cut(cmp.Or(why, ErrForced))
	}
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
		s.rejectExcess(nc)
	default:
		l.count.httpConns.Add(1)
		c.core.Start()
	}
}

// countIP adds by, 1 or -1, to the number of connections from addr. It reports whether
// the connection may be open. The caller holds s.mu.
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

// remove removes a connection that is closed, or has left the server by Upgrade.
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
		s.loop.send((*httpServerClosedTask)(s))
	}
}

// release stops counting a connection for MaxConns and MaxConnsPerIP.
func (s *HTTPServer) release(ip netip.Addr) {
	s.mu.Lock()
	s.countIP(ip, -1)
	s.mu.Unlock()
	s.connClosed()
}

// isGone reports, once, whether the acceptor and all connections have ended. The caller
// holds s.mu.
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
		s.loop.send((*httpServerClosedTask)(s))
	}
}

// maxAhead returns how many bytes of further requests are read before the response to the
// current one is complete.
func (s *HTTPServer) maxAhead() int { return max(s.cfg.MaxHeaderBytes, headRead) }

// Tasks of a server.
type (
	httpServerClosedTask HTTPServer
	httpAcceptErrTask    struct {
		s   *HTTPServer
		err error
	}
	httpErrTask struct {
		c   *httpConn
		err error
	}
)

func (t *httpServerClosedTask) run() {
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
	s.loop.postReport(func() { httpAcceptErrTask{s, &OpError{Op: op, Err: err}}.run() })
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

// event reports an error of a connection or a request. On the loop.
func (s *HTTPServer) event(err error) {
	if !s.loop.tookPanic(err, false) {
		s.deliverEvent(err)
	}
}

// deliverEvent is like event, but a panic does not concern the loop.
func (s *HTTPServer) deliverEvent(err error) {
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
