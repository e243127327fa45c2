// Bench measures package eventloop side by side with what else one could use:
// a goroutine per connection, other event loops for Go, Node.js, libuv, libevent.
//
// All servers are processes of their own, so that their CPU time and memory are
// theirs alone, and so is the client. The opponents take turns, A B C A B C, and
// what is compared are runs next to each other. See README.md in this directory.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/onloop/eventloop/bench/internal/load"
	"github.com/onloop/eventloop/bench/internal/proc"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// flags are those of all roles of the program.
type flags struct {
	quick    bool
	only     string
	against  string
	out      string
	rounds   int
	profiles string
	portable bool
	list     bool
	old      string
	goals    bool

	serve  serveConfig
	load   bool
	kernel string
	lib    string
	n      int
}

func parseFlags() *flags {
	f := new(flags)
	flag.BoolVar(&f.quick, "quick", false, "a few minutes instead of half an hour")
	flag.BoolVar(&f.goals, "goals", false, "only the workloads that goals are set for, nine rounds of them, with the opponents of the goals")
	flag.StringVar(&f.only, "run", "", "run only the workloads whose name matches this regular `expression`")
	flag.StringVar(&f.against, "against", "", "run only the opponents whose name matches this regular `expression`")
	flag.StringVar(&f.out, "out", "results", "`directory` for the table, the figures as JSON, and the plots")
	flag.IntVar(&f.rounds, "rounds", 0, "how often each opponent runs; 0: as the plan says")
	flag.StringVar(&f.profiles, "pprof", "", "write CPU profiles of the library's servers to this `directory`")
	flag.BoolVar(&f.portable, "portable", false, "use the client with a goroutine per connection, as on systems other than Linux")
	flag.StringVar(&f.old, "old", "", "compare with the library in another build of this program, this `file`, too")
	flag.BoolVar(&f.list, "list", false, "list the workloads and the opponents, and run nothing")

	flag.StringVar(&f.serve.lib, "serve", "", "be a server of this `library` until standard input ends")
	flag.StringVar(&f.serve.mode, "mode", modeEcho, "what the server does")
	flag.StringVar(&f.serve.addr, "addr", "0.0.0.0:0", "where the server listens")
	flag.DurationVar(&f.serve.delay, "delay", 5*time.Second, "of the server's response, in the modes that have one")
	flag.IntVar(&f.serve.loops, "loops", 0, "loops of the server; 0: one, without a group")
	flag.BoolVar(&f.serve.reusePort, "reuseport", false, "give each loop a listener of its own")
	flag.StringVar(&f.serve.profile, "profile", "", "write a CPU profile of the server to this `file`")

	flag.BoolVar(&f.load, "load", false, "be a client as standard input says")
	flag.StringVar(&f.kernel, "kernel", "", "do this `work` without a network")
	flag.StringVar(&f.lib, "lib", ours, "with this `library`")
	flag.IntVar(&f.n, "n", 100_000, "so `often`")
	flag.Parse()
	return f
}

func run() error {
	switch f := parseFlags(); {
	case f.serve.lib != "":
		return serve(&f.serve)
	case f.load:
		return serveJSON(load.Run)
	case f.kernel != "":
		if kernels[f.lib][f.kernel] == nil {
			return fmt.Errorf("%s does not have %s", f.lib, f.kernel)
		}
		return json.NewEncoder(os.Stdout).Encode(runKernel(f.lib, f.kernel, f.n))
	default:
		return compare(f)
	}
}

// compare runs everything and reports.
func compare(f *flags) error {
	dir, err := os.MkdirTemp("", "eventloop-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	removeOnInterrupt(dir)
	opponents, err := gather(dir, f.old)
	if err != nil {
		return err
	}
	p := fullPlan(proc.Limit())
	switch {
	case f.goals:
		p = goalsPlan(proc.Limit())
	case f.quick:
		p = quickPlan(proc.Limit())
	}
	todo, err := p.chosen(f.only, f.against, f.rounds)
	if err != nil {
		return err
	}
	if f.list {
		list(todo, opponents)
		return nil
	}
	for _, d := range []string{f.out, f.profiles} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
	}
	b := &bench{opponents: opponents, profiles: f.profiles, portable: f.portable, log: progress}
	r := newReport(f.quick, p.limit, opponents.skipped)
	for i, w := range todo {
		progress("%d/%d %s", i+1, len(todo), w.title)
		r.Outcomes = append(r.Outcomes, b.run(w))
	}
	r.Took = time.Since(r.Date).Round(time.Second).String()
	if err := r.write(f.out); err != nil {
		return err
	}
	r.markdown(os.Stdout)
	progress("written to %s", filepath.Join(f.out, "report.md"))
	return nil
}

// chosen returns the workloads whose names match, with the opponents whose names match.
func (p *plan) chosen(only, against string, rounds int) ([]*workload, error) {
	re, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	opponents, err := regexp.Compile(against)
	if err != nil {
		return nil, err
	}
	var chosen []*workload
	for _, w := range p.workloads() {
		if !re.MatchString(w.name) {
			continue
		}
		if rounds > 0 {
			w.with.rounds = rounds
		}
		w.who = slices.DeleteFunc(slices.Clone(w.who), func(name string) bool {
			return name != ours && !opponents.MatchString(name)
		})
		chosen = append(chosen, w)
	}
	return chosen, nil
}

func list(todo []*workload, o *opponents) {
	for _, w := range todo {
		fmt.Printf("%-12s %s\n", w.name, w.title)
	}
	for _, s := range o.skipped {
		fmt.Println(s)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// removeOnInterrupt removes what was built. The servers and the client end by
// themselves, with their standard input.
func removeOnInterrupt(dir string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	go func() {
		<-c
		os.RemoveAll(dir)
		os.Exit(130)
	}()
}
