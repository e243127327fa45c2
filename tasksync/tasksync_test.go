package tasksync_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
	"github.com/onloop/eventloop/tasksync"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// virtually runs a loop in virtual time to its natural end.
func virtually(t *testing.T, start func(l *eventloop.Loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			start(l)
			return nil
		})
		if err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func wantPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if _, ok := recover().(error); !ok {
			t.Errorf("%s does not panic with an error", what)
		}
	}()
	f()
}

func TestAMutexExcludesOtherTasksWhileItsHolderIsSuspended(t *testing.T) {
	var m tasksync.Mutex
	var steps []string
	virtually(t, func(l *eventloop.Loop) {
		for i := range 3 {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				if err := m.Lock(k); err != nil {
					return err
				}
				defer m.Unlock()
				steps = append(steps, fmt.Sprint("in ", i))
				err := k.Sleep(time.Second)
				steps = append(steps, fmt.Sprint("out ", i))
				return err
			})
		}
	})
	if want := []string{"in 0", "out 0", "in 1", "out 1", "in 2", "out 2"}; !slices.Equal(steps, want) {
		t.Errorf("steps = %v, want %v", steps, want)
	}
}

func TestLockOfATaskWhoseContextEndsReturnsTheCauseAndLeavesTheQueueInOrder(t *testing.T) {
	var m tasksync.Mutex
	cause := errors.New("enough")
	var order []int
	virtually(t, func(l *eventloop.Loop) {
		m.TryLock()
		ctx, cancel := context.WithCancelCause(context.Background())
		for i := range 3 {
			ctx := ctx
			if i != 1 {
				ctx = context.Background()
			}
			l.Go(ctx, func(k *eventloop.Task) error {
				err := m.Lock(k)
				if i == 1 {
					wantErr(t, "Lock", err, cause)
					return nil
				}
				order = append(order, i)
				m.Unlock()
				return err
			})
		}
		l.AfterFunc(time.Second, func() { cancel(cause) })
		l.AfterFunc(2*time.Second, m.Unlock)
	})
	if !slices.Equal(order, []int{0, 2}) {
		t.Errorf("locked by %v, want 0 and 2", order)
	}
	if !m.TryLock() {
		t.Error("the mutex is locked at the end")
	}
}

func TestAMutexGoesToTheNextTaskIfTheFirstOneStopsWaiting(t *testing.T) {
	var m tasksync.Mutex
	locked := 0
	virtually(t, func(l *eventloop.Loop) {
		m.TryLock()
		ctx, cancel := context.WithCancel(context.Background())
		l.Go(ctx, func(k *eventloop.Task) error {
			wantErr(t, "Lock", m.Lock(k), context.Canceled)
			return nil
		})
		l.Go(context.Background(), func(k *eventloop.Task) error {
			defer m.Unlock()
			err := m.Lock(k)
			locked++
			return err
		})
		l.AfterFunc(time.Second, func() {
			cancel()
			synctest.Wait() // the first task is about to be woken with an error
			m.Unlock()      // and now has the mutex as well
		})
	})
	if locked != 1 || !m.TryLock() {
		t.Errorf("the second task locked the mutex %d times, want 1, and it must be unlocked at the end", locked)
	}
}

func TestTheEndOfTheLoopEndsLockAndAnotherLoopContinues(t *testing.T) {
	var m tasksync.Mutex
	m.TryLock()
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				wantErr(t, "Lock", m.Lock(k), eventloop.ErrLoopClosed)
				wantErr(t, "Lock after the end", m.Lock(k), eventloop.ErrLoopClosed)
				return nil
			})
			l.AfterFunc(time.Second, l.Stop)
			return nil
		})
	})
	m.Unlock()
	virtually(t, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error { return m.Lock(k) }).Then(func(_ struct{}, err error) {
			wantErr(t, "Lock", err, nil)
		})
	})
}

func TestAMutexThatIsFirstUsedAtTheEndOfALoopServesOthers(t *testing.T) {
	var m tasksync.Mutex
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				k.Sleep(time.Hour)
				wantErr(t, "Lock", m.Lock(k), eventloop.ErrLoopClosed)
				return nil
			})
			l.AfterFunc(time.Second, l.Stop)
			return nil
		})
	})
	virtually(t, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error { return m.Lock(k) }).Then(func(_ struct{}, err error) {
			wantErr(t, "Lock", err, nil)
		})
	})
}

