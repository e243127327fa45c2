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
// alive until it is stopped, unless it is unref'd, as [Loop.Shutdown] does. It
// stays installed until Run is about to return, so a signal with a handler never
// ends the process while connections are drained or exit callbacks run. All
// methods may be called from any goroutine and from any callback.
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
// The default action of a signal is suspended while any handler watches it, and in
// force again afterwards, unless a channel of signal.Notify watches it too. A
// signal that was ignored before the first handler has no effect after the last
// one either; signal.Ignored says false, though, and programs that are started
// then do not inherit it. No sigs, a nil f, SIGKILL, SIGSTOP and what is no signal of the
// system are an error.
func (l *Loop) OnSignal(f func(sig os.Signal), sigs ...os.Signal) (*SignalHandler, error) {
	if f == nil {
		return nil, errNilFunc
	}
	if err := checkSignals(sigs); err != nil {
		return nil, err
	}
	h := &SignalHandler{f: f, sigs: append([]os.Signal(nil), sigs...)}
	h.unref = l.isShuttingDown()
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
func (h *SignalHandler) notify(sig os.Signal, delivery uint64) {
	l := h.loop
	l.Post(func() {
		if h.stopped.Load() {
			return
		}
		l.delivery = delivery
		defer func() { l.delivery = 0 }()
		defer h.caught()
		h.f(sig)
	})
}

// caught is deferred around the callback. Only after a panic is it known whether
// the callback has stopped the handler.
func (h *SignalHandler) caught() {
	if v := recover(); v != nil {
		h.loop.panicEvent(newPanicError(v), h.route())
	}
}

// route returns the function that gets a panic of the callback, or nil.
func (h *SignalHandler) route() func(err error) {
	f := h.onEvent.Load()
	if f == nil || h.stopped.Load() {
		return nil
	}
	return *f
}

// OnEvent sets the function that is called on the loop with the panic of the
// handler's callback, a [*PanicError], if Config.CatchPanics is set. Without one,
// or if the handler was stopped before the panic, Config.EventHandler gets it.
// A second call replaces f.
func (h *SignalHandler) OnEvent(f func(err error)) {
	if f == nil {
		h.onEvent.Store(nil)
	} else {
		h.onEvent.Store(&f)
	}
}

// Stop ends the handler (free-signal-handler). When it is called on the loop,
// neither the callback nor that of OnEvent runs after it. A second call does
// nothing.
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
func (h *SignalHandler) shutdown()  { h.Unref() }

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
