// Package bench runs clients beside each other: each run in a process of its own, in
// turn, and prints the medians.
package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

// A Workload is something that clients do. The first rival is what the others are
// compared with.
type Workload struct {
	Name   string
	Unit   string // of what is counted; empty: operations
	Rivals []Rival
}

// A Rival is a client that does a workload. Run begins to do it at the server at addr,
// and counts what is done. It may return, or not, as it likes; the process ends when the
// time is over.
type Rival struct {
	Name string
	Run  func(addr string, c *Counter) error
}

// A Counter counts what is done. It has a cell for each goroutine.
type Counter struct{ cells [1024]cell }

type cell struct {
	n atomic.Int64
	_ [56]byte
}

// Done counts one operation of goroutine i.
func (c *Counter) Done(i int) { c.cells[i%len(c.cells)].n.Add(1) }

// Sum returns how much is done.
func (c *Counter) Sum() (n int64) {
	for i := range c.cells {
		n += c.cells[i].n.Load()
	}
	return n
}

// A Sample is the result of one run.
type Sample struct {
	PerSecond float64
	CPU       float64 // µs per operation
	Allocs    float64 // per operation
	Memory    float64 // MB of resident memory at the end
}

// Main is the main function of a benchmark command. server starts the server and returns
// its address.
func Main(workloads []Workload, server func() (addr string, stop func(), err error)) {
	var (
		run    = flag.String("run", ".", "run workloads that match the regular expression")
		rounds = flag.Int("rounds", 5, "rounds")
		length = flag.Duration("time", time.Second, "length of a run")
		list   = flag.Bool("list", false, "list the workloads and their clients")
		child  = flag.String("child", "", "internal: workload and rival")
		addr   = flag.String("addr", "", "internal: address of the server")
	)
	flag.Parse()
	if *child != "" {
		exit(runChild(workloads, *child, *addr, *length))
		return
	}
	if *list {
		for _, w := range workloads {
			for _, r := range w.Rivals {
				fmt.Println(w.Name, r.Name)
			}
		}
		return
	}
	exit(runAll(os.Stdout, workloads, server, *run, *rounds, *length))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runAll(out io.Writer, workloads []Workload, server func() (string, func(), error), pattern string, rounds int, length time.Duration) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	addr, stop, err := server()
	if err != nil {
		return err
	}
	defer stop()
	for _, w := range workloads {
		if !re.MatchString(w.Name) {
			continue
		}
		samples := make([][]Sample, len(w.Rivals))
		for round := range rounds {
			for i := range w.Rivals {
				j := (i + round) % len(w.Rivals)
				s, err := spawn(w, w.Rivals[j], addr, length)
				if err != nil {
					return err
				}
				samples[j] = append(samples[j], s)
			}
		}
		report(out, w, samples)
	}
	return nil
}

// spawn does one run in a process of its own.
func spawn(w Workload, r Rival, addr string, length time.Duration) (s Sample, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	cmd := child.Command(self, "-child", w.Name+"/"+r.Name, "-addr", addr, "-time", length.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("%s/%s: %w", w.Name, r.Name, err)
	}
	return s, json.Unmarshal(out, &s)
}

func runChild(workloads []Workload, name, addr string, length time.Duration) error {
	for _, w := range workloads {
		for _, r := range w.Rivals {
			if w.Name+"/"+r.Name == name {
				return measure(r, addr, length)
			}
		}
	}
	return fmt.Errorf("no run %q", name)
}

// watchdog is when a rival that has done nothing is taken to hang.
const watchdog = 2 * time.Minute

func measure(r Rival, addr string, length time.Duration) error {
	c := &Counter{}
	failed := make(chan error, 1)
	go func() {
		if err := r.Run(addr, c); err != nil {
			failed <- err
		}
	}()
	wait := func(d time.Duration) error {
		select {
		case err := <-failed:
			return err
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(length / 3); err != nil {
		return err
	}
	before := look(c)
	if err := wait(length); err != nil {
		return err
	}
	// On a busy machine, a short run of a test may end before a client has done anything.
	for end := time.Now().Add(watchdog); c.Sum() == before.n && time.Now().Before(end); {
		if err := wait(time.Millisecond); err != nil {
			return err
		}
	}
	after := look(c)
	n := float64(after.n - before.n)
	if n == 0 {
		return fmt.Errorf("%s did nothing", r.Name)
	}
	return json.NewEncoder(os.Stdout).Encode(Sample{
		PerSecond: n / after.at.Sub(before.at).Seconds(),
		CPU:       float64(after.cpu-before.cpu) / 1e3 / n,
		Allocs:    float64(after.mallocs-before.mallocs) / n,
		Memory:    resident(),
	})
}

type state struct {
	at      time.Time
	n       int64
	cpu     int64 // ns
	mallocs uint64
}

func look(c *Counter) state {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return state{time.Now(), c.Sum(), cpuTime(), m.Mallocs}
}

// resident returns the resident memory of the process in MB, on Linux.
func resident() float64 {
	data, _ := os.ReadFile("/proc/self/statm")
	var size, pages float64
	fmt.Sscan(string(data), &size, &pages)
	return pages * float64(os.Getpagesize()) / 1e6
}

// report prints the table of a workload.
func report(out io.Writer, w Workload, samples [][]Sample) {
	unit := w.Unit
	if unit == "" {
		unit = "ops"
	}
	fmt.Fprintf(out, "\n%s\n", w.Name)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "client\t%s/s\tµs CPU\tallocs\tMB\t%s is faster by\tand takes of its CPU\t\n", unit, w.Rivals[0].Name)
	for i, r := range w.Rivals {
		get := func(f func(s Sample) float64) float64 {
			var all []float64
			for _, s := range samples[i] {
				all = append(all, f(s))
			}
			return median(all)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.2f\t%.1f\t%.0f\t", r.Name, get(func(s Sample) float64 { return s.PerSecond }),
			get(func(s Sample) float64 { return s.CPU }), get(func(s Sample) float64 { return s.Allocs }), get(func(s Sample) float64 { return s.Memory }))
		if i == 0 {
			fmt.Fprint(t, "\t\t\n")
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t\n", ratios(samples[0], samples[i], func(s Sample) float64 { return s.PerSecond }),
			ratios(samples[0], samples[i], func(s Sample) float64 { return s.CPU }))
	}
	t.Flush()
}

// ratios returns the median, the least and the greatest ratio of runs of one round.
func ratios(a, b []Sample, f func(s Sample) float64) string {
	var all []float64
	for i := range a {
		all = append(all, f(a[i])/f(b[i]))
	}
	m := median(all)
	return strings.TrimSpace(fmt.Sprintf("%.2f (%.2f to %.2f)", m, slices.Min(all), slices.Max(all)))
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}
