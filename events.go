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

// Errors of the loop itself. Calls return them; they are never delivered to an event
// callback. Test for them with [errors.Is].
var (
	// ErrLoopClosed means that the loop has ended, or is ending by force. It is also the
	// error of futures that are pending when that happens.
	ErrLoopClosed = errors.New("eventloop: loop closed")

	// ErrNotRunning is returned by calls that need a socket, a signal or a goroutine,
	// if they come before [Loop.Run].
	ErrNotRunning = errors.New("eventloop: loop not running")

	// ErrRunning is returned by [Loop.Run] if the loop is already running.
	ErrRunning = errors.New("eventloop: loop already running")

	// ErrOnLoop is returned by a call that waits for a loop, if the call is made on
	// that loop.
	ErrOnLoop = errors.New("eventloop: would wait on the loop for the loop itself")

	// ErrPending is returned by [Future.Result] while there is no result yet.
	ErrPending = errors.New("eventloop: result pending")
)

// Errors of operations. An [*OpError] matches them through [errors.Is]. The names in
// parentheses are the corresponding conditions of cl-async. A method of a handle that
// is already closed returns net.ErrClosed (socket-closed).
var (
	// ErrConn matches every *OpError (connection-error).
	ErrConn = errors.New("eventloop: connection error")

	// ErrTCP matches an error of a stream socket: tcp and unix (tcp-error).
	ErrTCP = errors.New("eventloop: socket error")

	// ErrTimeout matches an *OpError whose cause is a timeout: of a deadline, a context or
	// the kernel (tcp-timeout, http-timeout).
	ErrTimeout = errors.New("eventloop: timeout")

	// ErrRefused matches a connection that the peer refused, on every platform
	// (tcp-refused, http-refused).
	ErrRefused = errors.New("eventloop: connection refused")

	// ErrReset matches a connection that the peer reset: ECONNRESET, EPIPE and
	// ECONNABORTED. It is information, as io.EOF is: see [IsInfo].
	ErrReset = errors.New("eventloop: connection reset by peer")

	// ErrNoReader matches the error of a connection whose peer disconnected while nothing
	// read its data; see ConnConfig.OnData.
	ErrNoReader = errors.New("eventloop: nothing reads what the peer has sent")

	// ErrLost matches a [*LostError], see [Conn.Err].
	ErrLost = errors.New("eventloop: output was not delivered")

	// ErrBufferFull is returned by a Write that would exceed [ConnConfig.MaxBuffered].
	// None of its data was accepted.
	ErrBufferFull = errors.New("eventloop: write buffer full")

	// ErrDNS matches an error of a name lookup (dns-error).
	ErrDNS = errors.New("eventloop: lookup error")

	// ErrHTTP matches an error of an HTTP request (http-error).
	ErrHTTP = errors.New("eventloop: http error")
)

// An OpError is the error of one operation on a connection, a listener, a name or a
// request. It matches [ErrConn] and, depending on its cause, other sentinels of this
// package. [errors.Is] and [errors.As] also examine the cause.
type OpError struct {
	// Op names the operation: one of the constants that begin with Op.
	Op string

	// Net is the network, such as "tcp" or "unix"; empty if there is none.
	Net string

	// Addr is the remote address, the name that was looked up, or the URL; empty if it is
	// unknown.
	Addr string

	// Err is the cause. It is never nil.
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
			return oneLine(dns.Error()) // includes operation, name and server
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

// oneLine escapes control characters. A URL, a name or an address can contain them, and
// unescaped they could forge lines of a log.
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

// cause strips the net.OpError around a cause. Its message would repeat the operation
// and the address.
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
	var errno syscall.Errno // a Winsock errno does not report that it is a timeout
	return errors.As(err, &errno) && portable(errno).Timeout()
}

// Temporary reports whether the cause calls itself temporary.
//
// Deprecated: it exists only to implement [net.Error], whose documentation explains why
// it says little.
func (e *OpError) Temporary() bool {
	var t interface{ Temporary() bool }
	return errors.As(e.Err, &t) && t.Temporary()
}

// Is reports whether target describes e. The target is a sentinel of this package or a
// syscall.Errno, which matches on Windows too (see [Errno]).
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
	OpDial      = "dial"      // connecting, including the name lookup
	OpHandshake = "handshake" // a TLS handshake, including that of StartTLS
	OpRead      = "read"      // reading from a connection
	OpWrite     = "write"     // writing to a connection
	OpClose     = "close"     // closing a connection or one direction of it, or a listener
	OpDetach    = "detach"    // Conn.Detach
	OpDeadline  = "deadline"  // setting a deadline of a connection
	OpAddr      = "address"   // reading the address of a connection or a listener
	OpServe     = "serve"     // serving a connection of an HTTPServer
	OpListen    = "listen"    // listening on an address
	OpAccept    = "accept"    // accepting a connection
	OpLookup    = "lookup"    // looking up a name
	OpRequest   = "request"   // a request, of an HTTPClient or an HTTPServer
	OpTask      = "task"      // the task of a connection, see ConnConfig.Task
	OpAwait     = "await"     // Future.AwaitTimeout
)

