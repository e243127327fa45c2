package eventloop

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/ordering"
)

// ordered is the state of a loop whose order of events is controlled by a test; see
// package looptest. Such a loop runs one callback per turn. Before each turn it waits
// until all other goroutines of the test are at rest, so that the set of ready
// callbacks depends only on the test. Then its gate chooses the callback to run.
//
// The candidates are the first due timer, the first post of each goroutine, and the
// first task of each sender, where a sender is a goroutine that sends tasks about one
// handle. So every order that a test sees is also possible without the gate.
//
// Goroutines become ready in any order, so candidates that are ready at the same time
// are sorted by name. Candidates with the same label are numbered, and which of them gets
// which number may differ from run to run; the gate is notified of them.
type ordered struct {
	gate ordering.Gate

	// Guarded by Loop.mu.
	opened map[string]int      // handles by kind, for their names
	names  map[*handle]string  // of handles that the loop itself opened
	late   map[*handle]string  // of handles that other goroutines opened
	owners map[goid.ID]string  // names of the handles that goroutines of the loop work for
	lanes  map[laneKey]*source // for posts of other goroutines
	queued []string            // names of the posts of the loop itself
	posted []*source           // lanes that have posts and are not ready yet

	// Only on the loop.
	senders    map[sender]*source
	timerNames map[*Timer]string // the names of timers that fire repeatedly
	due        *Timer            // the first due timer, if it fires once
	dueName    string            // name of due
	labels     map[string]int    // number of sources per label
	timer      *source
	post       *source
	fresh      []*source // the sources that became ready since the last addFresh
	ready      []*source // in the order in which they became ready, and then by name
	candidates []ordering.Candidate
}

// A laneKey is a goroutine and the name of the handle that it works for. The name is "" for
// a goroutine of the application.
type laneKey struct {
	goroutine goid.ID
	owner     string
}

// A sender is a goroutine that sends tasks about a handle. Its field goroutine
// distinguishes the goroutines of one handle: it is a string such as "reader", or a
// connection of an HTTP server.
type sender struct {
	handle    *handle
	goroutine any
}

// A source is a sequence of callbacks that run one after another.
type source struct {
	ordering.Candidate // the first callback; invalid if there is none
	isReady            bool
	run                func()

	owner string      // for a lane: the name of the handle that its goroutine works for
	posts []namedPost // for a lane; guarded by Loop.mu
	tasks []sentTask  // for a sender

	names map[string]label // by the description of a callback, such as "data"
	label string           // the label of the first callback
}

// A label describes a callback of a source. If several sources have the same label, the
// names of all but the first contain a number.
type label struct{ label, name string }

type namedPost struct {
	f    func()
	name string
}

type sentTask struct {
	task
	what string
}

func init() {
	ordering.Attach = func(loop any, g ordering.Gate) {
		l := loop.(*Loop)
		o := &ordered{
			gate:       g,
			opened:     make(map[string]int),
			names:      make(map[*handle]string),
			owners:     make(map[goid.ID]string),
			lanes:      make(map[laneKey]*source),
			senders:    make(map[sender]*source),
			late:       make(map[*handle]string),
			timerNames: make(map[*Timer]string),
			labels:     make(map[string]int),
		}
		o.timer = &source{run: func() {
			t := l.due[0]
			l.due = slices.Delete(l.due, 0, 1)
			o.due = nil
			l.fire(t)
		}}
		o.post = &source{run: func() {
			l.mu.Lock()
			o.queued = o.queued[1:]
			l.mu.Unlock()
			l.callPost()
		}}
		l.ordered = o
	}
}

// name names h if the loop itself opens it. If another goroutine opened it, its number could
// differ from run to run. The caller holds l.mu.
func (o *ordered) name(l *Loop, h *handle) {
	if l.state == stateNew || l.onLoop() {
		o.names[h] = o.number(h.kindName())
	}
}

// named returns a context for a function that l calls for h on another goroutine. The
// objects that the function opens are then named after h, because the test does not
// control the order in which the goroutines of several functions run.
func (l *Loop) named(ctx context.Context, h *handle) context.Context {
	if l.ordered == nil {
		return ctx
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if name, ok := l.ordered.names[h]; ok {
		return ordering.WithName(ctx, name)
	}
	return ctx
}

// worksFor records that the calling goroutine works for h, until done is called. The
// names of its posts contain the name of h. A goroutine of the loop that works for no other
// handle need not call done.
func (l *Loop) worksFor(h *handle) (done func()) {
	o := l.ordered
	if o == nil {
		return func() {}
	}
	name := o.nameOf(l, h)
	l.mu.Lock()
	defer l.mu.Unlock()
	id := goid.Current()
	before := o.owners[id]
	o.owners[id] = name
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		o.owners[id] = before
	}
}

