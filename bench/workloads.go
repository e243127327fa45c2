package main

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/onloop/eventloop/bench/internal/load"
	"github.com/onloop/eventloop/bench/internal/proc"
)

// A workload is one comparison: what is done, and by which library.
type workload struct {
	name  string // for -run and the JSON
	title string
	unit  string // of an operation
	who   []string
	with  size

	// One of the two.
	mode   string // of the server, under load
	load   load.Spec
	delay  time.Duration
	procs  int // server processes, each with a client of its own; 0: one
	kernel string
	n      int  // of the kernel
	apart  bool // client and server are bound to a processor each
}

// A size says how long and how often a workload is run.
type size struct {
	rounds        int
	warm, measure time.Duration
}

// A plan is all that is run: in minutes, or thoroughly.
type plan struct {
	cell   size // of most workloads
	idle   size
	seed   size
	levels []int // of idle connections
	n      int   // of a kernel

	seedOpen  int // connections at a time, at most
	seedDelay time.Duration
	seedTotal float64 // connections to come, in multiples of those open at a time
	seedMany  *size   // of the one over several processes; nil: it is left out
	limit     uint64  // of descriptors
	all       bool    // all opponents everywhere
	goals     bool    // only what goals are about
}

func quickPlan(limit uint64) *plan {
	return &plan{
		cell:      size{rounds: 2, warm: 100 * time.Millisecond, measure: 250 * time.Millisecond},
		idle:      size{rounds: 1, warm: 100 * time.Millisecond, measure: 250 * time.Millisecond},
		seed:      size{rounds: 1},
		levels:    []int{0, min(10_000, proc.Room(limit))},
		n:         400_000,
		seedOpen:  7600, // not all that fit, but as many a second as in the full run
		seedDelay: 2 * time.Second,
		seedTotal: 1.5,
		limit:     limit,
	}
}

func fullPlan(limit uint64) *plan {
	room := proc.Room(limit)
	return &plan{
		cell:      size{rounds: 5, warm: 200 * time.Millisecond, measure: 700 * time.Millisecond},
		idle:      size{rounds: 3, warm: 200 * time.Millisecond, measure: time.Second},
		seed:      size{rounds: 1},
		levels:    []int{0, min(10_000, room/2), min(19_000, room)},
		n:         1_000_000,
		seedOpen:  manyOpen,
		seedDelay: 5 * time.Second,
		seedTotal: 2,
		seedMany:  &size{rounds: 1},
		limit:     limit,
		all:       true,
	}
}

// goalsPlan is for the workloads that have goals, with the opponents that these name.
func goalsPlan(limit uint64) *plan {
	p := fullPlan(limit)
	p.cell = size{rounds: 9, warm: 150 * time.Millisecond, measure: 500 * time.Millisecond}
	p.seed = size{rounds: 9}
	p.n /= 2
	p.seedTotal = 1.15 // what a connection costs is known before all are open
	p.seedMany = &size{rounds: 3}
	p.goals = true
	return p
}

// withGoals returns those of all that have a goal, with the opponents of their goals.
func withGoals(all []*workload) []*workload {
	against := make(map[string][]string)
	for _, g := range ratioGoals {
		if against[g.workload] == nil {
			against[g.workload] = []string{ours, oldBuild}
		}
		if g.against != "*" && !slices.Contains(against[g.workload], g.against) {
			against[g.workload] = append(against[g.workload], g.against)
		}
	}
	var chosen []*workload
	for _, w := range all {
		if who := against[w.name]; who != nil {
			w.who = who
			chosen = append(chosen, w)
		}
	}
	return chosen
}

var (
	tcpAll   = []string{ours, oldBuild, goroutines, gnetLib, gnetMulticore, netpollLib, libuvLib, libeventLib, nodeLib}
	httpAll  = []string{ours, oldBuild, fastHTTP, netHTTP, nodeLib}
	loopsAll = []string{ours, oldBuild, goroutines, netResolver, fastHTTP, netHTTP, gojaLib, nodeLib}
)

// loopCounts are the sizes of the groups of loops that are measured.
var loopCounts = []int{1, 2, 4}

func groupName(loops int, reusePort bool) string {
	if reusePort {
		return fmt.Sprintf("%d loops, ReusePort", loops)
	}
	return fmt.Sprintf("%d loops, one listener", loops)
}

