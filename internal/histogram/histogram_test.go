package histogram

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketContainsItsDurationAndIsAtMostAQuarterWide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(15*time.Minute)).Draw(t, "d"))
		i := bucket(d)
		if up := upper(i); up < d || i > 0 && upper(i-1) >= d || up-d > d/4+1 {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, i, up)
		}
	})
}

func TestHugeAndNegativeDurationsAreCounted(t *testing.T) {
	var h Histogram
	h.Record(-time.Second)
	h.Record(1<<63 - 1)
	if got := h.Quantiles(0.5)[0]; got != 0 {
		t.Errorf("median = %v, want 0", got)
	}
	if h.Max() != 1<<63-1 {
		t.Errorf("max = %v", h.Max())
	}
}

func TestQuantilesOfAnEmptyHistogramAreZero(t *testing.T) {
	var h Histogram
	if q := h.Quantiles(0, 0.5, 1); q[0] != 0 || q[1] != 0 || q[2] != 0 {
		t.Errorf("quantiles = %v, want zeros", q)
	}
}

func TestQuantilesFollowTheFractions(t *testing.T) {
	var h Histogram
	for range 98 {
		h.Record(time.Microsecond)
	}
	h.Record(time.Millisecond)
	h.Record(time.Second)
	q := h.Quantiles(0.5, 0.99, 1)
	for i, want := range []time.Duration{time.Microsecond, time.Millisecond, time.Second} {
		if q[i] < want || q[i] > want+want/4 {
			t.Errorf("quantile %d = %v, want %v or up to a quarter more", i, q[i], want)
		}
	}
}

func TestCountersDoNotWrap(t *testing.T) {
	for _, many := range []uint64{math.MaxUint16, math.MaxInt32, math.MaxUint32, math.MaxInt64} {
		var h Histogram
		usual := &h.counts[bucket(time.Microsecond)]
		usual.Store(many)
		for range 10 {
			h.Record(time.Microsecond)
		}
		h.Record(time.Second)
		if got := usual.Load(); got != many+10 {
			t.Errorf("count = %d, want %d", got, many+10)
		}
		// One in so many does not affect a quantile, and no recorded duration is zero.
		for i, got := range h.Quantiles(0.5, 0.99, 1) {
			if got < time.Microsecond || got > time.Second {
				t.Errorf("after %d: quantile %d = %v", many, i, got)
			}
		}
		if got := h.Quantiles(0.99)[0]; got > time.Microsecond+time.Microsecond/4 {
			t.Errorf("after %d: 99 %% = %v, want a microsecond", many, got)
		}
	}
}
