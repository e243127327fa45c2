package eventloop

import (
	"fmt"
	"runtime"
)

// An origin is where an operation comes from, for the report of its failure.
type origin struct {
	kind kind
	fn   uintptr // of the function that it runs; zero: none
	at   uintptr // where it was started; zero: not known
}

// callSite returns where the function that calls callSite was called from, for an
// origin. What it costs (0.2 µs) cannot be seen in what starting a task takes.
func callSite() uintptr {
	var pcs [1]uintptr
	runtime.Callers(3, pcs[:])
	return pcs[0]
}

func (o origin) known() bool { return o.fn != 0 || o.at != 0 }

// place returns file and line of the call that started the operation, "" if that is
// not known.
func (o origin) place() string {
	if o.at == 0 {
		return ""
	}
	f, _ := runtime.CallersFrames([]uintptr{o.at}).Next()
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// attrs describes o for a log.
func (o origin) attrs() []any {
	var attrs []any
	if o.fn != 0 {
		attrs = append(attrs, o.kind.String(), funcName(o.fn))
	}
	if o.at != 0 {
		attrs = append(attrs, "started", o.place())
	}
	return attrs
}

// A failure is the error of a future whose result was not asked for, as
// Config.EventHandler is told of it.
type failure struct {
	origin
	err error
}

// from returns err with the place that it comes from, if that is known.
func (o origin) from(err error) error {
	if !o.known() {
		return err
	}
	return &failure{o, err}
}

// Error names what failed, and where it was started.
func (f *failure) Error() string {
	s := f.kind.String()
	if f.fn != 0 {
		s += " " + funcName(f.fn)
	}
	if f.at != 0 {
		s += ", started at " + f.place()
	}
	return s + ": " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }
