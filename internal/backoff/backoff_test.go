package backoff

import (
	"slices"
	"testing"
	"time"
)

func TestPausesDoubleUpToTheMaximumAndStartAgainAfterReset(t *testing.T) {
	b := New(5*time.Millisecond, 15*time.Millisecond)
	got := []time.Duration{b.Next(), b.Next(), b.Next(), b.Next()}
	b.Reset()
	got = append(got, b.Next())
	want := []time.Duration{5, 10, 15, 15, 5}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(got, want) {
		t.Errorf("pauses = %v, want %v", got, want)
	}
}
