package fifo

import "testing"

func TestQueueGivesValuesInOrderOfArrival(t *testing.T) {
	var q Queue[int]
	pushed, popped := 0, 0
	push := func(n int) {
		for range n {
			q.Push(pushed)
			pushed++
		}
	}
	pop := func(n int) {
		for range n {
			if got := q.Pop(); got != popped {
				t.Fatalf("Pop = %d, want %d", got, popped)
			}
			popped++
		}
	}
	for _, n := range []int{1, chunkSize - 1, chunkSize, chunkSize + 1, 40 * chunkSize} {
		push(n)
		pop(n / 2)
		push(n)
		pop(n)
		if got, want := q.Len(), pushed-popped; got != want {
			t.Errorf("Len = %d, want %d", got, want)
		}
	}
	pop(q.Len())
	if q.head != q.tail {
		t.Error("an empty queue has several chunks in use")
	}
}

func TestQueueKeepsLittleMemoryAfterABurst(t *testing.T) {
	var q Queue[int]
	for i := range 100 * chunkSize {
		q.Push(i)
	}
	for q.Len() > 0 {
		q.Pop()
	}
	chunks := 0
	for c := q.spare; c != nil; c = c.next {
		chunks++
	}
	if chunks != maxSpare || q.spares != maxSpare {
		t.Errorf("%d chunks kept, counted as %d, want %d", chunks, q.spares, maxSpare)
	}
}

func TestQueueForgetsWhatWasPopped(t *testing.T) {
	var q Queue[*int]
	q.Push(new(int))
	q.Push(new(int))
	q.Pop()
	if q.head.items[0] != nil {
		t.Error("the chunk still refers to a value that was popped")
	}
}

func TestQueueAllocatesNothingInAFlowThatFitsItsSpareChunks(t *testing.T) {
	var q Queue[int]
	flow := func() {
		for i := range maxSpare * chunkSize {
			q.Push(i)
		}
		for q.Len() > 0 {
			q.Pop()
		}
	}
	if got := testing.AllocsPerRun(10, flow); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func BenchmarkPushPop(b *testing.B) {
	var q Queue[int]
	for b.Loop() {
		q.Push(1)
		q.Pop()
	}
}
