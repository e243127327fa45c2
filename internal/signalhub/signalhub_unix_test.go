//go:build unix

package signalhub

import (
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// raise sends sig to this process and returns when the channels of package signal
// have received it: a signal that is still pending would reach the next test.
func raise(t *testing.T, sig syscall.Signal) {
	t.Helper()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, sig)
	kill(t, sig)
	<-ch
	signal.Stop(ch) // waits until the delivery is complete
}

// kill sends sig to this process. If nothing else watches the signal, its default
// action ends the process. The caller waits until the signal has arrived.
func kill(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Error(err) // not Fatal: also called by other goroutines
	}
}

// inUse returns how many signals the hub watches.
func inUse() int {
	hub.Lock()
	defer hub.Unlock()
	return len(hub.signals)
}

func TestWatchersAreCalledInTheOrderInWhichTheyJoined(t *testing.T) {
	const watchers = 5
	var order []int // the hub calls one watcher at a time
	done := make(chan struct{})
	var cancels []func()
	for i := range watchers {
		cancels = append(cancels, Watch(func(os.Signal, uint64) {
			if order = append(order, i); i == watchers-1 {
				close(done)
			}
		}, syscall.SIGUSR1))
	}
	if got := inUse(); got != 1 {
		t.Errorf("signals in use = %d, want 1", got)
	}
	raise(t, syscall.SIGUSR1)
	<-done
	for _, cancel := range cancels {
		cancel()
	}
	if want := []int{0, 1, 2, 3, 4}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
	if got := inUse(); got != 0 {
		t.Errorf("signals in use after the last cancel = %d, want 0", got)
	}
}

func TestAWatcherThatNamesASignalTwiceIsCalledOnce(t *testing.T) {
	got := make(chan os.Signal, 10)
	cancel := Watch(func(sig os.Signal, _ uint64) { got <- sig }, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGUSR1)
	raise(t, syscall.SIGUSR1)
	first := <-got
	raise(t, syscall.SIGUSR2)
	second := <-got // a second call for the first signal would come before it
	cancel()
	if first != syscall.SIGUSR1 || second != syscall.SIGUSR2 || len(got) != 0 {
		t.Errorf("signals = %v, %v and %d more, want SIGUSR1, SIGUSR2", first, second, len(got))
	}
}

func TestNoWatcherIsCalledAfterItsCancelHasReturned(t *testing.T) {
	stay := Watch(func(os.Signal, uint64) {}, syscall.SIGUSR1) // so that the signal never kills
	defer stay()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				raise(t, syscall.SIGUSR1)
			}
		}
	})
	for range 2000 {
		canceled := false // written after cancel: the race detector also sees a late call
		cancel := Watch(func(os.Signal, uint64) {
			if canceled {
				t.Error("a watcher was called after its cancel")
			}
		}, syscall.SIGUSR1)
		cancel()
		canceled = true
	}
	close(stop)
	wg.Wait()
}

func TestAChannelOfAnotherPackageKeepsItsSignal(t *testing.T) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	Watch(func(os.Signal, uint64) {}, syscall.SIGUSR1)()
	kill(t, syscall.SIGUSR1) // would otherwise end the process
	<-ch
}

func TestAnIgnoredSignalStillHasNoEffectAfterTheLastWatcher(t *testing.T) {
	signal.Ignore(syscall.SIGUSR2)
	defer signal.Reset(syscall.SIGUSR2)
	got := make(chan os.Signal, 1)
	first := Watch(func(sig os.Signal, _ uint64) { got <- sig }, syscall.SIGUSR2)
	second := Watch(func(os.Signal, uint64) {}, syscall.SIGUSR2)
	raise(t, syscall.SIGUSR2)
	<-got
	first()
	if signal.Ignored(syscall.SIGUSR2) {
		t.Error("the signal is ignored while it is watched")
	}
	second()
	drain(sink)
	kill(t, syscall.SIGUSR2) // would otherwise end the process
	<-sink
	// The same holds for watchers and channels that come and go later.
	Watch(func(os.Signal, uint64) {}, syscall.SIGUSR2)()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR2)
	kill(t, syscall.SIGUSR2)
	<-ch
	signal.Stop(ch)
	drain(sink)
	kill(t, syscall.SIGUSR2)
	<-sink
}

// drain removes what ch holds.
func drain(ch chan os.Signal) {
	for len(ch) > 0 {
		<-ch
	}
}

func TestALaterChannelOfAnotherPackageKeepsItsSignal(t *testing.T) {
	for _, ignored := range []bool{false, true} {
		if ignored {
			signal.Ignore(syscall.SIGUSR1)
			defer signal.Reset(syscall.SIGUSR1)
		}
		ch := make(chan os.Signal, 1)
		cancel := Watch(func(os.Signal, uint64) {}, syscall.SIGUSR1)
		signal.Notify(ch, syscall.SIGUSR1)
		cancel()
		kill(t, syscall.SIGUSR1)
		<-ch
		signal.Stop(ch)
	}
}

func TestAllWatchersOfASignalReceiveTheNumberOfItsDelivery(t *testing.T) {
	got := make(chan uint64, 4)
	defer Watch(func(_ os.Signal, n uint64) { got <- n }, syscall.SIGUSR1, syscall.SIGUSR2)()
	defer Watch(func(_ os.Signal, n uint64) { got <- n }, syscall.SIGUSR1, syscall.SIGUSR2)()
	raise(t, syscall.SIGUSR1)
	first, again := <-got, <-got
	raise(t, syscall.SIGUSR2)
	second := <-got
	if first == 0 || again != first || second <= first {
		t.Errorf("the numbers are %d, %d and %d", first, again, second)
	}
}

func TestWatchersComeAndGoOnManyGoroutines(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		sigs := []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}[i%3:]
		wg.Go(func() {
			for range 300 {
				cancel := Watch(func(os.Signal, uint64) {}, sigs...)
				if i == 0 {
					raise(t, syscall.SIGUSR1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if got := inUse(); got != 0 {
		t.Errorf("signals in use = %d, want 0", got)
	}
}
