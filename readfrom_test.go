package eventloop_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/onloop/eventloop"
)

// A source is an io.Reader that counts.
type source struct {
	io.Reader
	reads, closes atomic.Int32
}

func (s *source) Read(p []byte) (int, error) {
	s.reads.Add(1)
	return s.Reader.Read(p)
}

func (s *source) Close() error {
	s.closes.Add(1)
	if c, ok := s.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func TestReadFromGivesAllPiecesInOrderThenTheEndAndClosesTheReaderOnce(t *testing.T) {
	text := strings.Repeat("0123456789", 20_000)
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(text), "one byte at a time": iotest.OneByteReader(strings.NewReader(text[:100])),
		"data with the end": iotest.DataErrReader(strings.NewReader(text)), "nothing": strings.NewReader(""),
	} {
		t.Run(name, func(t *testing.T) {
			src, want := &source{Reader: r}, text
			switch name {
			case "one byte at a time":
				want = text[:100]
			case "nothing":
				want = ""
			}
			var got bytes.Buffer
			ends := 0
			mustRun(t, nil, func(l *eventloop.Loop) {
				eventloop.ReadFrom(l, src, func(p []byte) {
					if got.Write(p); len(p) == 0 || len(p) > 64<<10 || ends > 0 {
						t.Errorf("a piece of %d bytes after %d ends", len(p), ends)
					}
				}, func(err error) { ends++; wantEqual(t, "error of the end", err, nil) })
			})
			wantEqual(t, "data is right", got.String() == want, true)
			wantEqual(t, "ends", ends, 1)
			wantEqual(t, "closes", src.closes.Load(), 1)
		})
	}
}

func TestReadFromReadsOnlyWhenThePieceIsDeliveredAndNothingIsPaused(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		src := &source{Reader: iotest.OneByteReader(strings.NewReader("abc"))}
		var r *eventloop.Reader
		got := ""
		r = eventloop.ReadFrom(l, src, func(p []byte) {
			got += string(p)
			time.Sleep(time.Minute) // plenty of time to read on
			wantEqual(t, "reads", src.reads.Load(), int32(len(got)))
			r.Pause()
			l.AfterFunc(time.Hour, func() {
				if n := src.reads.Load(); n > int32(len(got)) {
					t.Errorf("%d reads while paused after %d bytes", n, len(got))
				}
				r.Resume()
			})
		}, func(error) { got += "." })
		l.OnExit(func() { wantEqual(t, "what was read", got, "abc.") })
	})
	wantEqual(t, "Run", err, nil)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestWhatIsWrongWithTheReaderOfReadFromEndsItOnce(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		read readerFunc
		is   func(err error) bool
	}{
		"an error":       {func(p []byte) (int, error) { return 0, broken }, func(err error) bool { return err == broken }},
		"nothing, ever":  {func(p []byte) (int, error) { return 0, nil }, func(err error) bool { return err == io.ErrNoProgress }},
		"too much":       {func(p []byte) (int, error) { return len(p) + 1, nil }, func(err error) bool { return err != nil }},
		"less than none": {func(p []byte) (int, error) { return -1, nil }, func(err error) bool { return err != nil }},
		"a wrapped EOF":  {func(p []byte) (int, error) { return 0, io.ErrUnexpectedEOF }, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		"a panic": {func(p []byte) (int, error) { panic("boom") }, func(err error) bool {
			pe, ok := errors.AsType[*eventloop.PanicError](err)
			return ok && pe.Value == "boom"
		}},
		"Goexit": {func(p []byte) (int, error) { runtime.Goexit(); return 0, nil }, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			var ends []error
			src := &source{Reader: tt.read}
			onData := func([]byte) { t.Error("data") }
			mustRun(t, nil, func(l *eventloop.Loop) {
				eventloop.ReadFrom(l, src, onData, func(err error) { ends = append(ends, err) })
			})
			if len(ends) != 1 || !tt.is(ends[0]) {
				t.Errorf("ends: %v", ends)
			}
			wantEqual(t, "closes", src.closes.Load(), 1)
			err := runLoop(t, nil, func(l *eventloop.Loop) { eventloop.ReadFrom(l, tt.read, onData, nil) })
			if oe, ok := errors.AsType[*eventloop.OpError](err); !ok || oe.Op != eventloop.OpRead {
				t.Errorf("without onEnd Run returned %v, want an OpError of reading", err)
			}
		})
	}
}

