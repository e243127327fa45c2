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
	// that everything that this instant brings is there to be seen.
	Rest()

	// Choose returns the index of the candidate to run now. It returns -1 if
	// another party goes first: the caller then starts again with Rest. Names are
	// the same in every run and, among the candidates of one call, distinct; the
	// caller must not change them before the next call.
	Choose(names []string) int
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