func TestTasksOfSeveralLoopsShareAMutex(t *testing.T) {
	var m tasksync.Mutex
	count := 0 // guarded by m, as the race detector confirms
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				for range 8 {
					l.Go(context.Background(), func(k *eventloop.Task) error {
						for range 50 {
							if err := m.Lock(k); err != nil {
								return err
							}
							n := count
							k.Yield()
							count = n + 1
							m.Unlock()
						}
						return nil
					})
				}
				return nil
			})
			wantErr(t, "Run", err, nil)
		})
	}
	wg.Wait()
	if count != 4*8*50 {
		t.Errorf("count = %d, want %d", count, 4*8*50)
	}
}

func TestMisuseIsAnErrorOrAPanic(t *testing.T) {
	var m tasksync.Mutex
	var c tasksync.Cond
	s := tasksync.NewSemaphore(2)
	wantPanic(t, "Unlock of an unlocked mutex", m.Unlock)
	wantPanic(t, "a second Unlock", func() { m.TryLock(); m.Unlock(); m.Unlock() })
	wantPanic(t, "NewSemaphore(-1)", func() { tasksync.NewSemaphore(-1) })
	wantPanic(t, "Release of what was not taken", func() { s.Release(1) })
	wantPanic(t, "Release(-1)", func() { s.Release(-1) })
	wantPanic(t, "TryAcquire(-1)", func() { s.TryAcquire(-1) })
	wantPanic(t, "Acquire(-1)", func() { s.Acquire(nil, -1) })
	wantErr(t, "Lock(nil)", m.Lock(nil), eventloop.ErrNotOnTask)
	wantErr(t, "Acquire(nil)", s.Acquire(nil, 1), eventloop.ErrNotOnTask)
	wantErr(t, "Wait(nil)", c.Wait(nil), eventloop.ErrNotOnTask)
	virtually(t, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			if err := s.Acquire(k, 3); err == nil {
				t.Error("Acquire of more units than the semaphore has returned nil")
			}
			l.Post(func() {
				wantErr(t, "Lock in a callback", m.Lock(k), eventloop.ErrNotOnTask)
				wantErr(t, "Acquire in a callback", s.Acquire(k, 1), eventloop.ErrNotOnTask)
				wantErr(t, "Wait in a callback", c.Wait(k), eventloop.ErrNotOnTask)
			})
			return k.Sleep(time.Second)
		})
	})
	if !m.TryLock() || !s.TryAcquire(2) {
		t.Error("a failed call has taken units")
	}
}

func TestLockingAFreeMutexLetsTheLoopRun(t *testing.T) {
	var m tasksync.Mutex
	ran := false
	virtually(t, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			l.Post(func() { ran = true })
			for !ran {
				if err := m.Lock(k); err != nil {
					return err
				}
				m.Unlock()
			}
			return nil
		})
	})
}

func TestASmallAcquireDoesNotOvertakeALargeOne(t *testing.T) {
	s := tasksync.NewSemaphore(3)
	var order []int
	virtually(t, func(l *eventloop.Loop) {
		s.TryAcquire(2)
		for _, n := range []int{3, 1} {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				defer s.Release(n)
				err := s.Acquire(k, n)
				order = append(order, n)
				return err
			})
		}
		l.AfterFunc(time.Second, func() {
			if s.TryAcquire(1) || len(order) > 0 {
				t.Errorf("a later call was served first; order %v", order)
			}
			s.Release(2)
		})
	})
	if !slices.Equal(order, []int{3, 1}) {
		t.Errorf("order = %v, want 3 and then 1", order)
	}
}

func TestWhenALargeAcquireStopsWaitingTheNextOnesContinue(t *testing.T) {
	s := tasksync.NewSemaphore(3)
	acquired := time.Duration(0)
	virtually(t, func(l *eventloop.Loop) {
		start := time.Now()
		s.TryAcquire(1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		l.OnExit(cancel)
		l.Go(ctx, func(k *eventloop.Task) error {
			wantErr(t, "Acquire", s.Acquire(k, 3), context.DeadlineExceeded)
			return nil
		})
		l.Go(context.Background(), func(k *eventloop.Task) error {
			err := s.Acquire(k, 2)
			acquired = time.Since(start)
			return err
		})
	})
	if acquired != time.Second {
		t.Errorf("acquired after %v, want 1s", acquired)
	}
}

// A semaphore serves calls in their order while it has enough units, whatever is released
// or canceled at the same time.
func TestASemaphoreBehavesLikeItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(0, 4).Draw(rt, "size")
		synctest.Test(t, func(t *testing.T) {
			l := eventloop.New(nil)
			release := l.Hold()
			ended := make(chan error)
			go func() { ended <- l.Run(context.Background()) }()
			newModel(l, size).run(rt)
			release()
			l.Stop()
			if err := <-ended; err != nil {
				rt.Fatalf("Run returned %v", err)
			}
		})
	})
}