// workloads returns what the plan runs.
func (p *plan) workloads() []*workload {
	var all []*workload
	for _, conns := range []int{1, 50, 500, 5000} {
		w := p.echo(fmt.Sprintf("echo-%d", conns), "64 B", 64, conns)
		if conns > 500 {
			all = append(all, w)
		} else {
			all = append(all, w.andApart()...)
		}
	}
	all = append(all, p.echo("echo-32k", "32 KB", 32<<10, 50))
	pipeline := p.echo("pipeline", "sixteen messages of 64 B in flight", 16*64, 50)
	all = append(all, pipeline, p.pieces(), p.broadcast(), p.accept())
	if len(proc.Processors()) > 1 {
		all = append(all, p.paced(50, 30_000), p.paced(500, 60_000))
	}
	for _, conns := range []int{50, 500} {
		all = append(all, p.http(conns))
	}
	for _, inFlight := range clientsInFlight {
		n := p.n / 10
		if inFlight == 1 {
			n /= 5 // it is slow where processors sleep between the steps
		}
		all = append(all, p.kernelOf(n, fmt.Sprintf("client-%d", inFlight),
			fmt.Sprintf("HTTP requests of a client, %d at a time, responses of %d B", inFlight, len(answered)), "request").andApart()...)
	}
	all = append(all, p.kernelOf(p.n/20, "conn-1", "messages of 64 B and their echoes, one at a time", "echo").andApart()...)
	all = append(all, p.kernelOf(p.n/20, "conn-1-task", "messages of 64 B and their echoes, one at a time, in a task", "echo").andApart()...)
	for _, posters := range []int{1, 4, 32} {
		all = append(all, p.kernelOf(p.n, fmt.Sprintf("posts-%d", posters), fmt.Sprintf("posts from %d goroutines", posters), "post"))
	}
	all = append(all,
		p.kernelOf(p.n, "timers-fire", "timers within 50 ms, until all have fired", "timer"),
		p.kernelOf(p.n, "timers-stop", "timers made and stopped", "timer"),
		p.kernelOf(p.n/5, "tasks-start", "tasks started and ended, results ignored", "task"),
		p.kernelOf(p.n/5, "tasks-taken", "tasks started and ended, with a callback for the result; goroutines, with a WaitGroup", "task"),
		p.kernelOf(p.n, "tasks-yield", "turns of 100 tasks; of goroutines, that ask one and wait", "turn"),
		p.kernelOf(p.n/50, "dns", fmt.Sprintf("names looked up, %d at a time", lookups), "name"),
		p.kernelOf(p.n/50, "dns-hang", fmt.Sprintf("names looked up, %d at a time, beside %d that hang", lookups, hanging), "name"))
	for _, conns := range []int{50, 500} {
		all = append(all, p.scaling(conns))
	}
	for _, idle := range p.levels {
		all = append(all, p.idling(idle))
	}
	all = append(all, p.seeds()...)
	if p.goals {
		all = withGoals(all)
	}
	return all
}

func (p *plan) echo(name, what string, bytesEach, conns int) *workload {
	message := bytes.Repeat([]byte("m"), bytesEach)
	return &workload{
		name: name, title: fmt.Sprintf("Echo, %s, %d connections", what, conns), unit: "response",
		who: tcpAll, with: p.cell, mode: modeEcho,
		load: load.Spec{Kind: load.Closed, Conns: conns, Request: message, Expect: bytesEach},
	}
}

// andApart returns w and, where there is more than one processor, w with a processor
// for the client and one for the server.
func (w *workload) andApart() []*workload {
	if len(proc.Processors()) < 2 {
		return []*workload{w}
	}
	apart := *w
	apart.name += "-apart"
	apart.title += ", client and server with a processor each"
	apart.apart = true
	return []*workload{w, &apart}
}

// paced is an echo at a rate that does not depend on the server. The client polls,
// so it needs a processor of its own.
func (p *plan) paced(conns int, rate float64) *workload {
	w := p.echo(fmt.Sprintf("paced-%d", conns), "64 B", 64, conns)
	w.title += fmt.Sprintf(", %.0f per second whatever the server does, client and server with a processor each", rate)
	w.load.Kind, w.load.Rate = load.Paced, rate
	w.apart = true
	return w
}

