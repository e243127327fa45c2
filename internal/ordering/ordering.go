// Package ordering is the hook with which package looptest decides the order in which
// loops run ready work. A loop without a Gate does not use it.
package ordering

import "context"

// A Gate decides the next step of one party of a test: a dispatcher or the in-memory
// network. Only the goroutine of that party calls it.
//
// The party calls Rest, collects what is ready, and calls Choose if anything is. If
// nothing is ready, the party waits as usual, and starts again with Rest when it wakes.
type Gate interface {
	// Rest returns when all other goroutines of the test are waiting, so that
	// everything that becomes ready at this instant is ready. Candidates that are new
	// then have step as their Since.
	Rest() (step int)

	// Choose returns the index of the candidate to run now. It returns -1 if another
	// party goes first; the caller then starts again with Rest. Candidates are in the
	// order of Since. The caller must not change them until Choose has returned.
	Choose(candidates []Candidate) int

	// Alike reports that two candidates with this name became ready at the same time.
	// They cannot be distinguished, so their order may differ between runs.
	Alike(name string)
}

// A Candidate is a piece of ready work that a party could run next.
type Candidate struct {
	Name  string // the same in every run, and unique among the candidates of the party
	Since int    // the step of the Rest after which it was first ready
}

// Attach makes loop, which must be an *eventloop.Loop that has not run yet, use g.
// Package eventloop sets it.
var Attach func(loop any, g Gate)

type nameKey struct{}

// WithName returns a context that carries the name of an operation of a loop. Loops with a
// Gate pass it to dial functions, whose goroutines run in no fixed order.
func WithName(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, nameKey{}, name)
}

// Name returns the name in ctx, or "".
func Name(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}