func (o *ordered) number(kind string) string {
	o.opened[kind]++
	return kind + "#" + strconv.Itoa(o.opened[kind])
}

// takePost queues a post from another goroutine, and reports whether it did. The caller
// holds l.mu.
func (o *ordered) takePost(l *Loop, f func(), name string) bool {
	if l.state == stateNew || l.onLoop() {
		o.queued = append(o.queued, name)
		return false
	}
	id := goid.Current()
	key := laneKey{id, o.owners[id]}
	lane := o.lanes[key]
	if lane == nil {
		lane = &source{owner: cmp.Or(key.owner, "a goroutine"), names: make(map[string]label)}
		lane.run = func() {
			l.mu.Lock()
			f := lane.posts[0].f
			lane.posts = lane.posts[1:]
			if len(lane.posts) > 0 {
				o.posted = append(o.posted, lane)
			}
			l.mu.Unlock()
			l.call(f)
		}
		o.lanes[key] = lane
	}
	if lane.posts = append(lane.posts, namedPost{f, name}); len(lane.posts) == 1 {
		o.posted = append(o.posted, lane)
	}
	return true
}

// dropPosts drops the posts of other goroutines. The caller holds l.mu.
func (o *ordered) dropPosts() {
	o.posted, o.queued = nil, nil
	for _, lane := range o.lanes {
		lane.posts = nil
	}
	o.ready = slices.DeleteFunc(o.ready, func(s *source) bool { return s.run == nil || len(s.tasks) == 0 })
}

// dispatchOrdered is dispatch for a loop with a gate.
func (l *Loop) dispatchOrdered() {
	o := l.ordered
	for {
		if len(o.ready)+len(o.fresh) == 0 {
			l.sleepIdle()
		}
		if !l.look() {
			return
		}
		if len(o.ready) == 0 {
			continue // it slept
		}
		if s := o.choose(); s != nil {
			l.writers.BeginTurn()
			s.run()
			l.writers.EndTurn(len(l.tasks) == 0)
			l.ran(true)
		}
	}
}

// sleepIdle sleeps if nothing is ready. It does not wait until the other goroutines are at
// rest, because that wait is half of the cost of a callback. A new event wakes the loop,
// which then waits for rest, so the result is the same. Only the decision that the loop ends
// must be made at rest.
func (l *Loop) sleepIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	when, timed := l.timers.Min()
	switch {
	case l.stopping, l.refs == 0, l.first != nil, len(l.tasks) > 0, l.posts.Len() > 0, l.ordered.hasPosts(l):
	case len(l.due) > 0, timed && when <= int64(now):
	default:
		l.sleep(now)
	}
}

// choose lets the gate choose the next source, and removes it from o.ready. It returns nil
// if another loop runs first.
func (o *ordered) choose() *source {
	o.candidates = o.candidates[:0]
	for _, s := range o.ready {
		o.candidates = append(o.candidates, s.Candidate)
	}
	i := o.gate.Choose(o.candidates)
	if i < 0 {
		return nil
	}
	s := o.ready[i]
	s.isReady = false
	o.ready = slices.Delete(o.ready, i, i+1)
	return s
}

// look collects the ready callbacks, and sleeps if there are none. It returns false at
// the end of the loop, as prepare does.
func (l *Loop) look() bool {
	o := l.ordered
	step := l.restOrdered()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.stopping {
		l.turned = now
		l.collectDue(now)
		l.collectPosts()
		o.collect(l, step)
		if l.refs > 0 || o.hasPosts(l) {
			if len(o.ready) == 0 {
				l.sleep(now)
			} else {
				l.turns++
			}
			return true
		}
	}
	l.state = stateClosed
	l.ended.Store(true)
	return false
}

// hasPosts reports whether any post has not run. The caller holds l.mu.
func (o *ordered) hasPosts(l *Loop) bool {
	if l.batch.Len() > 0 {
		return true
	}
	for _, lane := range o.posted {
		if len(lane.posts) > 0 {
			return true
		}
	}
	for _, s := range o.ready {
		if len(s.posts) > 0 {
			return true
		}
	}
	return false
}

// restOrdered waits until all other goroutines are at rest, and takes the tasks from
// the channel.
func (l *Loop) restOrdered() (step int) {
	o := l.ordered
	for {
		step = o.gate.Rest()
		if t := l.first; t != nil {
			l.first = nil
			o.take(l, t)
		}
		full := len(l.tasks) == cap(l.tasks)
		for range len(l.tasks) {
			o.take(l, <-l.tasks)
		}
		if !full { // no goroutine waited for room in the channel
			return step
		}
	}
}

