package funcqueue

import (
	"testing"

	"pgregory.net/rapid"
)

// The numbers lie on both sides of the size of a chunk and of the number of spare chunks,
// and a run must cross both.
func TestFunctionsAndCallbacksComeOutInOrderWhateverTheSizesOfTheBatches(t *testing.T) {
	var reused, dropped bool
	some := rapid.OneOf(
		rapid.IntRange(1, 3),
		rapid.IntRange(chunkSize-1, chunkSize+2),
		rapid.IntRange(1, 3*chunkSize),
		rapid.IntRange(maxSpare*chunkSize-1, (maxSpare+2)*chunkSize+1),
	)
	rapid.Check(t, func(t *rapid.T) {
		var q Queue
		var b Batch
		pushed, popped, got := 0, 0, -1
		pop := func(t *rapid.T, n int) {
			for range n {
				callFirst(&b)
				if got != popped {
					t.Fatalf("popped %d, want %d", got, popped)
				}
				popped++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				spares := q.spares
				every := rapid.IntRange(1, 4).Draw(t, "a callback for each")
				for range some.Draw(t, "n") {
					id := pushed
					pushed++
					if f := func() { got = id }; id%every == 0 {
						q.PushCallback(callback(f))
					} else {
						q.Push(f)
					}
				}
				reused = reused || q.spares < spares
			},
			"take": func(t *rapid.T) {
				if b.Len() > 0 {
					t.Skip("the batch is not empty")
				}
				spent := length(b.spent)
				dropped = dropped || q.spares+spent > maxSpare
				want := min(q.spares+spent, maxSpare)
				b.Take(&q)
				if q.spares != want || b.spent != nil {
					t.Fatalf("the queue keeps %d chunks, want %d", q.spares, want)
				}
			},
			"pop some": func(t *rapid.T) { pop(t, min(some.Draw(t, "n"), b.Len())) },
			"pop all":  func(t *rapid.T) { pop(t, b.Len()) },
			"": func(t *rapid.T) {
				if got, want := q.Len()+b.Len(), pushed-popped; got != want {
					t.Fatalf("length = %d, want %d", got, want)
				}
				if n := cap(q.callbacks); q.Len() == 0 && n > maxCallbacks {
					t.Fatalf("an empty queue keeps room for %d callbacks, want at most %d", n, maxCallbacks)
				}
				if n := length(q.spare); n != q.spares || n > maxSpare {
					t.Fatalf("spare chunks = %d, counted as %d, want at most %d", n, q.spares, maxSpare)
				}
			},
		})
	})
	if !reused || !dropped {
		t.Errorf("chunks were reused: %v, and dropped: %v, want both", reused, dropped)
	}
}

type callback func()

func (c callback) Call() { c() }

// callFirst calls the first element of b.
func callFirst(b *Batch) {
	if f := b.Pop(); f != nil {
		f()
	} else {
		b.PopCallback().Call()
	}
}

// length returns the number of chunks of a list.
func length(c *chunk) (n int) {
	for ; c != nil; c = c.next {
		n++
	}
	return n
}

func TestAQueueThatIsEmptiedInTimeAllocatesNothing(t *testing.T) {
	var q Queue
	var b Batch
	f := func() {}
	c := Callback(callback(f))
	round := func() {
		for range 5 * chunkSize {
			q.Push(f)
			q.PushCallback(c)
		}
		b.Take(&q)
		for b.Len() > 0 {
			callFirst(&b)
		}
	}
	round()
	if got := testing.AllocsPerRun(100, round); got != 0 {
		t.Errorf("allocations = %v, want 0", got)
	}
}

func TestABurstLeavesABoundedNumberOfChunks(t *testing.T) {
	var q Queue
	var b Batch
	for range 1000 * chunkSize {
		q.Push(func() {})
	}
	b.Take(&q)
	for b.Len() > 0 {
		b.Pop()
	}
	b.Take(&q)
	if b.spent != nil || b.head != nil {
		t.Error("the batch holds chunks after Take of an empty queue")
	}
	n := 0
	for c := q.spare; c != nil; c = c.next {
		n++
		for i, f := range c.funcs {
			if f != nil {
				t.Fatalf("a spare chunk refers to a function at %d", i)
			}
		}
	}
	if n != maxSpare || n != q.spares {
		t.Errorf("spare chunks = %d, counted as %d, want %d", n, q.spares, maxSpare)
	}
}
