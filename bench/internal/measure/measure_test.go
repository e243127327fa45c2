package measure

import (
	"math"
	"testing"
	"time"
)

func TestHistogramQuantilesAreWrongByAtMostAPartIn64(t *testing.T) {
	var h Histogram
	for i := 1; i <= 100_000; i++ {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		got := h.Quantile(q).Seconds()
		want := q * 0.1
		if math.Abs(got-want)/want > 1.0/subBuckets {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if got, want := h.Max(), 100*time.Millisecond; got != want {
		t.Errorf("Max = %v, want %v", got, want)
	}
	if got, want := h.Quantile(1), h.Max(); got != want {
		t.Errorf("Quantile(1) = %v, want the longest, %v", got, want)
	}
}

func TestHistogramBucketsCoverAllValuesWithoutGaps(t *testing.T) {
	next := uint64(0)
	for i := range 40 * subBuckets {
		if got := bucket(next); got != i {
			t.Fatalf("bucket(%d) = %d, want %d", next, got, i)
		}
		if got := bucket(upper(i)); got != i {
			t.Fatalf("bucket(%d) = %d, want %d", upper(i), got, i)
		}
		next = upper(i) + 1
	}
}

func TestHistogramAddCountsBoth(t *testing.T) {
	var a, b Histogram
	a.Record(time.Millisecond)
	b.Record(time.Second)
	b.Record(-time.Second)
	a.Add(&b)
	if got := a.Count(); got != 3 {
		t.Errorf("Count = %d, want 3", got)
	}
	if got := a.Max(); got != time.Second {
		t.Errorf("Max = %v, want 1s", got)
	}
	if got := a.Quantile(0.3); got != 0 {
		t.Errorf("Quantile(0.3) = %v, want 0: a negative duration counts as none", got)
	}
}

func TestHistogramWithoutDurationsHasQuantilesOfZero(t *testing.T) {
	if got := new(Histogram).Quantile(0.5); got != 0 {
		t.Errorf("Quantile = %v, want 0", got)
	}
}

func TestSpreadOfEvenNumberTakesTheMeanOfTheMiddle(t *testing.T) {
	got := SpreadOf([]float64{4, 1, 3, 2})
	want := Spread{Median: 2.5, Min: 1, Max: 4, N: 4}
	if got != want {
		t.Errorf("SpreadOf = %+v, want %+v", got, want)
	}
	if got := Median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("Median = %v, want 5", got)
	}
	if got := SpreadOf(nil); got != (Spread{}) {
		t.Errorf("SpreadOf(nil) = %+v, want zero", got)
	}
}

func TestRatiosPairRunsAndLeaveOutMissingOnes(t *testing.T) {
	got := Ratios([]float64{10, 30, 0, 8, 5}, []float64{5, 10, 7, 0})
	want := Spread{Median: 2.5, Min: 2, Max: 3, N: 2}
	if got != want {
		t.Errorf("Ratios = %+v, want %+v", got, want)
	}
}
