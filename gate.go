package eventloop

import "sync"

// A wakeChan wakes one goroutine. It has one slot: if the goroutine is busy at the call of
// notify, its next wait returns at once.
type wakeChan chan struct{}

func newWakeChan() wakeChan { return make(wakeChan, 1) }

func (c wakeChan) notify() {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A gate makes the goroutine of a handle, which reads or receives, wait for the loop, which
// delivers.
type gate struct {
	wakeChan
	quit chan struct{} // closed when the handle ends

	mu      sync.Mutex // guards the following, and more of the handle
	paused  bool
	stopped bool
	calling bool // the handle is calling a function of the application
}

func newGate() gate { return gate{wakeChan: newWakeChan(), quit: make(chan struct{})} }

// await waits until ready returns true. It calls ready with mu held, at first and after each
// notify. ready must return true when the handle has ended.
func (g *gate) await(ready func() bool) {
	for {
		g.mu.Lock()
		ok := ready()
		g.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-g.wakeChan:
		case <-g.quit:
		}
	}
}

func (g *gate) pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused = true
}

// resume undoes pause. If the handle holds something, resume posts deliver to l.
func (g *gate) resume(l *Loop, holds func() bool, deliver func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.paused {
		return
	}
	g.paused = false
	if holds() {
		l.Post(deliver)
	}
	g.notify()
}
