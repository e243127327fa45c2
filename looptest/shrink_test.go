package looptest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestTheTraceIsThatOfTheSimplestFailure(t *testing.T) {
	runs := 0
	s := &shrinker{until: time.Now().Add(time.Hour), try: func(choices []int) *failure {
		runs++
		if choices[1] == 0 {
			return nil // it passes
		}
		if runs%2 == 0 {
			choices = append(slices.Clone(choices), 9, 9, 9) // it fails, and makes more choices
		}
		return &failure{choices, fmt.Sprint(choices)}
	}}
	f := s.shrink([]int{3, 4, 5, 6})
	if f == nil || f.trace != fmt.Sprint(f.choices) || f.trace != "[0 1 0 0]" {
		t.Errorf("%+v after %d runs", f, runs)
	}
}

func TestNothingIsShrunkThatDoesNotFail(t *testing.T) {
	s := &shrinker{until: time.Now().Add(time.Hour), try: func([]int) *failure { return nil }}
	if f := s.shrink([]int{1}); f != nil {
		t.Errorf("%+v", f)
	}
}
