// Package eventloop runs an application on an event loop: one goroutine runs all
// its callbacks, one at a time, so that they share state without locks, while
// timers, signals, sockets, names, HTTP and blocking work go on beside it. It is
// cl-async for Go.
//
// This program starts an echo server, talks to it, and ends by itself when
// nothing is left to do:
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
// The goroutine that calls [Run] or [Loop.Run] is the dispatcher of the loop. All
// callbacks of the loop run on it, and so there is one true order of them:
//
//   - callbacks never overlap, and what one of them did is seen by all that follow;
//   - no call runs user code: a callback runs in a later turn than the call that
//     registered it, and so, on the loop, after that call has returned;
//   - functions that one goroutine gives to [Loop.Post] run in that order;
//   - a call that returns an error never calls its callback.
//
// Less formally: code in callbacks is written as if there were no other
// goroutines. The section on order says which callback comes before which.
//
// Every method of every type may be called from any goroutine and from any
// callback; a [Task] alone belongs to its own code. So another goroutine may write to a
// connection, stop a timer, or close a listener, and needs Post only to get at
// what the callbacks own.
//
// "On the loop" means: on the goroutine of the dispatcher, in a callback or in the
// start function, or in the code of the task that runs. The loop knows its code by
// the goroutine. An iterator that a callback or a task pulls with [iter.Pull] runs on
// a goroutine of its own, though the puller waits for it, so its code is not on the
// loop: there the methods of the task return [ErrNotOnTask], and what waits, such as
// [Future.Wait] and [Call], waits for a loop that stands still, until its context
// ends. Range over the iterator instead: its code then runs on the goroutine of the
// loop body.
//
// A callback must not block: everything else waits for it. Blocking calls belong
// into [Work]; waiting for several things in a row reads best in a task, see
// [Loop.Go]; [Future.Wait] on the loop returns [ErrOnLoop] and never waits.
// [Loop.Stats] tells how late the loop is (LagP99).
//
// Only the callbacks are serial. Bytes are read, written, encrypted and decrypted
// by other goroutines, on all cores. If the callbacks are too much for one core,
// a [Group] of loops can serve one port.
//
// # Order
//
// These orders are guaranteed:
//
//   - of one connection: OnConnect, the data in the order of its bytes, the event
//     that ends reading, OnClose;
//   - of one goroutine: the functions that it gives to [Loop.Post], and its calls of
//     [Sender.Send]; of one channel: the values that [Receive] takes from it;
//   - timers with different deadlines fire in the order of their deadlines, and timers
//     with the same deadline in the order in which they were armed;
//   - the callbacks of one future run in the order of their registration.
//
// Nothing else is: events of different connections, a timer and a connection, posts
// of two goroutines, the results of two requests come in any order, which may differ
// from run to run. Package [github.com/onloop/eventloop/looptest] runs a test in any
// order that these rules allow, and repeats it by its seed.
//
// # Handles and lifetime
//
// A handle is what stays open until it is closed: a [Conn], a [Listener], a
// [Timer], a [SignalHandler], a [Receiver], an [HTTPServer], what [Loop.Hold] gives.
// A request ends by itself: a [Future], a [Task], a function of [Work], an HTTP
// request. Each keeps the loop alive, unless its Unref was called. When none is
// left and nothing is queued, the loop ends and Run returns nil: the natural exit.
// [Loop.Handles] says what a loop waits for, and [Loop.LogHandles] logs it.
//
// Besides, a loop ends
//
//   - by [Loop.Shutdown], gracefully: listeners and intervals are closed, what runs
//     may finish within a grace period, and then the exit is natural.
//     [Loop.ShutdownOn] does it on a signal, and [Loop.OnShutdown] is the place to
//     close idle connections. After the grace period, or on a second signal, the
//     loop ends by force, and Run returns an error that matches [ErrForced] and
//     names what was cut off;
//   - by force: [Loop.Stop], the end of the context of Run, an error of the start
//     function, an error that nobody handles, a panic. No callback starts any
//     more, and everything is closed at once. Only OnClose callbacks still run, and
//     futures that are pending end with [ErrLoopClosed].
//
// In both cases the callbacks of [Loop.OnExit] come last, and when Run returns no
// goroutine, descriptor or signal registration of the loop is left. (A function of
// [Work] that ignores the end of its context, and a method of a net.Conn or
// net.Listener that is not of package net and does not return, are waited for during
// Config.WorkGrace, and named by [ErrWorkLeft].)
//
// A loop runs once. One that was made with [New] takes, before Run, Post, Hold,
// OnExit, OnShutdown, AfterFunc, Every and NewFuture, which begin with Run; whatever needs a
// socket, a signal or a goroutine returns [ErrNotRunning]. After the end there is
// [ErrLoopClosed]. Any number of loops may run in one process, and nothing is
// shared between them but the signals of the process.
//
// The callbacks of a connection come in this order: OnConnect; then OnData,
// OnDrain and OnEvent, any number of times; then OnClose, exactly once and last.
// All data that the peer sent before it closed comes before io.EOF. After Close,
// Abort or Stop of a handle has returned on the loop, none of its callbacks runs
// but OnClose.
//
// Some words mean the same everywhere:
//
//   - Close ends something gracefully, and returns [net.ErrClosed] if it is closed
//     already; Abort ends it at once;
//   - Stop ends what has nothing to flush, a second time without effect; it returns
//     what only it can tell: whether a timer was armed, the values that a [Receiver]
//     or a [Sender] did not deliver, otherwise nothing;
//   - Shutdown is Close with a grace period, for what has connections. The end of a
//     [Loop] or [Group] is told by Run; that of a [Listener] or [HTTPServer] by the
//     future that Shutdown returns;
//   - Pause and PauseReading stop taking more, Resume and ResumeReading go on;
//   - what is made with a config has its callbacks there; the rest has methods such as
//     [Timer.OnEvent] that set the callback, of which the last call counts, and that
//     return nothing, or an error if there can be one;
//   - configs are given by pointer and copied; nil is the zero config;
//   - a function that makes something for a loop takes the loop, after the context if
//     it takes one: [Work], [All], [NewFuture], [Receive], [NewHTTPClient].
//
// Memory is bounded: a connection reads no chunk before the last one has been
// handled, a paused one reads nothing, and one whose output the peer does not
// take reads ever more slowly from ConnConfig.HighWater on and refuses output at
// MaxBuffered. Config.MaxBuffered bounds the output of all of them together.
//
// # Events and errors
//
// What is wrong with a call is returned by the call. What happens later is an
// event, and takes exactly one road: the callback of the operation (OnEvent,
// OnAcceptError, the function given to [Future.Then]); if there is none,
// Config.EventHandler; if there is none either, the default handler, which
//
//   - ignores information, see [IsInfo]: that a peer closed or reset a connection
//     is daily life;
//   - logs what remote peers cause — errors of accepted connections, of requests,
//     of single accepts — since no peer may stop a server;
//   - lets any other error end the loop: Run returns it.
//
// Errors of operations are an [*OpError], to be matched with [errors.Is] against
// [ErrTimeout], [ErrRefused], [ErrReset] and the other sentinels, on every
// platform alike:
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
// A future that fails is an event too if its result was not asked for within a
// second. By default it is logged. Logs go to Config.Logger, or to slog.Default()
// if that is nil. The ordinary end of a connection is not logged.
//
// # Panics
//
// By default a panic in a callback ends the loop: everything is closed, the exit
// callbacks run, and the panic leaves Run as a [*PanicError] with the value and
// the stack of the callback. With Config.CatchPanics the *PanicError is an event
// of the operation, else of Config.EventHandler, and the loop goes on; a
// connection whose callback panicked is closed. A panic in an event callback is
// not caught again: it ends the loop. A panic in a function of [Work] is always
// the error of its future, and so is one in Dial, Proxy or BodyReader of an HTTP
// request. [runtime.Goexit] in a callback, which t.FailNow calls in tests, still
// closes everything. In code that the loop calls on other goroutines, such as the
// methods of an adopted net.Conn, it is an error of the operation.
//
// # Tasks
//
// A [Task] is linear code on the loop: a coroutine that [Loop.Go] starts on the
// dispatcher. Where it waits — [Task.Sleep], [Future.Await], reading from the
// [Conn.NetConn] of a connection — it is suspended and the loop goes on. Between
// two suspensions it runs like a callback, so it shares state with callbacks and
// other tasks, without locks:
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
// When the loop ends, every suspended task is unwound: what it waits for returns
// an error, and its deferred functions run.
//
// [Loop.ListenTask] and [TaskHandler] run a task for each connection and for each
// request. Package tasksync has locks for tasks.
//
// [Work] runs a blocking function on a goroutine of its own and gives a [Future]
// of its result; [Block] is Work for a task, which waits for it. [Receive] turns a channel into a handle, and [SendTo] is the way
// back. [Call] lets another goroutine ask something of the loop's state. With
// these, any Go API can be used from a loop, and a loop from any Go program.
//
// # HTTP
//
// [Loop.ListenHTTP] calls a handler on the loop with each request. The request
// owns its data and may be answered at any time, in the handler or from any
// callback that comes later: at once with [HTTPRequest.Respond], piece by piece
// with [HTTPRequest.RespondStream], or by becoming a [Conn] with [HTTPRequest.Upgrade].
// [HTTPRequest.OnAbort] hears of clients that do not wait for it. Limits and
// time-outs are on by default. This server is greeted by the client of its own
// loop, and closes:
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
// The client, [Loop.HTTP] or one with settings of its own from [NewHTTPClient],
// returns futures: [HTTPClient.Do] has the options, bodies that are streams
// among them. An answer of any status is a result; an error, which matches
// [ErrHTTP] and its cause, means that there was none. The end of its context ends
// a request at once. Connections are kept, and a request is repeated only if
// that can do no harm.
//
// [TaskHandler] makes a handler of a function that runs as a task for each request.
// [HTTPHandler] and [FastHTTPHandler] let servers of net/http and fasthttp hand
// requests to a loop. HTTP is HTTP/1.1 and HTTP/1.0 here.
//
// # Testing
//
// A loop sleeps on a channel and has one runtime timer, so it works inside
// [testing/synctest] bubbles: hours of timers pass in no time, and in-memory
// connections (net.Pipe and [Loop.Adopt]) count as blocked when they are. Real
// sockets and signals stay outside of bubbles. Because Run leaves nothing behind,
// leak checkers such as go.uber.org/goleak need no exceptions. A test may fail
// with t.Fatal in a callback.
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
// testing/synctest fixes time, but not the order of what happens at the same time.
// Package [github.com/onloop/eventloop/looptest] fixes the order, too: it runs the
// same test with many seeds, and a seed that fails repeats its order of events
// every time.
package eventloop
