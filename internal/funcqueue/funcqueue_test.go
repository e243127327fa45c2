package funcqueue

import (
	"testing"

	"pgregory.net/rapid"
)

func TestFunctionsComeOutInOrderWhateverTheSizesOfTheBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q Queue
		var b Batch
		pushed, popped, got := 0, 0, -1
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 3*chunkSize).Draw(t, "n") {
					id := pushed
					pushed++
					q.Push(func() { got = id })
				}
			},
			"take": func(t *rapid.T) {
				if b.Len() > 0 {
					t.Skip("the batch is not empty")
				}
				b.Take(&q)
			},
			"pop": func(t *rapid.T) {
				for range rapid.IntRange(0, b.Len()).Draw(t, "n") {
					b.Pop()()
					if got != popped {
						t.Fatalf("popped %d, want %d", got, popped)
					}
					popped++
				}
			},
			"": func(t *rapid.T) {
				if got, want := q.Len()+b.Len(), pushed-popped; got != want {
					t.Fatalf("length = %d, want %d", got, want)
				}
			},
		})
	})
}

func TestAQueueThatIsTakenInTimeAllocatesNothing(t *testing.T) {
	var q Queue
	var b Batch
	f := func() {}
	round := func() {
		for range 10 * chunkSize {
			q.Push(f)
		}
		b.Take(&q)
		for b.Len() > 0 {
			b.Pop()
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
