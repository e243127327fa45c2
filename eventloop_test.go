package eventloop_test

import (
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

func TestRunReturnsNilWhenNothingIsLeftToDo(t *testing.T) {
	ran := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Post(func() { ran++ })
		l.AfterFunc(time.Millisecond, func() { ran++ })
	})
	wantEqual(t, "callbacks", ran, 2)
}

func TestStartLoopHelperEnds(t *testing.T) {
	l, end := startLoop(t, nil)
	n := 0
	l.Post(func() { n++ })
	if err := end(); err != nil {
		t.Error(err)
	}
	wantEqual(t, "posts", n, 1)
}
