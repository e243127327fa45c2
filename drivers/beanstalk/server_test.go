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
	"github.com/onloop/eventloop/internal/childserver"
	"github.com/onloop/eventloop/internal/leaktest"
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
		s, err := startServer()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		shared, addr = s, s.addr
	} else if run := flag.Lookup("test.run"); os.Getenv("CI") == "" && run.Value.String() == "" {
		fmt.Println("examples are skipped:", noServer)
		flag.Set("test.run", "^(Test|Fuzz)")
	}
	leaktest.Main(m, func() {
		if shared != nil {
			shared.stop()
		}
	})
}

// A server is a beanstalkd as a child process, at an address that it keeps until stop.
type server struct {
	addr    string
	args    []string
	cmd     *exec.Cmd
	release func() // gives the address back
}

// startServer starts beanstalkd on a free port.
func startServer(args ...string) (*server, error) {
	addr, release, err := childserver.Reserve()
	if err != nil {
		return nil, err
	}
	s := &server{addr: addr, args: args, release: release}
	if err := s.restart(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// restart starts the process and waits until it listens.
func (s *server) restart() error {
	host, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command(findServer(), append([]string{"-l", host, "-p", port}, s.args...)...)
	s.cmd.SysProcAttr = endWithParent()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return childserver.Await(s.cmd, childserver.Listens("tcp", s.addr))
}

// kill ends the process as kill -9 does.
func (s *server) kill() {
	if s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

func (s *server) stop() {
	s.kill()
	s.release()
}

// options are those of a client of the server. Its timeout is none of the tests' business:
// the default is short for a busy machine.
func (s *server) options() *beanstalk.Options {
	return &beanstalk.Options{Addr: s.addr, Timeout: watchdog, ConnectTimeout: watchdog}
}

func (s *server) signal(t *testing.T, sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// needServer skips the test where there is no beanstalkd. It fails if CI is set.
func needServer(t *testing.T) {
	t.Helper()
	if findServer() != "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(noServer)
	}
	t.Skip(noServer)
}

// real returns a beanstalkd of the test's own.
func real(t *testing.T, args ...string) *server {
	t.Helper()
	needServer(t)
	s, err := startServer(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// watchdog turns a hang into a failure; it measures nothing.
const watchdog = 2 * time.Minute

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
