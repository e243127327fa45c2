// Package measure does the arithmetic of the benchmarks: latency histograms,
// medians, and ratios of paired runs.
package measure

import (
	"math/bits"
	"slices"
	"time"
)

// subBuckets is the number of buckets a power of two: a quantile is wrong by at
// most one part in as many.
const subBuckets = 64

// A Histogram counts durations. The zero Histogram is ready for use. It is not
// safe for concurrent use.
type Histogram struct {
	counts []uint64
	n      uint64
	max    time.Duration
}

// Record counts d; a negative d counts as zero.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	i := bucket(uint64(d))
	if i >= len(h.counts) {
		h.counts = append(h.counts, make([]uint64, i+1-len(h.counts))...)
	}
	h.counts[i]++
	h.n++
	h.max = max(h.max, d)
}

// bucket returns the index of the bucket of v: the values below subBuckets have
// one each, then each power of two has subBuckets.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - bits.Len64(subBuckets-1) - 1
	return (shift+1)*subBuckets + int(v>>shift) - subBuckets
}

// upper returns the largest value of bucket i.
func upper(i int) uint64 {
	if i < subBuckets {
		return uint64(i)
	}
	shift := i/subBuckets - 1
	return uint64(i%subBuckets+subBuckets+1)<<shift - 1
}

// Add counts all that other has counted.
func (h *Histogram) Add(other *Histogram) {
	if n := len(other.counts) - len(h.counts); n > 0 {
		h.counts = append(h.counts, make([]uint64, n)...)
	}
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// Count returns the number of durations.
func (h *Histogram) Count() uint64 { return h.n }

// Max returns the longest duration.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns a duration that at least the share q of the durations does
// not exceed; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(h.n)+0.5), uint64(0)
	for i, c := range h.counts {
		if seen += c; c > 0 && seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// A Spread is the median of some figures and how far they lie apart.
type Spread struct {
	Median, Min, Max float64
	N                int
}

// SpreadOf returns the spread of values; the zero Spread if there are none.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	return Spread{Median: median(v), Min: v[0], Max: v[len(v)-1], N: len(v)}
}

// Median returns the median of values, 0 if there are none.
func Median(values []float64) float64 { return SpreadOf(values).Median }

func median(sorted []float64) float64 {
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// Ratios returns the spread of a[i]/b[i], of runs that were made next to each
// other, so that what disturbs the machine for a while disturbs both. Pairs of
// which one is missing (zero) do not count.
func Ratios(a, b []float64) Spread {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return SpreadOf(ratios)
}
