package redis

import (
	"context"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// Del deletes keys and returns the number of keys that existed.
func (x *Commands) Del(ctx context.Context, keys ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "DEL", keys)
}

// Unlink is like Del, but the server frees the memory later.
func (x *Commands) Unlink(ctx context.Context, keys ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "UNLINK", keys)
}

// Exists returns the number of keys that exist. A key that is named twice counts twice.
func (x *Commands) Exists(ctx context.Context, keys ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "EXISTS", keys)
}

// Type returns the type of the value of a key, such as "string", or "none".
func (x *Commands) Type(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "TYPE", key)
}

// Rename renames a key. A key with the new name is replaced.
func (x *Commands) Rename(ctx context.Context, key, name string) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "RENAME", key, name)
}

// Expire makes a key expire after d, or at once if d is zero or negative. The result is
// false if the key does not exist.
func (x *Commands) Expire(ctx context.Context, key string, d time.Duration) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "PEXPIRE", key, milliseconds(d))
}

// ExpireAt makes a key expire at a time. The result is false if the key does not exist.
func (x *Commands) ExpireAt(ctx context.Context, key string, at time.Time) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "PEXPIREAT", key, at.UnixMilli())
}

// Persist removes the expiry of a key. The result is false if the key does not exist or has
// no expiry.
func (x *Commands) Persist(ctx context.Context, key string) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "PERSIST", key)
}

// NoTTL is the result of [Commands.TTL] for a key that does not expire.
const NoTTL time.Duration = -1

// TTL returns the time after which a key expires, or [NoTTL]. If the key does not exist,
// it fails with [ErrNil].
func (x *Commands) TTL(ctx context.Context, key string) *eventloop.Future[time.Duration] {
	return run(ctx, x, toTTL, "PTTL", key)
}

func toTTL(v resp.Value) (time.Duration, error) {
	n, err := toInt(v)
	switch {
	case err != nil:
		return 0, err
	case n == -2:
		return 0, ErrNil
	case n < 0:
		return NoTTL, nil
	}
	return time.Duration(n) * time.Millisecond, nil
}

// Copy copies the value of a key to another key. The result is false if from does not exist,
// or if to exists and replace is false.
func (x *Commands) Copy(ctx context.Context, from, to string, replace bool) *eventloop.Future[bool] {
	if replace {
		return run(ctx, x, toBool, "COPY", from, to, "REPLACE")
	}
	return run(ctx, x, toBool, "COPY", from, to)
}

// toDone is for commands whose reply is OK, or nil if a condition did not hold.
func toDone(v resp.Value) (bool, error) {
	if v.Kind == resp.Null {
		return false, nil
	}
	_, err := toNothing(v)
	return err == nil, err
}
