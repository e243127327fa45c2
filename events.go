package eventloop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// Errors of the loop itself. They are returned, never delivered to an event
// callback, and are to be tested with [errors.Is].
var (
	// ErrLoopClosed says that the loop has ended, or is ending by force. It is
	// also the error of futures that were pending at that moment.
	ErrLoopClosed = errors.New("eventloop: loop closed")

	// ErrNotRunning is returned by what needs a socket, a signal or a goroutine
	// when it is asked for before [Loop.Run].
	ErrNotRunning = errors.New("eventloop: loop not running")

	// ErrRunning is returned by [Loop.Run] while the loop runs already.
	ErrRunning = errors.New("eventloop: loop already running")

	// ErrOnLoop is returned by a call that waits, when it is made on the loop
	// that it would wait for.
	ErrOnLoop = errors.New("eventloop: would wait on the loop for the loop itself")

	// ErrPending is returned by [Future.Result] while there is no result yet.
	ErrPending = errors.New("eventloop: result pending")
)

// Errors of operations. An [*OpError] matches them through [errors.Is]; the
// names in parentheses are the conditions of cl-async that they stand for. A handle
// that is closed already returns net.ErrClosed (socket-closed).
var (
	// ErrConn matches every *OpError (connection-error).
	ErrConn = errors.New("eventloop: connection error")

	// ErrTCP matches an error of a stream socket: tcp and unix (tcp-error).
	ErrTCP = errors.New("eventloop: socket error")

	// ErrTimeout matches an *OpError whose cause says that it is a timeout,
	// whether it came from a deadline, a context or the kernel (tcp-timeout,
	// http-timeout).
	ErrTimeout = errors.New("eventloop: timeout")

	// ErrRefused matches a connection that the peer refused (tcp-refused,
	// http-refused). It holds on every platform.
	ErrRefused = errors.New("eventloop: connection refused")

	// ErrReset matches a connection that the peer reset: ECONNRESET, EPIPE and
	// ECONNABORTED. It is information, as io.EOF is: see [IsInfo].
	ErrReset = errors.New("eventloop: connection reset by peer")

	// ErrNoReader matches the end of a connection whose peer has left, and whose
	// bytes nothing has asked for, see ConnConfig.OnData.
	ErrNoReader = errors.New("eventloop: nothing reads what the peer has sent")

	// ErrLost matches a [*LostError], see [Conn.Err].
	ErrLost = errors.New("eventloop: output was not delivered")

	// ErrBufferFull is returned by a Write that would pass
	// [ConnConfig.MaxBuffered]. Nothing of it was taken.
	ErrBufferFull = errors.New("eventloop: write buffer full")

	// ErrDNS matches an error of a name lookup (dns-error).
	ErrDNS = errors.New("eventloop: lookup error")

	// ErrHTTP matches an error of an HTTP request (http-error).
	ErrHTTP = errors.New("eventloop: http error")
)

// An OpError is the error of one operation on a connection, a listener, a name
// or a request. It matches [ErrConn] and, by its cause, the other sentinels of
// this package; [errors.Is] and [errors.As] reach the cause too.
type OpError struct {
	// Op names the operation: one of the constants that begin with Op.
	Op string

	// Net is the network, such as "tcp" or "unix"; empty if there is none.
	Net string

	// Addr is the remote address, the name that was looked up, or the URL;
	// empty if it is not known.
	Addr string

	// Err is the cause and never nil.
	Err error

	// Conn is the connection (tcp-socket); nil if there is none.
	Conn *Conn

	// Listener is the listener of an accept error; else nil.
	Listener *Listener
}

var _ net.Error = (*OpError)(nil)

// Error describes the operation, its address and the cause.
func (e *OpError) Error() string {
	if e.Op == OpLookup {
		if dns, ok := e.Err.(*net.DNSError); ok {
			return oneLine(dns.Error()) // has both, and the server
		}
	}
	var b strings.Builder
	b.WriteString(e.Op)
	for _, part := range []string{e.Net, e.Addr} {
		if part != "" {
			b.WriteByte(' ')
			b.WriteString(part)
		}
	}
	b.WriteString(": ")
	b.WriteString(cause(e.Err).Error())
	return oneLine(b.String())
}