// take adds t to its source.
func (o *ordered) take(l *Loop, t task) {
	if _, ok := t.(wakeTask); ok {
		return
	}
	var key sender
	var what string
	key.handle, key.goroutine, what = t.source()
	s := o.senders[key]
	if s == nil {
		s = &source{names: make(map[string]label)}
		s.run = func() {
			t := s.tasks[0]
			s.tasks = s.tasks[1:]
			if len(s.tasks) > 0 {
				o.sent(l, key, s)
			}
			t.run()
		}
		o.senders[key] = s
	}
	if s.tasks = append(s.tasks, sentTask{t, what}); len(s.tasks) == 1 {
		o.sent(l, key, s)
	}
}

// sent makes the sender s ready. Its first task is new.
func (o *ordered) sent(l *Loop, key sender, s *source) {
	what := s.tasks[0].what
	if _, known := s.names[what]; !known {
		o.give(s, what, o.nameOf(l, key.handle)+" "+what)
	}
	s.rename(what)
	o.fresh = append(o.fresh, s)
}

// give sets the label text and a unique name for the callbacks of s with the description
// what.
func (o *ordered) give(s *source, what, text string) {
	o.labels[text]++
	name := text
	if n := o.labels[text]; n > 1 {
		name = fmt.Sprintf("%s (%d)", text, n) // names of candidates are unique
	}
	s.names[what] = label{text, name}
}

// rename sets the label and the name of the first callback. what is its description.
func (s *source) rename(what string) {
	l := s.names[what]
	s.label, s.Name = l.label, l.name
}

