package smtp

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// certificate returns a certificate for mail.example and the pool of its issuer. It is
// valid in virtual time, which begins in 2000.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"mail.example", "localhost"},
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

// trusting returns the configuration of a client that trusts certificate.
func trusting() *tls.Config {
	_, pool := certificate()
	return &tls.Config{RootCAs: pool}
}

// encrypted goes on with TLS.
func encrypted(list ...looptest.Step) []looptest.Step {
	cert, _ := certificate()
	return step("TLS", func(c net.Conn, in *bufio.Reader) error {
		if in.Buffered() > 0 {
			return fmt.Errorf("%d bytes before the handshake", in.Buffered())
		}
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		if err := tc.Handshake(); err != nil {
			return err
		}
		in = bufio.NewReader(tc)
		for i, step := range list {
			if err := step(tc, in); err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		return tc.Close()
	})
}

// failedHandshake expects that the client refuses the certificate.
var failedHandshake = step("TLS", func(c net.Conn, in *bufio.Reader) error {
	cert, _ := certificate()
	if err := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake(); err == nil {
		return fmt.Errorf("the handshake succeeded")
	}
	return nil
})

func TestSTARTTLSIsRequiredByDefault(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c, err := New(l, &Options{Addr: server, LocalName: "client.example", Dial: n.Dialer("client"), Auth: Plain("u", "p")})
		if err != nil {
			return err
		}
		fails(t, c.Send(t.Context(), mail()), ErrNoTLS).Then(func(Receipt, error) { c.Close() })
		return n.Script(server, steps(greet("PIPELINING", "AUTH PLAIN"), aborted)...)
	})
}

func TestAfterSTARTTLSOnlyWhatTheServerSaysOverTLSCounts(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.Security, o.TLS, o.Auth = StartTLS, trusting(), Password("u", "p") })
		sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		return n.Script(server, steps(greet("STARTTLS", "AUTH LOGIN", "SIZE 1"), say("STARTTLS", "220 go"),
			encrypted(steps(hello("PIPELINING", "AUTH PLAIN"), say("AUTH PLAIN AHUAcA==", "235 ok"), accept(), say("QUIT", "221 bye"))...))...)
	})
}

func TestImplicitTLSBeginsWithTLS(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.Security, o.TLS = ImplicitTLS, trusting() })
		sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		return n.Script(server, encrypted(steps(greet("PIPELINING", "STARTTLS"), accept(), say("QUIT", "221 bye"))...)...)
	})
}

func TestOpportunisticTLSUsesWhatTheServerOffers(t *testing.T) {
	inTheClear := steps(accept(), bye)
	for _, c := range []struct {
		name   string
		script []looptest.Step
	}{
		{"offered", steps(greet("STARTTLS"), say("STARTTLS", "220 go"), encrypted(steps(hello("PIPELINING"), accept(), say("QUIT", "221 bye"))...))},
		{"not offered", steps(greet("PIPELINING"), inTheClear)},
		{"refused", steps(greet("PIPELINING", "STARTTLS"), say("STARTTLS", "454 4.7.0 not now"), inTheClear)},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, func(o *Options) { o.Security, o.TLS = Opportunistic, trusting() })
				sent(t, client.Send(t.Context(), mail()), func(Receipt) { client.Close() })
				return n.Script(server, c.script...)
			})
		})
	}
}

func TestTheCertificateIsVerified(t *testing.T) {
	for _, security := range []Security{StartTLS, Opportunistic, ImplicitTLS} {
		protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
			c := newClient(t, l, n, func(o *Options) { o.Security = security })
			f := c.Send(t.Context(), mail())
			f.Then(func(_ Receipt, err error) {
				checkOpError(t, err)
				if isTransient(err) {
					t.Errorf("%v is transient", err)
				}
				c.Close()
			})
			if security == ImplicitTLS {
				return n.Script(server, failedHandshake...)
			}
			return n.Script(server, steps(greet("STARTTLS"), say("STARTTLS", "220 go"), failedHandshake)...)
		})
	}
}

// What an attacker on the way adds to the reply to STARTTLS must not pass for what the
// server says over TLS (CVE-2011-0411).
func TestBytesAfterTheReplyToSTARTTLSEndTheConnection(t *testing.T) {
	for _, apart := range []bool{false, true} {
		for _, security := range []Security{StartTLS, Opportunistic} {
			t.Run(fmt.Sprintf("apart=%v,security=%d", apart, security), func(t *testing.T) {
				protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
					c := newClient(t, l, n, func(o *Options) { o.Security, o.TLS = security, trusting() })
					f := c.Send(t.Context(), mail())
					f.Then(func(_ Receipt, err error) {
						checkOpError(t, err)
						if isTransient(err) {
							t.Errorf("%v is transient", err)
						}
						c.Close()
					})
					script := steps(greet("STARTTLS"), expect("STARTTLS"))
					if apart {
						script = append(script, looptest.Reply("220 go\r\n"), looptest.Reply("250 injected\r\n"))
					} else {
						script = append(script, looptest.Reply("220 go\r\n250 injected\r\n"))
						fails(t, f, ErrMalformed)
					}
					return n.Script(server, append(script, drain)...)
				})
			})
		}
	}
}

// drain reads until the client ends the connection, in whatever way.
var drain looptest.Step = func(c net.Conn, in *bufio.Reader) error {
	in.WriteTo(discard{})
	return nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
