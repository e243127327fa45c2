package goid

import (
	"iter"
	"testing"
)

// Every system tests both ways to identify goroutines. Current uses the second one only
// where there is no assembly.
var ways = map[string]func() ID{"Current": Current, "number": number}

func TestGoroutinesHaveDifferentIDsThatStayTheSame(t *testing.T) {
	for name, id := range ways {
		mine, other := id(), make(chan ID)
		go func() { other <- id() }()
		if mine == 0 || mine != id() || mine == <-other {
			t.Errorf("%s: the ID of this goroutine is zero, changes, or is that of another", name)
		}
	}
}

func TestManyGoroutinesHaveDifferentIDs(t *testing.T) {
	for name, id := range ways {
		const n = 1000
		ids, end := make(chan ID), make(chan struct{})
		for range n {
			go func() { ids <- id(); <-end }()
		}
		seen := map[ID]bool{id(): true}
		for range n {
			seen[<-ids] = true
		}
		close(end)
		if len(seen) != n+1 {
			t.Errorf("%s: %d IDs of %d goroutines", name, len(seen), n+1)
		}
	}
}

func TestACoroutineKeepsItsOwnIDAcrossSwitchesAndStackGrowth(t *testing.T) {
	for name, id := range ways {
		next, stop := iter.Pull(func(yield func(ID) bool) {
			yield(id())
			yield(deep(100, id))
		})
		first, _ := next()
		second, _ := next()
		stop()
		if first == id() || first != second {
			t.Errorf("%s: IDs = %v then %v, that of the caller is %v", name, first, second, id())
		}
	}
}

func TestIDsAllocateNothing(t *testing.T) {
	for name, id := range ways {
		if got := testing.AllocsPerRun(1000, func() { id() }); got != 0 {
			t.Errorf("%s: allocations = %v, want 0", name, got)
		}
	}
}

// deep needs more stack than the initial stack of a goroutine.
func deep(n int, id func() ID) ID {
	var pad [1024]byte
	if n == 0 {
		return id()
	}
	got := deep(n-1, id)
	at := n % len(pad)
	pad[at] = 1
	return got + ID(pad[at]) - 1 // otherwise the compiler would remove pad
}

func BenchmarkCurrent(b *testing.B) {
	for b.Loop() {
		Current()
	}
}

func BenchmarkNumber(b *testing.B) {
	for b.Loop() {
		number()
	}
}
