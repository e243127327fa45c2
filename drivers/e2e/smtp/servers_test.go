package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"github.com/onloop/eventloop/drivers/smtp"
	"github.com/onloop/eventloop/internal/childserver"
)

// A testServer is a server that runs while a test does. It takes mails for e2e.example.
type testServer struct {
	addr string
	auth bool // user "ann", password "secret"
	dsn  bool
	utf8 bool

	// mails returns the mails that have arrived, as the server has stored them.
	mails func(t *testing.T) []string
}

// options returns those of a client for the server.
func (s *testServer) options() *smtp.Options {
	o := &smtp.Options{Addr: s.addr, TLS: trusting(), LocalName: "client.e2e.example"}
	if s.auth {
		o.Auth = smtp.Password("ann", "secret")
	}
	return o
}

// servers are all servers. One that is not installed skips the test.
var servers = map[string]func(t *testing.T) *testServer{
	"go-smtp": startGoSMTP,
	"mailpit": startMailpit,
	"postfix": startPostfix,
}

// certificate is the certificate of all servers, for 127.0.0.1, its key and its pool.
var certificate = sync.OnceValue(func() (c struct {
	cert, key []byte // PEM
	pool      *x509.CertPool
}) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Panic(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		log.Panic(err)
	}
	c.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c.pool = x509.NewCertPool()
	c.pool.AppendCertsFromPEM(c.cert)
	return c
})

func trusting() *tls.Config { return &tls.Config{RootCAs: certificate().pool} }

// writeCertificate writes the certificate and its key to files in dir.
func writeCertificate(t *testing.T, dir string) (cert, key string) {
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, p := range map[string][]byte{cert: certificate().cert, key: certificate().key} {
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// reserve returns an address that is the test's own until it ends.
func reserve(t *testing.T) string {
	t.Helper()
	addr, release, err := childserver.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}

// watchdog is how long a test waits for something that comes soon.
const watchdog = 2 * time.Minute

// await waits until done.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(watchdog); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, watchdog)
		}
	}
}

// awaitListening waits until a server listens at addr.
func awaitListening(t *testing.T, server *exec.Cmd, addr string) {
	t.Helper()
	if err := childserver.Await(server, childserver.Listens("tcp", addr)); err != nil {
		t.Fatal(err)
	}
}

// startChild runs a program until the test ends. Its output is logged if the test fails.
func startChild(t *testing.T, c *exec.Cmd) *exec.Cmd {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.WaitDelay = watchdog // if children of its own keep the output open
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if t.Failed() {
			t.Logf("%s: %s", c.Path, out.Bytes())
		}
	})
	return c
}

// A goSMTP is the backend of a server of github.com/emersion/go-smtp.
type goSMTP struct {
	accepted func(from string) error // nil, or called before a mail is accepted

	mu    sync.Mutex
	mails []string
}

func (b *goSMTP) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	return &goSMTPSession{b: b}, nil
}

type goSMTPSession struct {
	b    *goSMTP
	from string
}

func (s *goSMTPSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *goSMTPSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "ann" || password != "secret" {
			return gosmtp.ErrAuthFailed
		}
		return nil
	}), nil
}

func (s *goSMTPSession) Reset()        {}
func (s *goSMTPSession) Logout() error { return nil }

func (s *goSMTPSession) Mail(from string, _ *gosmtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *goSMTPSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if !strings.HasSuffix(to, "@e2e.example") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 2}, Message: "not here"}
	}
	return nil
}

func (s *goSMTPSession) Data(r io.Reader) error {
	p, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.b.accepted != nil {
		if err := s.b.accepted(s.from); err != nil {
			return err
		}
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.mails = append(s.b.mails, string(p))
	return nil
}

// newGoSMTP returns a server with all that go-smtp offers.
func newGoSMTP(b *goSMTP) *gosmtp.Server {
	s := gosmtp.NewServer(b)
	s.Domain = "e2e.example"
	s.EnableSMTPUTF8, s.EnableDSN, s.EnableREQUIRETLS = true, true, true
	s.MaxMessageBytes = 10 << 20
	s.ErrorLog = log.New(io.Discard, "", 0)
	return s
}

func startGoSMTP(t *testing.T) *testServer {
	b := &goSMTP{}
	s := newGoSMTP(b)
	pair, err := tls.X509KeyPair(certificate().cert, certificate().key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		ln.Close() // if the server does not know it yet
		<-done
	})
	return &testServer{addr: ln.Addr().String(), auth: true, dsn: true, utf8: true, mails: func(*testing.T) []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Clone(b.mails)
	}}
}
