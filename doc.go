// Package eventloop runs an application on an event loop. One goroutine runs all
// callbacks, one at a time, so they share state without locks. Sockets, TLS, DNS,
// HTTP, signals and blocking work run alongside, on every core. It is cl-async for
// Go.
//
// This program starts an echo server, talks to it, and exits when nothing is left to do:
//
//	func main() {
//		err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
//			ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
//				OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
//			})
//			if err != nil {
//				return err
//			}
//			c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
//				OnData: func(c *eventloop.Conn, data []byte) {
//					fmt.Printf("%s\n", data)
//					c.Close()
//					ln.Close()
//				},
//			})
//			if err != nil {
//				return err
//			}
//			c.WriteString("hello, loop") // sent when the connection is up
//			return nil
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// # Concurrency
//
// The goroutine that calls [Run] or [Loop.Run] is the dispatcher of the loop. It
// runs all callbacks of the loop:
//
//   - callbacks never overlap, and each sees the effects of earlier ones;
//   - no method calls a callback itself: a callback runs in a later turn than the call that
//     registered it; on the loop, that is after the call has returned;
//   - the functions that one goroutine passes to [Loop.Post] run in that order;
//   - if a call returns an error, its callback never runs.
//
// So you can write callbacks as if there were no other goroutines. The section Order says
// which callback comes before which.
//
// Every method may be called from any goroutine and from any callback; only a [Task]
// is restricted to its own code. Another goroutine may write to a connection, stop a
// timer or close a listener. It needs Post or [Call] only for state that the
// callbacks own.
//
// "On the loop" means on the goroutine of the dispatcher: in a callback, in the start
// function, or in the code of the running task. An iterator that a callback or a task
// pulls with [iter.Pull] runs on another goroutine, so its code is not on the loop.
// There the methods of the task return [ErrNotOnTask], and [Future.Wait] and [Call]
// wait until their context ends, because the loop stands still. Range over the
// iterator instead: its code then runs on the goroutine of the loop body.
//
// A callback must not block, because all other callbacks wait for it. Run blocking calls with
// [Work]. For code that waits several times in sequence, use a task; see [Loop.Go]. On the
// loop, [Future.Wait] never waits; it returns [ErrOnLoop]. [Loop.Stats] reports how late
// the loop is (LagP99).
//
// Only callbacks are serial. Other goroutines read, write, encrypt and decrypt, on all
// cores. If one core is not enough for the callbacks, a [Group] of loops can serve one
// port.
//
// # Order
//
// These orders are guaranteed:
//
//   - of one connection: OnConnect, the data in the order of its bytes, the event that
//     ends reading, OnClose;
//   - of one goroutine: the functions that it passes to [Loop.Post], and its calls of
//     [Sender.Send]; of one channel: the values that [Receive] takes from it;
//   - timers with different deadlines fire in the order of their deadlines, and timers
//     with the same deadline in the order in which they were armed;
//   - the callbacks of one future run in the order of their registration.
//
// No other order is guaranteed. Events of different connections, of a timer and a
// connection, posts of two goroutines, and results of two requests may come in any order,
// and the order may differ between runs. Package
// [github.com/onloop/eventloop/looptest] runs a test in any of the orders that these rules
// allow, and repeats an order by its seed.
//
// # Handles and lifetime
//
// A handle stays open until it is closed: a [Conn], a [Listener], a [Timer], a
// [SignalHandler], a [Receiver], a [Reader], a [PipeWriter], an [HTTPServer], the result
// of [Loop.Hold]. A request ends by itself: a [Future], a [Task], a function of [Work], an
// HTTP request. Each keeps the loop alive, unless its Unref was called. When none is left
// and nothing is queued, the loop ends and Run returns nil. This is the natural exit.
// [Loop.Handles] lists the open handles and requests, and [Loop.LogHandles] logs them.
//
// There are two other ways to end a loop:
//
//   - Gracefully, with [Loop.Shutdown]: it closes listeners and intervals, and lets
//     everything else finish within a grace period. [Loop.ShutdownOn] does this on a
//     signal, and [Loop.OnShutdown] is the place to close idle connections. After the
//     grace period, or on a second signal, the loop ends by force, and Run returns an
//     error that matches [ErrForced] and names the handles that were cut off.
//   - By force: [Loop.Stop], the end of the context of Run, an error of the start
//     function, an unhandled error, a panic. No further callback starts, and
//     everything is closed at once. Only OnClose callbacks still run, and pending
//     futures end with [ErrLoopClosed].
//
// In all cases the callbacks of [Loop.OnExit] run last, and when Run returns no
// goroutine, descriptor or signal registration of the loop is left. There is one
// exception: a function of [Work] that ignores its context, or a method of a foreign
// net.Conn or net.Listener that does not return. Run waits for these for
// Config.WorkGrace, and then names them in an error that matches [ErrWorkLeft].
//
// A loop runs once. Before Run, a Loop accepts Post, Hold, OnExit, OnShutdown,
// AfterFunc, Every, Go, NewFuture, NewOwner, NewPipe, Receive and ReadFrom; they take
// effect when Run starts. Calls that need a socket, a signal or a goroutine return
// [ErrNotRunning]. After the end, every call returns [ErrLoopClosed]. Any number of
// loops may run in one process. They share nothing except the signals of the process.
//
// The callbacks of a connection come in this order: OnConnect; then OnData,
// OnDrain and OnEvent, any number of times; then OnClose, exactly once and last.
// All data that the peer sent before it closed comes before io.EOF. After Close, Abort or
// Stop of a handle has returned on the loop, none of its callbacks runs except OnClose.
//
// Some names mean the same everywhere:
//
//   - Close ends a handle gracefully, and returns [net.ErrClosed] if the handle is already
//     closed; Abort ends the handle at once;
//   - Stop ends a handle that has nothing to flush; a second call has no effect. Stop of a
//     timer reports whether the timer was armed; Stop of a [Receiver] or a [Sender] returns
//     the undelivered values;
//   - Shutdown is Close with a grace period, for types that have connections. Run reports
//     the end of a [Loop] or [Group]; the future that Shutdown returns reports the end of a
//     [Listener] or [HTTPServer];
//   - Pause and PauseReading stop input, Resume and ResumeReading continue it;
//   - a type that has a config has its callbacks there. Other types have methods that set
//     the callback, such as [Timer.OnEvent]; the last call counts;
//   - configs are passed by pointer and copied; nil is the zero config;
//   - a function that creates something for a loop takes the loop as its first argument,
//     after the context: [Work], [All], [NewFuture], [Receive], [NewHTTPClient]. A nil
//     loop or context is a mistake and panics.
//
// Memory is bounded. A connection reads its next chunk only after the last one was handled,
// and reads nothing while it is paused. When the peer does not receive its output, a
// connection reads more slowly once the pending output exceeds ConnConfig.HighWater, and
// refuses output at MaxBuffered. Config.MaxBuffered limits the output of all connections
// together.
//
// # Events and errors
//
// A call reports its own failure. Anything that happens later is an event, and goes to
// exactly one place: the callback of the operation (OnEvent, OnAcceptError, the
// function given to [Future.Then]), else Config.EventHandler, else the default
// handler, which
//
//   - ignores information, see [IsInfo]: peers closing or resetting connections is
//     routine;
//   - logs errors that remote peers cause, such as those of accepted connections, of
//     requests and of single accepts, because no peer may stop a server;
//   - ends the loop on any other error, which Run returns.
//
// Errors of operations are an [*OpError]. Match them with [errors.Is] against
// [ErrTimeout], [ErrRefused], [ErrReset] and the other sentinels, which mean the same
// on every platform:
//
//	OnEvent: func(c *eventloop.Conn, err error) {
//		switch {
//		case eventloop.IsInfo(err): // io.EOF, or a reset: the peer is gone
//		case errors.Is(err, eventloop.ErrTimeout):
//			retry()
//		default:
//			log.Print(err) // dial tcp 192.0.2.1:80: connection refused
//		}
//	},
//
// In OnEvent the connection can still be inspected; the library closes it when
// OnEvent returns, and OnClose follows.
//
// A failed future is an event, too, if no code uses its result within a second. By default
// the failure is logged. Logs go to Config.Logger, or to slog.Default() if that is nil. The
// ordinary end of a connection is not logged.
//
// # Panics
//
// By default a panic in a callback ends the loop. Everything is closed, the exit
// callbacks run, and the panic leaves Run as a [*PanicError] with the value and the
// stack of the callback. With Config.CatchPanics the *PanicError goes to the event callback
// of the operation, or else to Config.EventHandler, and the loop continues; a connection
// whose callback panicked is closed. A panic in an event callback always ends the loop. A
// panic in a function of [Work], or in Proxy or BodyReader of an HTTP request, is always
// the error of its future. [runtime.Goexit] in a callback, which t.FailNow calls in tests,
// also closes everything. In code that the loop calls on other goroutines, such as the
// methods of an adopted net.Conn, Goexit is an error of the operation.
//
// # Tasks
//
// A [Task] is linear code on the loop: a coroutine that [Loop.Go] starts on the
// dispatcher. Waiting suspends the task, and the loop continues: [Task.Sleep],
// [Future.Await], reading from the [Conn.NetConn] of a connection. Between two
// suspensions a task runs like a callback, so it shares state with callbacks and
// other tasks without locks:
//
//	l.Go(ctx, func(t *eventloop.Task) error {
//		c, err := l.Dial(t.Context(), "tcp", "localhost:25", nil)
//		if err != nil {
//			return err
//		}
//		lines := bufio.NewScanner(c.NetConn(t))
//		for lines.Scan() { // suspends the task, never the loop
//			fmt.Println(lines.Text())
//		}
//		return lines.Err()
//	})
//
// When the loop ends, every suspended task is unwound: the call that suspended it returns
// an error, and its deferred functions run.
//
// [Loop.ListenTask] and [TaskHandler] run a task for each connection and for each request.
// Package tasksync has locks for tasks.
//
// [Work] runs a blocking function on another goroutine and returns a [Future] of its
// result; [WorkOn] does the same with a separate limit; [Block] is Work for a task and
// waits for the result. [Receive] turns a channel into a handle, and [SendTo] sends to a
// channel. [ReadFrom] reads from an io.Reader, and [NewPipe] feeds code that reads from an
// io.Reader: files, child processes, compression. [Call] lets another goroutine read or
// change the loop's state. With these, a loop can use any Go API, and any Go program can
// use a loop.
//
// To write a driver, for example a database client that shares one connection among many
// requests, use an [Owner] and [Promise]: see docs/drivers.md.
//
// # HTTP
//
// [Loop.ListenHTTP] calls a handler on the loop with each request. The request owns its
// data, and the response may be sent at any time, in the handler or in any later callback:
// at once with [HTTPRequest.Respond], or in pieces with [HTTPRequest.RespondStream].
// [HTTPRequest.Upgrade] turns the connection into a [Conn]; its counterpart is
// [HTTPClient.Upgrade]. [HTTPRequest.OnAbort] reports clients that disconnect before the
// response is complete. Limits and timeouts are on by default. In this example the client
// of the same loop sends a request, and the server closes:
//
//	func main() {
//		ctx := context.Background()
//		err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//			s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
//				r.Respond(200, nil, []byte("hello, "+r.Path()))
//			}, nil)
//			if err != nil {
//				return err
//			}
//			url := "http://" + s.Addr().String() + "/loop"
//			l.HTTP().Get(ctx, url).Then(func(res *eventloop.HTTPResponse, err error) {
//				s.Close()
//				if err != nil {
//					log.Print(err)
//					return
//				}
//				fmt.Printf("%d %s\n", res.Status, res.Body) // 200 hello, /loop
//			})
//			return nil
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// The methods of the client return futures. [Loop.HTTP] is the default client;
// [NewHTTPClient] creates a client with its own settings. [HTTPClient.Do] takes
// options, such as streamed bodies. A response with any status is a result. An error,
// which matches [ErrHTTP] and its cause, means that there was no complete response. A
// request ends at once when its context ends. Idle connections are reused, and a
// request is retried only if that is safe. [HTTPClient.RoundTripper] makes the client
// the transport of an http.Client, so that libraries that use net/http work in
// goroutines and in tasks.
//
// [TaskHandler] turns a function into a handler that runs as a task for each request.
// [HTTPHandler] and [FastHTTPHandler] let net/http and fasthttp servers pass requests to a
// loop. The HTTP versions are HTTP/1.1 and HTTP/1.0.
//
// # Testing
//
// A loop works inside [testing/synctest] bubbles. Hours of timers pass in no time, and
// connections in memory (net.Pipe and [Loop.Adopt]) count as blocked when they are.
// Real sockets and signals do not work in bubbles. Because Run leaves nothing behind,
// leak checkers such as go.uber.org/goleak need no exceptions. A test may call t.Fatal
// in a callback.
//
//	synctest.Test(t, func(t *testing.T) {
//		start := time.Now()
//		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
//			l.AfterFunc(time.Hour, func() {})
//			return nil
//		})
//		if got, want := time.Since(start), time.Hour; got != want {
//			t.Errorf("the loop ran for %v, want %v", got, want)
//		}
//	})
//
// testing/synctest fixes time, but not the order of events at the same time. Package
// [github.com/onloop/eventloop/looptest] also fixes the order: it runs a test with
// many seeds, and a failing seed repeats the same order of events every time.
package eventloop
