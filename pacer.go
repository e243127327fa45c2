package eventloop

import "time"

// A pacer decides when the dispatcher lets other goroutines run, and when the writers
// receive the output of callbacks. It learns from the calls of its methods, and reads
// no clock itself.
//
// When a goroutine wakes another one, the scheduler runs the woken goroutine next on
// the same processor. So the dispatcher would run a turn per task, and wake a writer
// per response, while goroutines that the poller found ready at the same time still
// wait. If those run first, they add their tasks to the queue, and one turn serves them
// all. (HTTP with 50 and 500 connections: 1.17 and 1.05 times the requests; echo with
// 500: 0.91 of the CPU time.)
type pacer struct {
	busy   bool // other goroutines are ready when the dispatcher wakes up, so it yields first
	misses int  // consecutive yields that brought no more tasks
	bulk   bool // a large chunk arrived since the last sleep
	posted bool // the last turn had posts
	calls  int  // callbacks since the writers received output
	unseen int  // turns since the last pass, plus weighted network tasks
}

const (
	// shortSleep is shorter than a peer takes to respond. The dispatcher yields only if
	// its sleeps are shorter, because only then are other goroutines ready.
	shortSleep = 5 * time.Microsecond

	// maxMisses is the number of consecutive useless yields after which the dispatcher
	// stops yielding.
	maxMisses = 32

	// bulk is the size in bytes from which a chunk is large. If one turn handled many
	// such chunks, little of them would remain in the caches (echo of 32 KB: 0.83 of
	// the throughput). So after a large chunk the dispatcher does not yield, and leaves
	// writing to the writers.
	bulk = 8 << 10

	// passEvery is the number of turns between two passes through the poller. The
	// dispatcher and the goroutines that it wakes can keep a processor busy among
	// themselves. The scheduler then polls the network only every 10 ms, and connections
	// that became ready long ago wait. (500 connections, one processor per side, at the same
	// throughput: without passes, p99 of echoes is 2.1 times that of a goroutine per
	// connection; with passes, 1.1 times.) A task of a network goroutine counts as several
	// turns, because it is more work for that goroutine than for the dispatcher: 64, 128 and
	// 256 tasks between two passes make no difference; 64 turns with any number of tasks
	// leave p99 at 1.3.
	passEvery  = 1024
	taskWeight = 8

	// releaseEvery is the number of callbacks between two releases of output to the
	// writers.
	releaseEvery = 8
)

// beginTurn records that a turn begins, and whether it has posts. It reports whether
// the dispatcher should first pass through the poller.
func (p *pacer) beginTurn(posted bool) (pass bool) {
	p.posted, p.calls = posted, 0
	if p.unseen++; p.unseen < passEvery {
		return false
	}
	p.unseen = 0
	return true
}

// called counts a callback. If task is true, a network goroutine sent it. called reports
// whether the writers should receive the output now.
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

// received records a chunk of n bytes.
func (p *pacer) received(n int) { p.bulk = p.bulk || n >= bulk }

// mayWrite reports whether the dispatcher may write a single response itself at the end
// of a turn.
func (p *pacer) mayWrite() bool { return !p.bulk }

// beforeSleep reports whether the dispatcher should yield instead of sleeping: the
// goroutines that receive the results of posts often post again, and if the dispatcher
// is still awake they need no wake-up. That makes a post with a reply a third cheaper.
func (p *pacer) beforeSleep() (yield bool) {
	yield = p.posted && p.busy
	p.posted = p.posted && !yield
	return yield
}

// afterWake reports whether the dispatcher should yield before its next turn. task reports
// whether a task ended the sleep.
func (p *pacer) afterWake(task bool) (yield bool) { return p.busy && task }

// endSleep records how long a sleep took, whether the dispatcher yielded after it, and
// whether the yield brought more tasks.
func (p *pacer) endSleep(took time.Duration, yielded, more bool) {
	switch {
	case p.bulk:
		p.busy, p.bulk = false, false
	case !yielded:
		p.busy = took < shortSleep
	case more:
		p.misses = 0
	default:
		if p.misses++; p.misses == maxMisses {
			p.busy, p.misses = false, 0
		}
	}
}