type claim struct {
	n       int
	cancel  context.CancelFunc
	granted bool
	failed  bool
}

type model struct {
	l       *eventloop.Loop
	s       *tasksync.Semaphore
	free    int
	claims  []*claim // the state of the semaphore
	waiting []int    // the state of the model
	holding []int
}

func newModel(l *eventloop.Loop, size int) *model {
	return &model{l: l, s: tasksync.NewSemaphore(size), free: size}
}

func (m *model) run(rt *rapid.T) {
	for range rapid.IntRange(1, 30).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"acquire", "try", "release", "cancel"}).Draw(rt, "step") {
		case "acquire":
			m.acquire(rapid.IntRange(0, m.s0()).Draw(rt, "n"))
		case "try":
			n := rapid.IntRange(0, m.s0()).Draw(rt, "n")
			want := len(m.waiting) == 0 && n <= m.free
			if got := m.s.TryAcquire(n); got != want {
				rt.Fatalf("TryAcquire(%d) = %v, want %v", n, got, want)
			} else if got {
				m.s.Release(n)
			}
		case "release":
			if len(m.holding) > 0 {
				i := rapid.IntRange(0, len(m.holding)-1).Draw(rt, "which")
				n := m.claims[m.holding[i]].n
				m.holding = slices.Delete(m.holding, i, i+1)
				m.free += n
				m.s.Release(n)
			}
		case "cancel":
			if len(m.waiting) > 0 {
				i := rapid.IntRange(0, len(m.waiting)-1).Draw(rt, "which")
				m.claims[m.waiting[i]].cancel()
				m.waiting = slices.Delete(m.waiting, i, i+1)
			}
		}
		m.grant()
		synctest.Wait()
		m.compare(rt)
	}
}

// s0 is the size of the semaphore.
func (m *model) s0() int {
	n := m.free
	for _, i := range m.holding {
		n += m.claims[i].n
	}
	return n
}

func (m *model) acquire(n int) {
	c := &claim{n: n}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	m.waiting = append(m.waiting, len(m.claims))
	m.claims = append(m.claims, c)
	m.l.Go(ctx, func(k *eventloop.Task) error {
		err := m.s.Acquire(k, n)
		c.granted, c.failed = err == nil, err != nil
		return nil
	})
	synctest.Wait()
}

func (m *model) grant() {
	for len(m.waiting) > 0 && m.claims[m.waiting[0]].n <= m.free {
		m.free -= m.claims[m.waiting[0]].n
		m.holding = append(m.holding, m.waiting[0])
		m.waiting = m.waiting[1:]
	}
}

func (m *model) compare(rt *rapid.T) {
	for i, c := range m.claims {
		if slices.Contains(m.holding, i) && !c.granted || slices.Contains(m.waiting, i) && (c.granted || c.failed) {
			rt.Fatalf("claim %d for %d is granted: %v, failed: %v; model: held by %v, wanted by %v, %d free",
				i, c.n, c.granted, c.failed, m.holding, m.waiting, m.free)
		}
	}
}

func TestSignalWakesTheTaskThatHasWaitedLongestAndBroadcastAll(t *testing.T) {
	var c tasksync.Cond
	var woken []int
	virtually(t, func(l *eventloop.Loop) {
		for i := range 4 {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				err := c.Wait(k)
				woken = append(woken, i)
				return err
			})
		}
		l.AfterFunc(time.Second, func() { c.Signal() })
		l.AfterFunc(2*time.Second, func() {
			if !slices.Equal(woken, []int{0}) {
				t.Errorf("Signal woke %v, want the first", woken)
			}
			c.Broadcast()
		})
		l.AfterFunc(3*time.Second, func() { c.Signal(); c.Broadcast() }) // without waiting tasks
	})
	if !slices.Equal(woken, []int{0, 1, 2, 3}) {
		t.Errorf("woken: %v, want all in order", woken)
	}
}

func TestASignalForATaskThatStopsWaitingWakesTheNext(t *testing.T) {
	var c tasksync.Cond
	woken := 0
	virtually(t, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(context.Background())
		l.Go(ctx, func(k *eventloop.Task) error {
			wantErr(t, "Wait", c.Wait(k), context.Canceled)
			return nil
		})
		l.Go(context.Background(), func(k *eventloop.Task) error {
			err := c.Wait(k)
			woken++
			return err
		})
		l.AfterFunc(time.Second, func() {
			cancel()
			synctest.Wait()
			c.Signal()
		})
	})
	if woken != 1 {
		t.Errorf("the second task was woken %d times, want 1", woken)
	}
}
