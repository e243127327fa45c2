// Package writers runs write jobs on a few goroutines, separate from the goroutine
// that adds them.
//
// It is designed for a dispatcher that works in turns. Jobs that are added during a turn
// are held back until the dispatcher releases them. So everything that a callback writes
// to a connection is sent together, and a whole batch of connections is released with one
// lock and one wake-up. This is faster than writing on the dispatcher, which has only one
// core, and faster than waking a goroutine per connection, which costs a goroutine switch
// per message (both measured). There is one exception: a dispatcher that would otherwise
// sleep runs a single job itself. This gives one connection that exchanges messages 1.2
// times the throughput.
package writers

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A Job is a write that does not block.
type Job interface{ Flush() }

// jobsPerWorker is the number of jobs that a worker takes at a time, and that justify
// waking a worker.
const jobsPerWorker = 8

// A Pool runs jobs. Init sets the limit of a zero Pool before its first use.
type Pool[J interface {
	comparable
	Job
}] struct {
	wg   sync.WaitGroup
	wake chan struct{}

	// A turn without new jobs should cost nothing, so ending it takes no lock. Add
	// stores fresh before it loads inTurn, and EndTurn stores inTurn before it
	// loads fresh, so one of them sees the store of the other and releases the
	// jobs.
	inTurn atomic.Bool
	fresh  atomic.Bool // there may be jobs that were not released

	mu      sync.Mutex // guards the following
	queue   []J
	head    int // first job in queue
	ready   int // jobs from head on that workers may take
	limit   int
	workers int
	idle    int // workers that wait for wake and that release has not woken
	closed  bool
}

// Init sets the maximum number of workers. They start when they are needed.
func (p *Pool[J]) Init(limit int) {
	p.limit = limit
	p.wake = make(chan struct{}, limit)
}

// Add queues a job. During a turn the job waits for Release, ReleaseBut or EndTurn. Add
// never blocks. It returns the number of jobs that wait for that.
func (p *Pool[J]) Add(job J) (withheld int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, job)
	p.fresh.Store(true)
	if !p.inTurn.Load() {
		p.release()
	}
	return p.withheld()
}

// withheld returns the number of jobs that were not released. The caller holds p.mu.
func (p *Pool[J]) withheld() int { return len(p.queue) - p.head - p.ready }

// ReleaseBut releases the jobs that were added so far in this turn, except own and the
// last job. It compares each of these jobs with own.
func (p *Pool[J]) ReleaseBut(own J) {
	p.mu.Lock()
	defer p.mu.Unlock()
	jobs := p.queue[len(p.queue)-p.withheld():]
	if len(jobs) == 0 || p.closed {
		return
	}
	n := len(jobs) - 1
	if i := slices.Index(jobs[:n], own); i >= 0 {
		n--
		jobs[i], jobs[n] = jobs[n], own
	}
	p.releaseNext(n)
}

// BeginTurn holds back the jobs that are added from now on.
func (p *Pool[J]) BeginTurn() { p.inTurn.Store(true) }

// Release releases the jobs that were added so far in this turn.
func (p *Pool[J]) Release() {
	if !p.fresh.Load() {
		return
	}
	p.mu.Lock()
	p.release()
	p.mu.Unlock()
}

// EndTurn releases the jobs. From now on Add releases jobs immediately. idle means that
// the dispatcher has nothing else to do; if there is a single job then, EndTurn runs the
// job instead of waking a worker.
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

// release releases all jobs, unless the pool is closed. The caller holds p.mu.
func (p *Pool[J]) release() {
	p.fresh.Store(false)
	if !p.closed {
		p.releaseNext(p.withheld())
	}
}

// releaseNext releases n more jobs, and wakes or starts as many workers as they justify. The
// caller holds p.mu.
func (p *Pool[J]) releaseNext(n int) {
	p.ready += n
	for want := (n + jobsPerWorker - 1) / jobsPerWorker; want > 0; want-- {
		switch {
		case p.idle > 0:
			p.idle--
			p.wake <- struct{}{} // has room: one slot per worker
		case p.workers < p.limit:
			p.workers++
			p.wg.Go(p.work)
		default:
			return // all are busy and will check again before they wait
		}
	}
}

// work is the body of a worker.
func (p *Pool[J]) work() {
	var mine [jobsPerWorker]J
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

// take moves ready jobs to mine. If there are none, the caller must wait for wake;
// if ok is false, it must end.
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

// keptCapacity is the capacity up to which an empty queue keeps its array.
const keptCapacity = 1024

// compact reuses the front of the queue once the jobs there are done.
func (p *Pool[J]) compact() {
	switch {
	case p.head == len(p.queue):
		p.head = 0
		if p.queue = p.queue[:0]; cap(p.queue) > keptCapacity {
			p.queue = nil
		}
	case p.head >= keptCapacity && p.head > len(p.queue)/2:
		n := copy(p.queue, p.queue[p.head:])
		clear(p.queue[n:])
		p.queue = p.queue[:n]
		p.head = 0
	}
}

// Close lets the workers finish the released jobs and waits until the workers have
// ended. Jobs that were not released, or are added later, are dropped.
func (p *Pool[J]) Close() {
	p.mu.Lock()
	p.closed = true
	for ; p.idle > 0; p.idle-- {
		p.wake <- struct{}{}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
