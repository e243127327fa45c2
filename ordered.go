package eventloop

import (
	"cmp"
	"fmt"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/ordering"
)

// ordered is the state of a loop whose order of events a test decides; see package
// looptest. Such a loop runs one callback per turn. Before each it waits until the
// rest of the test is at rest, so that the set of what is ready depends on nothing
// but the test, and then asks its gate which of it to run.
//
// Only these are candidates, so every order that a test sees is one that the loop
// may have without it: the timer that is due first, the first post of each
// goroutine, and the first task of each source, where a source is a goroutine that
// sends tasks about one handle.
type ordered struct {
	gate ordering.Gate

	// Guarded by Loop.mu.
	opened map[string]int        // handles by kind, for their names
	names  map[*handle]string    // of handles that the loop itself opened
	posts  map[goid.ID]*postLane // of other goroutines
	lanes  int                   // that posts had so far

	// Only on the loop.
	tasks      []sourcedTask // taken from the channel, in order
	late       map[*handle]string
	timers     map[*Timer]string
	candidates []candidate
	labels     []string
}

// A postLane has the posts of one goroutine that is not the loop's.
type postLane struct {
	number int // in the order of the first posts
	funcs  []func()
}

// A sourcedTask is a task with the name of its source.
type sourcedTask struct {
	task
	source string
	label  string
}

// A candidate is something that could run next.
type candidate struct {
	label string
	run   func()
}

// A sourced task says which handle it belongs to, which goroutine of that handle
// sends it, and what it does.
type sourced interface {
	source() (h *handle, goroutine, what string)
}

func init() {
	ordering.Attach = func(loop any, g ordering.Gate) {
		loop.(*Loop).ordered = &ordered{
			gate:   g,
			opened: make(map[string]int),
			names:  make(map[*handle]string),
			posts:  make(map[goid.ID]*postLane),
			late:   make(map[*handle]string),
			timers: make(map[*Timer]string),
		}
	}
}

// name gives h its name if the loop itself opens it: then its number is the same
// in every run. The caller holds l.mu.
func (o *ordered) name(l *Loop, h *handle, k kind) {
	if l.state == stateNew || l.onLoop() {
		o.names[h] = o.number(k.String())
	}
}

func (o *ordered) number(kind string) string {
	o.opened[kind]++
	return kind + "#" + strconv.Itoa(o.opened[kind])
}

// post takes a post from another goroutine, and reports whether it did. The caller
// holds l.mu.
func (o *ordered) post(l *Loop, f func()) bool {
	if l.state == stateNew || l.onLoop() {
		return false
	}
	id := goid.Current()
	lane := o.posts[id]
	if lane == nil {
		o.lanes++
		lane = &postLane{number: o.lanes}
		o.posts[id] = lane
	}
	lane.funcs = append(lane.funcs, f)
	return true
}

// dispatchOrdered is dispatch for a loop with a gate.
func (l *Loop) dispatchOrdered() {
	for l.look() {
		o := l.ordered
		if len(o.candidates) == 0 {
			continue // it slept
		}
		if i := o.gate.Choose(o.labels); i >= 0 {
			l.writers.BeginTurn()
			o.candidates[i].run()
			l.writers.EndTurn(len(l.tasks) == 0)
			l.ran(true)
		}
	}
}

