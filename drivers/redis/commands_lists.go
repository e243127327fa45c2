package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// LPush adds values at the beginning of a list, one after the other, and returns its
// length.
func (x *Commands) LPush(ctx context.Context, key string, values ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "LPUSH", key, values)
}

// RPush adds values at the end of a list and returns its length.
func (x *Commands) RPush(ctx context.Context, key string, values ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "RPUSH", key, values)
}

// LPop takes the first element of a list. If there is none, it fails with [ErrNil].
func (x *Commands) LPop(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "LPOP", key)
}

// RPop takes the last element of a list. If there is none, it fails with [ErrNil].
func (x *Commands) RPop(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "RPOP", key)
}

// LLen returns the length of a list.
func (x *Commands) LLen(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "LLEN", key)
}

// LRange returns the elements of a list from start to stop, both included. Negative
// numbers count from the end: -1 is the last element.
func (x *Commands) LRange(ctx context.Context, key string, start, stop int64) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "LRANGE", key, start, stop)
}

// LIndex returns an element of a list, or fails with [ErrNil].
func (x *Commands) LIndex(ctx context.Context, key string, i int64) *eventloop.Future[string] {
	return run(ctx, x, toString, "LINDEX", key, i)
}

// LSet replaces an element of a list.
func (x *Commands) LSet(ctx context.Context, key string, i int64, value any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "LSET", key, i, value)
}

// LRem removes elements that are equal to value and returns how many: the first count of
// them, the last if count is negative, all if it is 0.
func (x *Commands) LRem(ctx context.Context, key string, count int64, value any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "LREM", key, count, value)
}

// LTrim keeps the elements of a list from start to stop, both included.
func (x *Commands) LTrim(ctx context.Context, key string, start, stop int64) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "LTRIM", key, start, stop)
}

// A Side is an end of a list.
type Side string

// The ends of a list.
const (
	Left  Side = "LEFT"
	Right Side = "RIGHT"
)

// LMove takes an element from an end of a list, adds it at an end of another, or the
// same, and returns it. If there is none, it fails with [ErrNil].
func (x *Commands) LMove(ctx context.Context, from, to string, take, put Side) *eventloop.Future[string] {
	return run(ctx, x, toString, "LMOVE", from, to, string(take), string(put))
}
