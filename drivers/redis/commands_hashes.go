package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// HGet returns the value of a field of a hash, or fails with [ErrNil].
func (x *Commands) HGet(ctx context.Context, key, field string) *eventloop.Future[string] {
	return run(ctx, x, toString, "HGET", key, field)
}

// HSet sets fields of a hash: HSet(ctx, key, "field1", value1, "field2", value2). It
// returns the number of new fields.
func (x *Commands) HSet(ctx context.Context, key string, fieldsAndValues ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "HSET", key, fieldsAndValues)
}

// HSetNX sets a field of a hash if the field does not exist, and reports whether it was set.
func (x *Commands) HSetNX(ctx context.Context, key, field string, value any) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "HSETNX", key, field, value)
}

// HGetAll returns all fields of a hash. If the key does not exist, the map is empty. To get a
// struct, use Do[T] with HGETALL.
func (x *Commands) HGetAll(ctx context.Context, key string) *eventloop.Future[map[string]string] {
	return run(ctx, x, toStringMap, "HGETALL", key)
}

// HMGet returns the values of fields of a hash, in the order of the fields. The value of a
// field that does not exist is nil.
func (x *Commands) HMGet(ctx context.Context, key string, fields ...string) *eventloop.Future[[]*string] {
	return run(ctx, x, decodeReflect[[]*string], "HMGET", key, fields)
}

// HDel deletes fields of a hash and returns the number of fields that existed.
func (x *Commands) HDel(ctx context.Context, key string, fields ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "HDEL", key, fields)
}

// HExists reports whether a field of a hash exists.
func (x *Commands) HExists(ctx context.Context, key, field string) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "HEXISTS", key, field)
}

// HLen returns the number of fields of a hash.
func (x *Commands) HLen(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "HLEN", key)
}

// HKeys returns the names of the fields of a hash.
func (x *Commands) HKeys(ctx context.Context, key string) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "HKEYS", key)
}

// HIncrBy adds n to a number in a hash and returns the result.
func (x *Commands) HIncrBy(ctx context.Context, key, field string, n int64) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "HINCRBY", key, field, n)
}
