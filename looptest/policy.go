package looptest

import (
	"math/rand/v2"
	"slices"
)

// A Policy decides what runs next when several events are ready. It never violates the
// guarantees of the loop: the chunks of one connection, the posts of one goroutine, and
// timers with equal deadlines stay in order.
type Policy struct {
	make func(seed uint64) chooser
	name string
}

// Random chooses with equal probability, by the seed. It is the default.
func Random() Policy {
	return Policy{name: "random", make: func(seed uint64) chooser {
		return &random{rand.New(rand.NewPCG(seed, 0x6c6f6f70))}
	}}
}

// PCT gives every source of callbacks, such as the data of one connection, a random
// priority, and always runs the source with the highest priority. At depth-1 random steps of
// a run, the source that would run next gets the lowest priority. PCT finds an order that
// needs few unlikely choices sooner than Random does (Burckhardt and others, "A Randomized
// Scheduler with Probabilistic Guarantees of Finding Bugs", 2010). A depth below 1 means 1:
// priorities never change.
func PCT(depth int) Policy {
	return Policy{name: "pct", make: func(seed uint64) chooser {
		r := rand.New(rand.NewPCG(seed, 0x706374))
		p := &pct{rand: r, priority: make(map[choiceKey]int)}
		for range max(depth, 1) - 1 {
			// Short runs are frequent and long ones possible, so the magnitude of
			// the step is drawn first.
			p.changes = append(p.changes, r.IntN(1<<(2+r.IntN(10))))
		}
		return p
	}}
}

// FIFO runs the event that has been ready for the longest time, as a loop does by itself.
func FIFO() Policy {
	return Policy{name: "fifo", make: func(uint64) chooser { return fifo{} }}
}

// Unfair runs the event that became ready last. The event that has been ready for the
// longest time waits until no other event is ready.
func Unfair() Policy {
	return Policy{name: "unfair", make: func(uint64) chooser { return unfair{} }}
}

// A chooser returns the index of one of choices. There are at least two choices, in the
// order in which they became ready.
type chooser interface {
	choose(choices []choice, c *conductor) int
}

type random struct{ rand *rand.Rand }

func (r *random) choose(cs []choice, _ *conductor) int { return r.rand.IntN(len(cs)) }

type fifo struct{}

func (fifo) choose([]choice, *conductor) int { return 0 }

type unfair struct{}

func (unfair) choose(cs []choice, _ *conductor) int { return len(cs) - 1 }

type pct struct {
	rand     *rand.Rand
	changes  []int
	choices  int
	priority map[choiceKey]int
	lowest   int
}

func (p *pct) choose(cs []choice, _ *conductor) int {
	for _, c := range cs {
		if _, known := p.priority[c.key()]; !known {
			p.priority[c.key()] = 1 + p.rand.IntN(1<<30)
		}
	}
	for range p.changes {
		if at := slices.Index(p.changes, p.choices); at >= 0 {
			p.changes[at] = -1
			p.lowest--
			p.priority[cs[p.highest(cs)].key()] = p.lowest
		}
	}
	p.choices++
	return p.highest(cs)
}

func (p *pct) highest(cs []choice) int {
	best := 0
	for i, c := range cs {
		if p.priority[c.key()] > p.priority[cs[best].key()] {
			best = i
		}
	}
	return best
}
