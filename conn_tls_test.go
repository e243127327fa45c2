package eventloop_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// serverConf has a self-signed certificate for example.test, clientConf trusts
// it.
var serverConf, clientConf = testTLS()

func testTLS() (server, client *tls.Config) {
	cert, roots := newCertificate("example.test")
	server = &tls.Config{Certificates: []tls.Certificate{cert}}
	client = &tls.Config{RootCAs: roots, ServerName: "example.test"}
	return server, client
}

// newCertificate returns a certificate for names and 127.0.0.1, and what trusts
// it: it is its own authority.
func newCertificate(names ...string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		DNSNames:              names,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Unix(0, 0), // also in the time of a bubble
		NotAfter:              time.Unix(1<<33, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// tlsClient returns the client side of TLS on a blocking peer.
func tlsClient(nc net.Conn) *tls.Conn { return tls.Client(nc, clientConf) }

func textLogger(b *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// tlsEcho returns the address of a loop's TLS echo server.
func tlsEcho(t testing.TB, l *eventloop.Loop, conf *tls.Config) (addr string, r *tape) {
	t.Helper()
	r, cfg := newTape(echo())
	cfg.TLS = conf
	ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), r
}

func TestConnTLSEchoWithServerNameAndALPN(t *testing.T) {
	l, _ := startLoop(t, nil)
	var sni string
	server := serverConf.Clone()
	server.NextProtos = []string{"h2", "test"}
	server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		sni = h.ServerName
		return nil, nil
	}
	addr, rs := tlsEcho(t, l, server)
	client := clientConf.Clone()
	client.NextProtos = []string{"test"}
	r, cfg := newTape(&eventloop.ConnConfig{
		TLS: client,
		OnConnect: func(c *eventloop.Conn) {
			state, ok := c.TLS()
			wantEqual(t, "TLS", ok, true)
			wantEqual(t, "handshake complete in OnConnect", state.HandshakeComplete, true)
			wantEqual(t, "ALPN", state.NegotiatedProtocol, "test")
		},
		OnData: func(c *eventloop.Conn, data []byte) { c.Close() },
	})
	c, err := l.Dial(context.Background(), "tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.WriteString("early")
	r.wait(t)
	rs.wait(t)
	wantEqual(t, "echo", r.received(), "early")
	wantEqual(t, "end at the server, by close_notify", rs.event(t), io.EOF)
	wantEqual(t, "SNI", sni, "example.test")
}

func TestConnTLSVerifiesByDefault(t *testing.T) {
	l, _ := startLoop(t, nil)
	addr, rs := tlsEcho(t, l, serverConf)
	r, cfg := newTape(&eventloop.ConnConfig{TLS: &tls.Config{}})
	if _, err := l.Dial(context.Background(), "tcp", addr, cfg); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "event close")
	err := r.event(t)
	var unknown x509.UnknownAuthorityError
	var oe *eventloop.OpError
	if !errors.As(err, &unknown) || !errors.As(err, &oe) || oe.Op != "handshake" || !errors.Is(err, eventloop.ErrConn) {
		t.Errorf("event = %v, want an unknown authority", err)
	}
	rs.wait(t) // the server is told by an alert
	wantEqual(t, "callbacks of the server", rs.order(), "event close")
}

func TestConnTLSVerifiesTheHostThatWasDialed(t *testing.T) {
	l, _ := startLoop(t, nil)
	addr, _ := tlsEcho(t, l, serverConf)
	good := &tls.Config{RootCAs: clientConf.RootCAs}
	r, cfg := newTape(&eventloop.ConnConfig{TLS: good, OnConnect: func(c *eventloop.Conn) { c.Close() }})
	l.Dial(context.Background(), "tcp", addr, cfg) // 127.0.0.1 is in the certificate
	r.wait(t)
	wantEqual(t, "callbacks", r.order(), "connect close")
	wantEqual(t, "the configuration is left alone", good.ServerName, "")

	bad := clientConf.Clone()
	bad.ServerName = "other.test"
	r, cfg = newTape(&eventloop.ConnConfig{TLS: bad})
	l.Dial(context.Background(), "tcp", addr, cfg)
	r.wait(t)
	var name x509.HostnameError
	if err := r.event(t); !errors.As(err, &name) {
		t.Errorf("event = %v, want a wrong host name", err)
	}
}

func TestConnTLSSendsTheServerNameWithoutVerificationToo(t *testing.T) {
	l, _ := startLoop(t, nil)
	names := make(chan string, 1)
	server := serverConf.Clone()
	server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}
	addr, _ := tlsEcho(t, l, server)
	_, port, _ := net.SplitHostPort(addr)
	r, cfg := newTape(&eventloop.ConnConfig{
		TLS:       &tls.Config{InsecureSkipVerify: true},
		OnConnect: func(c *eventloop.Conn) { c.Close() },
	})
	l.Dial(context.Background(), "tcp", net.JoinHostPort("localhost", port), cfg)
	r.wait(t)
	wantEqual(t, "SNI", wait(t, names, "handshake"), "localhost")
}

