package eventloop

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/onloop/eventloop/internal/signalhub"
)

// A SignalHandler calls a function on the loop for signals. It keeps the loop
// alive until it is stopped, unless it is unref'd. All methods may be called from
// any goroutine and from any callback.
type SignalHandler struct {
	handle
	f       func(sig os.Signal)
	onEvent atomic.Pointer[func(err error)]
	sigs    []os.Signal
	stopped atomic.Bool

	mu     sync.Mutex // OnSignal may race Stop, that of ClearSignals or of the end
	cancel func()     // guarded by mu; nil once stopped
}

// OnSignal arranges for f to be called on the loop when the process gets one of
// sigs (signal-handler). Several handlers, of one loop or of many, may watch one
// signal; those of a loop are called in the order in which they were made.
// Signals that follow each other faster than they can be delivered may be merged,
// but after the last one there is always a call.
//
// What was in force before for a signal, its default action or that it is
// ignored, is suspended while any handler watches it, and in force again
// afterwards. No sigs, a nil f, SIGKILL, SIGSTOP and what is no signal of the
// system are an error.
func (l *Loop) OnSignal(f func(sig os.Signal), sigs ...os.Signal) (*SignalHandler, error) {
	if f == nil {
		return nil, errNilFunc
	}
	if err := checkSignals(sigs); err != nil {
		return nil, err
	}
	h := &SignalHandler{f: f, sigs: append([]os.Signal(nil), sigs...)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := l.register(&h.handle, h, kindSignal, false); err != nil {
		return nil, err
	}
	h.cancel = signalhub.Watch(h.notify, sigs...)
	return h, nil
}

func checkSignals(sigs []os.Signal) error {
	if len(sigs) == 0 {
		return errors.New("eventloop: OnSignal without a signal")
	}
	for _, sig := range sigs {
		if n, ok := sig.(syscall.Signal); !ok || n <= 0 || n > maxSignal || n == syscall.SIGKILL || n == sigStop {
			return fmt.Errorf("eventloop: signal %v cannot be caught: %w", sig, syscall.EINVAL)
		}
	}
	return nil
}

// maxSignal is the largest number of a signal that package os/signal takes.
const maxSignal = 64

// notify is called by the hub. Post cannot block it.
func (h *SignalHandler) notify(sig os.Signal) {
	h.loop.Post(func() {
		if h.stopped.Load() {
			return
		}
		defer h.loop.caught(h.route())
		h.f(sig)
	})
}

// route returns where a panic of the callback goes.
func (h *SignalHandler) route() func(err error) {
	if f := h.onEvent.Load(); f != nil {
		return *f
	}
	return nil
}

// OnEvent sets the function that is told, on the loop, of a panic in the
// handler's callback if Config.CatchPanics is set; without one it is
// Config.EventHandler. It returns h.
func (h *SignalHandler) OnEvent(f func(err error)) *SignalHandler {
	if f == nil {
		h.onEvent.Store(nil)
	} else {
		h.onEvent.Store(&f)
	}
	return h
}

// Stop ends the handler (free-signal-handler). If it is called on the loop, the
// callback does not run any more after it. A second call does nothing.
func (h *SignalHandler) Stop() {
	h.stopped.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cancel != nil {
		h.cancel()
		h.cancel = nil
		h.loop.unregister(&h.handle)
	}
}

func (h *SignalHandler) terminate() { h.Stop() }
func (h *SignalHandler) shutdown()  { h.Stop() }

func (h *SignalHandler) describe() string {
	names := make([]string, len(h.sigs))
	for i, sig := range h.sigs {
		names[i] = sig.String()
	}
	return strings.Join(names, ", ")
}

// ClearSignals stops all signal handlers of the loop (clear-signal-handlers).
func (l *Loop) ClearSignals() {
	l.mu.Lock()
	var all []*SignalHandler
	for h := range l.handles.all {
		if sh, ok := h.owner.(*SignalHandler); ok {
			all = append(all, sh)
		}
	}
	l.mu.Unlock()
	for _, h := range all {
		h.Stop()
	}
}
