package main

import (
	"fmt"
	"io"
	"time"

	"github.com/onloop/eventloop/bench/internal/measure"
)

// A goal is a figure that the library is to reach.
type goal struct {
	workload string
	against  string // opponent; "*" for the best
	figure   figureOf
	bound    float64
}

// A figureOf says what a goal bounds: throughput from below, the others from above.
type figureOf int

const (
	ofThroughput figureOf = iota
	ofCPU                 // per operation
	ofP99
)

// ratioGoals bound medians of paired ratios.
var ratioGoals = []goal{
	{"echo-1", gnetLib, ofThroughput, 0.95},
	{"echo-50", gnetLib, ofThroughput, 1}, {"echo-500", gnetLib, ofThroughput, 1}, {"echo-5000", gnetLib, ofThroughput, 0.97},
	{"echo-50", libuvLib, ofThroughput, 0.95}, {"echo-500", libuvLib, ofThroughput, 0.95}, {"echo-5000", libuvLib, ofThroughput, 0.92},
	{"echo-50", goroutines, ofThroughput, 1.35}, {"echo-500", goroutines, ofThroughput, 1.27}, {"echo-5000", goroutines, ofThroughput, 1.1},
	{"echo-50", nodeLib, ofThroughput, 1.3}, {"echo-500", nodeLib, ofThroughput, 1.3},
	{"echo-50", goroutines, ofCPU, 1}, {"echo-500", goroutines, ofCPU, 1},
	{"echo-500-apart", goroutines, ofP99, 1.15},
	{"echo-32k", gnetLib, ofThroughput, 1}, {"echo-32k", "*", ofThroughput, 1},
	{"pieces", gnetLib, ofThroughput, 3.3}, {"pieces", libuvLib, ofThroughput, 2.9}, {"pieces", nodeLib, ofThroughput, 3.4},
	{"broadcast", goroutines, ofThroughput, 1}, {"broadcast", libuvLib, ofThroughput, 0.95},
	{"http-50", fastHTTP, ofThroughput, 0.95}, {"http-500", fastHTTP, ofThroughput, 0.95},
	{"http-50", netHTTP, ofThroughput, 1.2}, {"http-500", netHTTP, ofThroughput, 1.2},
	{"http-50", nodeLib, ofThroughput, 1.2}, {"http-500", nodeLib, ofThroughput, 1.2},
	{"client-100", fastHTTP, ofThroughput, 0.9}, {"client-100-apart", fastHTTP, ofThroughput, 0.9},
	{"client-100", netHTTP, ofThroughput, 1.2}, {"client-100-apart", netHTTP, ofThroughput, 1.2},
	{"conn-1", goroutines, ofThroughput, 0.85}, {"conn-1-apart", goroutines, ofThroughput, 0.85},
	{"tasks-start", goroutines, ofThroughput, 0.8}, {"tasks-taken", goroutines, ofThroughput, 0.5},
	{"seed", goroutines, ofCPU, 1}, {"seed", gnetLib, ofCPU, 1.5}, {"seed-many", goroutines, ofP99, 1},
	{"posts-1", gojaLib, ofThroughput, 2}, {"posts-4", gojaLib, ofThroughput, 2}, {"posts-32", gojaLib, ofThroughput, 2},
	{"timers-fire", gojaLib, ofThroughput, 2}, {"timers-stop", gojaLib, ofThroughput, 2},
}

// goals writes which figures were reached.
func (r *report) goals(w io.Writer) {
	byName := make(map[string]*outcome)
	for _, o := range r.Outcomes {
		byName[o.Name] = o
	}
	var lines []string
	for _, g := range ratioGoals {
		if o := byName[g.workload]; o != nil && o.has(ours) {
			lines = append(lines, g.lines(o)...)
		}
	}
	lines = append(lines, growthGoal(byName, r.Outcomes)...)
	lines = append(lines, seedGoals(byName["seed"])...)
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## Goals\n\n| | goal | figure | reached |\n|---|--:|--:|---|\n")
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
}

func (g goal) lines(o *outcome) []string {
	var worst *row
	for _, r := range o.rows() {
		if r.Name == ours || g.against != "*" && r.Name != g.against || r.Ratio.N == 0 {
			continue
		}
		if worst == nil || r.Ratio.Median < worst.Ratio.Median {
			worst = &r
		}
	}
	switch {
	case worst == nil:
		return nil
	case g.figure == ofCPU:
		return []string{ratioLine(o.Name+": CPU time, of "+worst.Name, "at most", g.bound, worst.CPURatio, worst.CPURatio.Median <= g.bound)}
	case g.figure == ofP99:
		return []string{ratioLine(o.Name+": p99, of "+worst.Name, "at most", g.bound, worst.P99Ratio, worst.P99Ratio.Median <= g.bound)}
	}
	return []string{ratioLine(o.Name+": throughput, of "+worst.Name, "at least", g.bound, worst.Ratio, worst.Ratio.Median >= g.bound)}
}

func ratioLine(what, sense string, bound float64, figure measure.Spread, reached bool) string {
	return line(what, sense, bound, spread(figure), reached)
}

func goalLine(what, sense string, bound, figure float64, reached bool) string {
	return line(what, sense, bound, fmt.Sprintf("%.3g", figure), reached)
}

func line(what, sense string, bound float64, figure string, reached bool) string {
	answer := "no"
	if reached {
		answer = "yes"
	}
	return fmt.Sprintf("| %s | %s %.4g | %s | %s |", what, sense, bound, figure, answer)
}

// maxGrowth is how much more CPU time an echo may take beside the most idle
// connections than beside none.
const maxGrowth = 1.15

func growthGoal(byName map[string]*outcome, all []*outcome) []string {
	none := byName["idle-0"]
	var most *outcome
	for _, o := range all {
		if len(o.Name) > 5 && o.Name[:5] == "idle-" {
			most = o
		}
	}
	if none == nil || most == nil || most == none || !none.has(ours) || !most.has(ours) {
		return nil
	}
	growth := costOf(most) / costOf(none)
	return []string{goalLine(most.Name+": CPU time of an echo, of that without idle connections", "at most", maxGrowth, growth, growth <= maxGrowth)}
}

func costOf(o *outcome) float64 {
	for _, r := range o.rows() {
		if r.Name == ours {
			return r.CPU
		}
	}
	return 0
}

func seedGoals(o *outcome) []string {
	if o == nil {
		return nil
	}
	for _, r := range o.rows() {
		if r.Name != ours || r.Last == nil {
			continue
		}
		late, size := float64(r.P99)/float64(time.Millisecond), float64(r.PerConn)/(1<<10)
		return []string{
			goalLine("seed: errors", "at most", 0, float64(r.Last.Errors), r.Last.Errors == 0),
			goalLine("seed: p99 of lateness, ms", "at most", 100, late, late <= 100),
			goalLine("seed: KB per connection", "at most", 5, size, size <= 5),
		}
	}
	return nil
}
