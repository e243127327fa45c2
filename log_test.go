package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// defaultLog returns what slog.Default gets while f runs.
func defaultLog(f func()) string {
	book := &logBook{}
	old := slog.Default()
	slog.SetDefault(book.logger())
	defer slog.SetDefault(old)
	f()
	return book.String()
}

// logCauses are what is logged by default. Each starts something on a loop that
// must end by itself, and returns a part of the line.
var logCauses = map[string]struct {
	cfg   eventloop.Config
	start func(t *testing.T, l *eventloop.Loop)
	line  string
}{
	"a failed task": {
		start: func(t *testing.T, l *eventloop.Loop) {
			l.Go(t.Context(), func(*eventloop.Task) error { return errors.New("no disk") })
		},
		line: "no disk",
	},
	"a failed future": {
		start: func(t *testing.T, l *eventloop.Loop) {
			_, resolve := eventloop.NewFuture[int](l)
			resolve(0, errors.New("no disk"))
		},
		line: "no disk",
	},
	"a failed function of Work": {
		start: func(t *testing.T, l *eventloop.Loop) {
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) { return 0, errors.New("no disk") })
		},
		line: "no disk",
	},
	"a panic in Work": {
		start: func(t *testing.T, l *eventloop.Loop) {
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) { panic("no disk") })
		},
		line: "no disk",
	},
	"a caught panic": {
		cfg:   eventloop.Config{CatchPanics: true},
		start: func(t *testing.T, l *eventloop.Loop) { l.Post(func() { panic("no disk") }) },
		line:  "no disk",
	},
	"a failed handshake of a client": {
		start: func(t *testing.T, l *eventloop.Loop) {
			ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{TLS: serverConf})
			if err != nil {
				t.Fatal(err)
			}
			writeAndClose(t, ln.Addr().String(), "GET / HTTP/1.1\r\n\r\n")
			onceFailed(l, func() { ln.Close() })
		},
		line: "handshake",
	},
	"a failed handshake of an HTTP client": {
		start: func(t *testing.T, l *eventloop.Loop) {
			s, err := l.ListenHTTP("127.0.0.1:0", func(*eventloop.HTTPRequest) {}, &eventloop.HTTPServerConfig{TLS: serverConf})
			if err != nil {
				t.Fatal(err)
			}
			writeAndClose(t, s.Addr().String(), "GET / HTTP/1.1\r\n\r\n")
			onceFailed(l, func() { s.Close() })
		},
		line: "handshake",
	},
	"a failure to accept": {
		start: func(t *testing.T, l *eventloop.Loop) {
			fake := newFakeListener()
			fake.results <- syscall.EMFILE
			ln, err := l.Serve(fake, nil)
			if err != nil {
				t.Fatal(err)
			}
			onceFailed(l, func() { ln.Close() })
		},
		line: "accept",
	},
	"a mistake in resolv.conf": {
		start: func(t *testing.T, l *eventloop.Loop) {
			l.LookupNetIP(t.Context(), "ip", "localhost").Then(nil)
		},
		line: "ndots",
	},
	"a slow callback": {
		// On a busy machine a pause of a few milliseconds would make another callback slow.
		cfg: eventloop.Config{SlowCallback: 100 * time.Millisecond},
		start: func(t *testing.T, l *eventloop.Loop) {
			l.Post(func() {
				for l.Stats().Loop.SlowTotal == 0 {
					time.Sleep(time.Millisecond)
				}
			})
		},
		line: "holds up the loop",
	},
	"a request without a response": {
		start: func(t *testing.T, l *eventloop.Loop) {
			s, err := l.ListenHTTP("127.0.0.1:0", func(*eventloop.HTTPRequest) { l.Post(l.Stop) }, nil)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, "GET /forgotten HTTP/1.1\r\nHost: a\r\n\r\n")
		},
		line: "/forgotten",
	},
}

