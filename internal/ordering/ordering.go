// Package ordering is the seam through which package looptest decides in which
// order loops run what is ready. A loop without a Gate never looks at it.
package ordering

import "context"

// A Gate stands between one party of a test, a dispatcher or the network in memory,
// and its next step. Only the goroutine of that party calls it.
//
// The party calls Rest, looks what is ready, and calls Choose if there is anything.
// If it has nothing to do it waits as it always does, and begins again with Rest
// when it wakes.
type Gate interface {
	// Rest returns when all other goroutines of the test wait for something, so
	// that everything that this instant brings is there to be seen. What is new then
	// is ready since step.
	Rest() (step int)

	// Choose returns the index of the candidate to run now. It returns -1 if
	// another party goes first: the caller then starts again with Rest. Candidates
	// are in the order of Since. The caller must not change them before it knows.
	Choose(candidates []Candidate) int

	// Alike says that two things of this name became ready at once. Nothing tells
	// them apart, so their order is not the same in every run.
	Alike(name string)
}

// A Candidate is something that a party could run next.
type Candidate struct {
	Name  string // the same in every run, and no other candidate's of the party
	Since int    // the step of the Rest after which it was first ready
}

// Attach makes loop, which must be an *eventloop.Loop that has not run yet, use g.
// Package eventloop sets it.
var Attach func(loop any, g Gate)

type nameKey struct{}

// WithName returns a context that names the operation of a loop that ctx belongs
// to. Loops with a Gate give it to dial functions, whose goroutines run in no
// fixed order.
func WithName(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, nameKey{}, name)
}

// Name returns the name in ctx, or "".
func Name(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}
