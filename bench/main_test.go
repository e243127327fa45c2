package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop/bench/internal/load"

	"github.com/onloop/eventloop/bench/internal/proc"
)

// sampleOf returns a sample of so many operations in a second, each of which
// took so many microseconds of CPU time.
func sampleOf(ops uint64, cpu time.Duration) *sample {
	return &sample{Result: load.Result{Ops: ops, Seconds: 1, ServerCPU: time.Duration(ops) * cpu, P50: time.Millisecond, P99: time.Millisecond}}
}

func TestRowsCompareRunsOfOneRound(t *testing.T) {
	o := &outcome{Name: "echo-50", Order: []string{goroutines, ours}, Samples: map[string][]*sample{
		ours:       {sampleOf(100, 2*time.Microsecond), sampleOf(300, 2*time.Microsecond), nil},
		goroutines: {sampleOf(50, 4*time.Microsecond), sampleOf(100, 4*time.Microsecond), sampleOf(1, time.Microsecond)},
	}}
	rows := o.rows()
	got := rows[0]
	if got.Name != goroutines || got.Ratio.Median != 2.5 || got.Ratio.Min != 2 || got.Ratio.Max != 3 || got.Ratio.N != 2 {
		t.Errorf("ratio = %+v, want 2.5 [2 to 3] of 2 pairs", got.Ratio)
	}
	if got.CPURatio.Median != 0.5 {
		t.Errorf("CPU ratio = %+v, want 0.5", got.CPURatio)
	}
	if got := rows[1].Throughput.Median; got != 200 {
		t.Errorf("median throughput = %v, want 200", got)
	}
}

func TestReportIsWrittenAsMarkdownJSONAndSVG(t *testing.T) {
	r := newReport(true, 20_000, []string{"libuv: not installed, skipped"})
	for _, name := range []string{"echo-1", "echo-50", "echo-500-apart"} {
		r.Outcomes = append(r.Outcomes, &outcome{
			Name: name, Title: "Echo " + name, Unit: "response", Order: []string{ours, goroutines},
			Samples:  map[string][]*sample{ours: {sampleOf(1500, 1000)}, goroutines: {sampleOf(1000, 1000)}},
			Problems: []string{"goroutines, round 2: broken"},
		})
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"libuv: not installed, skipped", "## Echo echo-50", "1.50 [1.50 to 1.50]", "1,500", "broken", "echo.svg", "echo-50: throughput, of goroutines | at least 1.35 | 1.50 [1.50 to 1.50] | yes", "echo-500-apart: p99, of goroutines | at most 1.15 | 1.00 [1.00 to 1.00] | yes"} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the table does not have %q:\n%s", want, md)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(data, &again); err != nil || again.Outcomes[1].Samples[ours][0].Ops != 1500 {
		t.Errorf("the JSON does not have the samples: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "echo.svg")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "http.svg")); err == nil {
		t.Error("there is a plot of HTTP, of which there are no figures")
	}
}

func TestGoalsTellWhichFiguresAreNotReached(t *testing.T) {
	r := newReport(false, 20_000, nil)
	idle := func(name string, cpu time.Duration) *outcome {
		return &outcome{Name: name, Order: []string{ours}, Samples: map[string][]*sample{ours: {sampleOf(10, cpu)}}}
	}
	seed := idle("seed", time.Microsecond)
	s := seed.Samples[ours][0]
	s.P99, s.Errors, s.PerConn = 150*time.Millisecond, 1, 4<<10
	r.Outcomes = []*outcome{idle("idle-0", 10*time.Microsecond), idle("idle-10000", 30*time.Microsecond), idle("idle-19000", 11*time.Microsecond), seed}
	var md bytes.Buffer
	r.goals(&md)
	for _, want := range []string{
		"idle-19000: CPU time of an echo, of that without idle connections | at most 1.15 | 1.1 | yes",
		"seed: errors | at most 0 | 1 | no", "lateness, ms | at most 100 | 150 | no", "KB per connection | at most 5 | 4 | yes",
	} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("no goal %q in\n%s", want, md.String())
		}
	}
}

func TestPlansScaleWithTheLimitOfDescriptors(t *testing.T) {
	for _, tt := range []struct {
		limit             uint64
		open, many, procs int
		levels            []int
	}{
		{20_000, 19_000, 40_000, 3, []int{0, 9500, 19_000}},
		{4096, 3000, 40_000, 14, []int{0, 1500, 3000}},
		{1024, 524, 0, 0, []int{0, 262, 524}}, // 40,000 would take too many processes
		{1 << 20, 40_000, 40_000, 3, []int{0, 10_000, 19_000}},
	} {
		p := fullPlan(tt.limit)
		if !slices.Equal(p.levels, tt.levels) {
			t.Errorf("limit %d: idle connections %v, want %v", tt.limit, p.levels, tt.levels)
		}
		byName := make(map[string]*workload)
		for _, w := range p.workloads() {
			if byName[w.name] != nil {
				t.Errorf("two workloads are called %s", w.name)
			}
			byName[w.name] = w
		}
		seed := byName["seed"]
		if got := seed.load.Rate * p.seedDelay.Seconds(); got > float64(tt.open) || got < 0.95*float64(tt.open) {
			t.Errorf("limit %d: %v open, want nearly %d", tt.limit, got, tt.open)
		}
		many := byName["seed-many"]
		switch {
		case tt.procs == 0 && many != nil:
			t.Errorf("limit %d: %d processes, want none", tt.limit, many.procs)
		case tt.procs > 0 && (many == nil || many.procs != tt.procs):
			t.Errorf("limit %d: %+v, want %d processes", tt.limit, many, tt.procs)
		}
	}
}

