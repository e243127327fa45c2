package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestAPipeKeepsTheLoopAliveUntilAllIsReadAndTellsItsEnd(t *testing.T) {
	own := errors.New("own")
	for _, how := range []error{nil, own} {
		synctest.Test(t, func(t *testing.T) {
			began, got, end := time.Now(), "", error(nil)
			err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
				w, r := eventloop.NewPipe(l, 0)
				go func() {
					time.Sleep(time.Hour)
					var b []byte
					b, end = io.ReadAll(r)
					got = string(b)
				}()
				io.WriteString(w, "hello, ")
				io.WriteString(w, "loop")
				wantEqual(t, "bytes that wait", w.Buffered(), 11)
				wantEqual(t, "Close", w.CloseWithError(how), nil)
				wantEqual(t, "second Close", w.Close(), net.ErrClosed)
				_, err := w.Write([]byte("late"))
				wantEqual(t, "Write after Close", err, net.ErrClosed)
				wantEqual(t, "pipes", l.Stats().Loop.Pipes, 1)
				return nil
			})
			synctest.Wait()
			wantEqual(t, "Run", err, nil)
			wantEqual(t, "time", time.Since(began), time.Hour)
			wantEqual(t, "what was read", got, "hello, loop")
			wantEqual(t, "error of Read", end, how)
		})
	}
}

func TestOnDrainOfAPipeWritesAsFastAsTheReaderReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks = 100
		most, read, drains := 0, 0, 0
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			w, r := eventloop.NewPipe(l, 1000)
			left := blocks
			w.OnDrain(func() {
				drains++
				for ; left > 0 && !w.NeedDrain(); left-- {
					w.Write(make([]byte, 100))
				}
				if most = max(most, w.Buffered()); left == 0 {
					w.Close()
				}
			})
			go func() {
				p := make([]byte, 70)
				for {
					n, err := r.Read(p)
					if read += n; err != nil {
						return
					}
				}
			}()
			return nil
		})
		synctest.Wait()
		wantEqual(t, "Run", err, nil)
		wantEqual(t, "bytes read", read, blocks*100)
		wantEqual(t, "most that waited", most, 1100)
		if drains < 2 {
			t.Errorf("OnDrain was called %d times", drains)
		}
	})
}

func TestASecondOnDrainOfAPipeIsCalledAlthoughAllWasReadBefore(t *testing.T) {
	var called []string
	mustRun(t, nil, func(l *eventloop.Loop) {
		w, _ := eventloop.NewPipe(l, 0)
		w.OnDrain(func() { t.Error("a function was called after it was replaced") })
		w.OnDrain(func() {
			called = append(called, "first")
			w.OnDrain(func() {
				called = append(called, "second")
				w.Close()
			})
		})
	})
	wantSlice(t, "calls", called, []string{"first", "second"})
}

func TestAPipeWhoseReaderIsClosedTellsItsWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drains []int
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			w, r := eventloop.NewPipe(l, 10)
			w.Write(make([]byte, 100))
			wantEqual(t, "NeedDrain", w.NeedDrain(), true)
			w.OnDrain(func() {
				drains = append(drains, w.Buffered())
				_, err := w.Write([]byte("x"))
				wantEqual(t, "Write", err, io.ErrClosedPipe)
				w.Close()
			})
			go func() {
				time.Sleep(time.Second)
				r.Close()
				_, err := r.Read(make([]byte, 1))
				if err != io.ErrClosedPipe && err != io.EOF {
					t.Errorf("Read after Close: %v", err)
				}
			}()
			return nil
		})
		synctest.Wait()
		wantEqual(t, "Run", err, nil)
		wantSlice(t, "drains", drains, []int{0})
	})
}

func TestReadOfAPipeOnTheLoopIsAnError(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		w, r := eventloop.NewPipe(l, 0)
		w.Write([]byte("x"))
		_, err := r.Read(make([]byte, 1))
		wantEqual(t, "Read", err, eventloop.ErrOnLoop)
		r.Close()
		w.Close()
	})
}

func TestAPipeAtItsLimitsAndAtTheEndOfTheLoop(t *testing.T) {
	checkLeaks(t)
	ended := make(chan error, 2)
	l := eventloop.New(logged(t, nil))
	early, er := eventloop.NewPipe(l, -1)
	early.Write(make([]byte, 64<<20))
	wantEqual(t, "NeedDrain without a limit", early.NeedDrain(), false)
	if _, err := early.Write([]byte("x")); err != eventloop.ErrBufferFull {
		t.Errorf("Write of too much: %v", err)
	}
	er.Close()
	early.Close()
	l.Post(func() {
		for _, closed := range []bool{false, true} {
			w, r := eventloop.NewPipe(l, 0)
			w.Write([]byte("x"))
			go func() {
				<-l.Done() // before, there would be something to read
				_, err := io.ReadAll(r)
				ended <- err
			}()
			if closed {
				w.Close()
			}
		}
		l.Stop()
	})
	wantEqual(t, "Run", l.Run(t.Context()), nil)
	for range 2 {
		wantEqual(t, "Read of what the end of the loop has dropped", wait(t, ended, "end"), eventloop.ErrLoopClosed)
	}
	w, r := eventloop.NewPipe(l, 0)
	_, werr := w.Write([]byte("x"))
	_, rerr := r.Read(make([]byte, 1))
	wantEqual(t, "Write after the end", werr, eventloop.ErrLoopClosed)
	wantEqual(t, "Read after the end", rerr, eventloop.ErrLoopClosed)
}

// An upload that callbacks make while it is sent.
func TestAPipeIsTheBodyOfARequest(t *testing.T) {
	const lines = 1000
	mustRun(t, nil, func(l *eventloop.Loop) {
		s := serveHTTP(t, l, nil, func(r *eventloop.HTTPRequest) { r.Respond(200, nil, r.Body()) })
		w, body := eventloop.NewPipe(l, 100)
		n := 0
		w.OnDrain(func() {
			for ; n < lines && !w.NeedDrain(); n++ {
				io.WriteString(w, "line\n")
			}
			if n == lines {
				w.Close()
			}
		})
		l.HTTP().Do(context.Background(), "POST", "http://"+s.Addr().String(), &eventloop.HTTPOptions{BodyReader: body}).
			Then(func(res *eventloop.HTTPResponse, err error) {
				s.Close()
				if err != nil {
					t.Error(err)
					return
				}
				wantEqual(t, "echo", string(res.Body) == strings.Repeat("line\n", lines), true)
			})
	})
}