func (p *plan) pieces() *workload {
	w := p.echo("pieces", "", 64, 50)
	w.title = "A response of four small writes, 50 connections"
	w.mode = modePieces
	w.load.Expect = pieces * pieceSize
	w.who = append([]string{goroutinesBuffered, netpollBuffered}, tcpAll...)
	return w
}

func (p *plan) broadcast() *workload {
	w := p.echo("broadcast", "", 64, 1000)
	w.title, w.unit = "Broadcast of 64 B to 1000 connections", "message"
	w.mode = modeBroadcast
	w.load.Kind = load.Broadcast
	return w
}

func (p *plan) accept() *workload {
	w := p.echo("accept", "", 64, 20)
	w.title, w.unit = "Connect, one echo, close; 20 at a time", "connection"
	w.load.Kind = load.Accept
	return w
}

// httpRequest is what a keep-alive client with few headers sends.
const httpRequest = "GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"

func (p *plan) http(conns int) *workload {
	return &workload{
		name: fmt.Sprintf("http-%d", conns), title: fmt.Sprintf("HTTP hello, %d connections", conns), unit: "request",
		who: httpAll, with: p.cell, mode: modeHTTP,
		load: load.Spec{Kind: load.Closed, Conns: conns, Request: []byte(httpRequest)},
	}
}

func (p *plan) kernelOf(n int, name, what, unit string) *workload {
	return &workload{
		name: name, title: fmt.Sprintf("%d %s", n, what), unit: unit,
		who: loopsAll, with: p.cell, kernel: name, n: n,
	}
}

func (p *plan) scaling(conns int) *workload {
	w := p.echo(fmt.Sprintf("scaling-%d", conns), "64 B", 64, conns)
	w.title += ", by the number of loops"
	w.who = nil
	for _, n := range loopCounts {
		w.who = append(w.who, groupName(n, false), groupName(n, true))
	}
	return w
}

// idling is an echo beside connections that have done one and wait.
func (p *plan) idling(idle int) *workload {
	w := p.echo(fmt.Sprintf("idle-%d", idle), "64 B", 64, 50)
	w.title = fmt.Sprintf("Echo, 64 B, 50 connections beside %d idle ones", idle)
	w.load.Idle = idle
	w.with = p.idle
	if !p.all {
		w.who = []string{ours, goroutines}
	}
	return w
}

// manyOpen is how many connections cl-async showed.
const manyOpen = 40_000

// seeds are the benchmark of the seed, cl-async: connections come at a rate, and
// each gets its answer after a delay. One process holds as many as it may have
// descriptors; then there are several processes.
func (p *plan) seeds() []*workload {
	open := min(proc.Room(p.limit), p.seedOpen)
	all := []*workload{p.seedOf(modeDelayed, open, 1, tcpAll)}
	if p.all {
		all = append(all, p.seedOf(modeHTTPDelay, open, 1, httpAll))
	}
	if n := max(proc.Processes(manyOpen, p.limit), 3); p.seedMany != nil && n <= 16 {
		many := p.seedOf(modeDelayed, manyOpen, n, []string{ours, oldBuild, goroutines, libuvLib})
		many.with = *p.seedMany
		all = append(all, many)
	}
	return all
}

func (p *plan) seedOf(mode string, open, procs int, who []string) *workload {
	// A little less than the limit: the last connection opens while the first
	// closes, and may be early.
	rate := 0.98 * float64(open) / p.seedDelay.Seconds()
	name, what := "seed", "TCP"
	w := &workload{
		unit: "connection", who: who, with: p.seed, mode: mode, delay: p.seedDelay, procs: procs,
		load: load.Spec{
			Kind: load.Open, Request: []byte("GET / HTTP/1.0\r\n\r\n"), Expect: len(delayedAnswer),
			Total: int(p.seedTotal * float64(open)), Rate: rate, Delay: p.seedDelay,
		},
	}
	if mode == modeHTTPDelay {
		name, what = "seed-http", "HTTP"
		w.load.Expect = 0
	}
	w.title = fmt.Sprintf("The seed's benchmark over %s: %d connections, %.0f per second, a response after %v",
		what, w.load.Total, rate, p.seedDelay)
	if procs > 1 {
		name = "seed-many"
		w.title += fmt.Sprintf("; %d server processes", procs)
	}
	w.name = name
	if !p.all {
		w.who = who[:2]
	}
	return w
}
