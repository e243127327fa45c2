package goid

import "testing"

func TestGoroutinesHaveDifferentNumbersThatStayTheSame(t *testing.T) {
	mine, other := Get(), make(chan uint64)
	go func() { other <- Get() }()
	if mine == 0 || mine != Get() || mine == <-other {
		t.Error("the number of this goroutine is zero, changes, or is another's")
	}
}