func TestConnTLSPeerThatTalksSomethingElse(t *testing.T) {
	l, _ := startLoop(t, nil)
	addr, rs := tlsEcho(t, l, serverConf)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n")
	rs.wait(t)
	wantEqual(t, "callbacks", rs.order(), "event close")
	var rh tls.RecordHeaderError
	if err := rs.event(t); !errors.As(err, &rh) {
		t.Errorf("event = %v", err)
	}
	idle(t, l)
}

func TestConnTLSEndInTheMiddleOfARecordIsNoCleanEnd(t *testing.T) {
	l, _ := startLoop(t, nil)
	nc, peer := tcpPair(t)
	r, cfg := newTape(&eventloop.ConnConfig{TLS: serverConf, TLSServer: true})
	l.Adopt(nc, cfg)
	tc := tlsClient(peer)
	io.WriteString(tc, "half a sente")
	eventually(func() bool { return r.count("data") > 0 })
	peer.Write([]byte{23, 3, 3, 0, 100, 1, 2, 3}) // below TLS: a record that is cut off
	peer.Close()
	r.wait(t)
	if err := r.event(t); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Errorf("event = %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestServeTLSListenerOfAnExistingService(t *testing.T) {
	l, _ := startLoop(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rs, cfg := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) {
			state, _ := c.TLS()
			wantEqual(t, "handshake complete in OnConnect", state.HandshakeComplete, true)
		},
		OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
	})
	ln, err := l.Serve(tls.NewListener(inner, serverConf), cfg)
	if err != nil {
		t.Fatal(err)
	}
	tc, err := tls.Dial("tcp", inner.Addr().String(), clientConf)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(tc, "hello")
	wantEqual(t, "echo", readString(t, tc, 5), "hello")
	tc.Close()
	rs.wait(t)
	ln.Close()

	// ConnectTimeout bounds the handshake here, too.
	if inner, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ln, err = l.Serve(tls.NewListener(inner, serverConf), &eventloop.ConnConfig{ConnectTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	mute := dialPeer(t, inner.Addr()) // never says a word
	wantEqual(t, "received", readAll(t, mute), "")
	ln.Close()
	idle(t, l)
}

func TestConnTLSAbortDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	l, _ := startLoop(t, nil)
	nc, peer := tcpPair(t)
	r, cfg := newTape(&eventloop.ConnConfig{TLS: serverConf, TLSServer: true})
	c, _ := l.Adopt(nc, cfg)
	if err := tlsClient(peer).Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Write(bytesOf(32 << 20))
	awaitBlocked(t, c)
	endure(t)
	c.Abort()
	r.wait(t)
	idle(t, l)
}

func TestConnPanicInACallbackOfTLSConfig(t *testing.T) {
	boom := serverConf.Clone()
	boom.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("boom") }
	dial := func(t *testing.T, l *eventloop.Loop) *tape {
		addr, r := tlsEcho(t, l, boom)
		l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{TLS: clientConf, OnEvent: func(*eventloop.Conn, error) {}})
		return r
	}
	t.Run("caught", func(t *testing.T) {
		l, _ := startLoop(t, &eventloop.Config{CatchPanics: true})
		r := dial(t, l)
		r.wait(t)
		var pe *eventloop.PanicError
		if err := r.event(t); !errors.As(err, &pe) || pe.Value != "boom" {
			t.Errorf("event = %v", err)
		}
	})
	t.Run("leaves Run", func(t *testing.T) {
		checkLeaks(t)
		v, _ := outcome(func() {
			eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error { dial(t, l); return nil })
		})
		if pe, ok := v.(*eventloop.PanicError); !ok || pe.Value != "boom" {
			t.Errorf("Run panicked with %v", v)
		}
	})
}

// startTLSServer answers "STARTTLS" by "go ahead" and TLS, and echoes after it.
func startTLSServer(t testing.TB, conf *tls.Config) *eventloop.ConnConfig {
	return &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
		if string(data) != "STARTTLS" {
			c.Write(data)
			return
		}
		c.WriteString("go ahead")
		c.StartTLS(conf).Then(func(s tls.ConnectionState, err error) {
			if err == nil {
				wantEqual(t, "HandshakeComplete", s.HandshakeComplete, true)
			}
		})
		c.WriteString("welcome ") // is sent under TLS
	}}
}

