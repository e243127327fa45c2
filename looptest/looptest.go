package looptest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/ordering"
)

// An Option changes how a test runs.
type Option func(*options)

type options struct {
	seed   uint64
	policy Policy
	within time.Duration
	config *eventloop.Config
	replay *replay
	failed *int // number of seeds that have failed; nil if there is only one seed
}

// maxTraces is the number of seeds that log their traces, per call of Seeds.
const maxTraces = 3

// Order sets the policy. The default is [Random].
func Order(p Policy) Option { return func(o *options) { o.policy = p } }

// Seed sets the seed of the policy, the network and [Rand]. The default is 1. The
// environment variable LOOPTEST_SEED overrides it.
func Seed(seed uint64) Option { return func(o *options) { o.seed = seed } }

// Within sets how much virtual time the loops may take. After that, the test fails and the
// loops are stopped. The default is 24 hours; d must be positive.
func Within(d time.Duration) Option {
	if d <= 0 {
		panic("looptest: Within needs a positive duration")
	}
	return func(o *options) { o.within = d }
}

// Config sets the configuration of the loops.
func Config(cfg *eventloop.Config) Option { return func(o *options) { o.config = cfg } }

func mustBeTest(t *testing.T) {
	if t == nil || t.Name() == "" {
		panic("looptest: called outside of a test")
	}
}

func newOptions(t *testing.T, opts []Option) *options {
	t.Helper()
	o := &options{seed: 1, policy: Random(), within: 24 * time.Hour}
	for _, opt := range opts {
		opt(o)
	}
	if o.policy.make == nil {
		t.Fatal("looptest: Order of a zero Policy")
	}
	if s := os.Getenv(seedVariable); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("looptest: %s=%q is not a valid seed", seedVariable, s)
		}
		o.seed = seed
	}
	return o
}

// Run runs one loop in a bubble of testing/synctest. It calls f on the loop, as
// [eventloop.Run] calls its start function, and returns when the loop has ended.
//
// The test fails if f or the loop returns an error, if a panic leaves the loop, if the loop
// does not end (see [Within]), or if the test blocks on something outside the bubble. If
// goroutines are left, synctest fails the test. A panic on a goroutine that the test itself
// started ends the process, as in every test.
func Run(t *testing.T, f func(t *testing.T, l *eventloop.Loop) error, opts ...Option) {
	mustBeTest(t)
	t.Helper()
	o := newOptions(t, opts)
	o.run(t, 1, startOne(f))
}

// Loops runs n loops in one bubble, with one seed. It calls f before any of them runs, so f
// uses Post, AfterFunc and similar methods to give them work. Loops returns when all loops
// have ended. To test many orders, call it in subtests with different values of [Seed].
func Loops(t *testing.T, n int, f func(t *testing.T, ls []*eventloop.Loop) error, opts ...Option) {
	mustBeTest(t)
	t.Helper()
	o := newOptions(t, opts)
	if n < 1 {
		t.Fatalf("looptest: %d loops", n)
	}
	o.run(t, n, f)
}

// Seeds runs f as Run does in n subtests, "seed=1" to "seed=n", each with its own seed and
// therefore in its own order. A failing subtest logs its trace and how to repeat it: with
// -run 'TestName/^seed=17$', or with LOOPTEST_SEED=17, which runs only this seed, even one
// above n. Only the first three failing seeds log their traces. If n is less than 1, the
// test fails.
func Seeds(t *testing.T, n int, f func(t *testing.T, l *eventloop.Loop) error, opts ...Option) {
	mustBeTest(t)
	t.Helper()
	o := newOptions(t, opts)
	if n < 1 {
		t.Fatalf("looptest: %d seeds", n)
	}
	first, last := uint64(1), uint64(n)
	if os.Getenv(seedVariable) != "" {
		first, last = o.seed, o.seed
	}
	failed := 0
	for seed := first; ; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			one := *o
			one.seed, one.failed = seed, &failed
			one.run(t, 1, startOne(f))
		})
		if seed == last {
			break
		}
	}
}