// nameOf returns the name of h. The name of a handle that another goroutine opened is its
// description, which the test must make unique.
func (o *ordered) nameOf(l *Loop, h *handle) string {
	l.mu.Lock()
	name := cmp.Or(o.names[h], o.late[h])
	owner, k := h.owner, h.kindName()
	l.mu.Unlock()
	if name != "" {
		return name
	}
	name = k
	if owner != nil {
		name += " " + owner.describe() // without l.mu, because it takes other locks
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o.late[h] = name
	return name
}

// collect adds the callbacks that have become ready to o.ready. The caller holds l.mu.
func (o *ordered) collect(l *Loop, step int) {
	l.due = slices.DeleteFunc(l.due, func(t *Timer) bool { return t.state != timerDue })
	if len(l.due) > 0 {
		o.timer.Name = o.timerName(l.due[0])
	}
	o.set(o.timer, len(l.due) > 0)
	if l.batch.Len() > 0 {
		o.post.Name = "post " + o.queued[0]
	}
	o.set(o.post, l.batch.Len() > 0)
	for _, lane := range o.posted {
		what := lane.posts[0].name
		if _, known := lane.names[what]; !known {
			o.give(lane, what, "post from "+lane.owner+" "+what)
		}
		lane.rename(what)
		o.fresh = append(o.fresh, lane)
	}
	o.posted = o.posted[:0]
	o.addFresh(step)
}

// set makes s, the timer or the post, ready or not ready.
func (o *ordered) set(s *source, ready bool) {
	switch {
	case ready && !s.isReady:
		o.fresh = append(o.fresh, s)
	case !ready && s.isReady:
		s.isReady = false
		o.ready = slices.DeleteFunc(o.ready, func(r *source) bool { return r == s })
	}
}

// addFresh adds the sources that became ready at the same time, sorted by name. It notifies
// the gate of sources with the same label.
func (o *ordered) addFresh(step int) {
	slices.SortFunc(o.fresh, func(a, b *source) int { return cmp.Compare(a.Name, b.Name) })
	for i, s := range o.fresh {
		if i > 0 && s.label != "" && s.label == o.fresh[i-1].label {
			o.gate.Alike(s.label)
		}
		s.Since, s.isReady = step, true
		o.ready = append(o.ready, s)
	}
	o.fresh = o.fresh[:0]
}

// timerName returns the name of t. A timer that fires once gets a new name each time it
// fires.
func (o *ordered) timerName(t *Timer) string {
	if name, ok := o.timerNames[t]; ok {
		return name
	}
	if t == o.due {
		return o.dueName
	}
	name := o.number(t.kind())
	if p := place(t.f); !strings.HasPrefix(p, library) {
		name += " " + p
	}
	if t.period > 0 {
		o.timerNames[t] = name
	} else {
		o.due, o.dueName = t, name
	}
	return name
}

// postName returns the name of a post; see postFor.
func (o *ordered) postName(l *Loop, f func(), what any) string {
	switch what := what.(type) {
	case nil:
		return strings.TrimPrefix(place(f), library)
	case *Task:
		does := " continues"
		if what.co == nil {
			does = " starts"
		}
		return o.nameOf(l, &what.handle) + " " + placeOf(what.origin.fn) + does
	}
	return "result to " + strings.TrimPrefix(place(what), library)
}

// library is the prefix of the places of functions of this package.
const library = "eventloop/"

// place returns the source location of a function, because the name of a function depends on
// inlining. A method value has no line, so place returns its name.
func place(f any) string { return placeOf(reflect.ValueOf(f).Pointer()) }

// places caches the places of functions, by program counter.
var places sync.Map

func placeOf(pc uintptr) string {
	if known, ok := places.Load(pc); ok {
		return known.(string)
	}
	fn := runtime.FuncForPC(pc)
	file, line := fn.FileLine(pc)
	name := path.Base(fn.Name())
	at := path.Base(file) + ":" + strconv.Itoa(line)
	if strings.HasPrefix(file, "<") {
		at = strings.TrimSuffix(name, "-fm")
	}
	switch {
	case strings.HasPrefix(name, "looptest."):
		at = "start"
	case strings.HasPrefix(name, "eventloop."):
		at = library + at
	}
	places.Store(pc, at)
	return at
}

// serveOrdered is the part of closeAll that runs the last tasks, in an order that the
// test controls. It returns when no task is ready, and reports whether it ran any.
func (l *Loop) serveOrdered() (served bool) {
	o := l.ordered
	for {
		o.addFresh(l.restOrdered())
		if len(o.ready) == 0 {
			return served
		}
		served = true
		if s := o.choose(); s != nil {
			s.run()
		}
	}
}

// The source methods of the tasks.

func (t *upTask) source() (*handle, any, string)        { return &t.handle, "reader", "connected" }
func (t *failedTask) source() (*handle, any, string)    { return &t.handle, "reader", "failed" }
func (t *chunkTask) source() (*handle, any, string)     { return &t.handle, "reader", "data" }
func (t *endTask) source() (*handle, any, string)       { return &t.handle, "reader", "end" }
func (t *failureTask) source() (*handle, any, string)   { return &t.handle, "reader", "failure" }
func (t *abandonedTask) source() (*handle, any, string) { return &t.handle, "reader", "abandoned" }
func (t *tlsTask) source() (*handle, any, string)       { return &t.handle, "reader", "TLS" }
func (t *closedTask) source() (*handle, any, string)    { return &t.handle, "reader", "closed" }
func (t *drainTask) source() (*handle, any, string)     { return &t.handle, "writer", "drained" }
func (t *writeErrTask) source() (*handle, any, string)  { return &t.handle, "writer", "write error" }
func (t *workEndedTask) source() (*handle, any, string) { return &t.handle, "work", "returned" }
func (t *lookupTask[T]) source() (*handle, any, string) { return &t.handle, "lookup", "found" }

func (t *receivedTask[T]) source() (*handle, any, string) {
	return &t.handle, "receiver", "received"
}

func (t *readTask) source() (*handle, any, string)        { return &t.handle, "reader", "read" }
func (t *readerEndedTask) source() (*handle, any, string) { return &t.handle, "reader", "ended" }

func (t *receiverEndedTask[T]) source() (*handle, any, string) {
	return &t.handle, "receiver", "ended"
}

func (s *httpStream) source() (*handle, any, string) { return &s.call.handle, "body", "body" }

func (cb *httpCallback) source() (*handle, any, string) { return &cb.call.handle, "head", cb.what }

func (t acceptErrTask) source() (*handle, any, string) {
	return &t.ln.handle, "acceptor", "accept error"
}

func (t *listenerClosedTask) source() (*handle, any, string) {
	return &t.handle, "acceptor", "closed"
}

func (t httpAcceptErrTask) source() (*handle, any, string) {
	return &t.s.handle, "acceptor", "accept error"
}

func (t *httpServerClosedTask) source() (*handle, any, string) {
	return &t.handle, "acceptor", "closed"
}

func (t httpErrTask) source() (*handle, any, string) {
	return &t.c.s.handle, t.c, "event of " + t.c.name()
}

func (t *httpRequestTask) source() (*handle, any, string) {
	c := t.via.(*httpConn)
	return &c.s.handle, c, "request of " + c.name()
}

func (t *httpBodyTask) source() (*handle, any, string) {
	c := t.via.(*httpConn)
	return &c.s.handle, c, "body of " + c.name()
}
