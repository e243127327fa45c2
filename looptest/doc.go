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
//	func TestChat(t *testing.T) {
//		looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
//			n := looptest.NewNet(t)
//			n.Latency(time.Millisecond, 5*time.Millisecond)
//			...
//		})
//	}
//
// A seed that fails logs a trace, which says what ran and when, one event per line:
//
//	1ms  loop  conn#4 data  [2 of 7]
//
// Seven things could have run, and one of the others had been ready for longer.
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
//     the loop. Posts of several goroutines are told apart by the functions that
//     they post.
//   - Real sockets, files, and system calls. Use [Net], [Pipe] and net.Pipe.
//   - The order of maps, and math/rand. Use [Rand].
//   - The clock of the machine. Inside of a test, package time uses virtual time.
//
// Everything that a goroutine of the test waits for must belong to the test, as
// [testing/synctest] explains under "durably blocked". A test that waits for
// anything else ends after a second of real time with the stack of what waits.
// synctest.Wait must not be called: the loops do so themselves.
package looptest
