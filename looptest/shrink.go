package looptest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Environment variables.
const (
	seedVariable    = "LOOPTEST_SEED"    // the only seed to run
	shrinkVariable  = "LOOPTEST_SHRINK"  // how long to shrink a failing trace, as "10s"
	choicesVariable = "LOOPTEST_CHOICES" // for a process that shrink starts: the file of its choices
	resultVariable  = "LOOPTEST_RESULT"  // for the same process: the file to write its trace to
)

// A guided chooser makes the given choices, if they are possible, and then always chooses
// the candidate that has been ready for the longest time.
type guided struct{ choices []int }

func (g *guided) choose(cs []choice, _ *conductor) int {
	if len(g.choices) == 0 {
		return 0
	}
	i := min(g.choices[0], len(cs)-1)
	g.choices = g.choices[1:]
	return i
}

// guide returns the chooser of a process that shrink started, or nil.
func guide() (chooser, error) {
	name := os.Getenv(choicesVariable)
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	g := &guided{}
	for _, field := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(field)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("looptest: %q is not a valid choice", field)
		}
		g.choices = append(g.choices, n)
	}
	return g, nil
}

// choicesOf returns the choices in events. It omits zeros at the end, because a guided
// chooser makes these choices anyway.
func choicesOf(events []Event) []int {
	var all []int
	for _, e := range events {
		if e.Choices > 1 {
			all = append(all, e.index)
		}
	}
	for len(all) > 0 && all[len(all)-1] == 0 {
		all = all[:len(all)-1]
	}
	return all
}

func formatChoices(choices []int) string {
	var b strings.Builder
	for _, n := range choices {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}

// leaveResult writes the trace of a failed run to the file that shrink reads.
func leaveResult(events []Event) error {
	name := os.Getenv(resultVariable)
	if name == "" {
		return nil
	}
	return os.WriteFile(name, []byte(formatChoices(choicesOf(events))+"\n"+formatTrace(events)), 0o600)
}

// A shrinker searches for a simpler trace that still fails.
type shrinker struct {
	try   func(choices []int) *failure // runs the test; nil if it does not fail
	until time.Time
}

// A failure is a run of the test that failed.
type failure struct {
	choices []int
	trace   string
}

// A process runs the test again in separate processes, because a failed attempt cannot be
// undone in the running test.
type process struct {
	test  string // for -test.run
	dir   string
	until time.Time
	runs  int
}

// shrink returns the trace of a failing run in which as few choices as it can find differ
// from those that a loop makes by itself.
func shrink(t *testing.T, events []Event, limit time.Duration) (trace string, runs int, err error) {
	dir, err := os.MkdirTemp("", "looptest")
	if err != nil {
		return "", 0, err
	}
	defer os.RemoveAll(dir)
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	p := &process{test: strings.Join(parts, "/"), dir: dir, until: time.Now().Add(limit)}
	s := &shrinker{try: p.run, until: p.until}
	best := s.shrink(choicesOf(events))
	if best == nil {
		return "", p.runs, fmt.Errorf("the same choices do not fail in a separate process")
	}
	return best.trace, p.runs, nil
}

// shrink returns the simplest failure that it finds, or nil if choices do not fail.
func (s *shrinker) shrink(choices []int) *failure {
	best := s.try(choices)
	if best == nil {
		return nil
	}
	for again := true; again && time.Now().Before(s.until); {
		best, again = s.pass(best)
	}
	return best
}

// pass replaces ranges of best with zeros, large ranges first, and then single choices with
// smaller ones. It reports whether it found a simpler trace.
func (s *shrinker) pass(best *failure) (_ *failure, found bool) {
	try := func(choices []int) {
		if next := s.try(choices); next != nil && less(next.choices, best.choices) {
			best, found = next, true
		}
	}
	for size := len(best.choices); size > 0; size /= 2 {
		for at := 0; at < len(best.choices); at += size {
			choices := slices.Clone(best.choices)
			clear(choices[at:min(at+size, len(choices))])
			if !slices.Equal(choices, best.choices) {
				try(choices)
			}
		}
	}
	for at := 0; at < len(best.choices); at++ {
		if best.choices[at] >= 2 {
			choices := slices.Clone(best.choices)
			choices[at] = 1
			try(choices)
		}
	}
	return best, found
}

// less reports whether a has fewer nonzero choices than b, or equally many and a smaller
// sum, or an equal sum and a shorter length.
func less(a, b []int) bool {
	count := func(choices []int) (n, sum int) {
		for _, c := range choices {
			if c > 0 {
				n++
			}
			sum += c
		}
		return n, sum
	}
	an, asum := count(a)
	bn, bsum := count(b)
	switch {
	case an != bn:
		return an < bn
	case asum != bsum:
		return asum < bsum
	}
	return len(a) < len(b)
}

// run runs the test with choices. The failure has the choices that the test made.
func (p *process) run(choices []int) *failure {
	if !time.Now().Before(p.until) && p.runs > 0 {
		return nil
	}
	p.runs++
	in, out := filepath.Join(p.dir, "choices"), filepath.Join(p.dir, "result")
	os.Remove(out)
	if os.WriteFile(in, []byte(formatChoices(choices)), 0o600) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, exe, "-test.run="+p.test, "-test.count=1")
	cmd.Env = append(os.Environ(), choicesVariable+"="+in, resultVariable+"="+out, shrinkVariable+"=")
	if cmd.Run() == nil {
		return nil
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil // it failed for another reason
	}
	head, trace, _ := strings.Cut(string(text), "\n\n")
	f := &failure{trace: trace}
	for _, field := range strings.Fields(head) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil
		}
		f.choices = append(f.choices, n)
	}
	return f
}
