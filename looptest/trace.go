package looptest

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// An Event is one entry of a trace: a callback of a loop, a step of a task, or a delivery of
// a [Net].
type Event struct {
	At      time.Duration // virtual time since the test began
	Party   string        // "loop", "loop 2", "net"
	Name    string        // "timer#3 x_test.go:12", "conn#2 data", "post x_test.go:20"
	Choices int           // number of events that could have run
	index   int           // of the event that ran; 0 has been ready for the longest time
}

// String returns the event as one line, in the format that [Replay] reads. "[2 of 5]" means
// that five events were ready, and that one of the others had been ready for longer.
func (e Event) String() string {
	s := fmt.Sprintf("%10s  %s  %s", e.At, e.Party, e.Name)
	if e.Choices > 1 {
		s += fmt.Sprintf("  [%d of %d]", e.index+1, e.Choices)
	}
	return s
}

// maxTrace is the number of events up to which a trace is logged completely. A longer trace
// is written to a file, and its last shownEvents events are logged.
const (
	maxTrace    = 500
	shownEvents = 100
)

func formatTrace(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// traceToLog returns the trace of events for the log.
func traceToLog(events []Event) string {
	if len(events) <= maxTrace {
		return formatTrace(events)
	}
	where := "could not be saved"
	if name, err := saveTrace(events); err != nil {
		where += ": " + err.Error()
	} else {
		where = "is in " + name
	}
	last := events[len(events)-shownEvents:]
	return fmt.Sprintf("# the last %d of %d events; the whole trace %s\n%s", len(last), len(events), where, formatTrace(last))
}

func saveTrace(events []Event) (name string, err error) {
	f, err := os.CreateTemp("", "looptest-*.trace")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(formatTrace(events))
	return f.Name(), errors.Join(err, f.Close())
}

var eventLine = regexp.MustCompile(`^\s*(\S+)  (\S.*?)  (\S.*?)(?:  \[(\d+) of \d+\])?\s*$`)

// parseTrace parses the output of formatTrace. It returns only the events at which there was
// a choice, because the others follow from them. Empty lines and lines that begin with "#"
// are ignored.
func parseTrace(trace string) ([]recorded, error) {
	var all []recorded
	n := 0
	for line := range strings.Lines(trace) {
		n++
		if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
			continue
		}
		m := eventLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			return nil, fmt.Errorf("line %d of the trace is not an event: %q", n, strings.TrimSpace(line))
		}
		if _, err := time.ParseDuration(m[1]); err != nil {
			return nil, fmt.Errorf("line %d of the trace has an invalid time: %q", n, m[1])
		}
		if m[4] != "" {
			all = append(all, recorded{line: n, party: m[2], name: m[3]})
		}
	}
	return all, nil
}

// A recorded is a choice in a trace.
type recorded struct {
	line        int
	party, name string
}

// A replay is a chooser that makes the recorded choices.
type replay struct {
	choices  []recorded
	departed bool
}

func (r *replay) choose(cs []choice, c *conductor) int {
	if r.departed || len(r.choices) == 0 {
		if !r.departed {
			r.departed = true
			c.failf("the trace ends before the run: ready at %s: %s", time.Since(c.start), names(cs))
		}
		return 0
	}
	next := r.choices[0]
	r.choices = r.choices[1:]
	if i := next.find(cs); i >= 0 {
		return i
	}
	r.departed = true
	c.failf("the run departs from line %d of the trace: recorded: %q of %q; ready: %s",
		next.line, next.name, next.party, names(cs))
	return 0
}

// find returns the index of the recorded choice in cs, or -1. If the line numbers of the
// source have changed, it ignores them, unless several choices match.
func (r *recorded) find(cs []choice) int {
	moved, n := -1, 0
	for i, c := range cs {
		switch {
		case c.gate.party != r.party:
		case c.Name == r.name:
			return i
		case sourceLine.ReplaceAllString(c.Name, "") == sourceLine.ReplaceAllString(r.name, ""):
			moved = i
			n++
		}
	}
	if n > 1 {
		return -1
	}
	return moved
}

var sourceLine = regexp.MustCompile(`\.go:\d+`)

// unused returns an error if the trace continues after the end of the run.
func (r *replay) unused() error {
	if r.departed || len(r.choices) == 0 {
		return nil
	}
	next := r.choices[0]
	return fmt.Errorf("the run ends before line %d of the trace: %q of %q", next.line, next.name, next.party)
}

func names(cs []choice) string {
	var all []string
	for _, c := range cs {
		all = append(all, fmt.Sprintf("%q of %q", c.Name, c.gate.party))
	}
	return strings.Join(all, ", ")
}
