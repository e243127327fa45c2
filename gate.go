package eventloop

import "sync"

// A bell wakes one goroutine. It has one slot: if the goroutine is busy when the bell rings,
// its next wait returns at once.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// A gate makes the goroutine of a handle, which reads or receives, wait for the loop, which
// delivers.
type gate struct {
	bell
	quit chan struct{} // closed when the handle ends

	mu      sync.Mutex // guards the following, and more of the handle
	paused  bool
	stopped bool
	calling bool // the handle is calling a function of the application
}

func newGate() gate { return gate{bell: newBell(), quit: make(chan struct{})} }

// await waits until ready returns true. It calls ready with mu held, at first and after each
// ring. ready must return true when the handle has ended.
func (g *gate) await(ready func() bool) {
	for {
		g.mu.Lock()
		ok := ready()
		g.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-g.bell:
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
	g.ring()
}