// Replay runs f as Run does, and repeats the choices of trace, which a failing test has
// logged. The test fails at the first choice that does not match the trace. The trace may be
// shortened by hand: only lines with a number of choices count.
func Replay(t *testing.T, trace string, f func(t *testing.T, l *eventloop.Loop) error, opts ...Option) {
	mustBeTest(t)
	t.Helper()
	o := newOptions(t, opts)
	choices, err := parseTrace(trace)
	if err != nil {
		t.Fatalf("looptest: %v", err)
	}
	o.replay = &replay{choices: choices}
	o.run(t, 1, startOne(f))
}

func startOne(f func(t *testing.T, l *eventloop.Loop) error) func(t *testing.T, ls []*eventloop.Loop) error {
	return func(t *testing.T, ls []*eventloop.Loop) error {
		return ls[0].Post(func() {
			if err := f(t, ls[0]); err != nil {
				t.Errorf("the start function returned %v", err)
				ls[0].Stop()
			}
		})
	}
}

// A trial is one run of the loops of a test.
type trial struct {
	*options
	conductor *conductor
	loops     []*eventloop.Loop
	nets      int
	pipes     *Net     // of Pipe; nil until it is needed
	beforeEnd []func() // called when all loops have ended
	atEnd     []func() // called when the conductor has ended, too
}

// netName returns the name of the next network.
func (tr *trial) netName() string {
	if tr.nets++; tr.nets == 1 {
		return "net"
	}
	return fmt.Sprintf("net %d", tr.nets)
}

var trials sync.Map // *testing.T to *trial

func trialOf(t *testing.T) *trial {
	v, ok := trials.Load(t)
	if !ok {
		t.Helper()
		t.Fatal("looptest: not the *testing.T of a function that looptest called")
	}
	return v.(*trial)
}

// Trace returns the events that have run so far in the test that t belongs to.
func Trace(t *testing.T) []Event {
	t.Helper()
	return trialOf(t).conductor.trace()
}

// Rand returns a generator of random numbers that depends only on the seed. The generators
// of all calls return the same sequence.
func Rand(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(trialOf(t).seed, 0x72616e64))
}

func (o *options) run(t *testing.T, n int, f func(t *testing.T, ls []*eventloop.Loop) error) {
	t.Helper()
	if bubbleOf() != "" {
		t.Fatal("looptest: called inside a bubble of testing/synctest; bubbles cannot be nested")
	}
	choose, err := o.chooser()
	if err != nil {
		t.Fatal(err)
	}
	c := newConductor(choose)
	defer watch(c)()
	defer o.explain(t, c) // also after t.FailNow
	synctest.Test(t, func(t *testing.T) {
		c.begin()
		tr := &trial{options: o, conductor: c}
		trials.Store(t, tr)
		defer trials.Delete(t)
		go c.run()
		defer tr.end(t)
		tr.runLoops(t, n, f)
	})
}

// chooser returns the chooser of the test: a replay, a guided one, or that of the policy.
func (o *options) chooser() (chooser, error) {
	if o.replay != nil {
		return o.replay, nil
	}
	if g, err := guide(); g != nil || err != nil {
		return g, err
	}
	return o.policy.make(o.seed), nil
}

// explain logs how to repeat a failure. It runs outside the bubble, because shrinking takes
// real time.
func (o *options) explain(t *testing.T, c *conductor) {
	if !t.Failed() {
		return
	}
	if err := leaveResult(c.events); err != nil {
		t.Logf("looptest: %v", err)
	}
	if os.Getenv(choicesVariable) != "" {
		return
	}
	how := "replay"
	if o.replay == nil {
		repeats := "repeats it"
		if len(c.alike) > 0 {
			repeats = "may repeat it"
		}
		how = fmt.Sprintf("seed %d, policy %s; %s=%d %s", o.seed, o.policy.name, seedVariable, o.seed, repeats)
	}
	if o.failed != nil {
		if *o.failed++; *o.failed > maxTraces {
			t.Logf("looptest: %s; no trace, because %d earlier seeds have logged theirs", how, maxTraces)
			return
		}
	}
	t.Logf("looptest: %s; trace:\n%s", how, traceToLog(c.events))
	if len(c.alike) > 0 {
		t.Logf("looptest: the seed does not determine all of this run. These events were ready more than once at the same "+
			"time, and cannot be distinguished:\n\t%s", strings.Join(c.alike, "\n\t"))
	}
	limit, err := time.ParseDuration(os.Getenv(shrinkVariable))
	if err != nil || limit <= 0 {
		return
	}
	trace, runs, err := shrink(t, c.events, limit)
	if err != nil {
		t.Logf("looptest: could not shrink the trace: %v", err)
		return
	}
	t.Logf("looptest: trace after shrinking it in %d runs:\n%s", runs, trace)
}

