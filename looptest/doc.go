// Package looptest runs event loops in tests in an order that a seed decides, so
// that a failure that depends on the order of events can be found, repeated and
// explained.
//
// [testing/synctest] fixes time, but not order: when five peers write at the same
// instant, their messages arrive in any of 120 orders, and no run can be repeated.
// With looptest the loops run one callback at a time, and a [Policy] with a seed
// chooses which. The same seed gives the same order, on every platform, with any
// number of processors, with and without the race detector.
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
// [eventloop.ConnConfig], [eventloop.HTTPClientConfig] and [eventloop.ResolverConfig]
// have a Dial that [Net.Dialer] fits, for connections in the other direction.
//
// A test ends when its loops end by themselves: when everything that keeps them alive is
// closed. One that does not end in 24 hours of virtual time fails, with a list of what
// is open. See [Within].
//
// # When a seed fails
//
// It logs a trace, which says what ran and when, one event per line:
//
//	1ms  loop  conn#4 data  [2 of 7]
//
// This is virtual time since the test began, the loop or the network, the handle and
// what happened to it. Seven things could have run; this one was the second in the
// order in which they became ready. The network moves one piece at a time, so a write
// is there as "net  client:conn#4-server:7 > 5 bytes", where conn#4 is the connection
// that dialed, and later as "loop  conn tcp client:conn#4 data" at the other end.
// A trace of more than 500 events is written to a file.
//
// LOOPTEST_SEED=17 runs that seed alone, [Replay] runs the trace, also after parts
// of it were removed by hand, and LOOPTEST_SHRINK=10s spends ten seconds on a trace
// that still fails and comes closer to the order in which a loop runs by itself.
//
// # What is ordered
//
// A loop guarantees that these stay in order, and no policy changes them: the
// chunks of one connection and what follows them, the posts of one goroutine, timers
// with different deadlines, and timers with the same deadline in the order of their
// creation. Everything else may happen in any order, and a policy chooses among it:
// events of different handles, posts of different goroutines, timers, and
// deliveries of a [Net].
//
// # What is not
//
// A test is repeatable as far as all it does is decided by the loops. These are not:
//
//   - The order in which the application's own goroutines run between two calls of
//     the loop. The posts of a function of [eventloop.Work] have the name of that work;
//     those of other goroutines are told apart by the functions that they post.
//   - What a callback sees of work that goes on beside it, such as
//     [eventloop.Conn.Buffered] of a connection that is being written to.
//   - Which of several lookups that begin at once opens a connection to a DNS server.
//     Dialer takes any host name, so a test needs no DNS.
//   - Real sockets, files, and system calls. Use [Net], [Pipe] and net.Pipe.
//   - The order of maps, and math/rand. Use [Rand].
//   - The clock of the machine. Inside of a test, package time uses virtual time.
//
// When a test fails and two things were ready that nothing tells from one another, such
// as posts of the same function by two goroutines, it says so, because the seed may not
// repeat the failure.
//
// Everything that a goroutine of the test waits for must belong to the test, as
// [testing/synctest] explains under "durably blocked". A test that waits for
// anything else ends after a second of real time with the stack of what waits.
// synctest.Wait must not be called: the loops do so themselves.
package looptest
