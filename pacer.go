package eventloop

import "time"

// A pacer decides when the dispatcher lets other goroutines run, and when the
// writers get what callbacks wrote. It learns from what it is told, and reads no
// clock itself.
//
// A goroutine that is woken runs next on the processor of the one that woke it. So
// the dispatcher would have a turn for each task, and wake a writer for each
// response, while goroutines that the poller found ready at the same time still
// wait. If they run first, they leave their tasks in the queue, and one turn serves
// them all. (HTTP with 50 and 500 connections: 1.17 and 1.05 times the requests;
// echo with 500: 0.91 of the CPU time.)
type pacer struct {
	crowded bool // others can run when the dispatcher wakes up: it yields first
	misses  int  // yields in a row after which nothing more had come
	bulk    bool // much data came since the last sleep
	posted  bool // the last turn had posts
	calls   int  // callbacks since the writers got their work
	unseen  int  // turns since the last pass, and network tasks by their weight
}

const (
	// shortSleep is less than a peer takes to answer. Only where sleeps are
	// shorter are there others to yield to.
	shortSleep = 5 * time.Microsecond

	// maxMisses is how many yields in a row may bring nothing.
	maxMisses = 32

	// bulk is how many bytes are much data. Of many such chunks in one turn little
	// would be left in the caches (echo of 32 KB: 0.83 of the throughput), so the
	// dispatcher does not yield then, and leaves writing to the writers.
	bulk = 8 << 10

	// passEvery is how many turns lie between two passes through the poller. The
	// dispatcher and the goroutines that it wakes can keep a processor busy among
	// themselves, and then the scheduler polls the network every 10 ms only, while
	// connections wait that became ready long ago. (500 connections, one processor
	// per side: p99 of echoes 2.1 times that of a goroutine per connection without
	// passes, 1.1 with them, at the same throughput.) A task of a network goroutine
	// counts like several turns, because it is more work for that goroutine than
	// for the dispatcher: 64, 128 and 256 tasks between two passes make no
	// difference, 64 turns with any number of tasks leave p99 at 1.3.
	passEvery  = 1024
	taskWeight = 8

	// releaseEvery is how many callbacks lie between two hand-overs to the writers.
	releaseEvery = 8
)

// beginTurn notes that a turn begins, and whether it has posts. It reports whether
// the dispatcher is to pass through the poller first.
func (p *pacer) beginTurn(posted bool) (pass bool) {
	p.posted, p.calls = posted, 0
	if p.unseen++; p.unseen < passEvery {
		return false
	}
	p.unseen = 0
	return true
}

// called counts a callback; task says that a network goroutine handed it over. It
// reports whether the writers are to get their work.
func (p *pacer) called(task bool) (release bool) {
	if task {
		p.unseen += taskWeight
	}
	if p.calls++; p.calls < releaseEvery {
		return false
	}
	p.calls = 0
	return true
}

// received notes a chunk of n bytes.
func (p *pacer) received(n int) { p.bulk = p.bulk || n >= bulk }

// mayWrite reports whether the dispatcher may write a single response itself at the
// end of a turn.
func (p *pacer) mayWrite() bool { return !p.bulk }

// beforeSleep reports whether the dispatcher is to yield instead of sleeping: the
// goroutines that the last posts answered often post again, and then need to wake
// nothing. That makes a post and its answer a third cheaper.
func (p *pacer) beforeSleep() (yield bool) {
	yield = p.posted && p.crowded
	p.posted = p.posted && !yield
	return yield
}

// afterWake reports whether the dispatcher is to yield before its next turn. task
// says that a task has ended its sleep.
func (p *pacer) afterWake(task bool) (yield bool) { return p.crowded && task }

// endSleep notes how long a sleep took; whether the dispatcher yielded after it, and
// if so, whether that has brought more tasks.
func (p *pacer) endSleep(took time.Duration, yielded, more bool) {
	switch {
	case p.bulk:
		p.crowded, p.bulk = false, false
	case !yielded:
		p.crowded = took < shortSleep
	case more:
		p.misses = 0
	default:
		if p.misses++; p.misses == maxMisses {
			p.crowded, p.misses = false, 0
		}
	}
}
