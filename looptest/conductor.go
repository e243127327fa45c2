package looptest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop/internal/ordering"
)

// A conductor decides what runs next in one bubble. The parties, which are the loops and
// the networks, send it requests through their gates. Its goroutine replies to them.
//
// Only its goroutine calls synctest.Wait, because two concurrent calls are not allowed.
// While it waits for requests it is durably blocked, so time passes only when no party has
// anything to do.
type conductor struct {
	asks   chan ask
	quit   chan struct{}
	left   chan struct{} // closed when the goroutine has ended
	start  time.Time
	bubble atomic.Pointer[string] // its name in stack traces; nil before begin

	// Owned by the goroutine; after the end of the bubble, other goroutines may use them.
	parties int
	step    int
	choices []choice // of the last step; kept for its memory
	events  []Event
	chooser chooser
	spin    spin

	resting atomic.Int64 // number of rests begun plus rests ended; odd during a rest
	mu      sync.Mutex   // guards the following
	fault   error        // the first reason to fail the test
	onFault func(error)
	alike   []string // descriptions of events that cannot be distinguished; at most maxAlike
}

// maxAlike is the maximum number of listed events that cannot be distinguished.
const maxAlike = 5

// A spin detects that the parties keep running and no time passes.
type spin struct {
	at    time.Duration
	steps int
}

// maxSpin is the number of callbacks that may run at one instant of virtual time. It is far
// more than a test needs, but a spinning test reaches it within a second.
const maxSpin = 100_000

func newConductor(c chooser) *conductor {
	return &conductor{step: 1, chooser: c}
}

// begin creates the parts of c that belong to the bubble. It is called in the bubble.
func (c *conductor) begin() {
	c.asks = make(chan ask, 16)
	c.quit, c.left = make(chan struct{}), make(chan struct{})
	c.start = time.Now()
	bubble := bubbleOf()
	c.bubble.Store(&bubble)
}

// A gate is a party's side of the conductor.
type gate struct {
	c     *conductor
	party string
	index int // among the parties
	reply chan int
}

// An ask is a request of a party: to wait for rest, or to choose one of its candidates. A
// party has at most one request at a time.
type ask struct {
	gate       *gate
	candidates []ordering.Candidate // nil: wait for rest
}

// Replies that are not the index of a candidate.
const (
	again  = -1 // another party runs first
	rested = -2
)

var _ ordering.Gate = (*gate)(nil)

// gate adds a party.
func (c *conductor) gate(party string) *gate {
	g := &gate{c: c, party: party, index: c.parties, reply: make(chan int, 1)}
	c.parties++
	return g
}

// alone reports whether the party is the only one. It then needs no goroutine of the
// conductor.
func (g *gate) alone() bool { return g.c.parties == 1 }

func (g *gate) Rest() (step int) {
	if g.alone() {
		g.c.rest()
	} else {
		g.ask(nil)
	}
	return g.c.step
}

func (g *gate) Choose(candidates []ordering.Candidate) int {
	if g.alone() {
		return g.c.choose([]ask{{g, candidates}}).index
	}
	return g.ask(candidates)
}

func (g *gate) Alike(name string) {
	c := g.c
	c.mu.Lock()
	defer c.mu.Unlock()
	text := fmt.Sprintf("%s  %s  %s", time.Since(c.start), g.party, name)
	if len(c.alike) < maxAlike && !slices.Contains(c.alike, text) {
		c.alike = append(c.alike, text)
	}
}

// ask sends a request to the conductor and waits for the reply. After the end of the
// conductor, ask grants every request, so that loops that are being closed do not hang.
func (g *gate) ask(candidates []ordering.Candidate) int {
	select {
	case <-g.c.quit:
		return 0
	default:
	}
	select {
	case g.c.asks <- ask{g, candidates}:
	case <-g.c.quit:
		return 0
	}
	select {
	case i := <-g.reply:
		return i
	case <-g.c.quit:
		return 0
	}
}

// run replies to requests until stop.
func (c *conductor) run() {
	defer close(c.left)
	var resting, ready []ask
	for {
		select {
		case a := <-c.asks:
			resting, ready = sortIn(a, resting, ready)
		case <-c.quit:
			return
		}
		for len(resting)+len(ready) > 0 {
			c.rest()
			for more := true; more; {
				select {
				case a := <-c.asks:
					resting, ready = sortIn(a, resting, ready)
				default:
					more = false
				}
			}
			if len(resting) > 0 { // these parties look for candidates first
				for _, a := range resting {
					a.gate.reply <- rested
				}
				resting = resting[:0]
				continue
			}
			c.grant(ready)
			ready = ready[:0]
		}
	}
}

func sortIn(a ask, resting, ready []ask) (_, _ []ask) {
	if a.candidates == nil {
		return append(resting, a), ready
	}
	return resting, append(ready, a)
}

// rest waits until all other goroutines of the bubble are durably blocked.
func (c *conductor) rest() {
	c.resting.Add(1)
	synctest.Wait()
	c.resting.Add(1)
}

// stop ends the goroutine. Later requests are granted in the order of their arrival.
func (c *conductor) stop() {
	close(c.quit)
	<-c.left
}

// A choice is a candidate of a party.
type choice struct {
	ordering.Candidate
	gate  *gate
	index int // among the candidates of the party
}

type choiceKey struct {
	gate *gate
	name string
}

func (c choice) key() choiceKey { return choiceKey{c.gate, c.Name} }

// grant lets one candidate of one party run, and makes the other parties look for
// candidates again.
func (c *conductor) grant(ready []ask) {
	chosen := c.choose(ready)
	for _, a := range ready {
		if a.gate == chosen.gate {
			a.gate.reply <- chosen.index
		} else {
			a.gate.reply <- again
		}
	}
}

// choose chooses one of the candidates of all parties, and adds it to the trace.
func (c *conductor) choose(ready []ask) choice {
	c.step++
	all := c.choices[:0]
	for _, a := range ready {
		for i, candidate := range a.candidates {
			all = append(all, choice{candidate, a.gate, i})
		}
	}
	if c.choices = all; len(ready) > 1 {
		slices.SortStableFunc(all, func(a, b choice) int {
			return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.gate.index, b.gate.index))
		})
	}
	i := 0
	if len(all) > 1 {
		i = c.chooser.choose(all, c)
	}
	chosen := all[i]
	at := time.Since(c.start)
	c.events = append(c.events, Event{At: at, Party: chosen.gate.party, Name: chosen.Name, Choices: len(all), index: i})
	c.checkSpin(at)
	return chosen
}

func (c *conductor) checkSpin(at time.Duration) {
	if c.spin.at != at {
		c.spin = spin{at: at}
	}
	if c.spin.steps++; c.spin.steps == maxSpin {
		var last []string
		for _, e := range c.events[len(c.events)-8:] {
			last = append(last, e.String())
		}
		c.failf("the loops do not come to rest: %d callbacks ran at the same instant; the last were\n%s",
			maxSpin, strings.Join(last, "\n"))
	}
}

// failf records a reason to fail the test. The first one counts.
func (c *conductor) failf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return
	}
	c.fault = fmt.Errorf(format, args...)
	if c.onFault != nil {
		go c.onFault(c.fault)
	}
}

func (c *conductor) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault
}
