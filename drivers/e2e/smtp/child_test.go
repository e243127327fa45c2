package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/e2e/internal/child"
	"github.com/onloop/eventloop/drivers/smtp"
)

// Environment variables of the server as a child process.
const (
	childAddr = "E2E_SMTP_ADDR"
	childFile = "E2E_SMTP_FILE"
)

// serveAsChild runs a server that writes the sender of each mail that it accepts to a
// file, before it says that it accepts the mail.
func serveAsChild(addr, file string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	s := newGoSMTP(&goSMTP{accepted: func(from string) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Fprintln(f, from)
		return err
	}})
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(s.Serve(ln))
}

// A process is a server that can be killed and started again.
type process struct {
	addr, file string
	cmd        *exec.Cmd
}

func (p *process) start(t *testing.T) {
	p.cmd = child.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childAddr+"="+p.addr, childFile+"="+p.file)
	p.cmd.Stderr = os.Stderr // why it ends by itself
	if err := p.cmd.Start(); err != nil {
		t.Error(err)
	}
}

// kill kills the server as kill -9 does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// suspend stops the server with SIGSTOP, and waits until all its threads have stopped:
// the signal only asks for that.
func (p *process) suspend(t *testing.T) {
	p.cmd.Process.Signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err == nil && status.Stopped() {
			return
		}
		if !errors.Is(err, syscall.EINTR) {
			t.Fatalf("the server has not stopped: %v, %v", status, err)
		}
	}
}

// senders returns the senders of the mails that the server has accepted.
func (p *process) senders(t *testing.T) []string {
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// startProcess starts a server and kills it at the end of the test.
func startProcess(t *testing.T) *process {
	p := &process{addr: reserve(t), file: t.TempDir() + "/mails"}
	p.start(t)
	t.Cleanup(p.kill)
	awaitListening(t, p.cmd, p.addr)
	return p
}

// descriptors returns the number of open descriptors, or 0 if the system does not say.
func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

// checkLeaks fails the test if f leaves goroutines or descriptors behind.
func checkLeaks(t *testing.T, f func()) {
	goroutines, files := runtime.NumGoroutine(), descriptors()
	f()
	await(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := descriptors(); n > files {
		t.Errorf("%d descriptors are left open", n-files)
	}
}

// What the client says of each mail must be true, whenever the server dies: an accepted
// mail is there once, a failed one is not there, and an uncertain one is there at most
// once.
func TestAServerThatIsKilledUnderLoad(t *testing.T) {
	const mails, kills = 2000, 4
	server := startProcess(t)
	var accepted, uncertain, failed []string
	killed := 0
	checkLeaks(t, func() {
		o := &smtp.Options{Addr: server.addr, Security: smtp.NoTLS, MaxQueue: mails, MaxMessages: 20, MaxBackoff: time.Second, QueueTimeout: watchdog}
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			const every = mails / (kills + 1)
			settled, up := 0, true
			for i := range mails {
				m := to(message("x", "x"))
				m.From = fmt.Sprintf("m%d@e2e.example", i)
				c.Send(t.Context(), m).Then(func(_ smtp.Receipt, err error) {
					switch {
					case err == nil:
						accepted = append(accepted, m.From)
					case errors.Is(err, smtp.ErrUncertain):
						uncertain = append(uncertain, m.From)
					default:
						failed = append(failed, m.From)
					}
					if settled++; up && killed < kills && settled >= every*(killed+1) {
						killed++
						up = false
						server.kill()
						l.AfterFunc(100*time.Millisecond, func() {
							server.start(t)
							up = true
						})
					}
				})
			}
			c.Close()
		})
	})
	there := make(map[string]int)
	for _, from := range server.senders(t) {
		there[from]++
	}
	t.Logf("%d accepted, %d uncertain (%d of them are there), %d failed", len(accepted), len(uncertain),
		len(slices.DeleteFunc(slices.Clone(uncertain), func(from string) bool { return there[from] == 0 })), len(failed))
	if killed != kills {
		t.Errorf("the server was killed %d times, want %d", killed, kills)
	}
	if n := len(accepted) + len(uncertain) + len(failed); n != mails {
		t.Errorf("%d of %d mails were settled", n, mails)
	}
	if len(accepted) < mails/2 {
		t.Errorf("only %d of %d mails were accepted", len(accepted), mails)
	}
	for _, from := range accepted {
		if there[from] != 1 {
			t.Errorf("accepted: %s is there %d times", from, there[from])
		}
	}
	for _, from := range failed {
		if there[from] != 0 {
			t.Errorf("failed: %s is there", from)
		}
	}
	for _, from := range uncertain {
		if there[from] > 1 {
			t.Errorf("uncertain: %s is there %d times", from, there[from])
		}
	}
}

func TestMailsWaitForAServerThatStartsLater(t *testing.T) {
	server := startProcess(t)
	server.kill()
	checkLeaks(t, func() {
		o := &smtp.Options{Addr: server.addr, Security: smtp.NoTLS, QueueTimeout: watchdog, MaxBackoff: time.Second}
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			for range 20 {
				c.Send(t.Context(), to(message("x", "x"))).Then(func(_ smtp.Receipt, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
			c.Close()
			l.AfterFunc(300*time.Millisecond, func() { server.start(t) })
		})
		server.kill() // a running child takes a descriptor
	})
	if n := len(server.senders(t)); n != 20 {
		t.Errorf("the server has %d mails", n)
	}
}

// The server is stopped as by SIGSTOP for longer than the timeouts, and then goes on.
func TestAServerThatIsStopped(t *testing.T) {
	server := startProcess(t)
	checkLeaks(t, func() {
		o := &smtp.Options{Addr: server.addr, Security: smtp.NoTLS, ReplyTimeout: 300 * time.Millisecond, QueueTimeout: 300 * time.Millisecond,
			MaxConns: 2, MaxBackoff: 100 * time.Millisecond}
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			l.Go(t.Context(), func(task *eventloop.Task) error {
				defer c.Close()
				if !sentWithin(t, task, c) { // a session is idle then
					return nil
				}
				server.suspend(t)
				var fs []*eventloop.Future[smtp.Receipt]
				for range 10 {
					fs = append(fs, c.Send(task.Context(), to(message("x", "x"))))
				}
				for _, f := range fs {
					if _, err := f.Await(task); !errors.Is(err, eventloop.ErrTimeout) {
						t.Errorf("got %v, want ErrTimeout", err)
					}
				}
				server.cmd.Process.Signal(syscall.SIGCONT)
				sentWithin(t, task, c)
				return nil
			})
		})
	})
}

// sentWithin sends mails until one arrives: with the short timeouts of the test, one or
// the other may not.
func sentWithin(t *testing.T, task *eventloop.Task, c *smtp.Client) bool {
	for end := time.Now().Add(watchdog); time.Now().Before(end); {
		_, err := c.Send(task.Context(), to(message("x", "x"))).Await(task)
		if err == nil {
			return true
		}
		if !errors.Is(err, eventloop.ErrTimeout) && !errors.Is(err, smtp.ErrUncertain) {
			t.Logf("on the way: %v", err)
		}
	}
	t.Errorf("no mail was sent within %v", watchdog)
	return false
}