func TestConnStartTLSOnBothSides(t *testing.T) {
	for range 20 {
		l, end := startLoop(t, nil)
		rs, server := newTape(startTLSServer(t, serverConf))
		ln, err := l.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		r, client := newTape(&eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.WriteString("STARTTLS") },
			OnData: func(c *eventloop.Conn, data []byte) {
				if string(data) == "go ahead" {
					c.StartTLS(&tls.Config{RootCAs: clientConf.RootCAs}).Then(func(_ tls.ConnectionState, err error) {
						wantEqual(t, "StartTLS", err, nil)
						_, ok := c.TLS()
						wantEqual(t, "TLS", ok, true)
					})
					if _, err := c.StartTLS(clientConf).Result(); err == nil || err == eventloop.ErrPending {
						t.Errorf("second StartTLS = %v", err)
					}
					c.WriteString("secret")
				} else if strings.HasSuffix(string(data), "secret") {
					c.Close()
				}
			},
		})
		if _, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), client); err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		rs.wait(t)
		wantEqual(t, "the client's data", r.received(), "go aheadwelcome secret")
		wantEqual(t, "the server's data", rs.received(), "STARTTLSsecret")
		wantEqual(t, "the server's event", rs.event(t), io.EOF)
		ln.Close()
		idle(t, l)
		end()
	}
}

func TestConnStartTLSRolesOfAdoptedConnections(t *testing.T) {
	l, _ := startLoop(t, nil)
	a, b := tcpPair(t)
	ra, ca := newTape(&eventloop.ConnConfig{})
	rb, cb := newTape(&eventloop.ConnConfig{TLSServer: true})
	client, _ := l.Adopt(a, ca)
	server, _ := l.Adopt(b, cb)
	await(t, client.Connected())
	await(t, server.Connected())
	fs, fc := server.StartTLS(serverConf), client.StartTLS(clientConf)
	if _, err := await(t, fs); err != nil {
		t.Errorf("server: %v", err)
	}
	if _, err := await(t, fc); err != nil {
		t.Errorf("client: %v", err)
	}
	client.Close()
	ra.wait(t)
	rb.wait(t)
}

func TestConnStartTLSFailureEndsTheConnectionOnce(t *testing.T) {
	l, _ := startLoop(t, nil)
	rs, server := newTape(startTLSServer(t, serverConf))
	ln, err := l.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var got error
	r, client := newTape(&eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { c.WriteString("STARTTLS") },
		OnData: func(c *eventloop.Conn, data []byte) {
			c.StartTLS(&tls.Config{}).Then(func(_ tls.ConnectionState, err error) { got = err })
			c.WriteString("secret")
		},
	})
	if _, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), client); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	rs.wait(t)
	onLoop(t, l, func() {})
	var unknown x509.UnknownAuthorityError
	if err := r.event(t); !errors.As(err, &unknown) {
		t.Errorf("event = %v", err)
	} else {
		wantEqual(t, "StartTLS", got, err)
	}
	if strings.Contains(rs.received(), "secret") {
		t.Error("the secret was sent in the clear")
	}
	if err := rs.event(t); !strings.Contains(err.Error(), "remote error") {
		t.Errorf("event of the server = %v, want the alert of the client", err)
	}
	idle(t, l)
}

func TestConnStartTLSFailureGoesToWhoAsked(t *testing.T) {
	// A dialed connection without OnEvent: its errors end the loop, unless they are
	// reported in another way.
	var got error
	mustRun(t, nil, func(l *eventloop.Loop) {
		a, b := net.Pipe()
		l.Adopt(b, &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.WriteString("no TLS here") }})
		peers := servePeers(t)
		l.Dial(context.Background(), "tcp", peers.addr(), &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				c.StartTLS(clientConf).Then(func(_ tls.ConnectionState, err error) { got = err })
				background(t, func() {
					peer := peers.next(t)
					io.WriteString(peer, "this is not a handshake")
					io.ReadAll(peer)
				})
			},
		})
		a.Close()
	})
	if !errors.Is(got, eventloop.ErrConn) {
		t.Errorf("StartTLS = %v", got)
	}
}

