// Package histogram counts durations in buckets. The buckets grow by powers of two,
// and each power of two has four buckets, so that a quantile is wrong by at most a
// quarter.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	split   = 4 // buckets per power of two
	buckets = 40 * split
)

// A Histogram counts durations from nanoseconds to a quarter of an hour. The
// zero Histogram is ready for use. One goroutine may Record while others read.
type Histogram struct {
	counts [buckets]atomic.Uint64
	max    atomic.Int64
}

// Record counts d. Only one goroutine may call it at a time, so that it costs a
// load and a store, without a locked instruction.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	c := &h.counts[bucket(d)]
	c.Store(c.Load() + 1)
	if int64(d) > h.max.Load() {
		h.max.Store(int64(d))
	}
}

// Max returns the longest duration recorded.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) }

// Quantiles returns, for each q between 0 and 1, a duration that at least the
// fraction q of the recorded durations does not exceed, or 0 if nothing was
// recorded.
func (h *Histogram) Quantiles(qs ...float64) []time.Duration {
	var counts [buckets]uint64
	var total uint64
	for i := range counts {
		counts[i] = h.counts[i].Load()
		total += counts[i]
	}
	out := make([]time.Duration, len(qs))
	for i, q := range qs {
		rank := min(uint64(q*float64(total)+0.5), total) // a float64 cannot represent every large total
		out[i] = min(quantile(&counts, rank), h.Max())
	}
	return out
}

func quantile(counts *[buckets]uint64, rank uint64) time.Duration {
	var seen uint64
	for i, c := range counts {
		if seen += c; c > 0 && seen >= rank {
			return upper(i)
		}
	}
	return 0
}

// bucket returns the index for d: the position of its highest bit and the two bits
// after it.
func bucket(d time.Duration) int {
	n := uint64(d)
	if n < split {
		return int(n)
	}
	exp := bits.Len64(n) - 1
	return min(exp*split-split+int(n>>(exp-2)&(split-1)), buckets-1)
}

// upper returns the longest duration of bucket i.
func upper(i int) time.Duration {
	if i < split {
		return time.Duration(i)
	}
	exp := i/split + 1
	return time.Duration((split+uint64(i%split)+1)<<(exp-2) - 1)
}
