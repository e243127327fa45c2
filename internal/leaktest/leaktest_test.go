package leaktest

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAGoroutineThatEndsLateIsNoLeak(t *testing.T) {
	others := goleak.IgnoreCurrent()
	go time.Sleep(time.Second) // for longer than goleak.Find waits
	if err := Find(others); err != nil {
		t.Error(err)
	}
}

func TestAGoroutineThatDoesNotEndIsALeak(t *testing.T) {
	others := goleak.IgnoreCurrent()
	end := make(chan struct{})
	defer close(end)
	go func() { <-end }()
	if err := find(0, others); err == nil {
		t.Error("the goroutine is not found")
	}
}