func TestConnStartTLSBadInputLeavesTheConnectionAlone(t *testing.T) {
	l, _ := startLoop(t, nil)
	r, cfg := newTape(echo())
	c, peer := accept(t, l, cfg)
	var oe *eventloop.OpError
	if _, err := await(t, c.StartTLS(nil)); !errors.As(err, &oe) || oe.Op != "handshake" {
		t.Errorf("StartTLS(nil) = %v", err)
	}
	io.WriteString(peer, "hello")
	wantEqual(t, "echo", readString(t, peer, 5), "hello")
	peer.Close()
	r.wait(t)

	addr, _ := blackHole(t)
	r, cfg = newTape(nil)
	c, _ = l.Dial(context.Background(), "tcp", addr, cfg)
	if _, err := await(t, c.StartTLS(clientConf)); !errors.As(err, &oe) {
		t.Errorf("StartTLS while connecting = %v", err)
	}
	c.Abort()
	r.wait(t)
}

func TestConnStartTLSHandshakeIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		r, cfg := newTape(&eventloop.ConnConfig{ConnectTimeout: 700 * time.Millisecond, ReadTimeout: 100 * time.Millisecond})
		c, peer := adoptPipe(t, l, cfg)
		go io.Copy(io.Discard, peer)
		began := time.Now()
		f := c.StartTLS(clientConf)
		<-r.closed
		wantEqual(t, "time", time.Since(began), 700*time.Millisecond)
		err := r.event(t)
		if !errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("event = %v", err)
		}
		if _, got := f.Wait(context.Background()); got != err {
			t.Errorf("StartTLS = %v, want the event", got)
		}
		peer.Close()
	})
}

func TestConnCloseInTheMiddleOfStartTLS(t *testing.T) {
	t.Run("flushes what waits for the handshake", func(t *testing.T) {
		for range 50 {
			l, end := startLoop(t, nil)
			r, cfg := newTape(nil)
			c, peer := accept(t, l, cfg)
			onLoop(t, l, func() {
				c.WriteString("clear")
				c.StartTLS(serverConf)
				c.WriteString("secret")
				c.Close()
			})
			wantEqual(t, "in the clear", readString(t, peer, 5), "clear")
			tc := tlsClient(peer)
			wantEqual(t, "under TLS", readAll(t, tc), "secret")
			tc.Close()
			r.wait(t)
			wantEqual(t, "callbacks", r.order(), "connect close")
			idle(t, l)
			end()
		}
	})
	for _, abort := range []bool{true, false} {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			r, cfg := newTape(nil)
			c, peer := adoptPipe(t, l, cfg)
			began := time.Now()
			f := c.StartTLS(clientConf)
			synctest.Wait() // it waits for the peer to read its hello
			if abort {
				c.WriteString("dropped")
				c.Abort()
			} else {
				c.Close()
			}
			<-r.closed
			wantEqual(t, "time", time.Since(began), 0)
			wantEqual(t, "callbacks", r.order(), "connect close")
			if _, err := f.Wait(context.Background()); err == nil {
				t.Error("StartTLS succeeded")
			}
			peer.Close()
		})
	}
}

// The output in the clear that StartTLS has to send first does not leave, and the
// peer has ended its side: the connection can still be ended in every way.
func TestConnStartTLSThatWaitsForItsOutputCanBeEnded(t *testing.T) {
	ends := map[string]func(c *eventloop.Conn, cancel func()){
		"Stop":    func(c *eventloop.Conn, _ func()) { c.Loop().Stop() },
		"Abort":   func(c *eventloop.Conn, _ func()) { c.Abort() },
		"Close":   func(c *eventloop.Conn, _ func()) { c.Close() },
		"context": func(_ *eventloop.Conn, cancel func()) { cancel() },
		"both":    func(c *eventloop.Conn, _ func()) { c.Close(); c.Abort() },
	}
	for name, end := range ends {
		for _, style := range []string{"callbacks", "stream"} {
			for _, server := range []bool{true, false} {
				t.Run(fmt.Sprint(name, ", ", style, ", server ", server), func(t *testing.T) {
					checkLeaks(t)
					startTLSAfterEOF(t, style == "stream", server, end)
				})
			}
		}
	}
}