// oneLine escapes control characters. A URL, a name or an address can have them, and
// raw they could forge lines of a log.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cause strips the net.OpError around a cause for the sake of the message,
// which would say operation and address twice.
func cause(err error) error {
	if op, ok := err.(*net.OpError); ok && op.Err != nil {
		return op.Err
	}
	return err
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the cause is a timeout.
func (e *OpError) Timeout() bool { return isTimeout(e.Err) }

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	if errors.As(err, &t) && t.Timeout() {
		return true
	}
	var errno syscall.Errno // one of Winsock does not know that it is a timeout
	return errors.As(err, &errno) && portable(errno).Timeout()
}

// Temporary reports whether the cause calls itself temporary.
//
// Deprecated: it completes [net.Error]; see there for why it says little.
func (e *OpError) Temporary() bool {
	var t interface{ Temporary() bool }
	return errors.As(e.Err, &t) && t.Temporary()
}

// Is reports whether target describes e: a sentinel of this package, or the name
// of a system error in package syscall, which holds on Windows too (see [Errno]).
func (e *OpError) Is(target error) bool {
	if errno, ok := target.(syscall.Errno); ok {
		return Errno(e.Err) == int(errno)
	}
	switch target {
	case ErrConn:
		return true
	case ErrTCP:
		return strings.HasPrefix(e.Net, "tcp") || strings.HasPrefix(e.Net, "unix")
	case ErrTimeout:
		return e.Timeout()
	case ErrRefused:
		return isRefused(e.Err)
	case ErrReset:
		return isReset(e.Err)
	case ErrDNS:
		var dns *net.DNSError
		return e.Op == OpLookup || errors.As(e.Err, &dns)
	case ErrHTTP:
		return e.Op == OpRequest
	}
	return false
}

// The values of [OpError.Op].
const (
	OpDial      = "dial"      // connecting, name lookup included
	OpHandshake = "handshake" // a TLS handshake, of StartTLS too
	OpRead      = "read"      // reading from a connection
	OpWrite     = "write"     // writing to a connection
	OpClose     = "close"     // closing a connection or one direction of it, or a listener
	OpDetach    = "detach"    // Conn.Detach
	OpDeadline  = "deadline"  // setting a deadline of a connection
	OpAddr      = "address"   // asking a connection or a listener for its address
	OpServe     = "serve"     // serving a connection of an HTTPServer
	OpListen    = "listen"    // listening on an address
	OpAccept    = "accept"    // accepting a connection
	OpLookup    = "lookup"    // looking up a name
	OpRequest   = "request"   // a request, of an HTTPClient or an HTTPServer
	OpTask      = "task"      // the task of a connection, see ConnConfig.Task
	OpAwait     = "await"     // Future.AwaitTimeout
)

// A PanicError is what is left of a panic in a callback, a task or a function
// of [Work]. It unwraps to the value if that is an error.
type PanicError struct {
	Value any    // what the code panicked with
	Stack []byte // where, as runtime/debug.Stack prints it, from the panic on
}

// Error prints the value, the function and the source line of the application that
// are next to the panic, and the stack.
func (e *PanicError) Error() string {
	fn, place := userFrame(e.Stack)
	if fn == "" {
		return fmt.Sprintf("eventloop: panic in a callback: %v\n\n%s", e.Value, e.Stack)
	}
	return fmt.Sprintf("eventloop: panic in a callback: %v, in %s at %s\n\n%s", e.Value, fn, place, e.Stack)
}

// Unwrap returns the value that was panicked with if it is an error, else nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// newPanicError must be called by the deferred function that recovered, where
// the stack of the panic is still there to be read.
func newPanicError(value any) *PanicError {
	if pe, ok := value.(*PanicError); ok {
		return pe // it crossed a goroutine or a nested loop: keep the first stack
	}
	return &PanicError{Value: value, Stack: trimStack(debug.Stack())}
}

// IsInfo reports whether err tells of an ordinary end rather than of trouble:
// io.EOF, or a reset by the peer (connection-info that is no connection-error).
// A server sees both all day; the default event handler ignores them. Wrapped
// errors match like bare ones, but an io.EOF that is the cause of an [OpError] is
// trouble: it cut an operation short, such as a handshake. A panic is trouble
// whatever its value.
func IsInfo(err error) bool {
	if isPanic(err) {
		return false
	}
	if errors.Is(err, ErrReset) || isReset(err) {
		return true
	}
	var op *OpError
	return errors.Is(err, io.EOF) && !errors.As(err, &op)
}

