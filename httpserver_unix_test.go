//go:build unix

package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"golang.org/x/sys/unix"
)

// The server of this test is a process of its own, so that it can run out of
// descriptors while its clients have enough.
func TestHTTPServerSurvivesRunningOutOfDescriptors(t *testing.T) {
	if told := os.Getenv("EVENTLOOP_HTTP_EMFILE"); told != "" {
		serveWithFewDescriptors(told)
		return
	}
	for _, told := range []string{"OnAcceptError", "EventHandler", "log"} {
		t.Run(told, func(t *testing.T) { testOutOfDescriptors(t, told) })
	}
}

func testOutOfDescriptors(t *testing.T, told string) {
	s := startFewDescriptors(t, told)
	start := time.Now()

	// Clients come until there is no descriptor left. The last may have been
	// accepted, or not: the system need not wait for a client to refuse.
	var served []*rawClient
	var waiting []chan error
	for len(waiting) == 0 {
		if len(served) > fewDescriptors {
			t.Fatal("the server has more descriptors than it may")
		}
		c, answered := s.client()
		select {
		case err := <-answered:
			if err != nil {
				t.Fatal(err)
			}
			served = append(served, c)
		case <-s.failures:
			waiting = append(waiting, answered)
		}
	}
	for range 3 {
		_, answered := s.client()
		waiting = append(waiting, answered)
	}

	// It says so again and again, but not more often than its pauses allow, and
	// goes on with what it has.
	const failures = 7
	for range failures - 1 {
		wait(t, s.failures, "failure to accept")
	}
	pauses := (1<<(failures-1) - 1) * 5 * time.Millisecond
	if took := time.Since(start); took < pauses {
		t.Errorf("%d failures to accept within %v, want pauses of %v", failures, took, pauses)
	}
	for i, c := range served {
		if status, body := c.get("/"); status != 200 || body != "hai" {
			t.Errorf("connection %d: %d %q, want 200 and hai", i, status, body)
		}
	}

	// None of the others got a response meanwhile. They get it when descriptors become
	// free, and so do later clients.
	for i, answered := range waiting[1:] {
		if len(answered) > 0 {
			t.Errorf("client %d did not have to wait: %v", i, <-answered)
		}
	}
	for _, c := range served[:len(waiting)+1] {
		c.Close()
	}
	_, late := s.client()
	for i, answered := range append(waiting, late) {
		if err := <-answered; err != nil {
			t.Errorf("client %d that had to wait: %v", i, err)
		}
	}
	s.end()
}

// fewDescriptors is how many the server may have open, of which some are not
// connections.
const fewDescriptors = 32

// A fewServer is the server's process.
type fewServer struct {
	t        *testing.T
	addr     netAddr
	failures chan struct{} // a token for each line that tells of one
	end      func()        // ends it; it must want to
}

// netAddr is the address of another process.
type netAddr string

func (netAddr) Network() string  { return "tcp" }
func (a netAddr) String() string { return string(a) }

func startFewDescriptors(t *testing.T, told string) *fewServer {
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchdogTime)
	t.Cleanup(cancel)
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(ctx, exe, "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), "EVENTLOOP_HTTP_EMFILE="+told)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	s := &fewServer{t: t, failures: make(chan struct{}, 1000)}
	lines, addr, ended := bufio.NewScanner(out), make(chan string, 1), make(chan bool, 1)
	go func() {
		fine := false
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "listening "):
				addr <- strings.TrimPrefix(line, "listening ")
			case strings.Contains(line, syscall.EMFILE.Error()):
				select {
				case s.failures <- struct{}{}:
				default: // far too many: the test has seen enough
				}
			case strings.HasPrefix(line, "unexpected"):
				t.Error(line)
			case line == "Run returned <nil>":
				fine = true
			}
		}
		ended <- fine
	}()
	over := false
	s.end = func() {
		if over {
			return
		}
		over = true
		in.Close()
		fine := <-ended
		if err := cmd.Wait(); err != nil || !fine {
			t.Errorf("the server ended with %v; without an error from Run: %v", err, fine)
		}
	}
	t.Cleanup(s.end)
	s.addr = netAddr(wait(t, addr, "address of the server"))
	return s
}

// client connects, sends a GET, and tells when it is answered as it should be.
func (s *fewServer) client() (c *rawClient, answered chan error) {
	s.t.Helper()
	c, answered = dialRaw(s.t, s.addr), make(chan error, 1)
	c.SetDeadline(time.Now().Add(watchdogTime))
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	go func() {
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil {
			answered <- err
			return
		}
		body, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != 200 || string(body) != "hai") {
			err = fmt.Errorf("response %d %q, want 200 and hai", resp.StatusCode, body)
		}
		answered <- err
	}()
	return c, answered
}

// serveWithFewDescriptors is the server's process, until its input ends.
func serveWithFewDescriptors(told string) {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: fewDescriptors, Max: fewDescriptors}); err != nil {
		panic(err)
	}
	tell := func(err error) {
		if oe, ok := errors.AsType[*eventloop.OpError](err); !ok || oe.Op != "accept" || !errors.Is(err, syscall.EMFILE) {
			fmt.Println("unexpected:", err)
		}
		fmt.Println(err)
	}
	var cfg eventloop.Config
	var conf eventloop.HTTPServerConfig
	switch told {
	case "OnAcceptError":
		conf.OnAcceptError = func(_ *eventloop.HTTPServer, err error) { tell(err) }
	case "EventHandler":
		cfg.EventHandler = tell
	default:
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stdout, nil))
	}
	err := eventloop.Run(context.Background(), &cfg, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", hai, &conf)
		if err != nil {
			return err
		}
		fmt.Println("listening", s.Addr())
		go func() {
			io.Copy(io.Discard, os.Stdin)
			s.Close()
		}()
		return nil
	})
	fmt.Println("Run returned", err)
}
