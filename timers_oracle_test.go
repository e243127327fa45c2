package eventloop_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"pgregory.net/rapid"
)

// TestTimersPostsAndHoldsBehaveAsASimpleModelSays runs random programs of
// timers, posts, holds, and callbacks that stop and reset each other, on a loop
// in virtual time and on the model below, and compares what ran when and what
// the calls returned.
func TestTimersPostsAndHoldsBehaveAsASimpleModelSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		program := drawProgram(rt)
		want := (&model{}).run(program)
		var got []string
		synctest.Test(t, func(t *testing.T) { got = runProgram(program) })
		if !slices.Equal(got, want) {
			rt.Fatalf("program:\n%s\ngot:\n%s\nwant:\n%s", lines(program), lines(got), lines(want))
		}
	})
}

func lines[T any](all []T) string {
	s := ""
	for _, v := range all {
		s += fmt.Sprintln("  ", v)
	}
	return s
}

// A step is one call. Timers are numbered in the order of their creation.
type step struct {
	at     time.Duration // of steps of the program; not of steps in callbacks
	do     action
	d      time.Duration
	target int    // of stop, reset, ref, unref, release: modulo the number of timers or holds
	n      int    // number of timers and posts in a burst, and of timers that it stops
	body   []step // what the callback of a timer or post does in each call
	fires  int    // number of calls after which a timer stops itself
}

type action int

const (
	doPost action = iota
	doAfter
	doEvery
	doStop
	doReset
	doRef
	doUnref
	doHold
	doRelease
	doStopLoop
	doBurst // many timers with one deadline
	doFlood // many posts
	doStopMany
	actionCount
)

func (a action) String() string {
	return [...]string{"post", "after", "every", "stop", "reset", "ref", "unref", "hold", "release", "stop loop", "burst", "flood", "stop many"}[a]
}

func (s step) String() string {
	return fmt.Sprintf("%v: %v %v target %d n %d fires %d %v", s.at, s.do, s.d, s.target, s.n, s.fires, s.body)
}

// drawProgram draws steps at whole milliseconds. Delays are a microsecond longer
// than whole milliseconds, so no timer is due at the time of a step, because the
// order of the two would not be defined. Equal deadlines of timers are frequent.
func drawProgram(rt *rapid.T) []step {
	n := rapid.IntRange(1, 25).Draw(rt, "steps")
	var at time.Duration
	var program []step
	for range n {
		at += time.Duration(rapid.IntRange(0, 3).Draw(rt, "wait")) * time.Millisecond
		s := drawStep(rt, 2)
		if s.do >= doBurst { // on the loop, which would otherwise begin with a part of it
			s = step{do: doPost, body: []step{s}}
		}
		s.at = at
		program = append(program, s)
	}
	return program
}

// many draws numbers on both sides of the thresholds: the removed timers that the
// heap tolerates, the size to which it shrinks, and the callbacks of one turn.
func many(rt *rapid.T) int {
	return rapid.OneOf(
		rapid.IntRange(31, 35),
		rapid.IntRange(63, 67),
		rapid.IntRange(eventloop.MaxPerTurn-1, eventloop.MaxPerTurn+2),
		rapid.Just(2*eventloop.MaxPerTurn+1),
	).Draw(rt, "n")
}

func drawStep(rt *rapid.T, depth int) step {
	s := step{
		do:     action(rapid.IntRange(0, int(actionCount)-1).Draw(rt, "action")),
		target: rapid.IntRange(0, 7).Draw(rt, "target"),
		fires:  rapid.IntRange(1, 4).Draw(rt, "fires"),
	}
	if s.do == doStopLoop && rapid.IntRange(0, 9).Draw(rt, "really") > 0 {
		s.do = doAfter
	}
	if s.do >= doBurst {
		s.n = many(rt)
	}
	ms := rapid.IntRange(-1, 6).Draw(rt, "ms")
	if s.do == doEvery || s.do == doReset {
		ms = max(ms, 1) // intervals must be positive, and a delay of zero could loop forever at one instant
	}
	s.d = time.Duration(ms) * time.Millisecond
	if ms > 0 {
		s.d += time.Microsecond
	}
	if s.do <= doEvery && depth > 0 {
		for range rapid.IntRange(0, 2).Draw(rt, "body") {
			s.body = append(s.body, drawStep(rt, depth-1))
		}
	}
	return s
}

// maxCalls bounds programs whose callbacks make timers whose callbacks ...
const maxCalls = 5000

