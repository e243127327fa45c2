//go:build unix

package eventloop_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// blockingPipe returns a pipe like the standard input of a program in a pipeline: a Read
// of it blocks its thread, and Close does not interrupt it.
func blockingPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	for _, fd := range p {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(p[0]), "blocking input"), os.NewFile(uintptr(p[1]), "blocking output")
}

// isReadingFile reports whether a Reader is in a Read of a file that blocks its thread.
func isReadingFile() bool { return isInRead("eventloop.(*Reader).run") }

// isInRead reports whether a function of the library is in a Read of a file that blocks its
// thread.
func isInRead(function string) bool {
	buf := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, function) && strings.Contains(g, "syscall.read(") {
			return true
		}
	}
	return false
}

// testLeavingRead checks that a loop ends although its Read of a file does not. open returns
// the file and a file whose output is its input.
func testLeavingRead(t *testing.T, open func(t *testing.T) (r, w *os.File)) {
	for _, how := range []string{"Stop on the loop", "Stop from outside", "Loop.Stop", "Unref", "Stop after the file was closed"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			in, w := open(t)
			got := ""
			end := func(l *eventloop.Loop, r *eventloop.Reader) {
				switch how {
				case "Stop on the loop":
					l.Post(func() { r.Stop(); r.Stop() })
				case "Stop from outside":
					r.Stop()
				case "Loop.Stop":
					l.Stop()
				case "Unref":
					r.Unref()
				case "Stop after the file was closed":
					in.Close()
					r.Stop()
				}
			}
			w.WriteString("x\n")
			err := runLoop(t, &eventloop.Config{WorkGrace: time.Millisecond}, func(l *eventloop.Loop) {
				var r *eventloop.Reader
				r = eventloop.ReadFrom(l, in, func(p []byte) {
					got += string(p)
					go func() {
						if !eventually(isReadingFile) {
							t.Error("the reader does not read")
						}
						end(l, r)
					}()
				}, func(err error) { t.Errorf("onEnd: %v", err) })
			})
			wantEqual(t, "Run", err, nil)
			wantEqual(t, "what was read", got, "x\n")
			wantEqual(t, "the Read still waits", isReadingFile(), true)
			w.WriteString("lost\n") // ends the Read
			w.Close()
		})
	}
}

func TestALoopEndsAlthoughAReadOfAnInheritedPipeDoesNot(t *testing.T) {
	testLeavingRead(t, blockingPipe)
}

func TestTheEndOfAnInheritedPipeIsDelivered(t *testing.T) {
	in, w := blockingPipe(t)
	w.WriteString("x")
	w.Close()
	got := ""
	mustRun(t, nil, func(l *eventloop.Loop) {
		eventloop.ReadFrom(l, in, func(p []byte) { got += string(p) }, func(err error) { got += fmt.Sprint(" ", err) })
	})
	wantEqual(t, "what was read", got, "x <nil>")
}
