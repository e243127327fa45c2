package redis

import (
	"context"

	"github.com/onloop/eventloop"
)

// SAdd adds members to a set and returns the number of new members.
func (x *Commands) SAdd(ctx context.Context, key string, members ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "SADD", key, members)
}

// SRem removes members from a set and returns the number of removed members.
func (x *Commands) SRem(ctx context.Context, key string, members ...any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "SREM", key, members)
}

// SMembers returns the members of a set, in no particular order.
func (x *Commands) SMembers(ctx context.Context, key string) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "SMEMBERS", key)
}

// SIsMember reports whether a set has a member.
func (x *Commands) SIsMember(ctx context.Context, key string, member any) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "SISMEMBER", key, member)
}

// SCard returns the number of members of a set.
func (x *Commands) SCard(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "SCARD", key)
}

// SPop removes and returns a random member of a set. If there is none, it fails with
// [ErrNil].
func (x *Commands) SPop(ctx context.Context, key string) *eventloop.Future[string] {
	return run(ctx, x, toString, "SPOP", key)
}

// SInter returns the intersection of sets.
func (x *Commands) SInter(ctx context.Context, keys ...string) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "SINTER", keys)
}

// SUnion returns the union of sets.
func (x *Commands) SUnion(ctx context.Context, keys ...string) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "SUNION", keys)
}

// SDiff returns the members of the first set that are not in any other set.
func (x *Commands) SDiff(ctx context.Context, keys ...string) *eventloop.Future[[]string] {
	return run(ctx, x, toStrings, "SDIFF", keys)
}
