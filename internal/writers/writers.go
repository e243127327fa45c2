// Package writers runs write jobs on a few goroutines, off the goroutine that
// found them.
//
// It exists for a dispatcher that works in turns. What is added during a turn
// is withheld until the dispatcher lets go of it, so that all that a callback
// writes to a connection leaves together, and a whole batch of connections is
// handed over with one lock and one wake-up. Handing over beats writing on the
// dispatcher, which has only one core, and it beats waking a goroutine for each
// connection, which costs a switch a message (both measured). Only a single job of
// a dispatcher that would go to sleep is cheaper where it is: one connection that
// is talked to and fro has 1.2 times the throughput.
package writers

import (
	"sync"
	"sync/atomic"
)

// A Job is a piece of writing that does not block.
type Job interface{ Flush() }

// share is how many jobs a worker takes at a time, and how many a sleeping
// worker is worth waking for.
const share = 8

// A Pool runs jobs. The zero Pool must be given its limit by Init.
type Pool[J Job] struct {
	wg   sync.WaitGroup
	wake chan struct{}

	// A turn in which nothing is added should cost nothing, so its ends take no
	// lock. Add sets fresh before it looks at inTurn, and EndTurn does it
	// the other way round: one of the two sees the other and releases.
	inTurn atomic.Bool
	fresh  atomic.Bool // there may be jobs that were not released

	mu      sync.Mutex // guards the following
	queue   []J
	head    int // first job in queue
	ready   int // jobs from head on that workers may take
	limit   int
	workers int
	idle    int // workers that wait on wake and have no token coming
	closed  bool
}

// Init says how many workers there may be. They start when they are needed.
func (p *Pool[J]) Init(limit int) {
	p.limit = limit
	p.wake = make(chan struct{}, limit)
}

// Add queues a job. During a turn it waits there for Release or EndTurn. Add
// never blocks.
func (p *Pool[J]) Add(job J) {
	p.mu.Lock()
	p.queue = append(p.queue, job)
	p.fresh.Store(true)
	if !p.inTurn.Load() {
		p.release()
	}
	p.mu.Unlock()
}

// BeginTurn withholds what is added from now on.
func (p *Pool[J]) BeginTurn() { p.inTurn.Store(true) }

// Release lets the workers have what was added so far in this turn.
func (p *Pool[J]) Release() {
	if !p.fresh.Load() {
		return
	}
	p.mu.Lock()
	p.release()
	p.mu.Unlock()
}

// EndTurn releases and goes back to handing over at once. If the dispatcher has
// nothing else to do, which idle says, and there is a single job, it runs the job
// instead of waking a worker for it.
func (p *Pool[J]) EndTurn(idle bool) {
	p.inTurn.Store(false)
	if !p.fresh.Load() {
		return
	}
	p.mu.Lock()
	if !idle || p.closed || len(p.queue)-p.head != 1 || p.ready > 0 {
		p.release()
		p.mu.Unlock()
		return
	}
	p.fresh.Store(false)
	var job [1]J
	p.pop(job[:])
	p.mu.Unlock()
	job[0].Flush()
}

// release wakes or starts as many workers as the new jobs are worth. The caller
// holds p.mu.
func (p *Pool[J]) release() {
	p.fresh.Store(false)
	fresh := len(p.queue) - p.head - p.ready
	if fresh == 0 || p.closed {
		return
	}
	p.ready += fresh
	for want := (fresh + share - 1) / share; want > 0; want-- {
		switch {
		case p.idle > 0:
			p.idle--
			p.wake <- struct{}{} // has room: one slot a worker
		case p.workers < p.limit:
			p.workers++
			p.wg.Go(p.work)
		default:
			return // all are busy and will look again before they sleep
		}
	}
}

// work is a worker.
func (p *Pool[J]) work() {
	var mine [share]J
	for {
		n, ok := p.take(mine[:])
		if !ok {
			return
		}
		if n == 0 {
			<-p.wake
			continue
		}
		for _, job := range mine[:n] {
			job.Flush()
		}
		clear(mine[:n])
	}
}

// take moves ready jobs to mine. If there are none the caller is to wait for a
// token; ok is false if it is to end.
func (p *Pool[J]) take(mine []J) (n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(p.ready, len(mine))
	if n == 0 {
		if p.closed {
			return 0, false
		}
		p.idle++
		return 0, true
	}
	p.pop(mine[:n])
	p.ready -= n
	return n, true
}

// pop moves the first jobs of the queue to mine.
func (p *Pool[J]) pop(mine []J) {
	n := copy(mine, p.queue[p.head:])
	clear(p.queue[p.head : p.head+n])
	p.head += n
	p.compact()
}

// keep is the capacity up to which the array of an empty queue is kept.
const keep = 1024

// compact reuses the front of the queue once all before it is done.
func (p *Pool[J]) compact() {
	switch {
	case p.head == len(p.queue):
		p.head = 0
		if p.queue = p.queue[:0]; cap(p.queue) > keep {
			p.queue = nil
		}
	case p.head >= keep && p.head > len(p.queue)/2:
		n := copy(p.queue, p.queue[p.head:])
		clear(p.queue[n:])
		p.queue = p.queue[:n]
		p.head = 0
	}
}

// Close lets the workers finish what is ready and waits until they are gone.
// What was not released is dropped, as is what is added later.
func (p *Pool[J]) Close() {
	p.mu.Lock()
	p.closed = true
	for ; p.idle > 0; p.idle-- {
		p.wake <- struct{}{}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
