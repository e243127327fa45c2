package goid

import (
	"iter"
	"testing"
)

func TestGoroutinesHaveDifferentIDsThatStayTheSame(t *testing.T) {
	mine, other := Current(), make(chan ID)
	go func() { other <- Current() }()
	if mine == 0 || mine != Current() || mine == <-other {
		t.Error("the ID of this goroutine is zero, changes, or is another's")
	}
}

func TestACoroutineHasAnIDOfItsOwnThatOutlivesSwitchesAndGrowth(t *testing.T) {
	next, stop := iter.Pull(func(yield func(ID) bool) {
		yield(Current())
		yield(deep(100))
	})
	defer stop()
	first, _ := next()
	second, _ := next()
	if first == Current() || first != second {
		t.Errorf("IDs = %v then %v, that of the caller is %v", first, second, Current())
	}
}

// deep needs more stack than a goroutine begins with.
func deep(n int) ID {
	var pad [1024]byte
	if n == 0 {
		return Current()
	}
	id := deep(n - 1)
	at := n % len(pad)
	pad[at] = 1
	return id + ID(pad[at]) - 1 // or the compiler would do without pad
}

func BenchmarkCurrent(b *testing.B) {
	for b.Loop() {
		Current()
	}
}
