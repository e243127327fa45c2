package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/onloop/eventloop/bench/internal/load"
	"github.com/onloop/eventloop/bench/internal/proc"
)

// A sample is what one run of one opponent came to; nil if it failed.
type sample struct {
	load.Result
	PerConn int64 // bytes resident a connection, of those with many
}

// An outcome is what a workload came to.
type outcome struct {
	Name, Title, Unit string
	Order             []string
	Samples           map[string][]*sample // by opponent; those with one index were run in one round
	Problems          []string
}

// A bench runs workloads.
type bench struct {
	opponents *opponents
	profiles  string // directory; "" for none
	portable  bool
	log       func(format string, args ...any)
}

// run runs w: its opponents in turns, round by round, so that what disturbs the
// machine for a while disturbs all alike.
func (b *bench) run(w *workload) *outcome {
	o := &outcome{Name: w.name, Title: w.title, Unit: w.unit, Samples: make(map[string][]*sample)}
	commands := make(map[string][]string)
	for _, name := range w.who {
		if argv := b.command(w, name); argv != nil {
			commands[name] = argv
			o.Order = append(o.Order, name)
		}
	}
	for round := range w.with.rounds {
		for i := range o.Order {
			// Another one begins each round: being first may be an advantage.
			name := o.Order[(i+round)%len(o.Order)]
			s, err := b.sample(w, name, commands[name])
			if err != nil {
				o.Problems = append(o.Problems, fmt.Sprintf("%s, round %d: %v", name, round+1, err))
				b.log("  %s", o.Problems[len(o.Problems)-1])
			}
			o.Samples[name] = append(o.Samples[name], s)
		}
	}
	return o
}

// command returns how to run name for w, nil if it cannot do that.
func (b *bench) command(w *workload, name string) []string {
	op, ok := b.opponents.byName[name]
	switch {
	case !ok:
		return nil
	case w.kernel != "":
		if op.kernel == nil {
			return nil
		}
		return op.kernel(w.kernel, w.n)
	case op.server == nil:
		return nil
	}
	argv := op.server(w.mode, w.delay)
	if argv != nil && b.profiles != "" && name == ours {
		argv = append(argv, "-profile", fmt.Sprintf("%s/%s.pprof", b.profiles, w.name))
	}
	return argv
}

func (b *bench) sample(w *workload, name string, argv []string) (*sample, error) {
	if w.kernel != "" {
		return kernelSample(argv, w.apart)
	}
	n := max(w.procs, 1)
	results := make([]*load.Result, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { results[i], errs[i] = b.underLoad(w, argv, n) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	s := &sample{Result: *join(results)}
	s.PerConn = perConn(w, &s.Result)
	if s.Errors > 0 {
		return s, fmt.Errorf("%d errors: %s", s.Errors, s.FirstError)
	}
	return s, nil
}

// underLoad runs one server process and one of n clients.
func (b *bench) underLoad(w *workload, argv []string, n int) (*load.Result, error) {
	server, client := w.processors()
	c, err := startServerBy(argv, server)
	if err != nil {
		return nil, err
	}
	spec := w.load
	spec.Addrs, spec.PIDs, spec.Portable = c.addrs(), []int{c.pid()}, b.portable
	spec.Warm, spec.Measure = w.with.warm, w.with.measure
	spec.Total, spec.Rate = spec.Total/n, spec.Rate/float64(n)
	r, err := runLoad(&spec, client)
	if stopErr := c.stop(); err == nil && stopErr != nil {
		err = fmt.Errorf("at the end: %w", stopErr)
	}
	return r, err
}

// processors returns what starts the server and the client of w, on processors of
// their own if w says so.
func (w *workload) processors() (server, client func(*exec.Cmd) error) {
	if !w.apart {
		return (*exec.Cmd).Start, (*exec.Cmd).Start
	}
	all := proc.Processors()
	on := func(cpu int) func(*exec.Cmd) error {
		return func(cmd *exec.Cmd) error { return proc.On(cpu, cmd.Start) }
	}
	return on(all[1]), on(all[0])
}

// join adds the results of clients that ran at the same time. Of quantiles the
// worst counts.
func join(results []*load.Result) *load.Result {
	sum := *results[0]
	for _, r := range results[1:] {
		sum.Ops += r.Ops
		sum.Seconds = max(sum.Seconds, r.Seconds)
		sum.ServerCPU += r.ServerCPU
		sum.ClientCPU += r.ClientCPU
		sum.P50, sum.P99 = max(sum.P50, r.P50), max(sum.P99, r.P99)
		sum.P999, sum.Max = max(sum.P999, r.P999), max(sum.Max, r.Max)
		sum.RSSStart += r.RSSStart
		sum.RSSIdle += r.RSSIdle
		sum.RSSEnd += r.RSSEnd
		sum.Errors += r.Errors
		sum.Peak += r.Peak
		sum.Finished += r.Finished
		sum.PeakRate += r.PeakRate
		if sum.FirstError == "" {
			sum.FirstError = r.FirstError
		}
	}
	return &sum
}

// perConn returns how many bytes the server holds a connection, where there are
// enough of them to tell.
func perConn(w *workload, r *load.Result) int64 {
	n := w.load.Idle
	if w.load.Kind == load.Open {
		n = r.Peak
	}
	if n < 1000 || r.RSSIdle == 0 {
		return 0
	}
	return (r.RSSIdle - r.RSSStart) / int64(n)
}

func kernelSample(argv []string, apart bool) (*sample, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	start := cmd.Start
	if apart {
		all := proc.Processors()
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", serverProcessor, all[1]))
		start = func() error { return proc.On(all[0], cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	late.Stop()
	if err != nil {
		return nil, err
	}
	var k kernelResult
	if err := json.Unmarshal(out.Bytes(), &k); err != nil {
		return nil, err
	}
	return &sample{Result: load.Result{
		Ops: uint64(k.Ops), Seconds: k.Seconds, ServerCPU: k.CPU, RSSEnd: k.RSS,
	}}, nil
}