func startTLSAfterEOF(t *testing.T, stream, server bool, end func(c *eventloop.Conn, cancel func())) {
	ours, peer := tcpPair(t)
	peer.CloseWrite() // and it reads nothing
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conf, closed := clientConf, 0
	if server {
		conf = serverConf
	}
	l := eventloop.New(nil)
	watch(t, l)
	startTLS := func(c *eventloop.Conn) {
		c.SetTimeouts(0, 200*time.Millisecond) // not from the beginning: the end has to be read in time
		c.StartTLS(conf).Then(nil)
		l.AfterFunc(50*time.Millisecond, func() { end(c, cancel) })
	}
	cfg := &eventloop.ConnConfig{
		AllowHalfOpen: !stream, TLSServer: server, HighWater: -1,
		OnConnect: func(c *eventloop.Conn) { c.Write(make([]byte, 20<<20)) },
		OnEvent: func(c *eventloop.Conn, err error) {
			if err == io.EOF {
				startTLS(c)
			}
		},
		OnClose: func(*eventloop.Conn) { closed++ },
	}
	l.Post(func() {
		c, err := l.Adopt(ours, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		if stream {
			l.Go(context.Background(), func(task *eventloop.Task) error {
				if _, err := c.NetConn(task).Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("Read returned %v, want io.EOF", err)
				}
				startTLS(c)
				return nil
			})
		}
	})
	if err := l.Run(ctx); err != nil && err != context.Canceled {
		t.Errorf("Run returned %v", err)
	}
	wantEqual(t, "calls of OnClose", closed, 1)
	peer.Close()
}

func TestConnCloseWhileShakingHands(t *testing.T) {
	t.Run("gives up without output", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			r, cfg := newTape(&eventloop.ConnConfig{TLS: clientConf})
			c, peer := adoptPipe(t, l, cfg)
			synctest.Wait()
			began := time.Now()
			c.Close()
			<-r.closed
			wantEqual(t, "time", time.Since(began), 0)
			wantEqual(t, "callbacks", r.order(), "close")
			peer.Close()
		})
	})
	t.Run("finishes with output", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *eventloop.Loop) {
			r, cfg := newTape(&eventloop.ConnConfig{TLS: serverConf, TLSServer: true})
			c, peer := adoptPipe(t, l, cfg)
			c.WriteString("important")
			c.Close()
			wantEqual(t, "received", readAll(t, tlsClient(peer)), "important")
			peer.Close()
			<-r.closed
			wantEqual(t, "callbacks", r.order(), "close")
		})
	})
}

func newTLSServer(nc net.Conn) *tls.Conn { return tls.Server(nc, serverConf) }

// A tlsPeer is the server side of TLS that can be reset.
type tlsPeer struct{ *tls.Conn }

func (p tlsPeer) SetLinger(sec int) error { return p.NetConn().(*net.TCPConn).SetLinger(sec) }

// Close does not say goodbye where that would wait for a reader.
func (p tlsPeer) Close() error { return p.NetConn().Close() }

// exiting returns a copy of conf with a callback, of either side, that calls
// runtime.Goexit.
func exiting(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.VerifyConnection = func(tls.ConnectionState) error { runtime.Goexit(); return nil }
	return conf
}

func wantGoexit(t testing.TB, err error) {
	t.Helper()
	var oe *eventloop.OpError
	if !errors.As(err, &oe) || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("error = %v, want an OpError that says Goexit", err)
	}
}

func TestConnGoexitInACallbackOfTLSConfigIsAnError(t *testing.T) {
	t.Run("accepted", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		addr, r := tlsEcho(t, l, exiting(serverConf))
		l.Dial(context.Background(), "tcp", addr, &eventloop.ConnConfig{TLS: clientConf, OnEvent: func(*eventloop.Conn, error) {}})
		r.wait(t)
		wantGoexit(t, r.event(t))
		idle(t, l)
	})
	t.Run("dialed", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		addr, _ := tlsEcho(t, l, serverConf)
		r, cfg := newTape(&eventloop.ConnConfig{TLS: exiting(clientConf)})
		l.Dial(context.Background(), "tcp", addr, cfg)
		r.wait(t)
		wantGoexit(t, r.event(t))
		idle(t, l)
	})
	t.Run("StartTLS", func(t *testing.T) {
		l, _ := startLoop(t, nil)
		ln, err := l.Listen("tcp", "127.0.0.1:0", startTLSServer(t, serverConf))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		var got error
		r, cfg := newTape(&eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { c.WriteString("STARTTLS") },
			OnData: func(c *eventloop.Conn, data []byte) {
				c.StartTLS(exiting(clientConf)).Then(func(_ tls.ConnectionState, err error) { got = err })
			},
		})
		l.Dial(context.Background(), "tcp", ln.Addr().String(), cfg)
		r.wait(t)
		onLoop(t, l, func() {})
		wantGoexit(t, r.event(t))
		wantEqual(t, "StartTLS", got, r.event(t))
		idle(t, l)
	})
}
