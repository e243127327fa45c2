package writers

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/leaktest"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

type job struct{ run func() }

func (j *job) Flush() { j.run() }

func newPool(limit int) *Pool[*job] {
	p := &Pool[*job]{}
	p.Init(limit)
	return p
}

func TestJobsOfATurnWaitForItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(2)
		defer p.Close()
		var ran atomic.Int32
		p.BeginTurn()
		for range 20 {
			p.Add(&job{func() { ran.Add(1) }})
		}
		synctest.Wait()
		if n := ran.Load(); n != 0 {
			t.Errorf("%d jobs ran in the turn, want none", n)
		}
		p.Release()
		synctest.Wait()
		if n := ran.Load(); n != 20 {
			t.Errorf("%d jobs ran after Release, want 20", n)
		}
		p.Add(&job{func() { ran.Add(1) }})
		p.EndTurn(false)
		p.Add(&job{func() { ran.Add(1) }})
		synctest.Wait()
		if n := ran.Load(); n != 22 {
			t.Errorf("%d jobs ran after EndTurn, want 22", n)
		}
	})
}

func TestReleaseButKeepsOneJobAndTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(1)
		defer p.Close()
		var got []int
		jobs := make([]*job, 5)
		p.BeginTurn()
		for i := range jobs {
			jobs[i] = &job{func() { got = append(got, i) }}
			p.Add(jobs[i])
		}
		p.ReleaseBut(jobs[1])
		synctest.Wait()
		if want := []int{0, 3, 2}; !slices.Equal(got, want) {
			t.Errorf("jobs %v ran in the turn, want %v", got, want)
		}
		p.ReleaseBut(&job{})
		synctest.Wait()
		if want := []int{0, 3, 2, 1}; !slices.Equal(got, want) {
			t.Errorf("jobs %v ran in the turn, want %v", got, want)
		}
		p.EndTurn(false)
		synctest.Wait()
		if want := []int{0, 3, 2, 1, 4}; !slices.Equal(got, want) {
			t.Errorf("jobs %v ran, want %v", got, want)
		}
	})
}

func TestABatchIsSharedByWorkersUpToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(3)
		defer p.Close()
		gate := make(chan struct{})
		var running atomic.Int32
		p.BeginTurn()
		for range 10 * jobsPerWorker {
			p.Add(&job{func() { running.Add(1); <-gate }})
		}
		p.EndTurn(false)
		synctest.Wait()
		if n := running.Load(); n != 3 {
			t.Errorf("%d jobs run at a time, want 3", n)
		}
		close(gate)
		synctest.Wait()
		if n := running.Load(); n != 10*jobsPerWorker {
			t.Errorf("%d jobs ran, want %d", n, 10*jobsPerWorker)
		}
	})
}

func TestAnIdleDispatcherRunsASingleJobItself(t *testing.T) {
	for _, test := range []struct {
		name string
		jobs int
		idle bool
		here int // jobs that EndTurn runs itself
	}{
		{"one", 1, true, 1},
		{"two", 2, true, 0},
		{"one of a busy dispatcher", 1, false, 0},
		{"none", 0, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(2)
				defer p.Close()
				self := goid.Current()
				var here, ran atomic.Int32
				p.BeginTurn()
				for range test.jobs {
					p.Add(&job{func() {
						ran.Add(1)
						if goid.Current() == self {
							here.Add(1)
						}
					}})
				}
				p.EndTurn(test.idle)
				synctest.Wait()
				if int(here.Load()) != test.here || int(ran.Load()) != test.jobs {
					t.Errorf("%d jobs ran here and %d in all, want %d and %d", here.Load(), ran.Load(), test.here, test.jobs)
				}
			})
		})
	}
}

func TestJobsStartInTheOrderOfAdding(t *testing.T) {
	p := newPool(1)
	var got []int
	for i := range 5000 {
		p.Add(&job{func() { got = append(got, i) }})
	}
	p.Close()
	for i, v := range got {
		if i != v {
			t.Fatalf("job %d ran in place %d", v, i)
		}
	}
	if len(got) != 5000 {
		t.Errorf("%d jobs ran, want 5000", len(got))
	}
}