func TestWithoutALoggerTheDefaultLoggerIsTold(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("options ndots:many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cause := range logCauses {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			cfg := cause.cfg
			cfg.Name = "quiet"
			cfg.Resolver = &eventloop.ResolverConfig{ResolvConf: conf}
			log := defaultLog(func() {
				err := eventloop.Run(t.Context(), &cfg, func(l *eventloop.Loop) error {
					watch(t, l)
					cause.start(t, l)
					return nil
				})
				wantEqual(t, "error of Run", err, nil)
			})
			lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
			if len(lines) != 1 || !strings.Contains(log, cause.line) || !strings.Contains(log, "loop=quiet") {
				t.Errorf("the log is %q, want one line that names the loop and has %q", log, cause.line)
			}
		})
	}
}

func TestADiscardHandlerIsSilence(t *testing.T) {
	for name, cause := range logCauses {
		t.Run(name, func(t *testing.T) {
			cfg := cause.cfg
			cfg.Logger = slog.New(slog.DiscardHandler)
			log := defaultLog(func() { mustRun(t, &cfg, func(l *eventloop.Loop) { cause.start(t, l) }) })
			wantEqual(t, "log", log, "")
		})
	}
}

func TestTheDefaultLoggerIsThatOfTheMomentOfTheEvent(t *testing.T) {
	l := eventloop.New(nil)
	l.Go(t.Context(), func(*eventloop.Task) error { return errors.New("no disk") })
	log := defaultLog(func() {
		if err := l.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if !strings.Contains(log, "no disk") || strings.Contains(log, "loop=") {
		t.Errorf("the log is %q", log)
	}
}

// A task per client that ends with what its stream says has not failed.
func TestTheOrdinaryEndOfAConnectionIsNoFailureOfATask(t *testing.T) {
	reset := &eventloop.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	for _, tt := range []struct {
		err    error
		logged bool
	}{
		{io.EOF, false},
		{reset, false},
		{fmt.Errorf("client 7: %w", reset), false},
		{syscall.EPIPE, false},
		{net.ErrClosed, false},
		{fmt.Errorf("client 7: %w", net.ErrClosed), false},
		{&eventloop.PanicError{Value: net.ErrClosed}, true},
		{&eventloop.PanicError{Value: io.EOF}, true},
		{io.ErrUnexpectedEOF, true},
		{os.ErrDeadlineExceeded, true},
		{context.Canceled, true},
	} {
		start := func(l *eventloop.Loop) {
			l.Go(context.Background(), func(*eventloop.Task) error { return tt.err })
			_, resolve := eventloop.NewFuture[int](l)
			resolve(0, tt.err)
			resolve(0, tt.err)
		}
		book := &logBook{}
		mustRun(t, &eventloop.Config{Logger: book.logger()}, start)
		want := 0
		if tt.logged {
			want = 2
		}
		wantEqual(t, fmt.Sprintf("lines about %v", tt.err), strings.Count(book.String(), "\n"), want)

		var events []error
		mustRun(t, &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}, start)
		wantErrs(t, "events of a handler, which gets all", events, tt.err, tt.err)
	}
}

type panickyHandler struct{ slog.Handler }

func (panickyHandler) Handle(context.Context, slog.Record) error { panic("in Handle") }

func TestAPanicInTheLoggerLeavesRun(t *testing.T) {
	cfg := &eventloop.Config{CatchPanics: true, Logger: slog.New(panickyHandler{slog.Default().Handler()})}
	panicked, _ := outcome(func() {
		runLoop(t, cfg, func(l *eventloop.Loop) {
			l.Hold()
			l.Post(func() { panic("the first") })
		})
	})
	if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "in Handle" {
		t.Errorf("Run panicked with %v, want the panic of the handler", panicked)
	}
}

// writeAndClose connects to addr, writes what, and closes the connection when the
// peer has.
func writeAndClose(t testing.TB, addr, what string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, what)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, c)
		c.Close()
	}()
	t.Cleanup(func() { <-done })
}

// onceFailed calls f when l has counted an error.
func onceFailed(l *eventloop.Loop, f func()) {
	var look *eventloop.Timer
	look = l.Every(time.Millisecond, func() {
		if l.Stats().Loop.ErrorsTotal > 0 {
			look.Stop()
			f()
		}
	})
}