// runLoops runs the loops to their end.
func (tr *trial) runLoops(t *testing.T, n int, f func(t *testing.T, ls []*eventloop.Loop) error) {
	for i := range n {
		l := eventloop.New(tr.config)
		name := "loop"
		if n > 1 {
			name = fmt.Sprintf("loop %d", i)
		}
		ordering.Attach(l, tr.conductor.gate(name))
		tr.loops = append(tr.loops, l)
	}
	tr.conductor.onFault = func(error) { tr.stopLoops() }
	if !tr.start(t, f) {
		return
	}
	limit := time.AfterFunc(tr.within, tr.hang)
	defer limit.Stop()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer tr.stopLoops() // if a callback of loop 0 called t.FailNow
	for i, l := range tr.loops[1:] {
		wg.Go(func() { tr.runLoop(t, fmt.Sprintf("loop %d", i+1), l) })
	}
	tr.runLoop(t, cmp.Or(map[bool]string{true: "loop 0"}[n > 1], "the loop"), tr.loops[0])
	wg.Wait()
}

// start calls the start function, and reports whether it succeeded.
func (tr *trial) start(t *testing.T, f func(t *testing.T, ls []*eventloop.Loop) error) (ok bool) {
	defer tr.failOnPanic(t, "the start function")
	err := f(t, tr.loops)
	if err != nil {
		t.Errorf("the start function returned %v", err)
	}
	return err == nil
}

func (tr *trial) runLoop(t *testing.T, name string, l *eventloop.Loop) {
	defer tr.failOnPanic(t, name)
	if err := l.Run(context.Background()); err != nil && tr.conductor.err() == nil {
		t.Errorf("%s ended with %v", name, err)
	}
}

// failOnPanic is deferred. A panic that left a loop fails the test like an error of the
// loop. Otherwise it would end the process before the test could log how to repeat it.
func (tr *trial) failOnPanic(t *testing.T, name string) {
	switch v := recover().(type) {
	case nil:
		return
	case *eventloop.PanicError:
		t.Errorf("%s ended with %v", name, v) // has the stack
	default:
		t.Errorf("%s ended with a panic: %v\n\n%s", name, v, debug.Stack())
	}
	tr.stopLoops()
}

func (tr *trial) stopLoops() {
	for _, l := range tr.loops {
		l.Stop()
	}
}

// hang fails the test because the loops have not ended.
func (tr *trial) hang() {
	var b strings.Builder
	fmt.Fprintf(&b, "the loops have not ended after %s of virtual time; open handles:", tr.within)
	for i, l := range tr.loops {
		for h := range l.Handles() {
			fmt.Fprintf(&b, "\n\tloop %d: %s", i, h)
		}
	}
	if stacks := bubbleStacks(isTask); stacks != "" {
		fmt.Fprintf(&b, "\nwaiting tasks:\n%s", stacks)
	}
	tr.conductor.failf("%s", b.String())
}

// end ends the conductor and the networks, and reports their error.
func (tr *trial) end(t *testing.T) {
	for _, f := range tr.beforeEnd {
		f()
	}
	tr.conductor.stop()
	for _, f := range tr.atEnd {
		f()
	}
	if err := tr.conductor.err(); err != nil {
		t.Errorf("looptest: %v", err)
	} else if tr.replay != nil {
		if err := tr.replay.unused(); err != nil {
			t.Errorf("looptest: %v", err)
		}
	}
}

// trace returns a copy of the events. It may be called by a callback, because the conductor
// waits while a callback runs.
func (c *conductor) trace() []Event { return append([]Event(nil), c.events...) }
