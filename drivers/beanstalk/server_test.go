package beanstalk_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"go.uber.org/goleak"
)

// addr is the address of the beanstalkd that examples and tests share.
var addr string

// findServer returns the path of beanstalkd, or "".
func findServer() string {
	if path := os.Getenv("BEANSTALKD"); path != "" {
		return path
	}
	path, err := exec.LookPath("beanstalkd")
	if err != nil {
		return ""
	}
	return path
}

const noServer = "there is no beanstalkd in PATH, and BEANSTALKD is not set"

// TestMain runs the examples only where there is a beanstalkd: an example cannot be
// skipped.
func TestMain(m *testing.M) {
	panicIfAsked()
	flag.Parse()
	var shared *server
	if findServer() != "" {
		s, err := startServer("")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		shared, addr = s, s.addr
	} else if run := flag.Lookup("test.run"); os.Getenv("CI") == "" && run.Value.String() == "" {
		fmt.Println("examples are skipped:", noServer)
		flag.Set("test.run", "^(Test|Fuzz)")
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if shared != nil {
			shared.kill()
		}
		os.Exit(code)
	}))
}

// A server is a beanstalkd as a child process.
type server struct {
	addr string
	cmd  *exec.Cmd
}

// startServer starts beanstalkd on addr, or on a free port if addr is empty.
func startServer(addr string, args ...string) (*server, error) {
	if addr == "" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addr = ln.Addr().String()
		ln.Close()
	}
	host, port, _ := net.SplitHostPort(addr)
	s := &server{addr: addr, cmd: exec.Command(findServer(), append([]string{"-l", host, "-p", port}, args...)...)}
	s.cmd.SysProcAttr = endWithParent()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
			return s, nil
		}
		if time.Now().After(end) {
			s.kill()
			return nil, err
		}
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *server) signal(t *testing.T, sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// real returns a beanstalkd of the test's own.
func real(t *testing.T, args ...string) *server {
	t.Helper()
	if findServer() == "" {
		if os.Getenv("CI") != "" {
			t.Fatal(noServer)
		}
		t.Skip(noServer)
	}
	s, err := startServer("", args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// watchdog turns a hang into a failure; it measures nothing.
const watchdog = 30 * time.Second

// run runs f as a task of a loop, with a client that is closed afterwards.
func run(t *testing.T, o *beanstalk.Options, f func(k *eventloop.Task, c *beanstalk.Client) error) {
	t.Helper()
	runFor(t, watchdog, o, f)
}

func runFor(t *testing.T, most time.Duration, o *beanstalk.Options, f func(k *eventloop.Task, c *beanstalk.Client) error) {
	t.Helper()
	var l *eventloop.Loop
	dog := time.AfterFunc(most, func() {
		for h := range l.Handles() {
			t.Error("open:", h)
		}
		l.Stop()
	})
	defer dog.Stop()
	l = eventloop.New(&eventloop.Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	c, err := beanstalk.New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	l.Go(t.Context(), func(k *eventloop.Task) error {
		defer c.Abort()
		if err := f(k, c); err != nil {
			t.Errorf("the task failed: %v", err)
		}
		return nil
	})
	if err := l.Run(t.Context()); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// virtually is run in virtual time, with a server that is a function.
func virtually(t *testing.T, o *beanstalk.Options, serve func(nc net.Conn), f func(k *eventloop.Task, c *beanstalk.Client) error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		runFor(t, time.Hour, served(o, serve), f)
		time.Sleep(time.Minute) // until the servers have seen the end of their connections
	})
}

// served returns o with a Dial that gives the other end of each connection to serve.
func served(o *beanstalk.Options, serve func(nc net.Conn)) *beanstalk.Options {
	var c beanstalk.Options
	if o != nil {
		c = *o
	}
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			serve(server)
		}()
		return client, nil
	}
	return &c
}

// commands reads commands from nc and calls reply with each, without its end, and with
// the body of a put. What reply returns is sent, as one line or several. It ends when
// reply returns "quit", or the connection does.
func commands(nc net.Conn, reply func(command string, body string) string) {
	r := bufio.NewReader(nc)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		var body string
		if f := strings.Fields(line); len(f) == 5 && f[0] == "put" {
			n, _ := strconv.Atoi(f[4])
			p := make([]byte, n+2)
			if _, err := io.ReadFull(r, p); err != nil {
				return
			}
			body = string(p[:n])
		}
		switch answer := reply(line, body); answer {
		case "quit":
			return
		case "":
		default:
			if _, err := io.WriteString(nc, answer+"\r\n"); err != nil {
				return
			}
		}
	}
}

// A script answers commands of the driver in the simplest way, and keeps a list of them.
type script struct {
	mu   sync.Mutex
	all  []string
	jobs []string                                     // that are ready
	more func(command string) (reply string, ok bool) // goes first, if not nil
	id   int
}

func (s *script) serve(nc net.Conn) { commands(nc, s.reply) }

func (s *script) reply(command, body string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, command)
	if s.more != nil {
		if reply, ok := s.more(command); ok {
			return reply
		}
	}
	word, rest, _ := strings.Cut(command, " ")
	switch word {
	case "put":
		s.id++
		return fmt.Sprint("INSERTED ", s.id)
	case "use":
		return "USING " + rest
	case "watch", "ignore":
		return "WATCHING 1"
	case "delete":
		return "DELETED"
	case "release":
		return "RELEASED"
	case "bury":
		return "BURIED"
	case "touch":
		return "TOUCHED"
	case "kick-job":
		return "KICKED"
	case "peek":
		return "FOUND " + rest + " " + strconv.Itoa(len(rest)) + "\r\n" + rest
	case "stats-job":
		return "OK 20\r\n---\npri: 9\nttr: 10  "
	}
	return ""
}

// give makes a job ready.
func (s *script) give(jobs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, jobs...)
}

// queue is serve for consumers: a reserve waits until there is a job, or for its timeout.
func (s *script) queue(nc net.Conn) {
	commands(nc, func(command, body string) string {
		reply := s.reply(command, body)
		if !strings.HasPrefix(command, "reserve-with-timeout ") || reply != "" {
			return reply
		}
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
			s.mu.Lock()
			if len(s.jobs) > 0 {
				s.id++
				job := fmt.Sprintf("RESERVED %d %d\r\n%s", s.id, len(s.jobs[0]), s.jobs[0])
				s.jobs = s.jobs[1:]
				s.mu.Unlock()
				return job
			}
			s.mu.Unlock()
		}
		return "TIMED_OUT"
	})
}

// got returns the commands so far.
func (s *script) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}
