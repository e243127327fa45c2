package eventloop

import "sync"

// A bell wakes one goroutine. It has one slot: a ring that finds the goroutine busy is
// kept for its next wait.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// A gate is where the goroutine of a handle waits for the loop.
type gate struct {
	bell
	quit chan struct{} // closed when the handle ends
}

func newGate() gate { return gate{newBell(), make(chan struct{})} }

// await waits until ready, which is called with mu held, returns true. It must do so
// when the handle has ended. Each ring has it called again.
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
