package redis

// A ring is a queue. It reuses its memory, up to ringKept elements.
type ring[T any] struct {
	buf  []T // its length is a power of two
	head int
	len  int
}

const ringKept = 1 << 12 // elements

func (r *ring[T]) push(v T) {
	if r.len == len(r.buf) {
		bigger := make([]T, max(16, 2*len(r.buf)))
		n := copy(bigger, r.buf[r.head:])
		copy(bigger[n:], r.buf[:r.head])
		r.buf, r.head = bigger, 0
	}
	r.buf[(r.head+r.len)&(len(r.buf)-1)] = v
	r.len++
}

// front returns the first element, or nil. It is valid until the next push or pop.
func (r *ring[T]) front() *T {
	if r.len == 0 {
		return nil
	}
	return &r.buf[r.head]
}

func (r *ring[T]) pop() T {
	v := r.buf[r.head]
	r.buf[r.head] = *new(T)
	r.head = (r.head + 1) & (len(r.buf) - 1)
	if r.len--; r.len == 0 && len(r.buf) > ringKept {
		*r = ring[T]{}
	}
	return v
}
