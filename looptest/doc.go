// Package looptest runs event loops in tests in an order that a seed determines. This makes
// it possible to find, repeat and explain failures that depend on the order of events.
//
// [testing/synctest] fixes time, but not order: when five peers write at the same instant,
// their messages arrive in any of 120 orders, and no run can be repeated. With looptest the
// loops run one callback at a time, and a [Policy] with a seed chooses the callback. The
// same seed gives the same order, on every platform, with any number of processors, with
// and without the race detector.
//
//	func TestEcho(t *testing.T) {
//		looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
//			n := looptest.NewNet(t)
//			n.Latency(time.Millisecond, 5*time.Millisecond)
//			ln, err := n.Listen("server:7")
//			if err != nil {
//				return err
//			}
//			s, err := l.Serve(ln, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) }})
//			if err != nil {
//				return err
//			}
//			n.ScriptClient("client", "server:7", looptest.Reply("hello\n"), looptest.Expect("hello"))
//			l.AfterFunc(time.Second, func() { s.Close() })
//			return nil
//		})
//	}
//
// For connections in the other direction, set the field Dial of [eventloop.ConnConfig],
// [eventloop.HTTPClientConfig] or [eventloop.ResolverConfig] to a function that
// [Net.Dialer] returns.
//
// A test ends when its loops end by themselves: when everything that keeps them alive is
// closed. If they have not ended after 24 hours of virtual time, the test fails and lists
// the open handles. See [Within].
//
// # When a seed fails
//
// A panic in a callback or a task fails only its test, with the value of the panic and its
// stack, unless Config.CatchPanics makes it an event.
//
// A failing test logs a trace of what ran and when, one event per line:
//
//	1ms  loop  conn#4 data  [2 of 7]
//
// The line has the virtual time since the test began, the loop or the network, the handle,
// and what happened to the handle. Seven events could have run; this one was the second in
// the order in which they became ready. The network delivers one piece at a time. So a
// write appears in the trace as "net  client:conn#4-server:7 > 5 bytes", where conn#4 is the
// connection that dialed, and later, at the other end, as
// "loop  conn tcp client:conn#4 data". A trace of more than 500 events is written to a file.
//
// LOOPTEST_SEED=17 runs only that seed. [Replay] runs the trace, even if parts of it were
// removed by hand. LOOPTEST_SHRINK=10s spends ten seconds on the search for a trace that
// still fails and is closer to the order in which a loop runs by itself.
//
// # What is ordered
//
// A loop guarantees the following orders, and no policy changes them: the chunks of one
// connection and the events after them, the posts of one goroutine, timers with different
// deadlines, and timers with the same deadline in the order of their creation. All other
// events may happen in any order, and a policy chooses among them: events of different
// handles, posts of different goroutines, timers, and deliveries of a [Net].
//
// # What is not
//
// A test is repeatable only if the loops determine everything that it does. They do not
// determine the following:
//
//   - The order in which the application's own goroutines run between two calls of the
//     loop. The posts of a function of [eventloop.Work] have the name of that work; those
//     of other goroutines are distinguished by the functions that they post.
//   - The progress of concurrent work that a callback can observe, such as
//     [eventloop.Conn.Buffered] of a connection that is being written to.
//   - Which of several lookups that begin at the same time opens a connection to a DNS
//     server. Dialer accepts any host name, so a test needs no DNS.
//   - Real sockets, files, and system calls. Use [Net], [Pipe] and net.Pipe.
//   - The order of maps, and math/rand. Use [Rand].
//   - The clock of the machine. Inside a test, package time uses virtual time.
//
// If a test fails and two events were ready that looptest cannot distinguish, such as posts
// of the same function by two goroutines, the test reports this, because the seed may not
// repeat the failure.
//
// Everything that a goroutine of the test waits for must belong to the test, as
// [testing/synctest] explains under "durably blocked". A test that waits for anything else
// ends after a second of real time, with the stacks of the waiting goroutines. A test must
// not call synctest.Wait: the loops do so themselves.
package looptest
