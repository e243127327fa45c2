// Package signalhub lets any number of watchers share a signal, with one channel
// and one goroutine a signal in use, and puts back what was in force before when
// the last watcher goes.
package signalhub

import (
	"os"
	"os/signal"
	"slices"
	"sync"
)

var hub = struct {
	sync.Mutex
	signals  map[os.Signal]*line
	delivery uint64 // number of the last one
}{signals: make(map[os.Signal]*line)}

// A line is a signal in use.
type line struct {
	ch       chan os.Signal
	done     chan struct{} // closed by forward when it ends
	ignored  bool          // before the first watcher came
	watchers []*watcher    // guarded by hub
}

type watcher struct {
	f func(sig os.Signal, delivery uint64)
}

// sink takes signals that were ignored before the first watcher came. Nothing
// reads it: package signal drops what a channel has no room for.
var sink = make(chan os.Signal, 1)

// Watch calls f, which must not block nor call this package, for each of sigs that
// arrives, until cancel has returned. Watchers of one signal are called in the
// order in which they came, with the number of the delivery, which is the same for
// all of them and greater than zero. When cancel returns, and there is no other
// watcher, the default action of the signal is in force again; if it was ignored
// it has no effect.
func Watch(f func(sig os.Signal, delivery uint64), sigs ...os.Signal) (cancel func()) {
	w := &watcher{f}
	hub.Lock()
	defer hub.Unlock()
	var mine []os.Signal
	for _, sig := range sigs {
		if slices.Contains(mine, sig) {
			continue
		}
		mine = append(mine, sig)
		join(sig, w)
	}
	return func() { leave(w, mine) }
}

// join adds w to the line of sig. The caller holds hub.
func join(sig os.Signal, w *watcher) {
	ln := hub.signals[sig]
	if ln == nil {
		ln = &line{
			// One slot is enough not to miss that a signal came after the last
			// delivery; a few keep apart what comes in a burst.
			ch:      make(chan os.Signal, 8),
			done:    make(chan struct{}),
			ignored: signal.Ignored(sig),
		}
		hub.signals[sig] = ln
		signal.Notify(ln.ch, sig)
		go ln.forward()
	}
	ln.watchers = append(ln.watchers, w)
}

func (ln *line) forward() {
	defer close(ln.done)
	for sig := range ln.ch {
		hub.Lock() // held during f, so that none is called after its cancel
		hub.delivery++
		for _, w := range ln.watchers {
			w.f(sig, hub.delivery)
		}
		hub.Unlock()
	}
}

// leave takes w from its lines, and ends those where it was the last.
func leave(w *watcher, sigs []os.Signal) {
	hub.Lock()
	var ended []*line
	for _, sig := range sigs {
		ln := hub.signals[sig]
		ln.watchers = slices.DeleteFunc(ln.watchers, func(v *watcher) bool { return v == w })
		if len(ln.watchers) > 0 {
			continue
		}
		delete(hub.signals, sig)
		// Stop restores the default, also of signals that the process ignored by
		// signal.Ignore. Ignoring it again would take the signal away from the
		// channels of other packages, which cannot be told from ours. So it gets
		// a channel that drops it.
		if ln.ignored {
			signal.Notify(sink, sig)
		}
		signal.Stop(ln.ch)
		close(ln.ch) // nothing is sent any more: both wait for a delivery that goes on
		ended = append(ended, ln)
	}
	hub.Unlock()
	for _, ln := range ended {
		<-ln.done
	}
}