func TestAPanicInCloseOfTheReaderOfReadFromIsNotLost(t *testing.T) {
	for _, how := range []string{"after the end", "by Stop", "by the end of the loop"} {
		for _, catch := range []bool{false, true} {
			t.Run(fmt.Sprint(how, ", CatchPanics ", catch), func(t *testing.T) {
				src := panickingCloser{strings.NewReader("x")}
				var events []error
				cfg := &eventloop.Config{CatchPanics: catch, EventHandler: func(err error) { events = append(events, err) }}
				var err error
				var panicked any
				func() {
					defer func() { panicked = recover() }()
					err = runLoop(t, cfg, func(l *eventloop.Loop) {
						r := eventloop.ReadFrom(l, src, func([]byte) {}, nil)
						switch how {
						case "by Stop":
							r.Stop()
						case "by the end of the loop":
							l.Stop()
						}
					})
				}()
				if catch {
					wantEqual(t, "Run", err, nil)
					wantEqual(t, "panic of Run", panicked, nil)
				} else {
					wantEqual(t, "events", len(events), 0)
					e, _ := panicked.(error)
					events = append(events, e)
				}
				wantEqual(t, "reports", len(events), 1)
				if pe, ok := errors.AsType[*eventloop.PanicError](events[0]); !ok || pe.Value != "close" {
					t.Errorf("the report is %v", events[0])
				}
			})
		}
	}
}

type panickingCloser struct{ io.Reader }

func (panickingCloser) Close() error { panic("close") }

func TestStopOfAReaderEndsAReadThatWaitsAndNoCallbackFollows(t *testing.T) {
	for _, how := range []string{"in onData", "from outside", "before it begins", "by the end of the loop"} {
		t.Run(how, func(t *testing.T) {
			a, b := net.Pipe()
			src, pieces := &source{Reader: a}, 0
			mustRun(t, nil, func(l *eventloop.Loop) {
				var r *eventloop.Reader
				stop := func() { r.Stop(); r.Stop() }
				r = eventloop.ReadFrom(l, src, func(p []byte) {
					pieces++
					switch how {
					case "in onData":
						stop()
					case "from outside":
						go stop()
					default:
						l.AfterFunc(time.Millisecond, l.Stop)
					}
				}, func(err error) { t.Errorf("onEnd: %v", err) })
				if how == "before it begins" {
					stop()
				}
				go b.Write([]byte("x"))
				if how == "by the end of the loop" {
					l.Hold()
				}
			})
			b.Close()
			wantEqual(t, "closes", src.closes.Load(), 1)
			if want := 1; how != "before it begins" {
				wantEqual(t, "pieces", pieces, want)
			}
		})
	}
}

func TestAReadThatDoesNotReturnIsNamedByTheErrorOfRun(t *testing.T) {
	release := make(chan bool)
	entered := make(chan bool, 1)
	err := eventloop.Run(t.Context(), &eventloop.Config{WorkGrace: time.Millisecond, Logger: (&logBook{}).logger()}, func(l *eventloop.Loop) error {
		watch(t, l)
		r := eventloop.ReadFrom(l, readerFunc(func(p []byte) (int, error) {
			entered <- true
			<-release
			return 0, io.EOF
		}), func([]byte) {}, func(error) { t.Error("onEnd after Stop") })
		go func() {
			<-entered
			r.Stop()
		}()
		return nil
	})
	close(release)
	wantErr(t, "Run", err, eventloop.ErrWorkLeft)
	if err == nil || !strings.Contains(err.Error(), "reader eventloop_test.readerFunc") {
		t.Errorf("the error does not name the reader: %v", err)
	}
}

func TestReadFromBeforeRunAndAfterTheEnd(t *testing.T) {
	checkLeaks(t)
	eventloop.ReadFrom(eventloop.New(nil), strings.NewReader("never"), func([]byte) {}, nil) // leaves nothing
	l := eventloop.New(logged(t, nil))
	got := ""
	eventloop.ReadFrom(l, strings.NewReader("early"), func(p []byte) { got += string(p) }, nil)
	wantEqual(t, "Run", l.Run(t.Context()), nil)
	wantEqual(t, "what was read", got, "early")
	late := &source{Reader: strings.NewReader("late")}
	eventloop.ReadFrom(l, late, func(p []byte) { t.Error("data") }, func(error) { t.Error("end") })
	wantEqual(t, "the source is closed", eventually(func() bool { return late.closes.Load() == 1 }), true)
	for _, f := range []func(){
		func() { eventloop.ReadFrom(l, nil, func([]byte) {}, nil) },
		func() { eventloop.ReadFrom(l, late, nil, nil) },
	} {
		if v, _ := outcome(f); v == nil {
			t.Error("no panic")
		}
	}
}

func TestAReaderIsAHandle(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	mustRun(t, nil, func(l *eventloop.Loop) {
		d := eventloop.ReadFrom(l, r, func([]byte) {}, nil)
		if names := handleNames(l); !strings.HasPrefix(names, "reader *os.File |0") {
			t.Errorf("handles: %s", names)
		}
		wantEqual(t, "readers", l.Stats().Loop.Readers, 1)
		d.Unref()
		l.AfterFunc(time.Millisecond, func() {}) // and then the loop ends
	})
}
