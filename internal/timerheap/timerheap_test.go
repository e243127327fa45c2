package timerheap

import (
	"cmp"
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
	if it.slot.seq == 0 || !h.Remove(it) {
		t.Error("a pushed item is not queued or not removed")
	}
	if it.slot.seq != 0 || h.Remove(it) {
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

func TestRemovedItemsNeverTakeMoreMemoryThanTheOthers(t *testing.T) {
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
	if h.Len() != 0 || a.slot.seq != 0 || b.slot.seq != 0 {
		t.Error("an item is still queued after Clear")
	}
	h.Push(a, 3)
	if it, when := h.Pop(); it != a || when != 3 {
		t.Errorf("popped %v, %d after Clear, want the item that was pushed after it", it, when)
	}
}

// Compaction begins when more than maxStale items were removed, so the test tries every
// count around maxStale, every remainder, and every order.
func TestAnyNumberOfItemsCanBeRemovedInAnyOrder(t *testing.T) {
	orders := map[string]func(left, i int) int{
		"oldest first":   func(left, i int) int { return 0 },
		"newest first":   func(left, i int) int { return left - 1 },
		"from both ends": func(left, i int) int { return i % 2 * (left - 1) },
		"from within":    func(left, i int) int { return i * 7919 % left },
	}
	for name, next := range orders {
		for n := range 3*maxStale + 1 {
			var h Heap[*item]
			left := make([]*item, n)
			for i := range left {
				left[i] = &item{id: i, when: int64(i)}
				h.Push(left[i], left[i].when)
			}
			for i := range n {
				at := next(len(left), i)
				if !h.Remove(left[at]) {
					t.Fatalf("%s: item %d of %d was not in the heap", name, left[at].id, n)
				}
				left = slices.Delete(left, at, at+1)
				checkHeap(t, &h, left)
			}
			h.Push(&item{}, 7)
			if _, when := h.Pop(); when != 7 || h.Len() != 0 {
				t.Fatalf("%s: %d removed items come before a new one", name, n)
			}
		}
	}
}

// Compaction keeps any number of items, in order.
func TestRemainingItemsComeOutInOrder(t *testing.T) {
	for n := range 4*maxStale + 1 {
		for kept := range n + 1 {
			var h Heap[*item]
			var items, want []*item
			for i := range n {
				items = append(items, &item{id: i, when: int64((n - i) * 7919 % 101)})
				h.Push(items[i], items[i].when)
			}
			for i, it := range items {
				if i*kept/n == (i+1)*kept/n { // all except kept items, spread evenly
					h.Remove(it)
				} else {
					want = append(want, it)
				}
			}
			sortItems(want)
			for _, w := range want {
				if it, _ := h.Pop(); it != w {
					t.Fatalf("%d of %d left: popped item %d, want %d", kept, n, it.id, w.id)
				}
			}
			if h.Len() != 0 {
				t.Fatalf("%d of %d left: %d items too many", kept, n, h.Len())
			}
		}
	}
}

// The model is a sorted slice; any sequence of operations must agree with it. The
// numbers of items per operation lie on both sides of every threshold of the heap, and
// the sequences of a run together must cross each threshold.
func TestHeapBehavesLikeASortedList(t *testing.T) {
	var crossed struct{ grown, shrunk, compacted bool }
	some := rapid.OneOf(
		rapid.IntRange(0, 4),
		rapid.IntRange(maxStale-1, maxStale+2),
		rapid.Just(maxStale+1), // when the last one is removed the heap is compacted to nothing
		rapid.IntRange(minCap-1, minCap+2),
		rapid.IntRange(2*maxStale, 4*minCap+2),
		rapid.Just(8*minCap+1),
	)
	rapid.Check(t, func(t *rapid.T) {
		var h Heap[*item]
		var model []*item // sorted
		next := 0
		push := func(it *item, when int64) {
			it.when = when
			before := cap(h.nodes)
			h.Push(it, when)
			crossed.grown = crossed.grown || before >= minCap && cap(h.nodes) > before
			at, _ := slices.BinarySearchFunc(model, when, func(it *item, when int64) int {
				if it.when <= when {
					return -1 // after equal items
				}
				return 1
			})
			model = slices.Insert(model, at, it)
		}
		remove := func(t *rapid.T, i int) {
			nodes, size := len(h.nodes), cap(h.nodes)
			if !h.Remove(model[i]) {
				t.Fatalf("item %d was not queued", model[i].id)
			}
			model = slices.Delete(model, i, i+1)
			crossed.shrunk = crossed.shrunk || cap(h.nodes) < size
			crossed.compacted = crossed.compacted || nodes-len(h.nodes) > maxStale
		}
		when := rapid.Int64Range(-3, 3)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				n := some.Draw(t, "n")
				spread := rapid.Int64Range(1, 100).Draw(t, "spread")
				for i := range n {
					push(&item{id: next}, int64(i*7919)%spread-spread/2)
					next++
				}
			},
			"pop": func(t *rapid.T) {
				for range min(some.Draw(t, "n"), len(model)) {
					if it, at := h.Pop(); it != model[0] || at != it.when {
						t.Fatalf("popped %d of %d, want %d of %d", it.id, at, model[0].id, model[0].when)
					}
					model = model[1:]
				}
			},
			"remove": func(t *rapid.T) {
				n := min(some.Draw(t, "n"), len(model))
				where := rapid.SampledFrom([]string{"first", "last", "anywhere"}).Draw(t, "where")
				for i := range n {
					switch where {
					case "first":
						remove(t, 0)
					case "last":
						remove(t, len(model)-1)
					default:
						remove(t, i*7919%len(model))
					}
				}
			},
			"remove all but": func(t *rapid.T) {
				for n := some.Draw(t, "n"); len(model) > n; {
					remove(t, len(model)-1)
				}
			},
			"push again": func(t *rapid.T) {
				for range min(some.Draw(t, "n"), len(model)) {
					i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
					it := model[i]
					remove(t, i)
					push(it, when.Draw(t, "when"))
				}
			},
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
					t.Skip("rarely")
				}
				h.Clear()
				model = nil
			},
			"": func(t *rapid.T) { checkHeap(t, &h, model) },
		})
	})
	if !crossed.grown || !crossed.shrunk || !crossed.compacted {
		t.Errorf("thresholds crossed = %+v, want all", crossed)
	}
}

// sortItems sorts items as the heap does. They are in order of arrival.
func sortItems(items []*item) {
	slices.SortStableFunc(items, func(a, b *item) int { return cmp.Compare(a.when, b.when) })
}

// checkHeap fails the test unless h holds the same items as model, which is sorted.
func checkHeap(t interface{ Fatalf(string, ...any) }, h *Heap[*item], model []*item) {
	if h.Len() != len(model) {
		t.Fatalf("length = %d, want %d", h.Len(), len(model))
	}
	if when, ok := h.Min(); ok != (len(model) > 0) || ok && when != model[0].when {
		t.Fatalf("min = %d, %v, want that of %d items", when, ok, len(model))
	}
	n := 0
	for it, when := range h.All {
		if n++; when != it.when || it.slot.seq == 0 {
			t.Fatalf("All gave item %d of %d with %d, queued %v", it.id, it.when, when, it.slot.seq != 0)
		}
	}
	if n != len(model) {
		t.Fatalf("All gave %d items, want %d", n, len(model))
	}
}
