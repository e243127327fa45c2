package timerheap

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type item struct {
	slot Slot
	id   int
	when int64
}

func (i *item) TimerSlot() *Slot { return &i.slot }

func TestItemsComeOutByDeadlineThenByArrival(t *testing.T) {
	var h Heap[*item]
	for id, when := range []int64{5, 1, 5, 3, 1, 5} {
		h.Push(&item{id: id, when: when}, when)
	}
	var got []int
	for h.Len() > 0 {
		it, when := h.Pop()
		if when != it.when {
			t.Errorf("item %d: deadline = %d, want %d", it.id, when, it.when)
		}
		got = append(got, it.id)
	}
	if want := []int{1, 4, 3, 0, 2, 5}; !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
}

func TestRemoveReportsWhetherTheItemWasQueued(t *testing.T) {
	var h Heap[*item]
	it := &item{}
	if h.Remove(it) {
		t.Error("Remove of an item that was never pushed = true")
	}
	h.Push(it, 1)
	if !it.slot.Queued() || !h.Remove(it) {
		t.Error("a pushed item is not queued or not removed")
	}
	if it.slot.Queued() || h.Remove(it) {
		t.Error("a removed item is still queued")
	}
}

func TestHeapGivesItsMemoryBackAfterABurst(t *testing.T) {
	var h Heap[*item]
	for i := range 1 << 16 {
		h.Push(&item{}, int64(i))
	}
	for h.Len() > 0 {
		h.Pop()
	}
	if c := cap(h.nodes); c > shrinkAbove {
		t.Errorf("capacity of the empty heap = %d, want at most %d", c, shrinkAbove)
	}
}

// The model is a sorted slice; any sequence of operations must agree with it.
func TestHeapBehavesAsASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h Heap[*item]
		var model []*item
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				it := &item{id: next, when: rapid.Int64Range(-3, 3).Draw(t, "when")}
				next++
				h.Push(it, it.when)
				model = append(model, it)
				slices.SortStableFunc(model, func(a, b *item) int { return int(a.when - b.when) })
			},
			"pop": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				it, _ := h.Pop()
				if it != model[0] {
					t.Fatalf("popped %d, want %d", it.id, model[0].id)
				}
				model = model[1:]
			},
			"remove": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
				if !h.Remove(model[i]) {
					t.Fatalf("item %d was not queued", model[i].id)
				}
				model = slices.Delete(model, i, i+1)
			},
			"": func(t *rapid.T) {
				if h.Len() != len(model) {
					t.Fatalf("length = %d, want %d", h.Len(), len(model))
				}
				if when, ok := h.Min(); ok && when != model[0].when {
					t.Fatalf("min = %d, want %d", when, model[0].when)
				}
				n := 0
				h.All(func(*item, int64) bool { n++; return true })
				if n != len(model) {
					t.Fatalf("All gave %d items, want %d", n, len(model))
				}
			},
		})
	})
}
