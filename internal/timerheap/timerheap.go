// Package timerheap keeps deadlines in order: earliest first and, among equal
// ones, in order of arrival.
//
// It is a heap with four children a node. Against two children that halves the
// depth, and the four keys that are compared lie in two cache lines, because
// keys are stored in the heap itself instead of behind a pointer.
package timerheap

// An Item is what a heap holds. Its owner embeds a Slot, which the heap uses to
// find the item again.
type Item interface {
	comparable
	TimerSlot() *Slot
}

// A Slot is the place of one item in a heap. The zero Slot is in no heap.
type Slot struct {
	pos int // index in the heap plus one
}

// Queued reports whether the item is in a heap.
func (s *Slot) Queued() bool { return s.pos != 0 }

// A Heap holds items by deadline. The zero Heap is empty and ready for use. It
// is not safe for concurrent use.
type Heap[T Item] struct {
	nodes []node[T]
	seq   uint64
}

type node[T Item] struct {
	when int64
	seq  uint64 // ties run in order of arrival
	item T
}

func (a *node[T]) before(b *node[T]) bool {
	return a.when < b.when || a.when == b.when && a.seq < b.seq
}

// Len returns the number of items.
func (h *Heap[T]) Len() int { return len(h.nodes) }

// Push adds item, which must not be in a heap, with a deadline.
func (h *Heap[T]) Push(item T, when int64) {
	h.seq++
	h.nodes = append(h.nodes, node[T]{when, h.seq, item})
	h.up(len(h.nodes) - 1)
}

// Min returns the earliest deadline; ok is false if the heap is empty.
func (h *Heap[T]) Min() (when int64, ok bool) {
	if len(h.nodes) == 0 {
		return 0, false
	}
	return h.nodes[0].when, true
}

// Pop removes and returns the first item and its deadline. The heap must not be
// empty.
func (h *Heap[T]) Pop() (item T, when int64) {
	n := h.nodes[0]
	h.removeAt(0)
	return n.item, n.when
}

// Remove takes item out and reports whether it was in the heap.
func (h *Heap[T]) Remove(item T) bool {
	slot := item.TimerSlot()
	if slot.pos == 0 {
		return false
	}
	h.removeAt(slot.pos - 1)
	return true
}

// All calls yield for each item and its deadline, in no order, until yield
// returns false.
func (h *Heap[T]) All(yield func(item T, when int64) bool) {
	for i := range h.nodes {
		if !yield(h.nodes[i].item, h.nodes[i].when) {
			return
		}
	}
}

// Clear removes every item and drops the memory.
func (h *Heap[T]) Clear() {
	for i := range h.nodes {
		h.nodes[i].item.TimerSlot().pos = 0
	}
	h.nodes = nil
}

// shrinkAbove is the capacity below which the array is kept when it empties: a
// burst of timers must not hold its memory for the life of the loop.
const shrinkAbove = 1024

func (h *Heap[T]) removeAt(i int) {
	last := len(h.nodes) - 1
	h.nodes[i].item.TimerSlot().pos = 0
	moved := h.nodes[last]
	h.nodes[last] = node[T]{} // let the collector have the item
	h.nodes = h.nodes[:last]
	if i < last {
		h.nodes[i] = moved
		if !h.down(i) {
			h.up(i)
		}
	}
	if c := cap(h.nodes); c > shrinkAbove && last < c/8 {
		h.nodes = append(make([]node[T], 0, c/4), h.nodes...)
	}
}

func (h *Heap[T]) up(i int) {
	n := h.nodes[i]
	for i > 0 {
		parent := (i - 1) / 4
		if !n.before(&h.nodes[parent]) {
			break
		}
		h.set(i, h.nodes[parent])
		i = parent
	}
	h.set(i, n)
}

// down moves the node at i towards the leaves and reports whether it moved.
func (h *Heap[T]) down(i int) bool {
	start, n := i, h.nodes[i]
	for {
		child := h.leastChild(i)
		if child < 0 || !h.nodes[child].before(&n) {
			break
		}
		h.set(i, h.nodes[child])
		i = child
	}
	h.set(i, n)
	return i != start
}

// leastChild returns the first of the children of i, or -1 if it has none.
func (h *Heap[T]) leastChild(i int) int {
	first := 4*i + 1
	if first >= len(h.nodes) {
		return -1
	}
	least := first
	for c := first + 1; c < min(first+4, len(h.nodes)); c++ {
		if h.nodes[c].before(&h.nodes[least]) {
			least = c
		}
	}
	return least
}

func (h *Heap[T]) set(i int, n node[T]) {
	h.nodes[i] = n
	n.item.TimerSlot().pos = i + 1
}
