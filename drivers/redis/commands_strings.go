package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
)

// Get returns the value of a key. If the key does not exist, it fails with [ErrNil].
func (x *Commands) Get(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "GET", key)
}

// GetDel is like Get, and deletes the key.
func (x *Commands) GetDel(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "GETDEL", key)
}

// GetEx is like Get, and makes the key expire after d, or never if d is zero. A negative d is
// an error.
func (x *Commands) GetEx(ctx context.Context, key string, d time.Duration) *eventloop.Future[string] {
	if d < 0 {
		return invalid[string](x, fmt.Errorf("redis: GetEx with the time %v", d))
	}
	if d == 0 {
		return run(ctx, x, toString, "GETEX", key, "PERSIST")
	}
	return run(ctx, x, toString, "GETEX", key, "PX", milliseconds(d))
}

// milliseconds rounds up, so that a short positive time does not become zero.
func milliseconds(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

// Set sets the value of a key. The key does not expire. For conditions and expiry, see
// [Commands.SetWith].
func (x *Commands) Set(ctx context.Context, key string, value any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "SET", key, value)
}

// SetOptions are the conditions and the expiry of SetWith. At most one of TTL, At and KeepTTL
// may be set. Without them, the key does not expire.
type SetOptions struct {
	// TTL is the time after which the key expires. It must not be negative.
	TTL time.Duration

	// At is the time at which the key expires.
	At time.Time

	// KeepTTL keeps the previous expiry of the key.
	KeepTTL bool

	// IfMissing sets the key only if it does not exist, IfExists only if it exists. At most
	// one of them may be set.
	IfMissing, IfExists bool
}

// check returns an error if the options are invalid.
func (o *SetOptions) check() error {
	switch ttl, at := o.TTL != 0, !o.At.IsZero(); {
	case o.TTL < 0:
		return fmt.Errorf("redis: SetWith with the TTL %v", o.TTL)
	case ttl && at || ttl && o.KeepTTL || at && o.KeepTTL:
		return errors.New("redis: SetWith with more than one of TTL, At and KeepTTL")
	case o.IfMissing && o.IfExists:
		return errors.New("redis: SetWith with IfMissing and IfExists")
	}
	return nil
}

// SetWith sets the value of a key, with conditions and expiry. The result is false if a
// condition did not hold. Options that exclude each other are an error.
func (x *Commands) SetWith(ctx context.Context, key string, value any, o SetOptions) *eventloop.Future[bool] {
	if err := o.check(); err != nil {
		return invalid[bool](x, err)
	}
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

// GetSet sets the value of a key and returns the previous value. If there was none, it sets
// the value and fails with [ErrNil].
func (x *Commands) GetSet(ctx context.Context, key string, value any) *eventloop.Future[string] {
	return run(ctx, x, toString, "SET", key, value, "GET")
}

// MGet returns the values of keys, in the order of the keys. The value of a key that does not
// exist is nil.
func (x *Commands) MGet(ctx context.Context, keys ...string) *eventloop.Future[[]*string] {
	return run(ctx, x, decodeReflect[[]*string], "MGET", keys)
}

// MSet sets several keys: MSet(ctx, "key1", value1, "key2", value2).
func (x *Commands) MSet(ctx context.Context, keysAndValues ...any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "MSET", keysAndValues)
}

// Append appends to the value of a key and returns the new length, in bytes.
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

// Incr adds 1 to a number and returns the result. A key that does not exist counts as 0.
func (x *Commands) Incr(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "INCR", key)
}

// IncrBy adds n to a number and returns the result.
func (x *Commands) IncrBy(ctx context.Context, key string, n int64) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "INCRBY", key, n)
}

// IncrByFloat adds f to a number and returns the result.
func (x *Commands) IncrByFloat(ctx context.Context, key string, f float64) *eventloop.Future[float64] {
	return run(ctx, x, toFloat, "INCRBYFLOAT", key, f)
}

// Decr subtracts 1 from a number and returns the result.
func (x *Commands) Decr(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "DECR", key)
}
