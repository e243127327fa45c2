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

// A SignalHandler calls a function on the loop for signals. It keeps the loop alive
// until it is stopped, unless it is unref'd; [Loop.Shutdown] unrefs it. It stays
// installed until Run is about to return, so a signal with a handler never kills the
// process while connections are drained or exit callbacks run. All methods may be
// called from any goroutine and from any callback.
type SignalHandler struct {
	handle
	f       func(sig os.Signal)
	onEvent atomic.Pointer[func(err error)]
	sigs    []os.Signal
	stopped atomic.Bool

	mu     sync.Mutex // OnSignal may race with Stop, from ClearSignals or from the end of the loop
	cancel func()     // guarded by mu; nil once stopped
}

// OnSignal arranges for f to be called on the loop when the process receives one of
// sigs (signal-handler). Several handlers, of one loop or of many, may watch the same
// signal; the handlers of one loop are called in the order in which they were created.
// Signals that arrive faster than they can be delivered may be merged, but f is always
// called after the last one.
//
// While any handler watches a signal, its default action is suspended. The default
// action returns when the last handler stops, unless a channel of signal.Notify also
// watches the signal. A signal that was ignored before the first handler still has no
// effect after the last one, but signal.Ignored then reports false, and programs
// started after that do not inherit the setting. OnSignal returns [ErrNotRunning]
// before Run, [ErrLoopClosed] after the end of the loop, and an error if sigs is empty,
// if f is nil, or if one of sigs is SIGKILL, SIGSTOP or not a signal of the system.
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
		return errors.New("eventloop: OnSignal needs at least one signal")
	}
	for _, sig := range sigs {
		if n, ok := sig.(syscall.Signal); !ok || n <= 0 || n > maxSignal || n == syscall.SIGKILL || n == sigStop {
			return fmt.Errorf("eventloop: signal %v cannot be caught: %w", sig, syscall.EINVAL)
		}
	}
	return nil
}

// maxSignal is the largest signal number that package os/signal accepts.
const maxSignal = 64

// notify is called by the signal hub. It does not block the hub, because Post never blocks.
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

// caught is deferred around the callback. It chooses the route after the panic, because
// the callback may have stopped the handler.
func (h *SignalHandler) caught() {
	if v := recover(); v != nil {
		h.loop.panicEvent(newPanicError(v), h.route())
	}
}

// route returns the function that receives a panic of the callback, or nil.
func (h *SignalHandler) route() func(err error) {
	f := h.onEvent.Load()
	if f == nil || h.stopped.Load() {
		return nil
	}
	return *f
}

// OnEvent sets the function that receives a panic of the handler's callback, as a
// [*PanicError], if Config.CatchPanics is set. It is called on the loop. Without it, or
// if the handler was stopped before the panic, the panic goes to Config.EventHandler. A
// second call replaces f.
func (h *SignalHandler) OnEvent(f func(err error)) {
	if f == nil {
		h.onEvent.Store(nil)
	} else {
		h.onEvent.Store(&f)
	}
}

// Stop ends the handler (free-signal-handler). When it is called on the loop, neither
// the callback nor the function of OnEvent runs afterwards. A second call has no
// effect.
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
	for _, h := range owners[*SignalHandler](l) {
		h.Stop()
	}
}