// A real runs programs on a loop.
type real struct {
	l     *eventloop.Loop
	began time.Time

	// Held during a step and during a callback: the steps come from outside the
	// loop, and their effects must wait until the step is recorded.
	mu       sync.Mutex
	trace    []string
	timers   []*eventloop.Timer
	releases []func()
	calls    int
	posts    int
	over     bool // no more holds, so that the loop ends
}

func (r *real) log(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf("%v: ", time.Since(r.began))+fmt.Sprintf(format, args...))
}

func runProgram(program []step) []string {
	r := &real{l: eventloop.New(nil), began: time.Now()}
	release := r.l.Hold()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, s := range program {
			time.Sleep(s.at - time.Since(r.began))
			synctest.Wait() // the loop has done everything that was due
			r.mu.Lock()
			r.do(s)
			r.mu.Unlock()
			synctest.Wait()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.over = true
		for _, release := range append(r.releases, release) {
			release()
		}
	}()
	err := r.l.Run(context.Background())
	r.mu.Lock()
	r.log("end %v", err)
	r.mu.Unlock()
	<-done
	return r.trace
}

func (r *real) do(s step) {
	switch s.do {
	case doPost:
		id := r.posts
		r.posts++
		err := r.l.Post(func() { r.call(fmt.Sprint("post ", id), s, nil) })
		r.log("Post %v", err)
	case doAfter, doEvery:
		id := len(r.timers)
		fires := 0
		f := func() {
			fires++
			r.call(fmt.Sprint("timer ", id), s, func() {
				if fires >= s.fires {
					r.timers[id].Stop()
				}
			})
		}
		if s.do == doAfter {
			r.timers = append(r.timers, r.l.AfterFunc(s.d, f))
		} else {
			r.timers = append(r.timers, r.l.Every(s.d, f))
		}
	case doHold:
		if !r.over {
			r.releases = append(r.releases, r.l.Hold())
		}
	case doRelease:
		if n := len(r.releases); n > 0 {
			r.releases[s.target%n]()
		}
	case doStopLoop:
		r.l.Stop()
	case doBurst:
		for range s.n {
			r.do(s.ofBurst())
		}
	case doFlood:
		for range s.n {
			r.do(step{do: doPost})
		}
	case doStopMany:
		for i := range min(s.n, len(r.timers)) {
			r.do(step{do: doStop, target: stopped(s, i, len(r.timers))})
		}
	default:
		n := len(r.timers)
		if n == 0 {
			return
		}
		timer := r.timers[s.target%n]
		switch s.do {
		case doStop:
			r.log("Stop %v", timer.Stop())
		case doReset:
			r.log("Reset %v", timer.Reset(s.d))
		case doRef:
			timer.Ref()
		case doUnref:
			timer.Unref()
		}
	}
}

// ofBurst returns the step that a burst repeats. In some bursts each timer posts, which
// shows the turn in which the timer ran.
func (s step) ofBurst() step {
	one := step{do: doAfter, d: s.d}
	if s.target < 4 {
		one.body = []step{{do: doPost}}
	}
	return one
}

// stopped returns the index of the timer that doStopMany stops as number i of n: it
// begins with the newest or with the oldest.
func stopped(s step, i, n int) int {
	if s.target%2 == 0 {
		return n - 1 - i
	}
	return i
}

// call is the body of a callback.
func (r *real) call(name string, s step, after func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log("%s", name)
	if r.calls++; r.calls < maxCalls {
		for _, b := range s.body {
			r.do(b)
		}
	}
	if after != nil {
		after()
	}
}

// A model is the simplest possible loop: a list of timers, searched for the first one,
// and a list of posts.
type model struct {
	now    time.Duration
	trace  []string
	timers []*modelTimer
	posts  []modelPost
	batch  []modelPost // taken from posts; their own posts wait until all of these have run
	holds  []bool
	seq    int
	calls  int
	posted int
	over   bool // the program is over; until then it holds the loop
	ended  bool // by force
	closed bool
}

type modelTimer struct {
	id, seq, fires int
	armed, due     bool
	unref          bool
	when, period   time.Duration
	step           step
}

type modelPost struct {
	id   int
	step step
}

func (m *model) log(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("%v: ", m.now)+fmt.Sprintf(format, args...))
}

func (m *model) run(program []step) []string {
	for _, s := range program {
		m.advance(s.at)
		m.do(s)
		m.turns()
	}
	m.over, m.holds = true, nil
	m.advance(1 << 62)
	return m.trace
}