// A goal of a workload that does not exist, or against an opponent that the workload
// does not have, would never be looked at.
func TestGoalsArePlannedWithTheirOpponents(t *testing.T) {
	all := make(map[string][]string)
	for _, w := range fullPlan(20_000).workloads() {
		all[w.name] = w.who
	}
	planned := make(map[string][]string)
	for _, w := range goalsPlan(20_000).workloads() {
		planned[w.name] = w.who
	}
	for _, g := range ratioGoals {
		if len(proc.Processors()) < 2 && strings.HasSuffix(g.workload, "-apart") {
			continue
		}
		for plan, who := range map[string][]string{"full": all[g.workload], "goals": planned[g.workload]} {
			if len(who) == 0 || g.against != "*" && !slices.Contains(who, g.against) {
				t.Errorf("the plan %s has %v for the goal of %s against %s", plan, who, g.workload, g.against)
			}
		}
	}
}

// TestServersOfThisProgramDoWhatTheirModeSays asks each server once.
func TestServersOfThisProgramDoWhatTheirModeSays(t *testing.T) {
	for lib, modes := range servers {
		for mode, s := range modes {
			t.Run(lib+"/"+mode, func(t *testing.T) { checkServer(t, s, &serveConfig{lib: lib, mode: mode}) })
		}
	}
	for _, reuse := range []bool{false, true} {
		t.Run(groupName(2, reuse), func(t *testing.T) {
			checkServer(t, servers[ours][modeEcho], &serveConfig{lib: ours, mode: modeEcho, loops: 2, reusePort: reuse})
		})
	}
}

func checkServer(t *testing.T, s server, cfg *serveConfig) {
	cfg.addr, cfg.delay = "127.0.0.1:0", 50*time.Millisecond
	addr, ended, stop := make(chan net.Addr, 1), make(chan error, 1), make(chan struct{})
	go func() { ended <- s(cfg, func(a net.Addr) { addr <- a }, stop) }()
	defer func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("the server returned %v, want nil", err)
		}
	}()
	spec := &load.Spec{Kind: load.Closed, Conns: 3, Request: []byte(strings.Repeat("x", 64)), Expect: 64, Measure: 20 * time.Millisecond}
	switch cfg.mode {
	case modeBroadcast:
		spec.Kind = load.Broadcast
	case modeHTTP, modeAnswer:
		spec.Request, spec.Expect = []byte(httpRequest), 0
	case modeDelayed, modeHTTPDelay:
		spec.Kind, spec.Total, spec.Rate, spec.Delay = load.Open, 20, 1000, cfg.delay
		spec.Request, spec.Expect = []byte(httpRequest), len(delayedAnswer)
		if cfg.mode == modeHTTPDelay {
			spec.Expect = 0
		}
	}
	select {
	case a := <-addr:
		spec.Addrs = []string{a.String()}
	case err := <-ended:
		t.Fatalf("the server ended: %v", err)
	}
	r, err := load.Run(spec)
	for ; err == nil && r.Ops == 0 && spec.Measure < time.Minute; spec.Measure *= 2 { // a busy machine
		r, err = load.Run(spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Ops == 0 || r.Errors > 0 {
		t.Errorf("%d responses, %d errors (%s), want some and none", r.Ops, r.Errors, r.FirstError)
	}
}

// startInside runs a server of this program until the end of the test, and returns
// its address.
func startInside(t *testing.T, lib, mode string) string {
	addr, ended, stop := make(chan net.Addr, 1), make(chan error, 1), make(chan struct{})
	cfg := &serveConfig{lib: lib, mode: mode, addr: "127.0.0.1:0"}
	go func() { ended <- servers[lib][mode](cfg, func(a net.Addr) { addr <- a }, stop) }()
	t.Cleanup(func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("the server returned %v, want nil", err)
		}
	})
	return (<-addr).String()
}

func TestKernelsOfThisProgramFinish(t *testing.T) {
	// The program is the test here, so the servers of the clients are within it.
	url, addr := "http://"+startInside(t, fastHTTP, modeAnswer)+"/", startInside(t, goroutines, modeEcho)
	wasURL, wasAddr := answerURL, echoAddr
	answerURL, echoAddr = func() string { return url }, func() string { return addr }
	defer func() { answerURL, echoAddr = wasURL, wasAddr }()
	for lib, all := range kernels {
		for name, f := range all {
			t.Run(lib+"/"+name, func(t *testing.T) { f(1000) })
		}
	}
}
