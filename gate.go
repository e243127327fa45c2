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

// A gate makes the goroutine of a handle wait for the loop.
type gate struct {
	bell
	quit chan struct{} // closed when the handle ends
}

func newGate() gate { return gate{newBell(), make(chan struct{})} }

// await waits until ready returns true. It calls ready with mu held, at first and after each
// ring. ready must return true when the handle has ended.
func (g *gate) await(mu *sync.Mutex, ready func() bool) {
	for {
		mu.Lock()
		ok := ready()
		mu.Unlock()
		if ok {
			return
		}
		select {
		case <-g.bell:
		case <-g.quit:
		}
	}
}
