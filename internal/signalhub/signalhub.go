// Package signalhub lets any number of watchers share a signal. It uses one channel
// and one goroutine per signal in use. When the last watcher of a signal leaves, it
// restores the previous behavior.
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
	delivery uint64 // number of the last delivery
}{signals: make(map[os.Signal]*line)}

// A line is a signal in use.
type line struct {
	ch       chan os.Signal
	done     chan struct{} // closed by forward when it ends
	ignored  bool          // before the first watcher joined
	watchers []*watcher    // guarded by hub
}

type watcher struct {
	f func(sig os.Signal, delivery uint64)
}

// sink receives signals that were ignored before the first watcher joined. Nothing
// reads it: package signal drops signals when a channel has no room.
var sink = make(chan os.Signal, 1)

// Watch calls f for each of sigs that arrives, until cancel has returned. f must
// not block or call this package. Watchers of one signal are called in the order in
// which they joined, with the number of the delivery, which is the same for all of
// them and greater than zero. When cancel returns and there is no other watcher,
// the default action of the signal is restored; if the signal was ignored before,
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
			// One slot is enough to notice that a signal arrived after the last
			// delivery; a few slots keep the signals of a burst separate.
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
		hub.Lock() // held during f, so that no watcher is called after its cancel
		hub.delivery++
		for _, w := range ln.watchers {
			w.f(sig, hub.delivery)
		}
		hub.Unlock()
	}
}

// leave removes w from its lines, and ends the lines that have no other watcher.
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
		// Stop restores the default action, even for signals that the process
		// ignored with signal.Ignore. Ignoring the signal again would take it away
		// from the channels of other packages, which this package cannot
		// distinguish from its own. So the signal gets a channel that drops it.
		if ln.ignored {
			signal.Notify(sink, sig)
		}
		signal.Stop(ln.ch)
		close(ln.ch) // nothing is sent any more: both calls above wait for a delivery in progress
		ended = append(ended, ln)
	}
	hub.Unlock()
	for _, ln := range ended {
		<-ln.done
	}
}
