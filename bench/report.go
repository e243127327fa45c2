package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop/bench/internal/measure"
	"github.com/onloop/eventloop/bench/internal/plot"
)

// A report is what a run of everything came to.
type report struct {
	Date     time.Time
	Took     string
	Quick    bool
	Machine  string
	Limit    uint64 // descriptors a process
	Skipped  []string
	Outcomes []*outcome
}

func newReport(quick bool, limit uint64, skipped []string) *report {
	return &report{Date: time.Now().UTC(), Quick: quick, Machine: machine(), Limit: limit, Skipped: skipped}
}

// machine describes where the figures come from.
func machine() string {
	s := fmt.Sprintf("%s, %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(data); m != nil {
			s += ", " + string(m[1])
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		s += ", kernel " + strings.TrimSpace(string(data))
	}
	return s
}

// A row is one opponent in the table of a workload.
type row struct {
	Name       string
	Throughput measure.Spread // operations a second
	CPU        float64        // microseconds of the server an operation
	P50, P99   time.Duration
	P999, Max  time.Duration
	RSS        int64
	PerConn    int64
	Ratio      measure.Spread // throughput of the first row's to this one's, run by run
	CPURatio   measure.Spread // CPU time an operation, the same way round
	P99Ratio   measure.Spread // p99, the same way round
	Last       *sample
}

// rows returns the table of o. Every row is compared with the first.
func (o *outcome) rows() []row {
	var rows []row
	for _, name := range o.Order {
		rate, cpu := o.series(name, throughput), o.series(name, cpuPerOp)
		first := o.Order[0]
		if o.has(ours) {
			first = ours
		}
		r := row{
			Name: name, Throughput: measure.SpreadOf(present(rate)),
			CPU:      measure.Median(present(cpu)),
			P50:      o.duration(name, func(s *sample) time.Duration { return s.P50 }),
			P99:      o.duration(name, func(s *sample) time.Duration { return s.P99 }),
			P999:     o.duration(name, func(s *sample) time.Duration { return s.P999 }),
			Max:      o.duration(name, func(s *sample) time.Duration { return s.Max }),
			RSS:      int64(measure.Median(present(o.series(name, func(s *sample) float64 { return float64(s.RSSEnd) })))),
			PerConn:  int64(measure.Median(present(o.series(name, func(s *sample) float64 { return float64(s.PerConn) })))),
			Ratio:    measure.Ratios(o.series(first, throughput), rate),
			CPURatio: measure.Ratios(o.series(first, cpuPerOp), cpu),
			P99Ratio: measure.Ratios(o.series(first, p99), o.series(name, p99)),
		}
		for _, s := range o.Samples[name] {
			if s != nil {
				r.Last = s
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func (o *outcome) has(name string) bool { return len(o.Samples[name]) > 0 }

func throughput(s *sample) float64 {
	if s.Seconds == 0 {
		return 0
	}
	return float64(s.Ops) / s.Seconds
}

func cpuPerOp(s *sample) float64 {
	if s.Ops == 0 {
		return 0
	}
	return float64(s.ServerCPU.Nanoseconds()) / 1000 / float64(s.Ops)
}

func p99(s *sample) float64 { return float64(s.P99) }

// series returns a figure of each round, zero where there is none.
func (o *outcome) series(name string, f func(*sample) float64) []float64 {
	v := make([]float64, len(o.Samples[name]))
	for i, s := range o.Samples[name] {
		if s != nil {
			v[i] = f(s)
		}
	}
	return v
}

func (o *outcome) duration(name string, f func(*sample) time.Duration) time.Duration {
	return time.Duration(measure.Median(present(o.series(name, func(s *sample) float64 { return float64(f(s)) }))))
}

// present returns the values that are not zero.
func present(values []float64) []float64 {
	var p []float64
	for _, v := range values {
		if v != 0 {
			p = append(p, v)
		}
	}
	return p
}

// write writes everything to dir.
func (r *report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(data, '\n'), 0o666); err != nil {
		return err
	}
	for _, c := range r.charts() {
		var svg bytes.Buffer
		if err := c.chart.WriteSVG(&svg); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, c.file), svg.Bytes(), 0o666); err != nil {
			return err
		}
	}
	var md bytes.Buffer
	r.markdown(&md)
	return os.WriteFile(filepath.Join(dir, "report.md"), md.Bytes(), 0o666)
}

func (r *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "# Benchmarks\n\n%s. %s, took %s", r.Machine, r.Date.Format("2006-01-02"), r.Took)
	if r.Quick {
		fmt.Fprint(w, " (quick)")
	}
	fmt.Fprintf(w, ".\nClient and server share the machine. At most %d descriptors a process.\n\n", r.Limit)
	fmt.Fprintln(w, "Ratios are those of runs next to each other: median [least to greatest]. A throughput ratio over 1 means that")
	fmt.Fprintf(w, "%s is faster than the opponent in that row, a CPU ratio under 1 that it takes less.\n", ours)
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "\n- %s", s)
	}
	fmt.Fprintln(w)
	r.goals(w)
	for _, c := range r.charts() {
		fmt.Fprintf(w, "\n![%s](%s)\n", c.chart.Title, c.file)
	}
	for _, o := range r.Outcomes {
		o.markdown(w)
	}
}

