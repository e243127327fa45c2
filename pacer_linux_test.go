package eventloop_test

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onloop/eventloop"
)

// onOneProcessor makes the rest of the test run on one processor.
func onOneProcessor(t *testing.T) {
	n := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(n) })
}

// With one processor, only the dispatcher makes the scheduler poll the network while the
// loop is busy.
func TestALoopThatNeverSleepsLetsTheNetworkRun(t *testing.T) {
	checkLeaks(t)
	onOneProcessor(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fd := int(w.Fd())
	waiting, got := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(got)
		defer r.Close()
		close(waiting)
		r.Read(make([]byte, 1))
	}()
	<-waiting
	turns := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		var again func()
		again = func() {
			if turns == eventloop.PassEvery { // the reader is waiting
				unix.Write(fd, []byte{1})
			}
			turns++
			select {
			case <-got:
			default:
				l.Post(again)
			}
		}
		l.Post(again)
	})
	// Once, the poller may find the reader together with the dispatcher, and run it second.
	if most := 4 * eventloop.PassEvery; turns > most {
		t.Errorf("the reader ran after %d turns, want at most %d", turns, most)
	}
}

func TestABusyLoopOnOneProcessorWorksInVirtualTime(t *testing.T) {
	onOneProcessor(t)
	turns := 0
	err := virtually(t, nil, func(l *eventloop.Loop) {
		var again func()
		again = func() {
			if turns++; turns < 5*eventloop.PassEvery {
				l.Post(again)
			}
		}
		l.Post(again)
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "turns", turns, 5*eventloop.PassEvery)
}