// advance lets time pass until then, or until the loop ends.
func (m *model) advance(then time.Duration) {
	for !m.closed {
		m.turns()
		next := m.first()
		if m.closed || next == nil || next.when > then {
			break
		}
		m.now = next.when
	}
	m.now = max(m.now, then)
}

// turns runs everything that is due now, and ends the loop if nothing keeps it alive.
func (m *model) turns() {
	for !m.closed {
		if m.ended || !m.alive() {
			m.closed = true
			m.log("end <nil>")
			for _, t := range m.timers {
				t.armed, t.due = false, false
			}
			return
		}
		var due []*modelTimer
		for t := m.first(); t != nil && t.when <= m.now && len(due) < eventloop.MaxPerTurn; t = m.first() {
			t.armed, t.due = false, true
			due = append(due, t)
		}
		if len(m.batch) == 0 {
			m.batch, m.posts = m.posts, nil
		}
		if len(due)+len(m.batch) == 0 {
			return
		}
		for _, t := range due {
			if t.due && !m.ended {
				m.fire(t)
			}
		}
		for n := 0; len(m.batch) > 0 && n < eventloop.MaxPerTurn && !m.ended; n++ {
			p := m.batch[0]
			m.batch = m.batch[1:]
			m.call(fmt.Sprint("post ", p.id), p.step)
		}
	}
}

func (m *model) fire(t *modelTimer) {
	t.due = false
	if t.period > 0 {
		m.arm(t, t.when+t.period-m.now)
	}
	t.fires++
	m.call(fmt.Sprint("timer ", t.id), t.step)
	if t.fires >= t.step.fires {
		t.armed = false
	}
}

func (m *model) call(name string, s step) {
	m.log("%s", name)
	if m.calls++; m.calls < maxCalls {
		for _, b := range s.body {
			m.do(b)
		}
	}
}

// first returns the armed timer that fires next.
func (m *model) first() (first *modelTimer) {
	for _, t := range m.timers {
		if t.armed && (first == nil || t.when < first.when || t.when == first.when && t.seq < first.seq) {
			first = t
		}
	}
	return first
}

func (m *model) alive() bool {
	if !m.over || len(m.posts)+len(m.batch) > 0 || slices.Contains(m.holds, true) {
		return true
	}
	return slices.ContainsFunc(m.timers, func(t *modelTimer) bool { return (t.armed || t.due) && !t.unref })
}

func (m *model) arm(t *modelTimer, d time.Duration) {
	m.seq++
	t.armed, t.due, t.when, t.seq = true, false, m.now+max(d, 0), m.seq
}

func (m *model) do(s step) {
	refused := m.closed || m.ended
	switch s.do {
	case doPost:
		var err error
		if refused {
			err = eventloop.ErrLoopClosed
		} else {
			m.posts = append(m.posts, modelPost{m.posted, s})
		}
		m.posted++
		m.log("Post %v", err)
	case doAfter, doEvery:
		t := &modelTimer{id: len(m.timers), step: s}
		if s.do == doEvery {
			t.period = s.d
		}
		m.timers = append(m.timers, t)
		if !refused {
			m.arm(t, s.d)
		}
	case doHold:
		if !m.over {
			m.holds = append(m.holds, !refused)
		}
	case doRelease:
		if n := len(m.holds); n > 0 {
			m.holds[s.target%n] = false
		}
	case doStopLoop:
		m.ended = true
	case doBurst:
		for range s.n {
			m.do(s.ofBurst())
		}
	case doFlood:
		for range s.n {
			m.do(step{do: doPost})
		}
	case doStopMany:
		for i := range min(s.n, len(m.timers)) {
			m.do(step{do: doStop, target: stopped(s, i, len(m.timers))})
		}
	default:
		if n := len(m.timers); n > 0 {
			m.doTimer(s, m.timers[s.target%n], refused)
		}
	}
}

func (m *model) doTimer(s step, t *modelTimer, refused bool) {
	armed := t.armed || t.due
	switch s.do {
	case doStop:
		t.armed, t.due = false, false
		m.log("Stop %v", armed)
	case doReset:
		if t.period > 0 {
			t.period = s.d
		}
		if refused {
			armed = false
		} else {
			m.arm(t, s.d)
		}
		m.log("Reset %v", armed)
	case doRef:
		t.unref = false
	case doUnref:
		t.unref = true
	}
}
