package redis

import (
	"context"
	"time"

	"github.com/onloop/eventloop"
)

// Get returns the value of a key. If the key does not exist, it fails with [ErrNil].
func (x *Commands) Get(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "GET", key)
}

// GetDel is Get, and deletes the key.
func (x *Commands) GetDel(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "GETDEL", key)
}

// GetEx is Get, and makes the key expire after d; with d of zero, never.
func (x *Commands) GetEx(ctx context.Context, key string, d time.Duration) *eventloop.Future[string] {
	if d == 0 {
		return run(ctx, x, toString, "GETEX", key, "PERSIST")
	}
	return run(ctx, x, toString, "GETEX", key, "PX", milliseconds(d))
}

// milliseconds rounds up, so that what is to live for a while does not die at once.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// Set sets the value of a key, which does not expire. For conditions and expiry see
// [Commands.SetWith].
func (x *Commands) Set(ctx context.Context, key string, value any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "SET", key, value)
}

// SetOptions are conditions of SetWith, and what else it does.
type SetOptions struct {
	// TTL is the time after which the key expires. Zero: never.
	TTL time.Duration

	// At is the time at which the key expires, if TTL is zero.
	At time.Time

	// KeepTTL keeps the time at which the key expires.
	KeepTTL bool

	// IfMissing and IfExists set the key only if it does not exist, or exists.
	IfMissing, IfExists bool
}

// SetWith sets the value of a key under conditions. The result is false if a condition
// did not hold.
func (x *Commands) SetWith(ctx context.Context, key string, value any, o SetOptions) *eventloop.Future[bool] {
	args := []any{"SET", key, value}
	switch {
	case o.TTL != 0:
		args = append(args, "PX", milliseconds(o.TTL))
	case !o.At.IsZero():
		args = append(args, "PXAT", o.At.UnixMilli())
	case o.KeepTTL:
		args = append(args, "KEEPTTL")
	}
	if o.IfMissing {
		args = append(args, "NX")
	}
	if o.IfExists {
		args = append(args, "XX")
	}
	return run(ctx, x, toDone, args...)
}

// GetSet sets the value of a key and returns the one before. If there was none, it fails
// with [ErrNil], and the value is set.
func (x *Commands) GetSet(ctx context.Context, key string, value any) *eventloop.Future[string] {
	return run(ctx, x, toString, "SET", key, value, "GET")
}

// MGet returns the values of keys, in their order. The value of a key that does not
// exist is nil.
func (x *Commands) MGet(ctx context.Context, keys ...string) *eventloop.Future[[]*string] {
	return run(ctx, x, decodeReflect[[]*string], "MGET", keys)
}

// MSet sets several keys: MSet(ctx, "key1", value1, "key2", value2).
func (x *Commands) MSet(ctx context.Context, keysAndValues ...any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "MSET", keysAndValues)
}

// Append appends to the value of a key and returns its length.
func (x *Commands) Append(ctx context.Context, key string, value any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "APPEND", key, value)
}

// StrLen returns the length of the value of a key, in bytes.
func (x *Commands) StrLen(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "STRLEN", key)
}

// GetRange returns the bytes of a value from start to end, both included. Negative
// numbers count from the end: -1 is the last byte.
func (x *Commands) GetRange(ctx context.Context, key string, start, end int64) *eventloop.Future[string] {
	return run(ctx, x, toString, "GETRANGE", key, start, end)
}

// Incr adds 1 to a number and returns it. A key that does not exist is 0 before.
func (x *Commands) Incr(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "INCR", key)
}

// IncrBy adds n to a number and returns it.
func (x *Commands) IncrBy(ctx context.Context, key string, n int64) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "INCRBY", key, n)
}

// IncrByFloat adds f to a number and returns it.
func (x *Commands) IncrByFloat(ctx context.Context, key string, f float64) *eventloop.Future[float64] {
	return run(ctx, x, toFloat, "INCRBYFLOAT", key, f)
}

// Decr subtracts 1 from a number and returns it.
func (x *Commands) Decr(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "DECR", key)
}
