// Package orders tests examples/drivers with real servers: the program that uses all drivers
// on one loop.
package orders

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

// watchdog is when something that should have happened is taken to fail.
const watchdog = 2 * time.Minute

func TestOrdersGoThroughAllDrivers(t *testing.T) {
	const orders = 20
	mails := &mailServer{arrived: make(chan string, 2*orders)}
	shop, out := startShop(t, mails)

	var group sync.WaitGroup
	for i := range orders {
		group.Go(func() {
			body := fmt.Sprintf(`{"mail":"customer%d@example.org","item":"tea"}`, i)
			if status, text := request(t, "POST", shop+"/orders", body); status != 202 {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	group.Wait()
	var invoices []string
	timeout := time.After(watchdog)
	for range orders {
		select {
		case m := <-mails.arrived:
			header, link, _ := strings.Cut(m, "\r\n\r\n")
			_, text := request(t, "GET", strings.TrimSpace(link), "")
			_, subject, _ := strings.Cut(header, "Subject: ")
			if !strings.HasPrefix(text, subject+"\n\ntea  3.00\n") {
				t.Errorf("the invoice of the mail %q is %q", subject, text)
			}
			invoices = append(invoices, subject)
		case <-timeout:
			t.Fatalf("%d of %d mails have arrived\n%s", len(invoices), orders, out.stop(t))
		}
	}
	slices.Sort(invoices)
	if n := len(slices.Compact(invoices)); n != orders {
		t.Errorf("invoices for %d orders, want %d", n, orders)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/orders", `{"mail":"x@example.org\r\nBcc: y","item":"tea"}`, 400},
		{"POST", "/orders", "no JSON", 400},
		{"GET", "/orders/1000", "", 404},
		{"GET", "/nowhere", "", 404},
	} {
		if status, text := request(t, c.method, shop+c.path, c.body); status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, status, text, c.status)
		}
	}

	// The program ends by itself, after it has finished its jobs.
	text := out.stop(t)
	if !strings.HasSuffix(text, "\nclosed\n") {
		t.Errorf("the shop said\n%s", text)
	}
}

// request sends a request and returns the response.
func request(t *testing.T, method, url, body string) (int, string) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	p, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(p)
}

// A process is the running program.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	once sync.Once
}

// stop sends SIGTERM, waits for the end, and returns what the program has said.
func (p *process) stop(t *testing.T) string {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// startShop starts the program and all its servers, and returns its URL.
func startShop(t *testing.T, mails *mailServer) (url string, p *process) {
	dir := t.TempDir()
	program := filepath.Join(dir, "shop")
	if out, err := exec.Command("go", "build", "-C", "../../../examples/drivers", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	redis := start(t, installed(t, "redis-server", "REDIS_SERVER"), func(_, port string) []string {
		return []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir}
	})
	beanstalk := start(t, installed(t, "beanstalkd", "BEANSTALKD"), func(_, port string) []string {
		return []string{"-l", "127.0.0.1", "-p", port}
	})
	ferret, err := child.Build("ferretdb", ".")
	if err != nil {
		t.Fatal(err)
	}
	mongo := start(t, ferret, func(addr, _ string) []string { return []string{addr, dir} })

	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	p = &process{log: log, cmd: exec.Command(program, "-listen", "127.0.0.1:0", "-redis", redis, "-beanstalk", beanstalk,
		"-mongo", "mongodb://"+mongo, "-s3", startS3(t), "-smtp", mails.start(t))}
	p.cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKID", "AWS_SECRET_ACCESS_KEY=SECRET")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	for end := time.Now().Add(watchdog); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(log.Name())
		if _, rest, ok := strings.Cut(string(text), "listening on "); ok && strings.Contains(rest, "/\n") {
			url, _, _ := strings.Cut(rest, "/\n")
			return url, p
		}
	}
	t.Fatalf("the shop does not open\n%s", p.stop(t))
	return "", nil
}

// installed returns a server that must be installed. Without it the test is skipped, and
// fails if CI is set.
func installed(t *testing.T, name, variable string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("%v: apt-get install %s, or set %s", err, name, variable)
	}
	return path
}

// start starts a server on a free port and returns its address.
func start(t *testing.T, program string, args func(addr, port string) []string) string {
	s, err := child.Start(program, func(addr string) []string {
		_, port, _ := net.SplitHostPort(addr)
		return args(addr, port)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s.Addr
}

// startS3 starts a server with an empty bucket.
func startS3(t *testing.T) string {
	backend := s3mem.New()
	if err := backend.CreateBucket("invoices"); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(s.Close)
	return s.URL
}

// A mailServer takes all mails.
type mailServer struct{ arrived chan string }

func (m *mailServer) start(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return m, nil }))
	go s.Serve(ln)
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return ln.Addr().String()
}

func (m *mailServer) Mail(string, *smtp.MailOptions) error { return nil }
func (m *mailServer) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (m *mailServer) Reset()                               {}
func (m *mailServer) Logout() error                        { return nil }

func (m *mailServer) Data(r io.Reader) error {
	p, err := io.ReadAll(r)
	m.arrived <- string(p)
	return err
}