func TestEveryJobAddedFromManyGoroutinesRunsOnce(t *testing.T) {
	p := newPool(4)
	var ran atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				p.Add(&job{func() { ran.Add(1) }})
			}
		})
	}
	for range 100 {
		p.BeginTurn()
		p.Release()
		p.EndTurn(false)
	}
	wg.Wait()
	p.Close()
	if n := ran.Load(); n != 16000 {
		t.Errorf("%d jobs ran, want 16000", n)
	}
}

// Add and the ends of a turn synchronize without a lock: a job that is added at the same
// time must not be forgotten.
func TestNoJobIsForgottenWhenATurnBeginsOrEndsAtTheSameTime(t *testing.T) {
	p := newPool(2)
	defer p.Close()
	ran := make(chan struct{}, 1)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				p.BeginTurn()
				p.EndTurn(false)
			}
		}
	}()
	run := &job{func() { ran <- struct{}{} }}
	for range 20_000 {
		p.Add(run)
		<-ran // this test continues with more turns, but in a loop that sleeps the next may never come
	}
	close(stop)
	<-stopped
	for range 2000 {
		// Only one turn, and no later release.
		go func() {
			p.BeginTurn()
			p.EndTurn(false)
		}()
		p.Add(run)
		<-ran
	}
}

// The model is two numbers: the jobs that were added, and those that are held back. When
// the pool is at rest, the others have run. The numbers of jobs lie on both sides of the
// jobs that one worker takes at a time, and that all of them take.
func TestAPoolRunsAllJobsThatAreNotHeldBack(t *testing.T) {
	some := rapid.OneOf(rapid.IntRange(1, 3), rapid.IntRange(jobsPerWorker-1, jobsPerWorker+1), rapid.IntRange(1, 5*jobsPerWorker+1))
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(rt, "limit")
		ops := rapid.SliceOfN(rapid.SampledFrom([]string{"add", "add", "begin", "release", "release but", "end", "end idle", "block", "unblock", "wait"}), 1, 60).Draw(rt, "ops")
		counts := make([]int, len(ops))
		for i := range counts {
			counts[i] = some.Draw(rt, "n")
		}
		var wrong []string
		synctest.Test(t, func(*testing.T) {
			p := newPool(limit)
			defer p.Close()
			var ran atomic.Int32
			var gate atomic.Pointer[chan struct{}]
			added, withheld, inTurn := 0, 0, false
			unblock := func() {
				if g := gate.Swap(nil); g != nil {
					close(*g)
				}
			}
			run := &job{func() {
				if g := gate.Load(); g != nil {
					<-*g
				}
				ran.Add(1)
			}}
			settle := func() {
				unblock()
				synctest.Wait()
				if got := int(ran.Load()); got != added-withheld {
					wrong = append(wrong, fmt.Sprintf("%d jobs ran, want %d of %d", got, added-withheld, added))
				}
			}
			for i, op := range ops {
				switch op {
				case "add":
					for range counts[i] {
						if added++; inTurn {
							withheld++
						}
						if n := p.Add(run); n != withheld {
							wrong = append(wrong, fmt.Sprintf("Add returns %d, want %d", n, withheld))
						}
					}
				case "begin":
					p.BeginTurn()
					inTurn = true
				case "release":
					p.Release()
					withheld = 0
				case "release but":
					p.ReleaseBut(run)
					withheld = min(withheld, 2) // the last, and one of the others: they are all the same
				case "end", "end idle":
					if op == "end idle" {
						unblock() // the job may run here
					}
					p.EndTurn(op == "end idle")
					inTurn, withheld = false, 0
				case "block":
					g := make(chan struct{})
					gate.CompareAndSwap(nil, &g)
				case "unblock":
					unblock()
				case "wait":
					settle()
				}
			}
			p.EndTurn(false)
			withheld = 0
			settle()
		})
		if len(wrong) > 0 {
			rt.Fatalf("limit %d, %v %v: %v", limit, ops, counts, wrong)
		}
	})
}

func TestAddAfterCloseIsDropped(t *testing.T) {
	p := newPool(1)
	p.Close()
	p.Add(&job{func() { t.Error("a job ran after Close") }})
	p.Close()
}