func (o *outcome) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n## %s\n\n", o.Title)
	rows := o.rows()
	if len(rows) == 0 {
		fmt.Fprintln(w, "No library here can do this.")
		return
	}
	if strings.HasPrefix(o.Name, "seed") {
		seedTable(w, rows)
	} else {
		o.table(w, rows)
	}
	for _, p := range o.Problems {
		fmt.Fprintf(w, "\n- %s", p)
	}
	if len(o.Problems) > 0 {
		fmt.Fprintln(w)
	}
}

func (o *outcome) table(w io.Writer, rows []row) {
	fmt.Fprintf(w, "| | %ss/s | CPU µs/%s | p50 | p99 | p99.9 | p99 ratio | RSS | per connection | throughput ratio | CPU ratio |\n", o.Unit, o.Unit)
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range rows {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", bold(r.Name), count(r.Throughput.Median), figure(r.CPU),
			latency(r.P50), latency(r.P99), latency(r.P999), spread(r.P99Ratio), bytesOf(r.RSS), bytesOf(r.PerConn), spread(r.Ratio), spread(r.CPURatio))
	}
}

// seedTable has what matters when connections arrive at a rate.
func seedTable(w io.Writer, rows []row) {
	fmt.Fprintln(w, "| | most open | finished | most per second | errors | late p50 | late p99 | late max | CPU µs/connection | per connection |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range rows {
		if r.Last == nil {
			continue
		}
		fmt.Fprintf(w, "| %s | %d | %d | %s | %d | %s | %s | %s | %s | %s |\n", bold(r.Name), r.Last.Peak, r.Last.Finished, count(r.Last.PeakRate),
			r.Last.Errors, latency(r.P50), latency(r.P99), latency(r.Max), figure(r.CPU), bytesOf(r.PerConn))
	}
}

func bold(name string) string {
	if name == ours {
		return "**" + name + "**"
	}
	return name
}

// count writes a number with commas.
func count(v float64) string {
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func figure(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func latency(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func bytesOf(n int64) string {
	switch {
	case n == 0:
		return ""
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.0f MB", float64(n)/(1<<20))
}

func spread(s measure.Spread) string {
	if s.N == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f [%.2f to %.2f]", s.Median, s.Min, s.Max)
}

type namedChart struct {
	file  string
	chart *plot.Chart
}

// charts returns those for which there are figures.
func (r *report) charts() []namedChart {
	rate := func(x row) float64 { return x.Throughput.Median }
	all := []namedChart{
		{"echo.svg", r.chart("Echo of 64 B", "connections", "responses per second", `^echo-(\d+)$`, rate)},
		{"http.svg", r.chart("HTTP hello", "connections", "requests per second", `^http-(\d+)$`, rate)},
		{"idle.svg", r.chart("Echo beside idle connections", "idle connections", "responses per second", `^idle-(\d+)$`, rate)},
		{"memory.svg", r.chart("Memory of the server", "idle connections", "resident megabytes", `^idle-(\d+)$`, residentMB)},
	}
	var drawn []namedChart
	for _, c := range all {
		if len(c.chart.Ticks) > 1 {
			drawn = append(drawn, c)
		}
	}
	return drawn
}

func residentMB(r row) float64 {
	if r.Last == nil {
		return 0
	}
	return float64(max(r.Last.RSSIdle, r.Last.RSSStart)) / (1 << 20)
}

// chart draws a figure of the outcomes whose names match; what the group in the
// expression matches is the point on the x axis.
func (r *report) chart(title, x, y, names string, f func(row) float64) *plot.Chart {
	c := &plot.Chart{Title: title, X: x, Y: y}
	re := regexp.MustCompile(names)
	index := make(map[string]int)
	for _, o := range r.Outcomes {
		m := re.FindStringSubmatch(o.Name)
		if m == nil {
			continue
		}
		c.Ticks = append(c.Ticks, m[1])
		for _, row := range o.rows() {
			i, ok := index[row.Name]
			if !ok {
				i = len(c.Series)
				index[row.Name] = i
				c.Series = append(c.Series, plot.Series{Name: row.Name, Bold: row.Name == ours})
			}
			s := &c.Series[i]
			for len(s.Values) < len(c.Ticks)-1 {
				s.Values = append(s.Values, 0)
			}
			s.Values = append(s.Values, f(row))
		}
	}
	return c
}