// A PanicError reports a panic in a callback, a task or a function of [Work]. It
// unwraps to the value of the panic if that is an error.
type PanicError struct {
	Value any    // what the code panicked with
	Stack []byte // the stack from the panic on, in the format of runtime/debug.Stack
}

// Error returns the value, the function and source line of the application nearest to
// the panic, and the stack.
func (e *PanicError) Error() string {
	fn, place := userFrame(e.Stack)
	if fn == "" {
		return fmt.Sprintf("eventloop: panic in a callback: %v\n\n%s", e.Value, e.Stack)
	}
	return fmt.Sprintf("eventloop: panic in a callback: %v, in %s at %s\n\n%s", e.Value, fn, place, e.Stack)
}

// Unwrap returns the value of the panic if it is an error, else nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// newPanicError must be called by the deferred function that recovered, because only
// there the stack still includes the panic.
func newPanicError(value any) *PanicError {
	if pe, ok := value.(*PanicError); ok {
		return pe // it crossed a goroutine or a nested loop: keep the first stack
	}
	return &PanicError{Value: value, Stack: trimStack(debug.Stack())}
}

// IsInfo reports whether err is an ordinary end rather than a failure: io.EOF, or a
// reset by the peer (a connection-info that is not a connection-error). A server sees
// both all the time; the default event handler ignores them. Wrapped errors match too,
// with one exception: an io.EOF that is the cause of an [OpError] is a failure, because
// it cut an operation short, such as a handshake. A panic is always a failure, whatever
// its value.
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

// Errno returns the number of the system error in err, or -1 if there is none
// (conn-errcode). The numbers are those of package syscall: for a refused connection,
// Errno(err) == int(syscall.ECONNREFUSED) on every platform. Windows itself uses other
// numbers (WSAECONNREFUSED is 10061); to get those, use [errors.As] with a
// *syscall.Errno.
func Errno(err error) int {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return int(portable(errno))
	}
	return -1
}

// These are WSA codes of Windows, which package syscall does not map to its own names.
// No Unix has numbers as large.
const (
	wsaECONNABORTED = syscall.Errno(10053)
	wsaECONNRESET   = syscall.Errno(10054)
	wsaECONNREFUSED = syscall.Errno(10061)
)

// isLookup reports whether err comes from a name lookup. A failure between the resolver
// and a name server says nothing about the peer of a connection: if a reset by the name
// server counted as a reset by the peer, a failed dial would be information.
func isLookup(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}

// timedOut reports whether err is a timeout according to its Timeout method, as for a
// net.Error.
func timedOut(err error) bool {
	if err == nil {
		return false // before t, which escapes to the heap
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// deadlinePassed reports whether err, from a net.Conn or a net.Listener, says that a
// deadline has passed. Errors of multiplexers need not match os.ErrDeadlineExceeded.
// ETIMEDOUT from the kernel is a timeout too, but it comes from the network.
func deadlinePassed(err error) bool {
	if !timedOut(err) {
		return false // before errno, which escapes to the heap
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

// event delivers err, which no callback of an operation received, to Config.EventHandler or
// to the default handler. remote means that a peer caused err: it comes from an accepted
// connection, a request or a single accept. event runs on the loop.
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

// log writes to Config.Logger, or to the default logger. A slog.Handler is code of the
// application: its panic ends the loop, because it cannot be logged.
func (l *Loop) log(level slog.Level, msg string, args ...any) {
	l.callEvent(func() { l.logger().Log(context.Background(), level, msg, args...) })
}

// logger returns the logger in use. It adds the name of the loop, if the loop has one.
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

// call runs the callback f. A panic is handled as by caught without a route.
func (l *Loop) call(f func()) {
	defer l.caught(nil)
	f()
}

// callPost calls the first post that was taken from the queue.
func (l *Loop) callPost() {
	if f := l.batch.Pop(); f != nil {
		l.call(f)
	} else {
		l.call(l.batch.PopCallback().Call)
	}
}

// callEvent runs the event callback f. A panic in f always ends the loop: the event
// callback would only receive its own panic again.
func (l *Loop) callEvent(f func()) {
	defer func() {
		if v := recover(); v != nil {
			l.stopPanic(newPanicError(v))
		}
	}()
	f()
}

// caught is deferred around every callback. Without CatchPanics, a panic ends the loop and
// leaves Run. With CatchPanics, the panic becomes an event for route or, if route is nil,
// for Config.EventHandler or the default handler.
func (l *Loop) caught(route func(err error)) {
	v := recover()
	if v == nil {
		return
	}
	l.panicEvent(newPanicError(v), route)
}

// panicEvent handles a panic in a callback.
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

// contextError returns the error of an operation that ended because ctx did.
func contextError(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.Canceled
}
