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
	for _, how := range []string{"popped", "removed"} {
		var h Heap[*item]
		var items []*item
		for i := range 1 << 16 {
			items = append(items, &item{when: int64(i * 7919 % (1 << 16))})
			h.Push(items[i], items[i].when)
		}
		for _, it := range items {
			if how == "popped" {
				h.Pop()
			} else {
				h.Remove(it)
			}
		}
		if c := cap(h.nodes); c > minCap {
			t.Errorf("%s: capacity of the empty heap = %d, want at most %d", how, c, minCap)
		}
		for i, n := range h.nodes[:cap(h.nodes)] {
			if n.item != nil {
				t.Errorf("%s: the empty heap refers to an item at %d", how, i)
			}
		}
	}
}

func TestRemovedItemsNeverTakeMoreRoomThanTheOthers(t *testing.T) {
	var h Heap[*item]
	var live []*item
	for i := range 100 {
		live = append(live, &item{})
		h.Push(live[i], 1000)
	}
	for i := range 100_000 {
		it := live[i%len(live)]
		h.Remove(it)
		h.Push(it, int64(2000+i))
		if len(h.nodes) > 2*h.Len()+maxStale {
			t.Fatalf("nodes = %d for %d items", len(h.nodes), h.Len())
		}
	}
	if h.Len() != len(live) {
		t.Errorf("length = %d, want %d", h.Len(), len(live))
	}
}

func TestClearRemovesEveryItem(t *testing.T) {
	var h Heap[*item]
	a, b := &item{}, &item{}
	h.Push(a, 1)
	h.Push(b, 2)
	h.Remove(b)
	h.Clear()
	if h.Len() != 0 || a.slot.Queued() || b.slot.Queued() {
		t.Error("an item is still queued after Clear")
	}
	h.Push(a, 3)
	if it, when := h.Pop(); it != a || when != 3 {
		t.Errorf("popped %v, %d after Clear, want the item that was pushed since", it, when)
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
			"push again": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
				it := model[i]
				h.Remove(it)
				it.when = rapid.Int64Range(-3, 3).Draw(t, "when")
				h.Push(it, it.when)
				model = append(slices.Delete(model, i, i+1), it)
				slices.SortStableFunc(model, func(a, b *item) int { return int(a.when - b.when) })
			},
			"remove many": func(t *rapid.T) {
				for n := len(model) * 2 / 3; n > 0; n-- {
					h.Remove(model[0])
					model = model[1:]
				}
			},
			"push many": func(t *rapid.T) {
				for range 60 {
					it := &item{id: next, when: int64(next*7919%11) - 5}
					next++
					h.Push(it, it.when)
					model = append(model, it)
				}
				slices.SortStableFunc(model, func(a, b *item) int { return int(a.when - b.when) })
			},
			"": func(t *rapid.T) {
				if h.Len() != len(model) {
					t.Fatalf("length = %d, want %d", h.Len(), len(model))
				}
				if when, ok := h.Min(); ok != (len(model) > 0) || ok && when != model[0].when {
					t.Fatalf("min = %d, %v, want that of %v", when, ok, model)
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