// look collects the candidates, and sleeps if there are none. It returns false at
// the end, as prepare does.
func (l *Loop) look() bool {
	o := l.ordered
	o.gate.Rest()
	for l.takeTasks() {
		o.gate.Rest() // others waited for room in the channel
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.stopping {
		l.turned = now
		l.collectDue(now)
		l.collectPosts()
		posted := l.batch.Len() > 0 || len(o.posts) > 0
		if l.refs > 0 || posted {
			if o.collect(l); len(o.candidates) == 0 {
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

// takeTasks moves the tasks from the channel to o.tasks. It reports whether the
// channel was full.
func (l *Loop) takeTasks() (full bool) {
	o := l.ordered
	if t := l.first; t != nil {
		l.first = nil
		o.take(l, t)
	}
	full = len(l.tasks) == cap(l.tasks)
	for range len(l.tasks) {
		o.take(l, <-l.tasks)
	}
	return full
}

func (o *ordered) take(l *Loop, t task) {
	if _, ok := t.(wakeTask); ok {
		return
	}
	s := sourcedTask{task: t}
	if st, ok := t.(sourced); ok {
		h, goroutine, what := st.source()
		name := o.nameOf(l, h)
		s.source, s.label = name+" "+goroutine, name+" "+what
	} else {
		s.label = strings.TrimPrefix(fmt.Sprintf("%T", t), "*eventloop.")
		s.source = s.label
	}
	o.tasks = append(o.tasks, s)
}

// nameOf returns the name of h. One that another goroutine opened is named after
// what describes it, which the test has to make unique.
func (o *ordered) nameOf(l *Loop, h *handle) string {
	l.mu.Lock()
	name, ok := o.names[h]
	owner, k := h.owner, h.kind
	l.mu.Unlock()
	if ok {
		return name
	}
	if name, ok = o.late[h]; ok {
		return name
	}
	name = k.String()
	if owner != nil {
		name += " " + owner.describe()
	}
	o.late[h] = name
	return name
}

// collect makes the list of candidates. The caller holds l.mu.
func (o *ordered) collect(l *Loop) {
	o.candidates = o.candidates[:0]
	l.due = slices.DeleteFunc(l.due, func(t *Timer) bool { return t.state != timerDue })
	if len(l.due) > 0 {
		t := l.due[0]
		if o.timers[t] == "" {
			o.timers[t] = o.number(t.kind())
		}
		o.add(o.timers[t], func() {
			l.due = slices.Delete(l.due, 0, 1)
			l.fire(t)
		})
	}
	if l.batch.Len() > 0 {
		o.add("post "+funcLabel(l.batch.Peek()), func() { l.call(l.batch.Pop()) })
	}
	o.collectLanes(l)
	o.collectTasks()
	o.labels = o.labels[:0]
	for _, c := range o.candidates {
		o.labels = append(o.labels, c.label)
	}
}

func (o *ordered) add(label string, run func()) {
	o.candidates = append(o.candidates, candidate{label, run})
}

// collectLanes adds the first post of each goroutine. Goroutines have no name, so
// they are told apart by what they post.
func (o *ordered) collectLanes(l *Loop) {
	first := len(o.candidates)
	type ready struct {
		id   goid.ID
		lane *postLane
	}
	var all []ready
	for id, lane := range o.posts {
		all = append(all, ready{id, lane})
	}
	slices.SortFunc(all, func(a, b ready) int {
		return cmp.Or(
			cmp.Compare(funcLabel(a.lane.funcs[0]), funcLabel(b.lane.funcs[0])),
			cmp.Compare(a.lane.number, b.lane.number),
		)
	})
	for i, r := range all {
		label := "post from a goroutine " + funcLabel(r.lane.funcs[0])
		if n := len(o.candidates); i > 0 && n > first && strings.HasPrefix(o.candidates[n-1].label, label) {
			label += fmt.Sprintf(" (%d)", i)
		}
		o.add(label, func() {
			l.mu.Lock()
			f := r.lane.funcs[0]
			if r.lane.funcs = r.lane.funcs[1:]; len(r.lane.funcs) == 0 {
				delete(o.posts, r.id)
			}
			l.mu.Unlock()
			l.call(f)
		})
	}
}

// collectTasks adds the first task of each source, by name.
func (o *ordered) collectTasks() {
	first := len(o.candidates)
	seen := make(map[string]bool, len(o.tasks))
	for i, t := range o.tasks {
		if seen[t.source] {
			continue
		}
		seen[t.source] = true
		o.add(t.label, func() {
			o.tasks = slices.Delete(o.tasks, i, i+1)
			t.run()
		})
	}
	slices.SortFunc(o.candidates[first:], func(a, b candidate) int { return cmp.Compare(a.label, b.label) })
}

// funcLabel returns where f is in the source: its name depends on what the compiler
// inlines. A method value has no line of its own.
func funcLabel(f func()) string {
	pc := reflect.ValueOf(f).Pointer()
	fn := runtime.FuncForPC(pc)
	file, line := fn.FileLine(pc)
	if strings.HasPrefix(file, "<") {
		return path.Base(fn.Name())
	}
	return path.Base(file) + ":" + strconv.Itoa(line)
}

// serveOrdered is the part of closeAll that serves the last tasks, in an order that
// the test decides. It returns when none is ready, and reports whether any was.
func (l *Loop) serveOrdered() (served bool) {
	o := l.ordered
	for {
		o.gate.Rest()
		for l.takeTasks() {
			o.gate.Rest()
		}
		o.candidates, o.labels = o.candidates[:0], o.labels[:0]
		o.collectTasks()
		if len(o.candidates) == 0 {
			return served
		}
		served = true
		for _, c := range o.candidates {
			o.labels = append(o.labels, c.label)
		}
		if i := o.gate.Choose(o.labels); i >= 0 {
			o.candidates[i].run()
		}
	}
}

// Sources of the tasks.

func (t *upTask) source() (*handle, string, string)       { return &t.handle, "reader", "connected" }
func (t *chunkTask) source() (*handle, string, string)    { return &t.handle, "reader", "data" }
func (t *endTask) source() (*handle, string, string)      { return &t.handle, "reader", "end" }
func (t *tlsTask) source() (*handle, string, string)      { return &t.handle, "reader", "TLS" }
func (t *goneTask) source() (*handle, string, string)     { return &t.handle, "reader", "closed" }
func (t *drainTask) source() (*handle, string, string)    { return &t.handle, "writer", "drained" }
func (t *writeErrTask) source() (*handle, string, string) { return &t.handle, "writer", "write error" }
func (t *workGoneTask) source() (*handle, string, string) { return &t.handle, "work", "returned" }

func (t *receivedTask[T]) source() (*handle, string, string) {
	return &t.handle, "receiver", "received"
}

func (t *receiverGoneTask[T]) source() (*handle, string, string) {
	return &t.handle, "receiver", "ended"
}