func isPanic(err error) bool {
	return panicIn(err) != nil
}

// Errno returns the number of the system error that err carries, or -1 if it
// carries none (conn-errcode). The numbers are those of package syscall: for a
// connection that was refused, Errno(err) == int(syscall.ECONNREFUSED) on every
// platform. On Windows the system has other numbers (WSAECONNREFUSED, 10061), which
// [errors.As] with a *syscall.Errno gives.
func Errno(err error) int {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return int(portable(errno))
	}
	return -1
}

// windowsErrno are the WSA codes of Windows, which the syscall package does not
// map to its own names there. No Unix has numbers as large.
const (
	wsaECONNABORTED = syscall.Errno(10053)
	wsaECONNRESET   = syscall.Errno(10054)
	wsaECONNREFUSED = syscall.Errno(10061)
)

// isLookup reports whether err is that of a name server. What happened between it
// and the resolver says nothing about the peer of a connection: were a reset by
// the server a reset by the peer, a failed dial would pass for information.
func isLookup(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}

// timedOut reports whether err says of itself that it is a timeout, as a net.Error
// does.
func timedOut(err error) bool {
	if err == nil {
		return false // before t, which escapes
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// deadlinePassed reports whether err, of a net.Conn or a net.Listener, says that a
// deadline has passed. Those of multiplexers need not match os.ErrDeadlineExceeded.
// An ETIMEDOUT of the kernel is a timeout too, but comes from the network.
func deadlinePassed(err error) bool {
	if !timedOut(err) {
		return false // before errno, which escapes
	}
	var errno syscall.Errno
	return !errors.As(err, &errno)
}

func isRefused(err error) bool {
	if isLookup(err) {
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}

func isReset(err error) bool {
	if isLookup(err) {
		return false
	}
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, wsaECONNRESET) || errors.Is(err, wsaECONNABORTED)
}

// event delivers err, which no callback of an operation took, to
// Config.EventHandler or to the default handler. remote says that a peer caused
// it: an accepted connection, a request, a single accept. On the loop only.
func (l *Loop) event(err error, remote bool) {
	if h := l.cfg.EventHandler; h != nil {
		l.callEvent(func() { h(err) })
		return
	}
	switch {
	case IsInfo(err):
	case l.cfg.CatchPanics && isPanic(err):
		l.log(slog.LevelError, "panic in a callback", "err", err)
	case remote:
		l.log(slog.LevelWarn, "event", "err", err)
	default:
		l.stop(err)
	}
}

// log writes to Config.Logger, or to the default logger. A Handler is code of the
// application: its panic ends the loop, since it cannot be logged.
func (l *Loop) log(level slog.Level, msg string, args ...any) {
	l.callEvent(func() { l.logger().Log(context.Background(), level, msg, args...) })
}

// logger returns the logger in use, which says which loop it is if that has a name.
func (l *Loop) logger() *slog.Logger {
	log := l.cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	if l.cfg.Name != "" {
		log = log.With("loop", l.cfg.Name)
	}
	return log
}

// call runs f, a callback whose panics go to the default handler.
func (l *Loop) call(f func()) {
	defer l.caught(nil)
	f()
}

// callEvent runs f, an event callback. Its panic is not caught again: an event
// callback that panics would only be told of its own panic.
func (l *Loop) callEvent(f func()) {
	defer func() {
		if v := recover(); v != nil {
			l.stopPanic(newPanicError(v))
		}
	}()
	f()
}

// caught is deferred around every callback. Without CatchPanics the panic ends
// the loop and leaves Run; with it, the panic becomes the event of the operation
// (route), or of the default handler where route is nil.
func (l *Loop) caught(route func(err error)) {
	v := recover()
	if v == nil {
		return
	}
	l.panicEvent(newPanicError(v), route)
}

// panicEvent is what becomes of a panic in a callback.
func (l *Loop) panicEvent(pe *PanicError, route func(err error)) {
	if !l.cfg.CatchPanics {
		l.stopPanic(pe)
		return
	}
	l.count.errors.Add(1)
	if route == nil {
		l.event(pe, false)
	} else {
		l.callEvent(func() { route(pe) })
	}
}

// contextError is the error of an operation that ctx ended.
func contextError(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.Canceled
}
