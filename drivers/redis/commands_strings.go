package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// Get returns the value of a key, or [ErrNil] if it does not exist.
func (x *Commands) Get(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "GET", key)
}
