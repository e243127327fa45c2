package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// LPush adds values at the beginning of a list, one after another, so that the last value
// becomes the first element. It returns the length of the list.
func (x *Commands) LPush(ctx context.Context, key string, values ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "LPUSH", key, values)
}

// RPush adds values at the end of a list and returns the length of the list.
func (x *Commands) RPush(ctx context.Context, key string, values ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "RPUSH", key, values)
}

// LPop removes and returns the first element of a list. If there is none, it fails with
// [ErrNil].
func (x *Commands) LPop(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "LPOP", key)
}

// RPop removes and returns the last element of a list. If there is none, it fails with
// [ErrNil].
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

// LIndex returns element i of a list, counted from 0 or, if i is negative, from the end. If
// there is no such element, it fails with [ErrNil].
func (x *Commands) LIndex(ctx context.Context, key string, i int64) *eventloop.Future[string] {
	return run(ctx, x, toString, "LINDEX", key, i)
}

// LSet replaces element i of a list. The index is that of LIndex.
func (x *Commands) LSet(ctx context.Context, key string, i int64, value any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "LSET", key, i, value)
}

// LRem removes elements that are equal to value, and returns the number of removed elements.
// It removes the first count of them, the last -count if count is negative, or all if count
// is 0.
func (x *Commands) LRem(ctx context.Context, key string, count int64, value any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "LREM", key, count, value)
}

// LTrim removes all elements of a list except those from start to stop, both included.
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

// LMove removes an element from one end of a list, adds it at one end of another list or of
// the same list, and returns it. If there is no element, it fails with [ErrNil].
func (x *Commands) LMove(ctx context.Context, from, to string, take, put Side) *eventloop.Future[string] {
	return run(ctx, x, toString, "LMOVE", from, to, string(take), string(put))
}
